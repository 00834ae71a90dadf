/* response.c - see response.h. */
#include "engine/denoise/response.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *scd_direction_name(scd_direction direction)
{
    return direction == SCD_ACTIVATION ? "activation" : "knockdown";
}

const char *scd_baseline_name(scd_baseline baseline)
{
    static const char *const names[SCD_N_BASELINES] = {"no_change", "mean",    "additive",
                                                       "ridge",     "nearest", "effects"};
    return names[baseline];
}

/* ---- baselines ------------------------------------------------------------------------------- */

static bool same_targets(const scd_response_condition *c, const uint32_t *targets, size_t n)
{
    return c->n_targets == n && !memcmp(c->targets, targets, n * sizeof *targets);
}

static size_t find(const scd_response *r, uint32_t context, const uint32_t *targets, size_t n)
{
    for (size_t i = 0; i < r->n_conditions; i++)
        if (r->conditions[i].context == context && same_targets(&r->conditions[i], targets, n))
            return i;
    return SIZE_MAX;
}

size_t scd_response_find(const scd_response *r, const scd_response_query *q)
{
    bool all_known = q->n_targets && q->n_targets == q->n_asked;
    return all_known ? find(r, q->context, q->targets, q->n_targets) : SIZE_MAX;
}

static void add(size_t n, double factor, const float *x, float *out)
{
    for (size_t g = 0; g < n; g++)
        out[g] = (float)((double)out[g] + factor * (double)x[g]);
}

