/* test_oip.c - bodies of the Open Inference Protocol become cells; lengths that lie are found out,
 * with the place where they are. */
#include "api/oip_request.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <math.h>
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
    char *bytes; /* exactly as long as the body, so that ASan sees a read behind it */
    scd_oip_request oip;
    scd_request request;
    scd_problem problem;
} fixture;

/* The JSON, and n bytes behind it; n SIZE_MAX: no header tells them apart. */
static scd_problem_kind decode_bytes(fixture *f, const char *json, size_t n_json,
                                     const void *behind, size_t n)
{
    memset(f, 0, sizeof *f);
    scd_arena_init(&f->arena, 1 << 20);
    bool has_length = n != SIZE_MAX;
    size_t n_all = n_json + (has_length ? n : 0);
    f->bytes = malloc(n_all ? n_all : 1);
    memcpy(f->bytes, json, n_json);
    if (has_length && n)
        memcpy(f->bytes + n_json, behind, n);
    scd_oip_body body = {f->bytes, n_all, n_json, has_length};
    return scd_oip_decode(&body, &limits, &f->arena, &f->oip, &f->request, &f->problem);
}

static scd_problem_kind decode(fixture *f, const char *json)
{
    return decode_bytes(f, json, strlen(json), NULL, SIZE_MAX);
}

static void finish(fixture *f)
{
    scd_request_release(&f->request);
    scd_arena_release(&f->arena);
    free(f->bytes);
}

static void assert_refused(const char *json, const void *behind, size_t n, scd_problem_kind kind,
                           const char *pointer, const char *detail)
{
    fixture f;
    scd_problem_kind got = decode_bytes(&f, json, strlen(json), behind, n);
    if (got != kind)
        fail_msg("%s: kind %d (%s)", json, (int)got, f.problem.detail);
    assert_null(f.request.task);
    if (!strstr(f.problem.n_errors ? f.problem.errors[0].detail : f.problem.detail, detail))
        fail_msg("%s: \"%s\" does not say \"%s\"", json, f.problem.detail, detail);
    if (strcmp(f.problem.n_errors ? f.problem.errors[0].pointer : "", pointer) != 0)
        fail_msg("%s: pointer %s (%s)", json, f.problem.errors[0].pointer, f.problem.detail);
    finish(&f);
}

#define GENES(n, data)                                                                             \
    "{\"name\":\"genes\",\"shape\":[" #n "],\"datatype\":\"BYTES\",\"data\":" data "}"
#define TENSOR(name, shape, type, data)                                                            \
    "{\"name\":\"" name "\",\"shape\":" shape ",\"datatype\":\"" type "\",\"data\":" data "}"
#define BINARY(name, shape, type, size)                                                            \
    "{\"name\":\"" name "\",\"shape\":" shape ",\"datatype\":\"" type                              \
    "\",\"parameters\":{\"binary_data_size\":" #size "}}"
#define BODY(inputs) "{\"inputs\":[" inputs "]}"
#define ABC GENES(3, "[\"A\",\"B\",\"C\"]")

/* ---- what is taken
 * ------------------------------------------------------------------------------*/

static void assert_dense(const char *json, const void *behind, size_t n)
{
    fixture f;
    if (decode_bytes(&f, json, strlen(json), behind, n))
        fail_msg("%s: %s", json, f.problem.detail);
    const scd_request *r = &f.request;
    assert_true(r->is_matrix && r->n_cells == 2 && r->n_shared_genes == 3);
    assert_true(scd_text_is(r->shared_genes[2], "C"));
    assert_int_equal(r->cells[0].n, 2);
    assert_int_equal(r->cells[0].columns[0], 0);
    assert_int_equal(r->cells[0].columns[1], 2);
    assert_true(r->cells[0].values[0] == 1 && r->cells[0].values[1] == 2);
    assert_int_equal(r->cells[1].n, 1);
    assert_int_equal(r->cells[1].columns[0], 1);
    assert_true(r->cells[1].values[0] == 3 && r->cells[1].total == 0);
    assert_string_equal(r->places.values, "/inputs/1/data");
    assert_true(r->places.is_dense && r->places.cell_step == 3);
    finish(&f);
}

