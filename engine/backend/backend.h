/* backend.h - the table of operations behind which CPU and CUDA differ.
 *
 * One forward pass (engine/model/forward.c) calls these; a backend is one table. Operations are as
 * coarse as speed needs. Shapes in comments: T gene tokens, C cells, R = T + C rows (a cell's
 * [LAT] row first, then its tokens), d = SCGPT_DIM, H = HIDDEN_DIM, F = D_HID, V = vocabulary.
 *
 * "act" is the type of activations between operations: float in fp32, bf16 in bf16. The residual
 * stream h, norms, softmax and every accumulation are fp32 in both.
 *
 * Reproducibility: the bits of a row depend on that row (for attention and pooling: on the rows of
 * its cell) and on nothing else - not on the batch, its place in it, or the number of threads.
 *
 * Memory: pointers called `device` come from `alloc` or `table_load`; all others are host memory.
 * After `open`, `reserve` and weight loading no operation allocates.
 *
 * Threads: a device has one owner at a time, which calls everything here (batch-N in the daemon).
 * Errors:  SCD_E_DEVICE when the hardware or its library fails; never an abort. What lies on the
 *          device - ids, positions - may be found wrong later than the call that was given it: by
 *          the next download or synchronize, as SCD_E_INVALID. */
#ifndef SCD_BACKEND_H
#define SCD_BACKEND_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

#define SCD_BACKEND_ABI 5u

typedef enum scd_dtype { SCD_F32, SCD_F16, SCD_BF16 } scd_dtype;
typedef enum scd_precision {
    SCD_PRECISION_AUTO,
    SCD_PRECISION_FP32,
    SCD_PRECISION_BF16
} scd_precision;

/* Of a device: never AUTO. */
static inline const char *scd_precision_name(scd_precision p)
{
    return p == SCD_PRECISION_BF16 ? "bf16" : "fp32";
}

static inline size_t scd_dtype_bytes(scd_dtype t)
{
    return t == SCD_F32 ? 4 : 2;
}

typedef struct scd_device scd_device; /* each backend has its own */
typedef struct scd_matrix scd_matrix; /* weights packed for the device's products */
typedef struct scd_graph scd_graph;   /* operations recorded once, to be done again */
struct scd_train_ops;                 /* train_ops.h */

typedef struct scd_device_options {
    scd_precision precision; /* auto: bf16 where the hardware multiplies it, else fp32 */
    int threads;             /* CPU: compute threads, the owner included; 0: one per core */
    int index;               /* CUDA: which device */
    int give_way; /* CPU: compute threads yield to all others of the machine, for a server whose
                     probes must be answered meanwhile */
} scd_device_options;

typedef struct scd_device_info {
    char name[96];           /* "AMD EPYC ..., 2 threads" */
    char isa[32];            /* "avx512_bf16", "avx512", "avx2", "generic", "sm_90" */
    char identity[192];      /* all that the bits of a result depend on besides model and input:
                                kind, isa, precision, kernel version, library version, and where
                                the library chooses by it the chip */
    scd_precision precision; /* never AUTO */
    size_t act_bytes;        /* 4 or 2 */
} scd_device_info;

/* One tensor on the host: (rows, cols) row-major; cols 1 for vectors. */
typedef struct scd_tensor {
    const void *data;
    scd_dtype dtype;
    size_t rows, cols;
} scd_tensor;

/* A packed batch; every array lives on the device. */
typedef struct scd_batch_rows {
    size_t n_cells, n_tokens, n_rows;
    const uint32_t *cu_rows;      /* (C + 1) first row of each cell, then R */
    const uint32_t *host_cu_rows; /* the same on the host */
    const int32_t *ids;           /* (R) gene id; -1 in [LAT] rows */
    const float *values;          /* (R) */
    const uint8_t *hidden;        /* (R) SCD_HIDE_* bits; 0: seen */
    const uint32_t *pos;          /* (R) position in the cell: 0 for [LAT], token i has i + 1 */
} scd_batch_rows;

