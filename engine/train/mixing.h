/* mixing.h - who the neighbours of cells are: of another batch, of the same label?
 *
 * A quick look for a run's report, on a few cells; tests/bench/quality/integration.py asks the
 * field's own measures.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TRAIN_MIXING_H
#define SCD_TRAIN_MIXING_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { SCD_MIXING_NEIGHBOURS = 15 };

typedef struct scd_mixing {
    double own_batch;     /* share of the nearest neighbours (cosine) of a cell's own batch, among
                             those it is compared with */
    double by_chance;     /* what it is when batches do not matter */
    double own_label;     /* share of the nearest labelled cells that have its label; NAN: none */
    size_t n, n_labelled; /* cells that these are means over */
} scd_mixing;

/* x (n, dim); batch (n); label (n), -1: none. For own_batch a labelled cell is compared with the
 * cells of its label and any other with those without one, so that a type which one batch alone has
 * is no lack of mixing; cells that all of whose kind are of one batch are not counted. SCD_E_NOMEM.
 */
scd_code scd_mixing_of(const float *x, size_t n, size_t dim, const int32_t *batch,
                       const int32_t *label, scd_mixing *out, scd_error *err);

#endif
