/* test_lengths.c - lengths.tsv: what is read and written, what is refused. */
#include "engine/base/mem.h"
#include "engine/model/lengths.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MOST = 300 };
static char dir[] = "/tmp/scdiva-lengths-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/lengths.tsv", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void put(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_model_without_the_file_has_no_lengths(void **state)
{
    (void)state;
    size_t *lengths, n = 7;
    assert_int_equal(scd_lengths_read(dir, MOST, &lengths, &n, NULL), SCD_OK);
    assert_true(!lengths && n == 0);
}

static void what_is_written_is_read_again_as_quantiles(void **state)
{
    (void)state;
    size_t all[1000], *lengths, n;
    for (size_t i = 0; i < 1000; i++)
        all[i] = 1 + (i * 37) % 1000 % MOST;
    assert_int_equal(scd_lengths_write(path, all, 1000, NULL), SCD_OK);
    assert_int_equal(scd_lengths_read(dir, MOST, &lengths, &n, NULL), SCD_OK);
    assert_int_equal(n, SCD_LENGTH_QUANTILES);
    assert_true(lengths[0] == 1 && lengths[n - 1] == MOST);
    for (size_t i = 1; i < n; i++)
        assert_true(lengths[i] >= lengths[i - 1]);
    free(lengths);
    size_t two[] = {9, 4};
    assert_int_equal(scd_lengths_write(path, two, 2, NULL), SCD_OK);
    assert_int_equal(scd_lengths_read(dir, MOST, &lengths, &n, NULL), SCD_OK);
    assert_true(n == 2 && lengths[0] == 4 && lengths[1] == 9);
    free(lengths);
}

static void a_damaged_file_is_refused_by_line(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "first line"},           {"lengths\n5\n", "first line"}, {"tokens\n", "no length"},
        {"tokens\n5\n0\n", "line 3"}, {"tokens\n301\n", "line 2"},    {"tokens\nx\n", "line 2"},
        {"tokens\n5\t6\n", "line 2"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t *lengths, n;
        scd_error err = {0};
        put(bad[i][0]);
        assert_int_equal(scd_lengths_read(dir, MOST, &lengths, &n, &err), SCD_E_CORRUPT);
        assert_true(!lengths && n == 0 && strstr(err.message, "lengths.tsv"));
        assert_non_null(strstr(err.message, bad[i][1]));
    }
}

static void a_failing_allocation_is_reported(void **state)
{
    (void)state;
    put("tokens\n5\n");
    scd_code code = SCD_E_NOMEM;
    for (long i = 0; code; i++) {
        size_t *lengths, n;
        scd_mem_fail_after(i);
        code = scd_lengths_read(dir, MOST, &lengths, &n, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
        free(lengths);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_without_the_file_has_no_lengths),
        cmocka_unit_test(what_is_written_is_read_again_as_quantiles),
        cmocka_unit_test(a_damaged_file_is_refused_by_line),
        cmocka_unit_test(a_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