enum { SCD_HIDE_GENE = 1, SCD_HIDE_VALUE = 2 }; /* GENE implies VALUE */

/* SPEC 1.1 - 1.4: everything from ids and values to the first residual stream.
 *   clean[i] = E[id] + W2 relu(w0 x + b0) + b2;  z = MLP(mean of pooled clean);
 *   h[LAT row] = z;  h[token row] = input_proj(masked clean). */
typedef struct scd_embed_args {
    const void *gene_embedding; /* device: from table_load, (V, d) */
    scd_dtype gene_embedding_dtype;
    size_t d, hidden_dim, vocab;
    const float *value_w0, *value_b0;                       /* device (d) */
    const scd_matrix *value_w2;                             /* d x d */
    const float *value_b2;                                  /* device (d) */
    const float *value_mask, *gene_mask;                    /* device (d) */
    const scd_matrix *input_proj;                           /* H x d */
    const scd_matrix *latent_w0;                            /* H x d */
    const float *latent_b0, *latent_norm_w, *latent_norm_b; /* device (H) */
    const scd_matrix *latent_w3;                            /* H x H */
    const float *latent_b3;                                 /* device (H) */
    int visible_pooling; /* pool only rows with hidden == 0 (else every token) */
    float *clean;        /* device (R, d) scratch; [LAT] rows unused */
    float *h;            /* device (R, H) out */
} scd_embed_args;

/* Arrays of floats and of act that operations are given start at multiples of 16 bytes; a device
 * may refuse others (SCD_E_INVALID). */

enum { SCD_PART_Q = 1, SCD_PART_K = 2, SCD_PART_V = 4 };

/* n = RMSNorm(h, norm); q, k, v = n Wq^T, n Wk^T, n Wv^T; RoPE (rotate-half) on q and k. */
typedef struct scd_qkv_args {
    size_t rows, hidden_dim, n_heads;
    const float *h;         /* device (rows, H) */
    const float *norm;      /* device (H) */
    const scd_matrix *wqkv; /* parts q, k, v stacked: 3H x H */
    const uint32_t *pos;    /* device (rows); NULL: all 0 */
    unsigned parts;         /* SCD_PART_*: what to compute */
    void *q, *k, *v;        /* device (rows, H) act; NULL where not asked for */
    double rope_theta;      /* ROPE_THETA of the model; 0: 10000 */
} scd_qkv_args;

/* Full bidirectional attention within each cell; q rows of cell c: cu_q[c] .. cu_q[c+1]. */
typedef struct scd_attention_args {
    size_t n_cells, hidden_dim, n_heads;
    const uint32_t *cu_q, *cu_k;           /* device (C + 1) */
    const uint32_t *host_cu_q, *host_cu_k; /* the same on the host */
    const void *q, *k, *v;                 /* device, act, (rows, H), head j in columns j*D.. */
    void *out;                             /* device, act, (q rows, H) */
} scd_attention_args;

/* How much every row of a cell looks at some keys of it, before the values are weighed:
 *   out[row, j] += 1 / n sum over heads a of softmax_k(q_a[row] . k_a[k] / sqrt(D))[key j]
 * over the rows of the cell, [LAT] among them. n: heads that are used. */
typedef struct scd_attention_weights_args {
    size_t n_cells, hidden_dim, n_heads;
    const uint32_t *host_cu_rows; /* (C + 1) rows of q and k */
    const void *q, *k;            /* device, act, (rows, H) */
    const uint8_t *use_heads;     /* host (n_heads); not 0: this one */
    const uint32_t *cu_keys;      /* host (C + 1) */
    const uint32_t *keys;         /* host (cu_keys[C]) rows, counted from the cell's first */
    float *out; /* host: of each cell (its rows, its keys), one cell after the other */
} scd_attention_weights_args;

