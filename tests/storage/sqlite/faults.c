/* Preloaded into a process, this has calls that write to the files of one folder fail, as a dying or read-only device
 * does, when and how the process says itself:
 *
 *   EDGEDEPOT_FAULT_FOLDER    the folder, absolute
 *   fault_code                an errno for such calls, 0 for none
 *   fault_after               so many calls succeed before
 *   fault_calls               how many there were
 *   fault_once                whether only one such call fails
 *   fault_gate                where it is a descriptor, such a call does not fail, but waits for a byte from it
 *   fault_kill                whether the process is killed instead, before the call
 *   fault_end, fault_call     the end of the names of files, and the call, for which alone that holds; "" for all. With
 *                             fault_end calls of open count too (of "look", to read only), and those of the folder
 *                             and the log's index
 *   fault_syncs               so many syncs of a write-ahead log fail with EIO, once each
 *   fault_reads               so many reads of the fault_length bytes from fault_place on, of the file with the number
 *                             fault_inode, fail with EIO; all of them where it is negative
 *   fault_quota               whether a full device, whatever the folder, says so as one does whose quota is used up
 *
 * Calls through the C library alone are seen: SQLite's and Python's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fault_code, fault_after, fault_calls, fault_once, fault_gate, fault_kill, fault_syncs, fault_reads, fault_quota;
char fault_end[64], fault_call[16];
long fault_inode, fault_place, fault_length;

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), rest = strlen(end);
    return length >= rest && !strcmp(path + length - rest, end);
}

static int ours(const char *path) {
    const char *folder = getenv("EDGEDEPOT_FAULT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length)) return 0;
    if (fault_end[0]) return ends_with(path, fault_end);
    return path[length] == '/' && !ends_with(path, "-shm");
}

static int refused(const char *call, const char *path) {
    if (!ours(path) || (fault_call[0] && strcmp(call, fault_call))) return 0;
    int number = __atomic_add_fetch(&fault_calls, 1, __ATOMIC_SEQ_CST);
    if (!fault_code || number <= fault_after) return 0;
    if (fault_kill) kill(getpid(), SIGKILL);
    errno = fault_code;
    if (fault_once) fault_code = 0;
    if (!fault_gate) return 1;
    char byte;
    syscall(SYS_read, fault_gate, &byte, 1);
    return 0;
}

static void path_of(int descriptor, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, 4095);
    path[length < 0 ? 0 : length] = 0;
}

static int refused_of(const char *call, int descriptor) {
    char path[4096];
    path_of(descriptor, path);
    return refused(call, path);
}

static int unsynced(int descriptor) {
    char path[4096];
    if (!fault_syncs) return 0;
    path_of(descriptor, path);
    if (!ours(path) || !ends_with(path, "-wal")) return 0;
    fault_syncs--;
    errno = EIO;
    return 1;
}

static int unread(int descriptor, long from, long length) {
    struct stat file;
    if (!fault_reads || from + length <= fault_place || from >= fault_place + fault_length) return 0;
    if (fstat(descriptor, &file) || (long)file.st_ino != fault_inode) return 0;
    if (fault_reads > 0) fault_reads--;
    errno = EIO;
    return 1;
}

static ssize_t told(ssize_t written) {
    if (written < 0 && errno == ENOSPC && fault_quota) errno = EDQUOT;
    return written;
}

ssize_t pwrite64(int to, const void *data, size_t length, off64_t at) {
    return refused_of("write", to) ? -1 : told(syscall(SYS_pwrite64, to, data, length, at));
}

ssize_t pwrite(int to, const void *data, size_t length, off_t at) { return pwrite64(to, data, length, at); }

ssize_t write(int to, const void *data, size_t length) {
    return refused_of("write", to) ? -1 : told(syscall(SYS_write, to, data, length));
}

int posix_fallocate64(int to, off64_t at, off64_t length) {
    return told(syscall(SYS_fallocate, to, 0, at, length)) ? errno : 0;
}

int posix_fallocate(int to, off_t at, off_t length) { return posix_fallocate64(to, at, length); }

int ftruncate64(int to, off64_t size) {
    return refused_of("truncate", to) ? -1 : (int)syscall(SYS_ftruncate, to, size);
}

int ftruncate(int to, off_t size) { return ftruncate64(to, size); }

int fsync(int to) { return refused_of("sync", to) || unsynced(to) ? -1 : (int)syscall(SYS_fsync, to); }

int fdatasync(int to) { return refused_of("sync", to) || unsynced(to) ? -1 : (int)syscall(SYS_fdatasync, to); }

ssize_t pread64(int from, void *data, size_t length, off64_t at) {
    return unread(from, at, length) ? -1 : syscall(SYS_pread64, from, data, length, at);
}

ssize_t pread(int from, void *data, size_t length, off_t at) { return pread64(from, data, length, at); }

ssize_t read(int from, void *data, size_t length) {
    if (fault_reads && unread(from, lseek(from, 0, SEEK_CUR), length)) return -1;
    return syscall(SYS_read, from, data, length);
}

int unlink(const char *path) {
    return refused("unlink", path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rename(const char *path, const char *other) {
    if (fault_end[0] && refused("rename", path)) return -1;
    return (int)syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, other, 0);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    if (fault_end[0] && refused(flags & O_ACCMODE ? "open" : "look", path)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    return open64(path, flags, mode);
}
