/* oip_cells.h - tensors become cells (oip_request.h); internal to the decoder.
 *
 * Threads: one at a time. Owns: nothing; results live in the decoder's arena. */
#ifndef SCD_API_OIP_CELLS_H
#define SCD_API_OIP_CELLS_H

#include "api/oip_tensor.h"

/* What one of the inputs is; for the metadata of a model. */
typedef struct scd_oip_input_kind {
    const char *name;
    scd_oip_type type; /* that it has by rights; where it is a number, others are taken */
    size_t n_dims;
    bool optional;
} scd_oip_input_kind;

const scd_oip_input_kind *scd_oip_input_kinds(size_t *n);

/* The cells of n inputs, of names that differ, into out->cells. What is wrong goes to the decoder's
 * problem, or stays with its cell. False: the decoder has stopped. */
bool scd_oip_join(scd_decoder *decoder, const scd_oip_tensor *inputs, size_t n, scd_request *out);

#endif
