/* test_cuda_device.c - the CUDA device on the emulator: what it says of itself, what it refuses,
 * copies of every size, faults that kernels note, and every call of the runtime failing in turn. */
#include "tests/cuda_host/host.h"
#include "tests/ops/cuda_backend.h"

#include "engine/base/mem.h"
#include "engine/cuda/index.h"

#include <math.h>
#include <string.h>

static const scd_backend *be = &scd_backend_cuda;

static void the_table_names_its_version_and_is_whole(void **state)
{
    (void)state;
    assert_int_equal(be->abi, SCD_BACKEND_ABI);
    assert_int_equal(be->size, sizeof(scd_backend));
    assert_string_equal(be->name, "cuda");
    /* what backend.h says may be missing */
    const void *const may_be_null[] = {&be->attention_weights, &be->gene_pick};
    void (*const *entry)(void) = (void (*const *)(void))(const void *)&be->open;
    for (; (const char *)entry < (const char *)be + sizeof *be; entry++)
        assert_true(*entry != NULL || (const void *)entry == may_be_null[0] ||
                    (const void *)entry == may_be_null[1]);
}

static void the_identity_holds_all_that_bits_depend_on(void **state)
{
    (void)state;
    static const struct {
        scd_precision asked, got;
        const char *identity;
    } cases[] = {
        {SCD_PRECISION_AUTO, SCD_PRECISION_BF16, "cuda/sm_80/bf16/k4/emulated/emulated, 1 SMs"},
        {SCD_PRECISION_BF16, SCD_PRECISION_BF16, "cuda/sm_80/bf16/k4/emulated/emulated, 1 SMs"},
        {SCD_PRECISION_FP32, SCD_PRECISION_FP32, "cuda/sm_80/fp32/k4/emulated/emulated, 1 SMs"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scd_device_options options = {.precision = cases[i].asked};
        scd_device *device;
        assert_int_equal(be->open(&options, &device, NULL), SCD_OK);
        const scd_device_info *info = be->info(device);
        assert_int_equal(info->precision, cases[i].got);
        assert_int_equal(info->act_bytes, cases[i].got == SCD_PRECISION_BF16 ? 2 : 4);
        assert_string_equal(info->identity, cases[i].identity);
        assert_string_equal(info->isa, "sm_80");
        be->close(device);
    }
    be->close(NULL);
}

/* cuBLASLt may choose another algorithm on each of them. */
static void cards_that_differ_in_their_chip_have_identities_that_differ(void **state)
{
    (void)state;
    char identities[3][sizeof((scd_device_info *)0)->identity];
    int n = 0;
    setenv("CUDA_EMULATOR_GPUS", "3", 1);
    setenv("CUDA_EMULATOR_PROCESSORS", "108,1:42", 1);
    assert_int_equal(be->count(&n, NULL), SCD_OK);
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        scd_device_options options = {.index = i};
        scd_device *device;
        assert_int_equal(be->open(&options, &device, NULL), SCD_OK);
        memcpy(identities[i], be->info(device)->identity, sizeof identities[i]);
        be->close(device);
    }
    unsetenv("CUDA_EMULATOR_GPUS");
    unsetenv("CUDA_EMULATOR_PROCESSORS");
    assert_string_equal(identities[0], identities[2]);
    assert_string_not_equal(identities[0], identities[1]);
    assert_non_null(strstr(identities[1], "42 SMs"));
}

static void a_gpu_that_is_not_there_is_refused_by_number(void **state)
{
    (void)state;
    scd_device_options options = {.index = 3};
    scd_device *device;
    scd_error err;
    assert_int_equal(be->open(&options, &device, &err), SCD_E_DEVICE);
    assert_string_equal(err.message, "there is no GPU 3: this machine has 1, from 0");
    assert_null(device);
}

/* The pinned halves are 4 MiB each: sizes around them, and what was sent may be overwritten. */
static void copies_of_every_size_arrive_and_their_source_is_free_at_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4 << 20, (4 << 20) + 1, (13 << 20) + 5};
    fixture f;
    cuda_open(&f, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        unsigned char *a = fixture_block(&f, n + 1), *b = fixture_block(&f, n + 1);
        for (size_t j = 0; j < n; j++)
            a[j] = (unsigned char)(j * 7 + j / 251 + i);
        void *device = fixture_place(&f, a, n);
        void *other = fixture_place(&f, a, n);
        memcpy(b, a, n);
        memset(a, 0xee, n);
        assert_memory_equal(fixture_fetch(&f, device, n), b, n);
        assert_memory_equal(fixture_fetch(&f, other, n), b, n);
    }
    fixture_release(&f);
    assert_int_equal(scd_emu_blocks, 0);
}

