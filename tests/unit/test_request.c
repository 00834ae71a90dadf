/* test_request.c - bodies of both forms become cells, and everything wrong with one is said with
 * the place where it is. */
#include "api/genes_request.h"
#include "api/request.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const scd_request_limits limits = {
    .max_cells = 4, .max_genes_per_cell = 6, .max_depth = 16, .max_name_bytes = 12};

typedef struct fixture {
    scd_arena arena;
    char *body; /* exactly as long as the text, so that ASan sees a read behind it */
    scd_request request;
    scd_problem problem;
} fixture;

static scd_problem_kind decode_bytes(fixture *f, const char *body, size_t n)
{
    memset(f, 0, sizeof *f);
    scd_arena_init(&f->arena, 1 << 20);
    f->body = malloc(n ? n : 1);
    memcpy(f->body, body, n);
    f->request.cells_required = true;
    return scd_request_decode(f->body, n, &limits, &f->arena, &f->request, &f->problem);
}

static scd_problem_kind decode(fixture *f, const char *body)
{
    return decode_bytes(f, body, strlen(body));
}

static void finish(fixture *f)
{
    scd_request_release(&f->request);
    scd_arena_release(&f->arena);
    free(f->body);
}

/* The body is refused with this kind, and the first error has this pointer and says `detail`. */
static void assert_problem(const char *body, scd_problem_kind kind, const char *pointer,
                           const char *detail)
{
    fixture f;
    scd_problem_kind got = decode(&f, body);
    if (got != kind)
        fail_msg("%s: kind %d (%s)", body, (int)got, f.problem.detail);
    assert_null(f.request.task);
    assert_true(f.problem.n_errors > 0);
    if (strcmp(f.problem.errors[0].pointer, pointer) != 0)
        fail_msg("%s: pointer %s (%s)", body, f.problem.errors[0].pointer, f.problem.detail);
    if (!strstr(f.problem.errors[0].detail, detail))
        fail_msg("%s: \"%s\" does not say \"%s\"", body, f.problem.errors[0].detail, detail);
    finish(&f);
}

static void assert_invalid(const char *body, const char *pointer, const char *detail)
{
    assert_problem(body, SCD_PROBLEM_INVALID, pointer, detail);
}

#define CELL "{\"genes\":[\"A\"],\"values\":[1]}"

static void cells_are_decoded_with_ids_genes_values_and_totals(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f,
                            "{\"cells\": [{\"id\": \"c1\", \"genes\": [\"CD3D\", \"L\\u0059Z\"],"
                            "\"values\": [2, 5.5], \"total\": 4213}, " CELL "]}"),
                     SCD_PROBLEM_NONE);
    const scd_request *r = &f.request;
    assert_int_equal(r->n_cells, 2);
    assert_false(r->is_matrix);
    assert_true(scd_text_is(r->cells[0].id, "c1"));
    assert_int_equal(r->cells[0].n, 2);
    assert_true(scd_text_is(r->cells[0].genes[0], "CD3D"));
    assert_true(scd_text_is(r->cells[0].genes[1], "LYZ"));
    assert_true(r->cells[0].values[0] == 2 && r->cells[0].values[1] == 5.5);
    assert_true(r->cells[0].total == 4213);
    assert_null(r->cells[0].columns);
    assert_int_equal(r->cells[1].id.n, 0);
    assert_true(r->cells[1].total == 0);
    assert_int_equal(r->input, SCD_INPUT_COUNTS);
    finish(&f);
}

