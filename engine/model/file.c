/* file.c - see file.h. */
#include "engine/model/file.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static scd_code io_failed(scd_error *err, const char *path, const char *what)
{
    return scd_fail(err, SCD_E_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

scd_code scd_file_open(const char *path, int *out, size_t *n_bytes, scd_error *err)
{
    struct stat info;
    *out = -1;
    *n_bytes = 0;
    /* O_NONBLOCK: opening a FIFO must not wait for its other end. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return io_failed(err, path, "open");
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return scd_fail(err, SCD_E_IO, "%s: is not a regular file", path);
    }
    *out = fd;
    *n_bytes = (size_t)info.st_size;
    return SCD_OK;
}

/* Without the slashes after it; *n 0 for the root. */
static const char *last_component(const char *path, size_t *n)
{
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/')
        end--;
    const char *at = end;
    while (at > path && at[-1] != '/')
        at--;
    *n = (size_t)(end - at);
    return at;
}

scd_code scd_file_dir_name(const char *dir, const char *fallback, char **out, scd_error *err)
{
    size_t n;
    char *real = NULL;
    const char *name = last_component(dir, &n);
    bool dots = (n == 1 && name[0] == '.') || (n == 2 && !memcmp(name, "..", 2));
    if (dots && (real = realpath(dir, NULL)))
        name = last_component(real, &n);
    *out = n ? scd_strndup(name, n) : scd_strdup(fallback);
    free(real);
    return *out ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", dir);
}

scd_code scd_file_read(int fd, const char *path, size_t max, char **out, size_t *n, scd_error *err)
{
    struct stat info;
    *out = NULL;
    *n = 0;
    if (fstat(fd, &info) < 0)
        return io_failed(err, path, "read");
    size_t size = (size_t)info.st_size, at = 0;
    if (size > max)
        return scd_fail(err, SCD_E_TOO_LARGE, "%s: %zu bytes, at most %zu", path, size, max);
    char *bytes = scd_malloc(size + 1, 1);
    if (!bytes)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    while (at < size) {
        ssize_t got = pread(fd, bytes + at, size - at, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            io_failed(err, path, "read");
            free(bytes);
            return SCD_E_IO;
        }
        if (got == 0)
            break; /* it became shorter: what there is */
        at += (size_t)got;
    }
    bytes[at] = '\0';
    *out = bytes;
    *n = at;
    return SCD_OK;
}

scd_code scd_file_writer_open(scd_file_writer *writer, const char *path, scd_error *err)
{
    *writer = (scd_file_writer){.fd = -1};
    size_t room = strlen(path) + 32;
    writer->path = scd_strdup(path);
    writer->temporary = scd_malloc(room, 1);
    if (!writer->path || !writer->temporary) {
        scd_file_writer_abandon(writer);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    }
    snprintf(writer->temporary, room, "%s.%ld.tmp", path, (long)getpid());
    writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        io_failed(err, path, "write");
        scd_file_writer_abandon(writer);
        return SCD_E_IO;
    }
    return SCD_OK;
}

scd_code scd_file_writer_add(scd_file_writer *writer, const void *bytes, size_t n, scd_error *err)
{
    const char *at = bytes;
    while (n) {
        ssize_t put = write(writer->fd, at, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return io_failed(err, writer->path, "write");
        at += put;
        n -= (size_t)put;
    }
    return SCD_OK;
}

/* A rename is durable once its directory is. */
static scd_code sync_directory(const char *path, scd_error *err)
{
    const char *slash = strrchr(path, '/');
    char *dir =
        slash ? scd_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : scd_strdup(".");
    if (!dir)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scd_code code = SCD_OK;
    if (fd < 0 || fsync(fd) < 0)
        code = io_failed(err, dir, "sync");
    if (fd >= 0)
        close(fd);
    free(dir);
    return code;
}

scd_code scd_file_writer_commit(scd_file_writer *writer, scd_error *err)
{
    scd_code code = SCD_OK;
    int fd = writer->fd;
    if (fsync(fd) < 0)
        code = io_failed(err, writer->path, "sync");
    writer->fd = -1;
    if (close(fd) < 0 && !code)
        code = io_failed(err, writer->path, "close");
    if (!code && rename(writer->temporary, writer->path) < 0)
        code = io_failed(err, writer->path, "replace");
    if (!code) {
        free(writer->temporary); /* it has become the file */
        writer->temporary = NULL;
        code = sync_directory(writer->path, err);
    }
    scd_file_writer_abandon(writer);
    return code;
}

void scd_file_writer_abandon(scd_file_writer *writer)
{
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->path && writer->temporary)
        unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    *writer = (scd_file_writer){.fd = -1};
}

scd_code scd_file_write(const char *path, const void *bytes, size_t n, scd_error *err)
{
    scd_file_writer writer;
    scd_code code = scd_file_writer_open(&writer, path, err);
    if (code)
        return code;
    if ((code = scd_file_writer_add(&writer, bytes, n, err))) {
        scd_file_writer_abandon(&writer);
        return code;
    }
    return scd_file_writer_commit(&writer, err);
}
