/* corpus_pass.c - what takes a pass over all cells: columns of obs, entropies, shares mapped.
 *
 * Threads: one at a time. Owns: nothing; results go to the caller. */
#include "engine/train/corpus_impl.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double WARN_MAPPED = 0.8; /* SPEC section 2 */

/* ---- columns of obs -------------------------------------------------------------------------- */

typedef struct column_work {
    scd_corpus_column *column;
    scd_map numbers; /* value -> code; keys are the column's values */
    size_t n_room;
    bool found;
} column_work;

/* The code of a value that some cell of the list has; SCD_NO_VALUE: out of memory. */
static uint32_t code_of(column_work *w, const char *value)
{
    scd_corpus_column *c = w->column;
    uint32_t code = scd_map_get(&w->numbers, value);
    if (code != SCD_NO_VALUE)
        return code;
    if (c->n_values == w->n_room) {
        size_t room = w->n_room ? 2 * w->n_room : 16;
        char **values = scd_realloc(c->values, room, sizeof *values);
        if (!values)
            return SCD_NO_VALUE;
        c->values = values;
        w->n_room = room;
    }
    char *copy = scd_strdup(value);
    if (!copy)
        return SCD_NO_VALUE;
    code = (uint32_t)c->n_values;
    c->values[c->n_values++] = copy;
    return scd_map_put(&w->numbers, copy, code) ? code : SCD_NO_VALUE;
}

/* Only categories that occur are values, in the order of the file's categories. */
static scd_code number_file(column_work *w, const scd_corpus_file *f,
                            const scd_cells_categories *from, scd_arena *arena, scd_error *err)
{
    uint32_t *codes = scd_arena_alloc(arena, from->n_categories, sizeof *codes);
    bool *occurs = scd_arena_zalloc(arena, from->n_categories, sizeof *occurs);
    if (!codes || !occurs)
        goto no_memory;
    for (size_t k = 0; k < f->n_cells; k++) {
        int32_t code = from->codes[scd_corpus_row_of(f, k)];
        w->column->codes[f->first + k] = code;
        if (code >= 0)
            occurs[code] = true;
    }
    for (size_t i = 0; i < from->n_categories; i++)
        if (occurs[i] && (codes[i] = code_of(w, from->categories[i])) == SCD_NO_VALUE)
            goto no_memory;
    for (size_t k = 0; k < f->n_cells; k++) {
        int32_t *code = &w->column->codes[f->first + k];
        *code = *code < 0 ? -1 : (int32_t)codes[*code];
    }
    return SCD_OK;
no_memory:
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory for a column of obs", f->path);
}

static scd_code read_file(column_work *w, scd_corpus *corpus, size_t file, const char *name,
                          scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    scd_cells *handle;
    scd_cells_categories categories;
    scd_error missing;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    if (code)
        goto done;
    code = scd_cells_column_categories(handle, f->obs_frame, name, &arena, &categories, &missing);
    if (code == SCD_E_NOT_FOUND) {
        for (size_t k = 0; k < f->n_cells; k++)
            w->column->codes[f->first + k] = -1;
        code = SCD_OK;
    } else if (code) {
        code = scd_fail(err, code, "%s", missing.message);
    } else if (categories.n != f->n_rows) {
        code = scd_fail(err, SCD_E_CORRUPT, "%s: column %s of obs has %zu values for %zu cells",
                        f->path, name, categories.n, f->n_rows);
    } else {
        w->found = true;
        code = number_file(w, f, &categories, &arena, err);
    }
done:
    scd_arena_release(&arena);
    return code;
}

scd_code scd_corpus_obs(scd_corpus *corpus, const char *name, scd_corpus_column *out,
                        scd_error *err)
{
    scd_code code = SCD_OK;
    *out = (scd_corpus_column){.n = corpus->n_cells};
    column_work w = {.column = out};
    out->codes = scd_malloc(out->n, sizeof *out->codes);
    if (!out->codes)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for column %s of %zu cells", name, out->n);
    for (size_t i = 0; i < corpus->n_files && !code; i++)
        code = read_file(&w, corpus, i, name, err);
    if (!code && !w.found)
        code = scd_fail(err, SCD_E_NOT_FOUND, "%s: obs has no column %s%s", corpus->files[0].path,
                        name, corpus->n_files > 1 ? ", nor has any of the other files" : "");
    scd_map_release(&w.numbers);
    if (code)
        scd_corpus_column_release(out);
    return code;
}

void scd_corpus_column_release(scd_corpus_column *column)
{
    for (size_t i = 0; i < column->n_values; i++)
        free(column->values[i]);
    free(column->values);
    free(column->codes);
    *column = (scd_corpus_column){0};
}

/* ---- entropies ------------------------------------------------------------------------------- */

typedef struct entropy_sums {
    double *x, *x_log_x;  /* (vocab) */
    uint64_t *n_measured; /* (vocab) kept cells whose file has the gene */
    uint64_t *n_kept;     /* (files) */
} entropy_sums;

static void add_cell(const scd_corpus_cell *cell, size_t vocab, entropy_sums *sums)
{
    for (size_t i = 0; i < cell->n; i++) {
        double x = (double)cell->values[i];
        if (cell->kind == SCD_INPUT_COUNTS)
            x = (double)(float)log1p(1e4 * x / cell->total); /* the model's value: SPEC section 2 */
        if ((size_t)cell->tokens[i] >= vocab || !(x > 0))
            continue;
        sums->x[cell->tokens[i]] += x;
        sums->x_log_x[cell->tokens[i]] += x * log(x);
    }
}

