/* corpus_read.c - rows of the files become cells: counts where there are any, tokens ascending.
 *
 * A run of cells is read with one call for each stretch of rows that are near one another. Columns
 * stand in the file's order and tokens in the vocabulary's: values are scattered over the ids and
 * gathered in order again, which also is where several columns of one gene meet.
 *
 * Threads: one at a time. Owns: scratch during the call; cells live in the caller's arena. */
#include "engine/train/corpus_impl.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define RATIO_TOLERANCE 0.05 /* how far count / least count may be from a whole number */
#define MAX_COUNT 0x1p53     /* the last whole number up to which float64 is exact */
enum { RUN_ROWS = 1024, GAP_ROWS = 32 };

/* One row on its way. */
typedef struct row_values {
    size_t n;
    const uint32_t *columns;
    const double *values; /* the reader's, or counts that were recovered from them */
    scd_input_kind kind;
    double total;
    double given, mapped; /* in count space */
} row_values;

/* ---- are they what the file promised? -------------------------------------------------------- */

static bool is_good(scd_input_kind kind, double v)
{
    if (kind == SCD_INPUT_COUNTS)
        return v >= 0 && v <= MAX_COUNT && v == floor(v);
    return v >= 0 && (float)v <= (float)log1p(1e4); /* as float32: so the values were stored */
}

static scd_code check(const scd_corpus_file *f, const row_values *row, const scd_corpus_cell *cell,
                      scd_error *err)
{
    for (size_t i = 0; i < row->n; i++) {
        double v = row->values[i];
        if (row->columns[i] >= f->map->n_columns)
            return scd_fail(err, SCD_E_CORRUPT, "%s: %s has column %u, %s names %zu genes", f->path,
                            f->matrix, row->columns[i], f->frame, f->map->n_columns);
        if (!is_good(f->kind, v))
            return scd_fail(err, SCD_E_INVALID,
                            "%s: %s has %.9g for cell %s (row %u), gene column %u, which is no %s",
                            f->path, f->matrix, v, cell->barcode, cell->row, row->columns[i],
                            f->kind == SCD_INPUT_COUNTS ? "count" : "log1p CP10K value");
    }
    return SCD_OK;
}

/* Log1p values whose counts show through: expm1 of each is a multiple of the least one, which is
 * that of a single read. The unit is fitted to all of them, since one value alone was rounded.
 * False: the row stays as it is. */
static bool recover(row_values *row, double normalised_to, double *counts)
{
    double least = INFINITY, sum = 0, units = 0;
    for (size_t i = 0; i < row->n; i++) {
        counts[i] = expm1(row->values[i]);
        least = counts[i] < least ? counts[i] : least;
    }
    for (size_t i = 0; i < row->n; i++) {
        sum += counts[i];
        units += round(counts[i] / least);
    }
    double unit = sum / units;
    for (size_t i = 0; i < row->n; i++) {
        double ratio = counts[i] / unit;
        counts[i] = round(ratio);
        if (fabs(ratio - counts[i]) > RATIO_TOLERANCE || counts[i] < 1)
            return false;
    }
    row->values = counts;
    row->kind = SCD_INPUT_COUNTS;
    row->total = normalised_to / unit;
    return true;
}

/* ---- one cell -------------------------------------------------------------------------------- */

/* Into sums by token. A gene's second input turns log1p into count space. */
static size_t scatter(scd_corpus *corpus, const int32_t *tokens, row_values *row)
{
    size_t n = 0;
    bool is_log = row->kind == SCD_INPUT_LOG1P_CP10K;
    row->given = row->mapped = 0;
    for (size_t i = 0; i < row->n; i++) {
        int32_t token = tokens[row->columns[i]];
        double v = row->values[i], count = is_log ? expm1(v) : v;
        row->given += count;
        row->mapped += token < 0 ? 0 : count;
        if (token < 0 || !((float)v > 0))
            continue;
        size_t word = (size_t)token / 64;
        uint64_t bit = UINT64_C(1) << (token & 63);
        double *sum = &corpus->sums[token];
        if (!(corpus->seen[word] & bit)) {
            corpus->seen[word] |= bit;
            *sum = v;
            n++;
            continue;
        }
        if (is_log && !(corpus->met[word] & bit)) {
            corpus->met[word] |= bit;
            *sum = expm1((double)(float)*sum);
        }
        *sum += is_log ? expm1((double)(float)v) : v;
    }
    return n;
}

