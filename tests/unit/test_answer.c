/* test_answer.c - the list answer is JSON with the members of SPEC section 5, in both encodings. */
#include "api/answer.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static scd_text text(const char *literal)
{
    return (scd_text){literal, strlen(literal)};
}

/* One good cell, one bad cell, a warning and both echoes. */
static void write_answer(scd_encoding encoding, scd_buf *out)
{
    static const float embedding[] = {1.5f, -0.25f};
    scd_buf_init(out, 1 << 16);
    scd_answer answer;
    scd_answer_begin(&answer, out, &(scd_answer_begin_args){"ti\"ny", "00ff", NULL});
    scd_answer_item item = {.index = 0,
                            .id = text("c\"1"),
                            .tokens = 7,
                            .genes_known = 8,
                            .genes_unknown = 2,
                            .genes_truncated = 1,
                            .cache = "miss"};
    scd_answer_item_begin(&answer, &item);
    scd_answer_embedding(&answer, encoding, embedding, 2);
    scd_answer_item_end(&answer);
    scd_answer_error error = {1, {NULL, 0}, SCD_PROBLEM_INVALID, "3 values", "/cells/1/values"};
    scd_answer_error_write(&answer, &error);
    scd_warning warning = {"genes-unknown", "2 of 10"};
    scd_answer_end_args end = {.cells = 1,
                               .tokens = 7,
                               .cached = 0,
                               .warnings = &warning,
                               .n_warnings = 1,
                               .sample_id = text("{\"a\":1}"),
                               .external_ids = text("[1, 2]")};
    scd_answer_end(&answer, &end);
    assert_false(out->failed);
}

static void the_answer_has_its_members_in_a_fixed_order(void **state)
{
    (void)state;
    scd_buf out;
    write_answer(SCD_ENCODING_FLOAT, &out);
    assert_string_equal(
        out.data,
        "{\"object\":\"list\",\"model\":{\"name\":\"ti\\\"ny\",\"digest\":\"00ff\"},\"data\":["
        "{\"index\":0,\"id\":\"c\\\"1\",\"tokens\":7,\"genes_known\":8,\"genes_unknown\":2,"
        "\"genes_truncated\":1,\"cache\":\"miss\",\"embedding\":[1.5,-0.25]},"
        "{\"index\":1,\"id\":null,\"error\":{\"type\":\"urn:scdiva:problem:invalid\",\"detail\":"
        "\"3 values\","
        "\"pointer\":\"/cells/1/values\"}}],\"usage\":{\"cells\":1,\"tokens\":7,\"cached\":0},"
        "\"warnings\":[{\"code\":\"genes-unknown\",\"detail\":\"2 of 10\"}],"
        "\"sample_id\":{\"a\":1},\"external_ids\":[1, 2]}");
    cJSON *json = cJSON_Parse(out.data);
    assert_non_null(json);
    cJSON_Delete(json);
    scd_buf_release(&out);
}

static void base64_holds_the_little_endian_float32(void **state)
{
    (void)state;
    scd_buf out;
    write_answer(SCD_ENCODING_BASE64, &out);
    /* 00 00 c0 3f 00 00 80 be */
    assert_non_null(strstr(out.data, "\"embedding\":\"AADAPwAAgL4=\"}"));
    scd_buf_release(&out);
}

static void an_answer_without_items_and_extras_is_complete(void **state)
{
    (void)state;
    scd_buf out;
    scd_answer answer;
    scd_answer_end_args end = {0};
    scd_buf_init(&out, 1000);
    scd_answer_begin(&answer, &out, &(scd_answer_begin_args){"m", "d", NULL});
    scd_answer_end(&answer, &end);
    assert_string_equal(out.data,
                        "{\"object\":\"list\",\"model\":{\"name\":\"m\",\"digest\":\"d\"},"
                        "\"data\":[],\"usage\":{\"cells\":0,\"tokens\":0,\"cached\":0},"
                        "\"warnings\":[]}");
    scd_buf_release(&out);
}

static const scd_head_label labels[] = {{"B", "CL:0000236"}, {"N\"K", NULL}, {"T", "CL:0000084"}};

/* What is said about one cell with these probabilities. */
static void annotate(const float *probabilities, size_t top_k, double threshold, scd_buf *out)
{
    uint64_t order[3];
    scd_answer answer = {.out = out};
    scd_annotation a = {labels, probabilities, 3, 7, top_k, threshold, order};
    scd_buf_init(out, 1000);
    scd_answer_annotation(&answer, &a);
}

