/* job_ballast.c - room on a full disk for what makes room.
 *
 * To delete a job is to write: its database and the audit grow before a file goes. Where no byte is
 * left that cannot be done, and nobody could make room but by hand. So a file of no content is kept
 * that is given up for a change that frees, and made again when there is room for it.
 *
 * Threads: jobs-db; main before it runs. */
#include "server/jobs_impl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BALLAST_BYTES = 1 << 20, ROOM_TIMES = 4 };

static bool is_kept(const char *path)
{
    struct stat st;
    return !stat(path, &st) && st.st_size == BALLAST_BYTES;
}

/* It is not to take the last room itself. */
static bool has_room(const scd_jobs *jobs)
{
    struct statvfs fs;
    return !statvfs(jobs->dir, &fs) &&
           (uint64_t)fs.f_bavail * fs.f_frsize >= (uint64_t)ROOM_TIMES * BALLAST_BYTES;
}

void scd_job_ballast_keep(scd_jobs *jobs)
{
    char *path = scd_jobs_path(jobs, "all", "ballast");
    if (path && !is_kept(path) && has_room(jobs)) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        bool ok = fd >= 0 && !posix_fallocate(fd, 0, BALLAST_BYTES);
        if (fd >= 0)
            close(fd);
        if (!ok)
            unlink(path);
    }
    free(path);
}

bool scd_job_ballast_drop(scd_jobs *jobs)
{
    char *path = scd_jobs_path(jobs, "all", "ballast");
    bool had = path && is_kept(path) && !unlink(path);
    free(path);
    return had;
}
