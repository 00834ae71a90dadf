/* mex_pack.c - a folder of MEX files as one, for whoever takes one file only; see mex.h. */
#include "api/mex.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, BLOCK_BYTES = 1 << 16 };

static int is_part(const struct dirent *e)
{
    size_t prefix;
    return scd_mex_part_of(e->d_name, &prefix) != SCD_MEX_N;
}

static scd_code tar_failed(struct archive *tar, const char *path, scd_error *err)
{
    const char *why = archive_error_string(tar);
    return scd_fail(err, archive_errno(tar) == ENOMEM ? SCD_E_NOMEM : SCD_E_IO,
                    "%s: cannot be packed: %s", path, why ? why : "no reason is known");
}

/* n bytes and no more, whatever becomes of the file meanwhile. */
static scd_code copy(struct archive *tar, int fd, const char *path, uint64_t n, scd_error *err)
{
    char block[BLOCK_BYTES];
    while (n) {
        ssize_t got = read(fd, block, n < sizeof block ? (size_t)n : sizeof block);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return scd_fail(err, SCD_E_IO, "%s: %s", path,
                            got ? strerror(errno) : "became shorter while it was read");
        if (archive_write_data(tar, block, (size_t)got) != got)
            return tar_failed(tar, path, err);
        n -= (uint64_t)got;
    }
    return SCD_OK;
}

/* Neither times nor owners: the same folder gives the same bytes. */
static scd_code add(struct archive *tar, const char *folder, const char *name, scd_error *err)
{
    char path[PATH_BYTES];
    struct stat facts;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return scd_fail(err, SCD_E_INVALID, "%s: a name is too long", folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct archive_entry *entry = archive_entry_new();
    scd_code code = entry ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    if (!code && (fd < 0 || fstat(fd, &facts)))
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    else if (!code && !S_ISREG(facts.st_mode))
        code = scd_fail(err, SCD_E_IO, "%s: not a file", path);
    if (!code) {
        archive_entry_set_pathname(entry, name);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_size(entry, facts.st_size);
        if (archive_write_header(tar, entry) != ARCHIVE_OK)
            code = tar_failed(tar, path, err);
    }
    if (!code)
        code = copy(tar, fd, path, (uint64_t)facts.st_size, err);
    archive_entry_free(entry);
    if (fd >= 0)
        close(fd);
    return code;
}

scd_code scd_mex_pack(const char *folder, int to, scd_error *err)
{
    struct dirent **parts = NULL;
    int n = scandir(folder, &parts, is_part, alphasort);
    struct archive *tar = archive_write_new();
    scd_code code = SCD_OK;
    if (n < 0)
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", folder, strerror(errno));
    else if (!n)
        code = scd_fail(err, SCD_E_NOT_FOUND,
                        "%s: a folder without matrix.mtx, features.tsv and barcodes.tsv", folder);
    else if (!tar)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", folder);
    else if (archive_write_set_format_gnutar(tar) != ARCHIVE_OK ||
             archive_write_open_fd(tar, to) != ARCHIVE_OK)
        code = tar_failed(tar, folder, err);
    for (int i = 0; i < n && !code; i++)
        code = add(tar, folder, parts[i]->d_name, err);
    if (!code && archive_write_close(tar) != ARCHIVE_OK)
        code = tar_failed(tar, folder, err);
    if (tar)
        archive_write_free(tar);
    for (int i = 0; i < n; i++)
        free(parts[i]);
    free(parts);
    return code;
}
