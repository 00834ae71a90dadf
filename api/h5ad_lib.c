/* h5ad_lib.c - the lock, errors, the file, links and attributes; see h5ad_impl.h.
 *
 * HDF5 serialises its calls inside where it was built to be thread-safe (Debian's is) and not at
 * all elsewhere: one lock of ours makes it one behaviour. Its habit of printing errors is per
 * thread, so it is switched off at every entry. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ATTR_BYTES = 1 << 20 };

static pthread_mutex_t library = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void scd_h5_enter(void)
{
    static bool ready;
    pthread_mutex_lock(&library);
    if (!ready)
        H5dont_atexit(); /* it crashes at exit where a file could not be closed (a full disk) */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (!ready)
        scd_h5_lzf_register();
    ready = true;
}

void scd_h5_leave(void)
{
    pthread_mutex_unlock(&library);
}

/* ---- errors ---- */

scd_code scd_h5_fail(const scd_h5ad *file, const char *object, scd_code code, scd_error *err,
                     const char *fmt, ...)
{
    char what[480];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (!object)
        return scd_fail(err, code, "%s: %s", file->path, what);
    return scd_fail(err, code, "%s: %s: %s", file->path, object, what);
}

/* The innermost text says what happened, the outer ones only who asked for it. */
static herr_t innermost(unsigned n, const H5E_error2_t *error, void *out)
{
    char *text = out;
    if (n == 0 && error->desc)
        snprintf(text, 200, "%s", error->desc);
    return 0;
}

/* Inside the lock. */
static char noted[200];
static bool met_external; /* the object that was asked for last lies in another file */

void scd_h5_note(void)
{
    met_external = false;
    noted[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, noted);
}

scd_code scd_h5_fail_library(const scd_h5ad *file, const char *object, const char *what,
                             scd_error *err)
{
    char text[sizeof noted] = "";
    scd_h5_enter();
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, text);
    if (!text[0])
        memcpy(text, noted, sizeof text);
    bool external = met_external;
    met_external = false;
    noted[0] = '\0';
    scd_h5_leave();
    if (external)
        return scd_h5_fail(file, object, SCD_E_INVALID, err,
                           "a link to another file, which is not followed");
    return scd_h5_fail(file, object, SCD_E_CORRUPT, err, "%s (HDF5: %s)", what,
                       text[0] ? text : "no reason given");
}

scd_code scd_h5_no_memory(const scd_h5ad *file, const char *object, scd_error *err)
{
    return scd_h5_fail(file, object, SCD_E_NOMEM, err,
                       "out of memory, or more than the caller allows for it");
}

/* ---- the file ---- */

static herr_t refuse_external(const char *parent, const char *group, const char *target,
                              const char *object, unsigned *flags, hid_t access, void *data)
{
    (void)parent, (void)group, (void)target, (void)object, (void)flags, (void)access, (void)data;
    met_external = true;
    return -1;
}

hid_t scd_h5_links(void)
{
    hid_t links = H5Pcreate(H5P_LINK_ACCESS);
    if (links >= 0 && H5Pset_elink_cb(links, refuse_external, NULL) < 0) {
        H5Pclose(links);
        links = H5I_INVALID_HID;
    }
    return links;
}

static scd_code open_checked(scd_h5ad *file, int *fd, scd_error *err)
{
    struct stat facts;
    *fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 || fstat(*fd, &facts))
        return scd_h5_fail(file, NULL, SCD_E_IO, err, "cannot be opened: %s", strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return scd_h5_fail(file, NULL, SCD_E_IO, err, "not a file%s",
                           S_ISDIR(facts.st_mode) ? " but a folder" : "");
    file->file_bytes = (hsize_t)facts.st_size;
    if (facts.st_size == 0)
        return scd_h5_fail(file, NULL, SCD_E_CORRUPT, err, "empty");
    return SCD_OK;
}

