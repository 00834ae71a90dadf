/* eval_losses.c - the objective's two losses on the cells of a corpus, at a fixed share hidden. */
#include "engine/train/corrupt.h"
#include "engine/train/eval.h"

#include "engine/base/mem.h"

#include <stdlib.h>

enum { BLOCK_CELLS = 256, LOSS_SEED = 20 };

const double scd_eval_rates[SCD_EVAL_RATES] = {0.15, 0.5, 0.9};

typedef struct sums {
    double gene, value;
    size_t n_gene, n_value, n_right;
} sums;

static scd_code flush(scd_classifier *c, sums *s, scd_error *err)
{
    const scd_net_batch *batch = scd_pack_batch(c->pack);
    scd_net_loss loss = {0};
    if (!batch->n_cells)
        return SCD_OK;
    scd_code code = scd_net_forward(c->net, batch, 1, err);
    if (!code)
        code = scd_net_pretrain_loss(c->net, 0, 0, &loss, err);
    s->gene += loss.gene_sum;
    s->value += loss.value_sum;
    s->n_gene += loss.n_gene;
    s->n_value += loss.n_value;
    s->n_right += loss.n_right;
    scd_pack_clear(c->pack);
    return code;
}

static scd_code add_cell(scd_classifier *c, const scd_corrupt_options *o,
                         const scd_corpus_cell *cell, uint64_t draw, scd_arena *arena, sums *s,
                         scd_error *err)
{
    scd_clean_cell clean;
    scd_corrupted view;
    scd_code code = scd_clean_cell_of(cell, arena, &clean, err);
    if (!code)
        code = scd_corrupt(o, c->config, c->vocab, &clean, draw, arena, &view, err);
    if (code || !view.n_value || scd_pack_add(c->pack, &view.sequence))
        return code;
    code = flush(c, s, err);
    if (!code && !scd_pack_add(c->pack, &view.sequence))
        code = scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit", view.sequence.n);
    return code;
}

scd_code scd_eval_losses(scd_classifier *c, scd_corpus *corpus, double rate, scd_eval_loss *out,
                         scd_error *err)
{
    const scd_corrupt_options o = {.seed = LOSS_SEED, .depth_min = 1, .rate = rate};
    size_t n = scd_corpus_n_cells(corpus);
    sums s = {0};
    scd_code code = SCD_OK;
    scd_corpus_cell *cells = scd_malloc(BLOCK_CELLS, sizeof *cells);
    if (!cells)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for cells");
    scd_pack_clear(c->pack);
    for (size_t first = 0; first < n && !code; first += BLOCK_CELLS) {
        size_t count = n - first < BLOCK_CELLS ? n - first : BLOCK_CELLS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corpus_read(corpus, first, count, &arena, cells, err);
        for (size_t i = 0; i < count && !code; i++)
            if (cells[i].n)
                code = add_cell(c, &o, &cells[i], first + i, &arena, &s, err);
        scd_arena_release(&arena);
    }
    if (!code)
        code = flush(c, &s, err);
    free(cells);
    if (!code && (!s.n_gene || !s.n_value))
        code = scd_fail(err, SCD_E_INVALID, "no token of any cell was hidden: nothing to measure");
    if (code)
        return code;
    *out = (scd_eval_loss){.n = s.n_gene,
                           .gene_loss = s.gene / (double)s.n_gene,
                           .accuracy = (double)s.n_right / (double)s.n_gene,
                           .value_mse = s.value / (double)s.n_value};
    return SCD_OK;
}
