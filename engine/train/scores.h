/* scores.h - what early stopping and calibration need to know of a classifier's answers; the whole
 * evaluation is tests/bench/quality's.
 *
 * Threads: any; no state. Shapes: logits, targets (n, classes); truth (n) class numbers. */
#ifndef SCD_TRAIN_SCORES_H
#define SCD_TRAIN_SCORES_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SCD_ECE_BINS = 15,
    SCD_SCORES_MAX_CLASSES = 1 << 16 /* what engine/denoise/head.c accepts of a head */
};

typedef struct scd_scores {
    size_t n;
    double loss;              /* mean cross-entropy against the targets, nats */
    double accuracy;          /* share of cells whose best class is the truth */
    double balanced_accuracy; /* mean recall over the classes that occur in truth */
    double macro_f1;          /* mean F1 over the classes that occur in truth */
    double ece;               /* expected calibration error, 15 equal bins (Guo et al. 2017) */
} scd_scores;

/* Softmax of logits / temperature against truth (and soft targets for the loss; NULL: one-hot).
 * SCD_E_INVALID: no cells, or classes not in [1, SCD_SCORES_MAX_CLASSES]. */
scd_code scd_scores_of(const float *logits, const float *targets, const int32_t *truth, size_t n,
                       size_t classes, double temperature, scd_scores *out, scd_error *err);

/* The temperature in [0.25, 8] with the least mean cross-entropy (golden section on its logarithm;
 * the loss is convex in 1/temperature). 1 for n == 0. */
double scd_scores_fit_temperature(const float *logits, const float *targets, size_t n,
                                  size_t classes);

/* The least threshold at which the cells at or above it are right in `precision` of all cases; 0
 * where all cells together are, the one with the best precision where none reaches it. */
scd_code scd_scores_fit_threshold(const float *logits, const int32_t *truth, size_t n,
                                  size_t classes, double temperature, double precision, double *out,
                                  scd_error *err);

/* p = softmax(logits / temperature), (classes) */
void scd_scores_softmax(const float *logits, size_t classes, double temperature, double *p);

#endif
