/* test_json_scan.c - the scanner takes exactly RFC 8259 within its bounds, and reads numbers as
 * strtod does, bit for bit. */
#include "api/float_text.h"
#include "api/json_scan.h"
#include "engine/base/rng.h"

#include <float.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { DEPTH = 8 };

/* The text lives in a heap block of exactly its size, so that ASan sees a read behind it. */
static bool accepts(const char *text, size_t n, char *message, size_t cap)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    scd_scan scan;
    scd_scan_init(&scan, copy, n, DEPTH);
    bool ok = scd_scan_skip(&scan, NULL) && scd_scan_end(&scan);
    if (!ok && message)
        scd_scan_describe(&scan, message, cap);
    free(copy);
    return ok;
}

static void assert_refused(const char *text, const char *expected)
{
    char message[256];
    if (accepts(text, strlen(text), message, sizeof message))
        fail_msg("%s was accepted", text);
    if (!strstr(message, expected))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, message, expected);
}

static void every_kind_of_value_is_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        "0",
        "-0",
        "1.5",
        "1e5",
        "1E+5",
        "-1.25e-3",
        "123456789012345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        " [ ] ",
        "{ }",
        "[1,2]",
        "[[],[{}]]",
        "{\"a\":1,\"b\":[true,null]}",
        "\t\r\n [1 , 2 ]\n",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\\uD83D\\uDE00\"",
        "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"",
        "\"\x7F\"",
        "1e-999",

        "\"\\u0000\"",
        "[[[[[[[[]]]]]]]]",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!accepts(good[i], strlen(good[i]), NULL, 0))
            fail_msg("%s was refused", good[i]);
}

static void everything_else_is_refused_and_says_what_was_expected(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "expected a value"},
        {"  ", "found the end of the body"},
        {"[1,]", "no trailing comma"},
        {"{\"a\":1,}", "no trailing comma"},
        {"[,1]", "expected a value"},
        {"[1 2]", "',' or ']'"},
        {"{\"a\" 1}", "':'"},
        {"{\"a\":1 \"b\":2}", "',' or '}'"},
        {"{a:1}", "a name in double quotes"},
        {"{'a':1}", "a name in double quotes"},
        {"{1:1}", "a name in double quotes"},
        {"[1", "found the end of the body"},
        {"[1}", "',' or ']'"},
        {"{\"a\":1]", "',' or '}'"},
        {"01", "leading zeros"},
        {"-01", "leading zeros"},
        {"1.", "digit after '.'"},
        {".5", "expected a value"},
        {"+1", "expected a value"},
        {"1e", "digit in the exponent"},
        {"1e+", "digit in the exponent"},
        {"-", "a number"},
        {"NaN", "no NaN"},
        {"nan", "expected a value"},
        {"Infinity", "no Infinity"},
        {"-Infinity", "no Infinity"},
        {"0x10", "nothing after the end"},
        {"1 2", "nothing after the end"},
        {"{} x", "nothing after the end"},
        {"[1]//", "nothing after the end"},
        {"/* c */ 1", "no comments"},
        {"[1, // c\n 2]", "no comments"},
        {"True", "expected a value"},
        {"tru", "expected a value"},
        {"nul", "expected a value"},
        {"truex", "nothing after the end"},
        {"\"a", "'\"' at the end of a string"},
        {"\"a\nb\"", "control characters"},
        {"\"\x01\"", "found byte 0x01"},
        {"\"\\x\"", "after '\\'"},
        {"\"\\u12g4\"", "four hex digits"},
        {"\"\\u12", "four hex digits"},
        {"\"\\", "the rest of an escape"},
        {"\"\\uD800\"", "pair of surrogates"},
        {"\"\\uD800\\u0041\"", "pair of surrogates"},
        {"\"\\uDC00\"", "pair of surrogates"},
        {"[[[[[[[[[]]]]]]]]]", "deeper than the limit"},
        {"{\"a\":[[[[[[[[]]]]]]]]}", "deeper than the limit"},
        {"\xEF\xBB\xBF{}", "byte order mark"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_refused(bad[i][0], bad[i][1]);
}

static void invalid_utf8_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80",
        "\xC0\x80",
        "\xC1\xBF",
        "\xC3",
        "\xE0\x80\x80",
        "\xE0\x9F\xBF",
        "\xED\xA0\x80",
        "\xED\xBF\xBF",
        "\xE2\x82",
        "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xFF",
        "\xE2\x28\xA1",
        "\xF0\x9F\x98",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[32];
        snprintf(text, sizeof text, "[\"ab%scd\"]", bad[i]);
        assert_refused(text, "valid UTF-8");
        snprintf(text, sizeof text, "\"%s", bad[i]); /* cut off: not read past its end */
        assert_false(accepts(text, strlen(text), NULL, 0));
    }
}

