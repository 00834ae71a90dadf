/* gene_term.h - the linear half of an annotation head: logits from the genes of a cell themselves.
 *
 *     g = sum_i u_i genes.weight[id_i] + genes.bias,   u = x / |x| over the cell's tokens
 *
 * Multinomial logistic regression on the cell's direction in gene space, trained by a loss of its
 * own on the same cells as the network. A head that has it answers softmax((mlp + g) / 2): the
 * product of two experts that err in different ways. The network knows what genes mean together and
 * is at home on panels of few genes; where a laboratory shifts all cells a little, the linear term
 * keeps the balance between like types (CD4 and CD8 T cells) better.
 *
 * Threads: any. Owns: copies of the two tensors, until release. */
#ifndef SCD_DENOISE_GENE_TERM_H
#define SCD_DENOISE_GENE_TERM_H

#include "engine/model/safetensors.h"

#include <stdint.h>

#define SCD_GENE_TERM_WEIGHT "genes.weight" /* (V, C) */
#define SCD_GENE_TERM_BIAS "genes.bias"     /* (C) */

typedef struct scd_gene_term {
    size_t vocab, classes;
    float *weight, *bias; /* (vocab, classes), (classes); free() */
} scd_gene_term;

/* From a head's tensors; SCD_E_CORRUPT names tensor and shapes, SCD_E_NOMEM. */
scd_code scd_gene_term_load(const scd_safetensors *tensors, size_t vocab, size_t classes,
                            scd_gene_term *out, scd_error *err);
void scd_gene_term_release(scd_gene_term *term);

/* 1 / |x|, the factor of each token's value; 0 without a value above 0. */
double scd_gene_term_scale(const float *values, size_t n);
/* g of one cell of n tokens: out (classes), in float64, tokens in their order. */
void scd_gene_term_logits(const scd_gene_term *term, const int32_t *ids, const float *values,
                          size_t n, double *out);

/* logits (classes) become (logits + g) / 2; scratch (classes). */
void scd_gene_term_join(const scd_gene_term *term, const int32_t *ids, const float *values,
                        size_t n, double *scratch, float *logits);

#endif
