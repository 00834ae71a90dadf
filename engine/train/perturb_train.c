/* perturb_train.c - epochs of the network of a perturbation head (finetune_perturb.h).
 *
 * A sample is one condition seen from one control cell of its context: the additive effects say b,
 * the pseudobulk says t, and the network learns y with b + y near t. Genes that change count more
 * (weighted squared error), and those that change most shall stay ahead of others (a ranking loss
 * over pairs): with y alone, a small shift of every gene would be as good as the right few genes.
 *
 * The run is a pure function of options and data: every draw is a number of a counter-based
 * stream. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/finetune_perturb.h"
#include "engine/train/progress.h"
#include "engine/train/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL_STREAM = 0x43454c4c, ORDER_STREAM = 0x4f524452, PAIR_STREAM = 0x50414952 };
static const double MARGIN = 0.1; /* of a pair: about the change of a gene worth noticing */

/* One training. */
typedef struct training {
    scd_perturb_run *run;
    size_t n; /* conditions trained on */
    uint32_t *rows;
    float *base;     /* (N, G) additive effects of each kept condition, left out itself */
    double *scale;   /* (C) mean squared delta of the context's conditions */
    float *largest;  /* (N) |delta| of the gene that changes most */
    uint32_t *top;   /* (N, SCD_SCORE_TOP) genes that change most */
    uint64_t *order; /* samples of an epoch: key and number, to sort */
    scd_pert_sample *samples;
    uint32_t *condition; /* of each sample of the batch */
    float *out, *d_out;  /* (batch, G) */
    uint64_t step, pairs;
} training;

static void training_release(training *t)
{
    free(t->rows);
    free(t->base);
    free(t->scale);
    free(t->largest);
    free(t->top);
    free(t->order);
    free(t->samples);
    free(t->condition);
    free(t->out);
    free(t->d_out);
}

static scd_code training_new(scd_perturb_run *run, const uint8_t *keep, training *t, scd_error *err)
{
    const scd_study *s = &run->study.s;
    size_t batch = run->o->batch, N = s->n_conditions;
    *t = (training){.run = run};
    t->rows = scd_malloc(N, sizeof *t->rows);
    t->base = scd_malloc(N * s->n_genes, sizeof *t->base);
    t->scale = scd_calloc(s->n_contexts, sizeof *t->scale);
    t->largest = scd_malloc(N, sizeof *t->largest);
    t->top = scd_malloc(N * SCD_SCORE_TOP, sizeof *t->top);
    t->order = scd_malloc(N * run->o->cells, 2 * sizeof *t->order);
    t->samples = scd_malloc(batch, sizeof *t->samples);
    t->condition = scd_malloc(batch, sizeof *t->condition);
    t->out = scd_malloc(batch * s->n_genes, sizeof *t->out);
    t->d_out = scd_malloc(batch * s->n_genes, sizeof *t->d_out);
    if (!t->rows || !t->base || !t->scale || !t->largest || !t->top || !t->order || !t->samples ||
        !t->condition || !t->out || !t->d_out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu conditions of %zu genes", N,
                        s->n_genes);
    for (size_t i = 0; i < N; i++)
        if (keep[i])
            t->rows[t->n++] = (uint32_t)i;
    return SCD_OK;
}

static size_t n_top(const scd_study *s)
{
    return s->n_genes / 2 < SCD_SCORE_TOP ? s->n_genes / 2 : SCD_SCORE_TOP;
}

/* What each kept condition is learned from. */
static scd_code prepare(training *t, const uint8_t *keep, const scd_fit_settings *settings,
                        scd_error *err)
{
    const scd_study *s = &t->run->study.s;
    size_t G = s->n_genes;
    uint32_t *order = scd_malloc(2 * G, sizeof *order);
    size_t *n = scd_calloc(s->n_contexts, sizeof *n);
    scd_code code = order && n ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t k = 0; k < t->n && !code; k++) {
        size_t i = t->rows[k], context = s->conditions[i].context;
        const float *delta = s->deltas + i * G;
        code = scd_fit_predict(s, keep, &settings[context], i, t->base + i * G, err);
        scd_response_top(delta, G, order);
        memcpy(t->top + i * SCD_SCORE_TOP, order, n_top(s) * sizeof *order);
        t->largest[i] = fmaxf(fabsf(delta[order[0]]), 1e-6f);
        for (size_t g = 0; g < G; g++)
            t->scale[context] += (double)delta[g] * (double)delta[g] / (double)G;
        n[context]++;
    }
    for (size_t c = 0; c < s->n_contexts && !code; c++)
        t->scale[c] = fmax(t->scale[c] / (double)(n[c] ? n[c] : 1), 1e-9);
    free(n);
    free(order);
    return code;
}

/* ---- the loss -------------------------------------------------------------------------------- */

/* The gradient of one sample's loss, times `share`:
 *   mean over genes of (1 + de_weight |t_g| / max |t|) (b_g + y_g - t_g)^2 / scale
 *   + rank_weight x mean over pairs of MARGIN log(1 + exp(-s (p_i - p_j) / MARGIN)),
 * p = b + y, i one of the genes that change most, s its sign, j any other, as many of either. */
