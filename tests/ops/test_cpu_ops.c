/* test_cpu_ops.c - every operation of the CPU backend against float64, on each instruction set this
 * machine has. Outputs are NaN before the call; sizes are chosen to miss every vector and tile. */
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Runs `check` on every instruction set. */
static void on_every_isa(void (*check)(fixture *f))
{
    size_t tested = 0;
    for (size_t i = 0; i < N_CONFIGS; i++) {
        fixture f;
        if (!fixture_open(&f, i, 2))
            continue;
        check(&f);
        fixture_release(&f);
        tested++;
    }
    assert_true(tested > 0);
}

static void check_error(const fixture *f, const char *what, double error)
{
    if (!(error <= f->tolerance))
        fail_msg("%s on %s: error %g of the largest element", what, f->info->isa, error);
}

static void ok(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

static uint32_t *positions(fixture *f, size_t rows)
{
    uint32_t *pos = fixture_block(f, rows * sizeof *pos);
    for (size_t i = 0; i < rows; i++)
        pos[i] = (uint32_t)(i * 7 % rows);
    return pos;
}

static void qkv_case(fixture *f, size_t rows, size_t width, size_t heads, int with_pos)
{
    scd_error err;
    double spread = 1 / sqrt((double)width);
    array h = fixture_random(f, 1, rows * width, 1), norm = fixture_random(f, 2, width, 1);
    array w[3];
    for (size_t i = 0; i < 3; i++)
        w[i] = fixture_random(f, 3 + i, width * width, spread);
    uint32_t *pos = with_pos ? positions(f, rows) : NULL;
    void *out[3];
    for (size_t i = 0; i < 3; i++)
        out[i] = fixture_block(f, rows * width * f->info->act_bytes);
    scd_qkv_args args = {.rows = rows,
                         .hidden_dim = width,
                         .n_heads = heads,
                         .h = h.f,
                         .norm = norm.f,
                         .wqkv = fixture_matrix(f, w, 3, width, width),
                         .pos = pos,
                         .parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V,
                         .q = out[0],
                         .k = out[1],
                         .v = out[2],
                         .rope_theta = 500};
    ok(f->be->reserve(f->device, rows, width, width, width, &err), &err);
    ok(f->be->qkv(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, rows * width);
    for (size_t i = 0; i < 3; i++) {
        ref_qkv_part(rows, width, heads, h.d, norm.d, w[i].d, pos, 500, i < 2, want);
        check_error(f, "qkv",
                    fixture_error(want, fixture_from_act(f, out[i], rows * width), rows * width));
    }
}

static void check_qkv(fixture *f)
{
    qkv_case(f, 1, 32, 2, 0);
    qkv_case(f, 77, 96, 4, 1);
    qkv_case(f, 131, 600, 6, 1); /* heads of 100, a second and narrow panel */
    qkv_case(f, 40, 26, 1, 1);
}

static void q_k_and_v_are_the_normed_rows_times_their_weights_with_rope_on_q_and_k(void **state)
{
    (void)state;
    on_every_isa(check_qkv);
}

static void check_qkv_parts(fixture *f)
{
    scd_error err;
    enum { ROWS = 9, WIDTH = 64 };
    array h = fixture_random(f, 1, ROWS * WIDTH, 1), norm = fixture_random(f, 2, WIDTH, 1), w[3];
    for (size_t i = 0; i < 3; i++)
        w[i] = fixture_random(f, 3 + i, WIDTH * WIDTH, 0.1);
    void *k = fixture_block(f, ROWS * WIDTH * 4);
    scd_qkv_args args = {.rows = ROWS,
                         .hidden_dim = WIDTH,
                         .n_heads = 2,
                         .h = h.f,
                         .norm = norm.f,
                         .wqkv = fixture_matrix(f, w, 3, WIDTH, WIDTH),
                         .parts = SCD_PART_K,
                         .k = k};
    ok(f->be->reserve(f->device, ROWS, WIDTH, WIDTH, WIDTH, &err), &err);
    ok(f->be->qkv(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, ROWS * WIDTH);
    ref_qkv_part(ROWS, WIDTH, 2, h.d, norm.d, w[1].d, NULL, 10000, 1, want);
    check_error(f, "k alone",
                fixture_error(want, fixture_from_act(f, k, ROWS * WIDTH), ROWS * WIDTH));
    args.rows = ROWS + 1;
    assert_int_equal(f->be->qkv(f->device, &args, &err), SCD_E_INVALID);
}

static void
parts_not_asked_for_are_not_touched_and_rows_beyond_the_reserve_are_refused(void **state)
{
    (void)state;
    on_every_isa(check_qkv_parts);
}

/* lengths: n_cells keys per cell; one_query: only the first row of each cell asks. */
static void attention_case(fixture *f, const uint32_t *lengths, size_t n_cells, size_t heads,
                           size_t dim, bool one_query, double spread)
{
    scd_error err;
    uint32_t *cu_k = fixture_block(f, (n_cells + 1) * 4),
             *cu_q = fixture_block(f, (n_cells + 1) * 4);
    cu_k[0] = cu_q[0] = 0;
    for (size_t c = 0; c < n_cells; c++) {
        cu_k[c + 1] = cu_k[c] + lengths[c];
        cu_q[c + 1] = cu_q[c] + (one_query ? 1 : lengths[c]);
    }
    size_t width = heads * dim, nq = cu_q[n_cells] * width, nk = cu_k[n_cells] * width;
    array q = fixture_random(f, 1, nq, spread), k = fixture_random(f, 2, nk, spread);
    array v = fixture_random(f, 3, nk, 1);
    scd_attention_args args = {.n_cells = n_cells,
                               .hidden_dim = width,
                               .n_heads = heads,
                               .cu_q = cu_q,
                               .cu_k = cu_k,
                               .host_cu_q = cu_q,
                               .host_cu_k = cu_k};
    args.q = fixture_act(f, &q);
    args.k = fixture_act(f, &k);
    args.v = fixture_act(f, &v);
    args.out = fixture_block(f, nq * f->info->act_bytes);
    ok(f->be->reserve(f->device, cu_k[n_cells], width, width, width, &err), &err);
    ok(f->be->attention(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, nq);
    ref_attention(n_cells, width, heads, cu_q, cu_k, q.d, k.d, v.d, want);
    check_error(f, "attention", fixture_error(want, fixture_from_act(f, args.out, nq), nq));
}

static void check_attention(fixture *f)
{
    const uint32_t mixed[] = {1, 2, 64, 129, 31, 33}, long_ones[] = {513, 512}, tiny[] = {1};
    const uint32_t full[] = {1201};
    const size_t dims[] = {16, 24, 26, 64, 100, 128};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        attention_case(f, mixed, 6, 2, dims[i], false, 1);
        attention_case(f, mixed, 6, 3, dims[i], true, 1);
        attention_case(f, tiny, 1, 1, dims[i], false, 1);
    }
    attention_case(f, full, 1, 1, 64, false, 1);
    attention_case(f, long_ones, 2, 1, 32, false, 1); /* at and beyond a chunk of keys */
    attention_case(f, mixed, 6, 2, 64, false, 12);    /* scores in the thousands: one key wins */
}

static void attention_agrees_for_every_head_size_and_cell_length(void **state)
{
    (void)state;
    on_every_isa(check_attention);
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
    scd_block_out_args args = {.rows = rows,
                               .hidden_dim = width,
                               .ffn_dim = ffn,
                               .h = h.f,
                               .att = fixture_act(f, &att),
                               .norm2 = norm.f,
                               .wo = fixture_matrix(f, &wo, 1, width, width),
                               .wgate_up = fixture_matrix(f, wgu, 2, ffn, width),
                               .wdown = fixture_matrix(f, &wdown, 1, width, ffn)};
    ok(f->be->reserve(f->device, rows, width, ffn, width, &err), &err);
    ok(f->be->block_out(f->device, &args, &err), &err);
    ref_block_out(rows, width, ffn, h.d, att.d, wo.d, norm.d, wgu[0].d, wgu[1].d, wdown.d);
    check_error(f, "block_out",
                fixture_error(h.d, fixture_from_float(f, h.f, rows * width), rows * width));
}

static void check_block_out(fixture *f)
{
    block_out_case(f, 1, 32, 48);
    block_out_case(f, 63, 90, 250);
    block_out_case(f, 70, 528, 600);
}

static void block_out_adds_attention_and_gated_mlp_to_the_stream(void **state)
{
    (void)state;
    on_every_isa(check_block_out);
}

static void linear_case(fixture *f, size_t rows, size_t in, size_t out, int relu, bool bias)
{
    scd_error err;
    array x = fixture_random(f, 1, rows * in, 1);
    array w = fixture_random(f, 2, out * in, 1 / sqrt((double)in)),
          b = fixture_random(f, 3, out, 1);
    float *y = fixture_block(f, rows * out * sizeof *y);
    scd_linear_args args = {.rows = rows,
                            .in_dim = in,
                            .out_dim = out,
                            .x = x.f,
                            .relu = relu,
                            .w = fixture_matrix(f, &w, 1, out, in),
                            .bias = bias ? b.f : NULL,
                            .y = y};
    ok(f->be->linear(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, rows * out);
    ref_linear(rows, in, out, x.d, w.d, bias ? b.d : NULL, relu, want);
    check_error(f, "linear", fixture_error(want, fixture_from_float(f, y, rows * out), rows * out));
}

static void check_linear(fixture *f)
{
    linear_case(f, 1, 64, 1, 0, true);
    linear_case(f, 17, 33, 7, 1, false); /* odd everything */
    linear_case(f, 100, 512, 1300, 1, true);
    linear_case(f, 3, 1, 16, 0, true);
}

static void linear_takes_any_sizes_with_and_without_bias_and_relu(void **state)
{
    (void)state;
    on_every_isa(check_linear);
}

enum { CELLS = 5, VOCAB = 50 };
static const uint32_t cell_tokens[CELLS] = {1, 70, 3, 200, 8};

/* Cells with everything hidden in some of them, and every kind of hiding in the others. */
static void fill_batch(fixture *f, scd_batch_rows *b)
{
    uint32_t *cu = fixture_block(f, (CELLS + 1) * sizeof *cu);
    cu[0] = 0;
    for (size_t c = 0; c < CELLS; c++)
        cu[c + 1] = cu[c] + 1 + cell_tokens[c];
    size_t rows = cu[CELLS];
    int32_t *ids = fixture_block(f, rows * sizeof *ids);
    uint8_t *hidden = fixture_block(f, rows);
    uint32_t *pos = fixture_block(f, rows * sizeof *pos);
    array values = fixture_random(f, 77, rows, 3);
    static const uint8_t kinds[4] = {0, SCD_HIDE_VALUE, SCD_HIDE_GENE | SCD_HIDE_VALUE, 0};
    for (size_t c = 0; c < CELLS; c++)
        for (uint32_t i = 0; cu[c] + i < cu[c + 1]; i++) {
            ids[cu[c] + i] = i ? (int32_t)((i * 31 + c) % VOCAB) : -1;
            hidden[cu[c] + i] = c == 2 ? kinds[2] : kinds[i % 4];
            pos[cu[c] + i] = i;
        }
    for (size_t i = 0; i < rows; i++)
        values.f[i] = fabsf(values.f[i]);
    *b = (scd_batch_rows){.n_cells = CELLS,
                          .n_tokens = rows - CELLS,
                          .n_rows = rows,
                          .cu_rows = cu,
                          .host_cu_rows = cu,
                          .ids = ids,
                          .values = values.f,
                          .hidden = hidden,
                          .pos = pos};
}

static void embed_case(fixture *f, size_t d, size_t width, scd_dtype dtype, int visible)
{
    scd_error err;
    scd_batch_rows b;
    fill_batch(f, &b);
    double s = 1 / sqrt((double)d), sw = 1 / sqrt((double)width);
    array table = fixture_random(f, 1, VOCAB * d, 1), w2 = fixture_random(f, 2, d * d, s);
    array ip = fixture_random(f, 3, width * d, s), l0 = fixture_random(f, 4, width * d, s);
    array l3 = fixture_random(f, 5, width * width, sw), dv[5], hv[4];
    for (size_t i = 0; i < 5; i++)
        dv[i] = fixture_random(f, 10 + i, d, 1);
    for (size_t i = 0; i < 4; i++)
        hv[i] = fixture_random(f, 20 + i, width, 1);
    if (dtype == SCD_BF16) /* the file's type: cut to what bf16 holds */
        for (size_t i = 0; i < table.n; i++) {
            uint32_t bits;
            memcpy(&bits, &table.f[i], 4);
            ((uint16_t *)(void *)table.f)[i] = (uint16_t)(bits >> 16);
            bits &= 0xffff0000;
            float cut;
            memcpy(&cut, &bits, 4);
            table.d[i] = (double)cut;
        }
    void *loaded = NULL;
    scd_tensor tensor = {.data = table.f, .dtype = dtype, .rows = VOCAB, .cols = d};
    ok(f->be->table_load(f->device, &tensor, &loaded, &err), &err);
    float *h = fixture_block(f, b.n_rows * width * sizeof *h);
    scd_embed_args a = {.gene_embedding = loaded,
                        .gene_embedding_dtype = dtype,
                        .d = d,
                        .hidden_dim = width,
                        .vocab = VOCAB,
                        .value_w0 = dv[0].f,
                        .value_b0 = dv[1].f,
                        .value_w2 = fixture_matrix(f, &w2, 1, d, d),
                        .value_b2 = dv[2].f,
                        .value_mask = dv[3].f,
                        .gene_mask = dv[4].f,
                        .input_proj = fixture_matrix(f, &ip, 1, width, d),
                        .latent_w0 = fixture_matrix(f, &l0, 1, width, d),
                        .latent_b0 = hv[0].f,
                        .latent_norm_w = hv[1].f,
                        .latent_norm_b = hv[2].f,
                        .latent_w3 = fixture_matrix(f, &l3, 1, width, width),
                        .latent_b3 = hv[3].f,
                        .visible_pooling = visible,
                        .h = h,
                        .clean = fixture_block(f, b.n_rows * d * sizeof(float))};
    ok(f->be->reserve(f->device, b.n_rows, width, width, d, &err), &err);
    ok(f->be->embed(f->device, &b, &a, &err), &err);
    f->be->free(f->device, loaded);
    double *want = fixture_doubles(f, b.n_rows * width);
    ref_embed_args r = {CELLS,    d,       width,   b.host_cu_rows, b.ids,   b.values,
                        b.hidden, table.d, dv[0].d, dv[1].d,        w2.d,    dv[2].d,
                        dv[3].d,  dv[4].d, ip.d,    l0.d,           hv[0].d, hv[1].d,
                        hv[2].d,  l3.d,    hv[3].d, visible};
    ref_embed(&r, want);
    double *got = fixture_from_float(f, h, b.n_rows * width);
    check_error(f, "embed", fixture_error(want, got, b.n_rows * width));
}

static void check_embed(fixture *f)
{
    embed_case(f, 48, 64, SCD_F32, 0);
    embed_case(f, 100, 36, SCD_F32, 1);
    embed_case(f, 130, 160, SCD_BF16, 1);
}

static void embed_gives_the_first_stream_with_masks_pooling_and_latent(void **state)
{
    (void)state;
    on_every_isa(check_embed);
}

static void check_embed_ids(fixture *f)
{
    scd_error err;
    int32_t ids[2] = {-1, VOCAB};
    scd_batch_rows b = {.n_cells = 1, .n_rows = 2, .ids = ids};
    scd_embed_args a = {.vocab = VOCAB};
    assert_int_equal(f->be->embed(f->device, &b, &a, &err), SCD_E_INVALID);
}

static void an_id_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    on_every_isa(check_embed_ids);
}

static void check_rows(fixture *f)
{
    scd_error err;
    enum { ROWS = 5, WIDTH = 37 };
    array h = fixture_random(f, 1, ROWS * WIDTH, 2), w = fixture_random(f, 2, WIDTH, 1);
    float *out = fixture_block(f, ROWS * WIDTH * sizeof *out);
    double *want = fixture_doubles(f, ROWS * WIDTH);
    ok(f->be->rms_norm(f->device, h.f, w.f, ROWS, WIDTH, out, &err), &err);
    ref_rms_norm(ROWS, WIDTH, h.d, w.d, want);
    assert_true(fixture_error(want, fixture_from_float(f, out, ROWS * WIDTH), ROWS * WIDTH) < 1e-6);
    const uint32_t index[3] = {4, 0, 4};
    ok(f->be->gather_rows(f->device, h.f, index, 3, WIDTH, out, &err), &err);
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(out + i * WIDTH, h.f + index[i] * WIDTH, WIDTH * sizeof *out);
}

static void rows_are_gathered_by_index_and_normed(void **state)
{
    (void)state;
    on_every_isa(check_rows);
}

static void check_dtypes(fixture *f)
{
    scd_error err;
    /* 1.5, -2, 0.25, subnormal half 2^-24, in F16; x = unit vectors read the matrix back */
    const uint16_t half[4] = {0x3e00, 0xc000, 0x3400, 0x0001};
    const float x[4] = {1, 0, 0, 1}, want[4] = {1.5f, 0.25f, -2, 0x1p-24f};
    float y[4];
    scd_tensor t = {.data = half, .dtype = SCD_F16, .rows = 2, .cols = 2};
    scd_matrix *m = NULL;
    ok(f->be->matrix_pack(f->device, &t, 1, &m, &err), &err);
    scd_linear_args a = {.rows = 2, .in_dim = 2, .out_dim = 2, .x = x, .w = m, .y = y};
    ok(f->be->linear(f->device, &a, &err), &err);
    f->be->matrix_free(f->device, m);
    assert_memory_equal(y, want, sizeof y);
}

static void half_precision_weights_are_read_exactly(void **state)
{
    (void)state;
    on_every_isa(check_dtypes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q_k_and_v_are_the_normed_rows_times_their_weights_with_rope_on_q_and_k),
        cmocka_unit_test(
            parts_not_asked_for_are_not_touched_and_rows_beyond_the_reserve_are_refused),
        cmocka_unit_test(attention_agrees_for_every_head_size_and_cell_length),
        cmocka_unit_test(block_out_adds_attention_and_gated_mlp_to_the_stream),
        cmocka_unit_test(linear_takes_any_sizes_with_and_without_bias_and_relu),
        cmocka_unit_test(embed_gives_the_first_stream_with_masks_pooling_and_latent),
        cmocka_unit_test(an_id_outside_the_vocabulary_is_refused),
        cmocka_unit_test(rows_are_gathered_by_index_and_normed),
        cmocka_unit_test(half_precision_weights_are_read_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
