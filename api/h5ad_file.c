/* h5ad_file.c - see h5ad.h: opening, what there is, closing. The rest is in other h5ad_*.c. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Files that people have and that look like ours, with the way from there to here. */
static scd_code say_what_it_is(const scd_h5ad *file, scd_error *err)
{
    static const struct {
        const char *has, *what;
    } known[] = {
        {"mod", "a MuData file (.h5mu): write its RNA alone, mdata[\"rna\"].write_h5ad(...)"},
        {"row_attrs", "a loom file: anndata.io.read_loom(...).write_h5ad(...) makes an .h5ad"},
        {"cell.names", "an h5Seurat file: anndataR's write_h5ad makes an .h5ad of it"},
        {"barcode_idx", "10x Genomics' molecule_info.h5: take filtered_feature_bc_matrix.h5"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (scd_h5_there(file, known[i].has))
            return scd_h5_fail(file, NULL, SCD_E_INVALID, err,
                               "HDF5 but neither an AnnData nor 10x Genomics' counts: %s",
                               known[i].what);
    return scd_h5_fail(file, NULL, SCD_E_INVALID, err,
                       "HDF5 but neither an AnnData (it has no obs or no var) nor 10x Genomics' "
                       "counts");
}

/* An AnnData: its frames, then its matrices. */
static scd_code open_anndata(scd_h5ad *file, scd_error *err)
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
        return say_what_it_is(file, err);
    file->format = "h5ad";
    return scd_h5_matrices_open(file, err);
}

static void close_cells(void *self)
{
    scd_h5ad *file = self;
    scd_h5_enter();
    scd_h5_matrices_close(file);
    for (size_t i = 0; i < SCD_H5_N_FRAMES; i++)
        scd_h5_frame_close(file->frames + i);
    scd_h5_file_close(file);
    scd_h5_leave();
    free(file->path);
    free(file);
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
    bool is_tenx = false;
    if (!code)
        code = scd_h5_tenx_open(file, &is_tenx, err);
    if (!code && !is_tenx)
        code = open_anndata(file, err);
    scd_h5_leave();
    if (code) {
        close_cells(file);
        return code;
    }
    *out = file;
    return SCD_OK;
}

scd_code scd_h5_cells_open(const char *path, const void *image, size_t n_bytes, void **self,
                           scd_error *err)
{
    scd_h5ad *file = NULL;
    scd_code code = open_any(path, image, n_bytes, &file, err);
    *self = file;
    return code;
}

static const char *path_of(const void *self)
{
    const scd_h5ad *file = self;
    return file->path;
}

static const char *format_of(const void *self)
{
    const scd_h5ad *file = self;
    return file->format;
}

static size_t n_obs_of(const void *self)
{
    const scd_h5ad *file = self;
    return file->frames[SCD_H5_OBS].rows;
}

/* ---- matrices ---- */

static size_t n_matrices_of(const void *self)
{
    const scd_h5ad *file = self;
    return file->n_matrices;
}

static const char *matrix_name_of(const void *self, size_t index)
{
    const scd_h5ad *file = self;
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

static scd_code matrix_of(const void *self, const char *name, scd_cells_matrix *out, scd_error *err)
{
    const scd_h5ad *file = self;
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

static size_t n_columns_of(const void *self, const char *frame)
{
    const scd_h5ad *file = self;
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f ? f->n_columns : 0;
}

static const char *column_name_of(const void *self, const char *frame, size_t index)
{
    const scd_h5ad *file = self;
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f && index < f->n_columns ? f->columns[index] : NULL;
}

static size_t frame_rows_of(const void *self, const char *frame)
{
    const scd_h5ad *file = self;
    const scd_h5_frame *f = scd_h5_frame_find(file, frame);
    return f ? f->rows : 0;
}

const scd_cells_format_ops scd_h5_cells_ops = {
    .close = close_cells,
    .path = path_of,
    .format = format_of,
    .n_obs = n_obs_of,
    .n_matrices = n_matrices_of,
    .matrix_name = matrix_name_of,
    .matrix_get = matrix_of,
    .rows_read = scd_h5_rows_read,
    .n_columns = n_columns_of,
    .column_name = column_name_of,
    .frame_rows = frame_rows_of,
    .column_text = scd_h5_column_text,
    .column_categories = scd_h5_column_categories,
};