static void errors_name_line_and_column_in_characters(void **state)
{
    (void)state;
    assert_refused("{\n  \"a\": 1,\n  \"b\": x\n}", "line 3, column 8: ");
    assert_refused("[\"\xC3\xA9\xC3\xA9\", x]", "line 1, column 8: ");
    assert_refused("x", "line 1, column 1: expected a value");
}

static void a_number_of_a_thousand_digits_is_read_and_a_longer_one_refused(void **state)
{
    (void)state;
    char text[1400];
    memset(text, '1', sizeof text);
    text[1] = '.';
    assert_true(accepts(text, 1024, NULL, 0));
    char message[256];
    assert_false(accepts(text, 1025, message, sizeof message));
    assert_non_null(strstr(message, "at most 1024 characters"));
}

static double read_number(const char *text)
{
    scd_scan scan;
    double value = 0;
    scd_scan_init(&scan, text, strlen(text), DEPTH);
    if (!scd_scan_number(&scan, &value) || !scd_scan_end(&scan))
        fail_msg("%s was refused", text);
    return value;
}

/* The reader rounds in 80-bit arithmetic (float_text.c), which valgrind carries out with 64 bits.
 */
static void needs_long_double(void)
{
    volatile long double one = 1, epsilon = LDBL_EPSILON;
    if (one + epsilon == one) {
        print_message("skipped: long double has not its 64 bits here (valgrind)\n");
        skip();
    }
}

static void assert_like_strtod(const char *text)
{
    double got = read_number(text), wanted = strtod(text, NULL);
    if (memcmp(&got, &wanted, sizeof got) != 0)
        fail_msg("%s: %.17g, strtod says %.17g", text, got, wanted);
}

static uint64_t random_word(uint64_t i)
{
    uint32_t words[4];
    scd_rng_block(7, 1, i, words);
    return (uint64_t)words[0] << 32 | words[1];
}

static void numbers_are_rounded_exactly_as_strtod_does(void **state)
{
    (void)state;
    needs_long_double();
    static const char *const hard[] = {
        "0",
        "-0",
        "-0.0",
        "0e5",
        "1e22",
        "1e23",
        "9007199254740993",
        "9007199254740992.5",
        "9007199254740993.00000000000000000000000001",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "4.9406564584124654e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "0.500000000000000166533453693773481063544750213623046875",
        "3.518437208883201171875e13",
        "62.5364939768271845828",
        "8.10109172351e-10",
        "1.50000000000000011102230246251565",
        "6929495644600919.5",
        "18446744073709551615",
        "9999999999999999999",
        "0.00000000000000000000000000000000000001",
        "123456789e-30",
        "1090544144181609348671888949248",
        "1090544144181609348835077142190",
    };
    for (size_t i = 0; i < sizeof hard / sizeof hard[0]; i++)
        assert_like_strtod(hard[i]);
    char text[64];
    for (uint64_t i = 0; i < 200000; i++) {
        uint64_t word = random_word(i);
        double any;
        memcpy(&any, &word, sizeof any);
        if ((word >> 52 & 0x7FF) != 0x7FF) {
            snprintf(text, sizeof text, "%.17g", any);
            assert_like_strtod(text);
        }
        snprintf(text, sizeof text, "%llu.%llue%d", (unsigned long long)(word >> 50),
                 (unsigned long long)(random_word(i << 20) >> (word & 31)), (int)(word % 61) - 30);
        assert_like_strtod(text);
    }
}

static void whole_numbers_in_the_middle_of_two_doubles_go_to_the_even_one(void **state)
{
    (void)state;
    needs_long_double();
    char text[64];
    for (uint64_t i = 0; i < 100000; i++) { /* from 2^63 to 10^19: doubles are 2048 apart */
        uint64_t w = (UINT64_C(1) << 63) + random_word(i) % UINT64_C(776627963145224191);
        w = (w & ~UINT64_C(0x7FF)) + 0x3FF + i % 3; /* just below, in, and just above the middle */
        snprintf(text, sizeof text, "%llu", (unsigned long long)w);
        assert_like_strtod(text);
    }
}

static void float32_values_printed_as_doubles_come_back_exactly(void **state)
{
    (void)state;
    char text[64];
    for (uint64_t i = 0; i < 100000; i++) {
        float value = scd_rng_uniform(3, 1, i) * 9.2f;
        snprintf(text, sizeof text, "%.17g", (double)value);
        assert_true((float)read_number(text) == value);
    }
}

