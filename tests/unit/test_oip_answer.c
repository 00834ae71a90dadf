/* test_oip_answer.c - tensors of an answer as JSON and as bytes, and a model's own description. */
#include "api/oip_answer.h"
#include "api/oip_model.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const float numbers[] = {1.5f, NAN, -0.25f, 3};
static const scd_text texts[] = {{"B", 1}, {"a \"b\"", 5}};
static const bool flags[] = {true, false};
static const int64_t counts[] = {7, INT64_C(5000000000)};

static size_t write(bool binary_numbers, bool binary_texts, scd_buf *out)
{
    const scd_oip_result results[] = {
        {"embedding", SCD_OIP_FP32, 2, {2, 2}, numbers, binary_numbers},
        {"label", SCD_OIP_BYTES, 1, {2, 0}, texts, binary_texts},
        {"unknown", SCD_OIP_BOOL, 1, {2, 0}, flags, binary_numbers},
        {"tokens", SCD_OIP_INT64, 1, {2, 0}, counts, binary_texts},
    };
    const scd_oip_parameter parameters[] = {{"digest", "00", 0}, {"cells", NULL, 2}};
    const scd_oip_answer answer = {.model_name = "m\"1",
                                   .model_version = "1",
                                   .id = {"x\n", 2},
                                   .n_parameters = 2,
                                   .parameters = parameters,
                                   .n_results = 4,
                                   .results = results};
    scd_buf_init(out, 1 << 16);
    size_t n = scd_oip_write(&answer, out);
    assert_false(out->failed);
    return n;
}

static void json_alone_has_every_element(void **state)
{
    (void)state;
    scd_buf out;
    assert_int_equal(write(false, false, &out), 0);
    assert_string_equal(
        out.data,
        "{\"model_name\":\"m\\\"1\",\"model_version\":\"1\",\"id\":\"x\\n\",\"parameters\":{"
        "\"digest\":\"00\",\"cells\":2},\"outputs\":["
        "{\"name\":\"embedding\",\"datatype\":\"FP32\",\"shape\":[2,2],\"data\":[1.5,null,-0.25,3]"
        "},{\"name\":\"label\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"B\","
        "\"a \\\"b\\\"\"]},"
        "{\"name\":\"unknown\",\"datatype\":\"BOOL\",\"shape\":[2],\"data\":[true,false]},"
        "{\"name\":\"tokens\",\"datatype\":\"INT64\",\"shape\":[2],\"data\":[7,5000000000]}]}");
    scd_buf_release(&out);
}

static void binary_tensors_follow_the_json_in_its_order(void **state)
{
    (void)state;
    scd_buf out;
    size_t n = write(true, true, &out);
    assert_true(n > 0 && out.data[n - 1] == '}');
    const char *at = out.data + n;
    assert_int_equal(out.n_bytes - n, sizeof numbers + (4 + 1 + 4 + 5) + 2 + sizeof counts);
    assert_memory_equal(at, numbers, sizeof numbers);
    at += sizeof numbers;
    assert_memory_equal(at, "\1\0\0\0B\5\0\0\0a \"b\"", 14);
    assert_memory_equal(at + 14, "\1\0", 2);
    assert_memory_equal(at + 16, counts, sizeof counts);
    cJSON *json = cJSON_ParseWithLength(out.data, n);
    const cJSON *label = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "outputs"), 1);
    assert_null(cJSON_GetObjectItem(label, "data"));
    assert_int_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(label, "parameters"), "binary_data_size")->valueint,
        14);
    cJSON_Delete(json);
    scd_buf_release(&out);
}

static void some_may_be_binary_and_others_not(void **state)
{
    (void)state;
    scd_buf out;
    size_t n = write(false, true, &out);
    assert_int_equal(out.n_bytes - n, 14 + sizeof counts);
    assert_memory_equal(out.data + n + 14, counts, sizeof counts);
    scd_buf_release(&out);
}

static void a_model_describes_itself_in_valid_json(void **state)
{
    (void)state;
    const scd_oip_output_kind outputs[] = {{"embedding", SCD_OIP_FP32, 2, 48},
                                           {"top_labels", SCD_OIP_BYTES, 2, 0},
                                           {"label", SCD_OIP_BYTES, 1, 0}};
    const scd_oip_property properties[] = {{"digest", "00"}};
    const scd_oip_model model = {"m\"", "1", 3, outputs, 1, properties};
    for (int i = 0; i < 2; i++) {
        scd_buf out;
        scd_buf_init(&out, 1 << 16);
        (i ? scd_oip_write_config : scd_oip_write_metadata)(&model, &out);
        cJSON *json = cJSON_Parse(out.data);
        assert_non_null(json);
        assert_string_equal(cJSON_GetObjectItem(json, "name")->valuestring, "m\"");
        const cJSON *all = cJSON_GetObjectItem(json, i ? "output" : "outputs");
        assert_int_equal(cJSON_GetArraySize(all), 3);
        const cJSON *dims = cJSON_GetObjectItem(cJSON_GetArrayItem(all, 0), i ? "dims" : "shape");
        assert_int_equal(cJSON_GetArrayItem(dims, 0)->valueint, -1);
        assert_int_equal(cJSON_GetArrayItem(dims, 1)->valueint, 48);
        assert_int_equal(cJSON_GetArraySize(
                             cJSON_GetObjectItem(cJSON_GetArrayItem(all, 2), i ? "dims" : "shape")),
                         1);
        cJSON_Delete(json);
        scd_buf_release(&out);
    }
}

static void the_question_for_the_index_may_be_empty(void **state)
{
    (void)state;
    static const scd_request_limits limits = {1, 1, 8, 100};
    static const struct {
        const char *body;
        scd_problem_kind kind;
        bool ready_only;
    } cases[] = {{"", SCD_PROBLEM_NONE, false},
                 {"{}", SCD_PROBLEM_NONE, false},
                 {"{\"ready\":true}", SCD_PROBLEM_NONE, true},
                 {"{\"ready\":1}", SCD_PROBLEM_INVALID, false},
                 {"{\"raedy\":true}", SCD_PROBLEM_INVALID, false},
                 {"[]", SCD_PROBLEM_INVALID, false},
                 {"{", SCD_PROBLEM_MALFORMED_JSON, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scd_arena arena;
        scd_problem problem;
        bool ready_only;
        scd_arena_init(&arena, 1 << 16);
        assert_int_equal(scd_oip_index_decode(cases[i].body, strlen(cases[i].body), &limits, &arena,
                                              &ready_only, &problem),
                         cases[i].kind);
        assert_int_equal(ready_only, cases[i].ready_only);
        scd_arena_release(&arena);
    }
}

static void warnings_are_a_line_each(void **state)
{
    (void)state;
    const scd_warning warnings[] = {{"a", "one"}, {"b", "two"}};
    scd_buf out;
    scd_buf_init(&out, 100);
    scd_oip_warnings(&out, warnings, 2);
    assert_string_equal(out.data, "a: one\nb: two");
    scd_buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_alone_has_every_element),
        cmocka_unit_test(binary_tensors_follow_the_json_in_its_order),
        cmocka_unit_test(some_may_be_binary_and_others_not),
        cmocka_unit_test(a_model_describes_itself_in_valid_json),
        cmocka_unit_test(the_question_for_the_index_may_be_empty),
        cmocka_unit_test(warnings_are_a_line_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
