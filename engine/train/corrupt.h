/* corrupt.h - the pre-training objective's view of a cell: what is hidden, and what is asked for.
 *
 * SPEC section 1, "Training": t ~ U(0, 1) of the cell, clamped to [1e-6, 1]; each token joins M
 * with probability t; 90 % of M are hidden (gene and value), 10 % left as they are; of a share of M
 * only the value is hidden and asked for. The values the model sees are log1p(s expm1(x)),
 * s ~ U(depth_min, 1) of the cell; targets are clean.
 *
 * Tokens are ordered by scd_cell_serialize from the values that the model sees, since that is what
 * serving does with the values it is given: with entropies, rescaling can change the order.
 *
 * Every number is drawn from (seed, draw number of the cell, token id), so that what happens to a
 * cell does not depend on its batch, and the same tokens are hidden whatever their order.
 *
 * Threads: any. Owns: nothing; results live in the caller's arena. */
#ifndef SCD_TRAIN_CORRUPT_H
#define SCD_TRAIN_CORRUPT_H

#include "engine/train/corpus.h"
#include "engine/train/pack.h"

typedef struct scd_corrupt_options {
    uint64_t seed;
    double depth_min;  /* 1: values as they are */
    double rate;       /* 0: t as above; else t of every cell, and all of M is hidden */
    double value_only; /* share of M of which only the value is hidden */
    bool random_order; /* instead of the vocabulary's scores, which then only decide what is cut */
} scd_corrupt_options;

/* Tokens in any order, without repeats, and their clean values (log1p_cp10k, above 0). */
typedef struct scd_clean_cell {
    size_t n;
    const int32_t *ids;
    const float *values;
} scd_clean_cell;

/* The expressed genes of a measured cell, unchanged. SCD_E_NOMEM. */
scd_code scd_clean_cell_of(const scd_corpus_cell *cell, scd_arena *arena, scd_clean_cell *out,
                           scd_error *err);

typedef struct scd_corrupted {
    scd_sequence sequence;  /* n 0: the cell has no token */
    size_t n_gene, n_value; /* targets */
    size_t n_truncated;     /* tokens cut at MAX_GENE_LEN */
} scd_corrupted;

scd_code scd_corrupt(const scd_corrupt_options *options, const scd_model_config *config,
                     const scd_vocab *vocab, const scd_clean_cell *cell, uint64_t draw,
                     scd_arena *arena, scd_corrupted *out, scd_error *err);

#endif