scd_code scd_h5_file_open(scd_h5ad *file, const void *image, size_t n_bytes, scd_error *err)
{
    scd_code code = SCD_OK;
    hid_t access = H5I_INVALID_HID;
    int fd = -1;

    scd_h5_enter();
    if (!image && (code = open_checked(file, &fd, err)))
        goto done;
    if (image)
        file->file_bytes = n_bytes;
    access = H5Pcreate(H5P_FILE_ACCESS);
    file->links = scd_h5_links();
    if (access < 0 || file->links < 0 ||
        /* a file system without locks is no reason not to read */
        H5Pset_file_locking(access, true, true) < 0) {
        code = scd_h5_no_memory(file, NULL, err);
        goto done;
    }
    if (image && (H5Pset_fapl_core(access, 1 << 16, false) < 0 ||
                  H5Pset_file_image(access, (void *)(uintptr_t)image, n_bytes) < 0)) {
        code = scd_h5_no_memory(file, NULL, err);
        goto done;
    }
    file->id = H5Fopen(file->path, H5F_ACC_RDONLY, access);
    scd_h5_note();
    if (file->id < 0 && H5Fis_hdf5(file->path) == 0 && !image)
        code = scd_h5_fail(file, NULL, SCD_E_CORRUPT, err, "not an HDF5 file");
    else if (file->id < 0)
        code = scd_h5_fail_library(file, NULL, "damaged, cut off, or still being written", err);

done:
    if (access >= 0)
        H5Pclose(access);
    scd_h5_leave();
    if (fd >= 0)
        close(fd);
    return code;
}

void scd_h5_file_close(scd_h5ad *file)
{
    scd_h5_enter();
    if (file->links > 0)
        H5Pclose(file->links);
    if (file->id > 0)
        H5Fclose(file->id);
    scd_h5_leave();
}

/* ---- objects ---- */

bool scd_h5_join(char out[SCD_H5_PATH_BYTES], const char *a, const char *b)
{
    int n = snprintf(out, SCD_H5_PATH_BYTES, "%s/%s", a, b);
    return n > 0 && n < SCD_H5_PATH_BYTES;
}

/* Every link on the way has to be there before the library is asked for the last one. */
static bool links_there(const scd_h5ad *file, const char *path)
{
    char prefix[SCD_H5_PATH_BYTES];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof prefix)
        return false;
    for (size_t i = 1; i <= n; i++) {
        if (i < n && path[i] != '/')
            continue;
        memcpy(prefix, path, i);
        prefix[i] = '\0';
        if (H5Lexists(file->id, prefix, file->links) <= 0)
            return false;
    }
    return true;
}

H5I_type_t scd_h5_kind(const scd_h5ad *file, const char *path)
{
    H5I_type_t kind = H5I_BADID;
    scd_h5_enter();
    met_external = false;
    hid_t object = links_there(file, path) ? H5Oopen(file->id, path, file->links) : -1;
    if (object >= 0) {
        kind = H5Iget_type(object);
        H5Oclose(object);
    }
    scd_h5_leave();
    return kind;
}

bool scd_h5_there(const scd_h5ad *file, const char *path)
{
    scd_h5_enter();
    bool there = links_there(file, path);
    scd_h5_leave();
    return there;
}

bool scd_h5_has(const scd_h5ad *file, const char *group, const char *name)
{
    char path[SCD_H5_PATH_BYTES];
    return scd_h5_join(path, group, name) && scd_h5_there(file, path);
}

/* ---- attributes ---- */

static hid_t attr_open(const scd_h5ad *file, const char *path, const char *name)
{
    if (H5Aexists_by_name(file->id, path, name, file->links) <= 0)
        return -1;
    return H5Aopen_by_name(file->id, path, name, H5P_DEFAULT, file->links);
}

bool scd_h5_has_attr(const scd_h5ad *file, const char *path, const char *name)
{
    scd_h5_enter();
    bool there = H5Aexists_by_name(file->id, path, name, file->links) > 0;
    scd_h5_leave();
    return there;
}

static hssize_t attr_points(hid_t attr)
{
    hid_t space = H5Aget_space(attr);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0)
        H5Sclose(space);
    return n;
}

