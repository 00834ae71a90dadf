/* h5ad_matrix.c - which matrices a file has, and whether what they say of themselves adds up.
 *
 * A matrix that does not is kept with its fault: a broken layer is no reason to refuse a file whose
 * X is sound, and whoever asks for it is told.
 *
 *   sparse   a group of data, indices, indptr; attributes encoding-type (csr_matrix, csc_matrix)
 *            and shape, before 0.7 h5sparse_format (csr, csc) and h5sparse_shape
 *   dense    a data set (rows, cols); before 0.7 one of a single column may be one-dimensional */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static scd_code open_encoding(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    char *text = NULL;
    const char *path = m->path;
    scd_code code = scd_h5_attr_text(file, path, "encoding-type", &text, err);
    if (!code && !text)
        code = scd_h5_attr_text(file, path, "h5sparse_format", &text, err);
    if (code)
        return code;
    if (text && strncmp(text, "csr", 3) == 0)
        m->facts.encoding = SCD_CELLS_CSR;
    else if (text && strncmp(text, "csc", 3) == 0)
        m->facts.encoding = SCD_CELLS_CSC;
    else
        code = scd_h5_fail(file, path, SCD_E_INVALID, err,
                           "encoding \"%s\"; csr_matrix, csc_matrix or a dense array are read",
                           text ? text : "");
    free(text);
    return code;
}

/* indptr is read by windows later on, where every step is checked; here, its ends. */
static scd_code check_indptr(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    size_t n = m->facts.encoding == SCD_CELLS_CSR ? m->facts.rows : m->facts.cols;
    const scd_h5_data *data = &m->data, *indices = &m->indices, *indptr = &m->indptr;
    int64_t first = 0, last = 0;
    if (data->rank != 1 || indices->rank != 1 || indptr->rank != 1)
        return scd_h5_fail(file, m->path, SCD_E_CORRUPT, err, "its parts are not one-dimensional");
    if (indices->class != H5T_INTEGER || indptr->class != H5T_INTEGER)
        return scd_h5_fail(file, m->path, SCD_E_CORRUPT, err,
                           "indices and indptr must be whole numbers");
    if (indptr->dims[0] != n + 1)
        return scd_h5_fail(file, indptr->path, SCD_E_CORRUPT, err, "%llu entries, %zu are needed",
                           (unsigned long long)indptr->dims[0], n + 1);
    if (data->dims[0] != indices->dims[0])
        return scd_h5_fail(file, m->path, SCD_E_CORRUPT, err, "%llu values and %llu indices",
                           (unsigned long long)data->dims[0], (unsigned long long)indices->dims[0]);
    scd_code code = scd_h5_read(file, indptr, SCD_H5_INT64, 0, 1, &first, err);
    if (!code)
        code = scd_h5_read(file, indptr, SCD_H5_INT64, n, 1, &last, err);
    if (code)
        return code;
    if (first != 0 || last < 0 || (uint64_t)last > data->dims[0])
        return scd_h5_fail(file, indptr->path, SCD_E_CORRUPT, err,
                           "runs from %" PRId64 " to %" PRId64 ", there are %llu entries", first,
                           last, (unsigned long long)data->dims[0]);
    m->facts.n_stored = (uint64_t)last;
    return SCD_OK;
}

static scd_code open_parts(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    static const char *const names[] = {"data", "indices", "indptr"};
    scd_h5_data *const parts[] = {&m->data, &m->indices, &m->indptr};
    char path[SCD_H5_PATH_BYTES];
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++) {
        if (!scd_h5_join(path, m->path, names[i]))
            return scd_h5_fail(file, m->path, SCD_E_INVALID, err, "a name is too long");
        code = scd_h5_data_open(file, path, NULL, parts[i], err);
        if (!code)
            code = scd_h5_data_bounded(file, parts[i], err);
    }
    return code;
}

static scd_code open_sparse(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    hsize_t shape[2];
    bool found = false;
    scd_code code = open_encoding(file, m, err);
    if (!code)
        code = scd_h5_attr_sizes(file, m->path, "shape", shape, 2, &found, err);
    if (!code && !found)
        code = scd_h5_attr_sizes(file, m->path, "h5sparse_shape", shape, 2, &found, err);
    if (!code && !found)
        code = scd_h5_fail(file, m->path, SCD_E_CORRUPT, err, "no shape");
    if (!code)
        code = open_parts(file, m, err);
    if (code)
        return code;
    m->facts.rows = shape[0];
    m->facts.cols = shape[1];
    return SCD_OK;
}

static scd_code open_dense(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    scd_code code = scd_h5_data_open(file, m->path, NULL, &m->data, err);
    if (code)
        return code;
    m->facts.encoding = SCD_CELLS_DENSE;
    m->facts.rows = m->data.dims[0];
    m->facts.cols = m->data.dims[1];
    m->facts.n_stored = m->facts.rows * m->facts.cols; /* data_facts bounds both */
    return SCD_OK;
}

