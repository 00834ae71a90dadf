/* pretrain_step.c - one step: a global batch of cells, in as many micro-batches as it takes.
 *
 * All cells are corrupted before the first forward pass, so that |M| of the whole batch is known
 * and the loss is its mean however the batch is cut. */
#include "engine/train/pretrain.h"

#include "engine/train/schedule.h"

static bool augments(const scd_augment_options *a)
{
    return a->panel_share > 0 || a->subset_share > 0 || a->thin_share > 0 || a->max_tokens;
}

static scd_code look_at(scd_pretrain *run, const scd_corpus_cell *cell, scd_arena *arena,
                        scd_clean_cell *out, scd_error *err)
{
    if (!augments(&run->o.augment) || !cell->n)
        return scd_clean_cell_of(cell, arena, out, err);
    scd_cell changed;
    const scd_augment_input in = {.cell = cell, .draw = run->drawn};
    scd_code code =
        scd_augment(&run->o.augment, &in, &run->config, run->vocab, arena, &changed, err);
    if (!code)
        *out = (scd_clean_cell){changed.n_tokens, changed.ids, changed.values};
    return code;
}

/* The next cell of the feed as the model will see it; `drawn` moves on. */
static scd_code draw(scd_pretrain *run, scd_arena *arena, scd_corrupted *out, scd_error *err)
{
    const scd_corrupt_options options = {.seed = run->o.seed,
                                         .depth_min = run->o.depth_min,
                                         .value_only = run->o.value_only,
                                         .random_order = run->order == SCD_ORDER_RANDOM};
    const scd_corpus_cell *cell;
    scd_clean_cell clean;
    size_t index;
    scd_code code = scd_feed_next(run->feed, &cell, &index, err);
    if (code)
        return code;
    if (!(code = look_at(run, cell, arena, &clean, err)))
        code = scd_corrupt(&options, &run->config, run->vocab, &clean, run->drawn, arena, out, err);
    if (code)
        scd_fail_within(err, "%s, row %u (%s)", scd_corpus_file_name(run->corpus, cell->file),
                        cell->row, cell->barcode);
    run->drawn++;
    return code;
}

/* Forward and back for what is in the pack, which is empty afterwards. */
static scd_code flush(scd_pretrain *run, float gene_scale, float value_scale,
                      scd_pretrain_sums *sums, scd_error *err)
{
    const scd_net_batch *batch = scd_pack_batch(run->pack);
    scd_net_loss loss = {0};
    scd_code code = SCD_OK;
    if (batch->n_masked) {
        if ((code = scd_net_forward(run->net, batch, !run->o.no_latent, err)) ||
            (code = scd_net_pretrain_loss(run->net, gene_scale, value_scale, &loss, err)) ||
            (code = scd_net_backward(run->net, 0, err)))
            return code;
        sums->gene += loss.gene_sum;
        sums->value += loss.value_sum;
        sums->n_right += (double)loss.n_right;
    }
    sums->n_tokens += (double)(batch->n_rows - batch->n_cells);
    scd_pack_clear(run->pack);
    return SCD_OK;
}

static scd_code update(scd_pretrain *run, double *norm, scd_error *err)
{
    float scale;
    const scd_net_step step = {
        .step = run->step + 1,
        .lr = (float)scd_schedule_lr(run->o.lr, run->step + 1, run->warmup_steps, run->n_steps),
        .beta1 = (float)run->o.beta1,
        .beta2 = (float)run->o.beta2,
        .eps = 1e-8f,
        .decay = (float)run->o.decay,
        .clip = (float)run->o.clip};
    scd_code code = scd_net_update(run->net, &step, norm, &scale, err);
    if (code == SCD_E_INVALID)
        scd_fail_within(err, "step %llu: the run has diverged, a smaller --lr may help",
                        (unsigned long long)step.step);
    return code;
}

/* Gradients of the whole batch, then the update. */
static scd_code learn(scd_pretrain *run, const scd_corrupted *cells, size_t n,
                      scd_pretrain_sums *sums, scd_error *err)
{
    size_t n_gene = 0, n_value = 0;
    double norm = 0;
    scd_code code = scd_net_zero_grads(run->net, err);
    for (size_t i = 0; i < n; i++) {
        n_gene += cells[i].n_gene;
        n_value += cells[i].n_value;
    }
    float gene_scale = n_gene ? 1.0f / (float)n_gene : 0;
    float value_scale = n_value ? (float)(run->o.value_weight / (double)n_value) : 0;
    for (size_t i = 0; i < n && !code; i++) {
        const scd_sequence *s = &cells[i].sequence;
        if (!s->n || scd_pack_add(run->pack, s))
            continue;
        if (!(code = flush(run, gene_scale, value_scale, sums, err)) && !scd_pack_add(run->pack, s))
            code = scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit", s->n);
    }
    if (!code)
        code = flush(run, gene_scale, value_scale, sums, err);
    if (!code && n_value) /* a tiny batch may hide nothing */
        code = update(run, &norm, err);
    sums->n_gene += (double)n_gene;
    sums->n_value += (double)n_value;
    sums->norm += norm;
    return code;
}

scd_code scd_pretrain_step(scd_pretrain *run, scd_pretrain_sums *sums, scd_error *err)
{
    scd_arena arena;
    scd_code code = SCD_OK;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_corrupted *cells = scd_arena_alloc(&arena, run->o.batch, sizeof *cells);
    if (!cells)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a batch");
    scd_pack_clear(run->pack);
    for (size_t i = 0; i < run->o.batch && !code; i++)
        code = draw(run, &arena, &cells[i], err);
    if (!code)
        code = learn(run, cells, run->o.batch, sums, err);
    if (!code) {
        run->step++;
        sums->n_steps++;
    }
    scd_arena_release(&arena);
    return code;
}
