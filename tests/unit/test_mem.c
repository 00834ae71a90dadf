/* test_mem.c - sizes that cannot overflow, and the hook that makes an allocation fail.
 *
 * Threads: main. */
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const size_t HALF = SIZE_MAX / 2 + 1;

static void a_product_that_overflows_is_told(void **state)
{
    (void)state;
    size_t out = 0;
    assert_true(scd_size_mul(3, 5, &out));
    assert_int_equal(out, 15);
    assert_true(scd_size_mul(SIZE_MAX, 1, &out));
    assert_true(scd_size_mul(SIZE_MAX, 0, &out));
    assert_false(scd_size_mul(HALF, 2, &out));
    assert_false(scd_size_mul(SIZE_MAX, SIZE_MAX, &out));
}

static void an_overflowing_size_is_refused_by_every_allocation(void **state)
{
    (void)state;
    assert_null(scd_malloc(HALF, 2));
    assert_null(scd_calloc(HALF, 2));
    assert_null(scd_realloc(NULL, HALF, 2));
    assert_null(scd_malloc_aligned(HALF, 2));
    assert_null(scd_malloc_aligned(SIZE_MAX - 8, 1));
}

static void nothing_is_a_size_too(void **state)
{
    (void)state;
    void *got[] = {scd_malloc(0, 8), scd_calloc(0, 8), scd_realloc(NULL, 0, 8),
                   scd_malloc_aligned(0, 8)};
    for (size_t i = 0; i < sizeof got / sizeof got[0]; i++) {
        assert_non_null(got[i]);
        free(got[i]);
    }
}

static void cleared_memory_is_zero_and_grown_memory_keeps_its_content(void **state)
{
    (void)state;
    unsigned char *zero = scd_calloc(1000, 3);
    for (size_t i = 0; i < 3000; i++)
        assert_int_equal(zero[i], 0);
    memcpy(zero, "abc", 3);
    zero = scd_realloc(zero, 100000, 1);
    assert_memory_equal(zero, "abc", 3);
    free(zero);
}

static void aligned_memory_begins_at_a_cache_line(void **state)
{
    (void)state;
    for (size_t n = 1; n < 300; n += 37) {
        char *at = scd_malloc_aligned(n, 1);
        assert_int_equal((uintptr_t)at % 64, 0);
        memset(at, 1, (n + 63) & ~(size_t)63); /* rounded up: a whole last vector may be stored */
        free(at);
    }
}

static void text_is_copied_up_to_n_bytes(void **state)
{
    (void)state;
    char *whole = scd_strdup("CD3D"), *part = scd_strndup("CD3D", 2), *none = scd_strndup("x", 0);
    assert_string_equal(whole, "CD3D");
    assert_string_equal(part, "CD");
    assert_string_equal(none, "");
    free(whole);
    free(part);
    free(none);
}

static void the_hook_fails_one_allocation_of_any_kind_and_no_other(void **state)
{
    (void)state;
    for (long fail = 0; fail < 6; fail++) {
        scd_mem_fail_after(fail);
        void *got[] = {scd_malloc(1, 8), scd_calloc(1, 8),         scd_realloc(NULL, 1, 8),
                       scd_strdup("x"),  scd_malloc_aligned(1, 8), scd_malloc(1, 8)};
        for (long i = 0; i < 6; i++) {
            assert_int_equal(got[i] == NULL, i == fail);
            free(got[i]);
        }
    }
    scd_mem_fail_after(1000);
    scd_mem_fail_after(-1);
    for (int i = 0; i < 2000; i++) {
        void *at = scd_malloc(1, 1);
        assert_non_null(at);
        free(at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_that_overflows_is_told),
        cmocka_unit_test(an_overflowing_size_is_refused_by_every_allocation),
        cmocka_unit_test(nothing_is_a_size_too),
        cmocka_unit_test(cleared_memory_is_zero_and_grown_memory_keeps_its_content),
        cmocka_unit_test(aligned_memory_begins_at_a_cache_line),
        cmocka_unit_test(text_is_copied_up_to_n_bytes),
        cmocka_unit_test(the_hook_fails_one_allocation_of_any_kind_and_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
