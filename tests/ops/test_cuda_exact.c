/* test_cuda_exact.c - on the CUDA backend the same cell gives the same bits alone and in any batch.
 *
 * A small model's forward pass - embed, two blocks, the last one with [LAT] queries alone, a head -
 * runs on each cell alone first, then on random packings: a few dozen on the emulator, a thousand
 * on a GPU; every byte of every output is compared. Outputs hold NaN before each pass. */
#include "tests/ops/cuda_backend.h"

#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef SCD_CUDA_HOST
#include "tests/cuda_host/host.h"
enum { PACKINGS = 24 };
#else
enum { PACKINGS = 1000 };
#endif

enum { D = 24, MOST_H = 128, HEADS = 2, OUT = 30, VOCAB = 97, LAYERS = 2 };
static size_t H; /* of the model under test: 48, or 128 for heads of 64 */
static size_t F = 72;
enum { N_CELLS = 10, MOST = 6, MAX_ROWS = 2048 };
static const size_t n_tokens[N_CELLS] = {1, 2, 14, 15, 16, 31, 63, 64, 129, 260};

typedef struct model {
    scd_embed_args embed;
    scd_qkv_args qkv[LAYERS];
    scd_block_out_args out[LAYERS];
    scd_linear_args head;
} model;

/* Device memory of a pass, made once: (MAX_ROWS, ..) each. */
typedef struct buffers {
    uint32_t *cu, *cu_lat, *pos;
    int32_t *ids;
    float *values;
    uint8_t *hidden;
    float *clean, *h, *lat, *head;
    void *q, *k, *v, *att;
} buffers;

/* What a cell's bits are compared by, on the host. */
typedef struct result {
    float h[MAX_ROWS * MOST_H]; /* after all blocks */
    float lat[MOST * MOST_H];   /* from the pass with [LAT] queries alone */
    float head[MAX_ROWS * OUT];
} result;

static result alone[N_CELLS], packed;
static unsigned char nan_bytes[MAX_ROWS * MOST_H * 4];

