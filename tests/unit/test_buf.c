/* test_buf.c - a growing buffer that has its maximum at birth.
 *
 * Threads: main. */
#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include <cmocka.h>

static void what_is_appended_stands_there_in_order_and_ended(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 1000);
    assert_null(b.data);
    assert_true(scd_buf_puts(&b, "genes"));
    assert_true(scd_buf_putc(&b, ':'));
    assert_true(scd_buf_printf(&b, " %d of %s", 3, "9"));
    assert_true(scd_buf_append(&b, "\0x", 2));
    assert_int_equal(b.n_bytes, 15);
    assert_memory_equal(b.data, "genes: 3 of 9\0x", 16);
    scd_buf_release(&b);
    assert_null(b.data);
}

static void the_maximum_holds_to_the_byte(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 5);
    assert_true(scd_buf_puts(&b, "12345"));
    assert_false(b.failed);
    assert_true(scd_buf_append(&b, "", 0));
    assert_false(scd_buf_putc(&b, '6'));
    assert_true(b.failed);
    assert_string_equal(b.data, "12345");
    scd_buf_release(&b);
}

static void after_a_failed_append_later_ones_do_nothing(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 8);
    assert_true(scd_buf_puts(&b, "1234"));
    assert_false(scd_buf_printf(&b, "%s", "too long"));
    assert_false(scd_buf_putc(&b, '5')); /* would fit: but what was lost before it is gone */
    assert_null(scd_buf_reserve(&b, 0));
    assert_string_equal(b.data, "1234");
    scd_buf_clear(&b);
    assert_true(scd_buf_puts(&b, "again"));
    assert_string_equal(b.data, "again");
    scd_buf_release(&b);
}

static void a_format_that_cannot_be_printed_fails_the_buffer(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 100);
    assert_false(scd_buf_printf(&b, "%ls", L"\x4E2D")); /* no such character in the C locale */
    assert_true(b.failed);
    scd_buf_release(&b);
}

static void reserved_room_is_written_in_place(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 10000);
    scd_buf_puts(&b, "head");
    char *at = scd_buf_reserve(&b, 5000);
    memset(at, 'x', 5000);
    scd_buf_commit(&b, 3);
    assert_string_equal(b.data, "headxxx");
    assert_int_equal(b.n_bytes, 7);
    scd_buf_release(&b);
}

static void it_grows_to_any_size_under_its_maximum(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 1 << 20);
    for (size_t i = 0; i < 100000; i++)
        assert_true(scd_buf_putc(&b, (char)('a' + i % 26)));
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(b.data[i], 'a' + i % 26);
    scd_buf_release(&b);
}

static void the_largest_maximum_does_not_overflow(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, SIZE_MAX);
    assert_true(scd_buf_putc(&b, 'x'));
    assert_null(scd_buf_reserve(&b, SIZE_MAX));
    assert_true(b.failed);
    scd_buf_clear(&b);
    assert_true(scd_buf_putc(&b, 'x'));
    assert_null(scd_buf_reserve(&b, SIZE_MAX - 1)); /* the NUL has no room */
    assert_true(b.failed);
    scd_buf_release(&b);
}

static void taken_bytes_belong_to_the_taker(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 100);
    assert_null(scd_buf_take(&b));
    scd_buf_puts(&b, "mine");
    char *bytes = scd_buf_take(&b);
    assert_null(b.data);
    assert_int_equal(b.n_bytes, 0);
    assert_true(scd_buf_puts(&b, "yours"));
    assert_string_equal(bytes, "mine");
    free(bytes);
    scd_buf_release(&b);
}

static void out_of_memory_fails_the_buffer_and_keeps_what_it_has(void **state)
{
    (void)state;
    scd_buf b;
    scd_buf_init(&b, 1 << 20);
    scd_mem_fail_after(0);
    assert_false(scd_buf_puts(&b, "x"));
    assert_true(b.failed);
    scd_buf_clear(&b);
    scd_buf_puts(&b, "kept");
    scd_mem_fail_after(0);
    assert_null(scd_buf_reserve(&b, 100000));
    scd_mem_fail_after(-1);
    assert_string_equal(b.data, "kept");
    scd_buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_appended_stands_there_in_order_and_ended),
        cmocka_unit_test(the_maximum_holds_to_the_byte),
        cmocka_unit_test(after_a_failed_append_later_ones_do_nothing),
        cmocka_unit_test(a_format_that_cannot_be_printed_fails_the_buffer),
        cmocka_unit_test(reserved_room_is_written_in_place),
        cmocka_unit_test(it_grows_to_any_size_under_its_maximum),
        cmocka_unit_test(the_largest_maximum_does_not_overflow),
        cmocka_unit_test(taken_bytes_belong_to_the_taker),
        cmocka_unit_test(out_of_memory_fails_the_buffer_and_keeps_what_it_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