/* Out of them in order of tokens; leaves them as they were. */
static void gather(scd_corpus *corpus, int32_t *tokens, float *values)
{
    size_t n = 0;
    for (size_t word = 0; word <= corpus->n_ids / 64; word++) {
        for (uint64_t bits = corpus->seen[word]; bits; bits &= bits - 1) {
            size_t token = word * 64 + (size_t)__builtin_ctzll(bits);
            double v = corpus->sums[token];
            bool met = corpus->met[word] >> (token & 63) & 1;
            tokens[n] = (int32_t)token;
            values[n++] = (float)(met ? log1p(v) : v);
            corpus->sums[token] = 0;
        }
        corpus->seen[word] = corpus->met[word] = 0;
    }
}

static scd_code make_cell(scd_corpus *corpus, const scd_corpus_file *f, row_values *row,
                          scd_arena *scratch, scd_arena *arena, scd_corpus_cell *cell,
                          scd_error *err)
{
    scd_code code = check(f, row, cell, err);
    if (code)
        return code;
    double *counts = scd_arena_alloc(scratch, row->n, sizeof *counts);
    if (!counts)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory for a cell", f->path);
    row->kind = f->kind;
    row->total = 0;
    if (row->kind == SCD_INPUT_COUNTS)
        for (size_t i = 0; i < row->n; i++)
            row->total += row->values[i];
    else if (f->recoverable && row->n)
        recover(row, f->normalised_to, counts);
    size_t n = scatter(corpus, f->map->tokens, row);
    int32_t *tokens = scd_arena_alloc(arena, n, sizeof *tokens);
    float *values = scd_arena_alloc(arena, n, sizeof *values);
    if (!tokens || !values)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory for a cell of %zu genes", f->path, n);
    gather(corpus, tokens, values);
    cell->kind = row->kind;
    cell->total = row->total;
    cell->given = row->given;
    cell->mapped = row->mapped;
    cell->n = n;
    cell->tokens = tokens;
    cell->values = values;
    return SCD_OK;
}

/* ---- runs of cells --------------------------------------------------------------------------- */

/* The file's cells [k, k + n): rows[i] of the i-th, all within RUN_ROWS. */
static scd_code read_run(scd_corpus *corpus, size_t file, const uint32_t *rows, size_t n,
                         scd_arena *arena, scd_corpus_cell *out, scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    size_t first = rows[0], n_rows = rows[n - 1] - first + 1;
    const char *barcodes[RUN_ROWS];
    scd_cells *handle;
    scd_cells_rows block;
    scd_arena scratch;
    scd_arena_init(&scratch, SIZE_MAX / 2);
    scd_code code = scd_spool_get(&corpus->spool, f->marks, f->text_end, f->n_rows, first, n_rows,
                                  arena, barcodes, err);
    if (!code)
        code = scd_corpus_handle(corpus, file, &handle, err);
    if (!code)
        code = scd_cells_rows_read(handle, f->matrix, first, n_rows, &scratch, &block, err);
    for (size_t i = 0; i < n && !code; i++) {
        size_t at = rows[i] - first;
        uint64_t from = block.indptr[at];
        row_values row = {.n = (size_t)(block.indptr[at + 1] - from),
                          .columns = block.indices + from,
                          .values = block.data + from};
        out[i] = (scd_corpus_cell){.file = (uint32_t)file, .row = rows[i], .barcode = barcodes[at]};
        code = make_cell(corpus, f, &row, &scratch, arena, &out[i], err);
    }
    scd_arena_release(&scratch);
    return code;
}

scd_code scd_corpus_read(scd_corpus *corpus, size_t first, size_t n, scd_arena *arena,
                         scd_corpus_cell *out, scd_error *err)
{
    assert(corpus->vocab && first <= corpus->n_cells && n <= corpus->n_cells - first);
    uint32_t rows[RUN_ROWS];
    for (size_t done = 0; done < n;) {
        size_t file = scd_corpus_file_of(corpus, first + done);
        const scd_corpus_file *f = &corpus->files[file];
        size_t k = first + done - f->first, run = 0;
        while (run < n - done && run < RUN_ROWS && k + run < f->n_cells) {
            size_t row = scd_corpus_row_of(f, k + run);
            if (run && (row - rows[run - 1] > GAP_ROWS || row - rows[0] >= RUN_ROWS))
                break; /* many rows that are left out lie between */
            rows[run++] = (uint32_t)row;
        }
        scd_code code = read_run(corpus, file, rows, run, arena, out + done, err);
        if (code)
            return code;
        done += run;
    }
    return SCD_OK;
}
