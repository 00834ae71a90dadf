/* test_denoise_fields.c - the task's own fields of POST /v1/denoise, /v1/generate and /v1/grn. */
#include "api/denoise_fields.h"
#include "api/grn_fields.h"

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

/* A request with these members; it and its arena live until `over`. */
static void read(const char *members)
{
    char body[600];
    snprintf(body, sizeof body, "{%s}", members);
    scd_arena_init(&arena, 1 << 20);
    request = (scd_request){.cells_required = false};
    problem = (scd_problem){0};
    assert_int_equal(scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem),
                     0);
}

static void over(void)
{
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static void a_mask_is_a_fraction_or_genes_and_comes_with_how_to_sample(void **state)
{
    (void)state;
    scd_denoise_fields f;
    read("\"mask\":{\"fraction\":0.25,\"seed\":9007199254740991},\"steps\":7,\"temperature\":0.5,"
         "\"confidence\":1,\"refresh\":true,\"pooling\":\"clean\",\"candidates\":[\"A\",\"B\"],"
         "\"gene_scores\":false,\"hed\":1");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.fraction == 0.25 && f.seed == 9007199254740991u && !f.mask.given);
    assert_true(f.sampling.steps == 7 && f.sampling.temperature == 0.5f && f.sampling.refresh);
    assert_true(f.sampling.confidence == 1 && f.sampling.clean && f.sampling.candidates.n == 2);
    assert_true(f.has_per_gene && !f.per_gene);
    assert_true(scd_text_is(f.sampling.candidates.names[1], "B"));
    assert_string_equal(f.unknown, "hed");
    over();
    read("\"mask\":{\"genes\":[\"CD3D\"]}");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.mask.n == 1 && f.fraction == 0 && !f.sampling.steps && f.seed == 0);
    over();
}

/* 0.001 is a little less than the nearest float, which is the bound. */
static void the_least_temperature_is_taken_as_it_is_written(void **state)
{
    (void)state;
    scd_denoise_fields f;
    read("\"impute\":[\"A\"],\"temperature\":0.001");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.sampling.temperature == SCD_MIN_TEMPERATURE);
    over();
    read("\"impute\":[\"A\"],\"temperature\":1e-60");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem),
                     SCD_PROBLEM_INVALID);
    over();
}

static void imputed_genes_are_a_list_of_names(void **state)
{
    (void)state;
    scd_denoise_fields f;
    read("\"impute\":[\"CD3D\",\"LYZ\"]");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.impute.given && f.impute.n == 2 && !f.has_per_gene);
    over();
}

static void lengths_are_one_or_many_and_default_to_none(void **state)
{
    (void)state;
    scd_generate_fields f;
    read("");
    assert_int_equal(scd_generate_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.n == 1 && !f.n_lengths && !f.values && f.seed == 0);
    over();
    read("\"n\":3,\"length\":[5,7,9],\"seed\":2,\"values\":[1,2.5]");
    assert_int_equal(scd_generate_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.n == 3 && f.n_lengths == 3 && f.lengths[2] == 9 && f.values[1] == 2.5);
    over();
    read("\"length\":12");
    assert_int_equal(scd_generate_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.n_lengths == 1 && f.lengths[0] == 12);
    over();
}

/* What is wrong with each, and where: the details are those of tests/e2e/test_denoise.py. */
static void every_fault_is_named_at_once(void **state)
{
    (void)state;
    scd_denoise_fields f;
    scd_generate_fields g;
    read("\"mask\":{\"fraction\":2,\"genes\":[\"\"],\"x\":1},\"steps\":0.5,\"refresh\":0,"
         "\"pooling\":1");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem),
                     SCD_PROBLEM_INVALID);
    static const char *const pointers[] = {"/mask/fraction", "/mask/genes/0", "/mask/x", "/mask",
                                           "/steps",         "/refresh",      "/pooling"};
    assert_int_equal(problem.n_errors, sizeof pointers / sizeof pointers[0]);
    for (size_t i = 0; i < problem.n_errors; i++)
        assert_string_equal(problem.errors[i].pointer, pointers[i]);
    over();
    read("\"mask\":{\"fraction\":0.5,\"fraction\":0.3,\"a/b~\":1}");
    assert_int_equal(scd_denoise_fields_decode(&request, &arena, &f, &problem),
                     SCD_PROBLEM_INVALID);
    assert_int_equal(problem.n_errors, 2);
    assert_string_equal(problem.errors[0].pointer, "/mask/fraction");
    assert_string_equal(problem.errors[1].pointer, "/mask/a~1b~0");
    over();
    read("\"n\":-1,\"length\":[3,\"x\"],\"values\":[true],\"seed\":1e300,\"temperature\":1e-9");
    assert_int_equal(scd_generate_fields_decode(&request, &arena, &g, &problem),
                     SCD_PROBLEM_INVALID);
    assert_int_equal(problem.n_errors, 5);
    over();
}

static void regulators_come_with_layers_heads_and_how_many_targets(void **state)
{
    (void)state;
    scd_grn_fields f;
    read("\"regulators\":[\"SPI1\"]");
    assert_int_equal(scd_grn_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.regulators.n == 1 && f.top_k == SCD_GRN_TOP_K && !f.layers.n && !f.heads.n);
    over();
    read("\"regulators\":[\"SPI1\",\"TCF7\"],\"top_k\":7,\"layers\":[0,3],\"heads\":[1],\"x\":0");
    assert_int_equal(scd_grn_fields_decode(&request, &arena, &f, &problem), 0);
    assert_true(f.top_k == 7 && f.layers.n == 2 && f.layers.numbers[1] == 3 && f.heads.n == 1);
    assert_string_equal(f.unknown, "x");
    over();
    read("\"top_k\":0,\"layers\":3,\"heads\":[-1]");
    assert_int_equal(scd_grn_fields_decode(&request, &arena, &f, &problem), SCD_PROBLEM_INVALID);
    static const char *const pointers[] = {"/top_k", "/layers", "/heads/0", ""};
    assert_int_equal(problem.n_errors, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(problem.errors[i].pointer, pointers[i]);
    over();
}

static void too_little_memory_is_said_and_not_used(void **state)
{
    (void)state;
    scd_denoise_fields f;
    read("\"impute\":[\"CD3D\",\"LYZ\"]");
    scd_arena none;
    scd_arena_init(&none, 1);
    assert_int_equal(scd_denoise_fields_decode(&request, &none, &f, &problem),
                     SCD_PROBLEM_TOO_LARGE);
    scd_arena_release(&none);
    over();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mask_is_a_fraction_or_genes_and_comes_with_how_to_sample),
        cmocka_unit_test(the_least_temperature_is_taken_as_it_is_written),
        cmocka_unit_test(imputed_genes_are_a_list_of_names),
        cmocka_unit_test(lengths_are_one_or_many_and_default_to_none),
        cmocka_unit_test(every_fault_is_named_at_once),
        cmocka_unit_test(regulators_come_with_layers_heads_and_how_many_targets),
        cmocka_unit_test(too_little_memory_is_said_and_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