static void a_dense_matrix_is_taken_flat_nested_and_as_bytes(void **state)
{
    (void)state;
    static const float bytes[] = {1, 0, 2, 0, 3, 0};
    assert_dense(BODY(ABC "," TENSOR("matrix", "[2,3]", "FP32", "[1,0,2,0,3,0]")), NULL, SIZE_MAX);
    assert_dense(BODY(ABC "," TENSOR("matrix", "[2,3]", "FP32", "[ [1,0,2],[0,3,0]]")), NULL,
                 SIZE_MAX);
    assert_dense(BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 24)), bytes, 24);
    static const char both[] = "\1\0\0\0A\1\0\0\0B\1\0\0\0C\1\0\2\0\3\0";
    assert_dense(BODY(BINARY("genes", "[3]", "BYTES", 15) "," BINARY("matrix", "[2,3]", "INT8", 6)),
                 both, 21);
}

static void sparse_rows_are_taken_in_any_mix_of_json_and_bytes(void **state)
{
    (void)state;
    fixture f;
    static const struct {
        int64_t indptr[3];
        double totals[2];
    } bytes = {{0, 2, 3}, {10, 20}};
    static const char json[] = BODY(BINARY("indptr", "[3]", "INT64", 24) "," TENSOR(
        "values", "[3]", "FP32",
        "[1,2,3.5]") "," BINARY("totals", "[2]", "FP64",
                                16) "," ABC "," TENSOR("indices", "[3]", "INT32", "[2,0,1]"));
    if (decode_bytes(&f, json, strlen(json), &bytes, sizeof bytes))
        fail_msg("%s", f.problem.detail);
    const scd_request *r = &f.request;
    assert_true(r->is_matrix && r->n_cells == 2);
    assert_int_equal(r->cells[0].n, 2);
    assert_int_equal(r->cells[0].columns[0], 2);
    assert_true(r->cells[1].values[0] == 3.5 && r->cells[1].total == 20);
    assert_string_equal(r->places.cells, "/inputs/0/data");
    assert_string_equal(r->places.values, "/inputs/1/data");
    finish(&f);
}

static void values_may_have_genes_of_their_own_and_be_one_cell(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(decode(&f, BODY(GENES(3, "[\"A\",\"B\",\"A\"]") "," TENSOR(
                                    "values", "[3]", "FP32",
                                    "[1,2,3]") "," TENSOR("indptr", "[3]", "UINT8", "[0,2,3]"))),
                     SCD_PROBLEM_NONE);
    assert_true(!f.request.is_matrix && f.request.n_cells == 2);
    assert_true(scd_text_is(f.request.cells[1].genes[0], "A") && !f.request.cells[1].columns);
    finish(&f);
    assert_int_equal(
        decode(&f, BODY(ABC "," TENSOR("values", "[3]", "FP64",
                                       "[1,2.5,3]") "," TENSOR("totals", "[1]", "INT32", "[9]"))),
        SCD_PROBLEM_NONE);
    assert_int_equal(f.request.n_cells, 1);
    assert_int_equal(f.request.cells[0].n, 3);
    assert_true(f.request.cells[0].total == 9 && f.request.places.cell_step == 0);
    finish(&f);
}

