/* Preloaded into the gateway. What it does is said by the environment:
 *
 * ORACLE_NO_SYNC=1          every sync says "done" and does nothing: the fault that the oracle must notice.
 * ORACLE_STORE, _SHADOW     two folders. A successful sync of a file under STORE copies what was written to the file of
 *                           the same name under SHADOW, so that SHADOW holds what a disk would hold after a power cut.
 * ORACLE_PULLED             a file that does not exist. Once it does, the disk is gone in the worst moment: one more sync
 *                           says "done" and does nothing, as ext4's does when it is shut down meanwhile; after it, every
 *                           read, write and sync under STORE fails with EIO.
 * FAIL_SYNC_WHEN,           a file that does not exist. While it does, syncs under STORE fail with EIO, and as on Linux what
 * ORACLE_LOST               they were to write counts as clean afterwards: readers see it, but it reaches SHADOW only if
 *                           it is written again. LOST carries it to the next process.
 *
 * Taken as durable at once, more kindly than a disk would: creation (with the first sync), unlink and rename.
 * Memory-mapped writes are not seen; SQLite maps only its `-shm` file, which it makes anew after a crash. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES_MAX 4096
#define LOST_MAX 4096
#define PAGE 4096

/* The bytes written through a descriptor since its last sync. A new descriptor is unknown: its file is copied whole. */
struct dirty {
	off_t from, to;
	int known;
};

/* Pages that no sync writes any more, since one failed: of a file under STORE, by name. */
struct lost {
	char name[32];
	off_t from, to;
};

static struct dirty dirty[FILES_MAX];
static struct lost lost[LOST_MAX];
static int losses;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *store, *shadow, *pulled, *fail_when, *lost_file;
static volatile int gone;
static int no_sync;

#define REAL(name) ((typeof(&name))real(#name))

static void *real(const char *name)
{
	void *function = dlsym(RTLD_NEXT, name);

	if (!function)
		abort();
	return function;
}

/* What earlier processes lost. */
static void recall(void)
{
	FILE *file = lost_file ? fopen(lost_file, "re") : NULL;

	if (!file)
		return;
	while (losses < LOST_MAX &&
	       fscanf(file, "%31s %ld %ld", lost[losses].name, &lost[losses].from, &lost[losses].to) == 3)
		losses++;
	fclose(file);
}

__attribute__((constructor)) static void start(void)
{
	store = getenv("ORACLE_STORE");
	shadow = getenv("ORACLE_SHADOW");
	pulled = getenv("ORACLE_PULLED");
	no_sync = getenv("ORACLE_NO_SYNC") != NULL;
	fail_when = getenv("FAIL_SYNC_WHEN");
	lost_file = getenv("ORACLE_LOST");
	recall();
}

/* Whether a descriptor's file lies under STORE. */
static int stored(int fd)
{
	char link[64], path[PATH_MAX];
	size_t length = store ? strlen(store) : 0;
	ssize_t count;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	count = readlink(link, path, sizeof path - 1);
	return length && count > (ssize_t)length && strncmp(path, store, length) == 0 && path[length] == '/';
}

/* Whether the file went with its disk; sets errno then. */
static int is_gone(int fd)
{
	int error = errno;

	if (!gone || !stored(fd)) {
		errno = error;
		return 0;
	}
	errno = EIO;
	return 1;
}

/* The path under SHADOW of a path under STORE. */
static int shadow_of(const char *path, char *out)
{
	size_t length = store ? strlen(store) : 0;

	if (!length || !shadow || strncmp(path, store, length) != 0 || path[length] != '/')
		return 0;
	return snprintf(out, PATH_MAX, "%s%s", shadow, path + length) < PATH_MAX;
}

/* The name of a descriptor's file under STORE; 0: it lies elsewhere. */
static int name_of(int fd, char *name)
{
	char link[64], path[PATH_MAX];
	const char *slash;
	ssize_t count;

	if (!stored(fd))
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	count = readlink(link, path, sizeof path - 1);
	if (count < 0)
		return 0;
	path[count] = 0;
	slash = strrchr(path, '/');
	return slash && snprintf(name, 32, "%s", slash + 1) < 32;
}