static void add_gradient(training *t, size_t i, float share, const float *y, float *d_y)
{
    const scd_study *s = &t->run->study.s;
    const scd_perturb_options *o = t->run->o;
    size_t G = s->n_genes, top = n_top(s);
    const float *delta = s->deltas + i * G, *base = t->base + i * G;
    double scale = t->scale[s->conditions[i].context];
    for (size_t g = 0; g < G; g++) {
        double weight = 1 + o->de_weight * (double)(fabsf(delta[g]) / t->largest[i]);
        double miss = (double)base[g] + (double)y[g] - (double)delta[g];
        d_y[g] = (float)((double)share * 2 * weight * miss / (scale * (double)G));
    }
    for (size_t k = 0; k < top && o->rank_weight > 0; k++) {
        size_t a = t->top[i * SCD_SCORE_TOP + k];
        double sign = delta[a] < 0 ? -1 : 1;
        for (size_t n = 0; n < top; n++) {
            size_t b =
                (size_t)((double)G * (double)scd_rng_uniform(o->seed, PAIR_STREAM, t->pairs++));
            if (fabsf(delta[b]) >= fabsf(delta[a]))
                continue;
            double ahead = sign * ((double)base[a] + (double)y[a] - (double)base[b] - (double)y[b]);
            double pull = o->rank_weight / (double)(top * top) / (1 + exp(ahead / MARGIN));
            d_y[a] -= (float)((double)share * sign * pull);
            d_y[b] += (float)((double)share * sign * pull);
        }
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int by_order(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    if (x[0] != y[0])
        return x[0] < y[0] ? -1 : 1;
    return (x[1] > y[1]) - (x[1] < y[1]);
}

/* Every kept condition `cells` times, in an order of the epoch's own. */
static void shuffle(training *t, size_t epoch)
{
    size_t n = t->n * t->run->o->cells;
    for (size_t i = 0; i < n; i++) {
        uint32_t block[4];
        scd_rng_block(t->run->o->seed, ORDER_STREAM, epoch * n + i, block);
        t->order[2 * i] = (uint64_t)block[0] << 32 | block[1];
        t->order[2 * i + 1] = i;
    }
    qsort(t->order, n, 2 * sizeof *t->order, by_order);
}

static void fill_batch(training *t, size_t first, size_t n, size_t epoch)
{
    const scd_perturb_run *run = t->run;
    const scd_study *s = &run->study.s;
    size_t H = run->c.config->hidden_dim;
    for (size_t k = 0; k < n; k++) {
        uint64_t number = t->order[2 * (first + k) + 1];
        size_t i = t->rows[number / run->o->cells];
        const scd_study_context *context = &run->study.contexts[s->conditions[i].context];
        uint64_t draw = epoch * t->n * run->o->cells + number;
        size_t cell = (size_t)((double)context->n_stored *
                               (double)scd_rng_uniform(run->o->seed, CELL_STREAM, draw));
        t->condition[k] = (uint32_t)i;
        t->samples[k] = (scd_pert_sample){run->embeddings + (context->first_stored + cell) * H,
                                          s->features + i * s->feature_dim, context->direction};
    }
}

static scd_code one_step(training *t, size_t n, uint64_t n_steps, scd_error *err)
{
    const scd_perturb_options *o = t->run->o;
    size_t G = t->run->study.s.n_genes;
    uint64_t warmup = (uint64_t)(o->warmup * (double)n_steps);
    scd_code code = scd_pert_net_forward(t->run->net, t->samples, n, t->out, err);
    for (size_t k = 0; k < n && !code; k++)
        add_gradient(t, t->condition[k], 1.0f / (float)n, t->out + k * G, t->d_out + k * G);
    t->step++;
    const scd_net_step step = {.step = t->step,
                               .lr = (float)scd_schedule_lr(o->lr, t->step, warmup, n_steps),
                               .beta1 = 0.9f,
                               .beta2 = 0.999f,
                               .eps = 1e-8f,
                               .decay = (float)o->decay,
                               .clip = (float)o->clip};
    return code ? code : scd_pert_net_step(t->run->net, t->samples, n, t->d_out, &step, err);
}

static scd_code one_epoch(training *t, size_t epoch, scd_error *err)
{
    const scd_perturb_options *o = t->run->o;
    size_t n = t->n * o->cells, per_epoch = (n + o->batch - 1) / o->batch;
    scd_code code = SCD_OK;
    shuffle(t, epoch);
    for (size_t first = 0; first < n && !code; first += o->batch) {
        size_t count = n - first < o->batch ? n - first : o->batch;
        fill_batch(t, first, count, epoch);
        /* The schedule is that of all epochs asked for: an epoch is the same however many follow.
         */
        code = one_step(t, count, per_epoch * o->epochs, err);
    }
    if (!code && scd_stop_asked())
        code = scd_fail(err, SCD_E_CANCELED, "stopped; the same command starts again");
    return code;
}

scd_code scd_perturb_train(scd_perturb_run *run, const uint8_t *keep,
                           const scd_fit_settings *settings, size_t epochs,
                           scd_perturb_epoch_end *end, void *arg, scd_error *err)
{
    training t;
    scd_code code = training_new(run, keep, &t, err);
    if (!code)
        code = prepare(&t, keep, settings, err);
    if (!code)
        code = scd_pert_net_reset(run->net, run->o->seed, err);
    for (size_t e = 0; e < epochs && !code; e++) {
        code = one_epoch(&t, e, err);
        if (!code && (end || e + 1 == epochs))
            code = scd_pert_net_export(run->net, run->params, err);
        if (!code && end)
            code = end(arg, e, run->params, err);
    }
    training_release(&t);
    return code;
}

void scd_perturb_residual(const scd_perturb_run *run, const float *params, const double *cells,
                          size_t condition, double *scratch, float *out)
{
    const scd_study *s = &run->study.s;
    const scd_study_context *c = &run->study.contexts[s->conditions[condition].context];
    scd_response_net net = scd_pert_net_view(run->net, params);
    scd_response_net_run(&net, cells + c->first_stored * net.mlp_dim, c->n_stored, c->direction,
                         s->features + condition * s->feature_dim, scratch, out);
}
