/* predictor.c - see predictor.h. */
#include "engine/denoise/predictor.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct scd_predictor {
    const scd_head *head;
    const scd_perturb_info *info;
    const scd_model *model;
    const scd_vocab *vocab;
    size_t hidden_dim, d;
    float *block; /* all tables, carved below */
    float *control_mean, *control_sd, *embeddings, *deltas, *means, *features;
    double *power;         /* (C) */
    int32_t *gene_of;      /* (vocab) the head's gene of a token, -1: none */
    int32_t *target_token; /* (T) -1: not in the vocabulary */
    scd_response response;
    scd_response_net net;
};

/* ---- features of genes ----------------------------------------------------------------------- */

bool scd_gene_feature(const scd_model *model, int32_t token, float *row, float *out)
{
    scd_tensor t;
    double squares = 0;
    size_t d = scd_model_get_config(model)->d;
    if (token < 0 || scd_safetensors_get(scd_model_tensors(model), "gene_embedding.weight",
                                         scd_model_get_config(model)->vocab, d, &t, NULL))
        return false;
    scd_tensor_to_f32(&t, (size_t)token * d, d, row);
    for (size_t i = 0; i < d; i++)
        squares += (double)row[i] * (double)row[i];
    for (size_t i = 0; i < d && squares > 0; i++)
        out[i] += (float)((double)row[i] / sqrt(squares));
    return squares > 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* One tensor of the head into its table. */
static scd_code read_tensor(const scd_predictor *p, const scd_tensor_entry *e, float *out,
                            scd_error *err)
{
    scd_tensor t;
    const scd_safetensors *file = scd_head_tensors(p->head);
    scd_code code = scd_safetensors_get(file, e->name, e->rows, e->cols, &t, err);
    if (code)
        return code;
    scd_tensor_to_f32(&t, 0, t.rows * t.cols, out);
    scd_safetensors_forget(file, &t);
    return SCD_OK;
}

/* All of the head's tensors into one block, and the two tables that follow from them. */
static scd_code read_tables(scd_predictor *p, scd_error *err)
{
    scd_tensor_entry e[SCD_HEAD_MAX_TENSORS];
    const scd_perturb_info *info = p->info;
    size_t n = scd_head_own_tensors(scd_head_get_info(p->head), scd_model_get_config(p->model), e);
    size_t total = info->n_contexts * info->n_genes + info->n_conditions * p->d;
    float *at[SCD_HEAD_MAX_TENSORS + 1];
    for (size_t i = 0; i < n; i++)
        total += e[i].rows * (e[i].cols ? e[i].cols : 1);
    p->block = scd_calloc(total, sizeof *p->block);
    if (!p->block)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for head \"%s\"",
                        scd_head_get_info(p->head)->name);
    at[0] = p->block;
    scd_code code = SCD_OK;
    for (size_t i = 0; i < n && !code; i++) {
        code = read_tensor(p, &e[i], at[i], err);
        at[i + 1] = at[i] + e[i].rows * (e[i].cols ? e[i].cols : 1);
    }
    if (code)
        return code;
    p->means = at[n];
    p->features = at[n] + info->n_contexts * info->n_genes;
    p->net = (scd_response_net){.hidden_dim = p->hidden_dim,
                                .feature_dim = p->d,
                                .mlp_dim = scd_head_get_info(p->head)->mlp_dim,
                                .n_genes = info->n_genes,
                                .w0 = at[SCD_HEAD_W0],
                                .b0 = at[SCD_HEAD_B0],
                                .w2 = at[SCD_HEAD_W2],
                                .b2 = at[SCD_HEAD_B2],
                                .token = at[SCD_HEAD_TOKEN],
                                .direction = at[SCD_HEAD_DIRECTION]};
    p->control_mean = at[SCD_HEAD_CONTROL_MEAN];
    p->control_sd = at[SCD_HEAD_CONTROL_SD];
    p->embeddings = at[SCD_HEAD_CONTROL_EMBEDDINGS];
    p->deltas = at[SCD_HEAD_DELTAS];
    p->response.effect_mean = at[SCD_HEAD_EFFECTS_MEAN];
    p->response.effects = at[SCD_HEAD_EFFECTS_TARGETS];
    p->response.ridge = at[SCD_HEAD_RIDGE];
    return SCD_OK;
}

