/* score.h - how well what was found agrees with what was hidden.
 *
 * All in float64. NaN where a figure means nothing: no pairs, fewer than two, or no spread.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_DENOISE_SCORE_H
#define SCD_DENOISE_SCORE_H

#include <stddef.h>
#include <stdint.h>

double scd_pearson(const float *a, const float *b, size_t n);
/* Of the ranks, equal ones shared; scratch: (4 n) floats. */
double scd_spearman(const float *a, const float *b, size_t n, float *scratch);
double scd_mean_abs_error(const float *a, const float *b, size_t n);

/* Two orders of n genes, each without repeats, compared as the paper compares gene rankings:
 *   edit_distance  Levenshtein's, over n: 0 the same, 1 nothing in common
 *   bleu           BLEU of `found` (Papineni et al. 2002): geometric mean of the shares of its 1-
 * to 4-grams (shorter where n is) that `truth` has too; 0 where one share is spearman       of the
 * places of truth's genes; one that is not found has place n scratch: (6 n + 1) uint32. */
typedef struct scd_order_score {
    double edit_distance, bleu, spearman;
} scd_order_score;

scd_order_score scd_order_compare(const int32_t *truth, const int32_t *found, size_t n,
                                  uint32_t *places, float *scratch);

#endif
