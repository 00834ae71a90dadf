/* gene_order.h - the rows of a batch sorted by gene, on the host, so that a block of the device can
 * add up one gene's gradient alone.
 *
 * Threads: the owner. Owns: its words, until release. */
#ifndef SCD_CUDA_GENE_ORDER_H
#define SCD_CUDA_GENE_ORDER_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* One block of words: genes (n_genes), each once; starts (n_genes + 1) of their rows; rows, those
 * of a gene in ascending order. */
typedef struct scd_gene_order {
    uint32_t *genes, *starts, *rows;
    size_t n_genes, n_words, room; /* room: words at `genes` */
    uint32_t *counts;              /* (vocab), all 0 between calls */
    size_t vocab;
} scd_gene_order;

/* ids (n); negative ones are of no gene and left out. SCD_E_INVALID: an id outside the vocabulary;
 * SCD_E_NOMEM. */
scd_code scd_gene_order_sort(scd_gene_order *order, const int32_t *ids, size_t n, size_t vocab,
                             scd_error *err);
void scd_gene_order_release(scd_gene_order *order);

#ifdef __cplusplus
}
#endif
#endif