static void a_matrix_is_decoded_whatever_the_order_of_its_parts(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f, "{\"totals\":[10,20,30],\"matrix\":{\"data\":[1,2,3],"
                                "\"indices\":[2,0,1],\"indptr\":[0,2,2,3],\"format\":\"csr\"},"
                                "\"ids\":[\"a\",\"b\",\"c\"],\"genes\":[\"X\",\"Y\",\"Z\"]}"),
                     SCD_PROBLEM_NONE);
    const scd_request *r = &f.request;
    assert_true(r->is_matrix);
    assert_int_equal(r->n_cells, 3);
    assert_int_equal(r->n_shared_genes, 3);
    assert_true(scd_text_is(r->shared_genes[2], "Z"));
    assert_int_equal(r->cells[0].n, 2);
    assert_int_equal(r->cells[0].columns[0], 2);
    assert_true(r->cells[0].values[1] == 2);
    assert_int_equal(r->cells[1].n, 0);
    assert_int_equal(r->cells[2].columns[0], 1);
    assert_true(scd_text_is(r->cells[2].id, "c"));
    assert_true(r->cells[2].total == 30);
    assert_null(r->cells[0].genes);
    finish(&f);
}

static void common_members_are_understood_and_the_rest_goes_to_the_task(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f, "{\"model\":\"tiny\",\"input\":\"log1p_cp10k\",\"timeout_ms\":250,"
                                "\"on_error\":\"skip\",\"force\":true,\"encoding\":\"base64\","
                                "\"sample_id\": {\"lims\": [1]} ,\"external_ids\":[17 ],"
                                "\"mask\":{\"fraction\":0.15},\"cells\":[" CELL "]}"),
                     SCD_PROBLEM_NONE);
    const scd_request *r = &f.request;
    assert_true(scd_text_is(r->model, "tiny"));
    assert_int_equal(r->input, SCD_INPUT_LOG1P_CP10K);
    assert_int_equal(r->timeout_ms, 250);
    assert_true(r->skip_errors && r->force);
    assert_true(scd_text_is(r->sample_id, "{\"lims\": [1]}"));
    assert_true(scd_text_is(r->external_ids, "[17 ]"));
    assert_int_equal(cJSON_GetArraySize(r->task), 2);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(r->task, "encoding")->valuestring,
                        "base64");
    const cJSON *mask = cJSON_GetObjectItemCaseSensitive(r->task, "mask");
    assert_true(cJSON_GetObjectItemCaseSensitive(mask, "fraction")->valuedouble == 0.15);
    finish(&f);
}

static void malformed_json_names_the_place(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "expected a value"},
        {"[] x", "nothing after the end"},
        {"null]", "nothing after the end"},
        {"{\"cells\":[{\"genes\":[\"A\"],\"values\":[NaN]}]}", "no NaN"},
        {"{\"cells\":[{\"genes\":[\"A\"],\"values\":[-Infinity]}]}", "no Infinity"},
        {"{\"cells\":[\n{\"genes\":[\"A\",],\"values\":[1]}]}", "line 2, column 15"},
        {"{\"cells\":[" CELL "]} x", "nothing after the end"},
        {"{\"cells\":[" CELL "],}", "trailing comma"},
        {"{\"x\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}", "deeper than the limit"},
        {"{\"cells\":[{\"id\":\"\xFF\"}]}", "valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fixture f;
        assert_int_equal(decode(&f, bad[i][0]), SCD_PROBLEM_MALFORMED_JSON);
        if (!strstr(f.problem.detail, bad[i][1]))
            fail_msg("%s: %s", bad[i][0], f.problem.detail);
        finish(&f);
    }
}

