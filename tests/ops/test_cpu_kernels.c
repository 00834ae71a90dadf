/* test_cpu_kernels.c - the exponentials that attention and the gated MLP rest on, against libm in
 * float64, the thread pool and the count of cores. */
#include "engine/cpu/cores.h"
#include "engine/cpu/isa.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/pool.h"

#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The tables this machine can run; returns how many. */
static size_t tables(const scd_kernels *out[4])
{
    size_t n = 0;
    scd_isa isa;
    assert_int_equal(scd_isa_detect(&isa, NULL), SCD_OK);
    out[n++] = &scd_kernels_generic;
#if defined(__x86_64__)
    if (isa >= SCD_ISA_AVX2)
        out[n++] = &scd_kernels_avx2;
    if (isa >= SCD_ISA_AVX512)
        out[n++] = &scd_kernels_avx512;
    if (isa >= SCD_ISA_AVX512_BF16)
        out[n++] = &scd_kernels_avx512bf16;
#endif
    return n;
}

static void exponentials_are_right_to_two_units_in_the_last_place(void **state)
{
    (void)state;
    enum { N = 400003 };
    float *x = malloc(N * sizeof *x), *e = malloc(N * sizeof *e), *e2 = malloc(N * sizeof *e2);
    for (size_t i = 0; i < N; i++)
        x[i] = -87.0f + 174.0f * (float)i / (float)(N - 1);
    const scd_kernels *table[4];
    size_t n_tables = tables(table);
    for (size_t t = 0; t < n_tables; t++) {
        double worst = 0, worst2 = 0;
        table[t]->exp_test(x, N, e, e2);
        for (size_t i = 0; i < N; i++) {
            worst = fmax(worst, fabs((double)e[i] / exp((double)x[i]) - 1));
            worst2 = fmax(worst2, fabs((double)e2[i] / exp2((double)x[i]) - 1));
        }
        /* one unit in the last place is 1.2e-7 */
        assert_true(worst < 2.4e-7);
        assert_true(worst2 < 2.4e-7);
    }
    free(x);
    free(e);
    free(e2);
}

static void exponentials_far_below_are_zero(void **state)
{
    (void)state;
    const float x[3] = {-1e30f, -INFINITY, -200.0f};
    float e[3], e2[3];
    const scd_kernels *table[4];
    size_t n_tables = tables(table);
    for (size_t t = 0; t < n_tables; t++) {
        table[t]->exp_test(x, 3, e, e2);
        for (size_t i = 0; i < 3; i++) {
            assert_true(e[i] < 1e-37f && e[i] >= 0);
            assert_true(e2[i] == 0);
        }
    }
}

typedef struct count {
    scd_cursor cursor;
    atomic_int seen[1000], threads;
} count;

static void count_body(void *arg, int thread)
{
    count *c = arg;
    (void)thread;
    atomic_fetch_add(&c->threads, 1);
    for (size_t i; (i = scd_cursor_take(&c->cursor, 1000)) < 1000;)
        atomic_fetch_add(&c->seen[i], 1);
}

static void a_pool_does_every_task_once_however_often_it_runs(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads += 2) {
        scd_pool *pool;
        assert_int_equal(scd_pool_new(threads, false, &pool, NULL), SCD_OK);
        assert_int_equal(scd_pool_threads(pool), threads);
        for (int run = 0; run < 200; run++) {
            static count c;
            memset(&c, 0, sizeof c);
            scd_cursor_init(&c.cursor);
            scd_pool_run(pool, count_body, &c);
            assert_int_equal(atomic_load(&c.threads), threads);
            for (size_t i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&c.seen[i]), 1);
        }
        scd_pool_free(pool);
    }
    scd_pool_free(NULL);
}

static void cores_are_those_of_the_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    int n = scd_cores();
    assert_in_range(n, 1, CPU_COUNT(&all));
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(scd_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponentials_are_right_to_two_units_in_the_last_place),
        cmocka_unit_test(exponentials_far_below_are_zero),
        cmocka_unit_test(cores_are_those_of_the_affinity_mask),
        cmocka_unit_test(a_pool_does_every_task_once_however_often_it_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
