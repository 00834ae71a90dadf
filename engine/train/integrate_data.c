/* integrate_data.c - which batch and label each cell has, and how much it counts where batches are
 * told apart.
 *
 * Weights make the batches of each label equally heavy, so that the discriminator cannot win by
 * knowing that one batch has more of a type, and reversing its gradient does not push types
 * together. A label that one batch alone has says nothing about batches: it weighs 0. */
#include "engine/base/mem.h"
#include "engine/train/finetune_integrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_CELLS = 1024, LEAST_CELLS = 2 };

int32_t scd_integrate_label(const scd_integrate *run, size_t cell)
{
    return run->labels.n_classes ? run->labels.best[cell] : -1;
}

/* ---- batches --------------------------------------------------------------------------------- */

/* Each file is a batch. */
static scd_code name_files(scd_integrate *run, scd_error *err)
{
    scd_corpus_column *b = &run->batches;
    size_t n_files = scd_corpus_n_files(run->corpus);
    b->n = run->n_cells;
    b->codes = scd_malloc(b->n, sizeof *b->codes);
    b->values = scd_calloc(n_files, sizeof *b->values);
    if (!b->codes || !b->values)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", b->n);
    for (; b->n_values < n_files; b->n_values++) {
        b->values[b->n_values] = scd_strdup(scd_corpus_file_name(run->corpus, b->n_values));
        if (!b->values[b->n_values])
            return scd_fail(err, SCD_E_NOMEM, "out of memory for the batches");
    }
    return SCD_OK;
}

/* ---- genes ----------------------------------------------------------------------------------- */

/* Those that every file measures: what one panel has and another lacks says which batch a cell is
 * of, and nothing that is done to the embeddings unsays it. */
static scd_code choose_genes(scd_integrate *run, scd_error *err)
{
    size_t n_files = scd_corpus_n_files(run->corpus), n;
    size_t vocab = scd_model_get_config(run->model)->vocab;
    const uint8_t *before = scd_vocab_used(scd_model_vocab(run->model));
    if (!strcmp(run->o->genes, "all"))
        return SCD_OK;
    size_t *files = scd_calloc(vocab, sizeof *files);
    run->used = scd_calloc(vocab, sizeof *run->used);
    run->on_used = scd_calloc(n_files, sizeof *run->on_used);
    if (!files || !run->used || !run->on_used) {
        free(files);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu genes", vocab);
    }
    for (size_t f = 0; f < n_files; f++) {
        const int32_t *panel = scd_corpus_panel(run->corpus, f, &n);
        for (size_t i = 0; i < n; i++)
            files[panel[i]] += !i || panel[i] != panel[i - 1];
    }
    for (size_t g = 0; g < vocab; g++) {
        run->used[g] = files[g] == n_files && (!before || before[g]);
        run->n_used += run->used[g];
    }
    free(files);
    if (run->n_used == scd_vocab_n_genes(scd_model_vocab(run->model))) { /* nothing to say */
        free(run->used);
        run->used = NULL;
        return SCD_OK;
    }
    return run->n_used ? SCD_OK
                       : scd_fail(err, SCD_E_INVALID,
                                  "no gene that the model uses is measured by all files: leave "
                                  "files out, or use all genes (--genes all)");
}

/* How many genes of the cell are used; adds its counts to on[0], and those on such genes to on[1].
 */
static size_t count_used(const scd_integrate *run, const scd_corpus_cell *cell, double on[2])
{
    size_t n = 0;
    for (size_t i = 0; i < cell->n; i++) {
        double x = (double)cell->values[i];
        double count = cell->kind == SCD_INPUT_COUNTS ? x : expm1(x);
        bool used = !run->used || run->used[cell->tokens[i]];
        on[0] += count;
        on[1] += used ? count : 0;
        n += used;
    }
    return n;
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* One pass over the cells: who is kept, and of which file (file_n: cells with a batch of each). */
static scd_code walk(scd_integrate *run, size_t *file_n, scd_error *err)
{
    size_t n_files = scd_corpus_n_files(run->corpus);
    scd_corpus_cell *cells = scd_malloc(BLOCK_CELLS, sizeof *cells);
    double(*sums)[2] =
        scd_calloc(n_files, sizeof *sums); /* of a file's counts: all, on used genes */
    scd_code code = cells && sums ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t first = 0; first < run->n_cells && !code; first += BLOCK_CELLS) {
        size_t left = run->n_cells - first, count = left < BLOCK_CELLS ? left : BLOCK_CELLS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corpus_read(run->corpus, first, count, &arena, cells, err);
        for (size_t i = 0; i < count && !code; i++) {
            int32_t *batch = &run->batches.codes[first + i];
            if (!run->o->batch_column)
                *batch = (int32_t)cells[i].file;
            bool known = count_used(run, &cells[i], sums[cells[i].file]) > 0;
            file_n[cells[i].file] += *batch >= 0;
            run->n_no_batch += *batch < 0;
            run->n_unknown += *batch >= 0 && !known;
            run->keep[first + i] = *batch >= 0 && known;
            run->n_train += run->keep[first + i];
        }
        scd_arena_release(&arena);
    }
    for (size_t f = 0; f < n_files && !code && run->on_used; f++)
        run->on_used[f] = sums[f][0] > 0 ? sums[f][1] / sums[f][0] : 0;
    free(sums);
    free(cells);
    return code;
}