/* One string, of either kind, out of the attribute; NULL: none, or no memory of ours. */
static char *attr_string(hid_t attr, hid_t type, bool *no_memory)
{
    char *out = NULL;
    if (H5Tis_variable_str(type) > 0) {
        char *text = NULL;
        hid_t memory = H5Tcopy(H5T_C_S1);
        if (memory >= 0 && H5Tset_size(memory, H5T_VARIABLE) >= 0 &&
            H5Tset_cset(memory, H5Tget_cset(type)) >= 0 && H5Aread(attr, memory, &text) >= 0)
            *no_memory = !(out = scd_strdup(text ? text : ""));
        scd_h5_note();
        H5free_memory(text);
        if (memory >= 0)
            H5Tclose(memory);
        return out;
    }
    size_t size = H5Tget_size(type);
    out = size && size < MAX_ATTR_BYTES ? scd_calloc(size + 1, 1) : NULL;
    *no_memory = !out && size && size < MAX_ATTR_BYTES;
    if (out && H5Aread(attr, type, out) < 0) {
        free(out);
        out = NULL;
    }
    return out;
}

scd_code scd_h5_attr_text(const scd_h5ad *file, const char *path, const char *name, char **out,
                          scd_error *err)
{
    scd_code code = SCD_OK;
    hid_t type = -1;
    bool no_memory = false;
    *out = NULL;

    scd_h5_enter();
    hid_t attr = attr_open(file, path, name);
    if (attr < 0)
        goto done;
    type = H5Aget_type(attr);
    if (type < 0 || H5Tget_class(type) != H5T_STRING || attr_points(attr) != 1)
        goto done;
    *out = attr_string(attr, type, &no_memory);
    if (no_memory)
        code = scd_h5_no_memory(file, path, err);
    else if (!*out)
        code = scd_h5_fail_library(file, path, "an attribute cannot be read", err);

done:
    if (type >= 0)
        H5Tclose(type);
    if (attr >= 0)
        H5Aclose(attr);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_attr_sizes(const scd_h5ad *file, const char *path, const char *name, hsize_t *out,
                           size_t n, bool *found, scd_error *err)
{
    scd_code code = SCD_OK;
    hid_t type = -1;
    int64_t values[8] = {0};
    *found = false;

    scd_h5_enter();
    hid_t attr = attr_open(file, path, name);
    if (attr < 0 || n > sizeof values / sizeof values[0])
        goto done;
    type = H5Aget_type(attr);
    if (type < 0 || H5Tget_class(type) != H5T_INTEGER || attr_points(attr) != (hssize_t)n)
        goto done;
    if (H5Aread(attr, H5T_NATIVE_INT64, values) < 0) {
        code = scd_h5_fail_library(file, path, "an attribute cannot be read", err);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        if (values[i] < 0) {
            code = scd_h5_fail(file, path, SCD_E_CORRUPT, err, "attribute %s is negative", name);
            goto done;
        }
        out[i] = (hsize_t)values[i];
    }
    *found = true;

done:
    if (type >= 0)
        H5Tclose(type);
    if (attr >= 0)
        H5Aclose(attr);
    scd_h5_leave();
    return code;
}

/* ---- names ---- */

struct names {
    char **at;
    size_t n, cap, max;
    bool no_memory;
};

static herr_t add_name(hid_t group, const char *name, const H5L_info_t *info, void *data)
{
    struct names *names = data;
    (void)group, (void)info;
    if (names->n == names->max)
        return 1;
    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 16;
        char **at = scd_realloc(names->at, cap, sizeof *at);
        if (!at)
            goto no_memory;
        names->at = at;
        names->cap = cap;
    }
    names->at[names->n] = scd_strdup(name);
    if (!names->at[names->n])
        goto no_memory;
    names->n++;
    return 0;

no_memory:
    names->no_memory = true;
    return 1;
}

scd_code scd_h5_names(const scd_h5ad *file, const char *group, size_t max, char ***out, size_t *n,
                      scd_error *err)
{
    struct names names = {.max = max};
    scd_h5_enter();
    herr_t walked = H5Literate_by_name(file->id, group, H5_INDEX_NAME, H5_ITER_INC, NULL, add_name,
                                       &names, file->links);
    scd_code code = SCD_OK;
    if (names.no_memory)
        code = scd_h5_no_memory(file, group, err);
    else if (walked < 0)
        code = scd_h5_fail_library(file, group, "cannot be listed", err);
    else if (walked > 0)
        code = scd_h5_fail(file, group, SCD_E_INVALID, err, "more than %zu entries", max);
    scd_h5_leave();
    if (code) {
        scd_h5_names_free(names.at, names.n);
        return code;
    }
    *out = names.at;
    *n = names.n;
    return SCD_OK;
}

void scd_h5_names_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}