static void wrong_common_members_are_refused_with_their_pointer(void **state)
{
    (void)state;
    assert_invalid("{\"model\":1,\"cells\":[" CELL "]}", "/model",
                   "must be a string, not a number");
    assert_invalid("{\"model\":null,\"cells\":[" CELL "]}", "/model", "leave it out");
    assert_invalid("{\"input\":\"tpm\",\"cells\":[" CELL "]}", "/input", "\"counts\" or");
    assert_invalid("{\"timeout_ms\":-1,\"cells\":[" CELL "]}", "/timeout_ms", "from 1 to");
    assert_invalid("{\"timeout_ms\":0,\"cells\":[" CELL "]}", "/timeout_ms", "from 1 to");
    assert_invalid("{\"timeout_ms\":1.5,\"cells\":[" CELL "]}", "/timeout_ms", "whole number");
    assert_invalid("{\"timeout_ms\":1e300,\"cells\":[" CELL "]}", "/timeout_ms", "from 1 to");
    assert_invalid("{\"on_error\":\"ignore\",\"cells\":[" CELL "]}", "/on_error", "\"skip\"");
    assert_invalid("{\"force\":\"yes\",\"cells\":[" CELL "]}", "/force", "must be a boolean");
    assert_invalid("{\"external_ids\":\"x\",\"cells\":[" CELL "]}", "/external_ids", "an array");
    assert_invalid("{\"external_ids\":[1,2],\"cells\":[" CELL "]}", "/external_ids",
                   "2 external ids for 1 cells");
    assert_invalid("{\"force\":true,\"force\":true,\"cells\":[" CELL "]}", "/force", "twice");
    assert_invalid("{\"cells\":[" CELL "],\"c\\u0065lls\":[]}", "/cells", "twice");
    assert_invalid("{\"a/b\":1,\"a/b\":2,\"cells\":[" CELL "]}", "/a~1b", "twice");
}

static void a_body_that_is_no_object_is_refused_as_such(void **state)
{
    (void)state;
    assert_invalid("[]", "", "the body must be an object, not an array");
    assert_invalid(" 5 ", "", "not a number");
    assert_invalid("\"text\"", "", "not a string");
    assert_invalid("null", "", "not null");
}

static void numbers_past_the_range_of_a_double_are_refused_with_their_pointer(void **state)
{
    (void)state;
    assert_invalid("{\"cells\":[{\"genes\":[\"A\"],\"values\":[1e999]}]}", "/cells/0/values/0",
                   "must be finite");
    assert_invalid("{\"cells\":[{\"total\":-1e999,\"genes\":[\"A\"],\"values\":[1]}]}",
                   "/cells/0/total", "must be finite");
    assert_invalid("{\"timeout_ms\":1e999,\"cells\":[" CELL "]}", "/timeout_ms", "must be finite");
    assert_invalid("{\"x\":{\"y\":[1e999]},\"cells\":[" CELL "]}", "/x", "must be finite");
}

static void a_nul_in_a_name_does_not_cut_it(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f, "{\"cells\":[{\"genes\":[\"A\\u0000x\"],\"values\":[1]}]}"),
                     SCD_PROBLEM_NONE);
    assert_int_equal(f.request.cells[0].genes[0].n, 3);
    assert_memory_equal(f.request.cells[0].genes[0].data, "A\0x", 3);
    finish(&f);
    assert_invalid("{\"x\":\"a\\u0000b\",\"cells\":[" CELL "]}", "/x", "may not contain");
    assert_invalid("{\"x\\u0000y\":1,\"cells\":[" CELL "]}", "/x", "may not contain");
}

static void both_forms_half_a_form_and_no_cells_are_refused(void **state)
{
    (void)state;
    assert_invalid("{}", "", "no cells");
    assert_invalid("{\"cells\":[]}", "/cells", "no cells");
    assert_invalid("{\"cells\":{}}", "/cells", "must be an array");
    assert_invalid("{\"cells\":[" CELL "],\"genes\":[\"A\"]}", "/genes", "not both");
    assert_invalid("{\"genes\":[\"A\"]}", "", "\"matrix\" is missing");
    assert_invalid("{\"ids\":[\"A\"]}", "/ids", "no matrix");
    assert_invalid("{\"matrix\":{\"format\":\"csr\",\"indptr\":[0,0],\"indices\":[],\"data\":[]}}",
                   "", "\"genes\" is missing");
    assert_invalid("{\"genes\":[\"A\"],\"matrix\":{\"format\":\"csr\",\"indptr\":[0],"
                   "\"indices\":[],\"data\":[]}}",
                   "", "no cells");
}