static void add_loss(const char *name, off_t from, off_t to)
{
	if (from >= to)
		return;
	if (losses == LOST_MAX)
		abort();
	strcpy(lost[losses].name, name);
	lost[losses].from = from;
	lost[losses++].to = to;
}

/* Pages that were written again are no longer lost. The lock is held. */
static void rewritten(int fd, off_t from, off_t to)
{
	char name[32];

	if (!losses || !name_of(fd, name))
		return;
	from -= from % PAGE;
	to += (PAGE - to % PAGE) % PAGE;
	for (int i = 0; i < losses; i++) {
		struct lost old = lost[i];

		if (strcmp(old.name, name) != 0 || old.to <= from || old.from >= to)
			continue;
		lost[i--] = lost[--losses];
		add_loss(name, old.from, old.to < from ? old.to : from);
		add_loss(name, old.from > to ? old.from : to, old.to);
	}
}

/* A sync failed: what was written since the last one counts as clean. */
static void lose(int fd)
{
	char name[32];
	struct stat status;
	FILE *file;

	if (!name_of(fd, name) || fstat(fd, &status) != 0)
		return;
	pthread_mutex_lock(&lock);
	if (fd < FILES_MAX && dirty[fd].known)
		add_loss(name, dirty[fd].from, dirty[fd].to);
	else
		add_loss(name, 0, status.st_size);
	if (fd < FILES_MAX)
		dirty[fd] = (struct dirty){ .from = LONG_MAX, .to = 0, .known = 1 };
	file = lost_file ? fopen(lost_file, "ae") : NULL;
	if (file) {
		if (losses)
			fprintf(file, "%s %ld %ld\n", name, lost[losses - 1].from, lost[losses - 1].to);
		fclose(file);
	}
	pthread_mutex_unlock(&lock);
}

static void wrote(int fd, off_t from, ssize_t count)
{
	if (count <= 0 || fd < 0 || fd >= FILES_MAX)
		return;
	pthread_mutex_lock(&lock);
	rewritten(fd, from, from + count);
	if (dirty[fd].known) {
		if (from < dirty[fd].from)
			dirty[fd].from = from;
		if (from + count > dirty[fd].to)
			dirty[fd].to = from + count;
	}
	pthread_mutex_unlock(&lock);
}

static void forget(int fd)
{
	if (fd < 0 || fd >= FILES_MAX)
		return;
	pthread_mutex_lock(&lock);
	dirty[fd].known = 0;
	pthread_mutex_unlock(&lock);
}

/* Skips what is lost at `from`, and returns where the next loss or `to` is. */
static off_t up_to_loss(const char *name, off_t *from, off_t to)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < losses; i++) {
		if (strcmp(lost[i].name, name) != 0 || lost[i].to <= *from)
			continue;
		if (lost[i].from <= *from) {
			*from = lost[i].to;
			i = -1;
		}
	}
	for (int i = 0; i < losses; i++)
		if (strcmp(lost[i].name, name) == 0 && lost[i].from > *from && lost[i].from < to)
			to = lost[i].from;
	pthread_mutex_unlock(&lock);
	return to;
}