static void the_locale_of_the_process_does_not_matter(void **state)
{
    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
        skip();
    double value = read_number("12345678901234567890123.25");
    char text[SCD_DOUBLE_TEXT_BYTES];
    scd_double_text(1.5, text);
    setlocale(LC_NUMERIC, "C");
    assert_true(value == 12345678901234567890123.25);
    assert_string_equal(text, "1.5");
}

static void strings_without_escapes_point_into_the_body(void **state)
{
    (void)state;
    static const char body[] = "[\"CD3D\",\"a\\u00e9\\n\\uD83D\\uDE00b\"]";
    scd_arena arena;
    scd_arena_init(&arena, 1 << 16);
    scd_scan scan;
    scd_scan_vec names = {.max = 10};
    scd_scan_array array;
    scd_scan_init(&scan, body, strlen(body), DEPTH);
    assert_true(scd_scan_names(&scan, &arena, 100, &names, &array));
    assert_int_equal(array.n, 2);
    const scd_text *texts = names.data;
    assert_ptr_equal(texts[0].data, body + 2);
    assert_true(scd_text_is(texts[0], "CD3D"));
    assert_true(scd_text_is(texts[1], "a\xC3\xA9\n\xF0\x9F\x98\x80"
                                      "b"));
    scd_scan_vec_release(&names);
    scd_arena_release(&arena);
}

static void arrays_report_the_first_element_of_another_type_and_read_on(void **state)
{
    (void)state;
    static const char body[] = "[1, 2, \"x\", [3, {}], 5]";
    scd_scan scan;
    scd_scan_vec numbers = {.max = 4};
    scd_scan_array array;
    scd_scan_init(&scan, body, strlen(body), DEPTH);
    assert_true(scd_scan_numbers(&scan, &numbers, &array));
    assert_true(scd_scan_end(&scan));
    assert_int_equal(array.n, 5);
    assert_int_equal(array.bad, 2);
    assert_int_equal(array.bad_type, SCD_SCAN_STRING);
    assert_true(((double *)numbers.data)[1] == 2);
    scd_scan_vec_release(&numbers);
}

/* A number as programs write them, and now and then as they do not. */
static int write_number(char *out, size_t cap, uint64_t i)
{
    uint64_t word = random_word(i);
    double any = (double)(int64_t)word / (double)(UINT64_C(1) << (word & 63));
    switch (word >> 8 & 7) {
    case 0:
    case 1:
        return snprintf(out, cap, "%d", (int)(word % 2000) - 1000);
    case 2:
        return snprintf(out, cap, "%.*f", (int)(word % 20) + 1, any / 1e15);
    case 3:
        return snprintf(out, cap, "%.17g", any);
    case 4:
        return snprintf(out, cap, "-0.%llu", (unsigned long long)word);
    case 5:
        return snprintf(out, cap, "%llu", (unsigned long long)word);
    case 6:
        return snprintf(out, cap, "%.17g", any * 1e-290);
    default:
        return snprintf(out, cap, "%g", any);
    }
}

static void arrays_of_numbers_are_what_strtod_reads_from_the_same_text(void **state)
{
    (void)state;
    needs_long_double();
    enum { N = 3000 };
    static const char *const separators[] = {",", ", ", " ,\n ", ",\t"};
    char *body = malloc(N * 64);
    double *wanted = malloc(N * sizeof *wanted);
    for (uint64_t round = 0; round < 20; round++) {
        size_t n = 0;
        body[n++] = '[';
        for (uint64_t i = 0; i < N; i++) {
            uint64_t k = round * N + i;
            if (i)
                n += (size_t)sprintf(body + n, "%s", separators[random_word(k) >> 20 & 3 & round]);
            int length = write_number(body + n, 64, k);
            wanted[i] = strtod(body + n, NULL);
            n += (size_t)length;
        }
        body[n++] = ']';
        scd_scan scan;
        scd_scan_vec numbers = {.max = N};
        scd_scan_array array;
        scd_scan_init(&scan, body, n, DEPTH);
        assert_true(scd_scan_numbers(&scan, &numbers, &array) && scd_scan_end(&scan));
        assert_int_equal(array.n, N);
        assert_int_equal(array.bad, SIZE_MAX);
        assert_memory_equal(numbers.data, wanted, N * sizeof *wanted);
        scd_scan_vec_release(&numbers);
    }
    free(wanted);
    free(body);
}