static void wrong_cells_are_refused_with_their_pointer(void **state)
{
    (void)state;
    assert_invalid("{\"cells\":[" CELL ",{\"genes\":[\"A\",\"B\"],\"values\":[1,2,3]}]}",
                   "/cells/1/values", "3 values for 2 genes");
    assert_invalid("{\"cells\":[7]}", "/cells/0", "must be an object");
    assert_invalid("{\"cells\":[{\"values\":[1]}]}", "/cells/0", "\"genes\" is missing");
    assert_invalid("{\"cells\":[{\"genes\":[\"A\"]}]}", "/cells/0", "\"values\" is missing");
    assert_invalid("{\"cells\":[{\"genes\":[\"A\",3],\"values\":[1,2]}]}", "/cells/0/genes/1",
                   "must be a string, not a number");
    assert_invalid("{\"cells\":[{\"genes\":[\"A\"],\"values\":[null]}]}", "/cells/0/values/0",
                   "must be a number, not null");
    assert_invalid("{\"cells\":[{\"genes\":\"A\",\"values\":[1]}]}", "/cells/0/genes",
                   "must be an array");
    assert_invalid("{\"cells\":[{\"gene\":[\"A\"],\"values\":[1]}]}", "/cells/0/gene",
                   "known are id, genes, values, total");
    assert_invalid("{\"cells\":[{\"id\":5,\"genes\":[\"A\"],\"values\":[1]}]}", "/cells/0/id",
                   "must be a string");
    assert_invalid("{\"cells\":[{\"id\":\"1234567890123\",\"genes\":[],\"values\":[]}]}",
                   "/cells/0/id", "13 bytes, at most 12");
    assert_invalid("{\"cells\":[{\"genes\":[\"1234567890123\"],\"values\":[1]}]}",
                   "/cells/0/genes/0", "more than the 12 bytes");
    assert_invalid("{\"cells\":[{\"genes\":[],\"values\":[],\"genes\":[]}]}", "/cells/0/genes",
                   "twice");
    assert_invalid("{\"cells\":[{\"total\":0,\"genes\":[\"A\"],\"values\":[1]}]}", "/cells/0/total",
                   "above 0");
    assert_invalid("{\"cells\":[{\"total\":\"9\",\"genes\":[\"A\"],\"values\":[1]}]}",
                   "/cells/0/total", "must be a number");
}

static void the_second_of_two_equal_ids_is_the_one_reported(void **state)
{
    (void)state;
    assert_invalid("{\"cells\":[{\"id\":\"b\",\"genes\":[\"A\"],\"values\":[1]},"
                   "{\"id\":\"a\",\"genes\":[\"A\"],\"values\":[1]}," CELL ","
                   "{\"id\":\"b\",\"genes\":[\"A\"],\"values\":[1]}]}",
                   "/cells/3/id", "\"b\" is also the id of cell 0");
    assert_invalid("{\"genes\":[\"A\"],\"ids\":[\"x\",\"x\"],\"matrix\":{\"format\":\"csr\","
                   "\"indptr\":[0,0,0],\"indices\":[],\"data\":[]}}",
                   "/ids/1", "also the id of cell 0");
}

/* A matrix of two genes with the given indptr, indices, data and further top-level members. */
static void assert_bad_matrix(const char *indptr, const char *indices, const char *data,
                              const char *more, const char *pointer, const char *detail)
{
    char body[512];
    snprintf(body, sizeof body,
             "{\"genes\":[\"A\",\"B\"],\"matrix\":{\"format\":\"csr\",\"indptr\":%s,\"indices\":%s,"
             "\"data\":%s}%s}",
             indptr, indices, data, more);
    assert_invalid(body, pointer, detail);
}