static void numbers_are_taken_of_every_datatype(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        size_t n;
        unsigned char bytes[16];
        double first, second;
    } cases[] = {
        {"UINT8", 2, {255, 2}, 255, 2},
        {"INT8", 2, {255, 2}, -1, 2},
        {"UINT16", 4, {255, 255, 1, 0}, 65535, 1},
        {"INT16", 4, {254, 255, 1, 0}, -2, 1},
        {"UINT32", 8, {255, 255, 255, 255, 1}, 4294967295.0, 1},
        {"INT32", 8, {255, 255, 255, 255, 1}, -1, 1},
        {"UINT64", 16, {0, 0, 0, 0, 1, 0, 0, 0, 7}, 4294967296.0, 7},
        {"INT64", 16, {255, 255, 255, 255, 255, 255, 255, 255, 7}, -1, 7},
        {"FP16", 4, {0, 0x3C, 0, 0xC1}, 1, -2.5},
        {"BF16", 4, {0x80, 0x3F, 0x20, 0xC0}, 1, -2.5},
        {"FP32", 8, {0, 0, 0x80, 0x3F, 0, 0, 0x20, 0xC0}, 1, -2.5},
        {"FP64", 16, {0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0, 0, 0, 0, 0, 0, 4, 0xC0}, 1, -2.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fixture f;
        char json[400];
        snprintf(json, sizeof json,
                 BODY(GENES(2, "[\"A\",\"B\"]") ",{\"name\":\"values\",\"shape\":[2],\"datatype\":"
                                                "\"%s\",\"parameters\":{\"binary_data_size\":%zu}"
                                                "}"),
                 cases[i].type, cases[i].n);
        if (decode_bytes(&f, json, strlen(json), cases[i].bytes, cases[i].n))
            fail_msg("%s: %s", cases[i].type, f.problem.detail);
        assert_true(f.request.cells[0].values[0] == cases[i].first);
        assert_true(f.request.cells[0].values[1] == cases[i].second);
        finish(&f);
    }
    fixture f;
    static const float nan_bytes[] = {1, NAN}; /* what a value may be is judged later */
    static const char json[] =
        BODY(GENES(2, "[\"A\",\"B\"]") "," BINARY("matrix", "[1,2]", "FP32", 8));
    assert_int_equal(decode_bytes(&f, json, strlen(json), nan_bytes, 8), SCD_PROBLEM_NONE);
    assert_true(f.request.cells[0].n == 2 && isnan(f.request.cells[0].values[1]));
    finish(&f);
}

static void parameters_and_outputs_are_kept(void **state)
{
    (void)state;
    fixture f;
    assert_int_equal(
        decode(&f, "{\"id\":\"r1\",\"model_name\":\"m\",\"parameters\":{\"input\":\"log1p_cp10k\","
                   "\"timeout\":1500001,\"on_error\":\"skip\",\"force\":true,\"top_k\":2,"
                   "\"binary_data_output\":true},\"outputs\":[{\"name\":\"label\",\"parameters\":{"
                   "\"binary_data\":false,\"x\":1}},{\"name\":\"embedding\"}],\"inputs\":[" ABC
                   "," TENSOR("values", "[3]", "FP32", "[1,2,3]") "]}"),
        SCD_PROBLEM_NONE);
    assert_true(scd_text_is(f.oip.id, "r1"));
    assert_true(f.request.force && f.request.skip_errors && f.oip.binary_output);
    assert_int_equal(f.request.input, SCD_INPUT_LOG1P_CP10K);
    assert_int_equal(f.request.timeout_ms, 1501);
    assert_int_equal(f.oip.n_outputs, 2);
    assert_true(f.oip.outputs[0].has_binary && !f.oip.outputs[0].is_binary);
    assert_false(f.oip.outputs[1].has_binary);
    assert_string_equal(scd_oip_first_parameter(&f.request), "top_k");
    assert_string_equal(f.oip.unknown, "outputs.parameters.x");
    finish(&f);
}

static void null_stands_for_what_is_not_given(void **state)
{
    (void)state;
    fixture f;
    static const float bytes[] = {1, 2, 3};
    static const char json[] =
        "{\"id\":null,\"parameters\":null,\"outputs\":null,\"inputs\":[{\"name\":\"genes\","
        "\"shape\":"
        "[3],\"datatype\":\"BYTES\",\"parameters\":null,\"data\":[\"A\",\"B\",\"C\"]},{\"name\":"
        "\"values\",\"shape\":[3],\"datatype\":\"FP32\",\"data\":null,\"parameters\":{"
        "\"binary_data_size\":12}}]}";
    if (decode_bytes(&f, json, strlen(json), bytes, sizeof bytes))
        fail_msg("%s", f.problem.detail);
    assert_true(f.oip.id.n == 0 && f.oip.n_outputs == 0 && !f.oip.unknown);
    finish(&f);
    assert_refused("{\"inputs\":null}", NULL, SIZE_MAX, SCD_PROBLEM_INVALID, "/inputs",
                   "must be an array, not null");
    assert_refused(BODY(TENSOR("genes", "[3]", "BYTES", "null")), NULL, SIZE_MAX,
                   SCD_PROBLEM_INVALID, "/inputs/0", "\"data\" is missing");
    assert_refused(BODY(TENSOR("genes", "null", "BYTES", "[]")), NULL, SIZE_MAX,
                   SCD_PROBLEM_INVALID, "/inputs/0/shape", "must be an array, not null");
}