static scd_code read_batches(scd_integrate *run, scd_error *err)
{
    size_t n_files = scd_corpus_n_files(run->corpus);
    size_t *file_n = scd_calloc(n_files, sizeof *file_n);
    run->keep = scd_calloc(run->n_cells, 1);
    scd_code code = file_n && run->keep
                        ? SCD_OK
                        : scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", run->n_cells);
    if (!code && run->o->batch_column) {
        code = scd_corpus_obs(run->corpus, run->o->batch_column, &run->batches, err);
        if (code)
            scd_fail_within(err, "--batch-column");
    } else if (!code) {
        code = name_files(run, err);
    }
    if (!code)
        code = walk(run, file_n, err);
    for (size_t f = 0; f < n_files && !code; f++)
        if (!file_n[f])
            code = scd_fail(err, SCD_E_INVALID,
                            "%s: no cell has a batch: obs has no column '%s', or no value in it",
                            scd_corpus_file_name(run->corpus, f), run->o->batch_column);
    free(file_n);
    return code;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* counts (n_groups, n_batches); the last group is of the cells without a label */
static size_t group_of(const scd_integrate *run, size_t cell)
{
    int32_t label = scd_integrate_label(run, cell);
    return label < 0 ? run->labels.n_classes : (size_t)label;
}

static scd_code check_batches(const scd_integrate *run, const size_t *counts, scd_error *err)
{
    size_t B = run->batches.n_values, present = 0, one = 0;
    for (size_t b = 0; b < B; b++) {
        size_t n = 0;
        for (size_t g = 0; g <= run->labels.n_classes; g++)
            n += counts[g * B + b];
        if (!n) /* a category that no cell has */
            continue;
        present++;
        one = b;
        if (n < LEAST_CELLS)
            return scd_fail(err, SCD_E_INVALID,
                            "batch '%s' has %zu cells to train on, must be at least %d: leave it "
                            "out (--exclude) or merge it with another",
                            run->batches.values[b], n, LEAST_CELLS);
    }
    if (present < 2)
        return scd_fail(err, SCD_E_INVALID,
                        "all cells are of one batch ('%s'): there is nothing to integrate; %s",
                        present ? run->batches.values[one] : "none",
                        run->o->batch_column ? "give more files, or another --batch-column"
                                             : "give a --batch-column, or more files");
    return SCD_OK;
}

static scd_code weigh(scd_integrate *run, scd_error *err)
{
    size_t B = run->batches.n_values, G = run->labels.n_classes + 1, n;
    size_t *counts = scd_size_mul(B, G, &n) ? scd_calloc(n + 1, sizeof *counts) : NULL;
    run->weights = scd_calloc(run->n_cells, sizeof *run->weights);
    if (!counts || !run->weights) {
        free(counts);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu batches", B);
    }
    for (size_t i = 0; i < run->n_cells; i++)
        if (run->keep[i])
            counts[group_of(run, i) * B + (size_t)run->batches.codes[i]]++;
    scd_code code = check_batches(run, counts, err);
    for (size_t i = 0; i < run->n_cells && !code; i++) {
        const size_t *of_group = counts + group_of(run, i) * B;
        size_t total = 0, present = 0;
        if (!run->keep[i])
            continue;
        for (size_t b = 0; b < B; b++) {
            total += of_group[b];
            present += of_group[b] > 0;
        }
        run->n_one_batch += present == 1;
        if (present > 1)
            run->weights[i] =
                (float)((double)total / (double)present / (double)of_group[run->batches.codes[i]]);
    }
    if (!code && run->n_one_batch == run->n_train)
        code = scd_fail(err, SCD_E_INVALID,
                        "every label is in one batch only: what is the batch and what the type "
                        "cannot be told apart; train without labels, or give more batches");
    free(counts);
    return code;
}

scd_code scd_integrate_read(scd_integrate *run, scd_error *err)
{
    const scd_integrate_options *o = run->o;
    run->n_cells = scd_corpus_n_cells(run->corpus);
    scd_code code = choose_genes(run, err);
    if (!code)
        code = read_batches(run, err);
    if (!code && o->labels)
        code = scd_labels_from_table(run->corpus, o->labels, NULL, &run->labels, err);
    if (!code && o->label_column)
        code = scd_labels_from_column(run->corpus, o->label_column, NULL, NULL, &run->labels, err);
    return code ? code : weigh(run, err);
}
