/* cuda.h - what the files of the CUDA backend share: the device, its scratch, its matrices.
 *
 * Layout of the work: an operation is a few launches and products on one stream; nothing waits but
 * download and synchronize. Scratch is one block that every operation carves anew.
 *
 * A kernel cannot refuse: an id or position out of range is clamped to stay in memory and noted in
 * `fault`, which the next download or synchronize answers with SCD_E_INVALID.
 *
 * Threads: the owner calls the operations. */
#ifndef SCD_CUDA_CUDA_H
#define SCD_CUDA_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/backend/backend.h"
#include "engine/cuda/gemm.h"
#include "engine/cuda/gene_order.h"
#include "engine/cuda/runtime.h"

#include <stdbool.h>

/* Counts up whenever a kernel's bits change: it is part of every cache key. */
#define SCD_CUDA_KERNEL_VERSION 4

/* `linear` converts at least so many rows to act at once. */
enum { SCD_CUDA_MAX_HEAD = 128, SCD_CUDA_ALIGN = 256, SCD_CUDA_LINEAR_ROWS = 256 };

/* What kernels found wrong. */
enum { SCD_FAULT_ID = 1, SCD_FAULT_POS = 2, SCD_FAULT_SET = 3 };

typedef struct scd_shape_plan {
    scd_gemm_shape shape;
    scd_gemm_plan *plan; /* NULL: nothing multiplies with this epilogue */
} scd_shape_plan;

/* Cosines, then sines, of every position up to the rows that are reserved: device (max_rows, dim).
 */
typedef struct scd_rope {
    size_t dim; /* of a head */
    double theta;
    float *table;
} scd_rope;

/* A batch that is under way. */
typedef struct scd_cuda_slot {
    char *in, *out;     /* pinned */
    const void *result; /* device */
    size_t bytes;
} scd_cuda_slot;

struct scd_device {
    scd_device_info info;
    scd_gpu *gpu;
    scd_gemm_lib *gemm;
    bool bf16;
    bool groups; /* multiplies by warpgroups (Hopper) */
    bool next;   /* kernels for it that no GPU has run yet are wanted (README.md) */
    int processors;
    size_t act; /* bytes of an activation */

    char *pinned;              /* two halves for copies in and out; those of slots; faults */
    volatile uint32_t *faults; /* pinned (1 + SCD_SLOTS): SCD_FAULT_*, 0: none */
    volatile uint32_t *fault;  /* that which work now notes: the first, or the slot's */
    int half;                  /* the next half to use */
    scd_cuda_slot slots[SCD_SLOTS];

    scd_shape_plan *plans; /* one a shape */
    size_t n_plans;

    uint64_t epoch; /* counts up when memory that operations use moves or means something else */
    char *scratch;  /* device */
    size_t scratch_bytes;
    size_t max_rows; /* from reserve */

    scd_rope *ropes; /* of the heads that models have had since rows were reserved */
    size_t n_ropes;

    scd_gene_order order; /* of training's embed_back, on the host */
};

struct scd_graph {
    void *work; /* runtime.h's */
    uint64_t epoch;
};

struct scd_matrix {
    size_t n_parts, part_rows, cols;
    void *weights; /* device (n_parts * part_rows, cols) act */
    bool streams;  /* product_group.cu takes it too, by this map of its rows */
    scd_gpu_map map;
    scd_gemm_plan *plan;
    scd_gemm_plan *biased[2]; /* with a bias, with a bias and ReLU; NULL: a kernel does that */
};

/* Consecutive pieces of a block, *used bytes into it; with base NULL only their bytes add up. */
static inline void *scd_cuda_carve(char *base, size_t *used, size_t count, size_t size)
{
    void *here = base ? base + *used : NULL;
    *used += (count * size + SCD_CUDA_ALIGN - 1) & ~(size_t)(SCD_CUDA_ALIGN - 1);
    return here;
}

/* Where accesses of 16 bytes may start. */
static inline bool scd_cuda_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Scratch of at least `bytes`; waits for the device where it grows. */
scd_code scd_cuda_scratch_want(scd_device *device, size_t bytes, scd_error *err);
/* Room for a table of RoPE at the end of device->ropes, for the caller to fill. */
scd_code scd_cuda_rope_add(scd_device *device, size_t dim, double theta, float **table,
                           scd_error *err);
/* SCD_E_INVALID: more rows than reserve was told. */
scd_code scd_cuda_check_rows(const scd_device *device, size_t rows, scd_error *err);
/* SCD_E_INVALID: a head that kernels cannot take. */
scd_code scd_cuda_check_heads(size_t hidden_dim, size_t n_heads, scd_error *err);