/* ---- what is refused
 * ----------------------------------------------------------------------------*/

static void a_header_that_is_no_length_of_the_body_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "x",
                                      "-1",
                                      "1.5",
                                      "0x4",
                                      " 4",
                                      "4 ",
                                      "11",
                                      "+4",
                                      "1e1",
                                      "99999999999999999999999999",
                                      "18446744073709551617"};
    scd_oip_body body;
    scd_problem problem;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        problem = (scd_problem){0};
        assert_int_equal(scd_oip_frame(bad[i], "0123456789", 10, &body, &problem),
                         SCD_PROBLEM_BAD_REQUEST);
        assert_non_null(strstr(problem.detail, "Inference-Header-Content-Length is "));
    }
    assert_int_equal(scd_oip_frame("0010", "0123456789", 10, &body, &problem), SCD_PROBLEM_NONE);
    assert_true(body.n_json == 10 && body.n == 10 && body.has_length);
    assert_int_equal(scd_oip_frame("0", "0123456789", 10, &body, &problem), SCD_PROBLEM_NONE);
    assert_int_equal(body.n_json, 0);
    assert_int_equal(scd_oip_frame(NULL, "0123456789", 10, &body, &problem), SCD_PROBLEM_NONE);
    assert_true(body.n_json == 10 && !body.has_length);
}

static void lengths_that_lie_are_found_out(void **state)
{
    (void)state;
    static const char bytes[24] = {1, 0, 0, 0, 'A', 1, 0, 0, 0, 'B', 1, 0, 0, 0, 'C'};
    static const struct {
        const char *json;
        size_t n;
        scd_problem_kind kind;
        const char *pointer, *detail;
    } cases[] = {
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 24)), SIZE_MAX, SCD_PROBLEM_BAD_REQUEST,
         "/inputs/1/parameters/binary_data_size", "needs the header"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 24)), 23, SCD_PROBLEM_BAD_REQUEST,
         "/inputs/1/parameters/binary_data_size", "24 bytes, but the body has 23 left"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 23)), 24, SCD_PROBLEM_BAD_REQUEST, "",
         "1 bytes behind the JSON and the binary data"},
        {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,2,3]")), 5, SCD_PROBLEM_BAD_REQUEST, "",
         "5 bytes behind the JSON belong"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 23)), 23, SCD_PROBLEM_INVALID,
         "/inputs/1/parameters/binary_data_size", "is 23, but the shape says 6 elements of 4"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 9007199254740993)), 24,
         SCD_PROBLEM_BAD_REQUEST, "/inputs/1/parameters/binary_data_size", "but the body has 24"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", -4)), 24, SCD_PROBLEM_INVALID,
         "/inputs/1/parameters/binary_data_size", "whole number from 0"},
        {BODY(ABC "," BINARY("matrix", "[2,3]", "FP32", 1e30)), 24, SCD_PROBLEM_INVALID,
         "/inputs/1/parameters/binary_data_size", "whole number from 0"},
        {BODY(BINARY("genes", "[3]", "BYTES", 15) "," BINARY("values", "[3]", "UINT8", 9)), 24,
         SCD_PROBLEM_INVALID, "/inputs/1/parameters/binary_data_size", "is 9"},
        {BODY(BINARY("genes", "[2]", "BYTES", 15) "," TENSOR("values", "[2]", "FP32", "[1,2]")), 15,
         SCD_PROBLEM_INVALID, "/inputs/0/shape", "2 elements, behind which 5 bytes"},
        {BODY(BINARY("genes", "[3]", "BYTES", 12) "," TENSOR("values", "[3]", "FP32", "[1,2,3]")),
         12, SCD_PROBLEM_INVALID, "/inputs/0/data/2", "2 bytes are left"},
        {BODY(BINARY("genes", "[3]", "BYTES", 14) "," TENSOR("values", "[3]", "FP32", "[1,2,3]")),
         14, SCD_PROBLEM_INVALID, "/inputs/0/data/2", "announces 1 bytes, 0 are left"},
        {BODY(BINARY("genes", "[4]", "BYTES", 15) "," TENSOR("values", "[4]", "FP32", "[1,2,3,4]")),
         15, SCD_PROBLEM_INVALID, "/inputs/0/shape", "4 elements, which 15 bytes cannot hold"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(cases[i].json, bytes, cases[i].n, cases[i].kind, cases[i].pointer,
                       cases[i].detail);
    static const char huge[] = "\377\377\377\377AAAA";
    assert_refused(
        BODY(BINARY("genes", "[1]", "BYTES", 8) "," TENSOR("values", "[1]", "FP32", "[1]")), huge,
        8, SCD_PROBLEM_INVALID, "/inputs/0/data/0", "announces 4294967295 bytes");
    static const char wild[] = "\2\0\0\0\303A";
    assert_refused(
        BODY(BINARY("genes", "[1]", "BYTES", 6) "," TENSOR("values", "[1]", "FP32", "[1]")), wild,
        6, SCD_PROBLEM_INVALID, "/inputs/0/data/0", "not valid UTF-8");
    static const char name[] = "\15\0\0\0ABCDEFGHIJKLM";
    assert_refused(
        BODY(BINARY("genes", "[1]", "BYTES", 17) "," TENSOR("values", "[1]", "FP32", "[1]")), name,
        17, SCD_PROBLEM_INVALID, "/inputs/0/data/0", "more than the 12 bytes");
}

