/* test_annotate_fields.c - the task's own fields of POST /v1/annotations. */
#include "api/annotate_fields.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const scd_request_limits limits = {100, 100, 32, 100};
static scd_arena arena;
static scd_request request;
static scd_problem problem;

/* The fields of a request with these members; request and arena live until `over`. */
static scd_problem_kind decode(const char *members, scd_annotate_fields *out)
{
    char body[300];
    snprintf(body, sizeof body, "{%s}", members);
    scd_arena_init(&arena, 1 << 20);
    request = (scd_request){.cells_required = false};
    problem = (scd_problem){0};
    assert_int_equal(scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem),
                     0);
    return scd_annotate_fields_decode(&request, out, &problem);
}

static void over(void)
{
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static void nothing_given_is_nothing_chosen(void **state)
{
    (void)state;
    scd_annotate_fields f;
    assert_int_equal(decode("", &f), SCD_PROBLEM_NONE);
    assert_true(!f.head.n && !f.top_k && !f.has_threshold && !f.unknown);
    over();
}

static void what_is_given_is_read_and_the_first_stranger_is_named(void **state)
{
    (void)state;
    scd_annotate_fields f;
    assert_int_equal(
        decode("\"top_k\":12,\"hed\":1,\"x\":2,\"head\":\"coarse\",\"threshold\":0", &f),
        SCD_PROBLEM_NONE);
    assert_true(scd_text_is(f.head, "coarse"));
    assert_int_equal(f.top_k, 12);
    assert_true(f.has_threshold && f.threshold == 0);
    assert_string_equal(f.unknown, "hed");
    over();
}

static void a_bad_field_is_refused_with_its_pointer(void **state)
{
    (void)state;
    static const struct {
        const char *members, *pointer;
    } bad[] = {
        {"\"top_k\":0", "/top_k"},
        {"\"top_k\":-1", "/top_k"},
        {"\"top_k\":1.5", "/top_k"},
        {"\"top_k\":\"3\"", "/top_k"},
        {"\"top_k\":1e9", "/top_k"},
        {"\"top_k\":null", "/top_k"},
        {"\"threshold\":1.01", "/threshold"},
        {"\"threshold\":-0.1", "/threshold"},
        {"\"threshold\":true", "/threshold"},
        {"\"head\":\"\"", "/head"},
        {"\"head\":3", "/head"},
        {"\"head\":null", "/head"},
    };
    scd_annotate_fields f;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(decode(bad[i].members, &f), SCD_PROBLEM_INVALID);
        assert_int_equal(problem.n_errors, 1);
        assert_string_equal(problem.errors[0].pointer, bad[i].pointer);
        over();
    }
    assert_int_equal(decode("\"top_k\":0,\"threshold\":7", &f), SCD_PROBLEM_INVALID);
    assert_int_equal(problem.n_errors, 2);
    over();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_given_is_nothing_chosen),
        cmocka_unit_test(what_is_given_is_read_and_the_first_stranger_is_named),
        cmocka_unit_test(a_bad_field_is_refused_with_its_pointer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
