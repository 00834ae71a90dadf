/* test_cuda_model.c - the bundled model on the CUDA backend against the CPU's in fp32.
 *
 * Whole forward passes through engine/model/forward.c: weights in the file's bf16, the real sizes'
 * alignments, the shortcut of the last layer. Cells hold random genes; on the emulator few and
 * short ones, on a GPU up to the longest. */
#include "engine/base/rng.h"
#include "engine/model/forward.h"
#include "tests/ops/cuda_backend.h"

#include <math.h>
#include <string.h>

#ifdef SCD_CUDA_HOST
#include "tests/cuda_host/host.h"
enum { N_CELLS = 3 };
static const size_t n_tokens[N_CELLS] = {1, 70, 17};
#else
enum { N_CELLS = 6 };
static const size_t n_tokens[N_CELLS] = {1, 1200, 17, 600, 128, 333};
#endif

/* A size's first pass is plain, its second is recorded, the third put again. */
enum { ROUNDS = 4, SPARE = 128 }; /* rows that the last bucket is padded with */

static const char model_dir[] = "config/models/pbmc";

typedef struct cells {
    scd_cell cell[N_CELLS];
    const scd_cell *list[N_CELLS];
    size_t rows;
} cells;

static void make_cells(fixture *f, size_t vocab, cells *c)
{
    c->rows = 0;
    for (size_t i = 0; i < N_CELLS; i++) {
        size_t n = n_tokens[i];
        c->cell[i] = (scd_cell){.n_tokens = n,
                                .ids = fixture_block(f, n * sizeof(int32_t)),
                                .values = fixture_block(f, n * sizeof(float))};
        for (size_t j = 0; j < n; j++) {
            uint32_t word[4];
            scd_rng_block(3, i, j, word);
            c->cell[i].ids[j] = (int32_t)(2 + word[0] % (vocab - 5)); /* genes alone */
            c->cell[i].values[j] = (float)(word[1] % 8000) / 1000;
        }
        c->list[i] = &c->cell[i];
        c->rows += n + 1;
    }
}

/* Embeddings (N_CELLS, H) on the fixture's device. */
static double *embed(fixture *f, const scd_model *model, const cells *c)
{
    scd_error err;
    scd_forward *forward, *larger = NULL;
    size_t n = N_CELLS * scd_model_get_config(model)->hidden_dim;
    float *out = fixture_block(f, n * sizeof *out), *again = fixture_block(f, n * sizeof *out);
    if (scd_forward_open(f->be, f->device, model, c->rows + SPARE, &forward, &err) ||
        scd_forward_embed(forward, c->list, N_CELLS, out, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < N_CELLS * ROUNDS; i++) { /* each alone: the same bytes */
        size_t h = n / N_CELLS, at = i % N_CELLS * h;
        if (i == N_CELLS * (ROUNDS - 1)) { /* more is reserved: graphs are of no use any more */
            if (scd_forward_open(f->be, f->device, model, 2 * (c->rows + SPARE), &larger, &err))
                fail_msg("%s", err.message);
        }
        if (scd_forward_embed(forward, c->list + i % N_CELLS, 1, again, &err))
            fail_msg("%s", err.message);
        assert_memory_equal(again, out + at, h * sizeof *out);
    }
    scd_forward_close(larger);
    scd_forward_close(forward);
    return fixture_from_float(f, out, n);
}

/* Batches of one cell or two, one behind the other: each has the bytes that it has alone, whatever
 * is begun before it was fetched, and is told its own faults. */
static void embed_overlapping(fixture *f, const scd_model *model, const cells *c)
{
    enum { TIMES = 3 * ROUNDS };
    scd_error err;
    scd_forward *forward;
    const size_t h = scd_model_get_config(model)->hidden_dim, bytes = h * sizeof(float);
    float *alone = fixture_block(f, N_CELLS * bytes), *out = fixture_block(f, bytes);
    if (scd_forward_open(f->be, f->device, model, c->rows + SPARE, &forward, &err))
        fail_msg("%s", err.message);
    assert_true(scd_forward_overlaps(forward, 1));
    assert_false(scd_forward_overlaps(forward, c->rows));
    for (size_t i = 0; i < N_CELLS; i++)
        assert_int_equal(scd_forward_embed(forward, &c->list[i], 1, alone + i * h, &err), SCD_OK);
    int32_t real = c->cell[1].ids[0];
    for (size_t i = 0; i <= TIMES; i++) {
        bool is_bad = i == TIMES / 2, was_bad = i == TIMES / 2 + 1;
        const float *states;
        size_t at = is_bad ? 1 : i % N_CELLS, before = (i - 1) % N_CELLS;
        int slot = (int)(i % SCD_SLOTS);
        if (is_bad)
            c->cell[1].ids[0] = 1 << 30;
        if (i < TIMES && (scd_forward_begin(forward, slot, &c->list[at], 1, &states, &err) ||
                          scd_forward_end(forward, slot, states, bytes, &err)))
            fail_msg("%s", err.message);
        c->cell[1].ids[0] = real;
        if (!i)
            continue;
        scd_code code = scd_forward_fetch(forward, 1 - slot, out, &err);
        assert_int_equal(code, was_bad ? SCD_E_INVALID : SCD_OK);
        if (!was_bad)
            assert_memory_equal(out, alone + before * h, bytes);
    }
    assert_int_equal(scd_forward_embed(forward, &c->list[0], 1, out, &err), SCD_OK);
    assert_memory_equal(out, alone, bytes);
    scd_forward_close(forward);
}

static double cosine(const double *a, const double *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

/* On the emulator: some passes were graphs. */
static void count_replays(int end)
{
#ifdef SCD_CUDA_HOST
    static long before;
    if (end)
        assert_true(scd_emu_replays > before);
    before = scd_emu_replays;
#else
    (void)end;
#endif
}

static void the_bundled_model_gives_what_the_cpu_gives(void **state)
{
    (void)state;
    fixture cpu, gpu;
    scd_model *model;
    scd_error err;
    cells c;
    if (scd_model_open(model_dir, &model, &err))
        fail_msg("%s", err.message);
    size_t h = scd_model_get_config(model)->hidden_dim;
    assert_true(fixture_open_on(&cpu, &scd_backend_cpu, SCD_PRECISION_FP32, 0, &err));
    make_cells(&cpu, scd_model_get_config(model)->vocab, &c);
    double *want = embed(&cpu, model, &c);
    for (int bf16 = 0; bf16 <= 1; bf16++) {
        cuda_open(&gpu, bf16);
        count_replays(0);
        double *got = embed(&gpu, model, &c);
        embed_overlapping(&gpu, model, &c);
        count_replays(1);
        for (size_t i = 0; i < N_CELLS; i++) {
            /* the specification's promises: fp32 1e-4 of the largest element (both sides round, so
             * twice that), bf16 a cosine of 0.999 */
            double error = fixture_error(want + i * h, got + i * h, h);
            double same = cosine(want + i * h, got + i * h, h);
            if (!(bf16 ? same >= 0.999 : error <= 2e-4))
                fail_msg("%s, %zu tokens: error %g, cosine %.6f", bf16 ? "bf16" : "fp32",
                         n_tokens[i], error, same);
        }
        fixture_release(&gpu);
    }
    fixture_release(&cpu);
    scd_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bundled_model_gives_what_the_cpu_gives),
    };
    if (!cuda_there())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
