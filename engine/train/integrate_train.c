/* integrate_train.c - steps of integration: each cell in two views, three losses, one encoder.
 *
 * The first view is the cell (augmented, if that is asked for), the second the same with a share of
 * its tokens hidden, to be reconstructed. Both views' [LAT] states are shown to a discriminator
 * that learns to name the batch, and the encoder gets its gradient reversed; both take part in the
 * contrastive loss: views of one label are alike, told from those of other labels; of a cell
 * without a label its two views are, told from the cells of its own batch.
 *
 * The contrastive loss is over all views of a step. Where these are more than a micro-batch holds,
 * the encoder runs twice: first for all [LAT] states, then, with the loss's gradient of them known,
 * forward and back; so the loss does not depend on how a step is cut. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/checkpoint.h"
#include "engine/train/contrast.h"
#include "engine/train/corrupt.h"
#include "engine/train/finetune_integrate.h"
#include "engine/train/progress.h"
#include "engine/train/schedule.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VIEWS = 2 };
#define MASK_STREAM (UINT64_C(0xC3) << 56)
#define LEAST_RATE 1e-6
#define VALUE_ONLY 0.1 /* of M, where the model was trained to tell a value alone */

typedef struct view {
    scd_sequence sequence;
    size_t cell; /* of the corpus */
} view;

typedef struct step_state {
    scd_integrate *run;
    view *views; /* (n), in the arena as their sequences are */
    size_t n, n_gene, n_value, tokens;
    scd_arena arena;
    int32_t *kind, *domain;      /* (n) */
    float *latents, *d_contrast; /* (n, H) */
    float *d_adversary;          /* (n, H) of a micro-batch */
    float *targets, *weights;    /* (n, n_batches), (n) the batch of each view, what it counts */
    float *logits;               /* (n, n_batches) of a micro-batch */
    float *d_latents;            /* device (n, H) */
} step_state;

static size_t hidden_dim(const step_state *s)
{
    return s->run->config.hidden_dim;
}

/* ---- views ----------------------------------------------------------------------------------- */

static scd_code hide_some(step_state *s, const scd_cell *cell, uint64_t draw, scd_sequence *out,
                          scd_error *err)
{
    scd_integrate *run = s->run;
    double t = run->o->mask_max * (double)scd_rng_uniform(run->o->seed, MASK_STREAM, draw);
    const scd_corrupt_options options = {.seed = run->o->seed,
                                         .depth_min = 1,
                                         .rate = t > LEAST_RATE ? t : LEAST_RATE,
                                         .value_only = run->config.value_masking ? VALUE_ONLY : 0};
    const scd_clean_cell clean = {cell->n_tokens, cell->ids, cell->values};
    scd_corrupted corrupted;
    scd_code code =
        scd_corrupt(&options, &run->config, run->c.vocab, &clean, draw, &s->arena, &corrupted, err);
    s->n_gene += corrupted.n_gene;
    s->n_value += corrupted.n_value;
    *out = corrupted.sequence;
    return code;
}

/* The next cell of the feed, in its views. */
static scd_code draw_cell(step_state *s, scd_error *err)
{
    scd_integrate *run = s->run;
    const scd_corpus_cell *cell;
    scd_corpus_cell taken;
    size_t index;
    scd_code code = scd_feed_next(run->feed, &cell, &index, err);
    if (!code)
        code = scd_classifier_take(&run->c, cell, &s->arena, &taken, err);
    for (uint64_t i = 0; i < VIEWS && !code; i++) {
        const scd_augment_input in = {.cell = &taken, .draw = VIEWS * run->drawn + i};
        view *v = &s->views[s->n++];
        scd_cell out;
        code = scd_augment(&run->o->augment, &in, &run->config, run->c.vocab, &s->arena, &out, err);
        v->cell = index;
        v->sequence = (scd_sequence){.n = out.n_tokens, .ids = out.ids, .values = out.values};
        if (!code && i)
            code = hide_some(s, &out, in.draw, &v->sequence, err);
        if (code)
            scd_fail_within(err, "%s, row %u (%s)", scd_corpus_file_name(run->corpus, cell->file),
                            cell->row, cell->barcode);
        s->tokens += v->sequence.n;
    }
    run->drawn++;
    return code;
}

