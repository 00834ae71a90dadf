/* test_job_query.c - what POST /v1/jobs may be asked, and that its text reads back. */
#include "api/job_query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static scd_problem set(scd_job_query *q, const char *const pairs[][2], size_t n)
{
    scd_problem problem = {0};
    *q = (scd_job_query){0};
    for (size_t i = 0; i < n; i++)
        scd_job_query_set(q, pairs[i][0], pairs[i][1], &problem);
    scd_job_query_check(q, &problem);
    return problem;
}
#define SET(q, ...)                                                                                \
    set(q, (const char *const[][2]){__VA_ARGS__},                                                  \
        sizeof((const char *const[][2]){__VA_ARGS__}) / sizeof(const char *[2]))

static void the_text_of_a_query_reads_back(void **state)
{
    (void)state;
    scd_job_query q, back;
    scd_problem problem =
        SET(&q, {"task", "annotate"}, {"format", "h5ad"}, {"layer", "a & b=%c/\xc3\xa9"},
            {"threshold", "0.25"}, {"embeddings", "true"}, {"on_error", "fail"},
            {"filename", "x.h5ad"}, {"webhook", "https://x.org/?a=1&b=2"});
    assert_int_equal(problem.kind, SCD_PROBLEM_NONE);
    scd_buf text, again;
    scd_buf_init(&text, 65536);
    scd_buf_init(&again, 65536);
    scd_job_query_write(&q, &text);
    assert_true(scd_job_query_read(&back, text.data));
    scd_job_query_write(&back, &again);
    assert_string_equal(text.data, again.data);
    assert_string_equal(back.layer, "a & b=%c/\xc3\xa9");
    assert_true(back.has_threshold && back.threshold == 0.25 && back.fail_on_error);
    assert_string_equal(back.webhook, "https://x.org/?a=1&b=2");
    assert_true(back.embeddings);
    scd_buf_release(&again);
    scd_buf_release(&text);
}

static void a_text_that_is_none_is_refused(void **state)
{
    (void)state;
    scd_job_query q;
    static const char *const bad[] = {"task",         "task=%",   "task=%4",
                                      "task=%zz",     "nobody=1", "threshold=x",
                                      "task=embed&&", "=",        "force=yes"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (scd_job_query_read(&q, bad[i]))
            fail_msg("\"%s\" was read", bad[i]);
    assert_true(scd_job_query_read(&q, ""));
}

static void every_wrong_parameter_is_named(void **state)
{
    (void)state;
    scd_job_query q;
    scd_problem problem = SET(&q, {"task", "fly"}, {"format", "xls"}, {"threshold", "1.5"},
                              {"force", "1"}, {"what", "?"}, {"sha256", "12"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
    static const char *const pointers[] = {"/threshold", "/force",  "/what",
                                           "/task",      "/format", "/sha256"};
    assert_int_equal(problem.n_errors, 6);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(problem.errors[i].pointer, pointers[i]);
}

static void a_list_is_of_one_task_and_names_nothing_twice(void **state)
{
    (void)state;
    scd_job_query q;
    scd_text *items;
    size_t n;
    scd_arena arena;
    scd_problem problem = SET(&q, {"task", "impute"}, {"format", "csv"}, {"genes", "CD3D, LYZ"});
    assert_int_equal(problem.kind, SCD_PROBLEM_NONE);
    scd_arena_init(&arena, 4096);
    assert_true(scd_job_list_read(q.list, &arena, &items, &n) && n == 2);
    assert_true(scd_text_is(items[0], "CD3D") && scd_text_is(items[1], "LYZ"));
    scd_arena_release(&arena);
    static const char *const bad[] = {"", "A,", ",A", "A,,B", "A, A", " , "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        problem = SET(&q, {"task", "impute"}, {"format", "csv"}, {"genes", bad[i]});
        assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
        assert_string_equal(problem.errors[0].pointer, "/genes");
    }
    problem = SET(&q, {"task", "embed"}, {"format", "csv"}, {"genes", "A"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
    problem = SET(&q, {"task", "grn"}, {"format", "csv"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
    assert_string_equal(problem.errors[0].pointer, "/regulators");
    problem = SET(&q, {"task", "grn"}, {"format", "csv"}, {"regulators", "A"}, {"genes", "A"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
    problem = SET(&q, {"task", "impute"}, {"format", "csv"}, {"pooling", "all"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
}

static void a_filename_is_a_name_and_no_path(void **state)
{
    (void)state;
    scd_job_query q;
    SET(&q, {"task", "embed"}, {"format", "csv"}, {"filename", "../a\\b\"c"});
    assert_string_equal(q.filename, ".._a_b_c");
    scd_problem problem = SET(&q, {"task", "embed"}, {"format", "csv"}, {"filename", "a\nb"});
    assert_int_equal(problem.kind, SCD_PROBLEM_INVALID);
}

static void a_file_comes_as_one_of_these_types(void **state)
{
    (void)state;
    bool is_form;
    assert_true(scd_job_takes_type("text/csv; charset=utf-8", &is_form) && !is_form);
    assert_true(scd_job_takes_type("Multipart/Form-Data; boundary=x", &is_form) && is_form);
    assert_false(scd_job_takes_type("text/csvx", &is_form));
    assert_false(scd_job_takes_type("application/json", &is_form));
    assert_false(scd_job_takes_type(NULL, &is_form));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_of_a_query_reads_back),
        cmocka_unit_test(a_text_that_is_none_is_refused),
        cmocka_unit_test(every_wrong_parameter_is_named),
        cmocka_unit_test(a_list_is_of_one_task_and_names_nothing_twice),
        cmocka_unit_test(a_filename_is_a_name_and_no_path),
        cmocka_unit_test(a_file_comes_as_one_of_these_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