static scd_code resolve(scd_predictor *p, scd_error *err)
{
    size_t vocab = scd_model_get_config(p->model)->vocab;
    const char *name = scd_head_get_info(p->head)->name;
    scd_rung rung;
    for (size_t i = 0; i < vocab; i++)
        p->gene_of[i] = -1;
    for (size_t g = 0; g < p->info->n_genes; g++) {
        const char *gene = p->info->genes[g];
        int32_t token = scd_vocab_resolve(p->vocab, gene, strlen(gene), &rung);
        if (token < 0)
            return scd_fail(err, SCD_E_INVALID,
                            "head \"%s\": gene \"%.80s\" is not in the model's vocabulary", name,
                            gene);
        if (p->gene_of[token] >= 0)
            return scd_fail(err, SCD_E_INVALID,
                            "head \"%s\": genes \"%.80s\" and \"%.80s\" are one gene of the model",
                            name, p->info->genes[p->gene_of[token]], gene);
        p->gene_of[token] = (int32_t)g;
    }
    for (size_t t = 0; t < p->info->n_targets; t++)
        p->target_token[t] =
            scd_vocab_resolve(p->vocab, p->info->targets[t], strlen(p->info->targets[t]), &rung);
    return SCD_OK;
}

/* What follows from the tables: means of contexts, features of conditions. */
static void derive(scd_predictor *p, float *row)
{
    const scd_perturb_info *info = p->info;
    size_t G = info->n_genes;
    for (size_t c = 0; c < info->n_contexts; c++) {
        size_t n = 0;
        p->power[c] = info->contexts[c].power;
        for (size_t i = 0; i < info->n_conditions; i++)
            n += info->conditions[i].context == c;
        for (size_t g = 0; g < G && n; g++) {
            double sum = 0;
            for (size_t i = 0; i < info->n_conditions; i++)
                if (info->conditions[i].context == c)
                    sum += (double)p->deltas[i * G + g];
            p->means[c * G + g] = (float)(sum / (double)n);
        }
    }
    for (size_t i = 0; i < info->n_conditions; i++)
        for (size_t k = 0; k < info->conditions[i].n_targets; k++)
            scd_gene_feature(p->model, p->target_token[info->conditions[i].targets[k]], row,
                             p->features + i * p->d);
    p->response.n_genes = G;
    p->response.n_targets = info->n_targets;
    p->response.n_contexts = info->n_contexts;
    p->response.n_conditions = info->n_conditions;
    p->response.feature_dim = p->d;
    p->response.conditions = info->conditions;
    p->response.deltas = p->deltas;
    p->response.means = p->means;
    p->response.power = p->power;
    p->response.features = p->features;
}

scd_code scd_predictor_open(const scd_head *head, const scd_model *model, scd_predictor **out,
                            scd_error *err)
{
    *out = NULL;
    const scd_model_config *config = scd_model_get_config(model);
    scd_predictor *p = scd_calloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    p->head = head;
    p->info = scd_head_get_info(head)->perturb;
    p->model = model;
    p->vocab = scd_model_vocab(model);
    p->hidden_dim = config->hidden_dim;
    p->d = config->d;
    p->gene_of = scd_malloc(config->vocab, sizeof *p->gene_of);
    p->target_token = scd_malloc(p->info->n_targets, sizeof *p->target_token);
    p->power = scd_malloc(p->info->n_contexts, sizeof *p->power);
    float *row = scd_malloc(p->d, sizeof *row);
    scd_code code = SCD_OK;
    if (!p->gene_of || !p->target_token || !p->power || !row)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = read_tables(p, err);
    if (!code)
        code = resolve(p, err);
    if (!code)
        derive(p, row);
    free(row);
    if (code) {
        scd_predictor_close(p);
        return code;
    }
    *out = p;
    return SCD_OK;
}

