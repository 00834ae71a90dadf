/* lisi.h - how many kinds stand among a cell's neighbours: the local inverse Simpson's index.
 *
 * Korsunsky et al. 2019 (Harmony), as scIB and scib-metrics compute it: the n nearest cells by
 * Euclidean distance are weighed by exp(-beta distance), beta such that the weights have the
 * perplexity n / 3, and the index is 1 / sum over kinds of (weight of the kind)^2: 1 where all
 * neighbours are of one kind, the number of kinds where these are even. The median over cells is
 * scaled to 0 .. 1.
 *
 *   iLISI of batches   (median - 1) / (kinds - 1): 1 is well mixed
 *   cLISI of labels    (kinds - median) / (kinds - 1): 1 is kept apart
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_LISI_H
#define SCD_API_LISI_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { SCD_LISI_NEIGHBOURS = 90 }; /* the cell itself included */

typedef struct scd_lisi_cells {
    size_t n;
    /* Squared distances of cell i from all n: out (n). */
    void (*distances)(void *arg, size_t i, double *out);
    void *arg;
} scd_lisi_cells;

/* The median over the cells whose kind (n) is not negative, in their company alone; *n_kinds that
 * occur, *n_cells. NAN: fewer than two kinds, or no more cells than four neighbours. SCD_E_NOMEM.
 */
scd_code scd_lisi_median(const scd_lisi_cells *cells, const int32_t *kind, double *median,
                         size_t *n_kinds, size_t *n_cells, scd_error *err);

double scd_lisi_mixed(double median, size_t n_kinds); /* iLISI */
double scd_lisi_apart(double median, size_t n_kinds); /* cLISI */

#endif
