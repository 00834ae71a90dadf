/* pretrain_eval.c - how well hidden genes and values of held-out cells are told, and how well by
 * guessing.
 *
 * The same cells, the same hidden tokens and no rescaling each time: a curve shows the model, not
 * the draw. Everything in M is hidden here; the objective's tenth that is left as it is would be
 * too easy. Baselines are fitted on training cells: the gene that most of them express, and the
 * mean of each gene over those that express it - which is told the gene that the model must guess.
 */
#include "engine/base/mem.h"
#include "engine/train/pretrain.h"

#include <stdlib.h>

const double scd_pretrain_rates[SCD_PRETRAIN_RATES] = {0.15, 0.5, 0.9};

enum { EVAL_SEED = 20, BLOCK_CELLS = 256, MAX_BLOCKS = 128 }; /* of training cells, for baselines */

/* ---- baselines ------------------------------------------------------------------------------- */

typedef struct sums {
    double *values; /* (vocab) */
    uint32_t *n;    /* (vocab) */
} sums;

static scd_code add_block(scd_pretrain *run, size_t first, size_t n, sums *s, scd_error *err)
{
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_corpus_cell *cells = scd_arena_alloc(&arena, n, sizeof *cells);
    scd_code code = cells ? scd_corpus_read(run->corpus, first, n, &arena, cells, err)
                          : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n && !code; i++) {
        scd_clean_cell clean;
        if (!run->keep[first + i])
            continue;
        code = scd_clean_cell_of(&cells[i], &arena, &clean, err);
        for (size_t k = 0; k < clean.n && !code; k++) {
            s->values[clean.ids[k]] += (double)clean.values[k];
            s->n[clean.ids[k]]++;
        }
        run->n_baseline++;
    }
    scd_arena_release(&arena);
    return code;
}

/* Over all cells, or over blocks spread evenly where there are very many. */
scd_code scd_pretrain_fit_baselines(scd_pretrain *run, scd_error *err)
{
    size_t n_blocks = (run->n_cells + BLOCK_CELLS - 1) / BLOCK_CELLS;
    size_t n_used = n_blocks < MAX_BLOCKS ? n_blocks : MAX_BLOCKS;
    sums s = {scd_calloc(run->config.vocab, sizeof *s.values),
              scd_calloc(run->config.vocab, sizeof *s.n)};
    scd_code code = SCD_OK;
    run->gene_means = scd_calloc(run->config.vocab, sizeof *run->gene_means);
    if (!s.values || !s.n || !run->gene_means)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for baselines");
    for (size_t i = 0; i < n_used && !code; i++) {
        size_t first = i * n_blocks / n_used * BLOCK_CELLS, left = run->n_cells - first;
        code = add_block(run, first, left < BLOCK_CELLS ? left : BLOCK_CELLS, &s, err);
    }
    double sum = 0, n = 0;
    for (size_t g = 0; g < run->config.vocab && !code; g++) {
        sum += s.values[g];
        n += s.n[g];
        run->gene_means[g] = s.n[g] ? (float)(s.values[g] / s.n[g]) : 0;
        if (s.n[g] > s.n[run->frequent])
            run->frequent = (int32_t)g;
    }
    run->mean_value = n > 0 ? sum / n : 0;
    free(s.values);
    free(s.n);
    return code;
}

/* ---- held-out cells -------------------------------------------------------------------------- */

scd_code scd_pretrain_choose_cells(scd_pretrain *run, scd_error *err)
{
    size_t n = run->n_held_out < run->o.eval_cells ? run->n_held_out : run->o.eval_cells, seen = 0;
    if (!n)
        return SCD_OK;
    run->eval_cells = scd_calloc(n, sizeof *run->eval_cells);
    run->eval_draws = scd_calloc(n, sizeof *run->eval_draws);
    if (!run->eval_cells || !run->eval_draws)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for held-out cells");
    for (size_t i = 0; i < run->n_cells && run->n_eval < n; i++) {
        scd_corpus_cell cell;
        if (!run->held_out[i] || seen++ != run->n_eval * run->n_held_out / n)
            continue;
        scd_code code = scd_corpus_read(run->corpus, i, 1, &run->eval_arena, &cell, err);
        if (!code)
            code = scd_clean_cell_of(&cell, &run->eval_arena, &run->eval_cells[run->n_eval], err);
        if (code)
            return code;
        run->eval_draws[run->n_eval++] = i;
    }
    return SCD_OK;
}

static scd_code flush(scd_pretrain *run, scd_pretrain_score *score, scd_error *err)
{
    const scd_net_batch *b = scd_pack_batch(run->pack);
    scd_net_loss loss = {0};
    scd_code code;
    if (b->n_masked) {
        if ((code = scd_net_forward(run->net, b, !run->o.no_latent, err)) ||
            (code = scd_net_pretrain_loss(run->net, 0, 0, &loss, err)))
            return code;
        score->accuracy += (double)loss.n_right;
        score->mse += loss.value_sum;
        score->gene_loss += loss.gene_sum;
    }
    for (size_t i = 0; i < b->n_masked; i++) {
        int32_t gene = b->ids[b->masked[i]];
        double miss = (double)(b->targets[i] - run->gene_means[gene]);
        score->base_accuracy += gene == run->frequent;
        score->base_mse += miss * miss;
    }
    score->n += b->n_masked;
    scd_pack_clear(run->pack);
    return SCD_OK;
}

static scd_code eval_rate(scd_pretrain *run, double rate, scd_pretrain_score *score, scd_error *err)
{
    const scd_corrupt_options options = {.seed = EVAL_SEED,
                                         .depth_min = 1,
                                         .rate = rate,
                                         .random_order = run->order == SCD_ORDER_RANDOM};
    scd_code code = SCD_OK;
    scd_pack_clear(run->pack);
    for (size_t i = 0; i < run->n_eval && !code; i++) {
        scd_arena arena;
        scd_corrupted c;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corrupt(&options, &run->config, run->vocab, &run->eval_cells[i],
                           run->eval_draws[i], &arena, &c, err);
        if (!code && c.sequence.n && !scd_pack_add(run->pack, &c.sequence)) {
            code = flush(run, score, err);
            if (!code && !scd_pack_add(run->pack, &c.sequence))
                code = scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit",
                                c.sequence.n);
        }
        scd_arena_release(&arena);
    }
    return code ? code : flush(run, score, err);
}

scd_code scd_pretrain_eval(scd_pretrain *run, scd_pretrain_score scores[SCD_PRETRAIN_RATES],
                           scd_error *err)
{
    for (size_t r = 0; r < SCD_PRETRAIN_RATES; r++) {
        scd_pretrain_score *s = &scores[r];
        *s = (scd_pretrain_score){0};
        scd_code code = eval_rate(run, scd_pretrain_rates[r], s, err);
        if (code)
            return code;
        double n = s->n ? (double)s->n : 1;
        s->accuracy /= n;
        s->mse /= n;
        s->gene_loss /= n;
        s->base_accuracy /= n;
        s->base_mse /= n;
    }
    return SCD_OK;
}