enum { D = 16, H = 32, F = 48, HEADS = 2, VOCAB = 10, ROWS = 5 };

/* Everything that an owner does with a device, up to the first failure. */
typedef struct life {
    scd_device *device;
    scd_matrix *square, *stacked, *wide, *ffn_in, *ffn_out; /* D x D, 3 H x H, H x D, .. */
    scd_matrix *latent, *wo;
    void *memory, *table;
} life;

static scd_code pack(life *l, size_t parts, size_t rows, size_t cols, scd_matrix **out,
                     scd_error *err)
{
    static float weights[F * F];
    scd_tensor t[3];
    for (size_t i = 0; i < F * F; i++)
        weights[i] = (float)((double)(i % 13) / 40 - 0.15);
    for (size_t i = 0; i < parts; i++)
        t[i] = (scd_tensor){.data = weights, .dtype = SCD_F32, .rows = rows, .cols = cols};
    const unsigned uses = SCD_FOR_BIAS | SCD_FOR_BIAS_RELU; /* of several parts: neither */
    return be->matrix_pack(l->device, t, parts, uses, out, err);
}

static scd_code load(life *l, scd_error *err)
{
    static const float table[VOCAB * D] = {1};
    scd_tensor t = {.data = table, .dtype = SCD_F32, .rows = VOCAB, .cols = D};
    scd_device_options options = {.precision = SCD_PRECISION_BF16};
    scd_code code = be->open(&options, &l->device, err);
    if (!code)
        code = be->table_load(l->device, &t, &l->table, err);
    if (!code)
        code = pack(l, 1, D, D, &l->square, err);
    if (!code)
        code = pack(l, 1, H, D, &l->wide, err);
    if (!code)
        code = pack(l, 1, H, H, &l->wo, err);
    if (!code)
        code = pack(l, 3, H, H, &l->stacked, err);
    if (!code)
        code = pack(l, 2, F, H, &l->ffn_in, err);
    if (!code)
        code = pack(l, 1, H, F, &l->ffn_out, err);
    if (!code)
        code = be->reserve(l->device, ROWS, H, F, D, err);
    if (!code)
        code = be->alloc(l->device, 65536, &l->memory, err);
    return code;
}

typedef struct description {
    uint32_t cu[4], pos[8];
    int32_t ids[8];
    float values[8], vector[64];
    uint8_t hidden[8];
} description;

/* The batch: two cells of one and two tokens. `bad` is one row's id or position. */
static scd_code run(life *l, int32_t id, uint32_t at, float *out, scd_error *err)
{
    const description host = {{0, 2, 5},       {0, at, 0, 1, 2}, {-1, id, -1, 3, 4},
                              {0, 1, 0, 2, 3}, {1, 1},           {0, 0, 0, 1}};
    description *dev = l->memory;
    char *m = (char *)l->memory + 4096;
    float *h = (float *)(void *)(m + 8192);
    scd_batch_rows b = {2, 3, 5, dev->cu, host.cu, dev->ids, dev->values, dev->hidden, dev->pos};
    scd_embed_args e = {l->table,
                        SCD_F32,
                        D,
                        H,
                        VOCAB,
                        dev->vector,
                        dev->vector,
                        l->square,
                        dev->vector,
                        dev->vector,
                        dev->vector,
                        l->wide,
                        l->wide,
                        dev->vector,
                        dev->vector,
                        dev->vector,
                        l->wo,
                        dev->vector,
                        0,
                        (float *)(void *)m,
                        h};
    scd_qkv_args q = {5,        H, HEADS,     h,         dev->vector, l->stacked,
                      dev->pos, 7, m + 16384, m + 20480, m + 24576,   0};
    scd_attention_args a = {2,       H,         HEADS,     dev->cu,   dev->cu,  host.cu,
                            host.cu, m + 16384, m + 20480, m + 24576, m + 28672};
    scd_block_out_args o = {5, H, F, h, m + 28672, l->wo, dev->vector, l->ffn_in, l->ffn_out};
    scd_linear_args n = {5, H, H, h, l->wo, dev->vector, 1, (float *)(void *)(m + 32768)};
    scd_code code = be->upload(l->device, dev, &host, sizeof host, err);
    if (!code)
        code = be->embed(l->device, &b, &e, err);
    if (!code)
        code = be->qkv(l->device, &q, err);
    if (!code)
        code = be->attention(l->device, &a, err);
    if (!code)
        code = be->block_out(l->device, &o, err);
    if (!code)
        code = be->linear(l->device, &n, err);
    if (!code)
        code = be->gather_rows(l->device, n.y, dev->cu, 2, H, h, err);
    if (!code)
        code = be->rms_norm(l->device, h, dev->vector, 2, H, n.y, err);
    if (!code)
        code = be->synchronize(l->device, err);
    return code ? code : be->download(l->device, out, n.y, 2 * H * sizeof *out, err);
}

