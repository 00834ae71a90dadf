/* finetune_run.c - epochs of augmented cells, early stop on the held-out macro-F1, checkpoints.
 *
 * The run is a pure function of options and data: a step is `batch` cells of the feed, each
 * augmented by its draw number, so that a checkpoint is a step's number and the state of the
 * parameters. */
#include "engine/base/mem.h"
#include "engine/train/finetune.h"
#include "engine/train/progress.h"
#include "engine/train/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BEST_F1, BEST_EPOCH, N_NUMBERS, MAX_PARTNERS = 64 };

/* ---- one step -------------------------------------------------------------------------------- */

typedef struct step_state {
    scd_finetune *run;
    float *labels, *targets, *weights; /* of the cells in the pack; targets: smoothed labels */
    double loss, weight;               /* sums over the step */
    size_t tokens;
} step_state;

/* Forward and back for what is in the pack. */
static scd_code micro_step(step_state *s, scd_error *err)
{
    scd_finetune *run = s->run;
    const scd_net_batch *batch = scd_pack_batch(run->c.pack);
    size_t n = batch->n_cells;
    if (!n)
        return SCD_OK;
    double loss = 0;
    const float *d_latents = NULL;
    scd_code code = scd_net_forward(run->c.net, batch, 1, err);
    const float *latents = scd_net_device_latents(run->c.net);
    if (!code)
        code = scd_class_head_forward(run->c.head, latents, n, NULL, err);
    if (!code)
        code = scd_class_head_loss(run->c.head, latents, n, s->targets, s->weights,
                                   1.0f / (float)run->o->batch, &loss, &d_latents, err);
    if (!code && run->c.genes_head) /* what is said of the loss is the mean of both halves' */
        loss = (loss + scd_gene_head_loss(run->c.genes_head, batch, s->labels, s->weights,
                                          1.0f / (float)run->o->batch)) /
               2;
    if (!code && !run->frozen)
        code = scd_net_latent_gradient(run->c.net, d_latents, err);
    if (!code && !run->frozen)
        code = scd_net_backward(run->c.net, run->first_layer, err);
    s->loss += loss;
    s->tokens += batch->n_rows;
    scd_pack_clear(run->c.pack);
    return code;
}

/* Cells in the feed's window of the same file, label and group: what may be summed with this one.
 */
static size_t find_partners(const scd_finetune *run, const scd_corpus_cell *cell, size_t index,
                            const scd_corpus_cell *partners[MAX_PARTNERS])
{
    const scd_corpus_cell *cells;
    const size_t *indices;
    const scd_labels *l = &run->labels;
    if (run->o->augment.sum_share <= 0)
        return 0;
    size_t n = scd_feed_window(run->feed, &cells, &indices), found = 0;
    size_t start = n ? (size_t)(run->drawn * 7919 % n) : 0; /* not always the same partners */
    for (size_t i = 0; i < n && found < MAX_PARTNERS; i++) {
        size_t at = (start + i) % n, other = indices[at];
        if (other != index && cells[at].file == cell->file && l->best[other] == l->best[index] &&
            l->groups[other] == l->groups[index])
            partners[found++] = &cells[at];
    }
    return found;
}

