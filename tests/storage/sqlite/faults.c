/* Preloaded into a process, this has calls that write to the files of one folder fail, as a dying or read-only device
 * does, when and how the process says itself:
 *
 *   EDGEDEPOT_FAULT_FOLDER    the folder, absolute
 *   fault_code                an errno for such calls, 0 for none
 *   fault_after               so many calls succeed before
 *   fault_calls               how many there were
 *
 * Calls through the C library alone are seen: SQLite's and Python's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int fault_code, fault_after, fault_calls;

static int ours(const char *path) {
    const char *folder = getenv("EDGEDEPOT_FAULT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length) || path[length] != '/') return 0;
    size_t rest = strlen(path);
    return rest < 4 || strcmp(path + rest - 4, "-shm");
}

static int refused(int applies) {
    if (!applies) return 0;
    int number = __atomic_add_fetch(&fault_calls, 1, __ATOMIC_SEQ_CST);
    if (!fault_code || number <= fault_after) return 0;
    errno = fault_code;
    return 1;
}

static int file_of_ours(int descriptor) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

ssize_t pwrite64(int to, const void *data, size_t length, off64_t at) {
    return refused(file_of_ours(to)) ? -1 : syscall(SYS_pwrite64, to, data, length, at);
}

ssize_t pwrite(int to, const void *data, size_t length, off_t at) { return pwrite64(to, data, length, at); }

ssize_t write(int to, const void *data, size_t length) {
    return refused(file_of_ours(to)) ? -1 : syscall(SYS_write, to, data, length);
}

int ftruncate64(int to, off64_t size) {
    return refused(file_of_ours(to)) ? -1 : (int)syscall(SYS_ftruncate, to, size);
}

int ftruncate(int to, off_t size) { return ftruncate64(to, size); }

int fsync(int to) { return refused(file_of_ours(to)) ? -1 : (int)syscall(SYS_fsync, to); }

int fdatasync(int to) { return refused(file_of_ours(to)) ? -1 : (int)syscall(SYS_fdatasync, to); }

int unlink(const char *path) {
    return refused(ours(path)) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
