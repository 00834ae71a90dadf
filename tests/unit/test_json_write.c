/* test_json_write.c - what is written reads back to the same bits, and no shorter text would. */
#include "api/json_write.h"
#include "engine/base/rng.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Significant digits of a decimal number, without zeros at either end. */
static size_t n_digits(const char *text)
{
    size_t n = 0, last = 0;
    for (; *text && *text != 'e'; text++)
        if (*text >= '0' && *text <= '9' && (n > 0 || *text != '0')) {
            n++;
            last = *text != '0' ? n : last;
        }
    return last;
}

static void check_float(float value)
{
    char text[SCD_FLOAT_TEXT_BYTES + 1], other[32];
    size_t n = scd_float_text(value, text);
    assert_true(n < sizeof text);
    text[n] = '\0';
    float back = strtof(text, NULL);
    float by_double = (float)strtod(text, NULL); /* what a client without float32 does */
    if (memcmp(&back, &value, sizeof back) != 0 || memcmp(&by_double, &value, sizeof back) != 0)
        fail_msg("%.9g became %s", (double)value, text);
    size_t digits = n_digits(text);
    if (digits > 1) { /* printf rounds correctly: with one digit less nothing can come back */
        snprintf(other, sizeof other, "%.*e", (int)digits - 2, (double)value);
        if (strtof(other, NULL) == value)
            fail_msg("%s is longer than %s", text, other);
    }
}

static void random_floats_come_back_and_are_shortest(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200000; i++) {
        uint32_t words[4];
        scd_rng_block(5, 1, i, words);
        if ((words[0] >> 23 & 0xFF) != 0xFF)
            check_float(float_of(words[0]));
        check_float(float_of(words[1] & 0x807FFFFF)); /* subnormal */
        check_float(scd_rng_normal(5, 2, i));         /* as embeddings are */
    }
}

static void floats_at_every_edge_come_back_and_are_shortest(void **state)
{
    (void)state;
    for (uint32_t exponent = 0; exponent < 0xFF; exponent++)
        for (uint32_t step = 0; step < 3; step++) { /* powers of two and their neighbours */
            check_float(float_of((exponent << 23) + step));
            check_float(float_of((exponent << 23) + 0x7FFFFF - step));
        }
    for (int e = -45; e <= 38; e++) {
        char text[16];
        snprintf(text, sizeof text, "1e%d", e);
        uint32_t bits;
        float value = strtof(text, NULL);
        memcpy(&bits, &value, sizeof bits);
        check_float(value);
        check_float(float_of(bits + 1));
        check_float(float_of(bits - 1));
    }
    for (uint32_t i = 0; i < 100000; i++)
        check_float((float)i);
}

static void assert_float(float value, const char *wanted)
{
    scd_buf out;
    scd_buf_init(&out, 100);
    scd_json_float(&out, value);
    assert_string_equal(out.data, wanted);
    scd_buf_release(&out);
}

static void floats_look_as_people_expect(void **state)
{
    (void)state;
    assert_float(0, "0");
    assert_float(-0.0f, "-0.0");
    assert_float(1, "1");
    assert_float(-1.5f, "-1.5");
    assert_float(0.1f, "0.1");
    assert_float(100, "100");
    assert_float(0.0001f, "0.0001");
    assert_float(0.00001f, "1e-5");
    assert_float(16777216, "16777216");
    assert_float(5e8f, "500000000");
    assert_float(1e9f, "1e9");
    assert_float(3.4028235e38f, "3.4028235e38");
    assert_float(1.17549435e-38f, "1.1754944e-38");
    assert_float(1.4e-45f, "1e-45");
    assert_float(-0.00012345679f, "-0.00012345679");
    assert_float(NAN, "null");
    assert_float(-INFINITY, "null");
}

static void doubles_come_back_and_are_short(void **state)
{
    (void)state;
    static const double values[] = {0,     -0.0,   1,       0.1,      1.0 / 3, 1e22,   1e23,
                                    1e300, 5e-324, 123.456, 1048576., 0.3,     -2.5e-7};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        scd_buf out;
        scd_buf_init(&out, 100);
        scd_json_double(&out, values[i]);
        double back = strtod(out.data, NULL);
        assert_memory_equal(&back, &values[i], sizeof back);
        scd_buf_release(&out);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t words[4];
        scd_rng_block(6, 1, i, words);
        double value;
        memcpy(&value, words, sizeof value);
        char text[SCD_DOUBLE_TEXT_BYTES];
        if (isfinite(value)) {
            size_t n = scd_double_text(value, text);
            assert_int_equal(n, strlen(text));
            assert_true(strtod(text, NULL) == value);
        }
    }
    char text[SCD_DOUBLE_TEXT_BYTES];
    scd_double_text(0.1, text);
    assert_string_equal(text, "0.1");
}