static const char *const bad_data[][3] = {
    {"{}", "", "\"inputs\" is missing"},
    {"[]", "", "the body must be an object"},
    {BODY(""), "/inputs", "\"genes\" is missing"},
    {"{\"inputs\":{}}", "/inputs", "must be an array"},
    {BODY("1"), "/inputs/0", "must be an object"},
    {BODY("{}"), "/inputs/0", "\"name\" is missing"},
    {BODY("{\"name\":\"genes\",\"shape\":[1],\"datatype\":\"BYTES\"}"), "/inputs/0",
     "\"data\" is missing"},
    {BODY("{\"name\":\"genes\",\"dtype\":1}"), "/inputs/0/dtype", "unknown member"},
    {BODY("{\"name\":\"a\",\"name\":\"b\"}"), "/inputs/0/name", "given twice"},
    {BODY(ABC), "/inputs", "\"matrix\" (cells, genes) is missing"},
    {BODY(ABC "," ABC), "/inputs/1", "is input 0 already"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,2]")), "/inputs/1/data",
     "has 2 elements, the shape says 3"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[[1,2]]")), "/inputs/1/data/0",
     "has 2 elements, the shape says 3"},
    {BODY(ABC "," TENSOR("matrix", "[2,3]", "FP32", "[[1,2,3]]")), "/inputs/1/data",
     "has 1 rows, the shape says 2"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[[1,2,3],[1,2,3]]")), "/inputs/1/data",
     "has 2 rows"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[[1,2,[3]]]")), "/inputs/1/data/0/2",
     "must be a number"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,\"2\",3]")), "/inputs/1/data/1",
     "must be a number"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,null,3]")), "/inputs/1/data/1",
     "must be a number"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,1e999,3]")), "/inputs/1/data/1",
     "too large"},
};

