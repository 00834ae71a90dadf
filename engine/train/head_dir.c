/* head_dir.c - see head_dir.h. */
#include "engine/train/head_dir.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_NAME = 250 };

static scd_code io_error(const char *path, scd_error *err)
{
    return scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
}

char *scd_path_join(const char *a, const char *b, const char *c)
{
    size_t n = strlen(a) + strlen(b) + strlen(c) + 3;
    char *out = scd_malloc(n, 1);
    if (out)
        snprintf(out, n, "%s/%s%s%s", a, b, *c ? "/" : "", c);
    return out;
}

scd_code scd_head_name_check(const char *name, scd_error *err)
{
    if (!*name || *name == '.' || strchr(name, '/'))
        return scd_fail(err, SCD_E_INVALID, "--name '%s': must be a plain folder name", name);
    if (strlen(name) > MAX_NAME)
        return scd_fail(err, SCD_E_INVALID, "--name: too long, at most %d bytes", MAX_NAME);
    return SCD_OK;
}

scd_code scd_head_dir_name(const char *model_dir, const char *name, bool force, scd_head_dir *out,
                           scd_error *err)
{
    char hidden[MAX_NAME + 2];
    *out = (scd_head_dir){.lock = -1};
    snprintf(hidden, sizeof hidden, ".%s", name);
    out->final = scd_path_join(model_dir, "heads", name);
    out->hidden = scd_path_join(model_dir, "heads", hidden);
    if (!out->final || !out->hidden)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!access(out->final, F_OK) && !force)
        return scd_fail(err, SCD_E_INVALID,
                        "%s is there already; --force replaces it, --name makes another",
                        out->final);
    return SCD_OK;
}

static scd_code make_dir(const char *path, scd_error *err)
{
    return mkdir(path, 0777) && errno != EEXIST ? io_error(path, err) : SCD_OK;
}

scd_code scd_head_dir_open(scd_head_dir *dir, const char *model_dir, scd_error *err)
{
    char *heads = scd_path_join(model_dir, "heads", "");
    scd_code code = heads ? make_dir(heads, err) : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = make_dir(dir->hidden, err);
    free(heads);
    if (code)
        return code;
    dir->lock = open(dir->hidden, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->lock < 0)
        return io_error(dir->hidden, err);
    if (flock(dir->lock, LOCK_EX | LOCK_NB))
        return scd_fail(err, SCD_E_BUSY, "%s: another run is training this head", dir->hidden);
    return SCD_OK;
}

/* Where the file system cannot exchange two names, the old head steps aside for a moment: a process
 * killed in it leaves both, the old one as heads/.NAME.old. */
static scd_code exchange(const scd_head_dir *dir, scd_error *err)
{
    char old[4096];
    if (!renameat2(AT_FDCWD, dir->hidden, AT_FDCWD, dir->final, RENAME_EXCHANGE))
        return SCD_OK;
    if (errno != EINVAL && errno != ENOSYS)
        return io_error(dir->final, err);
    snprintf(old, sizeof old, "%s.old", dir->hidden);
    if (rename(dir->final, old) || rename(dir->hidden, dir->final) || rename(old, dir->hidden))
        return io_error(dir->final, err);
    return SCD_OK;
}

scd_code scd_head_dir_publish(const scd_head_dir *dir, const char *scratch, scd_error *err)
{
    static const char *const files[] = {"head.json", "head.safetensors", "train.csv"};
    char path[4096];
    bool replaces = !access(dir->final, F_OK);
    scd_code code = SCD_OK;
    if (replaces)
        code = exchange(dir, err);
    else if (rename(dir->hidden, dir->final))
        code = io_error(dir->final, err);
    if (code)
        return code;
    if (scratch) {
        snprintf(path, sizeof path, "%s/%s", dir->final, scratch);
        unlink(path);
    }
    for (size_t i = 0; replaces && i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir->hidden, files[i]);
        unlink(path); /* what else lies there is not ours: the folder stays then */
    }
    if (replaces)
        rmdir(dir->hidden);
    return SCD_OK;
}

void scd_head_dir_release(scd_head_dir *dir)
{
    if (dir->lock >= 0)
        close(dir->lock);
    free(dir->hidden);
    free(dir->final);
    *dir = (scd_head_dir){.lock = -1};
}

void scd_head_put_genes(scd_buf *out, const uint8_t *measured, size_t vocab)
{
    bool any = false;
    scd_buf_puts(out, "  \"genes\": [");
    for (size_t first = 0, past; first < vocab; first = past) {
        past = first + 1;
        if (!measured[first])
            continue;
        while (past < vocab && measured[past])
            past++;
        scd_buf_printf(out, "%s[%zu,%zu]", any ? "," : "", first, past);
        any = true;
    }
    scd_buf_puts(out, "],\n");
}