static void contradictions_of_a_matrix_are_refused_with_their_pointer(void **state)
{
    (void)state;
    assert_bad_matrix("[]", "[]", "[]", "", "/matrix/indptr", "one element more");
    assert_bad_matrix("[1,2]", "[0,1]", "[1,1]", "", "/matrix/indptr/0", "must be 0");
    assert_bad_matrix("[0,1.5]", "[0]", "[1]", "", "/matrix/indptr/1", "whole number");
    assert_bad_matrix("[0,2,1]", "[0]", "[1]", "", "/matrix/indptr/2", "1 comes after 2");
    assert_bad_matrix("[0,-1]", "[0]", "[1]", "", "/matrix/indptr/1", "whole number");
    assert_bad_matrix("[0,1e300]", "[0]", "[1]", "", "/matrix/indptr/1", "whole number");
    assert_bad_matrix("[0,3]", "[0,1]", "[1,1]", "", "/matrix/indptr", "ends with 3");
    assert_bad_matrix("[0,2]", "[0,1]", "[1]", "", "/matrix/data", "1 elements");
    assert_bad_matrix("[0,2]", "[0,2]", "[1,1]", "", "/matrix/indices/1", "2 is not a column");
    assert_bad_matrix("[0,2]", "[0,0.5]", "[1,1]", "", "/matrix/indices/1", "not a column");
    assert_bad_matrix("[0,2]", "[-1,1]", "[1,1]", "", "/matrix/indices/0", "not a column");
    assert_bad_matrix("[0,0,2]", "[1,1]", "[1,1]", "", "/matrix/indices/1", "column 1 comes twice");
    assert_bad_matrix("[0,1]", "[1]", "[1]", ",\"ids\":[]", "/ids", "0 elements for 1 cells");
    assert_bad_matrix("[0,1]", "[1]", "[1]", ",\"totals\":[1,2]", "/totals", "2 elements for 1");
    assert_bad_matrix("[0,1]", "[1]", "[1]", ",\"totals\":[-2]", "/totals/0", "above 0");
    assert_bad_matrix("[0,1]", "[1]", "[1],\"shape\":[1,2]", "", "/matrix/shape", "known are");
    assert_bad_matrix("[0,1]", "[1]", "[1],\"data\":[2]", "", "/matrix/data", "twice");
    assert_invalid("{\"genes\":[\"A\"],\"matrix\":{\"format\":\"csc\",\"indptr\":[0,0],"
                   "\"indices\":[],\"data\":[]}}",
                   "/matrix/format", "\"csr\"");
    assert_invalid("{\"genes\":[\"A\"],\"matrix\":{\"indptr\":[0,0]}}", "/matrix",
                   "\"format\" is missing");
    assert_invalid("{\"genes\":[\"A\"],\"matrix\":[]}", "/matrix", "must be an object");
}

static void what_exceeds_a_limit_is_too_large(void **state)
{
    (void)state;
    assert_problem("{\"cells\":[" CELL "," CELL "," CELL "," CELL "," CELL "]}",
                   SCD_PROBLEM_TOO_LARGE, "/cells", "5 cells, at most 4");
    assert_problem("{\"cells\":[{\"genes\":[\"A\"],\"values\":[1,2,3,4,5,6,7]}]}",
                   SCD_PROBLEM_TOO_LARGE, "/cells/0/values", "7 elements, at most 6");
    assert_problem("{\"genes\":[],\"matrix\":{\"format\":\"csr\",\"indptr\":[0,0,0,0,0,0],"
                   "\"indices\":[],\"data\":[]}}",
                   SCD_PROBLEM_TOO_LARGE, "/matrix/indptr", "6 elements, at most 5");
}

static void a_request_past_its_arena_is_too_large_and_not_the_servers_fault(void **state)
{
    (void)state;
    static const char body[] = "{\"cells\":[" CELL "]}";
    for (size_t max_bytes = 0;; max_bytes += 16) {
        scd_arena arena;
        scd_request request = {.cells_required = true};
        scd_problem problem;
        scd_arena_init(&arena, max_bytes);
        scd_problem_kind kind =
            scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem);
        scd_request_release(&request);
        scd_arena_release(&arena);
        if (kind == SCD_PROBLEM_NONE)
            break;
        assert_int_equal(kind, SCD_PROBLEM_TOO_LARGE);
    }
}

