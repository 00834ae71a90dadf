/* forward_impl.h - what forward.c (weights, memory) and forward_pass.c share; nothing else includes
 * it.
 *
 * Threads: as forward.h. */
#ifndef SCD_MODEL_FORWARD_IMPL_H
#define SCD_MODEL_FORWARD_IMPL_H

#include "engine/model/forward.h"
#include "engine/model/recorded.h"

typedef struct layer {
    scd_matrix *qkv, *o, *gate_up, *down;
    float *norm1, *norm2; /* device (H) */
} layer;

/* The integers and floats that describe a batch, in one block on the host and one on the device;
 * carved anew for each batch, so that it is one short copy. */
typedef struct staging {
    uint32_t *cu_rows; /* (rows + 1) */
    uint32_t *cu_want; /* (rows + 1) the same of the rows that are wanted */
    uint32_t *want;    /* (rows) which rows those are */
    uint32_t *wpos;    /* (rows) and their positions */
    uint32_t *pos;     /* (rows) */
    int32_t *ids;      /* (rows) */
    float *values;     /* (rows) */
    uint8_t *hidden;   /* (rows) */
} staging;

/* The most cells of a batch that overlaps: shorter cells on average are not worth their memory. */
static inline size_t scd_forward_slot_cells(size_t max_rows)
{
    size_t n = max_rows / 16;
    return n > SCD_RECORDED_CELLS ? n : SCD_RECORDED_CELLS;
}

/* The bytes of a block for so many rows, and its pieces; base NULL: only the bytes. */
size_t scd_forward_carve_staging(char *base, size_t rows, staging *s);

struct scd_forward {
    const scd_backend *be;
    scd_device *device;
    const scd_model *model;
    const scd_forward *base;        /* NULL: everything here is our own */
    const scd_safetensors *overlay; /* looked at before the model's; NULL without base */
    scd_model_config c;
    size_t max_rows;

    layer *layers;
    scd_matrix *value_w2, *input_proj, *latent_w0, *latent_w3;
    void *gene_embedding; /* device table (V, d) in its file type */
    scd_dtype gene_embedding_dtype;
    float *vectors;                   /* device: every vector tensor, each at 16 bytes */
    size_t vectors_used, vectors_cap; /* floats */
    float *value_w0, *value_b0, *value_b2, *value_mask, *gene_mask;
    float *latent_b0, *latent_norm_w, *latent_norm_b, *latent_b3, *final_norm;

    void *host_block, *device_block;
    staging host, dev;
    scd_recorded recorded;
    uint32_t recorded_cu[SCD_RECORDED_CELLS + 1]; /* one cell has all rows: the longest there is */

    scd_forward_cell *cells; /* (max_rows / 2 + 1) of a batch of plain cells */

    void *activations; /* device */
    float *clean, *h;
    float *h_want, *states; /* wanted rows: in the last layer, and after the final norm */

    /* Of batches that overlap, on the device; NULL where none do. */
    void *slot_block[SCD_SLOTS];   /* as device_block */
    float *slot_states[SCD_SLOTS]; /* (scd_forward_slot_cells, H) */
    void *q, *k, *v, *att;
};

#endif