static const char *const bad_shapes[][3] = {
    {BODY(ABC "," TENSOR("matrix", "[3]", "FP32", "[1,2,3]")), "/inputs/1/shape",
     "has 1 dimensions, must have 2"},
    {BODY(ABC "," TENSOR("matrix", "[]", "FP32", "[1]")), "/inputs/1/shape", "0 dimensions"},
    {BODY(ABC "," TENSOR("matrix", "[1,2]", "FP32", "[1,2]")), "/inputs/1/shape/1",
     "2 columns for 3 genes"},
    {BODY(ABC "," TENSOR("matrix", "[0,3]", "FP32", "[]")), "/inputs", "no cells"},
    {BODY(ABC "," TENSOR("matrix", "[-1,3]", "FP32", "[]")), "/inputs/1/shape/0",
     "is -1, must be a whole number"},
    {BODY(ABC "," TENSOR("matrix", "[1.5,3]", "FP32", "[]")), "/inputs/1/shape/0", "is 1.5"},
    {BODY(ABC "," TENSOR("matrix", "[1e300,3]", "FP32", "[]")), "/inputs/1/shape/0",
     "must be a whole number"},
    {BODY(ABC "," TENSOR("matrix", "[4294967296,4294967296]", "FP32", "[]")), "/inputs/1/shape",
     "more elements than can be counted"},
    {BODY(ABC "," TENSOR("matrix", "[1,1,1,1,1,1,1,1,3]", "FP32", "[]")), "/inputs/1/shape",
     "has 9 dimensions"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP31", "[1,2,3]")), "/inputs/1/datatype",
     "\"FP31\" is no datatype"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "BOOL", "[1,2,3]")), "/inputs/1/datatype",
     "must be of a datatype for numbers, not BOOL"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "BYTES", "[1,2,3]")), "/inputs/1/datatype",
     "not BYTES"},
    {BODY(TENSOR("genes", "[1]", "INT64", "[1]")), "/inputs/0/datatype", "must be BYTES"},
    {BODY(GENES(1, "[1]") "," TENSOR("values", "[1]", "FP32", "[1]")), "/inputs/0/data/0",
     "must be a string"},
    {BODY(ABC "," TENSOR("cells", "[1]", "FP32", "[1]")), "/inputs/1", "no input \"cells\""},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,2,3]") "," TENSOR("indptr", "[2]", "INT64",
                                                                          "[0,3]")),
     "/inputs/2", "is of sparse cells"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,2,3]") "," TENSOR("totals", "[2]", "FP32",
                                                                          "[1,2]")),
     "/inputs/2/shape", "2 totals for 1 cells"},
    {BODY(ABC "," TENSOR("matrix", "[1,3]", "FP32", "[1,2,3]") "," TENSOR("totals", "[1]", "FP32",
                                                                          "[0]")),
     "/inputs/2/data/0", "must be above 0"},
};

static const char *const bad_forms[][3] = {
    {BODY(ABC "," TENSOR("values", "[2]", "FP32", "[1,2]")), "/inputs/1/data",
     "has 2 elements, but there are 3 genes"},
    {BODY(ABC "," TENSOR("values", "[2]", "FP32", "[1,2]") "," TENSOR("indices", "[2]", "INT32",
                                                                      "[0,3]")),
     "/inputs/2/data/1", "3 is not a column"},
    {BODY(ABC "," TENSOR("values", "[2]", "FP32", "[1,2]") "," TENSOR("indices", "[2]", "INT32",
                                                                      "[1,1]")),
     "/inputs/2/data/1", "comes twice"},
    {BODY(ABC "," TENSOR("values", "[2]", "FP32", "[1,2]") "," TENSOR("indices", "[1]", "INT32",
                                                                      "[1]")),
     "/inputs/1/data", "but there are 1 indices"},
    {BODY(ABC "," TENSOR("values", "[3]", "FP32", "[1,2,3]") "," TENSOR("indptr", "[2]", "INT64",
                                                                        "[0,2]")),
     "/inputs/2/data", "ends with 2, but there are 3 values"},
    {BODY(ABC "," TENSOR("values", "[3]", "FP32", "[1,2,3]") "," TENSOR("indptr", "[3]", "INT64",
                                                                        "[0,9,3]")),
     "/inputs/2/data/2", "3 comes after 9"},
    {"{\"outputs\":[{\"name\":\"a\"},{\"name\":\"a\"}],\"inputs\":[" ABC "]}", "/outputs/1",
     "is output 0 already"},
    {"{\"outputs\":[{}],\"inputs\":[" ABC "]}", "/outputs/0", "\"name\" is missing"},
    {"{\"outputs\":[{\"name\":\"a\",\"parameters\":{\"binary_data\":1}}]}",
     "/outputs/0/parameters/binary_data", "must be a boolean"},
    {"{\"parameters\":{\"timeout\":-1}}", "/parameters/timeout", "whole number"},
    {"{\"parameters\":{\"on_error\":1}}", "/parameters/on_error", "must be a string"},
    {"{\"parameters\":[]}", "/parameters", "must be an object"},
    {"{\"inputs\":[],\"inputs\":[]}", "/inputs", "given twice"},
};