static bool any_kept(const uint8_t *keep, size_t first, size_t n)
{
    if (!keep)
        return true;
    for (size_t i = 0; i < n; i++)
        if (keep[first + i])
            return true;
    return false;
}

static scd_code add_block(scd_corpus *corpus, const uint8_t *keep, size_t vocab, size_t first,
                          size_t n, entropy_sums *sums, scd_error *err)
{
    scd_corpus_cell cells[SCD_BLOCK_CELLS];
    scd_arena arena;
    if (!any_kept(keep, first, n))
        return SCD_OK;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_read(corpus, first, n, &arena, cells, err);
    for (size_t i = 0; i < n && !code; i++) {
        if (keep && !keep[first + i])
            continue;
        sums->n_kept[cells[i].file]++;
        add_cell(&cells[i], vocab, sums);
    }
    scd_arena_release(&arena);
    return code;
}

/* With S = sum x and p = x / S: - sum p log p = log S - (sum x log x) / S. */
static void finish(const scd_corpus *corpus, size_t vocab, entropy_sums *sums, float *out)
{
    for (size_t f = 0; f < corpus->n_files; f++) {
        const scd_corpus_map *map = corpus->files[f].map;
        for (size_t i = 0; i < map->n_panel && (size_t)map->panel[i] < vocab; i++)
            sums->n_measured[map->panel[i]] += sums->n_kept[f];
    }
    for (size_t g = 0; g < vocab; g++) {
        double s = sums->x[g], h = NAN;
        if (s > 0 && sums->n_measured[g] > 1) {
            h = (log(s) - sums->x_log_x[g] / s) / log((double)sums->n_measured[g]);
            h = h < 0 ? 0 : h > 1 ? 1 : h; /* rounding */
        }
        out[g] = (float)h;
    }
}

scd_code scd_corpus_entropies(scd_corpus *corpus, const uint8_t *keep, size_t vocab, float *out,
                              scd_error *err)
{
    scd_code code = SCD_OK;
    entropy_sums sums = {.x = scd_calloc(vocab, sizeof(double)),
                         .x_log_x = scd_calloc(vocab, sizeof(double)),
                         .n_measured = scd_calloc(vocab, sizeof(uint64_t)),
                         .n_kept = scd_calloc(corpus->n_files, sizeof(uint64_t))};
    if (!sums.x || !sums.x_log_x || !sums.n_measured || !sums.n_kept)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the entropies of %zu genes", vocab);
    for (size_t first = 0; first < corpus->n_cells && !code; first += SCD_BLOCK_CELLS) {
        size_t left = corpus->n_cells - first;
        code = add_block(corpus, keep, vocab, first,
                         left < SCD_BLOCK_CELLS ? left : SCD_BLOCK_CELLS, &sums, err);
    }
    if (!code)
        finish(corpus, vocab, &sums, out);
    free(sums.n_kept);
    free(sums.n_measured);
    free(sums.x_log_x);
    free(sums.x);
    return code;
}

/* ---- how much of the counts is of known genes -------------------------------------------------
 */

scd_code scd_corpus_mapped(scd_corpus *corpus, double *out, scd_error *err)
{
    scd_code code = SCD_OK;
    double *given = scd_calloc(corpus->n_files, sizeof *given);
    if (!given)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu files", corpus->n_files);
    memset(out, 0, corpus->n_files * sizeof *out);
    for (size_t first = 0; first < corpus->n_cells && !code; first += SCD_BLOCK_CELLS) {
        scd_corpus_cell cells[SCD_BLOCK_CELLS];
        size_t left = corpus->n_cells - first, n = left < SCD_BLOCK_CELLS ? left : SCD_BLOCK_CELLS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corpus_read(corpus, first, n, &arena, cells, err);
        for (size_t i = 0; i < n && !code; i++) {
            given[cells[i].file] += cells[i].given;
            out[cells[i].file] += cells[i].mapped;
        }
        scd_arena_release(&arena);
    }
    for (size_t f = 0; f < corpus->n_files; f++)
        out[f] = given[f] > 0 ? out[f] / given[f] : 1; /* nothing was lost of nothing */
    free(given);
    return code;
}

scd_code scd_corpus_check_mapped(scd_corpus *corpus, double least, scd_error *err)
{
    double *shares = scd_calloc(corpus->n_files, sizeof *shares);
    if (!shares)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu files", corpus->n_files);
    scd_code code = scd_corpus_mapped(corpus, shares, err);
    for (size_t f = 0; f < corpus->n_files && !code; f++) {
        const scd_corpus_file *file = &corpus->files[f];
        const char *column = scd_corpus_column_label(file->gene_column);
        if (shares[f] < least)
            code = scd_fail(err, SCD_E_INVALID,
                            "%s: only %.1f %% of the counts are of genes that the model knows "
                            "(gene column: %s), at least %.0f %% must be: name the right column "
                            "with --gene-column, or lower --min-mapped",
                            file->path, 100 * shares[f], column, 100 * least);
        else if (shares[f] < WARN_MAPPED)
            fprintf(stderr,
                    "warning: %s: only %.1f %% of the counts are of genes that the model knows\n",
                    file->path, 100 * shares[f]);
    }
    free(shares);
    return code;
}