static void end(life *l)
{
    scd_matrix *all[] = {l->square, l->stacked, l->wide, l->ffn_in, l->ffn_out, l->latent, l->wo};
    if (!l->device)
        return;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        be->matrix_free(l->device, all[i]);
    be->free(l->device, l->memory);
    be->free(l->device, l->table);
    be->close(l->device);
}

static void fail_each_call(void)
{
    long calls = 0;
    for (bool failed = true; failed; calls++) {
        life l = {0};
        float out[2 * H];
        scd_error err;
        scd_emu_fail_after = calls;
        scd_code code = load(&l, &err);
        if (!code)
            code = run(&l, 2, 1, out, &err);
        failed = scd_emu_fail_after == -1;
        assert_int_equal(code, failed ? SCD_E_DEVICE : SCD_OK);
        if (failed)
            assert_non_null(strstr(err.message, ": told to fail"));
        scd_emu_fail_after = -1;
        end(&l);
        assert_int_equal(scd_emu_blocks, 0);
    }
    assert_true(calls > 100);
}

static void any_call_that_fails_is_an_error_with_its_name_and_nothing_leaks(void **state)
{
    (void)state;
    fail_each_call();
    setenv("CUDA_EMULATOR_EPILOGUES", "none", 1);
    fail_each_call();
    unsetenv("CUDA_EMULATOR_EPILOGUES");
}

static void any_allocation_that_fails_is_an_error_and_nothing_leaks(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        life l = {0};
        scd_mem_fail_after(n);
        code = load(&l, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
        end(&l);
        assert_int_equal(scd_emu_blocks, 0);
    }
}

static void what_kernels_find_wrong_is_answered_once_by_the_next_wait(void **state)
{
    (void)state;
    life l = {0};
    float good[2 * H], again[2 * H];
    scd_error err;
    assert_int_equal(load(&l, &err), SCD_OK);
    assert_int_equal(run(&l, 2, 1, good, &err), SCD_OK);
    assert_int_equal(run(&l, VOCAB, 1, again, &err), SCD_E_INVALID);
    assert_string_equal(err.message, "a gene id of the batch is outside the vocabulary");
    assert_int_equal(run(&l, 2, ROWS, again, &err), SCD_E_INVALID);
    assert_string_equal(err.message, "a position of the batch is beyond what was reserved");
    assert_int_equal(run(&l, 2, 1, again, &err), SCD_OK);
    assert_memory_equal(good, again, sizeof good);
    end(&l);
}

static void products_whose_rows_know_of_each_other_are_passed_over(void **state)
{
    (void)state;
    for (int bad = 0; bad <= 3; bad++) {
        life l = {0};
        scd_error err;
        scd_emu_bad_algorithms = bad;
        assert_int_equal(load(&l, &err), bad < 3 ? SCD_OK : SCD_E_DEVICE);
        if (bad == 3)
            assert_non_null(strstr(err.message, "depends on a row's place"));
        scd_emu_bad_algorithms = 0;
        end(&l);
    }
}

/* The emulator adds a bias up in the same order either way. */
static void a_bias_that_no_product_adds_exactly_is_added_by_a_kernel_after_it(void **state)
{
    (void)state;
    static const char *const epilogues[] = {"", "none", "bad", "refused"};
    float want[2 * H], got[2 * H];
    for (size_t i = 0; i < 4; i++) {
        life l = {0};
        scd_error err;
        setenv("CUDA_EMULATOR_EPILOGUES", epilogues[i], 1);
        assert_int_equal(load(&l, &err), SCD_OK);
        long before = scd_emu_fused;
        assert_int_equal(run(&l, 2, 1, i ? got : want, &err), SCD_OK);
        assert_int_equal(scd_emu_fused - before, i ? 0 : 4); /* embed's three and the head's */
        if (i)
            assert_memory_equal(got, want, sizeof want);
        end(&l);
    }
    unsetenv("CUDA_EMULATOR_EPILOGUES");
    assert_int_equal(scd_emu_blocks, 0);
}

