/* model_dir.c - see model_dir.h. */
#include "engine/train/model_dir.h"

#include "engine/base/mem.h"
#include "engine/train/head_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char partial[] = ".partial", temporary[] = ".tmp";
static const char *const files[] = {"checkpoint.bin",   "train.csv", "config.json",
                                    "genes.tsv",        "card.md",   "lengths.tsv",
                                    "model.safetensors"};

static scd_code io_error(const char *path, scd_error *err)
{
    return scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
}

/* Nothing of this name, or an empty folder: what rename() takes the place of. */
static bool is_free(const char *path)
{
    struct stat info;
    if (lstat(path, &info))
        return errno == ENOENT;
    DIR *dir = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    size_t n = 0;
    if (!dir)
        return false;
    for (const struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(dir);
    return !n;
}

scd_code scd_model_dir_name(const char *out, scd_model_dir *dir, scd_error *err)
{
    size_t n = strlen(out);
    *dir = (scd_model_dir){.lock = -1};
    while (n > 1 && out[n - 1] == '/')
        n--;
    size_t first = n;
    while (first && out[first - 1] != '/')
        first--;
    const char *name = out + first;
    if (first == n || (*name == '.' && n - first <= 2 && (n - first == 1 || name[1] == '.')))
        return scd_fail(err, SCD_E_INVALID, "--out '%s': must name a new folder", out);
    dir->final = scd_strndup(out, n);
    dir->hidden = scd_malloc(n + sizeof partial + 1, 1);
    if (!dir->final || !dir->hidden)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    snprintf(dir->hidden, n + sizeof partial + 1, "%.*s.%s%s", (int)first, out, dir->final + first,
             partial);
    if (!is_free(dir->final))
        return scd_fail(err, SCD_E_INVALID, "%s is there already: remove it, or give another --out",
                        dir->final);
    return SCD_OK;
}

static bool is_ours(const char *name)
{
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (!strncmp(name, files[i], strlen(files[i])))
            return true;
    return !strcmp(name, ".") || !strcmp(name, "..");
}

/* NAME.PID.tmp goes; anything that is not a run's stays, and is not ours to rename. */
static scd_code tidy(const char *path, scd_error *err)
{
    scd_code code = SCD_OK;
    DIR *dir = opendir(path);
    if (!dir)
        return io_error(path, err);
    for (const struct dirent *e; !code && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (!is_ours(e->d_name))
            code = scd_fail(err, SCD_E_INVALID,
                            "%s holds %s, which no run has put there: move it, or give another "
                            "--out",
                            path, e->d_name);
        else if (n >= sizeof temporary &&
                 !strcmp(e->d_name + n + 1 - sizeof temporary, temporary) &&
                 unlinkat(dirfd(dir), e->d_name, 0))
            code = io_error(path, err);
    }
    closedir(dir);
    return code;
}

scd_code scd_model_dir_open(scd_model_dir *dir, scd_error *err)
{
    if (mkdir(dir->hidden, 0777) && errno != EEXIST)
        return io_error(dir->hidden, err);
    dir->lock = open(dir->hidden, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->lock < 0)
        return io_error(dir->hidden, err);
    if (flock(dir->lock, LOCK_EX | LOCK_NB))
        return scd_fail(err, SCD_E_BUSY, "%s: another run is making this model", dir->hidden);
    return tidy(dir->hidden, err);
}

/* The folder's own entry in the one above it. */
static scd_code sync_parent(const char *path, scd_error *err)
{
    char *parent = scd_path_join(path, "..", "");
    int fd = parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    scd_code code = !parent               ? scd_fail(err, SCD_E_NOMEM, "out of memory")
                    : fd < 0 || fsync(fd) ? io_error(parent, err)
                                          : SCD_OK;
    if (fd >= 0)
        close(fd);
    free(parent);
    return code;
}

scd_code scd_model_dir_publish(const scd_model_dir *dir, const char *scratch, scd_error *err)
{
    char *path = scd_path_join(dir->final, scratch, "");
    if (!path)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = SCD_OK;
    if (rename(dir->hidden, dir->final))
        code = io_error(dir->final, err);
    if (!code && unlink(path) && errno != ENOENT)
        code = io_error(path, err);
    free(path);
    return code ? code : sync_parent(dir->final, err);
}

void scd_model_dir_release(scd_model_dir *dir)
{
    if (dir->lock >= 0)
        close(dir->lock);
    free(dir->hidden);
    free(dir->final);
    *dir = (scd_model_dir){.lock = -1};
}