static void must(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

static const float *vector(fixture *f, uint64_t seed, size_t n)
{
    return fixture_place(f, fixture_random(f, seed, n, 1).f, n * sizeof(float));
}

static const scd_matrix *matrix(fixture *f, uint64_t seed, size_t parts, size_t rows, size_t cols)
{
    array a[3];
    for (size_t i = 0; i < parts; i++)
        a[i] = fixture_random(f, seed + i, rows * cols, 1 / sqrt((double)cols));
    return fixture_matrix(f, a, parts, rows, cols);
}

static void make_model(fixture *f, model *m)
{
    scd_error err;
    m->embed = (scd_embed_args){.gene_embedding = vector(f, 1, VOCAB * D),
                                .gene_embedding_dtype = SCD_F32,
                                .d = D,
                                .hidden_dim = H,
                                .vocab = VOCAB,
                                .value_w0 = vector(f, 2, D),
                                .value_b0 = vector(f, 3, D),
                                .value_w2 = matrix(f, 4, 1, D, D),
                                .value_b2 = vector(f, 5, D),
                                .value_mask = vector(f, 6, D),
                                .gene_mask = vector(f, 7, D),
                                .input_proj = matrix(f, 8, 1, H, D),
                                .latent_w0 = matrix(f, 9, 1, H, D),
                                .latent_b0 = vector(f, 10, H),
                                .latent_norm_w = vector(f, 11, H),
                                .latent_norm_b = vector(f, 12, H),
                                .latent_w3 = matrix(f, 13, 1, H, H),
                                .latent_b3 = vector(f, 14, H),
                                .visible_pooling = 1};
    for (uint64_t i = 0; i < LAYERS; i++) {
        m->qkv[i] = (scd_qkv_args){.hidden_dim = H,
                                   .n_heads = HEADS,
                                   .norm = vector(f, 20 + i, H),
                                   .wqkv = matrix(f, 100 + 10 * i, 3, H, H)};
        m->out[i] = (scd_block_out_args){.hidden_dim = H,
                                         .ffn_dim = F,
                                         .norm2 = vector(f, 30 + i, H),
                                         .wo = matrix(f, 40 + i, 1, H, H),
                                         .wgate_up = matrix(f, 200 + 10 * i, 2, F, H),
                                         .wdown = matrix(f, 50 + i, 1, H, F)};
    }
    m->head = (scd_linear_args){
        .in_dim = H, .out_dim = OUT, .w = matrix(f, 60, 1, OUT, H), .bias = vector(f, 61, OUT)};
    must(f->be->reserve(f->device, MAX_ROWS, H, F, D, &err), &err);
}

static void make_buffers(fixture *f, buffers *b)
{
    size_t act = f->info->act_bytes;
    uint32_t lat[MOST + 1];
    for (uint32_t i = 0; i <= MOST; i++)
        lat[i] = i;
    b->cu_lat = fixture_place(f, lat, sizeof lat);
    b->cu = fixture_room(f, (MOST + 1) * sizeof *b->cu);
    b->pos = fixture_room(f, MAX_ROWS * sizeof *b->pos);
    b->ids = fixture_room(f, MAX_ROWS * sizeof *b->ids);
    b->values = fixture_room(f, MAX_ROWS * sizeof *b->values);
    b->hidden = fixture_room(f, MAX_ROWS);
    b->clean = fixture_room(f, MAX_ROWS * D * sizeof(float));
    b->h = fixture_room(f, MAX_ROWS * H * sizeof(float));
    b->lat = fixture_room(f, MOST * H * sizeof(float));
    b->head = fixture_room(f, MAX_ROWS * OUT * sizeof(float));
    b->q = fixture_room(f, MAX_ROWS * H * act);
    b->k = fixture_room(f, MAX_ROWS * H * act);
    b->v = fixture_room(f, MAX_ROWS * H * act);
    b->att = fixture_room(f, MAX_ROWS * H * act);
}

static void put(fixture *f, void *device, const void *host, size_t bytes)
{
    scd_error err;
    must(f->be->upload(f->device, device, host, bytes, &err), &err);
}

/* Cells `which` in this order as one batch; the same cell has the same content everywhere. */
static void make_batch(fixture *f, const buffers *to, const size_t *which, size_t n, uint32_t *cu,
                       scd_batch_rows *b)
{
    static int32_t ids[MAX_ROWS];
    static float values[MAX_ROWS];
    static uint8_t hidden[MAX_ROWS];
    static uint32_t pos[MAX_ROWS];
    cu[0] = 0;
    for (size_t c = 0; c < n; c++)
        cu[c + 1] = cu[c] + 1 + (uint32_t)n_tokens[which[c]];
    size_t rows = cu[n];
    for (size_t c = 0; c < n; c++)
        for (uint32_t i = 0; cu[c] + i < cu[c + 1]; i++) {
            uint32_t word[4];
            scd_rng_block(5, which[c], i, word);
            ids[cu[c] + i] = i ? (int32_t)(word[0] % VOCAB) : -1;
            values[cu[c] + i] = (float)(word[1] % 9000) / 1000;
            hidden[cu[c] + i] = (uint8_t)(word[2] % 4 == 0 ? SCD_HIDE_GENE | SCD_HIDE_VALUE : 0);
            pos[cu[c] + i] = i;
        }
    put(f, to->cu, cu, (n + 1) * sizeof *cu);
    put(f, to->ids, ids, rows * sizeof *ids);
    put(f, to->values, values, rows * sizeof *values);
    put(f, to->hidden, hidden, rows);
    put(f, to->pos, pos, rows * sizeof *pos);
    *b = (scd_batch_rows){.n_cells = n,
                          .n_tokens = rows - n,
                          .n_rows = rows,
                          .cu_rows = to->cu,
                          .host_cu_rows = cu,
                          .ids = to->ids,
                          .values = to->values,
                          .hidden = to->hidden,
                          .pos = to->pos};
}

static scd_attention_args attention_of(const scd_batch_rows *b, const buffers *to)
{
    return (scd_attention_args){.n_cells = b->n_cells,
                                .hidden_dim = H,
                                .n_heads = HEADS,
                                .cu_q = b->cu_rows,
                                .cu_k = b->cu_rows,
                                .host_cu_q = b->host_cu_rows,
                                .host_cu_k = b->host_cu_rows,
                                .q = to->q,
                                .k = to->k,
                                .v = to->v,
                                .out = to->att};
}

/* The last layer for [LAT] queries alone, as the embedding needs it, from keys and values that are
 * there; the residual stream of every row is in `h`. */
static void last_layer_lat(fixture *f, const model *m, const scd_batch_rows *b, const buffers *to)
{
    static const uint32_t host_lat[MOST + 1] = {0, 1, 2, 3, 4, 5, 6};
    scd_error err;
    size_t n = b->n_cells;
    must(f->be->gather_rows(f->device, to->h, to->cu, n, H, to->lat, &err), &err);
    scd_qkv_args qkv = m->qkv[LAYERS - 1];
    qkv.rows = n;
    qkv.h = to->lat;
    qkv.parts = SCD_PART_Q;
    qkv.q = to->q;
    must(f->be->qkv(f->device, &qkv, &err), &err);
    scd_attention_args att = attention_of(b, to);
    att.cu_q = to->cu_lat;
    att.host_cu_q = host_lat;
    must(f->be->attention(f->device, &att, &err), &err);
    scd_block_out_args out = m->out[LAYERS - 1];
    out.rows = n;
    out.h = to->lat;
    out.att = to->att;
    must(f->be->block_out(f->device, &out, &err), &err);
}

static void run_qkv(fixture *f, const model *m, size_t i, const scd_batch_rows *b,
                    const buffers *to)
{
    scd_error err;
    scd_qkv_args qkv = m->qkv[i];
    qkv.rows = b->n_rows;
    qkv.h = to->h;
    qkv.pos = b->pos;
    qkv.parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V;
    qkv.q = to->q;
    qkv.k = to->k;
    qkv.v = to->v;
    must(f->be->qkv(f->device, &qkv, &err), &err);
}

static void pass(fixture *f, const model *m, const scd_batch_rows *b, const buffers *to, result *r)
{
    scd_error err;
    size_t rows = b->n_rows;
    put(f, to->h, nan_bytes, MAX_ROWS * H * sizeof(float));
    put(f, to->head, nan_bytes, MAX_ROWS * OUT * sizeof(float));
    scd_embed_args embed = m->embed;
    embed.clean = to->clean;
    embed.h = to->h;
    must(f->be->embed(f->device, b, &embed, &err), &err);
    for (size_t i = 0; i < LAYERS; i++) {
        put(f, to->att, nan_bytes, MAX_ROWS * H * f->info->act_bytes);
        run_qkv(f, m, i, b, to);
        if (i + 1 == LAYERS) { /* it writes q and att, so the whole pass makes them anew */
            last_layer_lat(f, m, b, to);
            run_qkv(f, m, i, b, to);
        }
        scd_attention_args att = attention_of(b, to);
        must(f->be->attention(f->device, &att, &err), &err);
        scd_block_out_args out = m->out[i];
        out.rows = rows;
        out.h = to->h;
        out.att = to->att;
        must(f->be->block_out(f->device, &out, &err), &err);
    }
    scd_linear_args head = m->head;
    head.rows = rows;
    head.x = to->h;
    head.y = to->head;
    must(f->be->linear(f->device, &head, &err), &err);
    must(f->be->download(f->device, r->h, to->h, rows * H * sizeof(float), &err), &err);
    must(f->be->download(f->device, r->lat, to->lat, b->n_cells * H * sizeof(float), &err), &err);
    must(f->be->download(f->device, r->head, to->head, rows * OUT * sizeof(float), &err), &err);
}

/* Cell `which` alone against place c of the batch, which starts at `row`. */
static void same_cell(size_t packing, size_t which, size_t c, size_t row)
{
    size_t rows = n_tokens[which] + 1;
    const result *a = &alone[which];
    if (memcmp(a->h, packed.h + row * H, rows * H * sizeof(float)))
        fail_msg("packing %zu: stream of cell %zu differs", packing, which);
    if (memcmp(a->lat, packed.lat + c * H, H * sizeof(float)))
        fail_msg("packing %zu: [LAT] of cell %zu differs", packing, which);
    if (memcmp(a->head, packed.head + row * OUT, rows * OUT * sizeof(float)))
        fail_msg("packing %zu: head of cell %zu differs", packing, which);
}

static void set_order(size_t order)
{
#ifdef SCD_CUDA_HOST
    scd_emu_order = (int)order;
#else
    (void)order;
#endif
}

static void check_packings(fixture *f, const model *m, const buffers *to)
{
    for (size_t p = 0; p < PACKINGS; p++) {
        uint32_t word[4], cu[MOST + 1];
        size_t which[MOST];
        scd_batch_rows b;
        scd_rng_block(9, p, 0, word);
        size_t n = 1 + word[0] % MOST;
        for (size_t c = 0; c < n; c++) {
            scd_rng_block(9, p, c + 1, word);
            which[c] = word[0] % N_CELLS;
        }
        set_order(p % 3 < 2 ? p % 3 : p); /* every third by chance */
        make_batch(f, to, which, n, cu, &b);
        pass(f, m, &b, to, &packed);
        for (size_t c = 0; c < n; c++)
            same_cell(p, which[c], c, cu[c]);
    }
    set_order(0);
}

/* The same vector at an address that no access of 16 bytes may start from. */
static const float *moved(fixture *f, uint64_t seed, size_t n)
{
    float *host = fixture_block(f, (n + 1) * sizeof *host);
    host[0] = 0;
    memcpy(host + 1, fixture_random(f, seed, n, 1).f, n * sizeof *host);
    return (const float *)fixture_place(f, host, (n + 1) * sizeof *host) + 1;
}

static void check_narrow_rows(fixture *f, const model *m, const buffers *to)
{
    model narrow = *m;
    narrow.embed.value_mask = moved(f, 6, D);
    for (size_t i = 0; i < N_CELLS; i++) {
        uint32_t cu[2];
        scd_batch_rows b;
        make_batch(f, to, &i, 1, cu, &b);
        pass(f, &narrow, &b, to, &packed);
        same_cell(PACKINGS, i, 0, 0);
    }
}

static void check_model(int bf16)
{
    fixture f;
    model m;
    buffers to;
    cuda_open(&f, bf16);
    make_model(&f, &m);
    make_buffers(&f, &to);
    for (size_t i = 0; i < N_CELLS; i++) {
        uint32_t cu[2];
        scd_batch_rows b;
        make_batch(&f, &to, &i, 1, cu, &b);
        pass(&f, &m, &b, &to, &alone[i]);
        for (size_t j = 0; j < (n_tokens[i] + 1) * OUT; j++)
            assert_true(isfinite(alone[i].head[j]));
        /* the shortcut for embeddings gives the bits of the full pass */
        assert_memory_equal(alone[i].lat, alone[i].h, H * sizeof(float));
    }
    check_packings(&f, &m, &to);
    check_narrow_rows(&f, &m, &to);
    fixture_release(&f);
}

static void a_cell_has_the_same_bits_alone_and_in_any_packing(void **state)
{
    (void)state;
    memset(nan_bytes, 0xff, sizeof nan_bytes);
    for (int bf16 = 0; bf16 <= 1; bf16++)
        for (H = 48; H <= MOST_H; H += MOST_H - 48)
            check_model(bf16);
    setenv("CUDA_EMULATOR_ISA", "90", 1);         /* attention of heads of 64 by warpgroups */
    setenv("CUDA_EMULATOR_EPILOGUES", "none", 1); /* biases by kernels */
    H = MOST_H;
    check_model(1);
    unsetenv("CUDA_EMULATOR_EPILOGUES");
    setenv("SCDIVA_CUDA_KERNELS", "next", 1);
    setenv("CUDA_EMULATOR_PROCESSORS", "4", 1);
    F = 128; /* whole tiles */
    check_model(1);
    unsetenv("CUDA_EMULATOR_PROCESSORS");
    unsetenv("SCDIVA_CUDA_KERNELS");
    unsetenv("CUDA_EMULATOR_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cell_has_the_same_bits_alone_and_in_any_packing),
    };
    if (!cuda_there())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