/* y (1, H): a vector of ones times a matrix that was packed for `uses`. */
static scd_code biased(unsigned uses, const float *bias, int relu, float *y, scd_error *err)
{
    static float w[H * D];
    fixture f;
    scd_matrix *m;
    float x[D];
    for (size_t i = 0; i < H * D; i++)
        w[i] = (float)(i / D) - 8; /* row i sums to D (i - 8) */
    for (size_t i = 0; i < D; i++)
        x[i] = 1;
    scd_tensor t = {w, SCD_F32, H, D};
    cuda_open(&f, 0);
    scd_code code = be->matrix_pack(f.device, &t, 1, uses, &m, err);
    scd_linear_args a = {.rows = 1,
                         .in_dim = D,
                         .out_dim = H,
                         .x = fixture_place(&f, x, sizeof x),
                         .w = m,
                         .bias = bias ? fixture_place(&f, bias, H * sizeof *bias) : NULL,
                         .relu = relu,
                         .y = fixture_room_floats(&f, H)};
    if (!code)
        code = be->linear(f.device, &a, err);
    if (!code)
        code = be->download(f.device, y, a.y, H * sizeof *y, err);
    be->matrix_free(f.device, m);
    fixture_release(&f);
    return code;
}

static void a_matrix_may_be_used_in_ways_that_it_was_not_packed_for(void **state)
{
    (void)state;
    float bias[H], y[H];
    for (size_t i = 0; i < H; i++)
        bias[i] = (float)(i % 5) - 2;
    for (unsigned uses = 0; uses <= (SCD_FOR_BIAS | SCD_FOR_BIAS_RELU); uses++)
        for (int how = 0; how < 4; how++) {
            scd_error err;
            bool relu = how & 1, with = how & 2;
            long before = scd_emu_fused;
            assert_int_equal(biased(uses, with ? bias : NULL, relu, y, &err), SCD_OK);
            if (!uses)
                assert_int_equal(scd_emu_fused, before);
            for (size_t i = 0; i < H; i++) {
                float want = D * ((float)i - 8) + (with ? bias[i] : 0);
                assert_true(y[i] == (relu && want < 0 ? 0 : want));
            }
        }
}

static void a_bias_at_an_odd_address_is_refused(void **state)
{
    (void)state;
    life l = {0};
    scd_error err;
    assert_int_equal(load(&l, &err), SCD_OK);
    float *m = l.memory;
    scd_linear_args a = {1, H, H, m, l.wo, m + 129, 1, m + 256};
    assert_int_equal(be->linear(l.device, &a, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "a bias lies at no multiple of 16 bytes"));
    end(&l);
}

static void parts_that_differ_are_refused(void **state)
{
    (void)state;
    fixture f;
    const float zeros[8] = {0};
    scd_tensor t[2] = {{zeros, SCD_F32, 2, 4}, {zeros, SCD_F32, 4, 2}};
    scd_matrix *m;
    scd_error err;
    cuda_open(&f, 0);
    assert_int_equal(be->matrix_pack(f.device, t, 2, 0, &m, &err), SCD_E_INVALID);
    assert_int_equal(be->matrix_pack(f.device, t, 0, 0, &m, &err), SCD_E_INVALID);
    assert_int_equal(be->matrix_pack(f.device, t, 4, 0, &m, &err), SCD_E_INVALID);
    assert_null(m);
    fixture_release(&f);
}

static void every_half_is_read_exactly_and_floats_are_rounded_to_the_nearest(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        int e = (int)(h >> 10 & 31);
        double m = (double)(h & 1023), sign = h & 0x8000 ? -1 : 1;
        double want = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
        float got = scd_f16_to_f32((uint16_t)h);
        if (e == 31)
            assert_true(m > 0 ? isnan(got) : isinf(got) && (got < 0) == (sign < 0));
        else
            assert_true((double)got == sign * want && !signbit(got) == (sign > 0));
        if ((h & 0x7f80) == 0x7f80) /* infinity and NaN of bf16 */
            continue;
        float exact = scd_bf16_to_f32((uint16_t)h);
        uint32_t bits = h << 16;
        assert_int_equal(scd_f32_to_bf16(exact), h);
        assert_int_equal(scd_f32_to_bf16(scd_from_bits(bits + 0x7fff)), h);
        assert_int_equal(scd_f32_to_bf16(scd_from_bits(bits + 0x8001)), h + 1);
        assert_int_equal(scd_f32_to_bf16(scd_from_bits(bits + 0x8000)), h + (h & 1));
    }
    assert_true(isnan(scd_bf16_to_f32(scd_f32_to_bf16(NAN))));
    assert_true(isnan(scd_bf16_to_f32(scd_f32_to_bf16(scd_from_bits(0x7f800001)))));
    assert_true(isinf(scd_bf16_to_f32(scd_f32_to_bf16(INFINITY))));
}