void scd_predictor_close(scd_predictor *p)
{
    if (!p)
        return;
    free(p->power);
    free(p->target_token);
    free(p->gene_of);
    free(p->block);
    free(p);
}

const scd_perturb_info *scd_predictor_info(const scd_predictor *p)
{
    return p->info;
}

/* ---- genes and contexts ---------------------------------------------------------------------- */

int32_t scd_predictor_gene_of(const scd_predictor *p, int32_t token)
{
    return token < 0 ? -1 : p->gene_of[token];
}

scd_perturb_gene scd_predictor_find(const scd_predictor *p, const char *name, size_t n)
{
    scd_rung rung;
    scd_perturb_gene out = {scd_vocab_resolve(p->vocab, name, n, &rung), -1};
    for (size_t t = 0; t < p->info->n_targets && out.target < 0; t++) {
        const char *target = p->info->targets[t];
        bool same_text = strlen(target) == n && !memcmp(target, name, n);
        if (same_text || (out.token >= 0 && p->target_token[t] == out.token))
            out.target = (int32_t)t;
    }
    return out;
}

bool scd_predictor_has_seen(const scd_predictor *p, uint32_t context, scd_perturb_gene gene)
{
    for (size_t i = 0; i < p->info->n_conditions && gene.target >= 0; i++) {
        const scd_response_condition *c = &p->info->conditions[i];
        for (size_t k = 0; c->context == context && k < c->n_targets; k++)
            if (c->targets[k] == (uint32_t)gene.target)
                return true;
    }
    return false;
}

scd_perturb_control scd_predictor_control(const scd_predictor *p, uint32_t context)
{
    const scd_perturb_context *c = &p->info->contexts[context];
    return (scd_perturb_control){p->control_mean + context * p->info->n_genes,
                                 p->control_sd + context * p->info->n_genes,
                                 p->embeddings + c->first_cell * p->hidden_dim, c->n_cells};
}

double scd_predictor_correlation(const scd_predictor *p, const float *control, uint32_t context)
{
    size_t G = p->info->n_genes;
    return control ? scd_response_correlation(G, control, p->control_mean + context * G) : 0;
}

int32_t scd_predictor_nearest(const scd_predictor *p, const float *control, scd_direction direction,
                              double *correlation)
{
    int32_t best = -1;
    double most = -2;
    for (size_t c = 0; c < p->info->n_contexts; c++) {
        double like = scd_predictor_correlation(p, control, (uint32_t)c);
        if (direction != SCD_N_DIRECTIONS && p->info->contexts[c].direction != direction)
            continue;
        for (size_t i = 0; i < p->info->n_conditions && !control; i++)
            like += p->info->conditions[i].context == c;
        if (like > most) {
            most = like;
            best = (int32_t)c;
        }
    }
    if (correlation)
        *correlation = most;
    return best;
}

/* ---- answering ------------------------------------------------------------------------------- */

const double *scd_predictor_cells(const scd_predictor *p, const float *embeddings, size_t n,
                                  scd_arena *arena)
{
    size_t count;
    if (!scd_size_mul(n, p->net.mlp_dim, &count))
        return NULL;
    double *out = scd_arena_alloc(arena, count, sizeof *out);
    if (out)
        scd_response_net_cells(&p->net, embeddings, n, out);
    return out;
}

