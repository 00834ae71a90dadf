/* test_results.c - results beside the cells of a file: written, read back, refused, and with every
 * allocation failing. What other readers make of them is tests/e2e/test_files.py's. */
#include "tests/unit/h5ad_fixture.h"

#include "api/results.h"
#include "engine/base/mem.h"

#include <dirent.h>
#include <math.h>

enum { WIDTH = 3, N_LABELS = 2, N_CELLS = 6, ARENA_BYTES = 64 << 20 };

static const char *const labels[N_LABELS] = {"B", "T \"naive\", 1"};
static const float embeddings[N_CELLS][WIDTH] = {{1, 2, 3},        {4, 5, 6}, {NAN, NAN, NAN},
                                                 {-1, 0.5f, 1e9f}, {0, 0, 0}, {7, 8, 9}};
static const float probabilities[N_CELLS][N_LABELS] = {{0.9f, 0.1f}, {0.4f, 0.6f}, {NAN, NAN},
                                                       {0.5f, 0.5f}, {0, 1},       {0.2f, 0.8f}};

static const char *out_path(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", h5ad_folder, name);
    return path;
}

typedef struct job {
    scd_cells *cells;
    scd_arena arena;
    scd_file_plan plan;
} job;

static scd_code job_open(job *j, const char *input, scd_error *err)
{
    scd_file_plan_options options = {.matrix = strstr(input, ".csv") ? SCD_CELLS_IN_ROWS : NULL};
    *j = (job){0};
    scd_arena_init(&j->arena, ARENA_BYTES);
    scd_code code = scd_cells_open(input, &j->cells, err);
    return code ? code : scd_cells_plan(j->cells, &options, &j->arena, &j->plan, err);
}

static void job_close(job *j)
{
    scd_cells_close(j->cells);
    scd_arena_release(&j->arena);
}

/* In blocks of four cells. */
static scd_code add_all(job *j, const scd_results_spec *spec, scd_results *r, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t at = 0; at < N_CELLS && !code; at += 4) {
        size_t n = N_CELLS - at < 4 ? N_CELLS - at : 4;
        scd_arena arena;
        scd_cells_rows rows;
        scd_arena_init(&arena, ARENA_BYTES);
        code = scd_cells_rows_read(j->cells, j->plan.choice.matrix, at, n, &arena, &rows, err);
        scd_results_block block = {.n = n,
                                   .embeddings = spec->embedding_width ? embeddings[at] : NULL,
                                   .probabilities = spec->n_labels ? probabilities[at] : NULL,
                                   .rows = &rows,
                                   .denoised = spec->denoised ? &rows : NULL};
        if (!code)
            code = scd_results_add(r, &block, err);
        scd_arena_release(&arena);
    }
    return code;
}

static scd_code write_results(const char *input, const char *output, bool overwrite, bool embed,
                              bool annotate, bool denoised, scd_error *err)
{
    static const char *const notes[] = {"one", "two"};
    const scd_fact facts[] = {{.key = "model", .text = "m"},
                              {.key = "cells", .number = 6, .is_number = true},
                              {.key = "share", .number = 0.25, .is_number = true},
                              {.key = "warnings", .list = notes, .n_list = 2, .is_list = true}};
    job j;
    scd_results *r = NULL;
    scd_code code = job_open(&j, input, err);
    scd_results_spec spec = {.path = output,
                             .cells = j.cells,
                             .plan = &j.plan,
                             .task = annotate ? "annotate" : "embed",
                             .overwrite = overwrite,
                             .embedding_width = embed ? WIDTH : 0,
                             .n_labels = annotate ? N_LABELS : 0,
                             .labels = labels,
                             .threshold = 0.55,
                             .denoised = denoised};
    if (!code)
        code = scd_results_open(&spec, &r, err);
    if (!code)
        code = add_all(&j, &spec, r, err);
    if (!code)
        code = scd_results_commit(r, facts, 4, err);
    scd_results_free(r);
    job_close(&j);
    return code;
}

static void write_well(const char *input, const char *output, bool embed, bool annotate,
                       bool denoised)
{
    scd_error err = {0};
    if (write_results(input, output, false, embed, annotate, denoised, &err))
        fail_msg("%s", err.message);
}

