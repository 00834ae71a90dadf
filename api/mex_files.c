/* mex_files.c - where the three files of a MEX matrix are: a folder, a .zip, a .tar or .tar.gz.
 *
 * An archive is walked through once and nothing of it is written anywhere, so that a name in it
 * cannot lead outside; one that tries ("../", "/etc") is refused all the same, as are links and
 * encrypted members. What all of it may unpack to is bounded by the size of the file
 * (scd_text_in_bound), also where members are packed once more. */
#include "api/mex.h"

#include "engine/base/mem.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_MEMBERS = 10000, BLOCK_BYTES = 1 << 16, PATH_BYTES = 4096 };

/* ---- a folder ---- */

static scd_code read_file(scd_mex *mex, scd_mex_part part, const char *path, scd_error *err)
{
    struct stat facts;
    scd_text_in *in = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    scd_code code = SCD_OK;
    if (fd < 0 || fstat(fd, &facts))
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    else if (!S_ISREG(facts.st_mode))
        code = scd_fail(err, SCD_E_IO, "%s: not a file", path);
    if (!code)
        code = scd_text_in_new(scd_bytes_of_fd, &fd, path,
                               scd_text_in_bound((uint64_t)facts.st_size), &in, err);
    if (!code)
        code = scd_mex_read(mex, part, path, in, err);
    scd_text_in_free(in);
    if (fd >= 0)
        close(fd);
    return code;
}

static scd_code read_folder(scd_mex *mex, const char *path, scd_error *err)
{
    char file[PATH_BYTES];
    DIR *dir = opendir(path);
    scd_code code = SCD_OK;
    if (!dir)
        return scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    for (struct dirent *e; !code && (e = readdir(dir));) {
        size_t prefix;
        scd_mex_part part = scd_mex_part_of(e->d_name, &prefix);
        if (part == SCD_MEX_N)
            continue;
        int n = snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        code = n < PATH_BYTES ? read_file(mex, part, file, err)
                              : scd_fail(err, SCD_E_INVALID, "%s: a name is too long", path);
    }
    closedir(dir);
    return code;
}

/* ---- an archive ---- */

typedef struct source {
    const char *path;
    struct archive *archive;
    uint64_t bound, used; /* bytes that may come out of it, and that did */
} source;

static scd_code archive_failed(const source *s, scd_error *err)
{
    const char *why = archive_error_string(s->archive);
    bool no_memory = archive_errno(s->archive) == ENOMEM;
    return scd_fail(err, no_memory ? SCD_E_NOMEM : SCD_E_CORRUPT, "%s",
                    why ? why : "damaged, or cut off");
}

static scd_code check_bound(const source *s, scd_error *err)
{
    int64_t unpacked = archive_filter_bytes(s->archive, 0);
    if (unpacked >= 0 && (uint64_t)unpacked > s->bound)
        return scd_fail(err, SCD_E_TOO_LARGE,
                        "unpacks to more than %" PRIu64 " bytes, the bound for a file of its size",
                        s->bound);
    return SCD_OK;
}

static scd_code member_bytes(void *arg, void *buf, size_t cap, size_t *n, scd_error *err)
{
    const source *s = arg;
    la_ssize_t got = archive_read_data(s->archive, buf, cap);
    *n = got > 0 ? (size_t)got : 0;
    return got < 0 ? archive_failed(s, err) : check_bound(s, err);
}

static bool leads_outside(const char *name)
{
    if (name[0] == '/' || name[0] == '\\' || (name[0] && name[1] == ':'))
        return true;
    for (const char *at = name; *at; at++) {
        bool begins = at == name || at[-1] == '/' || at[-1] == '\\';
        if (begins && at[0] == '.' && at[1] == '.' && (!at[2] || at[2] == '/' || at[2] == '\\'))
            return true;
    }
    return false;
}