static void arrays_of_names_are_read_whatever_their_length_and_spelling(void **state)
{
    (void)state;
    static const char body[] =
        "[\"A\",\"BRCA1\", \"a name of more than 16 bytes\",\"sixteen bytes ..\",\"fifteen bytes "
        ".\","
        "\"\",\"\\u0041\",\"\xC3\xA9\" , \"too long a name: more than 32 bytes it has\",\"last\"]";
    static const char *const wanted[] = {"A",
                                         "BRCA1",
                                         "a name of more than 16 bytes",
                                         "sixteen bytes ..",
                                         "fifteen bytes .",
                                         "",
                                         "A",
                                         "\xC3\xA9",
                                         "too long a name: more than 32 bytes it has",
                                         "last"};
    scd_arena arena;
    scd_arena_init(&arena, 1 << 16);
    for (size_t max = 0; max <= 11; max++) { /* also where there is no room for all */
        scd_scan scan;
        scd_scan_vec names = {.max = max};
        scd_scan_array array;
        scd_scan_init(&scan, body, strlen(body), DEPTH);
        assert_true(scd_scan_names(&scan, &arena, 32, &names, &array) && scd_scan_end(&scan));
        assert_int_equal(array.n, 10);
        assert_int_equal(array.bad, 8);
        const scd_text *texts = names.data;
        for (size_t i = 0; i < 10 && i < max; i++)
            assert_true(scd_text_is(texts[i], wanted[i]));
        scd_scan_vec_release(&names);
    }
    scd_arena_release(&arena);
}

static void long_arrays_refuse_what_short_ones_refuse(void **state)
{
    (void)state;
    static const char *const bad[] = {"01",  "1.",  ".5",   "-",   "1.2.3", "1e",       "+1",
                                      "0x1", "1 1", "--1",  "NaN", "1,,1",  "-.5",      "1_0",
                                      "00",  "-01", "1.e5", "",    "\"a",   "\"\x01\"", "\"\xFF\""};
    char text[400];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        strcpy(text, "[");
        for (int k = 0; k < 30; k++)
            strcat(text, "7,");
        strcat(text, bad[i]);
        for (int k = 0; k < 30; k++)
            strcat(text, ",7");
        strcat(text, "]");
        scd_scan scan;
        scd_scan_vec numbers = {.max = 1000};
        scd_scan_array array;
        scd_scan_init(&scan, text, strlen(text), DEPTH);
        if (scd_scan_numbers(&scan, &numbers, &array))
            fail_msg("%s was accepted", bad[i]);
        assert_true(scan.error_at - text >= 61); /* everything before it is fine */
        scd_scan_vec_release(&numbers);
    }
}

static void numbers_past_the_range_of_a_double_are_reported_as_infinite(void **state)
{
    (void)state;
    static const char body[] = "[1, -1e999, 2]";
    scd_scan scan;
    scd_scan_vec numbers = {.max = 4};
    scd_scan_array array;
    scd_scan_init(&scan, body, strlen(body), DEPTH);
    assert_true(scd_scan_numbers(&scan, &numbers, &array) && scd_scan_end(&scan));
    assert_true(scan.met_infinity && !scan.met_nul);
    assert_int_equal(array.n, 3);
    assert_int_equal(array.bad, 1);
    assert_int_equal(array.bad_type, SCD_SCAN_NUMBER);
    scd_scan_vec_release(&numbers);
}

static void a_valid_body_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static const char body[] = "{\"a\": [1.5e-3, -2, 0], \"b\\n\": {\"\xC3\xA9\": "
                               "\"\\uD83D\\uDE00\"}, \"c\": [true,false,null]}";
    assert_true(accepts(body, strlen(body), NULL, 0));
    for (size_t n = 0; n < strlen(body); n++)
        if (accepts(body, n, NULL, 0))
            fail_msg("accepted after %zu bytes", n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_is_accepted),
        cmocka_unit_test(everything_else_is_refused_and_says_what_was_expected),
        cmocka_unit_test(invalid_utf8_is_refused),
        cmocka_unit_test(errors_name_line_and_column_in_characters),
        cmocka_unit_test(a_number_of_a_thousand_digits_is_read_and_a_longer_one_refused),
        cmocka_unit_test(numbers_are_rounded_exactly_as_strtod_does),
        cmocka_unit_test(whole_numbers_in_the_middle_of_two_doubles_go_to_the_even_one),
        cmocka_unit_test(float32_values_printed_as_doubles_come_back_exactly),
        cmocka_unit_test(the_locale_of_the_process_does_not_matter),
        cmocka_unit_test(strings_without_escapes_point_into_the_body),
        cmocka_unit_test(arrays_report_the_first_element_of_another_type_and_read_on),
        cmocka_unit_test(arrays_of_numbers_are_what_strtod_reads_from_the_same_text),
        cmocka_unit_test(arrays_of_names_are_read_whatever_their_length_and_spelling),
        cmocka_unit_test(long_arrays_refuse_what_short_ones_refuse),
        cmocka_unit_test(numbers_past_the_range_of_a_double_are_reported_as_infinite),
        cmocka_unit_test(a_valid_body_cut_anywhere_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