static scd_code add_cell(step_state *s, scd_error *err)
{
    scd_finetune *run = s->run;
    const scd_corpus_cell *cell, *partners[MAX_PARTNERS];
    size_t index, classes = run->labels.n_classes;
    scd_code code = scd_feed_next(run->feed, &cell, &index, err);
    if (code)
        return code;
    scd_augment_input in = {.cell = cell,
                            .partners = partners,
                            .n_partners = find_partners(run, cell, index, partners),
                            .draw = run->drawn++};
    scd_arena arena;
    scd_cell out;
    scd_arena_init(&arena, SIZE_MAX / 2);
    code = scd_augment(&run->augment, &in, run->c.config, run->c.vocab, &arena, &out, err);
    scd_sequence sequence = {.n = out.n_tokens, .ids = out.ids, .values = out.values};
    if (!code && !scd_pack_add(run->c.pack, &sequence)) {
        code = micro_step(s, err);
        if (!code && !scd_pack_add(run->c.pack, &sequence))
            code = scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit", sequence.n);
    }
    scd_arena_release(&arena);
    if (code)
        return code;
    size_t at = scd_pack_batch(run->c.pack)->n_cells - 1;
    float smooth = (float)run->o->label_smoothing;
    memcpy(s->labels + at * classes, run->labels.targets + index * classes,
           classes * sizeof *s->labels);
    for (size_t k = 0; k < classes; k++)
        s->targets[at * classes + k] =
            (1 - smooth) * s->labels[at * classes + k] + smooth / (float)classes;
    s->weights[at] = run->weights[index];
    s->weight += (double)run->weights[index];
    return SCD_OK;
}

static scd_code update(scd_finetune *run, scd_error *err)
{
    const scd_finetune_options *o = run->o;
    double squares = 0, norm = 0;
    float scale = 1;
    double factor =
        scd_schedule_lr(1, run->step, (uint64_t)(o->warmup * (double)run->n_steps), run->n_steps);
    scd_net_step step = {.step = run->step,
                         .lr = (float)(o->backbone_lr * factor),
                         .beta1 = (float)o->beta1,
                         .beta2 = (float)o->beta2,
                         .eps = 1e-8f,
                         .decay = (float)o->decay,
                         .clip = (float)o->clip,
                         .first_layer = run->first_layer};
    scd_code code = scd_class_head_squares(run->c.head, &squares, err);
    step.extra_squares = squares;
    if (!code && !run->frozen)
        code = scd_net_update(run->c.net, &step, &norm, &scale, err);
    else if (!code && o->clip > 0 && sqrt(squares) > o->clip)
        scale = (float)(o->clip / sqrt(squares));
    step.lr = (float)(o->lr * factor);
    if (!code)
        code = scd_class_head_update(run->c.head, &step, scale, err);
    step.lr = (float)(o->gene_lr * factor);
    return code || !run->c.genes_head ? code : scd_gene_head_update(run->c.genes_head, &step, err);
}

static scd_code one_step(step_state *s, scd_error *err)
{
    scd_finetune *run = s->run;
    s->loss = s->weight = 0;
    s->tokens = 0;
    scd_pack_clear(run->c.pack);
    scd_code code = scd_class_head_zero_grads(run->c.head, err);
    if (!code && !run->frozen)
        code = scd_net_zero_grads(run->c.net, err);
    for (size_t i = 0; i < run->o->batch && !code; i++)
        code = add_cell(s, err);
    if (!code)
        code = micro_step(s, err);
    run->step++;
    return code ? code : update(run, err);
}

/* ---- held-out cells -------------------------------------------------------------------------- */

typedef struct held_out {
    const scd_finetune *run;
    float *logits, *targets;
    int32_t *truth;
    size_t n;
} held_out;

static scd_code keep_answer(void *arg, const scd_classified *cell, scd_error *err)
{
    held_out *h = arg;
    size_t classes = h->run->labels.n_classes;
    if (!cell->logits)
        return scd_fail(err, SCD_E_INTERNAL, "held-out cell %s without genes", cell->barcode);
    memcpy(h->logits + h->n * classes, cell->logits, classes * sizeof *h->logits);
    if (h->targets)
        memcpy(h->targets + h->n * classes, h->run->labels.targets + cell->index * classes,
               classes * sizeof *h->targets);
    if (h->truth)
        h->truth[h->n] = h->run->labels.best[cell->index];
    h->n++;
    return SCD_OK;
}

scd_code scd_finetune_evaluate(scd_finetune *run, const scd_augment_options *augment,
                               uint64_t first_draw, float *logits, float *targets, int32_t *truth,
                               scd_error *err)
{
    held_out h = {run, logits, targets, truth, 0};
    scd_code code = scd_feed_seek(run->held_feed, 0, err);
    return code ? code
                : scd_classifier_run(&run->c, run->held_feed, run->n_held, augment, first_draw,
                                     keep_answer, &h, err);
}

