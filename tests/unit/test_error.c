/* test_error.c - codes and messages, whole or cut.
 *
 * Threads: main. */
#include "engine/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void a_failure_carries_its_code_and_message(void **state)
{
    (void)state;
    scd_error err = {0};
    assert_int_equal(scd_fail(&err, SCD_E_INVALID, "genes: %d given, at most %d", 7, 5),
                     SCD_E_INVALID);
    assert_int_equal(err.code, SCD_E_INVALID);
    assert_string_equal(err.message, "genes: 7 given, at most 5");
}

static void the_last_failure_is_the_one_that_is_told(void **state)
{
    (void)state;
    scd_error err = {0};
    scd_fail(&err, SCD_E_INVALID, "a long first message");
    scd_fail(&err, SCD_E_IO, "short");
    assert_int_equal(err.code, SCD_E_IO);
    assert_string_equal(err.message, "short");
}

static void the_code_alone_is_enough_where_nobody_reads_the_message(void **state)
{
    (void)state;
    assert_int_equal(scd_fail(NULL, SCD_E_BUSY, "%s", "unread"), SCD_E_BUSY);
}

static void a_prefix_says_where_and_keeps_the_code(void **state)
{
    (void)state;
    scd_error err = {0};
    scd_fail(&err, SCD_E_CORRUPT, "tensor q is 3 x 4");
    assert_int_equal(scd_fail_within(&err, "model \"%s\"", "pbmc"), SCD_E_CORRUPT);
    assert_string_equal(err.message, "model \"pbmc\": tensor q is 3 x 4");
}

static void a_message_that_is_too_long_is_cut_and_ended(void **state)
{
    (void)state;
    scd_error err = {0};
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    scd_fail(&err, SCD_E_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    scd_fail_within(&err, "file");
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_memory_equal(err.message, "file: xxxx", 10);
    scd_fail_within(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_int_equal(err.code, SCD_E_IO);
}

static void every_code_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = SCD_OK; a <= SCD_E_INTERNAL; a++) {
        assert_string_not_equal(scd_code_name((scd_code)a), "unknown");
        for (int b = SCD_OK; b < a; b++)
            assert_string_not_equal(scd_code_name((scd_code)a), scd_code_name((scd_code)b));
    }
    assert_string_equal(scd_code_name(SCD_E_TOO_LARGE), "too_large");
    assert_string_equal(scd_code_name((scd_code)1000), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_carries_its_code_and_message),
        cmocka_unit_test(the_last_failure_is_the_one_that_is_told),
        cmocka_unit_test(the_code_alone_is_enough_where_nobody_reads_the_message),
        cmocka_unit_test(a_prefix_says_where_and_keeps_the_code),
        cmocka_unit_test(a_message_that_is_too_long_is_cut_and_ended),
        cmocka_unit_test(every_code_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