/* h += o_proj(att); n = RMSNorm(h, norm2); h += down(silu(gate n) * up n). */
typedef struct scd_block_out_args {
    size_t rows, hidden_dim, ffn_dim;
    float *h;                   /* device (rows, H) in and out */
    const void *att;            /* device (rows, H) act */
    const scd_matrix *wo;       /* H x H */
    const float *norm2;         /* device (H) */
    const scd_matrix *wgate_up; /* parts gate, up stacked: 2F x H */
    const scd_matrix *wdown;    /* H x F */
} scd_block_out_args;

/* y = x W^T + b, optionally ReLU; the general product for heads. */
typedef struct scd_linear_args {
    size_t rows, in_dim, out_dim;
    const float *x;      /* device (rows, in) */
    const scd_matrix *w; /* out x in, one part */
    const float *bias;   /* device (out), may be NULL */
    int relu;
    float *y; /* device (rows, out) */
} scd_linear_args;

/* Genes that rows may be, over the whole vocabulary: by tiles of it, or by blocks of rows whose
 * logits fit a bounded scratch; (rows, V) is never held.
 *   l_j = x . w_j for every gene j that the row's set allows;  lse = ln sum_j exp(l_j)
 *   key_j = l_j + temperature * gumbel_j: the SCD_PICK_TOP largest, of equals the lower id first.
 * gumbel_j = -ln(-ln((r + 0.5) / 2^32)), r word j % 4 of scd_rng_block(seed, stream, block + j /
 * 4). Its bits are a function of (seed, stream, block, j); temperature 0 draws nothing. */
enum { SCD_PICK_TOP = 16 };

typedef struct scd_pick_row {
    uint64_t seed, stream, block;
    float temperature; /* 0 or more */
    uint32_t set;      /* which of the sets */
} scd_pick_row;

typedef struct scd_gene_pick_args {
    size_t rows, hidden_dim, vocab;
    const float *x;         /* device (rows, H) */
    const scd_matrix *w;    /* V x H, one part */
    const scd_pick_row *of; /* device (rows) */
    const uint32_t *sets;   /* device (n_sets, scd_pick_words(V)): bit j % 32 of word j / 32 */
    size_t n_sets;
    float *lse;     /* device (rows) */
    int32_t *genes; /* device (rows, SCD_PICK_TOP) best first; -1: the set has no more */
    float *logits;  /* device (rows, SCD_PICK_TOP) of these, without noise */
} scd_gene_pick_args;

static inline size_t scd_pick_words(size_t vocab)
{
    return (vocab + 31) / 32;
}

enum { SCD_SLOTS = 2 };

/* What a matrix of one part is multiplied for besides the bare product, so that a device may look
 * for the best way while it packs it. It is no promise: any other use is right as well. */
enum { SCD_FOR_BIAS = 1, SCD_FOR_BIAS_RELU = 2 };

