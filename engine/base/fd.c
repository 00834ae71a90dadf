/* fd.c - see fd.h. */
#include "engine/base/fd.h"

#include <errno.h>
#include <unistd.h>

/* What one call moved: is the loop to go on? */
static bool went_on(ssize_t moved, const char **at, size_t *n)
{
    if (moved < 0)
        return errno == EINTR;
    if (moved == 0) {
        errno = 0;
        return false;
    }
    *at += moved;
    *n -= (size_t)moved;
    return true;
}

bool scd_read_all(int fd, void *bytes, size_t n)
{
    const char *at = bytes;
    while (n) {
        size_t done = (size_t)(at - (const char *)bytes);
        if (!went_on(read(fd, (char *)bytes + done, n), &at, &n))
            return false;
    }
    return true;
}

bool scd_write_all(int fd, const void *bytes, size_t n)
{
    const char *at = bytes;
    while (n)
        if (!went_on(write(fd, at, n), &at, &n))
            return false;
    return true;
}

bool scd_pread_all(int fd, void *bytes, size_t n, uint64_t offset)
{
    const char *at = bytes;
    while (n) {
        size_t done = (size_t)(at - (const char *)bytes);
        if (!went_on(pread(fd, (char *)bytes + done, n, (off_t)(offset + done)), &at, &n))
            return false;
    }
    return true;
}

bool scd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset)
{
    const char *at = bytes;
    while (n) {
        size_t done = (size_t)(at - (const char *)bytes);
        if (!went_on(pwrite(fd, at, n, (off_t)(offset + done)), &at, &n))
            return false;
    }
    return true;
}