double scd_predictor_anchor(const scd_predictor *p, uint32_t context, const float *mean,
                            const float *sd, size_t n)
{
    enum { ENOUGH = 50 };
    static const double SAME = 1.5, OTHER = 3; /* squared difference by what sampling lets expect */
    scd_perturb_control stored = scd_predictor_control(p, context);
    double seen = 0, expected = 0;
    for (size_t g = 0; g < p->info->n_genes; g++) {
        double d = (double)mean[g] - (double)stored.mean[g];
        double variance = (double)stored.sd[g] * (double)stored.sd[g];
        if (n > 1) /* else a cell's own spread is unknown */
            variance = 0.5 * (variance + (double)sd[g] * (double)sd[g]);
        seen += d * d;
        expected += variance * (1 / (double)n + 1 / (double)stored.n_cells);
    }
    double ratio = expected > 0 ? seen / expected : INFINITY;
    double same = fmin(fmax((OTHER - ratio) / (OTHER - SAME), 0), 1);
    return same * fmin((double)n / ENOUGH, 1);
}

/* From the distance to the stored controls to that to the controls given; no gene below 0. */
static void move_to(const scd_predictor *p, const scd_perturb_ask *ask, float *delta)
{
    const float *stored = p->control_mean + ask->context * p->info->n_genes;
    for (size_t g = 0; g < p->info->n_genes && ask->anchor > 0; g++)
        delta[g] += (float)(ask->anchor * ((double)stored[g] - (double)ask->control[g]));
    scd_response_clamp(p->info->n_genes, ask->control, delta);
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* feature (2 d): the sum, and scratch behind it. */
static scd_response_query make_query(const scd_predictor *p, const scd_perturb_ask *ask,
                                     float *feature)
{
    scd_response_query q = {
        .context = ask->context, .n_asked = (uint32_t)ask->n_genes, .feature = feature};
    memset(feature, 0, p->d * sizeof *feature);
    for (size_t i = 0; i < ask->n_genes; i++) {
        if (ask->genes[i].target >= 0)
            q.targets[q.n_targets++] = (uint32_t)ask->genes[i].target;
        scd_gene_feature(p->model, ask->genes[i].token, feature + p->d, feature);
    }
    qsort(q.targets, q.n_targets, sizeof q.targets[0], by_number);
    return q;
}

scd_code scd_predictor_run(const scd_predictor *p, const scd_perturb_ask *ask, scd_arena *arena,
                           scd_perturb_answer *out, scd_error *err)
{
    size_t G = p->info->n_genes;
    const scd_perturb_context *context = &p->info->contexts[ask->context];
    *out = (scd_perturb_answer){0};
    out->delta = scd_arena_alloc(arena, (2 + SCD_N_BASELINES) * G, sizeof(float));
    float *feature = scd_arena_alloc(arena, 2 * p->d, sizeof *feature);
    double *scratch = scd_arena_alloc(arena, p->net.mlp_dim + p->d, sizeof *scratch);
    if (!out->delta || !feature || !scratch)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a prediction");
    float *residual = out->delta + (1 + SCD_N_BASELINES) * G;
    scd_response_query q = make_query(p, ask, feature);
    for (int b = 0; b < SCD_N_BASELINES; b++) {
        out->baselines[b] = out->delta + (size_t)(1 + b) * G;
        scd_response_baseline(&p->response, (scd_baseline)b, &q, out->baselines[b]);
        if (b == SCD_BASELINE_EFFECTS)
            memcpy(out->delta, out->baselines[b], G * sizeof *out->delta);
        if (b != SCD_BASELINE_NO_CHANGE)
            move_to(p, ask, out->baselines[b]);
    }
    out->in_training = scd_response_find(&p->response, &q) != SIZE_MAX;
    if (!out->in_training && context->gate > 0) {
        out->gate = (float)context->gate;
        scd_response_net_run(&p->net, ask->cells, ask->n_cells, context->direction, feature,
                             scratch, residual);
        for (size_t g = 0; g < G; g++)
            out->delta[g] += out->gate * residual[g];
    }
    move_to(p, ask, out->delta);
    return SCD_OK;
}