static void task_members_are_bounded_in_number_and_size(void **state)
{
    (void)state;
    size_t n = 0, cap = 3 << 20;
    char *body = malloc(cap);
    n += (size_t)sprintf(body + n, "{\"cells\":[" CELL "]");
    for (int i = 0; i < 200; i++)
        n += (size_t)sprintf(body + n, ",\"m%d\":%d", i, i);
    strcpy(body + n, "}");
    assert_invalid(body, "", "more than 64 members");

    n = (size_t)sprintf(body, "{\"cells\":[" CELL "],\"x\":[0");
    for (int i = 0; i < 1 << 20; i++, n += 2)
        memcpy(body + n, ",0", 2);
    strcpy(body + n, "]}");
    assert_problem(body, SCD_PROBLEM_TOO_LARGE, "/x", "1048576 bytes together");

    n = (size_t)sprintf(body, "{\"cells\":[" CELL "],\"x\":");
    memset(body + n, '1', 64);
    strcpy(body + n + 64, "}");
    assert_invalid(body, "/x", "63 characters");
    free(body);
}

static void bad_cells_stay_with_their_fault_when_errors_are_skipped(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f,
                            "{\"cells\":[{\"id\":\"a\",\"genes\":[\"A\"],\"values\":[1,2]}," CELL
                            ",{\"genes\":[\"A\"],\"values\":[1,2,3,4,5,6,7]},"
                            "{\"id\":\"a\",\"genes\":[\"A\"],\"values\":[1]}],"
                            "\"on_error\":\"skip\"}"),
                     SCD_PROBLEM_NONE);
    const scd_cell_input *cells = f.request.cells;
    assert_string_equal(cells[0].fault_pointer, "/cells/0/values");
    assert_int_equal(cells[0].fault_kind, SCD_PROBLEM_INVALID);
    assert_int_equal(cells[0].n, 0);
    assert_true(scd_text_is(cells[0].id, "a"));
    assert_null(cells[1].fault);
    assert_int_equal(cells[2].fault_kind, SCD_PROBLEM_TOO_LARGE);
    assert_string_equal(cells[3].fault_pointer, "/cells/3/id");
    finish(&f);
    assert_int_equal(decode(&f, "{\"on_error\":\"skip\",\"genes\":[\"A\",\"B\"],\"matrix\":{"
                                "\"format\":\"csr\",\"indptr\":[0,1,2],\"indices\":[5,1],"
                                "\"data\":[1,2]}}"),
                     SCD_PROBLEM_NONE);
    assert_string_equal(f.request.cells[0].fault_pointer, "/matrix/indices/0");
    assert_null(f.request.cells[1].fault);
    assert_int_equal(f.request.cells[1].columns[0], 1);
    finish(&f);
}

static void several_errors_are_listed_and_the_rest_counted(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(
        decode(&f, "{\"cells\":[1,2,3," CELL "],\"input\":\"x\",\"timeout_ms\":\"y\"}"),
        SCD_PROBLEM_INVALID);
    assert_int_equal(f.problem.n_errors, 2);
    assert_string_equal(f.problem.errors[1].pointer, "/timeout_ms");
    finish(&f);
    assert_int_equal(decode(&f, "{\"cells\":[1,2,3," CELL "]}"), SCD_PROBLEM_INVALID);
    assert_int_equal(f.problem.n_errors, 3);
    assert_string_equal(f.problem.errors[2].pointer, "/cells/2");
    finish(&f);
}

