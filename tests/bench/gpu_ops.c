/* gpu_ops.c - see gpu_ops.h. Weights and inputs are random; a device's speed does not ask for more,
 * but zeros would let it clock higher than work does. */
#include "tests/bench/gpu_ops.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 5, MOST_PLACED = 64 };

typedef struct ops {
    const scd_backend *be;
    scd_device *device;
    size_t cells, rows, h, ffn, d, layers, act;
    double seconds;
    scd_batch_rows batch;
    scd_embed_args embed;
    scd_qkv_args qkv;
    scd_attention_args attention;
    scd_block_out_args block_out;
    void *placed[MOST_PLACED];
    size_t n_placed;
    scd_matrix *matrices[16];
    size_t n_matrices;
    scd_code code; /* of the first thing that failed */
    scd_error *err;
} ops;

static void *place(ops *o, const void *host, size_t bytes)
{
    void *p = NULL;
    if (!o->code)
        o->code = o->be->alloc(o->device, bytes, &p, o->err);
    if (!o->code && host)
        o->code = o->be->upload(o->device, p, host, bytes, o->err);
    if (p)
        o->placed[o->n_placed++] = p;
    return p;
}

static float *random_floats(ops *o, size_t n, float spread)
{
    float *x = scd_malloc(n, sizeof *x);
    if (!x && !o->code)
        o->code = scd_fail(o->err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; x && i < n; i++)
        x[i] = (float)((i * 2654435761u >> 7) % 2000) / 1000 * spread - spread;
    return x;
}

static void *random_place(ops *o, size_t n, float spread)
{
    float *x = random_floats(o, n, spread);
    void *p = x ? place(o, x, n * sizeof *x) : NULL;
    free(x);
    return p;
}

/* Activations: what a row kernel would leave, in the device's type. */
static void *random_act(ops *o, size_t n)
{
    uint16_t *x = scd_malloc(n, o->act);
    if (!x)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (o->act == 2)
            x[i] = (uint16_t)(0x3d00 + i * 40503u % 0x0300 + (i & 1) * 0x8000);
        else
            ((float *)(void *)x)[i] = (float)((i * 40503u) % 2000) / 1000 - 1;
    void *p = place(o, x, n * o->act);
    free(x);
    return p;
}

/* embed's have a bias; the others are no worse for being asked about one. */
static const scd_matrix *random_matrix(ops *o, size_t parts, size_t rows, size_t cols)
{
    scd_tensor t[3];
    scd_matrix *m = NULL;
    float *w = random_floats(o, rows * cols, 0.07f);
    for (size_t i = 0; i < parts; i++)
        t[i] = (scd_tensor){.data = w, .dtype = SCD_F32, .rows = rows, .cols = cols};
    if (w && !o->code)
        o->code = o->be->matrix_pack(o->device, t, parts, SCD_FOR_BIAS, &m, o->err);
    if (m)
        o->matrices[o->n_matrices++] = m;
    free(w);
    return m;
}

static void make_batch(ops *o, size_t tokens, size_t vocab)
{
    uint32_t *cu = scd_calloc(o->cells + 1, sizeof *cu), *pos = scd_calloc(o->rows, sizeof *pos);
    int32_t *ids = scd_calloc(o->rows, sizeof *ids);
    uint8_t *hidden = scd_calloc(o->rows, 1);
    if (!cu || !pos || !ids || !hidden)
        o->code = scd_fail(o->err, SCD_E_NOMEM, "out of memory");
    for (size_t c = 0; !o->code && c <= o->cells; c++)
        cu[c] = (uint32_t)(c * (tokens + 1));
    for (size_t r = 0; !o->code && r < o->rows; r++) {
        pos[r] = (uint32_t)(r % (tokens + 1));
        ids[r] = pos[r] ? (int32_t)(r * 7919 % vocab) : -1;
    }
    o->batch = (scd_batch_rows){.n_cells = o->cells,
                                .n_tokens = o->rows - o->cells,
                                .n_rows = o->rows,
                                .cu_rows = place(o, cu, (o->cells + 1) * sizeof *cu),
                                .host_cu_rows = cu,
                                .ids = place(o, ids, o->rows * sizeof *ids),
                                .values = random_place(o, o->rows, 2),
                                .hidden = place(o, hidden, o->rows),
                                .pos = place(o, pos, o->rows * sizeof *pos)};
    free(hidden);
    free(ids);
    free(pos);
}

static void make_embed(ops *o, size_t vocab, float *h)
{
    const float *vector = random_place(o, o->h > o->d ? o->h : o->d, 1);
    o->embed = (scd_embed_args){.gene_embedding = random_place(o, vocab * o->d, 1),
                                .gene_embedding_dtype = SCD_F32,
                                .d = o->d,
                                .hidden_dim = o->h,
                                .vocab = vocab,
                                .value_w0 = vector,
                                .value_b0 = vector,
                                .value_w2 = random_matrix(o, 1, o->d, o->d),
                                .value_b2 = vector,
                                .value_mask = vector,
                                .gene_mask = vector,
                                .input_proj = random_matrix(o, 1, o->h, o->d),
                                .latent_w0 = random_matrix(o, 1, o->h, o->d),
                                .latent_b0 = vector,
                                .latent_norm_w = vector,
                                .latent_norm_b = vector,
                                .latent_w3 = random_matrix(o, 1, o->h, o->h),
                                .latent_b3 = vector,
                                .clean = place(o, NULL, o->rows * o->d * sizeof(float)),
                                .h = h};
}

