/* test_perturb_fields.c - the task's own fields of POST /v1/perturbations. */
#include "api/perturb_fields.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const scd_request_limits limits = {100, 100, 32, 20};
static scd_arena arena;
static scd_request request;
static scd_problem problem;

/* The fields of a request with these members; request and arena live until `over`. */
static scd_problem_kind decode(const char *members, scd_perturb_fields *out)
{
    static char body[20000];
    snprintf(body, sizeof body, "{%s}", members);
    scd_arena_init(&arena, 1 << 20);
    request = (scd_request){.cells_required = false};
    problem = (scd_problem){0};
    assert_int_equal(scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem),
                     0);
    return scd_perturb_fields_decode(&request, limits.max_name_bytes, &arena, out, &problem);
}

static void over(void)
{
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static void perturbations_alone_leave_the_rest_to_the_head(void **state)
{
    (void)state;
    scd_perturb_fields f;
    assert_int_equal(decode("\"perturbations\":[[\"KLF1\"],[\"KLF1\",\"BAK1\"]]", &f), 0);
    assert_int_equal(f.n, 2);
    assert_int_equal(f.genes[0].n, 1);
    assert_true(scd_text_is(f.genes[1].names[1], "BAK1"));
    assert_true(f.top_genes == SIZE_MAX && f.direction == SCD_N_DIRECTIONS);
    assert_true(!f.head.n && !f.context.n && !f.unknown);
    over();
}

static void what_is_given_is_read_and_the_first_stranger_is_named(void **state)
{
    (void)state;
    scd_perturb_fields f;
    assert_int_equal(decode("\"top_genes\":0,\"hed\":1,\"x\":2,\"head\":\"screen\","
                            "\"direction\":\"knockdown\",\"context\":\"k562\","
                            "\"perturbations\":[[\"A\"]]",
                            &f),
                     0);
    assert_true(scd_text_is(f.head, "screen") && scd_text_is(f.context, "k562"));
    assert_true(f.top_genes == 0 && f.direction == SCD_KNOCKDOWN);
    assert_string_equal(f.unknown, "hed");
    over();
}

static void a_bad_field_is_refused_with_its_pointer(void **state)
{
    (void)state;
    static const struct {
        const char *members, *pointer, *says;
    } faults[] = {
        {"\"x\":1", "/perturbations", "is missing"},
        {"\"perturbations\":[]", "/perturbations", "must be an array of 1 to 256"},
        {"\"perturbations\":\"KLF1\"", "/perturbations", "must be an array"},
        {"\"perturbations\":[\"KLF1\"]", "/perturbations/0", "must be an array of 1 to 16 gene"},
        {"\"perturbations\":[[\"A\"],[]]", "/perturbations/1", "must be an array of 1 to 16"},
        {"\"perturbations\":[[\"A\",7]]", "/perturbations/0/1", "must be a gene name"},
        {"\"perturbations\":[[\"\"]]", "/perturbations/0/0", "must be a gene name"},
        {"\"perturbations\":[[\"A\",\"B\",\"A\"]]", "/perturbations/0/2", "named twice"},
        {"\"perturbations\":[[\"ABCDEFGHIJKLMNOPQRSTUVW\"]]", "/perturbations/0/0",
         "has 23 bytes, a name may have 20"},
        {"\"perturbations\":[[\"A\"]],\"direction\":\"up\"", "/direction", "\"activation\" or"},
        {"\"perturbations\":[[\"A\"]],\"direction\":null", "/direction", "\"activation\" or"},
        {"\"perturbations\":[[\"A\"]],\"top_genes\":1.5", "/top_genes", "whole number"},
        {"\"perturbations\":[[\"A\"]],\"top_genes\":-1", "/top_genes", "whole number"},
        {"\"perturbations\":[[\"A\"]],\"head\":\"\"", "/head", "name of a head"},
        {"\"perturbations\":[[\"A\"]],\"context\":3", "/context", "name of a context"},
        {"\"perturbations\":[[\"A\"]],\"genes\":[\"A\"]", "/matrix", "is missing"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        scd_perturb_fields f;
        assert_int_equal(decode(faults[i].members, &f), SCD_PROBLEM_INVALID);
        if (problem.n_errors != 1 || strcmp(problem.errors[0].pointer, faults[i].pointer) ||
            !strstr(problem.errors[0].detail, faults[i].says))
            fail_msg("%s: %s: %s", faults[i].members, problem.errors[0].pointer,
                     problem.errors[0].detail);
        over();
    }
}

static void more_than_a_request_may_have_is_refused(void **state)
{
    (void)state;
    static char members[16000];
    scd_perturb_fields f;
    strcpy(members, "\"perturbations\":[[\"A\"]");
    for (size_t i = 0; i < SCD_MAX_PERTURBATIONS; i++)
        strcat(members, ",[\"B\"]");
    strcat(members, "]");
    assert_int_equal(decode(members, &f), SCD_PROBLEM_INVALID);
    over();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perturbations_alone_leave_the_rest_to_the_head),
        cmocka_unit_test(what_is_given_is_read_and_the_first_stranger_is_named),
        cmocka_unit_test(a_bad_field_is_refused_with_its_pointer),
        cmocka_unit_test(more_than_a_request_may_have_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
