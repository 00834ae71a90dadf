/* test_safetensors.c - the reader against files that lie, the writer against the reader, and the
 * half-width types against exhaustive arithmetic.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/model/dtype.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- files made by hand ---------------------------------------------------------------------- */

typedef struct image {
    _Alignas(8) unsigned char bytes[4096];
    size_t n;
} image;

/* Length, header padded with spaces to 8 bytes, n_data bytes of data counting up. */
static image make(const char *header, size_t n_data)
{
    image f = {.n = 0};
    size_t n = strlen(header), padded = (n + 7) / 8 * 8;
    f.bytes[0] = (unsigned char)padded;
    f.bytes[1] = (unsigned char)(padded >> 8);
    memset(f.bytes + 8, ' ', padded);
    memcpy(f.bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        f.bytes[8 + padded + i] = (unsigned char)i;
    f.n = 8 + padded + n_data;
    return f;
}

static void assert_says(const scd_error *err, const char *part)
{
    if (!strstr(err->message, part))
        fail_msg("'%s' does not say '%s'", err->message, part);
}

static void assert_corrupt_image(const image *f, const char *part)
{
    scd_safetensors *file = NULL;
    scd_error err = {0};
    assert_int_equal(scd_safetensors_parse(f->bytes, f->n, "x", &file, &err), SCD_E_CORRUPT);
    assert_null(file);
    assert_says(&err, part);
}

static void assert_corrupt(const char *header, size_t n_data, const char *part)
{
    image f = make(header, n_data);
    assert_corrupt_image(&f, part);
}

#define T(name, dtype, shape, from, to)                                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]" \
    "}"

static void a_good_file_gives_its_tensors(void **state)
{
    (void)state;
    image f = make("{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2]", "24", "32") "," T(
                       "a", "BF16", "[3,4]", "0", "24") "," T("empty", "F32", "[0,7]", "24",
                                                              "24") "," T("scalar", "I64", "[]",
                                                                          "32", "40") "}",
                   40);
    scd_safetensors *file = NULL;
    scd_tensor t;
    scd_error err = {0};
    assert_int_equal(scd_safetensors_parse(f.bytes, f.n, "x", &file, &err), SCD_OK);
    assert_int_equal(scd_safetensors_count(file), 4);
    assert_int_equal(scd_safetensors_n_params(file), 15);
    assert_int_equal(scd_safetensors_get(file, "a", 3, 4, &t, NULL), SCD_OK);
    assert_true(t.rows == 3 && t.cols == 4 && t.dtype == SCD_BF16);
    assert_ptr_equal(t.data, f.bytes + f.n - 40);
    assert_int_equal(scd_safetensors_get(file, "b", 2, 0, &t, NULL), SCD_OK);
    assert_true(t.rows == 2 && t.cols == 1 && t.dtype == SCD_F32);
    assert_ptr_equal(t.data, f.bytes + f.n - 16);
    scd_safetensors_forget(file, &t); /* not a mapping: must leave the bytes alone */
    assert_int_equal(((const unsigned char *)t.data)[0], 24);
    assert_int_equal(scd_safetensors_get(file, "scalar", 1, 0, &t, &err), SCD_E_CORRUPT);
    scd_safetensors_close(file);
}

