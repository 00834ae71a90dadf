/* test_attention.c - attention against float64, on every device. Outputs are NaN before the call.
 */
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Here q, k and v are what they were rounded to, so that only weights and outputs are rounded, each
 * by up to 2^-9 of its own. Compared cell by cell: one key too many in 64 must show. */
#define BF16_ATTENTION 6e-3

/* lengths: n_cells keys per cell; one_query: only the first row of each cell asks. */
static void attention_case(fixture *f, const uint32_t *lengths, size_t n_cells, size_t heads,
                           size_t dim, bool one_query, double spread)
{
    scd_error err;
    uint32_t *cu_k = fixture_block(f, (n_cells + 1) * 4);
    uint32_t *cu_q = fixture_block(f, (n_cells + 1) * 4);
    cu_k[0] = cu_q[0] = 0;
    for (size_t c = 0; c < n_cells; c++) {
        cu_k[c + 1] = cu_k[c] + lengths[c];
        cu_q[c + 1] = cu_q[c] + (one_query ? 1 : lengths[c]);
    }
    size_t width = heads * dim, nq = cu_q[n_cells] * width, nk = cu_k[n_cells] * width;
    size_t act = f->info->act_bytes;
    array q = fixture_random(f, 1, nq, spread), k = fixture_random(f, 2, nk, spread);
    array v = fixture_random(f, 3, nk, 1);
    scd_attention_args args = {.n_cells = n_cells,
                               .hidden_dim = width,
                               .n_heads = heads,
                               .cu_q = fixture_place(f, cu_q, (n_cells + 1) * 4),
                               .cu_k = fixture_place(f, cu_k, (n_cells + 1) * 4),
                               .host_cu_q = cu_q,
                               .host_cu_k = cu_k};
    args.q = fixture_place(f, fixture_act(f, &q), nq * act);
    args.k = fixture_place(f, fixture_act(f, &k), nk * act);
    args.v = fixture_place(f, fixture_act(f, &v), nk * act);
    args.out = fixture_room(f, nq * act);
    fixture_ok(f->be->reserve(f->device, cu_k[n_cells], width, width, width, &err), &err);
    fixture_ok(f->be->attention(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, nq), *got = fixture_fetch_act(f, args.out, nq);
    ref_attention(n_cells, width, heads, cu_q, cu_k, q.d, k.d, v.d, want);
    for (size_t c = 0; c < n_cells; c++) {
        size_t at = cu_q[c] * width, n = (cu_q[c + 1] - cu_q[c]) * width;
        double error = fixture_error(want + at, got + at, n);
        if (!(error <= (f->bf16 ? BF16_ATTENTION : f->tolerance)))
            fail_msg("attention on %s in %s, heads of %zu, %u keys: error %g of the largest "
                     "element",
                     f->info->isa, f->bf16 ? "bf16" : "fp32", dim, lengths[c], error);
    }
}

static void check_attention(fixture *f)
{
    /* around fragments (8, 16), tiles of keys (32, 64) and of queries (64, 128) */
    const uint32_t mixed[] = {1, 2, 15, 16, 17, 64, 129}, more[] = {31, 33, 63, 65, 128},
                   tiny[] = {1}, full[] = {401};
    const size_t dims[] = {16, 24, 26, 32, 48, 64, 96, 100, 128};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        attention_case(f, mixed, 7, 2, dims[i], false, 1);
        attention_case(f, mixed, 7, 3, dims[i], true, 1);
        attention_case(f, tiny, 1, 1, dims[i], false, 1);
    }
    attention_case(f, more, 5, 1, 64, false, 1);
    attention_case(f, full, 1, 1, 64, false, 1);
    attention_case(f, mixed, 7, 2, 64, false, 12); /* scores in the thousands: one key wins */
    if (fixture_is_slow(f))
        return;
    const uint32_t longest[] = {1201}, chunks[] = {513, 512};
    attention_case(f, longest, 1, 1, 64, false, 1);
    attention_case(f, chunks, 2, 1, 32, false, 1); /* at and beyond a chunk of keys */
}

/* A recorded batch is filled up by a cell of queries that have nothing to look at: 0, and the cell
 * behind it is as ever. The CPU records none. */
static void check_no_keys(fixture *f)
{
    enum { NONE = 100, SOME = 70, WIDTH = 128, HEADS = 2, N = (NONE + SOME) * WIDTH };
    scd_error err;
    if (fixture_on_cpu(f))
        return;
    uint32_t *cu_q = fixture_block(f, 12), *cu_k = fixture_block(f, 12);
    cu_q[0] = cu_k[0] = cu_k[1] = 0;
    cu_q[1] = NONE;
    cu_q[2] = NONE + SOME;
    cu_k[2] = SOME;
    array q = fixture_random(f, 1, N, 1), k = fixture_random(f, 2, SOME * WIDTH, 1);
    array v = fixture_random(f, 3, SOME * WIDTH, 1);
    size_t act = f->info->act_bytes, rest = SOME * WIDTH;
    scd_attention_args args = {.n_cells = 2,
                               .hidden_dim = WIDTH,
                               .n_heads = HEADS,
                               .cu_q = fixture_place(f, cu_q, 12),
                               .cu_k = fixture_place(f, cu_k, 12),
                               .host_cu_q = cu_q,
                               .host_cu_k = cu_k};
    args.q = fixture_place(f, fixture_act(f, &q), N * act);
    args.k = fixture_place(f, fixture_act(f, &k), rest * act);
    args.v = fixture_place(f, fixture_act(f, &v), rest * act);
    args.out = fixture_room(f, N * act);
    fixture_ok(f->be->reserve(f->device, NONE + SOME, WIDTH, WIDTH, WIDTH, &err), &err);
    fixture_ok(f->be->attention(f->device, &args, &err), &err);
    double *want = fixture_doubles(f, rest), *got = fixture_fetch_act(f, args.out, N);
    for (size_t i = 0; i < NONE * WIDTH; i++)
        if (got[i] != 0)
            fail_msg("%s: element %zu is %g", f->info->identity, i, got[i]);
    const uint32_t whole[2] = {0, SOME};
    ref_attention(1, WIDTH, HEADS, whole, whole, q.d + NONE * WIDTH, k.d, v.d, want);
    assert_true(fixture_error(want, got + NONE * WIDTH, rest) <=
                (f->bf16 ? BF16_ATTENTION : f->tolerance));
}

static void queries_without_keys_give_zeros(void **state)
{
    (void)state;
    fixture_on_every_device(check_no_keys);
}

static void attention_agrees_for_every_head_size_and_cell_length(void **state)
{
    (void)state;
    fixture_on_every_device(check_attention);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_agrees_for_every_head_size_and_cell_length),
        cmocka_unit_test(queries_without_keys_give_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
