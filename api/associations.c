/* associations.c - see associations.h. */
#include "api/associations.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

size_t scd_association_place(const int32_t *ids, size_t n, int32_t regulator)
{
    size_t i = 0;
    while (i < n && ids[i] != regulator)
        i++;
    return i;
}

void scd_association_add(scd_association_tally *tallies, int32_t regulator, const int32_t *ids,
                         const float *values, size_t n, const float *weights, const float *effects)
{
    size_t at = scd_association_place(ids, n, regulator);
    double x = at < n ? (double)values[at] : 0;
    for (size_t i = 0; i < n; i++) {
        scd_association_tally *t = &tallies[ids[i]];
        double y = (double)values[i];
        t->sum += y;
        t->squares += y * y;
        t->products += x * y;
    }
    for (size_t i = 0; i < n && weights; i++) {
        scd_association_tally *t = &tallies[ids[i]];
        t->weight += (double)weights[i] * (double)(n + 1); /* with [LAT] there are n + 1 */
        t->effect += (double)effects[i];
        t->n_both++;
    }
}

static double correlation(const scd_association_tally *r, const scd_association_tally *t, size_t n)
{
    double cells = (double)n, xx = r->squares - r->sum * r->sum / cells;
    double yy = t->squares - t->sum * t->sum / cells, xy = t->products - r->sum * t->sum / cells;
    return n > 2 && xx > 1e-9 && yy > 1e-9 ? xy / sqrt(xx * yy) : NAN;
}

static int by_weight(const void *a, const void *b)
{
    const scd_association *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->gene > y->gene) - (x->gene < y->gene);
}

size_t scd_association_list(const scd_association_tally *tallies, size_t vocab, int32_t regulator,
                            size_t n_expressing, size_t n_cells, scd_association *out)
{
    size_t n = 0;
    for (int32_t gene = 0; (size_t)gene < vocab; gene++) {
        const scd_association_tally *t = &tallies[gene];
        if (!t->n_both || gene == regulator)
            continue;
        double effect = t->effect / (double)t->n_both;
        out[n++] = (scd_association){.gene = gene,
                                     .sign = effect > 0   ? 1
                                             : effect < 0 ? -1
                                                          : 0,
                                     .weight = t->weight / (double)n_expressing,
                                     .effect = effect,
                                     .coexpression = correlation(&tallies[regulator], t, n_cells),
                                     .n_both = t->n_both};
    }
    qsort(out, n, sizeof *out, by_weight);
    return n;
}

const char *scd_association_name(const scd_vocab *vocab, int32_t gene, char scratch[32])
{
    const char *symbol = scd_vocab_symbol(vocab, gene);
    if (!symbol)
        symbol = scd_vocab_ensembl(vocab, gene);
    if (!symbol)
        snprintf(scratch, 32, "token_%d", (int)gene);
    return symbol ? symbol : scratch;
}