static void refuse_all(const char *const (*bad)[3], size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_refused(bad[i][0], NULL, SIZE_MAX, SCD_PROBLEM_INVALID, bad[i][1], bad[i][2]);
}

static void wrong_tensors_are_refused_with_their_pointer(void **state)
{
    (void)state;
    refuse_all(bad_data, sizeof bad_data / sizeof bad_data[0]);
    refuse_all(bad_shapes, sizeof bad_shapes / sizeof bad_shapes[0]);
    refuse_all(bad_forms, sizeof bad_forms / sizeof bad_forms[0]);
    assert_refused(BODY(ABC ",{\"name\":\"matrix\",\"shape\":[1,3],\"datatype\":\"FP32\","
                            "\"data\":[1,2,3],\"parameters\":{\"binary_data_size\":12}}"),
                   "123456789012", 12, SCD_PROBLEM_INVALID, "/inputs/1", "has both");
}

static void what_exceeds_a_limit_is_too_large(void **state)
{
    (void)state;
    assert_refused(
        BODY(ABC "," TENSOR("matrix", "[5,3]", "FP32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]")), NULL,
        SIZE_MAX, SCD_PROBLEM_TOO_LARGE, "/inputs/1/shape/0", "5 cells, at most 4");
    assert_refused(BODY(GENES(7, "[\"A\",\"B\",\"C\",\"D\",\"E\",\"F\",\"G\"]") "," TENSOR(
                       "matrix", "[1,7]", "FP32", "[1,1,1,1,1,1,1]")),
                   NULL, SIZE_MAX, SCD_PROBLEM_TOO_LARGE, "/inputs/0/shape", "at most 6");
    assert_refused(BODY(GENES(7, "[\"A\",\"B\",\"C\",\"D\",\"E\",\"F\",\"G\"]") "," TENSOR(
                       "values", "[7]", "FP32", "[1,1,1,1,1,1,1]")),
                   NULL, SIZE_MAX, SCD_PROBLEM_TOO_LARGE, "/inputs/1/data/1",
                   "7 values, at most 6");
}

static const char mixed_json[] =
    "{\"id\":\"r\",\"inputs\":[" BINARY("genes", "[3]", "BYTES", 15) "," TENSOR(
        "indptr", "[3]", "INT64",
        "[0,1,3]") "," BINARY("values", "[3]", "FP32",
                              12) "," TENSOR("indices", "[3]", "INT32",
                                             "[0,1,2]") "],\"outputs\":["
                                                        "{\"name\":\"label\",\"parameters\":{"
                                                        "\"binary_data\":true}}],\"parameters\":{"
                                                        "\"top_k\":3}}";
static const char mixed_bytes[] =
    "\1\0\0\0A\1\0\0\0B\1\0\0\0C\0\0\200?\0\0\0@\0\0\100@"; /* 1, 2, 3 */
enum { MIXED_BYTES = sizeof mixed_bytes - 1 };

static void a_body_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    fixture f;
    size_t n_json = strlen(mixed_json);
    if (decode_bytes(&f, mixed_json, n_json, mixed_bytes, MIXED_BYTES))
        fail_msg("%s", f.problem.detail);
    finish(&f);
    for (size_t n = 0; n < n_json; n++) {
        assert_int_equal(decode_bytes(&f, mixed_json, n, "", 0), SCD_PROBLEM_MALFORMED_JSON);
        finish(&f);
    }
    for (size_t n = 0; n < MIXED_BYTES; n++) {
        assert_int_equal(decode_bytes(&f, mixed_json, n_json, mixed_bytes, n),
                         SCD_PROBLEM_BAD_REQUEST);
        finish(&f);
    }
}