static void make_layer(ops *o, size_t heads, double theta, float *h)
{
    size_t n = o->rows * o->h;
    const float *vector = random_place(o, o->h, 1);
    o->qkv = (scd_qkv_args){.rows = o->rows,
                            .hidden_dim = o->h,
                            .n_heads = heads,
                            .h = h,
                            .norm = vector,
                            .wqkv = random_matrix(o, 3, o->h, o->h),
                            .pos = o->batch.pos,
                            .parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V,
                            .q = place(o, NULL, n * o->act),
                            .k = place(o, NULL, n * o->act),
                            .v = place(o, NULL, n * o->act),
                            .rope_theta = theta};
    o->attention = (scd_attention_args){.n_cells = o->cells,
                                        .hidden_dim = o->h,
                                        .n_heads = heads,
                                        .cu_q = o->batch.cu_rows,
                                        .cu_k = o->batch.cu_rows,
                                        .host_cu_q = o->batch.host_cu_rows,
                                        .host_cu_k = o->batch.host_cu_rows,
                                        .q = random_act(o, n),
                                        .k = random_act(o, n),
                                        .v = random_act(o, n),
                                        .out = place(o, NULL, n * o->act)};
    o->block_out = (scd_block_out_args){.rows = o->rows,
                                        .hidden_dim = o->h,
                                        .ffn_dim = o->ffn,
                                        .h = h,
                                        .att = random_act(o, n),
                                        .norm2 = vector,
                                        .wo = random_matrix(o, 1, o->h, o->h),
                                        .wgate_up = random_matrix(o, 2, o->ffn, o->h),
                                        .wdown = random_matrix(o, 1, o->h, o->ffn)};
}

/* ---- timing -------------------------------------------------------------------------------- */

typedef scd_code step(ops *o, scd_error *err);

static scd_code run_embed(ops *o, scd_error *err)
{
    return o->be->embed(o->device, &o->batch, &o->embed, err);
}

static scd_code run_qkv(ops *o, scd_error *err)
{
    return o->be->qkv(o->device, &o->qkv, err);
}

static scd_code run_attention(ops *o, scd_error *err)
{
    return o->be->attention(o->device, &o->attention, err);
}

static scd_code run_block_out(ops *o, scd_error *err)
{
    return o->be->block_out(o->device, &o->block_out, err);
}

/* Calls are put one after the other and waited for together, as in a pass. */
static void time_op(ops *o, const char *name, step *body, size_t times, double flop, double bytes)
{
    double each[RUNS];
    for (int i = 0; i < RUNS + 1 && !o->code; i++) { /* the first warms up */
        int64_t start = scd_now_ns(), spent = 0;
        size_t n = 0;
        for (size_t batch = 1; !o->code && spent < (int64_t)(o->seconds / RUNS * 1e9); batch *= 2) {
            for (size_t j = 0; j < batch && !o->code; j++, n++)
                o->code = body(o, o->err);
            if (!o->code)
                o->code = o->be->synchronize(o->device, o->err);
            spent = scd_now_ns() - start;
        }
        if (i && n)
            each[i - 1] = (double)spent * 1e-6 / (double)n;
    }
    if (o->code)
        return;
    scd_bench_sort(each, RUNS);
    printf("op\t%s\t%zu\t%.6f\t%.6f\t%.6f\t%.6e\t%.6e\n", name, times, each[RUNS / 2], each[0],
           each[RUNS - 1], flop, bytes);
    fflush(stdout);
}

static void time_all(ops *o)
{
    double r = (double)o->rows, h = (double)o->h, f = (double)o->ffn, d = (double)o->d;
    double c = (double)o->cells, l = r / c, a = (double)o->act;
    /* bytes: what norms, write-outs, silu and embedding read and write; products are the FLOP */
    time_op(o, "embed", run_embed, 1, 2 * r * (d * d + d * h) + 2 * c * (d * h + h * h),
            r * d * (a + 4 + 4 + 4 + a + 4));
    time_op(o, "qkv", run_qkv, o->layers, 6 * r * h * h, r * h * (4 + a + 4 * a));
    time_op(o, "attention", run_attention, o->layers, 4 * r * l * h, 0);
    time_op(o, "block_out", run_block_out, o->layers, 2 * r * h * h + 6 * r * h * f,
            r * h * (4 + a) + r * f * 3 * a);
}

scd_code scd_bench_gpu_ops(const scd_backend *be, scd_device *device, const scd_model_config *c,
                           size_t cells, size_t tokens, double seconds, scd_error *err)
{
    ops o = {.be = be,
             .device = device,
             .cells = cells,
             .rows = cells * (tokens + 1),
             .h = c->hidden_dim,
             .ffn = c->ffn_dim,
             .d = c->d,
             .layers = c->n_layers,
             .act = be->info(device)->act_bytes,
             .seconds = seconds,
             .err = err};
    o.code = be->reserve(device, o.rows, o.h, o.ffn, o.d, err);
    make_batch(&o, tokens, c->vocab);
    float *h = random_place(&o, o.rows * o.h, 1);
    make_embed(&o, c->vocab, h);
    make_layer(&o, c->n_heads, c->rope_theta, h);
    if (!o.code)
        time_all(&o);
    for (size_t i = 0; i < o.n_matrices; i++)
        be->matrix_free(device, o.matrices[i]);
    for (size_t i = 0; i < o.n_placed; i++)
        be->free(device, o.placed[i]);
    free((void *)(uintptr_t)o.batch.host_cu_rows);
    return o.code;
}
