/* Preloaded into a process, this writes down what the process does to the files of one folder, with the data, in the
 * order in which it happens: what a power cut may have left can be rebuilt from that.
 *
 *   EDGEDEPOT_CRASH_FOLDER   the folder, absolute
 *   EDGEDEPOT_CRASH_LOG      where to append the records; recording.py reads them
 *
 * One lock is held over each call and its record, so that the records' order is the calls'. Two kinds of files are left
 * out: -shm, which SQLite shares through memory and builds anew after a reboot, and .reserve, which nobody reads. What
 * cannot be recorded (a shared writable mapping, a hard link) becomes a record of its own, at which the reader fails;
 * the calls that copy inside the kernel are refused, and their callers then read and write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8 && sizeof(long) == 8, "the recorder is for machines of 64 bits");

#define DESCRIPTORS 65536

struct head {
    uint32_t kind;
    int32_t descriptor;
    int64_t number;
    uint32_t name_length, data_length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char watched[DESCRIPTORS];
static const char *folder;
static size_t folder_length;
static int records = -1;

static void record(char kind, int descriptor, int64_t number, const char *name, size_t name_length, const void *data,
                   size_t length) {
    struct head head = {(uint32_t)kind, descriptor, number, (uint32_t)name_length, (uint32_t)length};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)name, name_length}, {(void *)data, length}};
    if (syscall(SYS_writev, records, parts, 3) != (long)(sizeof head + name_length + length)) abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("EDGEDEPOT_CRASH_LOG");
    folder = getenv("EDGEDEPOT_CRASH_FOLDER");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    long opened = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    records = fcntl((int)opened, F_DUPFD_CLOEXEC, 1000);
    syscall(SYS_close, opened);
    if (records < 0) abort();
    record('b', 0, 0, "", 0, "", 0);
}

/* The name inside the folder ("" for the folder itself), NULL where it is none of ours. */
static const char *inside(const char *path) {
    if (records < 0 || strncmp(path, folder, folder_length)) return NULL;
    const char *rest = path + folder_length;
    if (!*rest) return rest;
    if (*rest++ != '/') return NULL;
    size_t length = strlen(rest);
    int left_out = (length > 4 && !strcmp(rest + length - 4, "-shm")) ||
                   (length > 8 && !strcmp(rest + length - 8, ".reserve"));
    return left_out ? NULL : rest;
}

static int ours(int descriptor) {
    return records >= 0 && descriptor >= 0 && descriptor < DESCRIPTORS && watched[descriptor];
}