static void additive(const scd_response *r, const scd_response_query *q, float *out)
{
    const float *mean = r->means + q->context * r->n_genes;
    size_t n_measured = 0;
    for (size_t i = 0; i < q->n_targets; i++) {
        size_t at = find(r, q->context, &q->targets[i], 1);
        if (at == SIZE_MAX)
            continue;
        add(r->n_genes, 1, r->deltas + at * r->n_genes, out);
        n_measured++;
    }
    add(r->n_genes, n_measured ? (double)(q->n_asked - n_measured) : 1, mean, out);
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void ridge(const scd_response *r, const scd_response_query *q, float *out)
{
    add(r->n_genes, 1, r->means + q->context * r->n_genes, out);
    for (size_t i = 0; i < r->n_conditions; i++)
        if (r->conditions[i].context == q->context)
            add(r->n_genes, dot(r->features + i * r->feature_dim, q->feature, r->feature_dim),
                r->ridge + i * r->n_genes, out);
}

/* Shared targets over all targets of the two. */
static double jaccard(const scd_response_condition *c, const scd_response_query *q)
{
    size_t shared = 0;
    for (size_t i = 0; i < c->n_targets; i++)
        for (size_t k = 0; k < q->n_targets; k++)
            shared += c->targets[i] == q->targets[k];
    return (double)shared / (double)(c->n_targets + q->n_asked - shared);
}

static double cosine(const float *a, const float *b, size_t n)
{
    double size = sqrt(dot(a, a, n) * dot(b, b, n));
    return size > 0 ? dot(a, b, n) / size : 0;
}

static void nearest(const scd_response *r, const scd_response_query *q, float *out)
{
    size_t best = SIZE_MAX;
    double best_shared = -1, best_cosine = -2;
    for (size_t i = 0; i < r->n_conditions; i++) {
        if (r->conditions[i].context != q->context)
            continue;
        double shared = jaccard(&r->conditions[i], q);
        double like = cosine(r->features + i * r->feature_dim, q->feature, r->feature_dim);
        if (shared > best_shared || (shared == best_shared && like > best_cosine)) {
            best = i;
            best_shared = shared;
            best_cosine = like;
        }
    }
    if (best != SIZE_MAX)
        add(r->n_genes, 1, r->deltas + best * r->n_genes, out);
}

static void effects(const scd_response *r, const scd_response_query *q, float *out)
{
    double factor = pow((double)q->n_asked, r->power[q->context]);
    add(r->n_genes, factor, r->effect_mean + q->context * r->n_genes, out);
    for (size_t i = 0; i < q->n_targets; i++)
        add(r->n_genes, 1, r->effects + (q->context * r->n_targets + q->targets[i]) * r->n_genes,
            out);
}

void scd_response_baseline(const scd_response *r, scd_baseline baseline,
                           const scd_response_query *q, float *out)
{
    memset(out, 0, r->n_genes * sizeof *out);
    if (baseline == SCD_BASELINE_MEAN)
        add(r->n_genes, 1, r->means + q->context * r->n_genes, out);
    else if (baseline == SCD_BASELINE_ADDITIVE)
        additive(r, q, out);
    else if (baseline == SCD_BASELINE_RIDGE)
        ridge(r, q, out);
    else if (baseline == SCD_BASELINE_NEAREST)
        nearest(r, q, out);
    else if (baseline == SCD_BASELINE_EFFECTS)
        effects(r, q, out);
}

void scd_response_clamp(size_t n_genes, const float *control, float *delta)
{
    for (size_t g = 0; g < n_genes; g++)
        if (delta[g] < -control[g])
            delta[g] = -control[g];
}

/* ---- the network ----------------------------------------------------------------------------- */

void scd_response_net_cells(const scd_response_net *net, const float *embeddings, size_t n,
                            double *out)
{
    size_t h = net->hidden_dim, k = net->mlp_dim, width = h + net->feature_dim;
    for (size_t c = 0; c < n; c++)
        for (size_t j = 0; j < k; j++)
            out[c * k + j] = dot(net->w0 + j * width, embeddings + c * h, h);
}

void scd_response_net_run(const scd_response_net *net, const double *cells, size_t n,
                          scd_direction direction, const float *feature, double *scratch,
                          float *out)
{
    size_t h = net->hidden_dim, d = net->feature_dim, k = net->mlp_dim;
    double *mean = scratch, *p = scratch + k;
    for (size_t i = 0; i < d; i++)
        p[i] =
            (double)net->token[i] + (double)net->direction[direction * d + i] + (double)feature[i];
    for (size_t j = 0; j < k; j++) {
        const float *row = net->w0 + j * (h + d) + h;
        double base = (double)net->b0[j];
        mean[j] = 0;
        for (size_t i = 0; i < d; i++)
            base += (double)row[i] * p[i];
        for (size_t c = 0; c < n; c++)
            mean[j] += fmax(base + cells[c * k + j], 0) / (double)n;
    }
    for (size_t g = 0; g < net->n_genes; g++) {
        double x = (double)net->b2[g];
        for (size_t j = 0; j < k; j++)
            x += (double)net->w2[g * k + j] * mean[j];
        out[g] = (float)x;
    }
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* qsort has no argument: the key's bits are those of a number that is not negative, which compare
 * as the numbers do; the index breaks ties. */
typedef struct ranked {
    uint32_t key, index;
} ranked;
_Static_assert(sizeof(ranked) == 2 * sizeof(uint32_t), "two of the caller's numbers each");

static int by_key(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

void scd_response_top(const float *delta, size_t n, uint32_t *order)
{
    for (size_t g = 0; g < n; g++) {
        float size = fabsf(delta[g]);
        memcpy(&order[2 * g], &size, sizeof size);
        order[2 * g + 1] = (uint32_t)g;
    }
    qsort(order, n, sizeof(ranked), by_key);
    for (size_t g = 0; g < n; g++)
        order[g] = order[2 * g + 1];
}

double scd_response_correlation(size_t n, const float *a, const float *b)
{
    double ma = 0, mb = 0, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ma += (double)a[i] / (double)n;
        mb += (double)b[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double x = (double)a[i] - ma, y = (double)b[i] - mb;
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return aa > 1e-18 && bb > 1e-18 ? ab / sqrt(aa * bb) : 0;
}

void scd_response_score_of(size_t n_genes, const float *predicted, const float *measured,
                           uint32_t *order, scd_response_score *out)
{
    size_t top = n_genes < SCD_SCORE_TOP ? n_genes : SCD_SCORE_TOP;
    uint32_t theirs[SCD_SCORE_TOP];
    *out = (scd_response_score){.n = 1,
                                .pearson = scd_response_correlation(n_genes, predicted, measured)};
    for (size_t g = 0; g < n_genes; g++) {
        double miss = (double)predicted[g] - (double)measured[g];
        out->mse += miss * miss / (double)n_genes;
    }
    scd_response_top(predicted, n_genes, order);
    memcpy(theirs, order, top * sizeof *theirs);
    scd_response_top(measured, n_genes, order);
    for (size_t i = 0; i < top; i++) {
        float p = predicted[order[i]], m = measured[order[i]];
        out->direction += (double)((p > 0 && m > 0) || (p < 0 && m < 0)) / (double)top;
        for (size_t k = 0; k < top; k++)
            if (theirs[k] == order[i] && p != 0)
                out->overlap += 1 / (double)top;
    }
}

void scd_response_score_add(scd_response_score *sum, const scd_response_score *one)
{
    sum->n += one->n;
    sum->pearson += one->pearson;
    sum->mse += one->mse;
    sum->overlap += one->overlap;
    sum->direction += one->direction;
}

void scd_response_score_mean(scd_response_score *sum)
{
    double n = sum->n ? (double)sum->n : 1;
    sum->pearson /= n;
    sum->mse /= n;
    sum->overlap /= n;
    sum->direction /= n;
}
