/* Makes every sync fail with EIO while the file named by FAIL_SYNC_WHEN exists. Preloaded into the gateway. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int failing(void)
{
	const char *trigger = getenv("FAIL_SYNC_WHEN");

	return trigger && access(trigger, F_OK) == 0;
}

static int synced(int fd, const char *name)
{
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);

	if (failing()) {
		errno = EIO;
		return -1;
	}
	return real(fd);
}

int fsync(int fd)
{
	return synced(fd, "fsync");
}

int fdatasync(int fd)
{
	return synced(fd, "fdatasync");
}
