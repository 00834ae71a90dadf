/* test_cpu_exact.c - the same cell gives the same bits: alone, in any packing, at any offset, with
 * any number of threads, on every instruction set of this machine.
 *
 * A small model's forward pass - embed, two blocks, the last one with [LAT] queries alone, a head -
 * runs on cells alone first, then on packings of them; every byte of every output is compared.
 * Buffers hold NaN before each pass, so that a row which reads a neighbour's shows. */
#include "tests/ops/fixture.h"

#include "engine/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern void omp_set_num_threads(int n); /* libgomp, which oneDNN asks */

enum { D = 40, H = 96, HEADS = 3, F = 600, OUT = 530, VOCAB = 97, N_CELLS = 7, LAYERS = 2 };
static const size_t n_tokens[N_CELLS] = {1, 600, 63, 7, 130, 31, 320};

typedef struct model {
    scd_embed_args embed;
    scd_qkv_args qkv[LAYERS];
    scd_block_out_args out[LAYERS];
    scd_linear_args head;
} model;

/* What a cell's bits are compared by. */
typedef struct result {
    float *h;    /* (rows, H) after all blocks */
    float *lat;  /* (H) from the pass with [LAT] queries alone */
    float *head; /* (rows, OUT) */
} result;

static const float *vector(fixture *f, uint64_t seed, size_t n)
{
    return fixture_random(f, seed, n, 1).f;
}

static const scd_matrix *matrix(fixture *f, uint64_t seed, size_t parts, size_t rows, size_t cols)
{
    array a[3];
    for (size_t i = 0; i < parts; i++)
        a[i] = fixture_random(f, seed + i, rows * cols, 1 / sqrt((double)cols));
    return fixture_matrix(f, a, parts, rows, cols);
}