static void an_annotation_names_the_best_label_first(void **state)
{
    (void)state;
    scd_buf out;
    annotate((const float[]){0.25f, 0.125f, 0.625f}, 3, 0.5, &out);
    assert_string_equal(out.data,
                        ",\"genes_unused\":7,\"label\":\"T\",\"ontology_id\":\"CL:0000084\","
                        "\"probability\":0.625,"
                        "\"unknown\":false,\"top\":[{\"label\":\"T\",\"probability\":0.625},"
                        "{\"label\":\"B\",\"probability\":0.25},"
                        "{\"label\":\"N\\\"K\",\"probability\":0.125}]");
    scd_buf_release(&out);
}

static void below_the_threshold_the_best_label_is_kept_and_called_unknown(void **state)
{
    (void)state;
    scd_buf out;
    annotate((const float[]){0.25f, 0.5f, 0.25f}, 1, 0.51, &out);
    assert_string_equal(out.data, ",\"genes_unused\":7,\"label\":\"N\\\"K\","
                                  "\"ontology_id\":null,\"probability\":0.5,"
                                  "\"unknown\":true,\"top\":[{\"label\":\"N\\\"K\","
                                  "\"probability\":0.5}]");
    scd_buf_release(&out);
}

static void a_threshold_is_reached_by_the_same_decimal_and_0_by_everything(void **state)
{
    (void)state;
    static const float p[] = {0.1f, 0.45f, 0.45f}; /* as a double, 0.45f is below 0.45 */
    scd_buf out;
    annotate(p, 1, 0.45, &out);
    assert_non_null(strstr(out.data, "\"probability\":0.45,\"unknown\":false"));
    scd_buf_release(&out);
    annotate((const float[]){0, 0, 0}, 1, 0, &out);
    assert_non_null(strstr(out.data, "\"unknown\":false"));
    scd_buf_release(&out);
}

static void of_equals_the_one_that_the_head_lists_first_comes_first(void **state)
{
    (void)state;
    scd_buf out;
    annotate((const float[]){0.25f, 0.375f, 0.375f}, 2, 0, &out);
    assert_non_null(strstr(out.data, "\"top\":[{\"label\":\"N\\\"K\",\"probability\":0.375},"
                                     "{\"label\":\"T\",\"probability\":0.375}]"));
    scd_buf_release(&out);
}

static void an_answer_names_its_head_between_model_and_data(void **state)
{
    (void)state;
    scd_buf out;
    scd_answer answer;
    scd_answer_head head = {"coarse", "ee", 0.45};
    scd_buf_init(&out, 1000);
    scd_answer_begin(&answer, &out, &(scd_answer_begin_args){"m", "d", &head});
    assert_string_equal(out.data,
                        "{\"object\":\"list\",\"model\":{\"name\":\"m\",\"digest\":\"d\"},"
                        "\"head\":{\"name\":\"coarse\",\"digest\":\"ee\",\"threshold\":0.45},"
                        "\"data\":[");
    scd_buf_release(&out);
}

static void only_the_two_encodings_are_known(void **state)
{
    (void)state;
    scd_encoding encoding;
    assert_true(scd_encoding_parse(text("float"), &encoding) && encoding == SCD_ENCODING_FLOAT);
    assert_true(scd_encoding_parse(text("base64"), &encoding) && encoding == SCD_ENCODING_BASE64);
    assert_false(scd_encoding_parse(text("Float"), &encoding));
    assert_false(scd_encoding_parse(text(""), &encoding));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_has_its_members_in_a_fixed_order),
        cmocka_unit_test(base64_holds_the_little_endian_float32),
        cmocka_unit_test(an_answer_without_items_and_extras_is_complete),
        cmocka_unit_test(an_annotation_names_the_best_label_first),
        cmocka_unit_test(below_the_threshold_the_best_label_is_kept_and_called_unknown),
        cmocka_unit_test(a_threshold_is_reached_by_the_same_decimal_and_0_by_everything),
        cmocka_unit_test(of_equals_the_one_that_the_head_lists_first_comes_first),
        cmocka_unit_test(an_answer_names_its_head_between_model_and_data),
        cmocka_unit_test(only_the_two_encodings_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
