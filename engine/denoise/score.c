/* score.c - see score.h. */
#include "engine/denoise/score.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

double scd_pearson(const float *a, const float *b, size_t n)
{
    double mean_a = 0, mean_b = 0, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        mean_a += (double)a[i] / (double)n;
        mean_b += (double)b[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double x = (double)a[i] - mean_a, y = (double)b[i] - mean_b;
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return n > 1 && aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

double scd_mean_abs_error(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i] - (double)b[i]);
    return n ? sum / (double)n : NAN;
}

/* ---- ranks ---------------------------------------------------------------------------------- */

/* A value and where it stood, as one block of two floats: indices up to 2^24 are exact. */
typedef struct item {
    float value, at;
} item;

static int by_value(const void *a, const void *b)
{
    float x = ((const item *)a)->value, y = ((const item *)b)->value;
    return (x > y) - (x < y);
}

/* ranks (n) of x, equal values sharing their mean rank; items: (n). */
static void rank(const float *x, size_t n, item *items, float *ranks)
{
    for (size_t i = 0; i < n; i++)
        items[i] = (item){x[i], (float)i};
    qsort(items, n, sizeof *items, by_value);
    for (size_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && items[end].value == items[first].value;)
            end++;
        for (size_t i = first; i < end; i++)
            ranks[(size_t)items[i].at] = (float)(first + end - 1) / 2;
    }
}

double scd_spearman(const float *a, const float *b, size_t n, float *scratch)
{
    item *items = (item *)(void *)scratch;
    float *rank_a = scratch + 2 * n, *rank_b = scratch + 3 * n;
    rank(a, n, items, rank_a);
    rank(b, n, items, rank_b);
    return scd_pearson(rank_a, rank_b, n);
}

/* ---- orders of genes ------------------------------------------------------------------------ */

static double edit_distance(const int32_t *a, const int32_t *b, size_t n, uint32_t *row)
{
    for (size_t j = 0; j <= n; j++)
        row[j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t diagonal = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= n; j++) {
            uint32_t change = diagonal + (a[i - 1] != b[j - 1]);
            uint32_t gap = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < gap ? change : gap;
        }
    }
    return (double)row[n] / (double)n;
}

/* place[i] of b's gene i in a, n where it is not there. */
static void find_places(const int32_t *a, const int32_t *b, size_t n, uint32_t *place)
{
    for (size_t i = 0; i < n; i++) {
        size_t j = 0;
        while (j < n && a[j] != b[i])
            j++;
        place[i] = (uint32_t)j;
    }
}

/* Genes do not repeat, so an n-gram is there once or not at all. */
static double bleu(const uint32_t *place, size_t n)
{
    size_t longest = n < 4 ? n : 4;
    double log_sum = 0;
    for (size_t k = 1; k <= longest; k++) {
        size_t hits = 0;
        for (size_t i = 0; i + k <= n; i++) {
            bool hit = place[i] < n;
            for (size_t j = 1; j < k; j++)
                hit = hit && place[i + j] == place[i] + j && place[i + j] < n;
            hits += hit;
        }
        if (!hits)
            return 0;
        log_sum += log((double)hits / (double)(n - k + 1));
    }
    return exp(log_sum / (double)longest);
}

scd_order_score scd_order_compare(const int32_t *truth, const int32_t *found, size_t n,
                                  uint32_t *places, float *scratch)
{
    if (!n)
        return (scd_order_score){NAN, NAN, NAN};
    scd_order_score s = {.edit_distance = edit_distance(truth, found, n, places)};
    find_places(truth, found, n, places);
    s.bleu = bleu(places, n);
    find_places(found, truth, n, places);
    float *ideal = scratch, *real = scratch + n;
    for (size_t i = 0; i < n; i++) {
        ideal[i] = (float)i;
        real[i] = (float)places[i];
    }
    s.spearman = scd_spearman(ideal, real, n, scratch + 2 * n);
    return s;
}
