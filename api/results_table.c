/* results_table.c - a result that is a table, in each kind of file; see results.h. */
#include "api/results_impl.h"

#include "api/float_text.h"
#include "api/npy.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { FLUSH_BYTES = 1 << 20, INDEX_BYTES = 1 << 30 };

/* ---- lines ---- */

static void put_cell(scd_results *r, const scd_table_column *c, size_t row)
{
    char text[SCD_DOUBLE_TEXT_BYTES];
    if (c->texts)
        scd_results_put_field(r, c->texts[row]);
    else if (c->floats)
        scd_results_put_float(r, c->floats[row]);
    else if (c->doubles && isfinite(c->doubles[row]))
        scd_buf_append(&r->text, text, scd_double_text(c->doubles[row], text));
    else if (c->wholes)
        scd_buf_printf(&r->text, "%" PRIi64, c->wholes[row]);
    else if (c->bools)
        scd_buf_puts(&r->text, c->bools[row] ? "true" : "false");
}

scd_code scd_results_table_lines(scd_results *r, scd_error *err)
{
    const scd_table *t = r->spec.table;
    scd_code code = SCD_OK;
    for (size_t i = 0; i < t->n_columns; i++) {
        if (i)
            scd_results_put_separator(r);
        scd_results_put_field(r, t->columns[i].name);
    }
    scd_buf_putc(&r->text, '\n');
    for (size_t row = 0; row < t->n_rows && !code; row++) {
        for (size_t i = 0; i < t->n_columns; i++) {
            if (i)
                scd_results_put_separator(r);
            put_cell(r, &t->columns[i], row);
        }
        scd_buf_putc(&r->text, '\n');
        if (r->text.n_bytes > FLUSH_BYTES)
            code = scd_results_flush_text(r, err);
    }
    return code ? code : scd_results_flush_text(r, err);
}

scd_code scd_results_table_npy(scd_results *r, scd_error *err)
{
    const scd_table *t = r->spec.table;
    if (!t->matrix)
        return scd_fail(err, SCD_E_INVALID, "%s: this result is a table, and no matrix",
                        r->spec.path);
    scd_npy_header(&r->text, t->n_matrix_rows, t->n_matrix_columns);
    scd_code code = scd_results_flush_text(r, err);
    return code ? code
                : scd_file_writer_add(&r->writer, t->matrix,
                                      t->n_matrix_rows * t->n_matrix_columns * sizeof *t->matrix,
                                      err);
}

/* ---- a data frame ---- */

static scd_code put_column(scd_results *r, const char *frame, const scd_table_column *c, size_t n,
                           scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    if (!scd_h5_join(path, frame, c->name))
        return scd_h5_fail(&r->file, frame, SCD_E_INVALID, err, "a name is too long");
    if (c->texts)
        return scd_h5_put_texts(&r->file, path, c->texts, n, scd_h5_texts, err);
    if (c->floats)
        return scd_h5_put_floats(&r->file, path, c->floats, n, scd_h5_array, err);
    if (c->doubles)
        return scd_h5_put_doubles(&r->file, path, c->doubles, n, scd_h5_array, err);
    if (c->wholes)
        return scd_h5_put_ints(&r->file, path, c->wholes, n, scd_h5_array, err);
    return scd_h5_put_bools(&r->file, path, c->bools, n, scd_h5_array, err);
}

/* "0", "1", ...: a frame has names for its rows. */
static scd_code put_index(scd_results *r, const char *frame, size_t n, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES], text[24];
    scd_arena arena;
    scd_arena_init(&arena, INDEX_BYTES);
    const char **names = scd_arena_alloc(&arena, n + 1, sizeof *names);
    scd_code code = names && scd_h5_join(path, frame, "_index")
                        ? SCD_OK
                        : scd_h5_no_memory(&r->file, frame, err);
    for (size_t i = 0; i < n && !code; i++) {
        int length = snprintf(text, sizeof text, "%zu", i);
        names[i] = scd_arena_strndup(&arena, text, (size_t)length);
        if (!names[i])
            code = scd_h5_no_memory(&r->file, frame, err);
    }
    if (!code)
        code = scd_h5_put_texts(&r->file, path, names, n, scd_h5_texts, err);
    scd_arena_release(&arena);
    return code;
}

scd_code scd_results_table_frame(scd_results *r, const char *group, scd_error *err)
{
    const scd_table *t = r->spec.table;
    const char *names[SCD_TABLE_COLUMNS];
    char frame[SCD_H5_PATH_BYTES];
    if (!scd_h5_join(frame, group, "table"))
        return scd_h5_fail(&r->file, group, SCD_E_INVALID, err, "a name is too long");
    scd_code code = scd_h5_put_group(&r->file, frame, scd_h5_dataframe, err);
    if (!code)
        code = scd_h5_put_attr_text(&r->file, frame, "_index", "_index", err);
    if (!code)
        code = put_index(r, frame, t->n_rows, err);
    for (size_t i = 0; i < t->n_columns && !code; i++) {
        names[i] = t->columns[i].name;
        code = put_column(r, frame, &t->columns[i], t->n_rows, err);
    }
    return code ? code
                : scd_h5_put_attr_texts(&r->file, frame, "column-order", names, t->n_columns, err);
}
