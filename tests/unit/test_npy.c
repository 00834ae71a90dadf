/* test_npy.c - headers as numpy writes and reads them. */
#include "api/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void the_header_is_what_numpy_writes(void **state)
{
    (void)state;
    /* numpy.lib.format.write_array_header_1_0 for a (2, 512) '<f4' array */
    static const char wanted[] = "\x93NUMPY\x01\x00\x76\x00"
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 512), }";
    scd_buf out;
    scd_buf_init(&out, 1000);
    scd_npy_header(&out, 2, 512);
    assert_int_equal(out.n_bytes, 128);
    assert_memory_equal(out.data, wanted, sizeof wanted - 1);
    for (size_t i = sizeof wanted - 1; i < 127; i++)
        assert_int_equal(out.data[i], ' ');
    assert_int_equal(out.data[127], '\n');
    scd_buf_release(&out);
}

static void data_start_at_a_multiple_of_64_whatever_the_shape(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 999, 123456789, SIZE_MAX};
    for (size_t r = 0; r < 5; r++)
        for (size_t c = 0; c < 5; c++) {
            scd_buf out;
            scd_buf_init(&out, 1000);
            scd_npy_header(&out, sizes[r], sizes[c]);
            size_t length = (unsigned char)out.data[8] | (size_t)(unsigned char)out.data[9] << 8;
            assert_int_equal(out.n_bytes, 10 + length);
            assert_int_equal(out.n_bytes % 64, 0);
            assert_int_equal(out.data[out.n_bytes - 1], '\n');
            char shape[64];
            snprintf(shape, sizeof shape, "'shape': (%zu, %zu), }", sizes[r], sizes[c]);
            assert_non_null(strstr(out.data + 10, shape));
            scd_buf_release(&out);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_is_what_numpy_writes),
        cmocka_unit_test(data_start_at_a_multiple_of_64_whatever_the_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
