/* scores.c - see scores.h. */
#include "engine/train/scores.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

void scd_scores_softmax(const float *logits, size_t classes, double temperature, double *p)
{
    double top = -INFINITY, sum = 0;
    for (size_t k = 0; k < classes; k++)
        top = fmax(top, (double)logits[k]);
    for (size_t k = 0; k < classes; k++)
        sum += p[k] = exp(((double)logits[k] - top) / temperature);
    for (size_t k = 0; k < classes; k++)
        p[k] /= sum;
}

static size_t best_of(const float *logits, size_t classes)
{
    size_t best = 0;
    for (size_t k = 1; k < classes; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}

/* -sum_k t_k log softmax_k(logits / temperature) */
static double cross_entropy(const float *logits, const float *targets, size_t classes,
                            double temperature)
{
    double top = -INFINITY, sum = 0, dot = 0, mass = 0;
    for (size_t k = 0; k < classes; k++)
        top = fmax(top, (double)logits[k]);
    for (size_t k = 0; k < classes; k++) {
        sum += exp(((double)logits[k] - top) / temperature);
        dot += (double)targets[k] * ((double)logits[k] - top) / temperature;
        mass += (double)targets[k];
    }
    return mass * log(sum) - dot;
}

/* What is counted for each class, and for each bin of confidence. */
typedef struct tally {
    size_t *right, *truth, *answer; /* (classes) */
    size_t bin_n[SCD_ECE_BINS], bin_right[SCD_ECE_BINS];
    double bin_sum[SCD_ECE_BINS];
} tally;

static void finish(const tally *t, size_t classes, scd_scores *out)
{
    size_t n_true = 0, right = 0;
    double recall = 0, f1 = 0;
    for (size_t k = 0; k < classes; k++) {
        right += t->right[k];
        if (t->truth[k]) {
            recall += (double)t->right[k] / (double)t->truth[k];
            f1 += 2.0 * (double)t->right[k] / (double)(t->truth[k] + t->answer[k]);
            n_true++;
        }
    }
    double n = (double)out->n;
    out->accuracy = (double)right / n;
    out->balanced_accuracy = n_true ? recall / (double)n_true : 0;
    out->macro_f1 = n_true ? f1 / (double)n_true : 0;
    for (size_t b = 0; b < SCD_ECE_BINS; b++)
        out->ece += fabs(t->bin_sum[b] - (double)t->bin_right[b]) / n;
}

scd_code scd_scores_of(const float *logits, const float *targets, const int32_t *truth, size_t n,
                       size_t classes, double temperature, scd_scores *out, scd_error *err)
{
    *out = (scd_scores){.n = n};
    if (!n || !classes || classes > SCD_SCORES_MAX_CLASSES)
        return scd_fail(err, SCD_E_INVALID, "%zu cells of %zu classes have no score", n, classes);
    size_t *counts = scd_calloc(3 * classes, sizeof *counts);
    double *p = scd_malloc(classes, sizeof *p);
    float *one_hot = scd_calloc(classes, sizeof *one_hot);
    scd_code code = SCD_OK;
    if (!counts || !p || !one_hot) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for scores");
        goto done;
    }
    tally t = {.right = counts, .truth = counts + classes, .answer = counts + 2 * classes};
    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes;
        size_t best = best_of(row, classes), is = (size_t)truth[i];
        scd_scores_softmax(row, classes, temperature, p);
        one_hot[is] = 1;
        out->loss +=
            cross_entropy(row, targets ? targets + i * classes : one_hot, classes, temperature) /
            (double)n;
        one_hot[is] = 0;
        t.truth[is]++;
        t.answer[best]++;
        t.right[is] += best == is;
        size_t bin = (size_t)(p[best] * SCD_ECE_BINS);
        bin = bin < SCD_ECE_BINS ? bin : SCD_ECE_BINS - 1;
        t.bin_n[bin]++;
        t.bin_right[bin] += best == is;
        t.bin_sum[bin] += p[best];
    }
    finish(&t, classes, out);
done:
    free(counts);
    free(p);
    free(one_hot);
    return code;
}

static double mean_loss(const float *logits, const float *targets, size_t n, size_t classes,
                        double temperature)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += cross_entropy(logits + i * classes, targets + i * classes, classes, temperature);
    return sum / (double)n;
}

double scd_scores_fit_temperature(const float *logits, const float *targets, size_t n,
                                  size_t classes)
{
    const double ratio = 0.6180339887498949; /* 1 / golden ratio */
    double low = log(0.25), high = log(8.0);
    if (!n)
        return 1;
    double a = high - ratio * (high - low), b = low + ratio * (high - low);
    double at_a = mean_loss(logits, targets, n, classes, exp(a));
    double at_b = mean_loss(logits, targets, n, classes, exp(b));
    while (high - low > 1e-4) {
        if (at_a < at_b) {
            high = b;
            b = a;
            at_b = at_a;
            a = high - ratio * (high - low);
            at_a = mean_loss(logits, targets, n, classes, exp(a));
        } else {
            low = a;
            a = b;
            at_a = at_b;
            b = low + ratio * (high - low);
            at_b = mean_loss(logits, targets, n, classes, exp(b));
        }
    }
    return exp((low + high) / 2);
}

typedef struct answer {
    double p;
    int right;
} answer;

static int by_confidence(const void *a, const void *b)
{
    double x = ((const answer *)a)->p, y = ((const answer *)b)->p;
    return (x < y) - (x > y); /* descending */
}

scd_code scd_scores_fit_threshold(const float *logits, const int32_t *truth, size_t n,
                                  size_t classes, double temperature, double precision, double *out,
                                  scd_error *err)
{
    *out = 0;
    answer *answers = scd_malloc(n + 1, sizeof *answers);
    double *p = scd_malloc(classes + 1, sizeof *p);
    scd_code code = SCD_OK;
    if (!answers || !p) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for scores");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        size_t best = best_of(logits + i * classes, classes);
        scd_scores_softmax(logits + i * classes, classes, temperature, p);
        answers[i] = (answer){p[best], best == (size_t)truth[i]};
    }
    qsort(answers, n, sizeof *answers, by_confidence);
    double best_precision = -1, best_at = 0;
    size_t right = 0;
    bool reached = false;
    for (size_t i = 0; i < n; i++) {
        right += (size_t)answers[i].right;
        if (i + 1 < n && answers[i + 1].p >= answers[i].p)
            continue; /* equal confidences stand or fall together */
        double share = (double)right / (double)(i + 1);
        if (share >= precision) {
            *out = i + 1 == n ? 0 : answers[i].p;
            reached = true;
        }
        if (share > best_precision) {
            best_precision = share;
            best_at = answers[i].p;
        }
    }
    if (!reached)
        *out = best_at;
done:
    free(answers);
    free(p);
    return code;
}