static void a_missing_or_misshapen_tensor_is_named_with_both_shapes(void **state)
{
    (void)state;
    image f =
        make("{" T("a", "F32", "[2,3]", "0", "24") "," T("v", "F32", "[2]", "24", "32") "," T(
                 "i", "I32", "[1,1]", "32", "36") "," T("m", "F16", "[2,1,1]", "36", "40") "}",
             40);
    scd_safetensors *file = NULL;
    scd_tensor t;
    scd_error err;
    assert_int_equal(scd_safetensors_parse(f.bytes, f.n, "w", &file, &err), SCD_OK);
    assert_int_equal(scd_safetensors_get(file, "zz", 2, 3, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "tensor zz of shape [2, 3] is missing");
    assert_int_equal(scd_safetensors_get(file, "a", 3, 2, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "tensor a must have shape [3, 2], has [2, 3]");
    assert_int_equal(scd_safetensors_get(file, "v", 2, 1, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "tensor v must have shape [2, 1], has [2]");
    assert_int_equal(scd_safetensors_get(file, "m", 2, 0, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "must have shape [2], has [2, 1, 1]");
    assert_int_equal(scd_safetensors_get(file, "i", 1, 1, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "tensor i is I32, must be F32, F16 or BF16");
    assert_null(t.data);
    scd_safetensors_close(file);
}

static void a_header_length_that_lies_is_refused(void **state)
{
    (void)state;
    image f = make("{}", 0);
    f.n = 7;
    assert_corrupt_image(&f, "too short");
    f.n = 0;
    assert_corrupt_image(&f, "too short");
    f = make("{}", 0);
    f.bytes[0] = 9;
    assert_corrupt_image(&f, "header of 9 bytes in a file of 16");
    memset(f.bytes, 0xff, 8);
    assert_corrupt_image(&f, "more than 100 MB");
    f = make("{}", 0);
    f.bytes[3] = 6; /* 100,663,304 bytes */
    assert_corrupt_image(&f, "more than 100 MB");
    f.bytes[3] = 5;
    assert_corrupt_image(&f, "truncated");
    memset(f.bytes, 0, 8);
    assert_corrupt_image(&f, "not a JSON object");
}

static void a_header_that_is_no_json_object_is_refused(void **state)
{
    (void)state;
    assert_corrupt("", 8, "not a JSON object");
    assert_corrupt("[]", 0, "not a JSON object");
    assert_corrupt("{", 0, "not a JSON object");
    assert_corrupt("{} x", 0, "not a JSON object");
    assert_corrupt("hello", 0, "not a JSON object");
    assert_corrupt("{\"a\":", 0, "not a JSON object");
    assert_corrupt("{\"a\":[]}", 0, "must have dtype");
    assert_corrupt("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "data_offsets, each once");
    assert_corrupt("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[]}}", 4, "each once");
    assert_corrupt("{\"__metadata__\":{\"a\":1}}", 0, "object of strings");
    assert_corrupt("{\"__metadata__\":3}", 0, "object of strings");
    assert_corrupt("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice");
}

static void nested_json_of_any_depth_is_refused_without_harm(void **state)
{
    (void)state;
    char header[3000];
    memset(header, '[', sizeof header);
    header[sizeof header - 1] = '\0';
    assert_corrupt(header, 0, "not a JSON object");
}

static void an_unknown_dtype_is_refused_by_name(void **state)
{
    (void)state;
    assert_corrupt("{" T("a", "F33", "[1]", "0", "4") "}", 4, "tensor a has the unknown dtype F33");
    assert_corrupt("{" T("a", "f32", "[1]", "0", "4") "}", 4, "unknown dtype f32");
    assert_corrupt("{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
                   "unknown dtype (not a string)");
}

static void shapes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    assert_corrupt("{" T("a", "F32", "[-1]", "0", "4") "}", 4, "shape of tensor a");
    assert_corrupt("{" T("a", "F32", "[1.5]", "0", "4") "}", 4, "shape of tensor a");
    assert_corrupt("{" T("a", "F32", "[\"1\"]", "0", "4") "}", 4, "shape of tensor a");
    assert_corrupt("{" T("a", "F32", "4", "0", "4") "}", 4, "shape of tensor a");
    assert_corrupt("{" T("a", "F32", "[1e300]", "0", "4") "}", 4, "shape of tensor a");
    assert_corrupt("{" T("a", "F32", "[4294967296,4294967296]", "0", "0") "}", 0, "fits 64 bits");
    assert_corrupt("{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "at most 8");
    /* 2^62 elements of 4 bytes are 0 bytes modulo 2^64 */
    assert_corrupt("{" T("a", "F32", "[2147483648,2147483648]", "0", "0") "}", 0,
                   "elements of F32");
}

static void ranges_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    assert_corrupt("{" T("a", "F32", "[2]", "0", "8") "}", 4, "truncated");
    assert_corrupt("{" T("a", "F32", "[2]", "8", "0") "}", 8, "bytes 8 to 0");
    assert_corrupt("{" T("a", "F32", "[2]", "0", "9007199254740993000") "}", 8, "whole numbers");
    assert_corrupt("{" T("a", "F32", "[2]", "-8", "0") "}", 8, "whole numbers");
    assert_corrupt("{" T("a", "F32", "[3]", "0", "8") "}", 8, "8 bytes of data, but 3 elements");
    assert_corrupt("{" T("a", "F16", "[2]", "0", "8") "}", 8, "but 2 elements of F16");
    assert_corrupt("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4,
                   "two whole");
    assert_corrupt("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "two");
}

static void overlaps_holes_and_leftover_bytes_are_refused(void **state)
{
    (void)state;
    assert_corrupt("{" T("a", "F32", "[2]", "0", "8") "," T("b", "F32", "[2]", "4", "12") "}", 12,
                   "tensor b starts at byte 4 of the data, must start at 8");
    assert_corrupt("{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "0", "4") "}", 4,
                   "must start at 4");
    assert_corrupt("{" T("b", "F32", "[1]", "8", "12") "," T("a", "F32", "[1]", "0", "4") "}", 12,
                   "tensor b starts at byte 8 of the data, must start at 4");
    assert_corrupt("{" T("a", "F32", "[1]", "4", "8") "}", 8, "must start at 0");
    assert_corrupt("{" T("a", "F32", "[1]", "0", "4") "}", 8, "8 bytes of data, but its tensors");
    assert_corrupt("{}", 8, "8 bytes of data, but its tensors have 0");
}

static void a_name_given_twice_is_refused(void **state)
{
    (void)state;
    assert_corrupt("{" T("a", "F32", "[1]", "0", "4") "," T("a", "F32", "[1]", "4", "8") "}", 8,
                   "tensor a is given twice");
    assert_corrupt("{" T("a", "F32", "[0]", "0", "0") "," T("\\u0061", "F32", "[0]", "0", "0") "}",
                   0, "tensor a is given twice");
}

static void data_off_its_alignment_cannot_be_got(void **state)
{
    (void)state;
    image f = make("{" T("h", "BF16", "[1]", "0", "2") "," T("a", "F32", "[1]", "2", "6") "}", 6);
    scd_safetensors *file = NULL;
    scd_tensor t;
    scd_error err;
    assert_int_equal(scd_safetensors_parse(f.bytes, f.n, "x", &file, &err), SCD_OK);
    assert_int_equal(scd_safetensors_get(file, "h", 1, 0, &t, &err), SCD_OK);
    assert_int_equal(scd_safetensors_get(file, "a", 1, 0, &t, &err), SCD_E_CORRUPT);
    assert_says(&err, "not aligned");
    scd_safetensors_close(file);
}

/* ---- the writer ------------------------------------------------------------------------------ */

static const scd_tensor_entry entries[] = {
    {"matrix", SCD_F32, 300, 401}, {"half", SCD_BF16, 3, 0}, {"column", SCD_F16, 5, 1},
    {"after", SCD_F32, 7, 0},      {"none", SCD_F16, 0, 4},
};
enum { N_ENTRIES = sizeof entries / sizeof entries[0] };

static float value_of(size_t entry, size_t i)
{
    return (float)((double)(i * 37 % 1009) / 64 - (double)entry);
}

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    ++*(size_t *)arg;
    for (size_t i = 0; i < n; i++)
        out[i] = value_of(entry, first + i);
}

static void temporary_path(char out[64])
{
    strcpy(out, "/tmp/scdiva-test-XXXXXX");
    assert_non_null(mkdtemp(out));
    strcat(out, "/t.safetensors");
}

static void remove_path(char *path)
{
    unlink(path);
    *strrchr(path, '/') = '\0';
    assert_int_equal(rmdir(path), 0); /* nothing but the file was left there */
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    char path[64];
    size_t calls = 0;
    scd_safetensors *file = NULL;
    scd_tensor t;
    scd_error err = {0};
    temporary_path(path);
    assert_int_equal(scd_safetensors_write(path, entries, N_ENTRIES, fill, &calls, &err), SCD_OK);
    assert_true(calls > N_ENTRIES - 1); /* the matrix came in more than one chunk */
    assert_int_equal(scd_safetensors_open(path, &file, &err), SCD_OK);
    assert_int_equal(scd_safetensors_count(file), N_ENTRIES);
    assert_int_equal(scd_safetensors_n_params(file), 300 * 401 + 3 + 5 + 7);
    static float got[300 * 401];
    for (size_t e = 0; e < N_ENTRIES; e++) {
        size_t n = entries[e].rows * (entries[e].cols ? entries[e].cols : 1);
        assert_int_equal(
            scd_safetensors_get(file, entries[e].name, entries[e].rows, entries[e].cols, &t, &err),
            SCD_OK);
        assert_int_equal(t.dtype, entries[e].dtype);
        for (int again = 0; again < 2; again++) {
            scd_tensor_to_f32(&t, 0, n, got);
            for (size_t i = 0; i < n; i++) {
                float v = value_of(e, i);
                float want = t.dtype == SCD_F32    ? v
                             : t.dtype == SCD_BF16 ? scd_f32_of_bf16(scd_bf16_of_f32(v))
                                                   : scd_f32_of_f16(scd_f16_of_f32(v));
                assert_true(got[i] == want);
            }
            scd_safetensors_forget(file, &t); /* forgotten pages come back from the file */
        }
    }
    scd_safetensors_close(file);
    remove_path(path);
}

static void to_f32_starts_where_it_is_told(void **state)
{
    (void)state;
    const uint16_t halves[] = {0x3c00, 0x4000, 0x4200};
    const scd_tensor t = {halves, SCD_F16, 3, 1};
    float out[2];
    scd_tensor_to_f32(&t, 1, 2, out);
    assert_true(out[0] == 2 && out[1] == 3);
}

static void what_cannot_be_written_leaves_nothing_behind(void **state)
{
    (void)state;
    char path[64];
    size_t calls = 0;
    scd_error err;
    const scd_tensor_entry quote = {"a\"b", SCD_F32, 1, 0}, huge = {"h", SCD_F32, SIZE_MAX, 2};
    temporary_path(path);
    assert_int_equal(scd_safetensors_write(path, &quote, 1, fill, &calls, &err), SCD_E_INVALID);
    assert_says(&err, "escapes");
    assert_int_equal(scd_safetensors_write(path, &huge, 1, fill, &calls, &err), SCD_E_INVALID);
    assert_says(&err, "too large");
    assert_int_equal(scd_safetensors_write("/nowhere/x", entries, 1, fill, &calls, &err), SCD_E_IO);
    assert_says(&err, "/nowhere/x");
    assert_int_not_equal(access(path, F_OK), 0);
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code && n < 100; n++) {
        scd_mem_fail_after(n);
        code = scd_safetensors_write(path, entries, N_ENTRIES, fill, &calls, NULL);
        scd_mem_fail_after(-1);
    }
    assert_int_equal(code, SCD_OK);
    remove_path(path);
}

static void a_path_that_is_no_file_is_an_io_error_with_its_name(void **state)
{
    (void)state;
    scd_safetensors *file;
    scd_error err;
    assert_int_equal(scd_safetensors_open("/nowhere/m.safetensors", &file, &err), SCD_E_IO);
    assert_says(&err, "/nowhere/m.safetensors: cannot open");
    assert_int_equal(scd_safetensors_open("/tmp", &file, &err), SCD_E_IO);
    assert_says(&err, "not a regular file");
    assert_null(file);
}

static void a_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    image f = make("{" T("a", "F32", "[1]", "0", "4") "}", 4);
    scd_safetensors *file = NULL;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code && n < 20; n++) {
        scd_mem_fail_after(n);
        code = scd_safetensors_parse(f.bytes, f.n, "x", &file, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    assert_int_equal(code, SCD_OK);
    scd_safetensors_close(file);
}

/* ---- half-width types ------------------------------------------------------------------------ */

/* The value of a half by its definition: sign, exponent, fraction. */
static double f16_by_definition(unsigned half)
{
    int exponent = (int)(half >> 10 & 31), fraction = (int)(half & 1023);
    double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -value : value;
}

static void every_half_becomes_its_float_and_comes_back(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 0x10000; half++) {
        float f16 = scd_f32_of_f16((uint16_t)half), bf16 = scd_f32_of_bf16((uint16_t)half);
        if ((half & 0x7c00) != 0x7c00)
            assert_true(f16 == f16_by_definition(half));
        if (isnan(f16))
            assert_true(isnan(scd_f32_of_f16(scd_f16_of_f32(f16))));
        else
            assert_int_equal(scd_f16_of_f32(f16), half);
        if (isnan(bf16))
            assert_true(isnan(scd_f32_of_bf16(scd_bf16_of_f32(bf16))));
        else
            assert_int_equal(scd_bf16_of_f32(bf16), half);
    }
}

static void floats_between_two_halves_go_to_the_nearer_or_the_even(void **state)
{
    (void)state;
    for (unsigned half = 0; half < 0x7bff; half++) {
        float low = scd_f32_of_f16((uint16_t)half), high = scd_f32_of_f16((uint16_t)(half + 1));
        float middle = (low + high) / 2;
        unsigned even = half & 1 ? half + 1 : half;
        assert_int_equal(scd_f16_of_f32(middle), even);
        assert_int_equal(scd_f16_of_f32(nextafterf(middle, 0)), half);
        assert_int_equal(scd_f16_of_f32(nextafterf(middle, INFINITY)), half + 1);
        assert_int_equal(scd_f16_of_f32(-middle), even | 0x8000);
    }
    assert_int_equal(scd_f16_of_f32(65519), 0x7bff);
    assert_int_equal(scd_f16_of_f32(65520), 0x7c00);
    assert_int_equal(scd_bf16_of_f32(1 + 0x1p-8f), 0x3f80);
    assert_int_equal(scd_bf16_of_f32(1 + 0x1p-8f + 0x1p-23f), 0x3f81);
    assert_int_equal(scd_bf16_of_f32(1 + 0x3p-8f), 0x3f82);
    assert_int_equal(scd_bf16_of_f32(3.4e38f), 0x7f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_gives_its_tensors),
        cmocka_unit_test(a_missing_or_misshapen_tensor_is_named_with_both_shapes),
        cmocka_unit_test(a_header_length_that_lies_is_refused),
        cmocka_unit_test(a_header_that_is_no_json_object_is_refused),
        cmocka_unit_test(nested_json_of_any_depth_is_refused_without_harm),
        cmocka_unit_test(an_unknown_dtype_is_refused_by_name),
        cmocka_unit_test(shapes_that_cannot_be_are_refused),
        cmocka_unit_test(ranges_that_do_not_fit_are_refused),
        cmocka_unit_test(overlaps_holes_and_leftover_bytes_are_refused),
        cmocka_unit_test(a_name_given_twice_is_refused),
        cmocka_unit_test(data_off_its_alignment_cannot_be_got),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(to_f32_starts_where_it_is_told),
        cmocka_unit_test(what_cannot_be_written_leaves_nothing_behind),
        cmocka_unit_test(a_path_that_is_no_file_is_an_io_error_with_its_name),
        cmocka_unit_test(a_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(every_half_becomes_its_float_and_comes_back),
        cmocka_unit_test(floats_between_two_halves_go_to_the_nearer_or_the_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
