/* test_problem.c - problem documents: statuses, bounds, and text that is always valid. */
#include "api/problem.h"
#include "api/text.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static cJSON *written(const scd_problem *problem, const char *instance)
{
    scd_buf out;
    scd_buf_init(&out, 1 << 16);
    scd_problem_write(problem, instance, &out);
    assert_false(out.failed);
    cJSON *json = cJSON_Parse(out.data);
    assert_non_null(json);
    scd_buf_release(&out);
    return json;
}

static const char *text_of(const cJSON *json, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
    assert_non_null(text);
    return text;
}

static void every_kind_has_a_status_a_name_and_a_title(void **state)
{
    (void)state;
    for (scd_problem_kind kind = SCD_PROBLEM_MALFORMED_JSON; kind < SCD_N_PROBLEMS; kind++) {
        assert_in_range(scd_problem_status(kind), 400, 507);
        assert_true(scd_problem_title(kind)[0] != '\0');
        for (scd_problem_kind other = SCD_PROBLEM_NONE; other < kind; other++)
            assert_string_not_equal(scd_problem_name(kind), scd_problem_name(other));
    }
}

static void every_error_code_has_its_kind(void **state)
{
    (void)state;
    static const int statuses[][2] = {
        {SCD_E_INVALID, 422}, {SCD_E_TOO_LARGE, 413}, {SCD_E_BUSY, 429},    {SCD_E_NOT_FOUND, 404},
        {SCD_E_TIMEOUT, 504}, {SCD_E_CANCELED, 503},  {SCD_E_NOMEM, 503},   {SCD_E_IO, 500},
        {SCD_E_CORRUPT, 500}, {SCD_E_DEVICE, 500},    {SCD_E_INTERNAL, 500}};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++)
        assert_int_equal(scd_problem_status(scd_problem_of_code((scd_code)statuses[i][0])),
                         statuses[i][1]);
}

static void the_document_has_the_members_of_rfc_9457(void **state)
{
    (void)state;
    scd_problem problem;
    scd_problem_set(&problem, SCD_PROBLEM_INVALID, "two things are wrong with \"%s\"", "it");
    scd_problem_add(&problem, "/cells/3/values", "%d values for %d genes", 3, 2);
    scd_problem_add(&problem, "", "no cells");
    cJSON *json = written(&problem, "request-7");
    assert_string_equal(text_of(json, "type"), "urn:scdiva:problem:invalid");
    assert_string_equal(text_of(json, "title"), "The request's content is invalid");
    assert_int_equal(cJSON_GetObjectItem(json, "status")->valueint, 422);
    assert_string_equal(text_of(json, "detail"), "two things are wrong with \"it\"");
    assert_string_equal(text_of(json, "instance"), "request-7");
    const cJSON *errors = cJSON_GetObjectItem(json, "errors");
    assert_int_equal(cJSON_GetArraySize(errors), 2);
    assert_string_equal(text_of(cJSON_GetArrayItem(errors, 0), "pointer"), "/cells/3/values");
    assert_string_equal(text_of(cJSON_GetArrayItem(errors, 0), "detail"), "3 values for 2 genes");
    cJSON_Delete(json);
}

static void the_first_error_gives_a_problem_its_kind_and_detail(void **state)
{
    (void)state;
    scd_problem problem = {0};
    scd_problem_add(&problem, "/a", "first");
    scd_problem_add(&problem, "/b", "second");
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
    assert_string_equal(problem.detail, "/a: first");
    scd_problem_set(&problem, SCD_PROBLEM_TOO_LARGE, "%s", "");
    assert_int_equal(problem.n_errors, 0);
    scd_problem_add(&problem, "", "third");
    assert_int_equal(problem.kind, SCD_PROBLEM_TOO_LARGE);
    assert_string_equal(problem.detail, "third");
}

static void more_errors_than_fit_are_counted_and_said(void **state)
{
    (void)state;
    scd_problem problem = {0};
    for (int i = 0; i < 40; i++)
        scd_problem_add(&problem, "/x", "error %d", i);
    cJSON *json = written(&problem, NULL);
    assert_string_equal(text_of(json, "detail"),
                        "/x: error 0 (the first 16 of 40 errors are listed)");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "errors")), 16);
    assert_null(cJSON_GetObjectItem(json, "instance"));
    cJSON_Delete(json);
}