static void make_model(fixture *f, model *m, size_t max_rows)
{
    scd_error err;
    scd_tensor table = {
        .data = vector(f, 1, VOCAB * D), .dtype = SCD_F32, .rows = VOCAB, .cols = D};
    void *loaded = NULL;
    assert_int_equal(f->be->table_load(f->device, &table, &loaded, &err), SCD_OK);
    m->embed = (scd_embed_args){.gene_embedding = loaded,
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
    assert_int_equal(f->be->reserve(f->device, max_rows, H, F, D, &err), SCD_OK);
}

/* Cells `which` in this order as one batch; the same cell has the same content everywhere. */
static void make_batch(fixture *f, const size_t *which, size_t n, scd_batch_rows *b)
{
    uint32_t *cu = fixture_block(f, (n + 1) * sizeof *cu);
    cu[0] = 0;
    for (size_t c = 0; c < n; c++)
        cu[c + 1] = cu[c] + 1 + (uint32_t)n_tokens[which[c]];
    size_t rows = cu[n];
    int32_t *ids = fixture_block(f, rows * sizeof *ids);
    float *values = fixture_block(f, rows * sizeof *values);
    uint8_t *hidden = fixture_block(f, rows);
    uint32_t *pos = fixture_block(f, rows * sizeof *pos);
    for (size_t c = 0; c < n; c++)
        for (uint32_t i = 0; cu[c] + i < cu[c + 1]; i++) {
            uint32_t word[4];
            scd_rng_block(5, which[c], i, word);
            ids[cu[c] + i] = i ? (int32_t)(word[0] % VOCAB) : -1;
            values[cu[c] + i] = (float)(word[1] % 9000) / 1000;
            hidden[cu[c] + i] = (uint8_t)(word[2] % 4 == 0 ? SCD_HIDE_GENE | SCD_HIDE_VALUE : 0);
            pos[cu[c] + i] = i;
        }
    *b = (scd_batch_rows){.n_cells = n,
                          .n_tokens = rows - n,
                          .n_rows = rows,
                          .cu_rows = cu,
                          .host_cu_rows = cu,
                          .ids = ids,
                          .values = values,
                          .hidden = hidden,
                          .pos = pos};
}

static void must(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

static scd_attention_args attention_of(const scd_batch_rows *b, const uint32_t *cu_q)
{
    return (scd_attention_args){.n_cells = b->n_cells,
                                .hidden_dim = H,
                                .n_heads = HEADS,
                                .cu_q = cu_q,
                                .cu_k = b->cu_rows,
                                .host_cu_q = cu_q,
                                .host_cu_k = b->host_cu_rows};
}

/* The last layer again for [LAT] queries alone, as the embedding needs it: h_lat is (C, H). */
static void last_layer_lat(fixture *f, const model *m, const scd_batch_rows *b, const void *k,
                           const void *v, float *h_lat)
{
    scd_error err;
    size_t act = f->info->act_bytes, n = b->n_cells;
    uint32_t *cu_q = fixture_block(f, (n + 1) * sizeof *cu_q);
    for (size_t c = 0; c <= n; c++)
        cu_q[c] = (uint32_t)c;
    scd_qkv_args qkv = m->qkv[LAYERS - 1];
    qkv.rows = n;
    qkv.h = h_lat;
    qkv.parts = SCD_PART_Q;
    qkv.q = fixture_block(f, n * H * act);
    must(f->be->qkv(f->device, &qkv, &err), &err);
    scd_attention_args att = attention_of(b, cu_q);
    att.q = qkv.q;
    att.k = k;
    att.v = v;
    att.out = fixture_block(f, n * H * act);
    must(f->be->attention(f->device, &att, &err), &err);
    scd_block_out_args out = m->out[LAYERS - 1];
    out.rows = n;
    out.h = h_lat;
    out.att = att.out;
    must(f->be->block_out(f->device, &out, &err), &err);
}

static result pass(fixture *f, const model *m, const scd_batch_rows *b)
{
    scd_error err;
    size_t rows = b->n_rows, act = f->info->act_bytes;
    result r = {fixture_block(f, rows * H * sizeof(float)),
                fixture_block(f, b->n_cells * H * sizeof(float)),
                fixture_block(f, rows * OUT * sizeof(float))};
    scd_embed_args embed = m->embed;
    embed.clean = fixture_block(f, rows * D * sizeof(float));
    embed.h = r.h;
    must(f->be->embed(f->device, b, &embed, &err), &err);
    for (size_t i = 0; i < LAYERS; i++) {
        if (i + 1 == LAYERS)
            must(f->be->gather_rows(f->device, r.h, b->cu_rows, b->n_cells, H, r.lat, &err), &err);
        scd_qkv_args qkv = m->qkv[i];
        qkv.rows = rows;
        qkv.h = r.h;
        qkv.pos = b->pos;
        qkv.parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V;
        qkv.q = fixture_block(f, rows * H * act);
        qkv.k = fixture_block(f, rows * H * act);
        qkv.v = fixture_block(f, rows * H * act);
        must(f->be->qkv(f->device, &qkv, &err), &err);
        scd_attention_args att = attention_of(b, b->cu_rows);
        att.q = qkv.q;
        att.k = qkv.k;
        att.v = qkv.v;
        att.out = fixture_block(f, rows * H * act);
        must(f->be->attention(f->device, &att, &err), &err);
        if (i + 1 == LAYERS)
            last_layer_lat(f, m, b, qkv.k, qkv.v, r.lat);
        scd_block_out_args out = m->out[i];
        out.rows = rows;
        out.h = r.h;
        out.att = att.out;
        must(f->be->block_out(f->device, &out, &err), &err);
    }
    scd_linear_args head = m->head;
    head.rows = rows;
    head.x = r.h;
    head.y = r.head;
    must(f->be->linear(f->device, &head, &err), &err);
    return r;
}

/* Cell `which` alone against place c of a batch. */
static void same_cell(const fixture *f, const result *alone, const result *batch, size_t row,
                      size_t c, size_t which, int threads)
{
    size_t rows = n_tokens[which] + 1;
    if (memcmp(alone->h, batch->h + row * H, rows * H * sizeof(float)))
        fail_msg("%s, %d threads: stream of cell %zu differs", f->info->isa, threads, which);
    if (memcmp(alone->lat, batch->lat + c * H, H * sizeof(float)))
        fail_msg("%s, %d threads: [LAT] of cell %zu differs", f->info->isa, threads, which);
    if (memcmp(alone->head, batch->head + row * OUT, rows * OUT * sizeof(float)))
        fail_msg("%s, %d threads: head of cell %zu differs", f->info->isa, threads, which);
}

static size_t all_rows(void)
{
    size_t rows = 0;
    for (size_t i = 0; i < N_CELLS; i++)
        rows += n_tokens[i] + 1;
    return 2 * rows;
}

static void check_isa(size_t config, const result alone[N_CELLS])
{
    static const size_t packings[][2 * N_CELLS] = {
        {0, 1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1, 0}, {3, 3, 0, 5, 1, 0, 2, 6, 4, 4, 5, 0, 1, 2}};
    static const size_t lengths[] = {7, 7, 14};
    for (int threads = 1; threads <= 3; threads++) {
        fixture f;
        model m;
        assert_true(fixture_open(&f, config, threads));
        omp_set_num_threads(3 + threads); /* must not reach what oneDNN builds */
        make_model(&f, &m, all_rows());
        for (size_t p = 0; p < 3; p++) {
            scd_batch_rows b;
            make_batch(&f, packings[p], lengths[p], &b);
            result r = pass(&f, &m, &b);
            for (size_t c = 0; c < lengths[p]; c++)
                same_cell(&f, &alone[packings[p][c]], &r, b.host_cu_rows[c], c, packings[p][c],
                          threads);
        }
        fixture_release(&f);
    }
}

static void
a_cell_has_the_same_bits_alone_in_any_packing_and_with_any_number_of_threads(void **state)
{
    (void)state;
    size_t tested = 0;
    for (size_t config = 0; config < N_CONFIGS; config++) {
        fixture f;
        model m;
        if (!fixture_open(&f, config, 1))
            continue;
        make_model(&f, &m, all_rows());
        result alone[N_CELLS];
        for (size_t i = 0; i < N_CELLS; i++) {
            scd_batch_rows b;
            make_batch(&f, &i, 1, &b);
            alone[i] = pass(&f, &m, &b);
            for (size_t j = 0; j < (n_tokens[i] + 1) * OUT; j++)
                assert_true(isfinite(alone[i].head[j]));
            /* the shortcut for embeddings gives the bits of the full pass */
            assert_memory_equal(alone[i].lat, alone[i].h, H * sizeof(float));
        }
        check_isa(config, alone);
        fixture_release(&f);
        tested++;
    }
    assert_true(tested > 0);
}

/* Rows of many lengths in every tile size and place. */
static void a_product_row_has_the_same_bits_in_every_batch_size(void **state)
{
    (void)state;
    enum { ROWS = 150, IN = 200, WIDE = 70 };
    for (size_t config = 0; config < N_CONFIGS; config++) {
        fixture f;
        if (!fixture_open(&f, config, 2))
            continue;
        array x = fixture_random(&f, 1, ROWS * IN, 1), w = fixture_random(&f, 2, WIDE * IN, 1);
        float *all = fixture_block(&f, ROWS * WIDE * sizeof *all);
        float *some = fixture_block(&f, ROWS * WIDE * sizeof *some);
        scd_linear_args a = {.rows = ROWS,
                             .in_dim = IN,
                             .out_dim = WIDE,
                             .x = x.f,
                             .y = all,
                             .w = fixture_matrix(&f, &w, 1, WIDE, IN)};
        scd_error err;
        must(f.be->linear(f.device, &a, &err), &err);
        for (size_t n = 1; n <= ROWS; n++) {
            size_t first = ROWS - n;
            a.rows = n;
            a.x = x.f + first * IN;
            a.y = some;
            memset(some, 0xff, ROWS * WIDE * sizeof *some);
            must(f.be->linear(f.device, &a, &err), &err);
            assert_memory_equal(some, all + first * WIDE, n * WIDE * sizeof *some);
        }
        fixture_release(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_cell_has_the_same_bits_alone_in_any_packing_and_with_any_number_of_threads),
        cmocka_unit_test(a_product_row_has_the_same_bits_in_every_batch_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