static void assert_texts(scd_cells *cells, const char *column, const char *const want[N_CELLS])
{
    scd_arena arena;
    const char *const *text;
    size_t n;
    scd_error err = {0};
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_column_text(cells, "obs", column, &arena, &text, &n, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n, N_CELLS);
    for (size_t i = 0; i < n; i++) {
        if (!want[i]) {
            assert_null(text[i]);
            continue;
        }
        assert_non_null(text[i]);
        assert_string_equal(text[i], want[i]);
    }
    scd_arena_release(&arena);
}

/* ---- .h5ad ---- */

static void results_are_read_back_out_of_every_generation(void **state)
{
    (void)state;
    static const char *const inputs[] = {"good_csr.h5ad", "good_dense.h5ad", "records.h5ad",
                                         "columns.h5ad",  "tenx_v3.h5",      "cells.csv"};
    static const char *const said[] = {"B", labels[1], NULL, "B", labels[1], labels[1]};
    static const char *const sure[] = {"0.9", "0.6", NULL, "0.5", "1", "0.8"};
    static const char *const unknown[] = {"false", "false", "true", "true", "false", "false"};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        scd_arena arena;
        scd_cells_rows a, b;
        scd_cells_matrix m;
        char output[256];
        snprintf(output, sizeof output, "%s", out_path("back.h5ad"));
        write_well(h5ad_path(inputs[i]), output, true, true, true);
        scd_cells *cells = h5ad_open(output);
        assert_texts(cells, "scdiva_label", said);
        assert_texts(cells, "scdiva_probability", sure);
        assert_texts(cells, "scdiva_unknown", unknown);
        scd_arena_init(&arena, ARENA_BYTES);
        assert_int_equal(scd_cells_matrix_get(cells, "layers/scdiva_denoised", &m, NULL), SCD_OK);
        assert_int_equal(m.encoding, SCD_CELLS_CSR);
        bool is_raw = strcmp(inputs[i], "records.h5ad") == 0;
        assert_int_equal(scd_cells_rows_read(cells, is_raw ? "raw/X" : "X", 0, 6, &arena, &a, NULL),
                         SCD_OK);
        assert_int_equal(scd_cells_rows_read(cells, m.name, 0, 6, &arena, &b, NULL), SCD_OK);
        assert_memory_equal(a.indptr, b.indptr, 7 * sizeof *a.indptr);
        assert_memory_equal(a.data, b.data, a.indptr[6] * sizeof *a.data);
        scd_arena_release(&arena);
        scd_cells_close(cells);
        assert_int_equal(unlink(output), 0);
    }
}

/* ---- tables, .npy ---- */

static void assert_content(const char *path, const char *want)
{
    char got[2048];
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    got[n] = '\0';
    fclose(f);
    assert_string_equal(got, want);
    assert_int_equal(unlink(path), 0);
}

static void tables_have_a_line_for_each_cell(void **state)
{
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s", out_path("t.csv"));
    write_well(h5ad_path("good_csr.h5ad"), path, false, true, false);
    assert_content(path, "barcode,scdiva_label,scdiva_probability,scdiva_unknown\n"
                         "cell0,B,0.9,false\n"
                         "cell1,\"T \"\"naive\"\", 1\",0.6,false\n"
                         "cell2,,,true\n"
                         "cell3,B,0.5,true\n"
                         "cell4,\"T \"\"naive\"\", 1\",1,false\n"
                         "cell5,\"T \"\"naive\"\", 1\",0.8,false\n");
    snprintf(path, sizeof path, "%s", out_path("t.tsv"));
    write_well(h5ad_path("good_csr.h5ad"), path, true, false, false);
    assert_content(path, "barcode\tscdiva_1\tscdiva_2\tscdiva_3\n"
                         "cell0\t1\t2\t3\n"
                         "cell1\t4\t5\t6\n"
                         "cell2\t\t\t\n"
                         "cell3\t-1\t0.5\t1e9\n"
                         "cell4\t0\t0\t0\n"
                         "cell5\t7\t8\t9\n");
}

