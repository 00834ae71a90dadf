/* test_arena.c - memory of one request: bounded, aligned, released at once.
 *
 * Threads: main. */
#include "engine/base/arena.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void what_is_handed_out_is_aligned_and_does_not_overlap(void **state)
{
    (void)state;
    enum { N = 2000 };
    static unsigned char *at[N];
    scd_arena a;
    scd_arena_init(&a, 1 << 20);
    for (size_t i = 0; i < N; i++) {
        at[i] = scd_arena_alloc(&a, 1 + i % 97, 1);
        assert_non_null(at[i]);
        assert_int_equal((uintptr_t)at[i] % 16, 0);
        memset(at[i], (int)(i % 251), 1 + i % 97);
    }
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < 1 + i % 97; k++)
            assert_int_equal(at[i][k], i % 251);
    scd_arena_release(&a);
}

static void the_bound_holds_to_the_byte(void **state)
{
    (void)state;
    scd_arena a;
    scd_arena_init(&a, 160);
    assert_null(scd_arena_alloc(&a, 161, 1));
    assert_non_null(scd_arena_alloc(&a, 9, 16));
    assert_null(scd_arena_alloc(&a, 17, 1));
    assert_non_null(scd_arena_alloc(&a, 16, 1));
    assert_int_equal(a.used_bytes, 160);
    assert_null(scd_arena_alloc(&a, 1, 1));
    scd_arena_release(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(scd_arena_alloc(&a, 160, 1));
    scd_arena_release(&a);
}

static void a_request_larger_than_a_block_gets_its_own(void **state)
{
    (void)state;
    scd_arena a;
    scd_arena_init(&a, 64 << 20);
    char *small = scd_arena_alloc(&a, 1, 8), *large = scd_arena_alloc(&a, 8 << 20, 1);
    memset(large, 1, 8 << 20);
    memset(small, 2, 8);
    assert_int_equal(large[0], 1);
    assert_non_null(scd_arena_alloc(&a, 1, 8));
    scd_arena_release(&a);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    scd_arena a;
    scd_arena_init(&a, SIZE_MAX);
    assert_null(scd_arena_alloc(&a, SIZE_MAX / 2, 3));
    /* The last of these leave no room for rounding up or for the head of a block. */
    for (size_t less = 0; less < 48; less++)
        assert_null(scd_arena_alloc(&a, SIZE_MAX - less, 1));
    assert_int_equal(a.used_bytes, 0);
    scd_arena_release(&a);
}

static void cleared_memory_is_zero_even_where_it_was_used_before(void **state)
{
    (void)state;
    scd_arena a;
    for (int round = 0; round < 2; round++) {
        scd_arena_init(&a, 1 << 16);
        unsigned char *at = scd_arena_zalloc(&a, 500, 4);
        for (size_t i = 0; i < 2000; i++)
            assert_int_equal(at[i], 0);
        memset(at, 0xA5, 2000);
        scd_arena_release(&a);
    }
}

static void a_copy_of_text_ends_with_nul(void **state)
{
    (void)state;
    scd_arena a;
    scd_arena_init(&a, 1 << 16);
    assert_string_equal(scd_arena_strndup(&a, "CD3D and more", 4), "CD3D");
    assert_string_equal(scd_arena_strndup(&a, "", 0), "");
    scd_arena_release(&a);
}

static void out_of_memory_is_null_and_leaves_the_arena_usable(void **state)
{
    (void)state;
    scd_arena a;
    scd_arena_init(&a, 1 << 20);
    scd_mem_fail_after(0);
    assert_null(scd_arena_strndup(&a, "x", 1));
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(scd_arena_alloc(&a, 1, 1));
    scd_mem_fail_after(0);
    assert_null(scd_arena_zalloc(&a, 5000, 1));
    assert_non_null(scd_arena_alloc(&a, 1, 1));
    scd_mem_fail_after(-1);
    scd_arena_release(&a);
    scd_arena_release(&a); /* twice is fine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_handed_out_is_aligned_and_does_not_overlap),
        cmocka_unit_test(the_bound_holds_to_the_byte),
        cmocka_unit_test(a_request_larger_than_a_block_gets_its_own),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(cleared_memory_is_zero_even_where_it_was_used_before),
        cmocka_unit_test(a_copy_of_text_ends_with_nul),
        cmocka_unit_test(out_of_memory_is_null_and_leaves_the_arena_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
