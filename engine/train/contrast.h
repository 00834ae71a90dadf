/* contrast.h - what integration says of embeddings: like cells near each other, batches not told
 * apart.
 *
 * Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362) on unit vectors u = x / |x|,
 * with s_ij = u_i u_j / temperature. P(i) are the other views of i's kind, A(i) those and what they
 * are told from:
 *
 *     loss = sum over i with a P(i) of  log sum_{a in A(i)} exp s_ia  -  mean_{p in P(i)} s_ip
 *
 * Host arithmetic in float64, in a fixed order: products of a few hundred vectors are nothing
 * beside an encoder's, and the same bits come out on any number of threads.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TRAIN_CONTRAST_H
#define SCD_TRAIN_CONTRAST_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct scd_contrast {
    size_t n, dim;
    const float *x;        /* (n, dim), no row zero */
    const int32_t *kind;   /* (n) views of one kind are alike */
    int32_t n_labels;      /* kinds below it are labels, told from views of other labels; a view of
                              no label is told from all of its own domain, since what sets domains
                              apart is not to be learned */
    const int32_t *domain; /* (n) */
    double temperature;
} scd_contrast;

/* *loss: the sum above. gradient (n, dim) = scale times its gradient of x. SCD_E_NOMEM. */
scd_code scd_contrast_loss(const scd_contrast *contrast, double scale, double *loss,
                           float *gradient, scd_error *err);

/* Gradient reversal (Ganin and Lempitsky 2015, arXiv 1409.7495): gradient -= strength * adversary,
 * n numbers each. Who minimises the result maximises the adversary's loss. */
void scd_reverse_gradient(const float *adversary, double strength, size_t n, float *gradient);

/* How strong it is after `done` of the run, 0 to 1: 2 / (1 + exp(-10 done)) - 1, as they have it,
 * so that an adversary that knows nothing yet does not lead. */
double scd_reverse_strength(double done);

#endif
