/* augment.h - one measured cell as other laboratories might have measured it.
 *
 * In count space, in this order, each with its own probability: the sum of several cells of a kind
 * (deeper), binomial thinning (shallower), gene effects of a made-up batch, a gene panel, a random
 * subset of the expressed genes as the sequence, and a shift of the values' scale. Cells whose
 * counts are not known (log1p_cp10k) skip what needs counts. A step that would leave no gene is
 * left out.
 *
 * Threads: any. Owns: nothing; results live in the caller's arena. Everything random is a pure
 * function of (seed, draw). */
#ifndef SCD_TRAIN_AUGMENT_H
#define SCD_TRAIN_AUGMENT_H

#include "engine/train/corpus.h"

/* All zero: nothing is changed. Shares are probabilities in [0, 1]. */
typedef struct scd_augment_options {
    uint64_t seed;
    double sum_share;  /* sum 2 .. sum_max cells */
    size_t sum_max;    /* itself included */
    double gene_sigma; /* log-normal effect of each gene, spread of its logarithm */
    double thin_share; /* binomial thinning to a fraction log-uniform in [thin_min, 1] */
    double thin_min;
    double panel_share; /* keep a panel: a fraction of all genes, log-uniform in [panel_min, 1] */
    double panel_min;
    double panel_top;   /* share of panels without the genes that are expressed most: selections
                           of variable genes leave out housekeeping and ribosomal genes */
    double panel_total; /* share of panels whose total is recomputed on the panel */
    double scale_share; /* values become log1p(s expm1(x)), s log-uniform in [1/scale, scale] */
    double scale;
    double subset_share; /* keep a random fraction in [subset_min, 1] of the expressed genes */
    double subset_min;
    size_t max_tokens; /* at most so many of them, chosen at random; 0: MAX_GENE_LEN decides */

    /* What panels know of genes, in [0, 1]; borrowed; NULL: nothing, all are alike. */
    const float *gene_rank;  /* (vocab) rank by variability: panels prefer high ones */
    const float *gene_level; /* (vocab) rank by mean expression */
} scd_augment_options;

/* SCD_E_INVALID names the option that is out of range. */
scd_code scd_augment_check(const scd_augment_options *options, scd_error *err);

typedef struct scd_augment_input {
    const scd_corpus_cell *cell;
    const scd_corpus_cell *const *partners; /* cells of the same kind and file, or none */
    size_t n_partners;
    uint64_t draw; /* number of this draw: fixes everything random */
} scd_augment_input;

/* The serialized cell in `out` (as scd_cell_serialize leaves it: order, cut at MAX_GENE_LEN). */
scd_code scd_augment(const scd_augment_options *options, const scd_augment_input *in,
                     const scd_model_config *config, const scd_vocab *vocab, scd_arena *arena,
                     scd_cell *out, scd_error *err);

#endif