static void arrays_of_floats_are_json_of_any_length(void **state)
{
    (void)state;
    enum { MAX = 600 };
    float values[MAX];
    for (size_t i = 0; i < MAX; i++)
        values[i] = scd_rng_normal(1, 1, i);
    static const size_t lengths[] = {0, 1, 2, 255, 256, 257, 512, 600};
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        scd_buf out;
        scd_buf_init(&out, 1 << 16);
        scd_json_floats(&out, values, lengths[k]);
        cJSON *json = cJSON_Parse(out.data);
        assert_int_equal(cJSON_GetArraySize(json), lengths[k]);
        size_t i = 0;
        for (const cJSON *item = json->child; item; item = item->next, i++)
            assert_true((float)item->valuedouble == values[i]);
        cJSON_Delete(json);
        scd_buf_release(&out);
    }
}

static void assert_string(const char *text, size_t n, const char *wanted)
{
    scd_buf out;
    scd_buf_init(&out, 1000);
    scd_json_string(&out, text, n);
    assert_string_equal(out.data, wanted);
    scd_buf_release(&out);
}

static void strings_are_escaped_and_bad_bytes_replaced(void **state)
{
    (void)state;
    assert_string("", 0, "\"\"");
    assert_string("CD3D", 4, "\"CD3D\"");
    assert_string("a\"b\\c/d", 7, "\"a\\\"b\\\\c/d\"");
    assert_string("\b\f\n\r\t\x01\x1f\0x", 9, "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u0000x\"");
    assert_string("\xC3\xA9\xF0\x9F\x98\x80", 6, "\"\xC3\xA9\xF0\x9F\x98\x80\"");
    assert_string("a\xC3", 2, "\"a\xEF\xBF\xBD\"");
    assert_string("\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
    assert_string("\xC0\x80z", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBDz\"");
}

static void unsigned_numbers_are_written_whole(void **state)
{
    (void)state;
    static const uint64_t values[] = {0, 7, 10, 4294967296, UINT64_MAX};
    for (size_t i = 0; i < 5; i++) {
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)values[i]);
        scd_buf out;
        scd_buf_init(&out, 100);
        scd_json_uint(&out, values[i]);
        assert_string_equal(out.data, wanted);
        scd_buf_release(&out);
    }
}

static void base64_has_the_test_vectors_of_rfc_4648(void **state)
{
    (void)state;
    static const char *const vectors[][2] = {{"", ""},
                                             {"f", "Zg=="},
                                             {"fo", "Zm8="},
                                             {"foo", "Zm9v"},
                                             {"foob", "Zm9vYg=="},
                                             {"fooba", "Zm9vYmE="},
                                             {"foobar", "Zm9vYmFy"},
                                             {"\xFB\xEF\xFF", "++//"}};
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        scd_buf out;
        scd_buf_init(&out, 100);
        scd_base64(&out, vectors[i][0], strlen(vectors[i][0]));
        assert_string_equal(out.data, vectors[i][1]);
        scd_buf_release(&out);
    }
}

static void a_full_buffer_fails_and_does_no_harm(void **state)
{
    (void)state;
    float values[300] = {0};
    for (size_t max_bytes = 0; max_bytes < 40; max_bytes++) {
        scd_buf out;
        scd_buf_init(&out, max_bytes);
        scd_json_floats(&out, values, 300);
        scd_json_text(&out, "text");
        scd_base64(&out, values, sizeof values);
        assert_true(out.failed && out.n_bytes <= max_bytes);
        scd_buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_floats_come_back_and_are_shortest),
        cmocka_unit_test(floats_at_every_edge_come_back_and_are_shortest),
        cmocka_unit_test(floats_look_as_people_expect),
        cmocka_unit_test(doubles_come_back_and_are_short),
        cmocka_unit_test(arrays_of_floats_are_json_of_any_length),
        cmocka_unit_test(strings_are_escaped_and_bad_bytes_replaced),
        cmocka_unit_test(unsigned_numbers_are_written_whole),
        cmocka_unit_test(base64_has_the_test_vectors_of_rfc_4648),
        cmocka_unit_test(a_full_buffer_fails_and_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