static scd_code score(scd_finetune *run, scd_scores *out, scd_error *err)
{
    size_t classes = run->labels.n_classes;
    float *logits = scd_malloc(run->n_held * classes, sizeof *logits);
    float *targets = scd_malloc(run->n_held * classes, sizeof *targets);
    int32_t *truth = scd_malloc(run->n_held, sizeof *truth);
    scd_code code = SCD_OK;
    if (!logits || !targets || !truth)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu held-out cells", run->n_held);
    if (!code)
        code = scd_finetune_evaluate(run, NULL, 0, logits, targets, truth, err);
    if (!code)
        code = scd_scores_of(logits, targets, truth, run->n_held, classes, 1, out, err);
    free(logits);
    free(targets);
    free(truth);
    return code;
}

/* ---- what learns ----------------------------------------------------------------------------- */

static scd_code part_export(scd_finetune *run, size_t part, float *params, float *m, float *v,
                            scd_error *err)
{
    if (!run->parts[part].n)
        return SCD_OK;
    if (part == SCD_PART_MLP)
        return scd_class_head_export(run->c.head, params, m, v, err);
    if (part == SCD_PART_GENES)
        return scd_gene_head_export(run->c.genes_head, params, m, v, err);
    return scd_net_export_state(run->c.net, params, m, v, err);
}

static scd_code part_import(scd_finetune *run, size_t part, const float *params, const float *m,
                            const float *v, scd_error *err)
{
    if (!run->parts[part].n)
        return SCD_OK;
    if (part == SCD_PART_MLP)
        return scd_class_head_import(run->c.head, params, m, v, err);
    if (part == SCD_PART_GENES)
        return scd_gene_head_import(run->c.genes_head, params, m, v, err);
    return scd_net_import_state(run->c.net, params, m, v, err);
}

