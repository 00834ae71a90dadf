/* entries.c - see entries.h. */
#include "api/entries.h"

#include "api/cells_impl.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELD = 2 << 20, COPY = 1 << 16 };

struct scd_entries {
    char *what;
    scd_entry *held; /* those that are not in the file; a buffer later on */
    size_t n_held, cap_held;
    uint64_t n, n_filed;
    int fd; /* -1: all are held */
    uint32_t last_row;
    bool in_order; /* of rows */
    size_t n_rows, n_cols;
    uint64_t *row_start; /* (n_rows + 1) in order: entries before each row */
    scd_bands *bands[2]; /* by rows, by columns; once needed */
};

static scd_code no_memory(const scd_entries *e, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory, or more than the caller allows for it",
                    e->what);
}

static scd_code io_failed(const scd_entries *e, scd_error *err)
{
    const char *folder = getenv("TMPDIR");
    return scd_fail(err, SCD_E_IO, "%s: %" PRIu64 " MB in a temporary file in %s ($TMPDIR): %s",
                    e->what, e->n * sizeof(scd_entry) >> 20, folder && folder[0] ? folder : "/tmp",
                    strerror(errno));
}

scd_code scd_entries_new(const char *what, scd_entries **out, scd_error *err)
{
    scd_entries *e = scd_calloc(1, sizeof *e);
    if (e) {
        e->fd = -1;
        e->in_order = true;
        e->what = scd_strdup(what);
    }
    if (!e || !e->what) {
        scd_entries_free(e);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", what);
    }
    *out = e;
    return SCD_OK;
}

void scd_entries_free(scd_entries *e)
{
    if (!e)
        return;
    scd_bands_free(e->bands[1]);
    scd_bands_free(e->bands[0]);
    if (e->fd >= 0)
        close(e->fd);
    free(e->row_start);
    free(e->held);
    free(e->what);
    free(e);
}

uint64_t scd_entries_n(const scd_entries *e)
{
    return e->n;
}

/* ---- taking ---- */

static scd_code to_file(scd_entries *e, scd_error *err)
{
    const char *folder;
    if (e->fd < 0)
        e->fd = scd_temporary_open(&folder);
    if (e->fd < 0 ||
        !scd_pwrite_all(e->fd, e->held, e->n_held * sizeof *e->held, e->n_filed * sizeof *e->held))
        return io_failed(e, err);
    e->n_filed += e->n_held;
    e->n_held = 0;
    return SCD_OK;
}

scd_code scd_entries_add(scd_entries *e, scd_entry entry, scd_error *err)
{
    if (e->n_held == e->cap_held && e->cap_held < HELD) {
        size_t cap = e->cap_held ? e->cap_held * 2 : COPY;
        scd_entry *held = scd_realloc(e->held, cap, sizeof *held);
        if (!held)
            return no_memory(e, err);
        e->held = held;
        e->cap_held = cap;
    }
    if (e->n_held == e->cap_held) {
        scd_code code = to_file(e, err);
        if (code)
            return code;
    }
    e->in_order = e->in_order && entry.row >= e->last_row;
    e->last_row = entry.row;
    e->held[e->n_held++] = entry;
    e->n++;
    return SCD_OK;
}

/* ---- all of them again ---- */

typedef scd_code each_entry(scd_entries *e, scd_entry entry, void *arg, scd_error *err);

static scd_code for_each(scd_entries *e, each_entry *each, void *arg, scd_error *err)
{
    scd_code code = SCD_OK;
    if (e->fd < 0) {
        for (size_t i = 0; i < e->n_held && !code; i++)
            code = each(e, e->held[i], arg, err);
        return code;
    }
    for (uint64_t at = 0; at < e->n_filed && !code; at += COPY) {
        size_t some = e->n_filed - at < COPY ? (size_t)(e->n_filed - at) : COPY;
        if (!scd_pread_all(e->fd, e->held, some * sizeof *e->held, at * sizeof *e->held))
            return io_failed(e, err);
        for (size_t i = 0; i < some && !code; i++)
            code = each(e, e->held[i], arg, err);
    }
    return code;
}

static scd_code count_row(scd_entries *e, scd_entry entry, void *arg, scd_error *err)
{
    uint64_t *start = arg;
    if (entry.row >= e->n_rows || entry.col >= e->n_cols)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: an entry at row %" PRIu32 ", column %" PRIu32 "; there are %zu x %zu",
                        e->what, entry.row, entry.col, e->n_rows, e->n_cols);
    start[(size_t)entry.row + 1]++;
    return SCD_OK;
}

static scd_code count_column(scd_entries *e, scd_entry entry, void *arg, scd_error *err)
{
    uint64_t *start = arg;
    (void)e, (void)err;
    start[(size_t)entry.col + 1]++;
    return SCD_OK;
}

