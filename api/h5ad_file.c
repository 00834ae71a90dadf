/* h5ad_file.c - see h5ad.h: opening, what there is, closing. The rest is in other h5ad_*.c. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

static scd_code open_frames(scd_h5ad *file, scd_error *err)
{
    /* Their paths today, and what they were before anndata 0.7. */
    bool old_raw = scd_h5_kind(file, "raw/var") == H5I_BADID;
    scd_code code = scd_h5_frame_open(file, "obs", "obs", file->frames + SCD_H5_OBS, err);
    if (!code)
        code = scd_h5_frame_open(file, "var", "var", file->frames + SCD_H5_VAR, err);
    if (!code)
        code = scd_h5_frame_open(file, "raw/var", old_raw ? "raw.var" : "raw/var",
                                 file->frames + SCD_H5_RAW_VAR, err);
    if (code)
        return code;
    if (!file->frames[SCD_H5_OBS].name || !file->frames[SCD_H5_VAR].name)
        return scd_h5_fail(file, NULL, SCD_E_INVALID, err,
                           "HDF5 but not an AnnData: it has no obs or no var");
    return SCD_OK;
}

static scd_code open_any(const char *path, const void *image, size_t n_bytes, scd_h5ad **out,
                         scd_error *err)
{
    scd_h5ad *file = scd_calloc(1, sizeof *file);
    if (!file || !(file->path = scd_strdup(path))) {
        free(file);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    }
    scd_h5_enter();
    scd_code code = scd_h5_file_open(file, image, n_bytes, err);
    if (!code)
        code = open_frames(file, err);
    if (!code)
        code = scd_h5_matrices_open(file, err);
    scd_h5_leave();
    if (code) {
        scd_h5ad_close(file);
        return code;
    }
    *out = file;
    return SCD_OK;
}

scd_code scd_h5ad_open(const char *path, scd_h5ad **out, scd_error *err)
{
    return open_any(path, NULL, 0, out, err);
}

scd_code scd_h5ad_open_image(const void *bytes, size_t n, const char *name, scd_h5ad **out,
                             scd_error *err)
{
    return open_any(name, bytes, n, out, err);
}

void scd_h5ad_close(scd_h5ad *file)
{
    if (!file)
        return;
    scd_h5_enter();
    scd_h5_matrices_close(file);
    for (size_t i = 0; i < SCD_H5_N_FRAMES; i++)
        scd_h5_frame_close(file->frames + i);
    scd_h5_file_close(file);
    scd_h5_leave();
    free(file->path);
    free(file);
}

const char *scd_h5ad_path(const scd_h5ad *file)
{
    return file->path;
}

size_t scd_h5ad_n_obs(const scd_h5ad *file)
{
    return file->frames[SCD_H5_OBS].rows;
}

/* ---- matrices ---- */

size_t scd_h5ad_n_matrices(const scd_h5ad *file)
{
    return file->n_matrices;
}

const char *scd_h5ad_matrix_name(const scd_h5ad *file, size_t index)
{
    return index < file->n_matrices ? file->matrices[index].name : NULL;
}

/* "X, raw/X, layers/counts" */
static void list_matrices(const scd_h5ad *file, char *out, size_t n_bytes)
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < file->n_matrices && at < n_bytes; i++) {
        int n = snprintf(out + at, n_bytes - at, "%s%s", i ? ", " : "", file->matrices[i].name);
        at += n < 0 ? 0 : (size_t)n;
    }
    if (file->n_matrices == 0)
        snprintf(out, n_bytes, "none");
}

scd_code scd_h5_matrix_find(const scd_h5ad *file, const char *name, scd_h5_matrix **out,
                            scd_error *err)
{
    for (size_t i = 0; i < file->n_matrices; i++) {
        scd_h5_matrix *m = file->matrices + i;
        if (strcmp(m->name, name) != 0)
            continue;
        if (m->fault.code) {
            if (err)
                *err = m->fault;
            return m->fault.code;
        }
        *out = m;
        return SCD_OK;
    }
    char list[300];
    list_matrices(file, list, sizeof list);
    return scd_h5_fail(file, NULL, SCD_E_NOT_FOUND, err, "no matrix \"%s\"; there are: %s", name,
                       list);
}

scd_code scd_h5ad_matrix_get(const scd_h5ad *file, const char *name, scd_h5ad_matrix *out,
                             scd_error *err)
{
    scd_h5_matrix *m;
    scd_code code = scd_h5_matrix_find(file, name, &m, err);
    if (!code)
        *out = m->facts;
    return code;
}

/* ---- frames ---- */

const scd_h5_frame *scd_h5_frame_find(const scd_h5ad *file, const char *name)
{
    for (size_t i = 0; i < SCD_H5_N_FRAMES; i++)
        if (file->frames[i].name && strcmp(file->frames[i].name, name) == 0)
            return file->frames + i;
    return NULL;
}

size_t scd_h5ad_n_columns(const scd_h5ad *file, const char *frame)
{
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f ? f->n_columns : 0;
}

const char *scd_h5ad_column_name(const scd_h5ad *file, const char *frame, size_t index)
{
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f && index < f->n_columns ? f->columns[index] : NULL;
}

size_t scd_h5ad_frame_rows(const scd_h5ad *file, const char *frame)
{
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f ? f->rows : 0;
}
