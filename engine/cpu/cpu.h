/* cpu.h - what the files of the CPU backend share: the device, its threads' scratch, its matrices.
 *
 * Layout of the work: an operation is one to three passes of the pool; in a pass threads take row
 * tiles (products) or heads (attention) from a cursor. A row tile stays in one core's cache from
 * the norm before a product to the sum after it.
 *
 * Threads: the owner calls the operations; the pool's threads run inside them only. */
#ifndef SCD_CPU_CPU_H
#define SCD_CPU_CPU_H

#include "engine/backend/backend.h"
#include "engine/cpu/isa.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/pool.h"
#include "engine/cpu/slab.h"

#include <stdbool.h>

/* Counts up whenever a kernel's bits change: it is part of every cache key. */
#define SCD_CPU_KERNEL_VERSION 2

/* Rows of a product that oneDNN builds, largest first; a tile is put together from these, so that
 * it can have any multiple of the least of them, up to the largest. */
enum { SCD_N_SIZES = 4, SCD_TILE_ROWS = 64, SCD_TILE_STEP = 8 };
extern const size_t scd_product_sizes[SCD_N_SIZES];

static inline size_t scd_tile_round(size_t rows)
{
    return (rows + SCD_TILE_STEP - 1) / SCD_TILE_STEP * SCD_TILE_STEP;
}

typedef struct scd_dnnl scd_dnnl; /* product_dnnl.c: engine, streams, built products */

/* A block of scratch that only grows. */
typedef struct scd_scratch {
    void *memory;
    size_t bytes;
} scd_scratch;

struct scd_device {
    scd_device_info info;
    const scd_kernels *kernels;
    scd_pool *pool;
    int threads;
    scd_dnnl *dnnl;       /* NULL where kernels->product is there */
    scd_scratch *scratch; /* (threads) for operations */
    scd_scratch *library; /* (threads) for products: one panel's output, then oneDNN's own */

    scd_scratch shared; /* of one operation, for all its threads */

    scd_slab *slabs; /* weights */

    size_t max_rows;            /* from reserve */
    float *rope;                /* (max_rows, rope_dim): cosines, then sines, of each position */
    size_t rope_floats;         /* room at `rope` */
    size_t rope_dim, rope_rows; /* what is filled in */
    double rope_theta;

    const void **tables; /* borrowed by table_load */
    size_t n_tables;
};

/* Each of n blocks has at least `bytes` afterwards. SCD_E_NOMEM. */
scd_code scd_scratch_want(scd_scratch *blocks, int n, size_t bytes, scd_error *err);

/* Room for a table of `floats`, emptied where it grows; SCD_E_NOMEM. Cosines and sines of every
 * position below `rows`: (rows, dim) at device->rope, for which there must be room. */
scd_code scd_rope_want(scd_device *device, size_t floats, scd_error *err);
void scd_rope_fill(scd_device *device, size_t rows, size_t dim, double theta);

/* Consecutive 64-byte aligned pieces of a scratch block, *used bytes into it; with base NULL all
 * pieces are NULL and only their bytes add up. */
static inline void *scd_carve(char *base, size_t *used, size_t count, size_t size)
{
    void *here = base ? base + *used : NULL;
    *used += (count * size + 63) & ~(size_t)63;
    return here;
}

/* ---- matrices and products (matrix.c) ---- */

/* The columns of a part are computed in panels; each has its packed weights. */
typedef struct scd_panel {
    void *weights;
    void *handle; /* oneDNN's view of them */
    size_t n;     /* columns, padded to a multiple of 16: row length of what it computes */
} scd_panel;

struct scd_matrix {
    size_t n_parts, part_rows, cols;
    size_t panel;      /* columns of every panel but the last of a part */
    size_t n_panels;   /* of a part */
    size_t wide;       /* part_rows rounded up: row length of buffers that take a whole part */
    scd_slab *slab;    /* where the weights lie */
    scd_panel *panels; /* (n_parts, n_panels) */
    struct scd_product *built[2][SCD_N_SIZES]; /* [full, last panel][size] */
};

scd_code scd_cpu_matrix_pack(scd_device *device, const scd_tensor *parts, size_t n_parts,
                             unsigned uses, scd_matrix **out, scd_error *err);
void scd_cpu_matrix_free(scd_device *device, scd_matrix *matrix);

/* Rows to provide for m rows of input: products of oneDNN compute whole steps. */
size_t scd_tile_padded(const scd_device *device, size_t m);

/* The columns [panel * matrix->panel, + panel.n) of a part. */
static inline const scd_panel *scd_matrix_panel(const scd_matrix *matrix, size_t part, size_t panel)
{
    return &matrix->panels[part * matrix->n_panels + panel];
}

/* y = x W^T for one panel, or for a whole part: x (m, cols) act, y fp32 with rows of panel->n or
 * matrix->wide floats; both have room for scd_tile_padded(m) rows, m <= SCD_TILE_ROWS. */
scd_code scd_product_panel(scd_device *device, int thread, const scd_matrix *matrix, size_t part,
                           size_t panel, const void *x, size_t m, float *y);
scd_code scd_product_part(scd_device *device, int thread, const scd_matrix *matrix, size_t part,
                          const void *x, size_t m, float *y);

/* ---- row tiles (tiles.c) ---- */

/* Hands out tiles of `rows` rows: large first, small at the end, so that threads end together. */
typedef struct scd_tiles {
    scd_cursor cursor;
    size_t rows;
    int threads;
    atomic_int failed; /* scd_code of a tile that failed */
} scd_tiles;

void scd_tiles_init(scd_tiles *tiles, size_t rows, int threads);
/* False when all rows are taken, or one failed. */
bool scd_tiles_take(scd_tiles *tiles, size_t *first, size_t *n);
scd_code scd_tiles_end(scd_tiles *tiles, scd_error *err);

/* ---- operations (op_*.c) ---- */

scd_code scd_cpu_embed(scd_device *device, const scd_batch_rows *batch, const scd_embed_args *args,
                       scd_error *err);
scd_code scd_cpu_qkv(scd_device *device, const scd_qkv_args *args, scd_error *err);
scd_code scd_cpu_attention(scd_device *device, const scd_attention_args *args, scd_error *err);
scd_code scd_cpu_block_out(scd_device *device, const scd_block_out_args *args, scd_error *err);
scd_code scd_cpu_linear(scd_device *device, const scd_linear_args *args, scd_error *err);
scd_code scd_cpu_attention_weights(scd_device *device, const scd_attention_weights_args *args,
                                   scd_error *err);
scd_code scd_cpu_gene_pick(scd_device *device, const scd_gene_pick_args *args, scd_error *err);
scd_code scd_cpu_gather_rows(scd_device *device, const float *src, const uint32_t *index, size_t n,
                             size_t width, float *dst, scd_error *err);
scd_code scd_cpu_rms_norm(scd_device *device, const float *h, const float *weight, size_t rows,
                          size_t width, float *out, scd_error *err);

/* What an operation needs of a thread's scratch, by sizes known at reserve and matrix_pack. */
size_t scd_embed_scratch(size_t d, size_t hidden_dim);
size_t scd_qkv_scratch(size_t hidden_dim);
size_t scd_block_out_scratch(size_t hidden_dim, size_t ffn_dim);
size_t scd_linear_scratch(const scd_matrix *matrix);
size_t scd_attention_weights_scratch(size_t rows, size_t head_dim);
size_t scd_gene_pick_scratch(const scd_matrix *matrix);

#endif
