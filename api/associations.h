/* associations.h - what regulators have to do with other genes, summed over cells.
 *
 * For a regulator and each gene that stands with it in cells:
 *
 *   weight        the attention that the gene's token pays to the regulator's, as a multiple of
 * what an even share would be; mean over the cells that express the regulator, 0 where the gene is
 * not there effect        what the regulator's presence adds to the gene's value as the denoiser
 * finds it; mean over the cells that have both coexpression  Pearson correlation of the two genes'
 * values over all cells
 *
 * Associations, never causes. Sums are in float64, in the order of the cells.
 *
 * Threads: any, one at a time for each tally. Owns: nothing. */
#ifndef SCD_API_ASSOCIATIONS_H
#define SCD_API_ASSOCIATIONS_H

#include "engine/model/vocab.h"

#include <stddef.h>
#include <stdint.h>

/* Of one regulator with one gene. */
typedef struct scd_association_tally {
    double weight, effect;
    double sum, squares, products; /* of the gene's values; of them with the regulator's */
    size_t n_both;
} scd_association_tally;

/* What a cell says, into the tallies (V) of its genes. weights, effects (n_tokens) of an ASSOCIATE
 * course (engine/denoise/course.h); NULL: the regulator is not there, or has no other gene. */
void scd_association_add(scd_association_tally *tallies, int32_t regulator, const int32_t *ids,
                         const float *values, size_t n_tokens, const float *weights,
                         const float *effects);

typedef struct scd_association {
    int32_t gene;
    int sign;                            /* of the effect */
    double weight, effect, coexpression; /* coexpression NaN: it means nothing */
    size_t n_both;                       /* cells that have both */
} scd_association;

/* All genes that stand with the regulator, the heaviest first, into out (V); how many.
 * n_expressing: cells that have the regulator, of n_cells. */
size_t scd_association_list(const scd_association_tally *tallies, size_t vocab, int32_t regulator,
                            size_t n_expressing, size_t n_cells, scd_association *out);

/* Where the regulator stands among the tokens; n: nowhere. */
size_t scd_association_place(const int32_t *ids, size_t n, int32_t regulator);

/* A gene as it is called: its symbol, its Ensembl id, or "token_N" in `scratch`. */
const char *scd_association_name(const scd_vocab *vocab, int32_t gene, char scratch[32]);

#endif