static bool is_utf8(const char *text)
{
    for (size_t n = strlen(text), length; n > 0; n -= length, text += length) {
        length = scd_utf8_length(text, n);
        if (!length)
            return false;
    }
    return true;
}

static void long_texts_are_cut_between_characters(void **state)
{
    (void)state;
    char text[1200];
    static const char *const characters[] = {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (size_t c = 0; c < 3; c++) {
        size_t size = strlen(characters[c]);
        for (size_t shift = 0; shift < size; shift++) {
            memset(text, 'x', shift);
            size_t n = shift;
            for (; n + size < sizeof text; n += size)
                memcpy(text + n, characters[c], size);
            text[n] = '\0';
            scd_problem problem = {0};
            scd_problem_set(&problem, SCD_PROBLEM_INVALID, "%s", text);
            scd_problem_add(&problem, text, "%s", text);
            assert_true(is_utf8(problem.detail) && strlen(problem.detail) > 600);
            assert_true(is_utf8(problem.errors[0].pointer));
            assert_true(is_utf8(problem.errors[0].detail));
            assert_in_range(strlen(problem.errors[0].pointer), 124, 127);
        }
    }
}

static void a_fault_of_ours_is_not_told_to_the_client(void **state)
{
    (void)state;
    scd_error err;
    scd_problem problem;
    scd_fail(&err, SCD_E_CORRUPT, "/var/lib/secret: bad page");
    assert_int_equal(scd_problem_from_error(&problem, &err), SCD_PROBLEM_INTERNAL);
    assert_null(strstr(problem.detail, "secret"));
    scd_fail(&err, SCD_E_NOT_FOUND, "no model \"x\": there are tiny, large");
    assert_int_equal(scd_problem_from_error(&problem, &err), SCD_PROBLEM_NOT_FOUND);
    assert_string_equal(problem.detail, "no model \"x\": there are tiny, large");
}

static void under_v2_the_detail_stands_once_more_as_error(void **state)
{
    (void)state;
    scd_problem problem = {0};
    scd_problem_add(&problem, "/top_k", "is %d", 9);
    scd_problem_add(&problem, "", "and more");
    scd_problem_within(&problem, "/parameters");
    assert_string_equal(problem.detail, "/parameters/top_k: is 9");
    assert_string_equal(problem.errors[0].pointer, "/parameters/top_k");
    assert_string_equal(problem.errors[1].pointer, "/parameters");
    scd_buf out;
    scd_buf_init(&out, 1 << 16);
    scd_problem_write_oip(&problem, "id", &out);
    cJSON *json = cJSON_Parse(out.data);
    assert_string_equal(text_of(json, "error"), problem.detail);
    assert_string_equal(text_of(json, "detail"), problem.detail);
    cJSON_Delete(json);
    scd_buf_release(&out);
    json = written(&problem, NULL);
    assert_null(cJSON_GetObjectItemCaseSensitive(json, "error"));
    cJSON_Delete(json);
}

static void a_long_problem_stays_within_its_bounds(void **state)
{
    (void)state;
    char text[700];
    memset(text, 'x', sizeof text);
    text[0] = '/';
    text[sizeof text - 1] = '\0';
    scd_problem problem = {0};
    scd_problem_add(&problem, text, "%s", text);
    scd_problem_set(&problem, SCD_PROBLEM_INVALID, "%s", text);
    scd_problem_add(&problem, text, "%s", text);
    scd_problem_within(&problem, "/parameters");
    assert_int_equal(strncmp(problem.errors[0].pointer, "/parameters/xx", 14), 0);
    cJSON_Delete(written(&problem, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_a_status_a_name_and_a_title),
        cmocka_unit_test(every_error_code_has_its_kind),
        cmocka_unit_test(the_document_has_the_members_of_rfc_9457),
        cmocka_unit_test(the_first_error_gives_a_problem_its_kind_and_detail),
        cmocka_unit_test(more_errors_than_fit_are_counted_and_said),
        cmocka_unit_test(long_texts_are_cut_between_characters),
        cmocka_unit_test(a_fault_of_ours_is_not_told_to_the_client),
        cmocka_unit_test(under_v2_the_detail_stands_once_more_as_error),
        cmocka_unit_test(a_long_problem_stays_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
