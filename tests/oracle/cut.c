/* cut MOUNTPOINT: takes the disk from a mounted ext4 or xfs, as xfstests' "godown" does.
 * Everything that was not synced is lost; every later read, write and sync fails with EIO. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define FS_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2u

int main(int argc, char **argv)
{
	uint32_t flags = NO_LOG_FLUSH;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: cut MOUNTPOINT\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY | O_DIRECTORY);
	if (fd < 0 || ioctl(fd, FS_IOC_SHUTDOWN, &flags) != 0) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