static scd_code check_values(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    if (!scd_h5_is_number(&m->data))
        return scd_h5_fail(file, m->path, SCD_E_INVALID, err, "does not hold numbers");
    return m->facts.encoding == SCD_CELLS_DENSE ? SCD_OK : check_indptr(file, m, err);
}

static scd_code open_matrix(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    const scd_h5_frame *obs = file->frames + m->obs, *var = file->frames + m->var;
    H5I_type_t kind = scd_h5_kind(file, m->path);
    scd_code code = kind == H5I_GROUP ? open_sparse(file, m, err) : open_dense(file, m, err);
    if (code)
        return code;
    if (!var->name)
        return scd_h5_fail(file, m->path, SCD_E_INVALID, err, "its columns have no names: no %s",
                           m->facts.is_raw ? "raw/var" : "var");
    if (m->facts.rows != obs->rows || m->facts.cols != var->rows)
        return scd_h5_fail(file, m->path, SCD_E_CORRUPT, err,
                           "%zu x %zu, but %s has %zu rows and "
                           "%s %zu",
                           m->facts.rows, m->facts.cols, obs->path, obs->rows, var->path,
                           var->rows);
    return check_values(file, m, err);
}

/* Room for one more matrix, its names noted; NULL: no memory. */
static scd_h5_matrix *new_matrix(scd_h5ad *file, const char *name, const char *path, size_t obs,
                                 size_t var)
{
    size_t n = file->n_matrices;
    if ((n & (n - 1)) == 0) {
        scd_h5_matrix *grown = scd_realloc(file->matrices, n ? n * 2 : 1, sizeof *grown);
        if (!grown)
            return NULL;
        file->matrices = grown;
    }
    scd_h5_matrix *m = file->matrices + n;
    *m = (scd_h5_matrix){.obs = obs, .var = var, .facts.is_raw = var == SCD_H5_RAW_VAR};
    m->name = scd_strdup(name);
    m->path = scd_strdup(path);
    file->n_matrices++;
    if (!m->name || !m->path)
        return NULL;
    m->facts.name = m->name;
    m->facts.obs_frame = file->frames[obs].name;
    m->facts.var_frame = file->frames[var].name;
    return m;
}

/* A matrix that cannot be read keeps its fault; SCD_E_NOMEM alone is an error. */
static scd_code keep_fault(const scd_h5_matrix *m, scd_code code, scd_error *err)
{
    if (code != SCD_E_NOMEM)
        return SCD_OK;
    if (err)
        *err = m->fault;
    return code;
}

/* Adds the matrix `name` that is stored at `path`. */
static scd_code add_matrix(scd_h5ad *file, const char *name, const char *path, bool is_raw,
                           scd_error *err)
{
    scd_h5_matrix *m =
        new_matrix(file, name, path, SCD_H5_OBS, is_raw ? SCD_H5_RAW_VAR : SCD_H5_VAR);
    if (!m)
        return scd_h5_no_memory(file, path, err);
    return keep_fault(m, open_matrix(file, m, &m->fault), err);
}

scd_code scd_h5_matrix_add_tenx(scd_h5ad *file, const char *name, const char *path, size_t obs,
                                size_t var, scd_error *err)
{
    scd_h5_matrix *m = new_matrix(file, name, path, obs, var);
    if (!m)
        return scd_h5_no_memory(file, path, err);
    m->facts.is_raw = false;
    m->facts.encoding = SCD_CELLS_CSR;
    m->facts.rows = file->frames[obs].rows;
    m->facts.cols = file->frames[var].rows;
    scd_code code = open_parts(file, m, &m->fault);
    if (!code)
        code = check_values(file, m, &m->fault);
    return keep_fault(m, code, err);
}

scd_code scd_h5_matrices_open(scd_h5ad *file, scd_error *err)
{
    char **names = NULL, path[SCD_H5_PATH_BYTES];
    size_t n = 0;
    scd_code code = SCD_OK;
    if (scd_h5_there(file, "X"))
        code = add_matrix(file, "X", "X", false, err);
    if (!code && scd_h5_there(file, "raw/X"))
        code = add_matrix(file, "raw/X", "raw/X", true, err);
    else if (!code && scd_h5_there(file, "raw.X"))
        code = add_matrix(file, "raw/X", "raw.X", true, err);
    if (!code && scd_h5_kind(file, "layers") == H5I_GROUP)
        code = scd_h5_names(file, "layers", SCD_H5_MAX_MATRICES, &names, &n, err);
    for (size_t i = 0; i < n && !code; i++)
        code = scd_h5_join(path, "layers", names[i])
                   ? add_matrix(file, path, path, false, err)
                   : scd_h5_fail(file, "layers", SCD_E_INVALID, err, "a name is too long");
    scd_h5_names_free(names, n);
    return code;
}

void scd_h5_matrices_close(scd_h5ad *file)
{
    for (size_t i = 0; i < file->n_matrices; i++) {
        scd_h5_matrix *m = file->matrices + i;
        scd_bands_free(m->bands);
        scd_h5_data_close(&m->indptr);
        scd_h5_data_close(&m->indices);
        scd_h5_data_close(&m->data);
        free(m->path);
        free(m->name);
    }
    free(file->matrices);
}
