/* forward.h - the 12-layer denoiser: one forward pass in C, whatever the backend (SPEC section 1).
 *
 * A batch is a list of cells of any lengths, packed without padding: rows [LAT], token 1, ...,
 * token L of each cell, one cell after the other. The last layer computes keys and values of every
 * row, but queries, o_proj and MLP of those rows alone whose states are wanted: [LAT]'s for an
 * embedding, the hidden tokens' for denoising.
 *
 * Threads: the device's owner. Owns: packed weights and activations on the device, one allocation
 *          for vectors and one for activations, until close. The model must outlive it. */
#ifndef SCD_MODEL_FORWARD_H
#define SCD_MODEL_FORWARD_H

#include "engine/backend/backend.h"
#include "engine/model/model.h"
#include "engine/model/serialize.h"

#include <stdbool.h>

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

/* One cell of a batch, borrowed for the call. */
typedef struct scd_forward_cell {
    size_t n_tokens;
    const int32_t *ids;    /* (n_tokens) any real id where the gene is hidden */
    const float *values;   /* (n_tokens) */
    const uint8_t *hidden; /* (n_tokens) SCD_HIDE_* bits; NULL: everything is seen */
    const uint8_t *wanted; /* (n_tokens) not 0: this token's state; NULL: [LAT]'s alone */
} scd_forward_cell;

typedef enum scd_pooling { SCD_POOL_VISIBLE, SCD_POOL_CLEAN } scd_pooling;

/* The wanted states of all cells, one after the other, after the final norm: *out (rows wanted,
 * HIDDEN_DIM) on the device, valid until the next call for this forward or one that shares with it.
 * Not synchronized. Pooling matters for what is hidden alone. Errors as scd_forward_embed. */
scd_code scd_forward_pass(scd_forward *forward, const scd_forward_cell *cells, size_t n_cells,
                          scd_pooling pooling, const float **out, scd_error *err);

/* How much all rows of one cell look at some of its tokens. */
typedef struct scd_watch_keys {
    const uint8_t *layers, *heads; /* (n_layers), (n_heads): not 0: this one */
    const uint32_t *keys;          /* (n_keys) rows: token i is row i + 1 */
    size_t n_keys;
    float *out; /* host (n_tokens + 1, n_keys): each layer's mean over heads is added */
} scd_watch_keys;

/* SCD_E_DEVICE: this device does not tell; others as scd_forward_embed. */
scd_code scd_forward_watch(scd_forward *forward, const scd_forward_cell *cell,
                           const scd_watch_keys *watch, scd_error *err);

/* out: (n_cells, HIDDEN_DIM) host floats, the cell embeddings. Cells have at least one token each
 * (SCD_E_INVALID) and together at most max_rows rows (SCD_E_TOO_LARGE). */
scd_code scd_forward_embed(scd_forward *forward, const scd_cell *const *cells, size_t n_cells,
                           float *out, scd_error *err);

/* The same, left on the device: *out (n_cells, HIDDEN_DIM) is valid until the next call for this
 * forward or one that shares with it. Not synchronized: an operation may follow. */
scd_code scd_forward_run(scd_forward *forward, const scd_cell *const *cells, size_t n_cells,
                         const float **out, scd_error *err);

/* Two batches of plain cells one behind the other, so that the device is not idle while the host
 * fetches, hands out and stages: each in a slot, 0 or 1, which is free again when its result was
 * fetched. Overlaps: whether so many cells may; where they may not, the rest must not be called. */
bool scd_forward_overlaps(const scd_forward *forward, size_t n_cells);
/* As scd_forward_run, with an *out of the slot's own. What is done with it on the device follows;
 * then scd_forward_end says what the result is: `bytes` at src on the device; NULL: the batch is
 * given up, as it must be after an error. scd_forward_fetch waits for the result. */
scd_code scd_forward_begin(scd_forward *forward, int slot, const scd_cell *const *cells,
                           size_t n_cells, const float **out, scd_error *err);
scd_code scd_forward_end(scd_forward *forward, int slot, const void *src, size_t bytes,
                         scd_error *err);
scd_code scd_forward_fetch(scd_forward *forward, int slot, void *dst, scd_error *err);

#endif