static void routes_without_cells_may_name_genes_alone(void **state)
{
    (void)state;
    static const char body[] = "{\"n\":3,\"genes\":[\"A\",\"B\"]}";
    scd_arena arena;
    scd_arena_init(&arena, 1 << 16);
    scd_request request = {.cells_required = false};
    scd_problem problem;
    assert_int_equal(scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem),
                     SCD_PROBLEM_NONE);
    assert_int_equal(request.n_cells, 0);
    assert_int_equal(request.n_shared_genes, 2);
    assert_int_equal(cJSON_GetArraySize(request.task), 1);
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static const char full_body[] =
    "{\"model\":\"t\\u00efny\",\"cells\":[{\"id\":\"c\\n1\",\"genes\":[\"CD3D\",\"L\xC3\xA9\"],"
    "\"values\":[2,1.5e-3],\"total\":9},{\"genes\":[],\"values\":[]}],\"top\":{\"k\":[1,null]},"
    "\"external_ids\":[1,\"b\"],\"sample_id\":\"s\",\"on_error\":\"skip\",\"timeout_ms\":10}";

static const char matrix_body[] =
    "{\"genes\":[\"A\",\"B\",\"C\"],\"matrix\":{\"format\":\"csr\",\"indptr\":[0,2,3],"
    "\"indices\":[0,2,1],\"data\":[1,2,3]},\"ids\":[\"x\",\"y\"],\"totals\":[5,6]}";

static void a_body_cut_at_any_byte_is_malformed(void **state)
{
    (void)state;
    static const char *const bodies[] = {full_body, matrix_body};
    for (size_t b = 0; b < 2; b++) {
        fixture f;
        assert_int_equal(decode(&f, bodies[b]), SCD_PROBLEM_NONE);
        finish(&f);
        for (size_t n = 0; n < strlen(bodies[b]); n++) {
            if (decode_bytes(&f, bodies[b], n) != SCD_PROBLEM_MALFORMED_JSON)
                fail_msg("body %zu after %zu bytes", b, n);
            finish(&f);
        }
    }
}

static void flipped_bytes_are_answered_without_harm(void **state)
{
    (void)state;
    static const char *const bodies[] = {full_body, matrix_body};
    char body[sizeof full_body];
    for (uint64_t i = 0; i < 40000; i++) {
        const char *source = bodies[i % 2];
        size_t n = strlen(source);
        memcpy(body, source, n);
        uint32_t words[4];
        scd_rng_block(11, 1, i, words);
        for (size_t k = 0; k <= words[3] % 3; k++)
            body[words[k] % n] = (char)(words[3] >> (8 + 7 * k));
        fixture f;
        scd_problem_kind kind = decode_bytes(&f, body, n);
        assert_true(kind == SCD_PROBLEM_NONE || f.problem.detail[0]);
        finish(&f);
    }
}

static void failing_allocations_are_reported_and_leak_nothing(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        scd_arena arena;
        scd_request request = {.cells_required = true};
        scd_problem problem;
        scd_arena_init(&arena, 1 << 20);
        scd_mem_fail_after(n);
        scd_problem_kind kind =
            scd_request_decode(full_body, strlen(full_body), &limits, &arena, &request, &problem);
        scd_mem_fail_after(-1);
        scd_request_release(&request);
        scd_arena_release(&arena);
        if (kind == SCD_PROBLEM_NONE)
            break;
        assert_int_equal(kind, SCD_PROBLEM_UNAVAILABLE);
        assert_true(n < 100);
    }
}

static void a_million_genes_and_a_million_brackets_are_answered_at_once(void **state)
{
    (void)state;
    size_t n_items = 1000000, n = 0;
    char *body = malloc(n_items * 4 + 100);
    n += (size_t)sprintf(body, "{\"cells\":[{\"genes\":[\"A\"");
    for (size_t i = 0; i < n_items; i++, n += 4)
        memcpy(body + n, ",\"B\"", 4);
    strcpy(body + n, "],\"values\":[1]}]}");
    assert_problem(body, SCD_PROBLEM_TOO_LARGE, "/cells/0/genes", "1000001 elements, at most 6");
    memset(body, '[', n_items);
    memcpy(body, "{\"a\":", 5);
    fixture f;
    assert_int_equal(decode_bytes(&f, body, n_items), SCD_PROBLEM_MALFORMED_JSON);
    finish(&f);
    free(body);
}

