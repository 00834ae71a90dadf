/* perturb_judge.c - perturbations left out (finetune_perturb.h): what each baseline scores on them,
 * and how much of the network's residual helps.
 *
 * A fold leaves out whole perturbations, from every context at once, and everything is fitted
 * without them: the settings of the additive effects too (by leaving out more). The network's epoch
 * and its gate in each context are chosen on the same folds as the scores are from, which flatters
 * the model; so a gate opens only where it helps by more than the standard error of the help, and
 * by a hundredth of what there is to explain. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/finetune_perturb.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLD_STREAM = 0x464f4c44, ONE_BY_ONE = 32, MANY_FOLDS = 10, N_GATES = 4 };
static const double gate_values[N_GATES] = {0.25, 0.5, 0.75, 1};
static const double LEAST_HELP = 0.01; /* of what there is to explain */

typedef struct judging {
    scd_perturb_run *run;
    size_t n_folds;
    uint32_t *fold;             /* (N) of each condition */
    uint8_t *keep;              /* (N) */
    scd_fit_settings *settings; /* (folds, C) */
    float *effects;             /* (N, G) additive effects of each condition, left out */
    double *cross, *squares;    /* (epochs, N) sums over genes: residual x network's, network's^2 */
    size_t now;                 /* the fold being trained */
    double *cells, *scratch;    /* (n_stored, K), (K + d) */
    float *out;                 /* (G) */
    uint32_t *order;            /* (2 G) */
    scd_response_score *one;    /* (N, SCD_N_SCORES) */
} judging;

static void judging_release(judging *j)
{
    free(j->fold);
    free(j->keep);
    free(j->settings);
    free(j->effects);
    free(j->cross);
    free(j->squares);
    free(j->cells);
    free(j->scratch);
    free(j->out);
    free(j->order);
    free(j->one);
}

static scd_code judging_new(scd_perturb_run *run, judging *j, scd_error *err)
{
    const scd_study *s = &run->study.s;
    size_t N = s->n_conditions, G = s->n_genes, E = run->o->epochs, K = run->o->mlp_dim;
    *j = (judging){.run = run, .n_folds = run->o->folds};
    if (!j->n_folds)
        j->n_folds = s->n_groups <= ONE_BY_ONE ? s->n_groups : MANY_FOLDS;
    if (j->n_folds > s->n_groups)
        j->n_folds = s->n_groups;
    j->fold = scd_calloc(N, sizeof *j->fold);
    j->keep = scd_calloc(N, 1);
    j->settings = scd_calloc(j->n_folds * s->n_contexts, sizeof *j->settings);
    j->effects = scd_calloc(N * G, sizeof *j->effects);
    j->cross = scd_calloc(E * N, sizeof *j->cross);
    j->squares = scd_calloc(E * N, sizeof *j->squares);
    j->cells = scd_calloc(run->study.n_stored * K, sizeof *j->cells);
    j->scratch = scd_calloc(K + s->feature_dim, sizeof *j->scratch);
    j->out = scd_calloc(G, sizeof *j->out);
    j->order = scd_calloc(2 * G, sizeof *j->order);
    j->one = scd_calloc(N * SCD_N_SCORES, sizeof *j->one);
    if (!j->fold || !j->keep || !j->settings || !j->effects || !j->cross || !j->squares ||
        !j->cells || !j->scratch || !j->out || !j->order || !j->one)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu conditions of %zu genes", N, G);
    return SCD_OK;
}

/* Perturbations in an order that the seed fixes, dealt out to the folds in turn. */
static void deal(judging *j)
{
    const scd_study *s = &j->run->study.s;
    for (size_t i = 0; i < s->n_conditions; i++) {
        float key = scd_rng_uniform(j->run->o->seed, FOLD_STREAM, s->group[i]);
        uint32_t rank = 0;
        for (uint32_t g = 0; g < s->n_groups; g++) {
            float other = scd_rng_uniform(j->run->o->seed, FOLD_STREAM, g);
            rank += other < key || (other == key && g < s->group[i]);
        }
        j->fold[i] = rank % (uint32_t)j->n_folds;
    }
}

