/* test_ops.c - every operation of the inference table against float64, on every device.
 *
 * Outputs are NaN before the call; sizes miss every tile, panel and vector. */
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_error(const fixture *f, const char *what, double error)
{
    if (!(error <= f->tolerance))
        fail_msg("%s on %s in %s: error %g of the largest element", what, f->info->isa,
                 f->bf16 ? "bf16" : "fp32", error);
}

static void *place(fixture *f, array a)
{
    return fixture_place(f, a.f, a.n * sizeof *a.f);
}

static double *fetch_floats(fixture *f, const void *device, size_t n)
{
    return fixture_from_float(f, fixture_fetch(f, device, n * sizeof(float)), n);
}

static void qkv_case(fixture *f, size_t rows, size_t width, size_t heads, int with_pos,
                     double theta)
{
    scd_error err;
    double spread = 1 / sqrt((double)width);
    array h = fixture_random(f, 1, rows * width, 1), norm = fixture_random(f, 2, width, 1), w[3];
    for (size_t i = 0; i < 3; i++)
        w[i] = fixture_random(f, 3 + i, width * width, spread);
    uint32_t *pos = with_pos ? fixture_block(f, rows * sizeof *pos) : NULL;
    for (size_t i = 0; pos && i < rows; i++)
        pos[i] = (uint32_t)(i * 7 % rows);
    void *out[3];
    for (size_t i = 0; i < 3; i++)
        out[i] = fixture_room(f, rows * width * f->info->act_bytes);
    scd_qkv_args args = {.rows = rows,
                         .hidden_dim = width,
                         .n_heads = heads,
                         .h = place(f, h),
                         .norm = place(f, norm),
                         .wqkv = fixture_matrix(f, w, 3, width, width),
                         .pos = pos ? fixture_place(f, pos, rows * sizeof *pos) : NULL,
                         .parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V,
                         .q = out[0],
                         .k = out[1],
                         .v = out[2],
                         .rope_theta = theta};
    fixture_ok(f->be->reserve(f->device, rows, width, width, width, &err), &err);
    fixture_ok(f->be->qkv(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, rows * width);
    for (size_t i = 0; i < 3; i++) {
        ref_qkv_part(rows, width, heads, h.d, norm.d, w[i].d, pos, theta, i < 2, want);
        check_error(f, "qkv",
                    fixture_error(want, fixture_fetch_act(f, out[i], rows * width), rows * width));
    }
}

static void check_qkv(fixture *f)
{
    qkv_case(f, 1, 32, 2, 0, 500);
    qkv_case(f, 77, 96, 4, 1, 500);
    qkv_case(f, 77, 96, 4, 1, 10000); /* the table of positions is made anew: another theta, */
    qkv_case(f, 33, 200, 2, 1, 500);  /* another head, of 100, */
    qkv_case(f, 90, 200, 2, 1, 500);  /* more rows */
    qkv_case(f, 40, 26, 1, 1, 500);   /* parts that start at no multiple of 16 bytes */
    qkv_case(f, 1, 128, 2, 0, 500);   /* heads of 64: a pair of blocks has one too many, */
    qkv_case(f, 64, 256, 4, 1, 500);  /* tiles of rows that end with the rows, */
    qkv_case(f, 329, 128, 2, 1, 500); /* and enough for each warpgroup to take two */
    if (fixture_on_cpu(f))
        qkv_case(f, 70, 528, 6, 1, 500); /* a second and narrow panel */
}

static void q_k_and_v_are_the_normed_rows_times_their_weights_with_rope_on_q_and_k(void **state)
{
    (void)state;
    fixture_on_every_device(check_qkv);
}

/* Each subset of parts gives the bytes of the whole, and touches nothing else. */
static void qkv_parts_case(fixture *f, size_t heads)
{
    scd_error err;
    enum { ROWS = 9, WIDTH = 128 };
    size_t bytes = ROWS * WIDTH * f->info->act_bytes;
    array h = fixture_random(f, 1, ROWS * WIDTH, 1), norm = fixture_random(f, 2, WIDTH, 1), w[3];
    for (size_t i = 0; i < 3; i++)
        w[i] = fixture_random(f, 3 + i, WIDTH * WIDTH, 0.1);
    scd_qkv_args args = {.rows = ROWS,
                         .hidden_dim = WIDTH,
                         .n_heads = heads,
                         .h = place(f, h),
                         .norm = place(f, norm),
                         .wqkv = fixture_matrix(f, w, 3, WIDTH, WIDTH)};
    fixture_ok(f->be->reserve(f->device, ROWS, WIDTH, WIDTH, WIDTH, &err), &err);
    const void *whole[3] = {NULL}, *nan = fixture_block(f, bytes);
    for (unsigned parts = 7; parts > 0; parts--) {
        void *out[3];
        for (size_t i = 0; i < 3; i++)
            out[i] = fixture_room(f, bytes);
        args.parts = parts;
        args.q = out[0];
        args.k = out[1];
        args.v = out[2];
        fixture_ok(f->be->qkv(f->device, &args, &err), &err);
        for (size_t i = 0; i < 3; i++) {
            const void *got = fixture_fetch(f, out[i], bytes);
            whole[i] = parts == 7 ? got : whole[i];
            assert_memory_equal(got, parts & (1u << i) ? whole[i] : nan, bytes);
        }
    }
    args.rows = ROWS + 1;
    assert_int_equal(f->be->qkv(f->device, &args, &err), SCD_E_INVALID);
    args.rows = ROWS;
    args.n_heads = 3;
    assert_int_equal(f->be->qkv(f->device, &args, &err), SCD_E_INVALID);
}

static void check_qkv_parts(fixture *f)
{
    qkv_parts_case(f, 4);
    qkv_parts_case(f, 2); /* of 64 */
}

static void parts_not_asked_for_are_not_touched_and_others_keep_their_bytes(void **state)
{
    (void)state;
    fixture_on_every_device(check_qkv_parts);
}

static void block_out_case(fixture *f, size_t rows, size_t width, size_t ffn)
{
    scd_error err;
    array h = fixture_random(f, 1, rows * width, 1), att = fixture_random(f, 2, rows * width, 1);
    array norm = fixture_random(f, 3, width, 1);
    array wo = fixture_random(f, 4, width * width, 1 / sqrt((double)width));
    array wgu[2] = {fixture_random(f, 5, ffn * width, 1 / sqrt((double)width)),
                    fixture_random(f, 6, ffn * width, 1 / sqrt((double)width))};
    array wdown = fixture_random(f, 7, width * ffn, 1 / sqrt((double)ffn));
    void *act = fixture_act(f, &att);
    scd_block_out_args args = {.rows = rows,
                               .hidden_dim = width,
                               .ffn_dim = ffn,
                               .h = place(f, h),
                               .att = fixture_place(f, act, rows * width * f->info->act_bytes),
                               .norm2 = place(f, norm),
                               .wo = fixture_matrix(f, &wo, 1, width, width),
                               .wgate_up = fixture_matrix(f, wgu, 2, ffn, width),
                               .wdown = fixture_matrix(f, &wdown, 1, width, ffn)};
    fixture_ok(f->be->reserve(f->device, rows, width, ffn, width, &err), &err);
    fixture_ok(f->be->block_out(f->device, &args, &err), &err);
    ref_block_out(rows, width, ffn, h.d, att.d, wo.d, norm.d, wgu[0].d, wgu[1].d, wdown.d);
    check_error(f, "block_out",
                fixture_error(h.d, fetch_floats(f, args.h, rows * width), rows * width));
    args.rows = 1000; /* the reserve of all cases is less; the CPU works tile by tile */
    if (!fixture_on_cpu(f))
        assert_int_equal(f->be->block_out(f->device, &args, &err), SCD_E_INVALID);
}

static void check_block_out(fixture *f)
{
    block_out_case(f, 1, 32, 48);
    block_out_case(f, 63, 90, 250);
    block_out_case(f, 70, 272, 300);
    block_out_case(f, 65, 128, 64);  /* in tiles: one of everything, */
    block_out_case(f, 130, 384, 64); /* an odd number of blocks of columns, */
    block_out_case(f, 400, 128, 192);
    block_out_case(f, 450, 512,
                   128); /* as many columns as are kept in tiles: stages are used anew */
    if (fixture_on_cpu(f))
        block_out_case(f, 70, 528, 600);
}

static void block_out_adds_attention_and_gated_mlp_to_the_stream(void **state)
{
    (void)state;
    fixture_on_every_device(check_block_out);
}

static void linear_case(fixture *f, size_t rows, size_t in, size_t out, int relu, bool bias)
{
    scd_error err;
    array x = fixture_random(f, 1, rows * in, 1);
    array w = fixture_random(f, 2, out * in, 1 / sqrt((double)in));
    array b = fixture_random(f, 3, out, 1);
    scd_linear_args args = {.rows = rows,
                            .in_dim = in,
                            .out_dim = out,
                            .x = place(f, x),
                            .relu = relu,
                            .w = fixture_matrix(f, &w, 1, out, in),
                            .bias = bias ? place(f, b) : NULL,
                            .y = fixture_room(f, rows * out * sizeof(float))};
    fixture_ok(f->be->linear(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, rows * out);
    ref_linear(rows, in, out, x.d, w.d, bias ? b.d : NULL, relu, want);
    check_error(f, "linear", fixture_error(want, fetch_floats(f, args.y, rows * out), rows * out));
}

static void check_linear(fixture *f)
{
    linear_case(f, 1, 64, 1, 0, true);
    linear_case(f, 17, 33, 7, 1, false); /* odd everything */
    linear_case(f, 100, 128, 300, 1, true);
    linear_case(f, 3, 1, 16, 0, true);
    linear_case(f, 600, 40, 3, 0, false); /* more rows than CUDA converts at once */
    if (fixture_on_cpu(f))
        linear_case(f, 100, 512, 1300, 1, true);
}

static void linear_takes_any_sizes_with_and_without_bias_and_relu(void **state)
{
    (void)state;
    fixture_on_every_device(check_linear);
}

enum { CELLS = 5, VOCAB = 50 };
static const uint32_t cell_tokens[CELLS] = {1, 70, 3, 200, 8};

typedef struct batch {
    uint32_t cu[CELLS + 1];
    int32_t *ids;
    float *values;
    uint8_t *hidden;
    uint32_t *pos;
    scd_batch_rows dev;
} batch;

/* Cells with everything hidden in some of them, and every kind of hiding in the others. */
static void fill_batch(fixture *f, batch *b)
{
    b->cu[0] = 0;
    for (size_t c = 0; c < CELLS; c++)
        b->cu[c + 1] = b->cu[c] + 1 + cell_tokens[c];
    size_t rows = b->cu[CELLS];
    b->ids = fixture_block(f, rows * sizeof *b->ids);
    b->hidden = fixture_block(f, rows);
    b->pos = fixture_block(f, rows * sizeof *b->pos);
    b->values = fixture_random(f, 77, rows, 3).f;
    static const uint8_t kinds[4] = {0, SCD_HIDE_VALUE, SCD_HIDE_GENE | SCD_HIDE_VALUE, 0};
    for (size_t c = 0; c < CELLS; c++)
        for (uint32_t i = 0; b->cu[c] + i < b->cu[c + 1]; i++) {
            b->ids[b->cu[c] + i] = i ? (int32_t)((i * 31 + c) % VOCAB) : -1;
            b->hidden[b->cu[c] + i] = c == 2 ? kinds[2] : kinds[i % 4];
            b->pos[b->cu[c] + i] = i;
        }
    for (size_t i = 0; i < rows; i++)
        b->values[i] = fabsf(b->values[i]);
    b->dev = (scd_batch_rows){.n_cells = CELLS,
                              .n_tokens = rows - CELLS,
                              .n_rows = rows,
                              .cu_rows = fixture_place(f, b->cu, sizeof b->cu),
                              .host_cu_rows = b->cu,
                              .ids = fixture_place(f, b->ids, rows * sizeof *b->ids),
                              .values = fixture_place(f, b->values, rows * sizeof *b->values),
                              .hidden = fixture_place(f, b->hidden, rows),
                              .pos = fixture_place(f, b->pos, rows * sizeof *b->pos)};
}

/* What a file of this type holds: the table's floats are rounded toward zero, in place. */
static const void *as_dtype(fixture *f, array *table, scd_dtype dtype)
{
    if (dtype == SCD_F32)
        return table->f;
    uint16_t *half = fixture_block(f, table->n * sizeof *half);
    for (size_t i = 0; i < table->n; i++) {
        uint32_t bits;
        memcpy(&bits, &table->f[i], 4);
        /* every value here is a normal half: small ones become 0.5 */
        if (dtype == SCD_F16 && fabsf(table->f[i]) < 0.01f)
            bits = 0x3f000000;
        bits &= dtype == SCD_BF16 ? 0xffff0000 : 0xffffe000;
        half[i] =
            dtype == SCD_BF16
                ? (uint16_t)(bits >> 16)
                : (uint16_t)((bits >> 16 & 0x8000) | ((bits & 0x7fffffff) - 0x38000000) >> 13);
        float cut;
        memcpy(&cut, &bits, 4);
        table->d[i] = (double)cut;
    }
    return half;
}

static void embed_case(fixture *f, size_t d, size_t width, scd_dtype dtype, int visible)
{
    scd_error err;
    batch b;
    fill_batch(f, &b);
    size_t rows = b.dev.n_rows;
    double s = 1 / sqrt((double)d), sw = 1 / sqrt((double)width);
    array table = fixture_random(f, 1, VOCAB * d, 1), w2 = fixture_random(f, 2, d * d, s);
    array ip = fixture_random(f, 3, width * d, s), l0 = fixture_random(f, 4, width * d, s);
    array l3 = fixture_random(f, 5, width * width, sw), dv[5], hv[4];
    for (size_t i = 0; i < 5; i++)
        dv[i] = fixture_random(f, 10 + i, d, 1);
    for (size_t i = 0; i < 4; i++)
        hv[i] = fixture_random(f, 20 + i, width, 1);
    void *loaded = NULL;
    scd_tensor tensor = {
        .data = as_dtype(f, &table, dtype), .dtype = dtype, .rows = VOCAB, .cols = d};
    fixture_ok(f->be->table_load(f->device, &tensor, &loaded, &err), &err);
    scd_embed_args a = {.gene_embedding = loaded,
                        .gene_embedding_dtype = dtype,
                        .d = d,
                        .hidden_dim = width,
                        .vocab = VOCAB,
                        .value_w0 = place(f, dv[0]),
                        .value_b0 = place(f, dv[1]),
                        .value_w2 = fixture_matrix(f, &w2, 1, d, d),
                        .value_b2 = place(f, dv[2]),
                        .value_mask = place(f, dv[3]),
                        .gene_mask = place(f, dv[4]),
                        .input_proj = fixture_matrix(f, &ip, 1, width, d),
                        .latent_w0 = fixture_matrix(f, &l0, 1, width, d),
                        .latent_b0 = place(f, hv[0]),
                        .latent_norm_w = place(f, hv[1]),
                        .latent_norm_b = place(f, hv[2]),
                        .latent_w3 = fixture_matrix(f, &l3, 1, width, width),
                        .latent_b3 = place(f, hv[3]),
                        .visible_pooling = visible,
                        .h = fixture_room(f, rows * width * sizeof(float)),
                        .clean = fixture_room(f, rows * d * sizeof(float))};
    fixture_ok(f->be->reserve(f->device, rows, width, width, d, &err), &err);
    fixture_ok(f->be->embed(f->device, &b.dev, &a, &err), &err);
    double *got = fetch_floats(f, a.h, rows * width);
    f->be->free(f->device, loaded);
    double *want = fixture_doubles(f, rows * width);
    ref_embed_args r = {CELLS,   d,       width,   b.cu,    b.ids,   b.values, b.hidden, table.d,
                        dv[0].d, dv[1].d, w2.d,    dv[2].d, dv[3].d, dv[4].d,  ip.d,     l0.d,
                        hv[0].d, hv[1].d, hv[2].d, l3.d,    hv[3].d, visible};
    ref_embed(&r, want);
    check_error(f, "embed", fixture_error(want, got, rows * width));
}

static void check_embed(fixture *f)
{
    embed_case(f, 48, 64, SCD_F32, 0);
    embed_case(f, 100, 36, SCD_F16, 1);
    embed_case(f, 130, 160, SCD_BF16, 1);
    embed_case(f, 36, 40, SCD_BF16, 0); /* each type of table by fours and by ones */
    embed_case(f, 33, 40, SCD_F32, 0);
    embed_case(f, 34, 40, SCD_F16, 0);
}

static void embed_gives_the_first_stream_with_masks_pooling_and_latent(void **state)
{
    (void)state;
    fixture_on_every_device(check_embed);
}

/* The CPU says so at once, a GPU when it is waited for. */
static void check_embed_ids(fixture *f)
{
    scd_error err;
    batch b;
    enum { WIDTH = 8 };
    array x = fixture_random(f, 1, VOCAB * WIDTH, 1);
    const float *vector = place(f, x);
    array w = fixture_random(f, 2, WIDTH * WIDTH, 1);
    const scd_matrix *m = fixture_matrix(f, &w, 1, WIDTH, WIDTH);
    fill_batch(f, &b);
    size_t n = b.dev.n_rows * WIDTH;
    const scd_embed_args a = {.gene_embedding = vector,
                              .gene_embedding_dtype = SCD_F32,
                              .d = WIDTH,
                              .hidden_dim = WIDTH,
                              .vocab = 3, /* the batch has others */
                              .value_w0 = vector,
                              .value_b0 = vector,
                              .value_w2 = m,
                              .value_b2 = vector,
                              .value_mask = vector,
                              .gene_mask = vector,
                              .input_proj = m,
                              .latent_w0 = m,
                              .latent_b0 = vector,
                              .latent_norm_w = vector,
                              .latent_norm_b = vector,
                              .latent_w3 = m,
                              .latent_b3 = vector,
                              .clean = fixture_room_floats(f, n),
                              .h = fixture_room_floats(f, n)};
    fixture_ok(f->be->reserve(f->device, b.dev.n_rows, WIDTH, WIDTH, WIDTH, &err), &err);
    scd_code code = f->be->embed(f->device, &b.dev, &a, &err);
    if (!code)
        code = f->be->synchronize(f->device, &err);
    assert_int_equal(code, SCD_E_INVALID);
    assert_non_null(strstr(err.message, "vocabulary"));
}

static void an_id_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    fixture_on_every_device(check_embed_ids);
}

static void check_rows(fixture *f)
{
    scd_error err;
    enum { ROWS = 11, WIDTH = 37 };
    array h = fixture_random(f, 1, ROWS * WIDTH, 2), w = fixture_random(f, 2, WIDTH, 1);
    float *out = fixture_room(f, ROWS * WIDTH * sizeof *out);
    const float *rows = place(f, h);
    double *want = fixture_doubles(f, ROWS * WIDTH);
    fixture_ok(f->be->rms_norm(f->device, rows, place(f, w), ROWS, WIDTH, out, &err), &err);
    ref_rms_norm(ROWS, WIDTH, h.d, w.d, want);
    assert_true(fixture_error(want, fetch_floats(f, out, ROWS * WIDTH), ROWS * WIDTH) < 1e-6);
    const uint32_t index[3] = {4, 0, 4};
    fixture_ok(f->be->gather_rows(f->device, rows, fixture_place(f, index, sizeof index), 3, WIDTH,
                                  out, &err),
               &err);
    const float *got = fixture_fetch(f, out, 3 * WIDTH * sizeof *out);
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(got + i * WIDTH, h.f + index[i] * WIDTH, WIDTH * sizeof *out);
    fixture_ok(f->be->rms_norm(f->device, rows, rows, 0, WIDTH, out, &err),
               &err); /* nothing: fine */
}

static void rows_are_gathered_by_index_and_normed(void **state)
{
    (void)state;
    fixture_on_every_device(check_rows);
}

static void check_dtypes(fixture *f)
{
    scd_error err;
    /* 1.5, -2, 0.25, subnormal half 2^-24, in F16; x = unit vectors read the matrix back */
    const uint16_t half[4] = {0x3e00, 0xc000, 0x3400, 0x0001};
    const float x[4] = {1, 0, 0, 1}, want[4] = {1.5f, 0.25f, -2, 0x1p-24f};
    scd_tensor t = {.data = half, .dtype = SCD_F16, .rows = 2, .cols = 2};
    scd_matrix *m = NULL;
    fixture_ok(f->be->matrix_pack(f->device, &t, 1, 0, &m, &err), &err);
    scd_linear_args a = {.rows = 2,
                         .in_dim = 2,
                         .out_dim = 2,
                         .x = fixture_place(f, x, sizeof x),
                         .w = m,
                         .y = fixture_room(f, sizeof x)};
    fixture_ok(f->be->linear(f->device, &a, &err), &err);
    assert_memory_equal(fixture_fetch(f, a.y, sizeof want), want, sizeof want);
    f->be->matrix_free(f->device, m);
}

static void half_precision_weights_are_read_exactly(void **state)
{
    (void)state;
    fixture_on_every_device(check_dtypes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q_k_and_v_are_the_normed_rows_times_their_weights_with_rope_on_q_and_k),
        cmocka_unit_test(parts_not_asked_for_are_not_touched_and_others_keep_their_bytes),
        cmocka_unit_test(block_out_adds_attention_and_gated_mlp_to_the_stream),
        cmocka_unit_test(linear_takes_any_sizes_with_and_without_bias_and_relu),
        cmocka_unit_test(embed_gives_the_first_stream_with_masks_pooling_and_latent),
        cmocka_unit_test(an_id_outside_the_vocabulary_is_refused),
        cmocka_unit_test(rows_are_gathered_by_index_and_normed),
        cmocka_unit_test(half_precision_weights_are_read_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