/* Brings SHADOW up to date with one file; a failure is a fault of the rig and must not look like a good run. */
static void copy(int fd)
{
	char link[64], path[PATH_MAX], target[PATH_MAX], block[65536];
	struct dirty range = { 0, 0, 0 };
	struct stat status;
	ssize_t count;
	int in, out;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	count = readlink(link, path, sizeof path - 1);
	if (count < 0)
		return;
	path[count] = 0;
	if (!shadow_of(path, target) || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
		return;
	pthread_mutex_lock(&lock);
	if (fd < FILES_MAX) {
		range = dirty[fd];
		dirty[fd] = (struct dirty){ .from = LONG_MAX, .to = 0, .known = 1 };
	}
	pthread_mutex_unlock(&lock);
	if (!range.known) {
		range.from = 0;
		range.to = status.st_size;
	}
	if (range.to > status.st_size)
		range.to = status.st_size;
	out = REAL(open)(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	/* The descriptor may be one that only writes. */
	in = REAL(open)(link, O_RDONLY | O_CLOEXEC);
	if (in < 0 || out < 0 || REAL(ftruncate)(out, status.st_size) != 0)
		abort();
	while (range.from < range.to) {
		off_t left = up_to_loss(strrchr(path, '/') + 1, &range.from, range.to) - range.from;

		if (left <= 0)
			break;
		count = REAL(pread)(in, block, left < (off_t)sizeof block ? (size_t)left : sizeof block, range.from);
		if (count < 0)
			abort();
		if (count == 0)
			break;
		if (REAL(pwrite)(out, block, count, range.from) != count)
			abort();
		range.from += count;
	}
	REAL(close)(in);
	REAL(close)(out);
}

static int synced(int fd, int (*sync_file)(int))
{
	if (no_sync)
		return 0;
	if (!shadow)
		return sync_file(fd);
	if (is_gone(fd))
		return -1;
	if (pulled && access(pulled, F_OK) == 0 && stored(fd)) {
		gone = 1;
		return 0;
	}
	if (fail_when && access(fail_when, F_OK) == 0 && stored(fd)) {
		lose(fd);
		errno = EIO;
		return -1;
	}
	/* The disk below is not the one under test: the copy is the sync. */
	copy(fd);
	return 0;
}

int fsync(int fd)
{
	return synced(fd, REAL(fsync));
}

int fdatasync(int fd)
{
	return synced(fd, REAL(fdatasync));
}

int syncfs(int fd)
{
	return no_sync ? 0 : REAL(syncfs)(fd);
}

void sync(void)
{
	if (!no_sync)
		REAL(sync)();
}

int sync_file_range(int fd, off64_t from, off64_t count, unsigned int flags)
{
	return no_sync ? 0 : REAL(sync_file_range)(fd, from, count, flags);
}

int msync(void *address, size_t length, int flags)
{
	typedef int call(void *, size_t, int);

	return no_sync ? 0 : ((call *)real("msync"))(address, length, flags);
}

ssize_t read(int fd, void *bytes, size_t length)
{
	return is_gone(fd) ? -1 : REAL(read)(fd, bytes, length);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t at)
{
	return is_gone(fd) ? -1 : REAL(pread)(fd, bytes, length, at);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t at)
{
	return is_gone(fd) ? -1 : REAL(pread64)(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
	ssize_t count = is_gone(fd) ? -1 : REAL(pwrite)(fd, bytes, length, at);

	wrote(fd, at, count);
	return count;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
	ssize_t count = is_gone(fd) ? -1 : REAL(pwrite64)(fd, bytes, length, at);

	wrote(fd, at, count);
	return count;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	forget(fd);
	return is_gone(fd) ? -1 : REAL(write)(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	forget(fd);
	return is_gone(fd) ? -1 : REAL(writev)(fd, parts, count);
}

int ftruncate(int fd, off_t length)
{
	forget(fd);
	return is_gone(fd) ? -1 : REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
	forget(fd);
	return is_gone(fd) ? -1 : REAL(ftruncate64)(fd, length);
}

int close(int fd)
{
	forget(fd);
	return REAL(close)(fd);
}

int unlink(const char *path)
{
	char target[PATH_MAX];
	int result = REAL(unlink)(path), error = errno;

	if (result == 0 && shadow_of(path, target))
		REAL(unlink)(target);
	errno = error;
	return result;
}

int rename(const char *from, const char *to)
{
	char old[PATH_MAX], new[PATH_MAX];
	int result = REAL(rename)(from, to), error = errno;

	if (result == 0 && shadow_of(from, old) && shadow_of(to, new))
		REAL(rename)(old, new);
	errno = error;
	return result;
}
