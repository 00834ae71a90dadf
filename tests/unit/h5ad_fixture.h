/* h5ad_fixture.h - the files that tests/unit/h5ad_files.py makes, in a folder of the test's own.
 *
 * Made once for each program, by the Python that has h5py; where there is none the tests skip. */
#ifndef SCD_TESTS_H5AD_FIXTURE_H
#define SCD_TESTS_H5AD_FIXTURE_H

#include "api/cells.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define H5AD_PYTHON "/usr/bin/python3"
#define H5AD_SCRIPT "tests/unit/h5ad_files.py"

static char h5ad_folder[64];
static bool h5ad_made;

static int h5ad_setup(void **state)
{
    char command[256];
    (void)state;
    strcpy(h5ad_folder, "/tmp/scdiva-h5ad-XXXXXX");
    if (!mkdtemp(h5ad_folder))
        return -1;
    h5ad_made = !system(H5AD_PYTHON " -c 'import h5py' 2>/dev/null");
    snprintf(command, sizeof command, H5AD_PYTHON " " H5AD_SCRIPT " make %s", h5ad_folder);
    return h5ad_made ? system(command) : 0;
}

static int h5ad_teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", h5ad_folder);
    return system(command);
}

static inline const char *h5ad_path(const char *name)
{
    static char path[512];
    if (!h5ad_made)
        skip();
    snprintf(path, sizeof path, "%s/%s", h5ad_folder, name);
    return path;
}

static inline scd_cells *h5ad_open(const char *path)
{
    scd_cells *file = NULL;
    scd_error err = {0};
    if (scd_cells_open(path, &file, &err))
        fail_msg("%s", err.message);
    return file;
}

/* Real files; a test of theirs skips where they are not. */
static inline const char *h5ad_data(const char *name)
{
    static char path[512];
    const char *folder = getenv("SCDIVA_DATA");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "../shared/data", name);
    if (access(path, R_OK))
        skip();
    return path;
}

#endif
