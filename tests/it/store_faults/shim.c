/* Fails chosen writes and syncs of the store's files; loaded with LD_PRELOAD.
   The file named by FAULTS_FILE says which: "OP ERRNO FIRST LAST", OP being write or sync, counted from when the line
   appeared; no file: none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static long met;
static char known[64];

static int fails(int fd, const char *op) {
    char line[64] = "", path[64], name[512] = "", wanted[16] = "";
    int error = 0;
    long first = 0, last = 0;
    const char *file = getenv("FAULTS_FILE");
    if (!file) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, name, sizeof name - 1) < 0 || strstr(name, "-shm")) return 0;
    if (!strstr(name, "/inbox.db") && !strstr(name, "/bodies-")) return 0;
    int faults = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
    if (faults < 0) return 0;
    syscall(SYS_read, faults, line, sizeof line - 1);
    syscall(SYS_close, faults);
    if (strcmp(line, known)) { strcpy(known, line); met = 0; }
    if (sscanf(line, "%15s %d %ld %ld", wanted, &error, &first, &last) != 4 || strcmp(wanted, op)) return 0;
    met++;
    if (met < first || met > last) return 0;
    errno = error;
    return 1;
}

int fsync(int fd) {
    return fails(fd, "sync") ? -1 : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    return fails(fd, "sync") ? -1 : (int)syscall(SYS_fdatasync, fd);
}
ssize_t write(int fd, const void *bytes, size_t count) {
    return fails(fd, "write") ? -1 : syscall(SYS_write, fd, bytes, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return fails(fd, "write") ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return fails(fd, "write") ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}
