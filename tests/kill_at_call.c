/* Preloaded into a process, kills it with SIGKILL at the n-th call of libc that changes a file below
   a folder: before the call, or halfway through a write.

   kill_at(folder, n) begins to count, and kill_at(NULL, 0) ends it; so do KILL_IN and KILL_AT in the
   environment for a whole process. With n = 0 nothing is killed. calls_counted() says how many. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static long fatal, counted;

void kill_at(const char *folder, long n)
{
    fatal = n;
    counted = 0;
    snprintf(below, sizeof below, "%s", folder ? folder : "");
}

long calls_counted(void) { return counted; }

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("KILL_IN"), *n = getenv("KILL_AT");
    if (folder && n)
        kill_at(folder, atol(n));
}

static void count(void)
{
    if (++counted == fatal)
        raise(SIGKILL);
}

static int is_below(const char *path)
{
    size_t length = strlen(below);
    return length && !strncmp(path, below, length) && (path[length] == '/' || !path[length]);
}

static void at_path(int folder, const char *path)
{
    char whole[2 * PATH_MAX], place[64];
    if (*path == '/' || !*below) {
        if (is_below(path))
            count();
        return;
    }
    ssize_t length;
    if (folder == AT_FDCWD) {
        length = getcwd(whole, PATH_MAX) ? (ssize_t)strlen(whole) : -1;
    } else {
        snprintf(place, sizeof place, "/proc/self/fd/%d", folder);
        length = readlink(place, whole, PATH_MAX - 1);
    }
    if (length < 0)
        return;
    snprintf(whole + length, sizeof whole - length, "/%s", path);
    if (is_below(whole))
        count();
}

static int is_open_below(int file)
{
    char place[64], path[PATH_MAX];
    if (!*below)
        return 0;
    snprintf(place, sizeof place, "/proc/self/fd/%d", file);
    ssize_t length = readlink(place, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static void at_file(int file)
{
    if (is_open_below(file))
        count();
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

/* the n-th call may be one half of a write: what a kill in the midst of it leaves */
#define HALVES(file, size, write_half) \
    if (is_open_below(file)) {         \
        count();                       \
        if (size > 1) {                \
            if (counted + 1 == fatal)  \
                (void)!write_half;     \
            count();                   \
        }                              \
    }

ssize_t write(int file, const void *data, size_t size)
{
    HALVES(file, size, REAL(write)(file, data, size / 2))
    return REAL(write)(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    HALVES(file, size, REAL(pwrite)(file, data, size / 2, at))
    return REAL(pwrite)(file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at)
{
    HALVES(file, size, REAL(pwrite64)(file, data, size / 2, at))
    return REAL(pwrite64)(file, data, size, at);
}

ssize_t writev(int file, const struct iovec *parts, int n)
{
    HALVES(file, n, REAL(writev)(file, parts, n / 2))
    return REAL(writev)(file, parts, n);
}

/* those to read change nothing, but a folder is opened for its fsync */
#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name, folder, before, ...)                      \
    {                                                        \
        mode_t mode = 0;                                     \
        if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {\
            va_list more;                                    \
            va_start(more, flags);                           \
            mode = va_arg(more, mode_t);                     \
            va_end(more);                                    \
        }                                                    \
        if (CHANGES(flags))                                  \
            at_path(folder, path);                           \
        return REAL(name)(before __VA_ARGS__, flags, mode);  \
    }
#define NOTHING
#define IN_FOLDER folder,

int open(const char *path, int flags, ...) OPEN(open, AT_FDCWD, NOTHING, path)
int open64(const char *path, int flags, ...) OPEN(open64, AT_FDCWD, NOTHING, path)
int openat(int folder, const char *path, int flags, ...) OPEN(openat, folder, IN_FOLDER, path)
int openat64(int folder, const char *path, int flags, ...) OPEN(openat64, folder, IN_FOLDER, path)

/* result name(parameters): counted by `at`, then done with `arguments` */
#define CALL(result, name, parameters, arguments, at) \
    result name parameters                            \
    {                                                 \
        at;                                           \
        return REAL(name) arguments;                  \
    }

CALL(int, creat, (const char *path, mode_t mode), (path, mode), at_path(AT_FDCWD, path))
CALL(int, creat64, (const char *path, mode_t mode), (path, mode), at_path(AT_FDCWD, path))
CALL(int, fsync, (int file), (file), at_file(file))
CALL(int, fdatasync, (int file), (file), at_file(file))
CALL(int, ftruncate, (int file, off_t size), (file, size), at_file(file))
CALL(int, ftruncate64, (int file, off64_t size), (file, size), at_file(file))
CALL(int, flock, (int file, int how), (file, how), at_file(file))
CALL(int, close, (int file), (file), at_file(file))
CALL(int, rename, (const char *from, const char *to), (from, to), at_path(AT_FDCWD, to))
CALL(int, renameat, (int one, const char *from, int other, const char *to), (one, from, other, to),
     at_path(other, to))
CALL(int, link, (const char *from, const char *to), (from, to), at_path(AT_FDCWD, to))
CALL(int, symlink, (const char *from, const char *to), (from, to), at_path(AT_FDCWD, to))
CALL(int, unlink, (const char *path), (path), at_path(AT_FDCWD, path))
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags),
     at_path(folder, path))
CALL(int, remove, (const char *path), (path), at_path(AT_FDCWD, path))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), at_path(AT_FDCWD, path))
CALL(int, rmdir, (const char *path), (path), at_path(AT_FDCWD, path))
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), at_path(AT_FDCWD, path))
