/* gene_svd.h - a start for the gene embedding: genes that are expressed together lie together.
 *
 * The first d right singular vectors of the cells' log1p values (centred, scaled by each gene's
 * spread), by subspace iteration from a random start (Halko, Martinsson, Tropp, SIAM Review 2011),
 * weighted by the square root of the singular values (Levy, Goldberg, Dagan, TACL 2015). One thread
 * and a fixed order: the same bits everywhere.
 *
 * Threads: main. Owns: nothing. */
#ifndef SCD_TRAIN_GENE_SVD_H
#define SCD_TRAIN_GENE_SVD_H

#include "engine/train/corpus.h"

typedef struct scd_gene_svd_input {
    scd_corpus *corpus;  /* bound to a vocabulary */
    const uint8_t *keep; /* (cells) which are looked at; NULL: all */
    size_t max_cells;    /* about so many of them, in blocks spread evenly */
    size_t vocab, d;
    uint64_t seed;
} scd_gene_svd_input;

/* embedding (vocab, d) comes with random rows of unit variance. Rows of genes that the cells
 * express become four parts of co-expression and one of what they were (in variance); the others
 * stay. */
scd_code scd_gene_svd(const scd_gene_svd_input *input, float *embedding, scd_error *err);

#endif