static scd_problem_kind decode_genes(const char *body, scd_genes_request *out, scd_problem *problem,
                                     scd_arena *arena)
{
    scd_arena_init(arena, 1 << 16);
    return scd_genes_request_decode(body, strlen(body), &limits, arena, out, problem);
}

static void a_genes_request_is_decoded_and_its_contradictions_refused(void **state)
{
    (void)state;
    scd_arena arena;
    scd_genes_request genes;
    scd_problem problem;
    assert_int_equal(decode_genes("{\"genes\":[\"A\",\"B\"],\"values\":[1,2],\"model\":\"m\","
                                  "\"input\":\"log1p_cp10k\"}",
                                  &genes, &problem, &arena),
                     SCD_PROBLEM_NONE);
    assert_int_equal(genes.n, 2);
    assert_true(scd_text_is(genes.genes[1], "B") && genes.values[1] == 2);
    assert_int_equal(genes.input, SCD_INPUT_LOG1P_CP10K);
    scd_arena_release(&arena);
    static const char *const bad[][3] = {
        {"{}", "", "\"genes\" is missing"},
        {"{\"genes\":[]}", "/genes", "no names"},
        {"{\"genes\":[\"A\"],\"values\":[]}", "/values", "0 values for 1 genes"},
        {"{\"genes\":[\"A\"],\"genes\":[\"A\"]}", "/genes", "twice"},
        {"{\"genes\":[\"A\"],\"species\":1}", "/species", "known are"},
        {"{\"genes\":[null]}", "/genes/0", "must be a string"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(decode_genes(bad[i][0], &genes, &problem, &arena), SCD_PROBLEM_INVALID);
        assert_string_equal(problem.errors[0].pointer, bad[i][1]);
        assert_non_null(strstr(problem.errors[0].detail, bad[i][2]));
        scd_arena_release(&arena);
    }
    assert_int_equal(decode_genes("{\"genes\":[\"A\"", &genes, &problem, &arena),
                     SCD_PROBLEM_MALFORMED_JSON);
    scd_arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_are_decoded_with_ids_genes_values_and_totals),
        cmocka_unit_test(a_matrix_is_decoded_whatever_the_order_of_its_parts),
        cmocka_unit_test(common_members_are_understood_and_the_rest_goes_to_the_task),
        cmocka_unit_test(malformed_json_names_the_place),
        cmocka_unit_test(wrong_common_members_are_refused_with_their_pointer),
        cmocka_unit_test(a_body_that_is_no_object_is_refused_as_such),
        cmocka_unit_test(numbers_past_the_range_of_a_double_are_refused_with_their_pointer),
        cmocka_unit_test(a_nul_in_a_name_does_not_cut_it),
        cmocka_unit_test(both_forms_half_a_form_and_no_cells_are_refused),
        cmocka_unit_test(wrong_cells_are_refused_with_their_pointer),
        cmocka_unit_test(the_second_of_two_equal_ids_is_the_one_reported),
        cmocka_unit_test(contradictions_of_a_matrix_are_refused_with_their_pointer),
        cmocka_unit_test(what_exceeds_a_limit_is_too_large),
        cmocka_unit_test(a_request_past_its_arena_is_too_large_and_not_the_servers_fault),
        cmocka_unit_test(task_members_are_bounded_in_number_and_size),
        cmocka_unit_test(bad_cells_stay_with_their_fault_when_errors_are_skipped),
        cmocka_unit_test(several_errors_are_listed_and_the_rest_counted),
        cmocka_unit_test(routes_without_cells_may_name_genes_alone),
        cmocka_unit_test(a_body_cut_at_any_byte_is_malformed),
        cmocka_unit_test(flipped_bytes_are_answered_without_harm),
        cmocka_unit_test(failing_allocations_are_reported_and_leak_nothing),
        cmocka_unit_test(a_million_genes_and_a_million_brackets_are_answered_at_once),
        cmocka_unit_test(a_genes_request_is_decoded_and_its_contradictions_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