static scd_code check_member(const source *s, struct archive_entry *e, const char *name,
                             bool is_part, scd_error *err)
{
    if (leads_outside(name))
        return scd_fail(err, SCD_E_INVALID, "%s: %.200s: a name that leads outside of the archive",
                        s->path, name);
    if (!is_part)
        return SCD_OK;
    if (archive_entry_symlink(e) || archive_entry_hardlink(e) ||
        archive_entry_filetype(e) != AE_IFREG)
        return scd_fail(err, SCD_E_INVALID, "%s: %.200s: a link or device, not a file", s->path,
                        name);
    if (archive_entry_is_encrypted(e))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: %.200s: encrypted; write the archive without a "
                        "password",
                        s->path, name);
    return SCD_OK;
}

static scd_code read_member(source *s, scd_mex *mex, scd_mex_part part, const char *name,
                            scd_error *err)
{
    char shown[PATH_BYTES];
    scd_text_in *in = NULL;
    snprintf(shown, sizeof shown, "%s: %.1000s", s->path, name);
    scd_code code = scd_text_in_new(member_bytes, s, shown, s->bound - s->used, &in, err);
    if (code)
        return code;
    code = scd_mex_read(mex, part, name, in, err);
    s->used += scd_text_in_bytes(in);
    s->used = s->used > s->bound ? s->bound : s->used;
    scd_text_in_free(in);
    return code;
}

static scd_code read_members(source *s, scd_mex *mex, scd_error *err)
{
    scd_code code = SCD_OK;
    struct archive_entry *e;
    for (size_t i = 0; !code; i++) {
        int status = archive_read_next_header(s->archive, &e);
        if (status == ARCHIVE_EOF)
            break;
        if (status != ARCHIVE_OK && status != ARCHIVE_WARN)
            code = archive_failed(s, err);
        else if (i == MAX_MEMBERS)
            code = scd_fail(err, SCD_E_TOO_LARGE, "more than %d members", MAX_MEMBERS);
        else
            code = check_bound(s, err);
        if (code) {
            scd_fail_within(err, "%s", s->path);
            return code;
        }
        const char *name = archive_entry_pathname_utf8(e);
        name = name ? name : archive_entry_pathname(e);
        name = name ? name : "?";
        size_t prefix;
        scd_mex_part part =
            archive_entry_filetype(e) == AE_IFDIR ? SCD_MEX_N : scd_mex_part_of(name, &prefix);
        code = check_member(s, e, name, part != SCD_MEX_N, err);
        if (!code && part != SCD_MEX_N)
            code = read_member(s, mex, part, name, err);
    }
    return code;
}

static scd_code read_archive(scd_mex *mex, const char *path, scd_error *err)
{
    struct stat facts;
    source s = {.path = path};
    if (stat(path, &facts))
        return scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    s.bound = scd_text_in_bound((uint64_t)facts.st_size);
    s.archive = archive_read_new();
    if (!s.archive)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    archive_read_support_filter_gzip(s.archive);
    archive_read_support_format_tar(s.archive);
    archive_read_support_format_zip(s.archive);
    scd_code code = SCD_OK;
    if (archive_read_open_filename(s.archive, path, BLOCK_BYTES) != ARCHIVE_OK) {
        code = archive_failed(&s, err);
        scd_fail_within(err, "%s", path);
    }
    if (!code)
        code = read_members(&s, mex, err);
    archive_read_free(s.archive);
    return code;
}

scd_code scd_mex_open(const char *path, bool is_folder, void **self, scd_error *err)
{
    scd_mex mex = {0};
    scd_code code = scd_text_cells_new(path, "10x mex", &mex.cells, err);
    if (!code)
        code = is_folder ? read_folder(&mex, path, err) : read_archive(&mex, path, err);
    if (!code)
        code = scd_mex_finish(&mex, err);
    scd_mex_release(&mex);
    if (code)
        scd_text_cells_free(mex.cells);
    else
        *self = mex.cells;
    return code;
}