static void flipped_bytes_are_answered_without_harm(void **state)
{
    (void)state;
    char body[sizeof mixed_json + sizeof mixed_bytes];
    size_t n_json = strlen(mixed_json), n = n_json + MIXED_BYTES;
    for (uint64_t i = 0; i < 40000; i++) {
        memcpy(body, mixed_json, n_json);
        memcpy(body + n_json, mixed_bytes, MIXED_BYTES);
        uint32_t words[4];
        scd_rng_block(11, 2, i, words);
        for (size_t k = 0; k <= words[3] % 3; k++)
            body[words[k] % n] = (char)(words[3] >> (8 + 7 * k));
        fixture f;
        scd_problem_kind kind = decode_bytes(&f, body, n_json, body + n_json, MIXED_BYTES);
        assert_true(kind == SCD_PROBLEM_NONE || f.problem.detail[0]);
        finish(&f);
    }
}

static void failing_allocations_are_reported_and_leak_nothing(void **state)
{
    (void)state;
    size_t n_json = strlen(mixed_json);
    char *bytes = malloc(n_json + MIXED_BYTES);
    memcpy(bytes, mixed_json, n_json);
    memcpy(bytes + n_json, mixed_bytes, MIXED_BYTES);
    scd_oip_body body = {bytes, n_json + MIXED_BYTES, n_json, true};
    for (long n = 0;; n++) {
        scd_arena arena;
        scd_oip_request oip;
        scd_request request = {0};
        scd_problem problem;
        scd_arena_init(&arena, 1 << 20);
        scd_mem_fail_after(n);
        scd_problem_kind kind = scd_oip_decode(&body, &limits, &arena, &oip, &request, &problem);
        scd_mem_fail_after(-1);
        scd_request_release(&request);
        scd_arena_release(&arena);
        if (kind == SCD_PROBLEM_NONE)
            break;
        assert_int_equal(kind, SCD_PROBLEM_UNAVAILABLE);
        assert_true(n < 100);
    }
    free(bytes);
}

static void a_request_past_its_arena_is_too_large(void **state)
{
    (void)state;
    size_t n_json = strlen(mixed_json);
    char bytes[sizeof mixed_json + sizeof mixed_bytes];
    memcpy(bytes, mixed_json, n_json);
    memcpy(bytes + n_json, mixed_bytes, MIXED_BYTES);
    scd_oip_body body = {bytes, n_json + MIXED_BYTES, n_json, true};
    scd_problem_kind kind = SCD_PROBLEM_TOO_LARGE;
    for (size_t max = 0; kind != SCD_PROBLEM_NONE; max += 16) {
        scd_arena arena;
        scd_oip_request oip;
        scd_request request = {0};
        scd_problem problem;
        scd_arena_init(&arena, max);
        kind = scd_oip_decode(&body, &limits, &arena, &oip, &request, &problem);
        assert_true(kind == SCD_PROBLEM_NONE || kind == SCD_PROBLEM_TOO_LARGE);
        assert_true(max < 4096);
        scd_request_release(&request);
        scd_arena_release(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dense_matrix_is_taken_flat_nested_and_as_bytes),
        cmocka_unit_test(sparse_rows_are_taken_in_any_mix_of_json_and_bytes),
        cmocka_unit_test(values_may_have_genes_of_their_own_and_be_one_cell),
        cmocka_unit_test(numbers_are_taken_of_every_datatype),
        cmocka_unit_test(parameters_and_outputs_are_kept),
        cmocka_unit_test(null_stands_for_what_is_not_given),
        cmocka_unit_test(a_header_that_is_no_length_of_the_body_is_refused),
        cmocka_unit_test(lengths_that_lie_are_found_out),
        cmocka_unit_test(wrong_tensors_are_refused_with_their_pointer),
        cmocka_unit_test(what_exceeds_a_limit_is_too_large),
        cmocka_unit_test(a_body_cut_at_any_byte_is_refused),
        cmocka_unit_test(flipped_bytes_are_answered_without_harm),
        cmocka_unit_test(failing_allocations_are_reported_and_leak_nothing),
        cmocka_unit_test(a_request_past_its_arena_is_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
