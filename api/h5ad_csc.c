/* h5ad_csc.c - a matrix stored by columns, read by rows: turned once, through api/bands.h.
 *
 * The entries of each row are counted in one pass, put into bands in a second one.
 *
 * Threads: as the file. Owns: the bands, until scd_bands_free. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

enum { WINDOW = 4096 };

static scd_code count_rows(const scd_h5ad *file, const scd_h5_matrix *m, uint64_t *row_start,
                           scd_error *err)
{
    scd_code code = SCD_OK;
    uint32_t *rows = scd_malloc(SCD_H5_BATCH, sizeof *rows);
    if (!rows)
        return scd_h5_no_memory(file, m->path, err);
    for (uint64_t at = 0; at < m->facts.n_stored && !code; at += SCD_H5_BATCH) {
        uint64_t left = m->facts.n_stored - at;
        size_t some = left < SCD_H5_BATCH ? (size_t)left : SCD_H5_BATCH;
        code = scd_h5_indices(file, m, at, some, m->facts.rows, rows, err);
        for (size_t i = 0; i < some && !code; i++)
            row_start[rows[i] + 1]++;
    }
    free(rows);
    return code;
}

/* Walks through the columns; `window` holds indptr of WINDOW of them. */
static scd_code scatter(const scd_h5ad *file, const scd_h5_matrix *m, scd_bands *bands,
                        scd_error *err)
{
    scd_code code = SCD_OK;
    uint32_t *rows = scd_malloc(SCD_H5_BATCH, sizeof *rows);
    double *values = scd_malloc(SCD_H5_BATCH, sizeof *values);
    uint64_t *window = scd_malloc(WINDOW + 1, sizeof *window);
    size_t col = 0, at_window = 0, n_window = 0;
    if (!rows || !values || !window) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    for (uint64_t at = 0; at < m->facts.n_stored; at += SCD_H5_BATCH) {
        uint64_t left = m->facts.n_stored - at;
        size_t some = left < SCD_H5_BATCH ? (size_t)left : SCD_H5_BATCH;
        if ((code = scd_h5_indices(file, m, at, some, m->facts.rows, rows, err)) ||
            (code = scd_h5_read(file, &m->data, SCD_H5_DOUBLE, at, some, values, err)))
            goto done;
        for (size_t i = 0; i < some; i++) {
            while (n_window == 0 || window[col - at_window + 1] <= at + i) {
                col += n_window != 0;
                if (n_window && col < at_window + n_window)
                    continue;
                at_window = col;
                n_window = m->facts.cols - col < WINDOW ? m->facts.cols - col : WINDOW;
                if ((code = scd_h5_indptr(file, m, at_window, n_window, window, err)))
                    goto done;
            }
            code = scd_bands_put(bands, (scd_entry){rows[i], (uint32_t)col, values[i]}, err);
            if (code)
                goto done;
        }
    }
    code = scd_bands_end(bands, err);

done:
    free(window);
    free(values);
    free(rows);
    return code;
}

static scd_code turn(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    char what[SCD_H5_PATH_BYTES];
    scd_bands *bands = NULL;
    uint64_t *row_start = scd_calloc(m->facts.rows + 1, sizeof *row_start);
    if (!row_start)
        return scd_h5_no_memory(file, m->path, err);
    snprintf(what, sizeof what, "%.700s: %.300s", file->path, m->path);
    scd_code code = count_rows(file, m, row_start, err);
    if (code)
        free(row_start);
    else
        code = scd_bands_new(row_start, m->facts.rows, what, &bands, err);
    if (!code)
        code = scatter(file, m, bands, err);
    if (code)
        scd_bands_free(bands);
    else
        m->bands = bands;
    return code;
}

scd_code scd_h5_csc_read(const scd_h5ad *file, scd_h5_matrix *m, size_t first, size_t n,
                         scd_arena *arena, scd_cells_rows *out, scd_error *err)
{
    scd_code code = m->bands ? SCD_OK : turn(file, m, err);
    return code ? code : scd_bands_read(m->bands, first, n, arena, out, err);
}
