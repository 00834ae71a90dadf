/* h5ad_rows.c - row blocks of a matrix, whatever its encoding, as tidy CSR in the caller's arena.
 *
 * Memory besides the result is a staging buffer of a few megabytes. Rows whose columns already
 * ascend (nearly all files) are only looked at; others are sorted, and repeated entries summed in
 * the order of the file. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { STAGING_BYTES = 4 << 20 };

/* ---- CSR ---- */

scd_code scd_h5_indptr(const scd_h5ad *file, const scd_h5_matrix *m, size_t first, size_t n,
                       uint64_t *out, scd_error *err)
{
    scd_code code = scd_h5_read(file, &m->indptr, SCD_H5_INT64, first, n + 1, out, err);
    for (size_t i = 0; i <= n && !code; i++)
        if (out[i] > m->facts.n_stored || (i && out[i] < out[i - 1]))
            code = scd_h5_fail(file, m->indptr.path, SCD_E_CORRUPT, err,
                               "does not ascend at %zu, or goes past the %" PRIu64 " entries",
                               first + i, m->facts.n_stored);
    return code;
}

scd_code scd_h5_indices(const scd_h5ad *file, const scd_h5_matrix *m, uint64_t first, uint64_t n,
                        size_t bound, uint32_t *out, scd_error *err)
{
    scd_code code = SCD_OK;
    int64_t *batch = scd_malloc(SCD_H5_BATCH, sizeof *batch);
    if (!batch)
        return scd_h5_no_memory(file, m->path, err);
    for (uint64_t at = 0; at < n && !code; at += SCD_H5_BATCH) {
        size_t some = n - at < SCD_H5_BATCH ? (size_t)(n - at) : SCD_H5_BATCH;
        code = scd_h5_read(file, &m->indices, SCD_H5_INT64, first + at, some, batch, err);
        for (size_t i = 0; i < some && !code; i++) {
            if (batch[i] < 0 || (uint64_t)batch[i] >= bound)
                code = scd_h5_fail(file, m->indices.path, SCD_E_CORRUPT, err,
                                   "entry %" PRIu64 " is %" PRId64 ", it must be below %zu",
                                   first + at + i, batch[i], bound);
            out[at + i] = (uint32_t)batch[i];
        }
    }
    free(batch);
    return code;
}

static scd_code read_csr(const scd_h5ad *file, const scd_h5_matrix *m, size_t first, size_t n,
                         scd_arena *arena, scd_cells_rows *out, scd_error *err)
{
    uint64_t *indptr = scd_arena_alloc(arena, n + 1, sizeof *indptr);
    if (!indptr)
        return scd_h5_no_memory(file, m->path, err);
    scd_code code = scd_h5_indptr(file, m, first, n, indptr, err);
    if (code)
        return code;
    uint64_t start = indptr[0], n_entries = indptr[n] - start, to = 0;
    uint32_t *cols = scd_arena_alloc(arena, n_entries, sizeof *cols);
    double *values = scd_arena_alloc(arena, n_entries, sizeof *values);
    if (!cols || !values)
        return scd_h5_no_memory(file, m->path, err);
    code = scd_h5_indices(file, m, start, n_entries, m->facts.cols, cols, err);
    if (!code)
        code = scd_h5_read(file, &m->data, SCD_H5_DOUBLE, start, n_entries, values, err);
    for (size_t row = 0; row < n && !code; row++) {
        uint64_t from = indptr[row] - start;
        size_t n_row =
            scd_cells_row_tidy(cols + from, values + from, indptr[row + 1] - indptr[row]);
        if (n_row == SIZE_MAX) {
            code = scd_h5_no_memory(file, m->path, err);
            break;
        }
        if (from != to) {
            memmove(cols + to, cols + from, n_row * sizeof *cols);
            memmove(values + to, values + from, n_row * sizeof *values);
        }
        indptr[row] = to;
        to += n_row;
    }
    indptr[n] = to;
    *out = (scd_cells_rows){n, indptr, cols, values};
    return code;
}

/* ---- dense ---- */

struct grown {
    uint32_t *cols;
    double *values;
    uint64_t n, cap;
};

static bool grow(struct grown *g, uint64_t more)
{
    if (g->cap - g->n >= more)
        return true;
    uint64_t cap = g->cap * 2 > g->n + more ? g->cap * 2 : g->n + more;
    uint32_t *cols = scd_realloc(g->cols, cap, sizeof *cols);
    if (cols)
        g->cols = cols;
    double *values = cols ? scd_realloc(g->values, cap, sizeof *values) : NULL;
    if (!values)
        return false;
    g->values = values;
    g->cap = cap;
    return true;
}

static scd_code read_dense(const scd_h5ad *file, const scd_h5_matrix *m, size_t first, size_t n,
                           scd_arena *arena, scd_cells_rows *out, scd_error *err)
{
    scd_code code = SCD_OK;
    struct grown grown = {0};
    size_t n_cols = m->facts.cols;
    size_t batch = STAGING_BYTES / (n_cols ? n_cols : 1) / sizeof(double);
    batch = batch == 0 ? 1 : batch > n && n ? n : batch;
    double *staging = scd_malloc(batch, n_cols * sizeof *staging + 1);
    uint64_t *indptr = scd_arena_alloc(arena, n + 1, sizeof *indptr);
    if (!staging || !indptr) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    indptr[0] = 0;
    for (size_t at = 0; at < n; at += batch) {
        size_t some = n - at < batch ? n - at : batch;
        if ((code = scd_h5_read(file, &m->data, SCD_H5_DOUBLE, first + at, some, staging, err)))
            goto done;
        for (size_t row = 0; row < some; row++) {
            const double *values = staging + row * n_cols;
            if (!grow(&grown, n_cols)) {
                code = scd_h5_no_memory(file, m->path, err);
                goto done;
            }
            for (size_t col = 0; col < n_cols; col++) {
                grown.cols[grown.n] = (uint32_t)col;
                grown.values[grown.n] = values[col];
                grown.n += values[col] != 0;
            }
            indptr[at + row + 1] = grown.n;
        }
    }
    uint32_t *cols = scd_arena_alloc(arena, grown.n, sizeof *cols);
    double *kept = scd_arena_alloc(arena, grown.n, sizeof *kept);
    if (!cols || !kept) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    if (grown.n) {
        memcpy(cols, grown.cols, grown.n * sizeof *cols);
        memcpy(kept, grown.values, grown.n * sizeof *kept);
    }
    *out = (scd_cells_rows){n, indptr, cols, kept};

done:
    free(grown.values);
    free(grown.cols);
    free(staging);
    return code;
}

scd_code scd_h5_rows_read(void *self, const char *matrix, size_t first, size_t n, scd_arena *arena,
                          scd_cells_rows *out, scd_error *err)
{
    scd_h5ad *file = self;
    scd_h5_matrix *m;
    scd_code code = scd_h5_matrix_find(file, matrix, &m, err);
    if (code)
        return code;
    if (first > m->facts.rows || n > m->facts.rows - first)
        return scd_h5_fail(file, m->path, SCD_E_INVALID, err, "rows %zu to %zu, there are %zu",
                           first, first + n, m->facts.rows);
    switch (m->facts.encoding) {
    case SCD_CELLS_CSR:
        return read_csr(file, m, first, n, arena, out, err);
    case SCD_CELLS_CSC:
        return scd_h5_csc_read(file, m, first, n, arena, out, err);
    default:
        return read_dense(file, m, first, n, arena, out, err);
    }
}
