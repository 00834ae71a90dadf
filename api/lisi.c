/* lisi.c - see lisi.h. */
#include "api/lisi.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { K = SCD_LISI_NEIGHBOURS, LEAST_NEIGHBOURS = 4, TRIES = 50 };
static const double TOLERANCE = 1e-5;

typedef struct neighbour {
    double distance;
    size_t cell;
} neighbour;

/* The k nearest of the m that are there, k at most K; the cell itself left out. */
static size_t nearest(const double *squares, const size_t *there, size_t m, size_t self,
                      neighbour out[K])
{
    size_t n = 0, most = K - 1;
    for (size_t i = 0; i < m; i++) {
        double d = squares[there[i]];
        size_t at = n;
        if (there[i] == self || (n == most && d >= out[n - 1].distance))
            continue;
        n += n < most;
        at = at < n ? at : n - 1;
        for (; at > 0 && out[at - 1].distance > d; at--)
            out[at] = out[at - 1];
        out[at] = (neighbour){d, there[i]};
    }
    for (size_t i = 0; i < n; i++)
        out[i].distance = sqrt(out[i].distance > 0 ? out[i].distance : 0);
    return n;
}

/* Weights of the neighbours at this beta, and their entropy. */
static double weigh(const neighbour *near, size_t n, double beta, double weight[K])
{
    double sum = 0, moment = 0;
    for (size_t i = 0; i < n; i++) {
        weight[i] = exp(-near[i].distance * beta);
        sum += weight[i];
        moment += near[i].distance * weight[i];
    }
    for (size_t i = 0; i < n; i++)
        weight[i] = sum > 0 ? weight[i] / sum : 0;
    return sum > 0 ? log(sum) + beta * moment / sum : 0;
}

static double find_weights(const neighbour *near, size_t n, double perplexity, double weight[K])
{
    double beta = 1, low = -INFINITY, high = INFINITY, want = log(perplexity);
    double entropy = weigh(near, n, beta, weight);
    for (int i = 0; i < TRIES && fabs(entropy - want) >= TOLERANCE; i++) {
        bool is_wide = entropy > want;
        low = is_wide ? beta : low;
        high = is_wide ? high : beta;
        beta = is_wide      ? isinf(high) ? beta * 2 : (beta + high) / 2
               : isinf(low) ? beta / 2
                            : (beta + low) / 2;
        entropy = weigh(near, n, beta, weight);
    }
    return entropy;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct work {
    double *squares, *index, *of_kind; /* (n), (n), (kinds) */
    size_t *there;                     /* (n) cells that have a kind */
} work;

static double index_of(const scd_lisi_cells *cells, const int32_t *kind, work *w, size_t m,
                       size_t self, size_t n_all, double perplexity)
{
    neighbour near[K];
    double weight[K], simpson = 0;
    cells->distances(cells->arg, self, w->squares);
    size_t n = nearest(w->squares, w->there, m, self, near);
    double entropy = find_weights(near, n, perplexity, weight);
    if (entropy == 0)
        return -1; /* as scib-metrics has it: no neighbour has any weight */
    memset(w->of_kind, 0, n_all * sizeof *w->of_kind);
    for (size_t i = 0; i < n; i++)
        w->of_kind[kind[near[i].cell]] += weight[i];
    for (size_t k = 0; k < n_all; k++)
        simpson += w->of_kind[k] * w->of_kind[k];
    return 1 / simpson;
}

scd_code scd_lisi_median(const scd_lisi_cells *cells, const int32_t *kind, double *median,
                         size_t *n_kinds, size_t *n_cells, scd_error *err)
{
    size_t m = 0, n_all = 0;
    *median = NAN;
    *n_kinds = 0;
    for (size_t i = 0; i < cells->n; i++)
        if (kind[i] >= 0 && (size_t)kind[i] >= n_all)
            n_all = (size_t)kind[i] + 1;
    work w = {.squares = scd_malloc(cells->n + 1, sizeof(double)),
              .index = scd_malloc(cells->n + 1, sizeof(double)),
              .of_kind = scd_calloc(n_all + 1, sizeof(double)),
              .there = scd_malloc(cells->n + 1, sizeof(size_t))};
    scd_code code = w.squares && w.index && w.of_kind && w.there
                        ? SCD_OK
                        : scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", cells->n);
    for (size_t i = 0; i < cells->n && !code; i++)
        if (kind[i] >= 0) {
            w.there[m++] = i;
            w.of_kind[kind[i]] = 1;
        }
    for (size_t k = 0; k < n_all && !code; k++)
        *n_kinds += w.of_kind[k] > 0;
    *n_cells = m;
    size_t around = m < K ? m : K; /* itself included */
    double perplexity = floor((double)around / 3);
    if (!code && *n_kinds > 1 && around > LEAST_NEIGHBOURS) {
        for (size_t i = 0; i < m; i++)
            w.index[i] = index_of(cells, kind, &w, m, w.there[i], n_all, perplexity);
        qsort(w.index, m, sizeof *w.index, by_value);
        *median = (w.index[(m - 1) / 2] + w.index[m / 2]) / 2;
    }
    free(w.there);
    free(w.of_kind);
    free(w.index);
    free(w.squares);
    return code;
}

double scd_lisi_mixed(double median, size_t n_kinds)
{
    return (median - 1) / ((double)n_kinds - 1);
}

double scd_lisi_apart(double median, size_t n_kinds)
{
    return ((double)n_kinds - median) / ((double)n_kinds - 1);
}
