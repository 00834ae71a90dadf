/* test_weights.c - attention_weights against float64 on every device. */
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CELLS = 3, HEADS = 3, DIM = 24, WIDTH = HEADS * DIM, ROWS = 1 + 70 + 131, OUT = 4000 };
static const uint32_t cu_rows[] = {0, 1, 71, ROWS}, cu_keys[] = {0, 1, 1, 4};
static const uint32_t keys[] = {0, 130, 0, 7};

typedef struct problem {
    array q, k;
    float out[OUT];
    scd_attention_weights_args args;
} problem;

static void make(fixture *f, problem *p, const uint8_t *heads)
{
    scd_error err;
    size_t bytes = ROWS * WIDTH * f->info->act_bytes;
    p->q = fixture_random(f, 1, ROWS * WIDTH, 1);
    p->k = fixture_random(f, 2, ROWS * WIDTH, 1);
    p->args = (scd_attention_weights_args){.n_cells = CELLS,
                                           .hidden_dim = WIDTH,
                                           .n_heads = HEADS,
                                           .host_cu_rows = cu_rows,
                                           .q = fixture_place(f, fixture_act(f, &p->q), bytes),
                                           .k = fixture_place(f, fixture_act(f, &p->k), bytes),
                                           .use_heads = heads,
                                           .cu_keys = cu_keys,
                                           .keys = keys,
                                           .out = p->out};
    for (size_t i = 0; i < OUT; i++)
        p->out[i] = 2; /* it is added to */
    assert_int_equal(f->be->reserve(f->device, ROWS, WIDTH, WIDTH, WIDTH, &err), SCD_OK);
}

static void check(fixture *f, const uint8_t *heads, size_t n_used)
{
    problem p;
    scd_error err;
    make(f, &p, heads);
    assert_int_equal(f->be->attention_weights(f->device, &p.args, &err), SCD_OK);
    size_t at = 0;
    for (size_t c = 0; c < CELLS; c++) {
        size_t rows = cu_rows[c + 1] - cu_rows[c], n_keys = cu_keys[c + 1] - cu_keys[c];
        for (size_t r = 0; r < rows; r++) {
            double want[ROWS] = {0}, weights[ROWS];
            for (size_t h = 0; h < HEADS; h++) {
                ref_attention_row(rows, WIDTH, HEADS, h, r, p.q.d + cu_rows[c] * WIDTH,
                                  p.k.d + cu_rows[c] * WIDTH, weights);
                for (size_t i = 0; i < rows && heads[h]; i++)
                    want[i] += weights[i] / (double)n_used;
            }
            for (size_t i = 0; i < n_keys; i++) {
                double got = (double)p.out[at + r * n_keys + i] - 2;
                if (!(fabs(got - want[keys[cu_keys[c] + i]]) < f->tolerance))
                    fail_msg("%s: cell %zu row %zu: %g", f->info->isa, c, r, got);
            }
        }
        at += rows * n_keys;
    }
    for (; at < OUT; at++)
        assert_true(p.out[at] == 2);
}

static void check_heads(fixture *f)
{
    static const uint8_t all[] = {1, 1, 1}, one[] = {0, 1, 0};
    check(f, all, 3);
    check(f, one, 1);
}

static void weights_are_those_of_the_softmax_over_the_heads_that_are_used(void **state)
{
    (void)state;
    fixture_on_every_device(check_heads);
}

static void check_refusals(fixture *f)
{
    static const uint8_t all[] = {1, 1, 1};
    static const uint32_t beyond[] = {1, 130, 0, 7};
    problem p;
    scd_error err;
    make(f, &p, all);
    p.args.keys = beyond; /* the first cell has one row */
    assert_int_equal(f->be->attention_weights(f->device, &p.args, &err), SCD_E_INVALID);
    p.args.keys = keys;
    p.args.n_heads = 5;
    assert_int_equal(f->be->attention_weights(f->device, &p.args, &err), SCD_E_INVALID);
}

static void a_key_beyond_the_cell_and_a_head_that_is_no_part_are_refused(void **state)
{
    (void)state;
    fixture_on_every_device(check_refusals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_those_of_the_softmax_over_the_heads_that_are_used),
        cmocka_unit_test(a_key_beyond_the_cell_and_a_head_that_is_no_part_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
