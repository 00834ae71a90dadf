/* test_fd.c - whole reads and writes, and where they end. */
#include "engine/base/fd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void what_is_written_in_pieces_is_read_whole(void **state)
{
    (void)state;
    int ends[2];
    char out[6];
    assert_int_equal(pipe(ends), 0);
    assert_true(scd_write_all(ends[1], "abc", 3));
    assert_true(scd_write_all(ends[1], "def", 3));
    assert_true(scd_read_all(ends[0], out, 6));
    assert_memory_equal(out, "abcdef", 6);
    assert_true(scd_write_all(ends[1], "g", 1));
    close(ends[1]);
    assert_false(scd_read_all(ends[0], out, 2)); /* the other side has ended */
    assert_int_equal(errno, 0);
    close(ends[0]);
    assert_false(scd_read_all(ends[0], out, 1));
    assert_int_equal(errno, EBADF);
}

static void places_in_a_file_are_written_and_read(void **state)
{
    (void)state;
    char out[5];
    FILE *f = tmpfile();
    assert_non_null(f);
    int fd = fileno(f);
    assert_true(scd_pwrite_all(fd, "world", 5, 100));
    assert_true(scd_pread_all(fd, out, 5, 100));
    assert_memory_equal(out, "world", 5);
    assert_true(scd_pread_all(fd, out, 0, 1000));
    assert_false(scd_pread_all(fd, out, 5, 101)); /* past the end */
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_in_pieces_is_read_whole),
        cmocka_unit_test(places_in_a_file_are_written_and_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