/* Packs views [first, ...) while they fit; how many. */
static size_t pack_some(step_state *s, size_t first)
{
    size_t n = 0;
    scd_pack_clear(s->run->c.pack);
    while (first + n < s->n && scd_pack_add(s->run->c.pack, &s->views[first + n].sequence))
        n++;
    return n;
}

static scd_code encode(step_state *s, size_t first, size_t *n, scd_error *err)
{
    *n = pack_some(s, first);
    if (!*n)
        return scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit",
                        s->views[first].sequence.n);
    return scd_net_forward(s->run->c.net, scd_pack_batch(s->run->c.pack), 1, err);
}

/* ---- the losses ------------------------------------------------------------------------------ */

/* d_contrast, from the [LAT] states of all views. */
static scd_code contrast(step_state *s, scd_error *err)
{
    scd_integrate *run = s->run;
    double loss = 0;
    for (size_t i = 0; i < s->n; i++) {
        int32_t label = scd_integrate_label(run, s->views[i].cell);
        /* a cell without a label is like itself alone */
        s->kind[i] = label >= 0 ? label : (int32_t)(run->labels.n_classes + i / VIEWS);
        s->domain[i] = run->batches.codes[s->views[i].cell];
    }
    const scd_contrast c = {.n = s->n,
                            .dim = hidden_dim(s),
                            .x = s->latents,
                            .kind = s->kind,
                            .n_labels = (int32_t)run->labels.n_classes,
                            .domain = s->domain,
                            .temperature = run->o->temperature};
    scd_code code =
        scd_contrast_loss(&c, run->o->contrast / (double)s->n, &loss, s->d_contrast, err);
    run->sums.contrast += loss;
    run->sums.n_views += (double)s->n;
    return code;
}

/* Targets and weights of all views. */
static void name_batches(step_state *s)
{
    const scd_integrate *run = s->run;
    size_t B = run->batches.n_values;
    memset(s->targets, 0, s->n * B * sizeof *s->targets);
    for (size_t i = 0; i < s->n; i++) {
        size_t cell = s->views[i].cell;
        s->targets[i * B + (size_t)run->batches.codes[cell]] = 1;
        s->weights[i] = run->weights[cell];
    }
}

/* The discriminator on the n [LAT] states at `latents` (device), which are of the views from
 * `first`: gradients of its parameters are added, *d_latents is that of the states. */
static scd_code tell_batches(step_state *s, size_t first, size_t n, const float *latents,
                             double *loss, const float **d_latents, scd_error *err)
{
    scd_class_head *head = s->run->c.head;
    size_t B = s->run->batches.n_values;
    scd_code code = scd_class_head_forward(head, latents, n, s->logits, err);
    return code ? code
                : scd_class_head_loss(head, latents, n, s->targets + first * B, s->weights + first,
                                      1.0f / (float)s->n, loss, d_latents, err);
}

/* A few steps of the discriminator on the encoder as it is: one that lags behind leads the encoder
 * round in circles. */
static scd_code teach_adversary(step_state *s, double factor, scd_error *err)
{
    scd_integrate *run = s->run;
    const scd_integrate_options *o = run->o;
    size_t h = hidden_dim(s), room = o->micro_rows / 2; /* of the head's micro-batch */
    scd_net_step step = {.lr = (float)(o->adversary_lr * factor),
                         .beta1 = 0.9f,
                         .beta2 = 0.999f,
                         .eps = 1e-8f,
                         .decay = (float)o->decay};
    scd_code code = run->c.be->upload(run->c.device, s->d_latents, s->latents,
                                      s->n * h * sizeof *s->latents, err);
    for (size_t i = 0; i < o->adversary_steps && !code; i++) {
        code = scd_class_head_zero_grads(run->c.head, err);
        for (size_t first = 0; first < s->n && !code; first += room) {
            size_t n = s->n - first < room ? s->n - first : room;
            const float *unused;
            double loss;
            code = tell_batches(s, first, n, s->d_latents + first * h, &loss, &unused, err);
        }
        step.step = run->step * o->adversary_steps + i + 1;
        if (!code)
            code = scd_class_head_update(run->c.head, &step, 1, err);
    }
    return code;
}