static void keep_others(judging *j, size_t fold)
{
    for (size_t i = 0; i < j->run->study.s.n_conditions; i++)
        j->keep[i] = j->fold[i] != fold;
}

static size_t inner_folds(const judging *j)
{
    return j->run->study.s.n_conditions <= 2 * ONE_BY_ONE ? 0 : MANY_FOLDS;
}

/* ---- baselines ------------------------------------------------------------------------------- */

static void score(judging *j, size_t i, size_t which, float *predicted)
{
    const scd_study *s = &j->run->study.s;
    size_t G = s->n_genes;
    scd_response_clamp(G, j->run->study.control_mean + s->conditions[i].context * G, predicted);
    scd_response_score_of(G, predicted, s->deltas + i * G, j->order,
                          &j->one[i * SCD_N_SCORES + which]);
}

static scd_code judge_fold(judging *j, size_t fold, scd_error *err)
{
    const scd_study *s = &j->run->study.s;
    scd_fit_settings *settings = j->settings + fold * s->n_contexts;
    scd_fit fit = {0};
    keep_others(j, fold);
    scd_code code = SCD_OK;
    for (uint32_t c = 0; c < s->n_contexts && !code; c++)
        code = scd_fit_choose(s, j->keep, c, inner_folds(j), &settings[c], err);
    if (!code)
        code = scd_fit_new(s, j->keep, settings, &fit, err);
    for (size_t i = 0; i < s->n_conditions && !code; i++) {
        if (j->fold[i] != fold)
            continue;
        const scd_response_condition *c = &s->conditions[i];
        scd_response_query q = {.context = c->context,
                                .n_asked = c->n_targets,
                                .n_targets = c->n_targets,
                                .feature = s->features + i * s->feature_dim};
        memcpy(q.targets, c->targets, sizeof q.targets);
        for (int b = 0; b < SCD_N_BASELINES; b++) {
            scd_response_baseline(&fit.response, (scd_baseline)b, &q, j->out);
            if (b == SCD_BASELINE_EFFECTS)
                memcpy(j->effects + i * s->n_genes, j->out, s->n_genes * sizeof *j->out);
            score(j, i, (size_t)b, j->out);
        }
    }
    scd_fit_release(&fit);
    return code;
}

/* ---- the network ----------------------------------------------------------------------------- */

/* After an epoch of a fold: what the network says of the conditions left out. */
static scd_code watch_epoch(void *arg, size_t epoch, const float *params, scd_error *err)
{
    judging *j = arg;
    const scd_perturb_run *run = j->run;
    const scd_study *s = &run->study.s;
    size_t G = s->n_genes, N = s->n_conditions;
    scd_response_net net = scd_pert_net_view(run->net, params);
    scd_response_net_cells(&net, run->embeddings, run->study.n_stored, j->cells);
    (void)err;
    for (size_t i = 0; i < N; i++) {
        if (j->fold[i] != j->now)
            continue;
        scd_perturb_residual(run, params, j->cells, i, j->scratch, j->out);
        for (size_t g = 0; g < G; g++) {
            double r = (double)s->deltas[i * G + g] - (double)j->effects[i * G + g];
            j->cross[epoch * N + i] += r * (double)j->out[g];
            j->squares[epoch * N + i] += (double)j->out[g] * (double)j->out[g];
        }
    }
    return SCD_OK;
}

/* How much of what there is to explain of a condition - no change's squared error - this gate adds
 * to what is explained: mean over the context's conditions, and the standard error of that mean. A
 * share of each condition's own, for else a few strong ones decide for all. */
static double help(const judging *j, size_t epoch, uint32_t context, double gate, double *error)
{
    const scd_study *s = &j->run->study.s;
    size_t N = s->n_conditions, n = 0;
    double sum = 0, squares = 0;
    for (size_t i = 0; i < N; i++) {
        if (s->conditions[i].context != context)
            continue;
        size_t at = epoch * N + i;
        double all = j->one[i * SCD_N_SCORES + SCD_BASELINE_NO_CHANGE].mse * (double)s->n_genes;
        double x = 2 * gate * j->cross[at] - gate * gate * j->squares[at];
        x = all > 0 ? x / all : 0;
        sum += x;
        squares += x * x;
        n++;
    }
    *error = INFINITY;
    if (n < 2)
        return 0;
    double mean = sum / (double)n, variance = fmax(squares / (double)n - mean * mean, 0);
    *error = sqrt(variance / (double)(n - 1));
    return mean;
}