/* Each element of a fragment belongs to one lane and register, and neighbours go together. */
static void fragments_cover_their_matrices_once(void **state)
{
    (void)state;
    int a[16][16] = {{0}}, b[16][8] = {{0}}, c[16][8] = {{0}};
    for (int lane = 0; lane < 32; lane++) {
        for (int reg = 0; reg < 4; reg++)
            for (int i = 0; i < 2; i++)
                a[scd_frag_a_row(lane, reg)][scd_frag_a_col(lane, reg) + i]++;
        for (int reg = 0; reg < 2; reg++)
            for (int i = 0; i < 2; i++)
                b[scd_frag_b_row(lane, reg) + i][scd_frag_b_col(lane)]++;
        for (int i = 0; i < 4; i++)
            c[scd_frag_c_row(lane, i)][scd_frag_c_col(lane, i)]++;
        /* two C fragments side by side are one A fragment: see attention_bf16.cu */
        for (int reg = 0; reg < 4; reg++)
            for (int i = 0; i < 2; i++) {
                int half = reg / 2, of = (reg & 1) * 2 + i;
                assert_int_equal(scd_frag_a_row(lane, reg), scd_frag_c_row(lane, of));
                assert_int_equal(scd_frag_a_col(lane, reg) + i,
                                 half * 8 + scd_frag_c_col(lane, of));
            }
    }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            assert_int_equal(a[i][j], 1);
            if (j < 8)
                assert_true(b[i][j] == 1 && c[i][j] == 1);
        }
}

static void tiles_and_pairs_cover_their_rows_once(void **state)
{
    (void)state;
    for (size_t n = 0; n < 300; n++) {
        size_t tiles = scd_ceil_div(n, 64), rows = 0;
        for (size_t t = 0; t < tiles + 2; t++)
            rows += (size_t)scd_rows_left(t * 64, 64, n);
        assert_int_equal(rows, n);
    }
    for (unsigned half = 1; half <= 64; half++) {
        int seen[3 * 128] = {0};
        for (unsigned p = 0; p < 3 * half; p++) {
            scd_rope_pair r = scd_rope_pair_at(p, half);
            assert_int_equal(r.a % (2 * half), r.i);
            seen[r.a]++;
            seen[r.a + half]++;
        }
        for (size_t i = 0; i < 3 * 2 * half; i++)
            assert_int_equal(seen[i], 1);
    }
    scd_query_tile t = scd_query_tile_at(17, 5);
    assert_true(t.cell == 3 && t.tile == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_names_its_version_and_is_whole),
        cmocka_unit_test(the_identity_holds_all_that_bits_depend_on),
        cmocka_unit_test(cards_that_differ_in_their_chip_have_identities_that_differ),
        cmocka_unit_test(a_gpu_that_is_not_there_is_refused_by_number),
        cmocka_unit_test(copies_of_every_size_arrive_and_their_source_is_free_at_once),
        cmocka_unit_test(any_call_that_fails_is_an_error_with_its_name_and_nothing_leaks),
        cmocka_unit_test(any_allocation_that_fails_is_an_error_and_nothing_leaks),
        cmocka_unit_test(what_kernels_find_wrong_is_answered_once_by_the_next_wait),
        cmocka_unit_test(products_whose_rows_know_of_each_other_are_passed_over),
        cmocka_unit_test(a_bias_that_no_product_adds_exactly_is_added_by_a_kernel_after_it),
        cmocka_unit_test(a_matrix_may_be_used_in_ways_that_it_was_not_packed_for),
        cmocka_unit_test(a_bias_at_an_odd_address_is_refused),
        cmocka_unit_test(parts_that_differ_are_refused),
        cmocka_unit_test(every_half_is_read_exactly_and_floats_are_rounded_to_the_nearest),
        cmocka_unit_test(fragments_cover_their_matrices_once),
        cmocka_unit_test(tiles_and_pairs_cover_their_rows_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