/* Counts what the discriminator got right. Where it is no better than by chance the encoder has
 * nothing to hide: without this the encoder would go on to be taken for another batch, and batches
 * would lie apart the other way round. */
static void judge(step_state *s, size_t first, size_t n)
{
    size_t B = s->run->batches.n_values, h = hidden_dim(s);
    for (size_t i = 0; i < n; i++) {
        const float *logits = s->logits + i * B, *target = s->targets + (first + i) * B;
        double sum = 0, weight = (double)s->weights[first + i];
        size_t best = 0, truth = 0;
        for (size_t b = 1; b < B; b++) {
            best = logits[b] > logits[best] ? b : best;
            truth = target[b] > 0 ? b : truth;
        }
        for (size_t b = 0; b < B; b++)
            sum += exp((double)logits[b] - (double)logits[truth]);
        s->run->sums.weight += weight;
        s->run->sums.right += best == truth ? weight : 0;
        if (sum >= (double)B)
            memset(s->d_adversary + i * h, 0, h * sizeof *s->d_adversary);
    }
}

/* d_adversary: the discriminator's gradient of the n [LAT] states of the net that it knows. */
static scd_code ask_adversary(step_state *s, size_t first, size_t n, scd_error *err)
{
    scd_integrate *run = s->run;
    const float *d_latents = NULL;
    double loss = 0;
    scd_code code =
        tell_batches(s, first, n, scd_net_device_latents(run->c.net), &loss, &d_latents, err);
    if (!code)
        code = run->c.be->synchronize(run->c.device, err);
    if (!code)
        code = run->c.be->download(run->c.device, s->d_adversary, d_latents,
                                   n * hidden_dim(s) * sizeof *s->d_adversary, err);
    run->sums.batch += loss;
    if (!code)
        judge(s, first, n);
    return code;
}

static scd_code reconstruct(step_state *s, scd_error *err)
{
    const scd_integrate_options *o = s->run->o;
    scd_integrate_sums *sums = &s->run->sums;
    scd_net_loss loss;
    float gene = s->n_gene ? (float)(o->reconstruction / (double)s->n_gene) : 0;
    float value =
        s->n_value ? (float)(o->reconstruction * o->value_weight / (double)s->n_value) : 0;
    scd_code code = scd_net_pretrain_loss(s->run->c.net, gene, value, &loss, err);
    sums->gene += loss.gene_sum;
    sums->n_gene += (double)loss.n_gene;
    sums->value += loss.value_sum;
    sums->n_value += (double)loss.n_value;
    return code;
}

/* All three, and back, for the n views from `first` that the net has run. */
static scd_code learn(step_state *s, size_t first, size_t n, double strength, scd_error *err)
{
    scd_integrate *run = s->run;
    float *gradient = s->d_contrast + first * hidden_dim(s);
    size_t numbers = n * hidden_dim(s);
    scd_code code = ask_adversary(s, first, n, err);
    if (code)
        return code;
    scd_reverse_gradient(s->d_adversary, strength, numbers, gradient);
    code =
        run->c.be->upload(run->c.device, s->d_latents, gradient, numbers * sizeof *gradient, err);
    if (!code)
        code = scd_net_latent_gradient(run->c.net, s->d_latents, err);
    if (!code)
        code = reconstruct(s, err);
    return code ? code : scd_net_backward(run->c.net, 0, err);
}

/* ---- one step -------------------------------------------------------------------------------- */

static scd_code update(scd_integrate *run, double factor, scd_error *err)
{
    const scd_integrate_options *o = run->o;
    double norm;
    float scale;
    const scd_net_step step = {.step = run->step + 1,
                               .lr = (float)(o->lr * factor),
                               .beta1 = 0.9f,
                               .beta2 = 0.999f,
                               .eps = 1e-8f,
                               .decay = (float)o->decay,
                               .clip = (float)o->clip};
    return scd_net_update(run->c.net, &step, &norm, &scale, err);
}

/* s->latents of all views; *n: how many of them the net holds, from the first on, where it holds
 * them all. */
static scd_code encode_all(step_state *s, size_t *n, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t first = 0; first < s->n && !code; first += *n) {
        code = encode(s, first, n, err);
        if (!code)
            code = scd_net_latents(s->run->c.net, s->latents + first * hidden_dim(s), err);
    }
    return code;
}

