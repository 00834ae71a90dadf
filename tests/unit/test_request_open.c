/* test_request_open.c - genes that come without a value, where a route allows it. */
#include "api/request.h"
#include "engine/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const scd_request_limits limits = {
    .max_cells = 4, .max_genes_per_cell = 6, .max_depth = 16, .max_name_bytes = 12};

static scd_arena arena;
static scd_request request;
static scd_problem problem;

static int begin(void **state)
{
    (void)state;
    scd_arena_init(&arena, 1 << 20);
    return 0;
}

static int end(void **state)
{
    (void)state;
    scd_request_release(&request);
    scd_arena_release(&arena);
    return 0;
}

static scd_problem_kind decode(const char *body, bool optional)
{
    scd_request_release(&request);
    request = (scd_request){.values_optional = optional};
    problem = (scd_problem){0};
    return scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem);
}

static const char cells[] = "{\"cells\": [{\"genes\": [\"A\", \"B\"]}, "
                            "{\"genes\": [\"A\", \"B\", \"C\"], \"values\": [null, 2, null]}, "
                            "{\"genes\": []}]}";
static const char matrix[] = "{\"genes\": [\"A\", \"B\"], \"matrix\": {\"format\": \"csr\", "
                             "\"indptr\": [0, 2], \"indices\": [1, 0], \"data\": [null, 3]}}";

static void a_value_may_be_null_or_all_of_them_left_out(void **state)
{
    (void)state;
    assert_int_equal(decode(cells, true), SCD_PROBLEM_NONE);
    assert_int_equal(request.n_cells, 3);
    assert_true(request.cells[0].n == 2 && isnan(request.cells[0].values[0]) &&
                isnan(request.cells[0].values[1]));
    const double *v = request.cells[1].values;
    assert_true(request.cells[1].n == 3 && isnan(v[0]) && v[1] == 2 && isnan(v[2]));
    assert_int_equal(request.cells[2].n, 0);
    assert_int_equal(decode(matrix, true), SCD_PROBLEM_NONE);
    v = request.cells[0].values;
    assert_true(isnan(v[0]) && v[1] == 3);
}

static void elsewhere_they_are_refused_with_their_place(void **state)
{
    (void)state;
    assert_int_equal(decode(cells, false), SCD_PROBLEM_INVALID);
    assert_string_equal(problem.errors[0].pointer, "/cells/0");
    assert_non_null(strstr(problem.errors[0].detail, "\"values\" is missing"));
    assert_string_equal(problem.errors[1].pointer, "/cells/1/values/0");
    assert_int_equal(decode(matrix, false), SCD_PROBLEM_INVALID);
    assert_string_equal(problem.errors[0].pointer, "/matrix/data/0");
}

static void null_is_a_value_among_values_alone(void **state)
{
    (void)state;
    static const struct {
        const char *body, *pointer;
    } bad[] = {
        {"{\"cells\": [{\"genes\": [\"A\", null]}]}", "/cells/0/genes/1"},
        {"{\"cells\": [{\"values\": [null]}]}", "/cells/0"},
        {"{\"cells\": [{\"genes\": [\"A\"], \"values\": null}]}", "/cells/0/values"},
        {"{\"cells\": [{\"genes\": [\"A\"], \"values\": []}]}", "/cells/0/values"},
        {"{\"cells\": [{\"genes\": [\"A\"], \"total\": null}]}", "/cells/0/total"},
        {"{\"genes\": [\"A\"], \"matrix\": {\"format\": \"csr\", \"indptr\": [0, null], "
         "\"indices\": [0], \"data\": [1]}}",
         "/matrix/indptr/1"},
        {"{\"cells\": [{\"genes\": [\"A\", \"B\", \"C\", \"D\", \"E\", \"F\", \"G\"]}]}",
         "/cells/0/genes"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_not_equal(decode(bad[i].body, true), SCD_PROBLEM_NONE);
        assert_string_equal(problem.errors[0].pointer, bad[i].pointer);
    }
}

static void failing_allocations_are_reported_and_leak_nothing(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        scd_arena_release(&arena);
        scd_arena_init(&arena, 1 << 20);
        scd_mem_fail_after(n);
        scd_problem_kind kind = decode(cells, true);
        scd_mem_fail_after(-1);
        if (kind == SCD_PROBLEM_NONE)
            break;
        assert_int_equal(kind, SCD_PROBLEM_UNAVAILABLE);
        assert_true(n < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_value_may_be_null_or_all_of_them_left_out, begin, end),
        cmocka_unit_test_setup_teardown(elsewhere_they_are_refused_with_their_place, begin, end),
        cmocka_unit_test_setup_teardown(null_is_a_value_among_values_alone, begin, end),
        cmocka_unit_test_setup_teardown(failing_allocations_are_reported_and_leak_nothing, begin,
                                        end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