static void a_npy_file_holds_the_floats_and_one_matrix(void **state)
{
    (void)state;
    char path[256], head[128];
    float values[N_CELLS][WIDTH];
    snprintf(path, sizeof path, "%s", out_path("e.npy"));
    write_well(h5ad_path("good_csr.h5ad"), path, true, false, false);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fread(head, 1, sizeof head, f), sizeof head);
    assert_int_equal(fread(values, sizeof values, 1, f), 1);
    fclose(f);
    assert_memory_equal(values, embeddings, sizeof values);
    scd_error err;
    assert_int_equal(write_results(h5ad_path("good_csr.h5ad"), path, true, true, true, false, &err),
                     SCD_E_INVALID);
    assert_non_null(strstr(err.message, "one matrix"));
    unlink(path);
}

/* ---- refused ---- */

static size_t count_files(void)
{
    size_t n = 0;
    DIR *folder = opendir(h5ad_folder);
    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}

static void what_is_there_is_not_overwritten_unless_asked(void **state)
{
    (void)state;
    char one[256], two[256];
    scd_error err = {0};
    snprintf(one, sizeof one, "%s", out_path("one.h5ad"));
    snprintf(two, sizeof two, "%s", out_path("two.h5ad"));
    write_well(h5ad_path("good_csr.h5ad"), one, true, true, false);
    size_t n = count_files();
    assert_int_equal(write_results(h5ad_path("good_csr.h5ad"), one, false, true, true, false, &err),
                     SCD_E_INVALID);
    assert_non_null(strstr(err.message, "is there already"));
    assert_int_equal(write_results(one, two, false, true, false, false, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "obsm[\"X_scdiva\"] is there already"));
    assert_int_equal(write_results(one, two, false, false, true, false, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "obs[\"scdiva_label\"] is there already"));
    assert_int_equal(count_files(), n);
    assert_int_equal(write_results(one, one, true, true, true, false, &err), SCD_OK);
    assert_int_equal(count_files(), n);
    unlink(one);
}

static void a_layer_of_other_genes_than_var_has_is_refused(void **state)
{
    (void)state;
    scd_error err;
    assert_int_equal(write_results(h5ad_path("choose_raw_genes.h5ad"), out_path("layer.h5ad"),
                                   false, false, false, true, &err),
                     SCD_E_INVALID);
    assert_non_null(strstr(err.message, "raw/X has 5 genes, var 3"));
}

static void names_without_a_known_suffix_are_refused(void **state)
{
    (void)state;
    scd_error err;
    assert_int_equal(scd_results_check_path("x.h5", &err), SCD_E_INVALID);
    assert_int_equal(scd_results_check_path(".csv", &err), SCD_E_INVALID);
    assert_int_equal(scd_results_check_path("a.csv", &err), SCD_OK);
    assert_true(scd_results_is_h5ad("a/b.h5ad"));
    assert_false(scd_results_is_h5ad("a/b.npy"));
}

static void every_failed_allocation_is_reported_and_leaves_no_file(void **state)
{
    (void)state;
    static const char *const inputs[] = {"good_csr.h5ad", "records.h5ad", "mex_v3"};
    static const char *const outputs[] = {"f.h5ad", "f.h5ad", "f.h5ad"};
    for (size_t i = 0; i < 3; i++) {
        char path[256], input[512];
        snprintf(path, sizeof path, "%s", out_path(outputs[i]));
        snprintf(input, sizeof input, "%s", h5ad_path(inputs[i]));
        size_t files = count_files();
        for (long n = 0;; n++) {
            scd_error err = {0};
            scd_mem_fail_after(n);
            scd_code code = write_results(input, path, false, true, true, false, &err);
            scd_mem_fail_after(-1);
            if (!code)
                break;
            if (code != SCD_E_NOMEM)
                fail_msg("%s, allocation %ld: %s", inputs[i], n, err.message);
            unlink(path); /* whole: the one after the last allocation could not be made durable */
            assert_int_equal(count_files(), files);
            assert_true(n < 5000);
        }
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_read_back_out_of_every_generation),
        cmocka_unit_test(tables_have_a_line_for_each_cell),
        cmocka_unit_test(a_npy_file_holds_the_floats_and_one_matrix),
        cmocka_unit_test(what_is_there_is_not_overwritten_unless_asked),
        cmocka_unit_test(a_layer_of_other_genes_than_var_has_is_refused),
        cmocka_unit_test(names_without_a_known_suffix_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