/* The best gate of a context at an epoch, 0 where none helps by more than its standard error. */
static double best_gate(const judging *j, size_t epoch, uint32_t context, double *gain)
{
    double best = 0;
    *gain = 0;
    for (size_t k = 0; k < N_GATES; k++) {
        double error, x = help(j, epoch, context, gate_values[k], &error);
        if (x > error && x > LEAST_HELP && x > *gain) {
            *gain = x;
            best = gate_values[k];
        }
    }
    return best;
}

static void choose_epoch(judging *j)
{
    scd_perturb_run *run = j->run;
    double most = 0;
    for (size_t e = 0; e < run->o->epochs; e++) {
        double sum = 0, gain;
        for (uint32_t c = 0; c < run->study.s.n_contexts; c++) {
            best_gate(j, e, c, &gain);
            sum += gain;
        }
        if (sum > most) {
            most = sum;
            run->best_epoch = e + 1;
        }
    }
    for (uint32_t c = 0; c < run->study.s.n_contexts && run->best_epoch; c++)
        run->gates[c] = best_gate(j, run->best_epoch - 1, c, &most);
}

static scd_code train_fold(judging *j, size_t fold, size_t epochs, scd_perturb_epoch_end *end,
                           scd_error *err)
{
    keep_others(j, fold);
    j->now = fold;
    return scd_perturb_train(j->run, j->keep, j->settings + fold * j->run->study.s.n_contexts,
                             epochs, end, j, err);
}

/* The model's own scores: additive effects, and the residual through the gate. */
static scd_code score_model(judging *j, scd_error *err)
{
    scd_perturb_run *run = j->run;
    const scd_study *s = &run->study.s;
    size_t G = s->n_genes;
    scd_code code = SCD_OK;
    for (size_t f = 0; f < j->n_folds && !code; f++) {
        if (run->best_epoch) {
            code = train_fold(j, f, run->best_epoch, NULL, err);
            scd_response_net net = scd_pert_net_view(run->net, run->params);
            scd_response_net_cells(&net, run->embeddings, run->study.n_stored, j->cells);
        }
        for (size_t i = 0; i < s->n_conditions && !code; i++) {
            double gate = run->gates[s->conditions[i].context];
            if (j->fold[i] != f)
                continue;
            if (gate > 0)
                scd_perturb_residual(run, run->params, j->cells, i, j->scratch, j->out);
            for (size_t g = 0; g < G; g++)
                j->out[g] = j->effects[i * G + g] + (gate > 0 ? (float)gate * j->out[g] : 0);
            score(j, i, SCD_SCORE_MODEL, j->out);
        }
    }
    return code;
}

static void gather(judging *j)
{
    scd_perturb_run *run = j->run;
    const scd_study *s = &run->study.s;
    for (size_t i = 0; i < s->n_conditions; i++)
        for (size_t k = 0; k < SCD_N_SCORES; k++)
            scd_response_score_add(&run->scores[s->conditions[i].context * SCD_N_SCORES + k],
                                   &j->one[i * SCD_N_SCORES + k]);
    for (size_t i = 0; i < s->n_contexts * SCD_N_SCORES; i++)
        scd_response_score_mean(&run->scores[i]);
}

scd_code scd_perturb_judge(scd_perturb_run *run, scd_error *err)
{
    judging j;
    scd_code code = judging_new(run, &j, err);
    if (!code)
        deal(&j);
    for (size_t f = 0; f < j.n_folds && !code; f++)
        code = judge_fold(&j, f, err);
    for (size_t f = 0; f < j.n_folds && !code; f++) {
        code = train_fold(&j, f, run->o->epochs, watch_epoch, err);
        if (!code && (f + 1) % 5 == 0) {
            printf("network: fold %zu of %zu\n", f + 1, j.n_folds);
            fflush(stdout);
        }
    }
    if (!code) {
        choose_epoch(&j);
        code = score_model(&j, err);
    }
    if (!code)
        gather(&j);
    judging_release(&j);
    return code;
}