typedef struct scd_backend {
    uint32_t abi;     /* SCD_BACKEND_ABI */
    uint32_t size;    /* sizeof(scd_backend): both are checked at load */
    const char *name; /* "cpu", "cuda" */

    /* Devices that `index` may name, from 0; 1 or more. SCD_E_DEVICE: there is none. */
    scd_code (*count)(int *n, scd_error *err);
    scd_code (*open)(const scd_device_options *options, scd_device **out, scd_error *err);
    void (*close)(scd_device *device); /* NULL is fine */
    const scd_device_info *(*info)(const scd_device *device);

    /* Scratch for batches up to `rows` rows of a model of these sizes; grows, never shrinks. */
    scd_code (*reserve)(scd_device *device, size_t rows, size_t hidden_dim, size_t ffn_dim,
                        size_t d, scd_error *err);

    scd_code (*alloc)(scd_device *device, size_t bytes, void **out, scd_error *err);
    void (*free)(scd_device *device, void *memory);
    scd_code (*upload)(scd_device *device, void *dst, const void *src, size_t bytes,
                       scd_error *err);
    scd_code (*download)(scd_device *device, void *dst, const void *src, size_t bytes,
                         scd_error *err);

    /* A look-up table in its file type. On the CPU this borrows tensor->data, which must outlive
     * the device; elsewhere it is copied. */
    scd_code (*table_load)(scd_device *device, const scd_tensor *tensor, void **out,
                           scd_error *err);

    /* Stack n_parts (1..3) tensors of equal cols by rows and pack them for products; uses:
     * SCD_FOR_* bits. */
    scd_code (*matrix_pack)(scd_device *device, const scd_tensor *parts, size_t n_parts,
                            unsigned uses, scd_matrix **out, scd_error *err);
    void (*matrix_free)(scd_device *device, scd_matrix *matrix);

    scd_code (*embed)(scd_device *device, const scd_batch_rows *batch, const scd_embed_args *args,
                      scd_error *err);
    scd_code (*qkv)(scd_device *device, const scd_qkv_args *args, scd_error *err);
    scd_code (*attention)(scd_device *device, const scd_attention_args *args, scd_error *err);
    scd_code (*block_out)(scd_device *device, const scd_block_out_args *args, scd_error *err);
    scd_code (*linear)(scd_device *device, const scd_linear_args *args, scd_error *err);
    /* NULL: this device does not tell. Synchronized. */
    scd_code (*attention_weights)(scd_device *device, const scd_attention_weights_args *args,
                                  scd_error *err);
    /* NULL: this device does not denoise. */
    scd_code (*gene_pick)(scd_device *device, const scd_gene_pick_args *args, scd_error *err);

    /* dst[i] = src[index[i]]; rows of `width` floats; index on the device. */
    scd_code (*gather_rows)(scd_device *device, const float *src, const uint32_t *index, size_t n,
                            size_t width, float *dst, scd_error *err);
    /* out = RMSNorm(h, weight), eps 1e-5; (rows, width) fp32. */
    scd_code (*rms_norm)(scd_device *device, const float *h, const float *weight, size_t rows,
                         size_t width, float *out, scd_error *err);
    scd_code (*synchronize)(scd_device *device, scd_error *err);

    /* Operations that are called between record and record_end are kept and not done; replay does
     * them, with the same arguments, as often as it is called. None of them may allocate: each was
     * called with these sizes before. record_end ends it after an error too. SCD_E_NOT_FOUND from
     * replay: memory that the graph names has moved since; free it and record again. All four NULL:
     * this device has nothing to gain. */
    scd_code (*record)(scd_device *device, scd_error *err);
    scd_code (*record_end)(scd_device *device, scd_graph **out, scd_error *err);
    scd_code (*replay)(scd_device *device, const scd_graph *graph, scd_error *err);
    void (*graph_free)(scd_device *device, scd_graph *graph); /* NULL is fine */

    /* Two batches, 0 and 1, the one put behind the other while that is computed: operations between
     * slot_begin and slot_end are of that slot's batch. All three NULL: an operation is done when
     * it returns, and there is nothing to gain.
     *   slot_begin    `bytes` from host memory go to dst, beside the work that is under way and
     *                 before what follows; src is free at once, dst not used by another batch
     *   slot_end      `bytes` at src, as the work so far leaves them, are the result; they are
     *                 fetched beside what follows, which leaves them alone until slot_collect.
     * NULL: the batch is given up slot_collect  waits for the result; what lay wrong on the device
     * is told here, as by download. */
    scd_code (*slot_begin)(scd_device *device, int slot, void *dst, const void *src, size_t bytes,
                           scd_error *err);
    scd_code (*slot_end)(scd_device *device, int slot, const void *src, size_t bytes,
                         scd_error *err);
    scd_code (*slot_collect)(scd_device *device, int slot, void *dst, scd_error *err);

    const struct scd_train_ops *train; /* the operations that training needs beside these */
} scd_backend;

extern const scd_backend scd_backend_cpu;

#endif