/* ---- matrices and products (matrix.c) ---- */

scd_code scd_cuda_matrix_pack(scd_device *device, const scd_tensor *parts, size_t n_parts,
                              unsigned uses, scd_matrix **out, scd_error *err);
void scd_cuda_matrix_free(scd_device *device, scd_matrix *matrix);
/* Host memory to the device through the pinned halves (device.c). */
scd_code scd_cuda_upload(scd_device *device, void *dst, const void *src, size_t bytes,
                         scd_error *err);
scd_code scd_cuda_download(scd_device *device, void *dst, const void *src, size_t bytes,
                           scd_error *err);

/* y_i (m, part_rows) = x (m, cols) w_i^T for parts first .. first + parts, `step` elements apart.
 */
scd_code scd_cuda_product(scd_device *device, const scd_matrix *w, size_t first, size_t parts,
                          const void *x, size_t m, bool add, void *y, size_t step, scd_error *err);
/* y (m, part_rows) = x (m, cols) w^T + bias, with relu max(.., 0); bias may be NULL (op_linear.cu).
 */
scd_code scd_cuda_product_bias(scd_device *device, const scd_matrix *w, const void *x, size_t m,
                               const float *bias, bool relu, float *y, scd_error *err);

/* ---- operations (op_*.cu) ---- */

scd_code scd_cuda_embed(scd_device *device, const scd_batch_rows *batch, const scd_embed_args *args,
                        scd_error *err);
scd_code scd_cuda_qkv(scd_device *device, const scd_qkv_args *args, scd_error *err);
scd_code scd_cuda_attention(scd_device *device, const scd_attention_args *args, scd_error *err);
scd_code scd_cuda_block_out(scd_device *device, const scd_block_out_args *args, scd_error *err);
scd_code scd_cuda_linear(scd_device *device, const scd_linear_args *args, scd_error *err);
scd_code scd_cuda_gene_pick(scd_device *device, const scd_gene_pick_args *args, scd_error *err);
scd_code scd_cuda_attention_weights(scd_device *device, const scd_attention_weights_args *args,
                                    scd_error *err);
scd_code scd_cuda_gather_rows(scd_device *device, const float *src, const uint32_t *index, size_t n,
                              size_t width, float *dst, scd_error *err);
scd_code scd_cuda_rms_norm(scd_device *device, const float *h, const float *weight, size_t rows,
                           size_t width, float *out, scd_error *err);

/* Scratch bytes of an operation. */
size_t scd_cuda_embed_scratch(size_t rows, size_t d, size_t hidden_dim, size_t act);
size_t scd_cuda_qkv_scratch(size_t rows, size_t hidden_dim, size_t act);
size_t scd_cuda_block_out_scratch(size_t rows, size_t hidden_dim, size_t ffn_dim, size_t act);

/* Attention in bf16 on the tensor cores; `most` is the most queries of a cell (attention_bf16.cu).
 */
scd_code scd_cuda_attention_bf16(scd_device *device, const scd_attention_args *args, size_t most,
                                 scd_error *err);

/* *out: n rows of x as act, which are x itself in fp32 and else rounded to `room` (op_linear.cu).
 */
scd_code scd_cuda_rows_act(scd_device *device, const float *x, size_t n, size_t width, void *room,
                           const void **out, scd_error *err);

/* RMSNorm of rows h (rows, width) to act (op_norm.cu). */
scd_code scd_cuda_norm_act(scd_device *device, const float *h, const float *weight, size_t rows,
                           size_t width, void *out, scd_error *err);

/* ---- products that end in what follows them (product_group.cu) ---- */

/* Whether weights of this shape are multiplied there where an operation can do with it. */
bool scd_cuda_streams(const scd_device *device, size_t part_rows, size_t cols);

/* Half of a block: h (rows, H) += att wo^T; mid (rows, F) act = silu(gate) up of n = RMSNorm(h).
 * x (rows, H) act is scratch: h times the norm's weight; so is squares (rows, scd_cuda_squares(H)):
 * sums of h^2. */
static inline size_t scd_cuda_squares(size_t hidden_dim)
{
    return (hidden_dim + 127) / 128;
}
scd_code scd_cuda_stream_out(scd_device *device, const scd_block_out_args *args, void *x,
                             float *squares, void *mid, scd_error *err);
/* q, k and v of normed rows x, q and k turned by `rope` (max_rows, 64). Heads are of 64, and an
 * even number. */
scd_code scd_cuda_stream_turned(scd_device *device, const scd_qkv_args *args, const void *x,
                                const float *rope, scd_error *err);

#ifdef __cplusplus
}
#endif
#endif
