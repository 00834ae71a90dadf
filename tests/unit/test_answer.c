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
    scd_answer_begin(&answer, out, encoding, "ti\"ny", "00ff");
    scd_answer_item item = {.index = 0,
                            .id = text("c\"1"),
                            .tokens = 7,
                            .genes_known = 8,
                            .genes_unknown = 2,
                            .genes_truncated = 1,
                            .cache = "miss",
                            .embedding = embedding,
                            .dim = 2};
    scd_answer_item_write(&answer, &item);
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
    scd_answer_begin(&answer, &out, SCD_ENCODING_FLOAT, "m", "d");
    scd_answer_end(&answer, &end);
    assert_string_equal(out.data,
                        "{\"object\":\"list\",\"model\":{\"name\":\"m\",\"digest\":\"d\"},"
                        "\"data\":[],\"usage\":{\"cells\":0,\"tokens\":0,\"cached\":0},"
                        "\"warnings\":[]}");
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
        cmocka_unit_test(only_the_two_encodings_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
