/* test_results_table.c - results that are tables, and the layer of values that were found: what is
 * written, and every allocation failing. What anndata makes of them is tests/e2e/test_tasks.py's.
 */
#include "tests/unit/h5ad_fixture.h"

#include "api/results.h"
#include "engine/base/mem.h"

#include <math.h>

enum { N_CELLS = 6, ARENA_BYTES = 64 << 20 };

static const char *const names[] = {"A", "B, \"b\"", "C"};
static const float halves[] = {0.5f, NAN, -1.5f};
static const double thirds[] = {1.0 / 3, NAN, 2};
static const int64_t wholes[] = {-7, 0, INT64_MAX};
static const uint8_t bools[] = {1, 0, 1};
static const float matrix[] = {1, 2, 3, 4};
static const scd_table table = {.n_rows = 3,
                                .n_columns = 5,
                                .columns = {{.name = "name", .texts = names},
                                            {.name = "half", .floats = halves},
                                            {.name = "third", .doubles = thirds},
                                            {.name = "whole", .wholes = wholes},
                                            {.name = "is", .bools = bools}},
                                .matrix = matrix,
                                .n_matrix_rows = 2,
                                .n_matrix_columns = 2};

static const char *out_path(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", h5ad_folder, name);
    return path;
}

static scd_code write_table(const char *input, const char *output, const scd_table *t,
                            scd_error *err)
{
    const scd_fact facts[] = {{.key = "model", .text = "m"}};
    scd_file_plan_options options = {.matrix = strstr(input, ".csv") ? SCD_CELLS_IN_ROWS : NULL};
    scd_file_plan plan;
    scd_arena arena;
    scd_cells *cells = NULL;
    scd_results *r = NULL;
    scd_cells_rows rows;
    scd_arena_init(&arena, ARENA_BYTES);
    scd_code code = scd_cells_open(input, &cells, err);
    if (!code)
        code = scd_cells_plan(cells, &options, &arena, &plan, err);
    const scd_results_spec spec = {.path = output,
                                   .cells = cells,
                                   .plan = &plan,
                                   .task = "grn",
                                   .overwrite = true,
                                   .table = t};
    if (!code)
        code = scd_results_open(&spec, &r, err);
    if (!code)
        code = scd_cells_rows_read(cells, plan.choice.matrix, 0, N_CELLS, &arena, &rows, err);
    const scd_results_block block = {.n = N_CELLS, .rows = &rows};
    if (!code)
        code = scd_results_add(r, &block, err);
    if (!code)
        code = scd_results_commit(r, facts, 1, err);
    scd_results_free(r);
    scd_cells_close(cells);
    scd_arena_release(&arena);
    return code;
}

static void write_well(const char *input, const char *output)
{
    scd_error err = {0};
    if (write_table(input, output, &table, &err))
        fail_msg("%s", err.message);
}

static size_t content(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, cap - 1, f);
    out[n] = '\0';
    fclose(f);
    return n;
}

static void a_table_has_its_own_lines_in_text(void **state)
{
    (void)state;
    char path[256], got[1024];
    snprintf(path, sizeof path, "%s", out_path("t.csv"));
    write_well(h5ad_path("good_csr.h5ad"), path);
    content(path, got, sizeof got);
    assert_string_equal(got, "name,half,third,whole,is\n"
                             "A,0.5,0.3333333333333333,-7,true\n"
                             "\"B, \"\"b\"\"\",,,0,false\n"
                             "C,-1.5,2,9223372036854775807,true\n");
}

static void a_npy_file_holds_the_matrix_of_a_table_that_has_one(void **state)
{
    (void)state;
    char path[256], got[1024];
    scd_error err = {0};
    scd_table plain = table;
    snprintf(path, sizeof path, "%s", out_path("t.npy"));
    write_well(h5ad_path("good_csr.h5ad"), path);
    size_t n = content(path, got, sizeof got);
    assert_memory_equal(got + n - sizeof matrix, matrix, sizeof matrix);
    assert_non_null(strstr(got + 10, "(2, 2)"));
    plain.matrix = NULL;
    assert_int_equal(write_table(h5ad_path("good_csr.h5ad"), path, &plain, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "no matrix"));
    unlink(path);
}

static void an_h5ad_of_any_generation_keeps_its_cells_beside_a_table(void **state)
{
    (void)state;
    static const char *const inputs[] = {"good_csr.h5ad", "records.h5ad", "columns.h5ad",
                                         "tenx_v3.h5", "cells.csv"};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s", out_path("t.h5ad"));
        write_well(h5ad_path(inputs[i]), path);
        scd_cells *cells = h5ad_open(path);
        assert_int_equal(scd_cells_n_obs(cells), N_CELLS);
        scd_cells_close(cells);
        unlink(path);
    }
}

static void a_layer_has_what_was_found_and_the_rest_as_the_model_sees_it(void **state)
{
    (void)state;
    static const bool left_out[] = {false, true, false};
    static const int32_t values_of[] = {-1, -1, 1};
    static const uint64_t indptr[] = {0, 2, 3};
    static const uint32_t indices[] = {0, 1, 2};
    static const double counts[] = {5, 100, 3};
    static const float values[][2] = {{9, 0.25f}, {9, NAN}};
    const scd_file_plan plan = {.n_genes = 3, .left_out = left_out};
    const scd_results_spec spec = {
        .plan = &plan, .denoised = true, .values_of = values_of, .n_values = 2};
    const scd_cells_rows rows = {.n = 2, .indptr = indptr, .indices = indices, .data = counts};
    scd_cells_rows layer;
    scd_arena arena;
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(
        scd_results_layer(&spec, values, sizeof values[0], &rows, &arena, &layer, NULL), SCD_OK);
    assert_int_equal(layer.indptr[1], 2);
    assert_int_equal(layer.indptr[2], 3);
    assert_int_equal(layer.indices[0], 0);
    assert_true((float)layer.data[0] == (float)log1p(1e4)); /* its total is that of genes alone */
    assert_int_equal(layer.indices[1], 2);
    assert_true(layer.data[1] == 0.25);
    assert_true(layer.indices[2] == 2 && isnan(layer.data[2]));
    scd_arena_release(&arena);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    static const char *const outputs[] = {"f.h5ad", "f.csv", "f.npy"};
    for (size_t i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s", out_path(outputs[i]));
        for (long n = 0;; n++) {
            scd_error err = {0};
            scd_mem_fail_after(n);
            scd_code code = write_table(h5ad_path("good_csr.h5ad"), path, &table, &err);
            scd_mem_fail_after(-1);
            if (!code)
                break;
            if (code != SCD_E_NOMEM)
                fail_msg("%s, allocation %ld: %s", outputs[i], n, err.message);
            assert_true(n < 5000);
        }
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_has_its_own_lines_in_text),
        cmocka_unit_test(a_npy_file_holds_the_matrix_of_a_table_that_has_one),
        cmocka_unit_test(an_h5ad_of_any_generation_keeps_its_cells_beside_a_table),
        cmocka_unit_test(a_layer_has_what_was_found_and_the_rest_as_the_model_sees_it),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