static scd_code one_step(step_state *s, scd_error *err)
{
    scd_integrate *run = s->run;
    size_t n = 0, warmup = (size_t)(run->o->warmup * (double)run->n_steps);
    double factor = scd_schedule_lr(1, run->step + 1, warmup, run->n_steps);
    double strength =
        run->o->adversary * scd_reverse_strength((double)run->step / (double)run->n_steps);
    scd_code code = scd_net_zero_grads(run->c.net, err);
    s->n = s->n_gene = s->n_value = s->tokens = 0;
    for (size_t i = 0; i < run->o->batch && !code; i++)
        code = draw_cell(s, err);
    if (!code)
        code = encode_all(s, &n, err);
    if (!code)
        code = contrast(s, err);
    if (!code) {
        name_batches(s);
        code = teach_adversary(s, factor, err);
    }
    bool whole = n == s->n; /* the net has run them all at once */
    for (size_t first = 0; first < s->n && !code; first += n) {
        if (!whole)
            code = encode(s, first, &n, err);
        if (!code)
            code = learn(s, first, n, strength, err);
    }
    scd_arena_release(&s->arena);
    if (!code)
        code = update(run, factor, err);
    run->step += !code;
    return code;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

/* Parameters and moments of encoder and discriminator: one allocation, free(arrays[0].data). */
static scd_code checkpoint_new(const scd_integrate *run, scd_checkpoint *c, scd_error *err)
{
    size_t net = scd_net_n_params(run->c.net), head = scd_class_head_n_params(run->c.head);
    float *all = scd_malloc(net + head, 3 * sizeof *all);
    *c = (scd_checkpoint){.fingerprint = run->fingerprint, .n_arrays = 6};
    if (!all)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a checkpoint");
    for (size_t i = 0; i < 6; i++) {
        c->arrays[i].data = all;
        c->arrays[i].n = i < 3 ? net : head;
        all += c->arrays[i].n;
    }
    _Static_assert(sizeof run->sums <= sizeof c->numbers, "room for the sums");
    return SCD_OK;
}

static scd_code save(const scd_integrate *run, scd_error *err)
{
    scd_checkpoint c;
    scd_code code = checkpoint_new(run, &c, err);
    if (code)
        return code;
    c.step = run->step;
    c.drawn = run->drawn;
    memcpy(c.numbers, &run->sums, sizeof run->sums);
    code =
        scd_net_export_state(run->c.net, c.arrays[0].data, c.arrays[1].data, c.arrays[2].data, err);
    if (!code)
        code = scd_class_head_export(run->c.head, c.arrays[3].data, c.arrays[4].data,
                                     c.arrays[5].data, err);
    if (!code)
        code = scd_checkpoint_write(run->checkpoint_path, &c, err);
    free(c.arrays[0].data);
    return code;
}

/* SCD_E_NOT_FOUND: a new run. */
static scd_code resume(scd_integrate *run, scd_error *err)
{
    scd_checkpoint c;
    scd_code code = checkpoint_new(run, &c, err);
    if (code)
        return code;
    code = scd_checkpoint_read(run->checkpoint_path, &c, err);
    if (!code)
        code = scd_net_import_state(run->c.net, c.arrays[0].data, c.arrays[1].data,
                                    c.arrays[2].data, err);
    if (!code)
        code = scd_class_head_import(run->c.head, c.arrays[3].data, c.arrays[4].data,
                                     c.arrays[5].data, err);
    if (!code) {
        run->step = c.step;
        run->drawn = c.drawn;
        memcpy(&run->sums, c.numbers, sizeof run->sums);
        code = scd_feed_seek(run->feed, run->drawn, err);
    }
    free(c.arrays[0].data);
    return code;
}

/* ---- the run --------------------------------------------------------------------------------- */

static double ratio(double sum, double n)
{
    return n > 0 ? sum / n : NAN;
}

static scd_code end_epoch(scd_integrate *run, scd_progress *progress, scd_error *err)
{
    const scd_integrate_sums *s = &run->sums;
    const double row[] = {(double)run->step / (double)run->steps_per_epoch,
                          ratio(s->gene, s->n_gene),
                          ratio(s->value, s->n_value),
                          ratio(s->batch, s->weight),
                          ratio(s->right, s->weight),
                          ratio(s->contrast, s->n_views)};
    scd_code code = scd_progress_log(progress, run->step, row, err);
    scd_progress_say(progress, "epoch %.0f: gene %.4f, value %.4f; batch named %.4f; contrast %.4f",
                     row[0], row[1], row[2], row[4], row[5]);
    run->sums = (scd_integrate_sums){0};
    return code ? code : save(run, err);
}

static scd_code steps(step_state *s, scd_progress *progress, scd_error *err)
{
    scd_integrate *run = s->run;
    scd_code code = SCD_OK;
    while (run->step < run->n_steps && !code) {
        char text[64];
        code = one_step(s, err);
        snprintf(text, sizeof text, "batch %.3f contrast %.3f",
                 ratio(run->sums.right, run->sums.weight),
                 ratio(run->sums.contrast, run->sums.n_views));
        if (!code)
            scd_progress_step(progress, run->step, s->tokens, text);
        if (!code && run->step % run->steps_per_epoch == 0)
            code = end_epoch(run, progress, err);
        if (!code && scd_stop_asked() && run->step < run->n_steps) {
            code = save(run, err);
            if (!code)
                code = scd_fail(err, SCD_E_CANCELED,
                                "stopped at step %llu; the same command goes on from there",
                                (unsigned long long)run->step);
        }
    }
    return code;
}

static scd_code state_new(step_state *s, scd_error *err)
{
    size_t n = VIEWS * s->run->o->batch, h = hidden_dim(s), B = s->run->batches.n_values;
    size_t bytes = n * h * sizeof(float);
    void *device = NULL;
    s->views = scd_malloc(n, sizeof *s->views);
    s->kind = scd_malloc(n, sizeof *s->kind);
    s->domain = scd_malloc(n, sizeof *s->domain);
    s->weights = scd_malloc(n, sizeof *s->weights);
    s->latents = scd_malloc(n * h, sizeof *s->latents);
    s->d_contrast = scd_malloc(n * h, sizeof *s->d_contrast);
    s->d_adversary = scd_malloc(n * h, sizeof *s->d_adversary);
    s->targets = scd_malloc(n * B, sizeof *s->targets);
    s->logits = scd_malloc(n * B, sizeof *s->logits);
    if (!s->views || !s->kind || !s->domain || !s->weights || !s->latents || !s->d_contrast ||
        !s->d_adversary || !s->targets || !s->logits)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a step of %zu views", n);
    scd_code code = s->run->c.be->alloc(s->run->c.device, bytes, &device, err);
    s->d_latents = device;
    return code;
}

static void state_release(step_state *s)
{
    s->run->c.be->free(s->run->c.device, s->d_latents);
    free(s->logits);
    free(s->targets);
    free(s->d_adversary);
    free(s->d_contrast);
    free(s->latents);
    free(s->weights);
    free(s->domain);
    free(s->kind);
    free(s->views);
    scd_arena_release(&s->arena);
}

scd_code scd_integrate_train(scd_integrate *run, scd_error *err)
{
    static const char *const columns[] = {"epoch",      "gene_loss",   "value_loss",
                                          "batch_loss", "batch_named", "contrast"};
    scd_progress *progress = NULL;
    char csv[4200];
    step_state s = {.run = run};
    run->steps_per_epoch = (run->n_train + run->o->batch - 1) / run->o->batch;
    run->n_steps = run->steps_per_epoch * run->o->epochs;
    snprintf(csv, sizeof csv, "%s/train.csv", run->dir.hidden);
    scd_arena_init(&s.arena, SIZE_MAX / 2);
    scd_code code = state_new(&s, err);
    if (!code)
        code = resume(run, err);
    if (code == SCD_E_NOT_FOUND)
        code = scd_class_head_randomize(run->c.head, run->o->seed, err);
    if (!code)
        code = scd_progress_new("integrate", run->n_steps, run->step, csv, columns,
                                sizeof columns / sizeof columns[0], &progress, err);
    if (!code && run->step)
        scd_progress_say(progress, "going on from step %llu of %zu", (unsigned long long)run->step,
                         run->n_steps);
    if (!code)
        code = steps(&s, progress, err);
    scd_progress_free(progress);
    state_release(&s);
    return code;
}