static scd_code parts_new(scd_finetune *run, scd_error *err)
{
    run->parts[SCD_PART_MLP].n = scd_class_head_n_params(run->c.head);
    run->parts[SCD_PART_GENES].n =
        run->c.genes_head ? scd_gene_head_n_params(run->c.genes_head) : 0;
    run->parts[SCD_PART_NET].n = run->frozen ? 0 : scd_net_n_params(run->c.net);
    for (size_t i = 0; i < SCD_PARTS; i++) {
        scd_finetune_part *part = &run->parts[i];
        part->best = scd_calloc(part->n + 1, sizeof(float));
        part->now = run->o->average > 0 ? scd_calloc(part->n + 1, sizeof(float)) : NULL;
        if (!part->best || (run->o->average > 0 && !part->now))
            return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu parameters", part->n);
    }
    return SCD_OK;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

enum { PARAMS, M, V, BEST, OF_PART }; /* arrays of a part */

/* Parameters, moments and the best of each part in one host block. */
typedef struct state {
    float *block;
    scd_checkpoint c;
} state;

static scd_code state_new(const scd_finetune *run, state *s, scd_error *err)
{
    size_t total = 0, at = 0;
    s->c = (scd_checkpoint){.fingerprint = run->fingerprint, .n_arrays = OF_PART * SCD_PARTS};
    for (size_t i = 0; i < SCD_PARTS; i++)
        total += OF_PART * run->parts[i].n;
    s->block = scd_malloc(total, sizeof *s->block);
    if (!s->block)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a checkpoint");
    for (size_t i = 0; i < s->c.n_arrays; i++) {
        s->c.arrays[i].data = s->block + at;
        s->c.arrays[i].n = run->parts[i / OF_PART].n;
        at += s->c.arrays[i].n;
    }
    return SCD_OK;
}

static float *state_array(const state *s, size_t part, size_t which)
{
    return s->c.arrays[part * OF_PART + which].data;
}

static scd_code save(scd_finetune *run, scd_error *err)
{
    state s;
    scd_code code = state_new(run, &s, err);
    if (code)
        return code;
    s.c.step = run->step;
    s.c.drawn = run->drawn;
    s.c.numbers[BEST_F1] = run->best_f1;
    s.c.numbers[BEST_EPOCH] = run->best_epoch;
    for (size_t i = 0; i < SCD_PARTS && !code; i++) {
        code = part_export(run, i, state_array(&s, i, PARAMS), state_array(&s, i, M),
                           state_array(&s, i, V), err);
        memcpy(state_array(&s, i, BEST), run->parts[i].best, run->parts[i].n * sizeof(float));
    }
    if (!code)
        code = scd_checkpoint_write(run->checkpoint_path, &s.c, err);
    free(s.block);
    return code;
}

/* SCD_E_NOT_FOUND: a new run. */
static scd_code resume(scd_finetune *run, scd_error *err)
{
    state s;
    scd_code code = state_new(run, &s, err);
    if (code)
        return code;
    code = scd_checkpoint_read(run->checkpoint_path, &s.c, err);
    for (size_t i = 0; i < SCD_PARTS && !code; i++) {
        code = part_import(run, i, state_array(&s, i, PARAMS), state_array(&s, i, M),
                           state_array(&s, i, V), err);
        memcpy(run->parts[i].best, state_array(&s, i, BEST), run->parts[i].n * sizeof(float));
    }
    if (!code) {
        run->step = s.c.step;
        run->drawn = s.c.drawn;
        run->best_f1 = s.c.numbers[BEST_F1];
        run->best_epoch = s.c.numbers[BEST_EPOCH];
        code = scd_feed_seek(run->feed, run->drawn, err);
    }
    free(s.block);
    return code;
}

/* ---- the run --------------------------------------------------------------------------------- */

static scd_code keep_best(scd_finetune *run, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < SCD_PARTS && !code; i++)
        code = part_export(run, i, run->parts[i].best, NULL, NULL, err);
    return code;
}

/* Steps whose weights are in the mean, this one included; 0: not yet, or no mean is asked for.
 * Weights averaged along the run's end lie nearer to the middle of a flat region than any of them
 * (Izmailov et al. 2018, arXiv 1803.05407), which is what other laboratories' cells ask for. */
static uint64_t n_averaged(const scd_finetune *run)
{
    uint64_t first = run->n_steps - (uint64_t)(run->o->average * (double)run->n_steps);
    return run->step > first ? run->step - first : 0;
}

static void move_mean(float *mean, const float *now, size_t n, uint64_t count)
{
    float share = 1.0f / (float)count;
    for (size_t i = 0; i < n; i++)
        mean[i] += (now[i] - mean[i]) * share;
}

/* After each step. */
static scd_code average(scd_finetune *run, scd_error *err)
{
    uint64_t n = n_averaged(run);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < SCD_PARTS && n && !code; i++) {
        code = part_export(run, i, run->parts[i].now, NULL, NULL, err);
        if (!code)
            move_mean(run->parts[i].best, run->parts[i].now, run->parts[i].n, n);
    }
    return code;
}

static scd_code take_best(scd_finetune *run, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < SCD_PARTS && !code; i++)
        code = part_import(run, i, run->parts[i].best, NULL, NULL, err);
    return code;
}

/* Scores, the log's row, a checkpoint. */
static scd_code end_epoch(scd_finetune *run, scd_progress *progress, double train_loss,
                          scd_error *err)
{
    scd_scores s;
    double epoch = (double)run->step / (double)run->steps_per_epoch;
    scd_code code = score(run, &s, err);
    if (code)
        return code;
    const double row[] = {epoch,      train_loss, s.loss, s.accuracy, s.balanced_accuracy,
                          s.macro_f1, s.ece};
    code = scd_progress_log(progress, run->step, row, err);
    scd_progress_say(progress,
                     "epoch %.0f: loss %.4f; held out: loss %.4f, accuracy %.4f, macro-F1 %.4f, "
                     "ECE %.4f",
                     epoch, train_loss, s.loss, s.accuracy, s.macro_f1, s.ece);
    /* Without early stopping the last epoch, at the end of the learning rate's descent, is the one:
     * a choice among many by few held-out cells is a choice by luck. */
    if (!code && (!run->o->patience || s.macro_f1 > run->best_f1)) {
        run->best_f1 = s.macro_f1;
        run->best_epoch = epoch;
        if (!n_averaged(run))
            code = keep_best(run, err);
    }
    return code ? code : save(run, err);
}