static int do_open(int at, const char *path, int flags, mode_t mode) {
    const char *name = inside(path);
    if (!name) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int there = !syscall(SYS_faccessat, AT_FDCWD, path, F_OK);
    int descriptor = (int)syscall(SYS_openat, at, path, flags, mode);
    int error = errno;
    if (descriptor >= DESCRIPTORS) abort();
    if (descriptor >= 0) {
        watched[descriptor] = 1;
        record(there ? 'o' : 'c', descriptor, 0, name, strlen(name), "", 0);
        if (there && (flags & O_TRUNC)) record('t', descriptor, 0, "", 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return descriptor;
}

static mode_t mode_of(int flags, va_list rest) {
    return (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(NAME) \
    int NAME(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        return do_open(AT_FDCWD, path, flags, mode); \
    }
#define OPENAT(NAME) \
    int NAME(int at, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = mode_of(flags, rest); \
        va_end(rest); \
        return do_open(at, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int __open_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int __openat_2(int at, const char *path, int flags) { return do_open(at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return do_open(at, path, flags, 0); }

int close(int descriptor) {
    if (!ours(descriptor)) return (int)syscall(SYS_close, descriptor);
    pthread_mutex_lock(&lock);
    watched[descriptor] = 0;
    record('x', descriptor, 0, "", 0, "", 0);
    int result = (int)syscall(SYS_close, descriptor), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static ssize_t do_write(int descriptor, const void *data, size_t length, off_t at) {
    pthread_mutex_lock(&lock);
    ssize_t written = syscall(SYS_pwrite64, descriptor, data, length, at);
    int error = errno;
    if (written > 0) record('w', descriptor, at, "", 0, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t at) {
    if (!ours(descriptor)) return syscall(SYS_pwrite64, descriptor, data, length, at);
    return do_write(descriptor, data, length, at);
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t at) {
    return pwrite(descriptor, data, length, at);
}

ssize_t write(int descriptor, const void *data, size_t length) {
    if (!ours(descriptor)) return syscall(SYS_write, descriptor, data, length);
    pthread_mutex_lock(&lock);
    int at_end = fcntl(descriptor, F_GETFL) & O_APPEND;
    off_t at = lseek(descriptor, 0, at_end ? SEEK_END : SEEK_CUR);
    ssize_t written = syscall(SYS_write, descriptor, data, length);
    int error = errno;
    if (written > 0) record('w', descriptor, at, "", 0, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

static int do_truncate(int descriptor, off_t size) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, descriptor, size), error = errno;
    if (!result) record('t', descriptor, size, "", 0, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate(int descriptor, off_t size) {
    return ours(descriptor) ? do_truncate(descriptor, size) : (int)syscall(SYS_ftruncate, descriptor, size);
}
int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }

/* A file's fdatasync counts as its fsync: it brings the size along, and SQLite relies on no other attribute. */
static int do_sync(long call, int descriptor) {
    if (!ours(descriptor)) return (int)syscall(call, descriptor);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(call, descriptor), error = errno;
    if (!result) record('s', descriptor, 0, "", 0, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int descriptor) { return do_sync(SYS_fsync, descriptor); }
int fdatasync(int descriptor) { return do_sync(SYS_fdatasync, descriptor); }

static int do_unlink(int at, const char *path, int flags) {
    const char *name = inside(path);
    if (!name) return (int)syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, at, path, flags), error = errno;
    if (!result) record('u', 0, 0, name, strlen(name), "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return do_unlink(at, path, flags); }

static int do_rename(int at, const char *path, int to_at, const char *to) {
    const char *name = inside(path), *new = inside(to);
    if (!name && !new) return (int)syscall(SYS_renameat2, at, path, to_at, to, 0);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, at, path, to_at, to, 0), error = errno;
    if (!result) {
        if (name && new) record('r', 0, 0, name, strlen(name), new, strlen(new));
        else record('!', 0, 0, "rename", 6, "", 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *path, const char *to) { return do_rename(AT_FDCWD, path, AT_FDCWD, to); }
int renameat(int at, const char *path, int to_at, const char *to) { return do_rename(at, path, to_at, to); }

/* What is not recorded. */

static void cannot(const char *call) {
    pthread_mutex_lock(&lock);
    record('!', 0, 0, call, strlen(call), "", 0);
    pthread_mutex_unlock(&lock);
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t at) {
    if (ours(descriptor) && (protection & PROT_WRITE) && (flags & MAP_SHARED)) cannot("mmap");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, descriptor, at);
}
void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off64_t at) {
    return mmap(address, length, protection, flags, descriptor, at);
}

#define REFUSED(NAME, TYPE, PARAMETERS, DESCRIPTOR, CALL) \
    TYPE NAME PARAMETERS { \
        if (!ours(DESCRIPTOR)) return (TYPE)CALL; \
        errno = EINVAL; \
        return -1; \
    }
REFUSED(sendfile, ssize_t, (int to, int from, off_t *at, size_t length), to,
        syscall(SYS_sendfile, to, from, at, length))
REFUSED(sendfile64, ssize_t, (int to, int from, off64_t *at, size_t length), to,
        syscall(SYS_sendfile, to, from, at, length))
REFUSED(copy_file_range, ssize_t,
        (int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags), to,
        syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags))
REFUSED(fallocate, int, (int to, int mode, off_t at, off_t length), to, syscall(SYS_fallocate, to, mode, at, length))
REFUSED(fallocate64, int, (int to, int mode, off64_t at, off64_t length), to,
        syscall(SYS_fallocate, to, mode, at, length))

#define UNRECORDED(NAME, TYPE, PARAMETERS, CONDITION, CALL) \
    TYPE NAME PARAMETERS { \
        if (CONDITION) cannot(#NAME); \
        return (TYPE)CALL; \
    }
UNRECORDED(writev, ssize_t, (int to, const struct iovec *parts, int count), ours(to),
           syscall(SYS_writev, to, parts, count))
UNRECORDED(pwritev, ssize_t, (int to, const struct iovec *parts, int count, off_t at), ours(to),
           syscall(SYS_pwritev, to, parts, count, at, 0))
UNRECORDED(pwritev2, ssize_t, (int to, const struct iovec *parts, int count, off_t at, int flags), ours(to),
           syscall(SYS_pwritev2, to, parts, count, at, 0, flags))
UNRECORDED(posix_fallocate, int, (int to, off_t at, off_t length), ours(to),
           (syscall(SYS_fallocate, to, 0, at, length) ? errno : 0))
UNRECORDED(posix_fallocate64, int, (int to, off64_t at, off64_t length), ours(to),
           (syscall(SYS_fallocate, to, 0, at, length) ? errno : 0))
UNRECORDED(truncate, int, (const char *path, off_t size), inside(path) != NULL, syscall(SYS_truncate, path, size))
UNRECORDED(truncate64, int, (const char *path, off64_t size), inside(path) != NULL, syscall(SYS_truncate, path, size))
UNRECORDED(link, int, (const char *path, const char *to), inside(path) || inside(to),
           syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, to, 0))
UNRECORDED(dup, int, (int from), ours(from), syscall(SYS_dup, from))
