/* folder.c - see folder.h. */
#include "engine/train/folder.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>

enum { OPEN_FOLDERS = 16 };

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

scd_code scd_folder_remove(const char *path, scd_error *err)
{
    if (nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
        return scd_fail(err, SCD_E_IO, "%s: cannot remove: %s", path, strerror(errno));
    return SCD_OK;
}