/* No better macro-F1 for `patience` epochs: asked at an epoch's end. */
static bool is_over(const scd_finetune *run)
{
    double epoch = (double)run->step / (double)run->steps_per_epoch;
    return run->o->patience && run->step % run->steps_per_epoch == 0 &&
           epoch - run->best_epoch >= (double)run->o->patience;
}

static scd_code steps(scd_finetune *run, step_state *s, scd_progress *progress, scd_error *err)
{
    double loss = 0, weight = 0;
    scd_code code = SCD_OK;
    while (run->step < run->n_steps && !is_over(run) && !code) {
        code = one_step(s, err);
        if (!code)
            code = average(run, err);
        loss += s->loss;
        weight += s->weight;
        char text[64];
        snprintf(text, sizeof text, "loss %.4f", s->weight > 0 ? s->loss / s->weight : 0);
        if (!code)
            scd_progress_step(progress, run->step, s->tokens, text);
        if (!code && run->step % run->steps_per_epoch == 0) {
            code = end_epoch(run, progress, loss / weight, err);
            loss = weight = 0;
        }
        if (!code && scd_stop_asked() && run->step < run->n_steps && !is_over(run)) {
            code = save(run, err);
            if (!code)
                code = scd_fail(err, SCD_E_CANCELED,
                                "stopped at step %llu; the same command goes on from there",
                                (unsigned long long)run->step);
        }
    }
    return code;
}

static scd_code begin(scd_finetune *run, scd_error *err)
{
    scd_code code = parts_new(run, err);
    if (code)
        return code;
    run->best_f1 = -1;
    code = resume(run, err);
    if (code != SCD_E_NOT_FOUND)
        return code;
    return scd_class_head_randomize(run->c.head, run->o->seed, err);
}

scd_code scd_finetune_train(scd_finetune *run, scd_error *err)
{
    static const char *const columns[] = {
        "epoch",         "train_loss", "held_loss", "held_accuracy", "held_balanced_accuracy",
        "held_macro_f1", "held_ece"};
    scd_progress *progress = NULL;
    char csv[4096];
    step_state s = {.run = run};
    size_t most = run->o->micro_rows / 2 + run->c.config->max_gene_len + 1;
    run->steps_per_epoch = (run->n_train + run->o->batch - 1) / run->o->batch;
    run->n_steps = run->steps_per_epoch * run->o->epochs;
    snprintf(csv, sizeof csv, "%s/train.csv", run->dir.hidden);
    s.labels = scd_malloc(most * run->labels.n_classes, sizeof *s.labels);
    s.targets = scd_malloc(most * run->labels.n_classes, sizeof *s.targets);
    s.weights = scd_malloc(most, sizeof *s.weights);
    scd_code code = SCD_OK;
    if (!s.labels || !s.targets || !s.weights)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a batch");
    if (!code)
        code = begin(run, err);
    if (!code)
        code = scd_progress_new("finetune", run->n_steps, run->step, csv, columns,
                                sizeof columns / sizeof columns[0], &progress, err);
    if (!code && run->step)
        scd_progress_say(progress, "going on from step %llu of %zu", (unsigned long long)run->step,
                         run->n_steps);
    if (!code)
        code = steps(run, &s, progress, err);
    scd_progress_free(progress);
    free(s.labels);
    free(s.targets);
    free(s.weights);
    return code ? code : take_best(run, err);
}
