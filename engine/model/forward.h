/* forward.h - the 12-layer denoiser: one forward pass in C, whatever the backend (SPEC section 1).
 *
 * A batch is a list of cells of any lengths, packed without padding: rows [LAT], token 1, ...,
 * token L of each cell, one cell after the other. Where only embeddings are asked for, the last
 * layer computes keys and values of every row but queries, o_proj and MLP of the [LAT] rows alone.
 *
 * Threads: the device's owner. Owns: packed weights and activations on the device, one allocation
 *          for vectors and one for activations, until close. The model must outlive it. */
#ifndef SCD_MODEL_FORWARD_H
#define SCD_MODEL_FORWARD_H

#include "engine/backend/backend.h"
#include "engine/model/model.h"
#include "engine/model/serialize.h"

typedef struct scd_forward scd_forward;

/* max_rows: the most rows (tokens + cells) of one batch. */
scd_code scd_forward_open(const scd_backend *backend, scd_device *device, const scd_model *model,
                          size_t max_rows, scd_forward **out, scd_error *err);
/* `base` with the tensors of `overlay` in place of the model's own, for heads that changed some.
 * What is not changed, activations included, is shared: the two never run at once, and `base` and
 * `overlay` must outlive the result. */
scd_code scd_forward_open_over(const scd_forward *base, const scd_safetensors *overlay,
                               scd_forward **out, scd_error *err);
void scd_forward_close(scd_forward *forward);

/* out: (n_cells, HIDDEN_DIM) host floats, the cell embeddings. Cells have at least one token each
 * (SCD_E_INVALID) and together at most max_rows rows (SCD_E_TOO_LARGE). */
scd_code scd_forward_embed(scd_forward *forward, const scd_cell *const *cells, size_t n_cells,
                           float *out, scd_error *err);

/* The same, left on the device: *out (n_cells, HIDDEN_DIM) is valid until the next call for this
 * forward or one that shares with it. Not synchronized: an operation may follow. */
scd_code scd_forward_run(scd_forward *forward, const scd_cell *const *cells, size_t n_cells,
                         const float **out, scd_error *err);

#endif