scd_code scd_entries_end(scd_entries *e, size_t n_rows, size_t n_cols, scd_error *err)
{
    scd_code code = e->fd >= 0 ? to_file(e, err) : SCD_OK;
    e->n_rows = n_rows;
    e->n_cols = n_cols;
    if (code)
        return code;
    if (!(e->row_start = scd_calloc(n_rows + 1, sizeof *e->row_start)))
        return no_memory(e, err);
    code = for_each(e, count_row, e->row_start, err);
    for (size_t row = 0; row < n_rows && e->in_order; row++)
        e->row_start[row + 1] += e->row_start[row];
    return code;
}

/* ---- by rows, by columns ---- */

static scd_code put_row(scd_entries *e, scd_entry entry, void *arg, scd_error *err)
{
    (void)e;
    return scd_bands_put(arg, entry, err);
}

static scd_code put_column(scd_entries *e, scd_entry entry, void *arg, scd_error *err)
{
    (void)e;
    return scd_bands_put(arg, (scd_entry){entry.col, entry.row, entry.value}, err);
}

static scd_code turn(scd_entries *e, bool by_columns, scd_error *err)
{
    scd_bands *bands = NULL;
    size_t n = by_columns ? e->n_cols : e->n_rows;
    uint64_t *start = by_columns ? scd_calloc(n + 1, sizeof *start) : e->row_start;
    scd_code code = start ? SCD_OK : no_memory(e, err);
    if (!code && by_columns)
        code = for_each(e, count_column, start, err);
    if (!by_columns)
        e->row_start = NULL; /* the bands' now */
    if (code)
        free(start);
    else
        code = scd_bands_new(start, n, e->what, &bands, err);
    if (!code)
        code = for_each(e, by_columns ? put_column : put_row, bands, err);
    if (!code)
        code = scd_bands_end(bands, err);
    if (code)
        scd_bands_free(bands);
    else
        e->bands[by_columns] = bands;
    return code;
}

/* Rows that came in order stand one after another. */
static scd_code read_in_order(scd_entries *e, size_t first, size_t n, scd_arena *arena,
                              scd_cells_rows *out, scd_error *err)
{
    scd_code code = SCD_OK;
    uint64_t start = e->row_start[first], to = 0;
    size_t n_entries = (size_t)(e->row_start[first + n] - start);
    uint64_t *indptr = scd_arena_alloc(arena, n + 1, sizeof *indptr);
    uint32_t *cols = scd_arena_alloc(arena, n_entries, sizeof *cols);
    double *values = scd_arena_alloc(arena, n_entries, sizeof *values);
    scd_entry *from = e->fd >= 0 ? scd_malloc(n_entries, sizeof *from)
                      : e->n     ? e->held + start
                                 : NULL;
    if (!indptr || !cols || !values || (n_entries && !from)) {
        code = no_memory(e, err);
        goto done;
    }
    if (e->fd >= 0 && !scd_pread_all(e->fd, from, n_entries * sizeof *from, start * sizeof *from)) {
        code = io_failed(e, err);
        goto done;
    }
    for (size_t i = 0; i < n_entries; i++) {
        cols[i] = from[i].col;
        values[i] = from[i].value;
    }
    for (size_t row = 0; row < n; row++) {
        size_t at = (size_t)(e->row_start[first + row] - start);
        size_t n_row = (size_t)(e->row_start[first + row + 1] - e->row_start[first + row]);
        indptr[row] = to;
        if ((n_row = scd_cells_row_tidy(cols + at, values + at, n_row)) == SIZE_MAX) {
            code = no_memory(e, err);
            goto done;
        }
        memmove(cols + to, cols + at, n_row * sizeof *cols);
        memmove(values + to, values + at, n_row * sizeof *values);
        to += n_row;
    }
    indptr[n] = to;
    *out = (scd_cells_rows){n, indptr, cols, values};

done:
    if (e->fd >= 0)
        free(from);
    return code;
}

scd_code scd_entries_read(scd_entries *e, bool by_columns, size_t first, size_t n, scd_arena *arena,
                          scd_cells_rows *out, scd_error *err)
{
    size_t n_rows = by_columns ? e->n_cols : e->n_rows;
    if (first > n_rows || n > n_rows - first)
        return scd_fail(err, SCD_E_INVALID, "%s: rows %zu to %zu, there are %zu", e->what, first,
                        first + n, n_rows);
    if (!by_columns && e->in_order)
        return read_in_order(e, first, n, arena, out, err);
    scd_code code = e->bands[by_columns] ? SCD_OK : turn(e, by_columns, err);
    return code ? code : scd_bands_read(e->bands[by_columns], first, n, arena, out, err);
}
