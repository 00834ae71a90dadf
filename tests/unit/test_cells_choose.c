/* test_cells_choose.c - which matrix and which gene column are taken, and what is said about it. */
#include "tests/unit/h5ad_fixture.h"

#include "api/cells_choose.h"
#include "engine/base/mem.h"

#include <math.h>

static scd_arena arena;

static int choose_setup(void **state)
{
    (void)state;
    scd_arena_init(&arena, 64 << 20);
    return 0;
}

static int choose_teardown(void **state)
{
    (void)state;
    scd_arena_release(&arena);
    return 0;
}

static scd_code choose(const char *path, const char *matrix, const char *column,
                       const scd_vocab *vocab, scd_cells_choice *out, scd_error *err)
{
    scd_cells *file = h5ad_open(path);
    *err = (scd_error){0};
    scd_gene_book book = scd_gene_book_of(vocab);
    scd_code code = scd_cells_choose(file, matrix, column, vocab ? &book : NULL, &arena, out, err);
    if (code)
        assert_non_null(strstr(err->message, ".h5ad: "));
    scd_cells_close(file);
    return code;
}

static scd_cells_choice chosen(const char *path, const char *matrix)
{
    scd_cells_choice choice;
    scd_error err;
    if (choose(path, matrix, NULL, NULL, &choice, &err))
        fail_msg("%s", err.message);
    return choice;
}

static void assert_refused(const char *name, const char *matrix, const char *message)
{
    scd_cells_choice choice;
    scd_error err;
    assert_int_equal(choose(h5ad_path(name), matrix, NULL, NULL, &choice, &err), SCD_E_INVALID);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" is not in \"%s\"", message, err.message);
}

static void counts_are_found_in_the_order_layer_raw_x(void **state)
{
    (void)state;
    scd_cells_choice c = chosen(h5ad_path("choose_layer.h5ad"), NULL);
    assert_string_equal(c.matrix, "layers/counts");
    assert_int_equal(c.kind, SCD_INPUT_COUNTS);
    assert_string_equal(c.frame, "var");
    c = chosen(h5ad_path("choose_raw.h5ad"), NULL);
    assert_string_equal(c.matrix, "raw/X");
    assert_string_equal(c.frame, "raw/var");
    c = chosen(h5ad_path("choose_counts.h5ad"), NULL);
    assert_string_equal(c.matrix, "X");
    assert_non_null(strstr(c.why, "X holds counts (6 rows looked at: whole numbers up to 9)"));
}

static void counts_in_x_go_before_log1p_in_raw(void **state)
{
    (void)state;
    scd_cells_choice c = chosen(h5ad_path("choose_x_after_log.h5ad"), NULL);
    assert_string_equal(c.matrix, "X");
    assert_int_equal(c.kind, SCD_INPUT_COUNTS);
}

static void log1p_in_raw_is_taken_where_x_is_scaled(void **state)
{
    (void)state;
    scd_cells_choice c = chosen(h5ad_path("choose_raw_log.h5ad"), NULL);
    assert_string_equal(c.matrix, "raw/X");
    assert_int_equal(c.kind, SCD_INPUT_LOG1P_CP10K);
    assert_non_null(strstr(c.why, "expm1 of every row sums to 10000;"));
    assert_non_null(strstr(c.why, "X is scaled (-0.666667 in row 0, column 0)"));
    assert_true(fabs(c.normalised_to - 1e4) < 100);
}

static void another_total_than_10000_is_seen_and_told(void **state)
{
    (void)state;
    scd_cells_choice c = chosen(h5ad_path("choose_median.h5ad"), NULL);
    assert_true(c.recoverable);
    assert_true(fabs(c.normalised_to - 2412) < 25);
    assert_non_null(strstr(c.why, "sums to 2412, not 10000"));
}

static void values_that_are_no_multiples_are_not_recoverable(void **state)
{
    (void)state;
    scd_cells_choice c = chosen(h5ad_path("choose_smooth.h5ad"), NULL);
    assert_int_equal(c.kind, SCD_INPUT_LOG1P_CP10K);
    assert_false(c.recoverable);
    assert_true(c.normalised_to == 1e4);
}

static void data_of_no_use_are_refused_with_the_value_and_the_remedy(void **state)
{
    (void)state;
    assert_refused("choose_scaled.h5ad", NULL,
                   "X is scaled (-0.666667 in row 0, column 0); no "
                   "matrix of the file is of use");
    assert_refused("choose_scaled_other.h5ad", NULL,
                   "use layers/smooth (log1p_cp10k) or layers/spliced (counts)");
    assert_refused("choose_raw.h5ad", "X",
                   "X is scaled (-0.666667 in row 0, column 0); use raw/X "
                   "(counts)");
    assert_refused("choose_cpm.h5ad", NULL, "neither counts (1234.5 in row 0, column 4) nor");
    assert_refused("choose_log_cpm.h5ad", NULL, "nor log1p_cp10k (13.3535, the most is 9.2104)");
    assert_refused("choose_nan.h5ad", NULL, "X has nan in row 5, column 2");
    assert_refused("choose_infinite.h5ad", NULL, "X has inf in row 5, column 2");
    assert_refused("choose_zero.h5ad", NULL, "X is zero in the 6 rows looked at");
}

static void the_last_rows_of_a_long_file_are_looked_at_too(void **state)
{
    (void)state;
    assert_refused("choose_late.h5ad", NULL, "X is scaled (-0.5 in row 4999, column 2)");
}

static void what_the_user_names_is_taken_under_its_usual_names(void **state)
{
    (void)state;
    assert_string_equal(chosen(h5ad_path("choose_layer.h5ad"), "raw/X").matrix, "raw/X");
    assert_string_equal(chosen(h5ad_path("choose_layer.h5ad"), "raw.X").matrix, "raw/X");
    assert_string_equal(chosen(h5ad_path("choose_layer.h5ad"), "other").matrix, "layers/other");
    scd_cells_choice choice;
    scd_error err;
    assert_int_equal(choose(h5ad_path("choose_layer.h5ad"), "nope", NULL, NULL, &choice, &err),
                     SCD_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "X, raw/X, layers/counts, layers/other"));
}

static void a_broken_matrix_is_passed_over_unless_it_was_named(void **state)
{
    (void)state;
    scd_cells_choice choice;
    scd_error err;
    assert_int_equal(choose(h5ad_path("bad_indptr_short.h5ad"), NULL, NULL, NULL, &choice, &err),
                     SCD_E_CORRUPT); /* there is nothing else */
    assert_non_null(strstr(err.message, "X/indptr: 3 entries"));
    assert_int_equal(choose(h5ad_path("bad_indptr_short.h5ad"), "X", NULL, NULL, &choice, &err),
                     SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "X/indptr: 3 entries"));
}

/* ---- genes ---- */

static scd_vocab *symbols(void)
{
    static const char tsv[] = "token_id\tsymbol\n2\tCD3D\n3\tLYZ\n4\tNKG7\n";
    scd_model_config config = {
        .vocab = 8, .mask_id = 1, .pad_fill_id = 5, .bos_id = 6, .eos_id = 7};
    scd_vocab *vocab = NULL;
    scd_error err = {0};
    if (scd_vocab_parse(tsv, sizeof tsv - 1, &config, &vocab, &err))
        fail_msg("%s", err.message);
    return vocab;
}

static void the_column_that_the_vocabulary_knows_best_names_the_genes(void **state)
{
    (void)state;
    scd_cells_choice c;
    scd_error err;
    scd_vocab *vocab = symbols();
    assert_int_equal(choose(h5ad_path("choose_genes.h5ad"), NULL, NULL, vocab, &c, &err), SCD_OK);
    assert_null(c.gene_column); /* 3 known, feature_name has 2, gene_ids none */
    assert_non_null(strstr(c.why, "genes from var[index], 3 of 5 known"));
    assert_int_equal(choose(h5ad_path("choose_genes.h5ad"), NULL, NULL, NULL, &c, &err), SCD_OK);
    assert_string_equal(c.gene_column, "gene_ids"); /* by order alone */
    scd_vocab_free(vocab);
}

static void numbers_are_names_only_where_there_is_nothing_else(void **state)
{
    (void)state;
    scd_cells_choice c;
    scd_error err;
    const char *path = h5ad_path("choose_entrez.h5ad");
    assert_int_equal(choose(path, NULL, NULL, NULL, &c, &err), SCD_OK);
    assert_null(c.gene_column); /* 5 names; gene_name has 2, gene_ids none */
    assert_non_null(strstr(c.why, "genes from var[index]"));
    assert_null(strstr(c.matrix_why, "genes"));
    assert_memory_equal(c.why, c.matrix_why, strlen(c.matrix_why));
    assert_int_equal(choose(path, NULL, "gene_ids", NULL, &c, &err), SCD_OK);
    assert_string_equal(c.gene_column, "gene_ids");
}

static void a_named_gene_column_is_taken_or_missed_by_name(void **state)
{
    (void)state;
    scd_cells_choice c;
    scd_error err;
    const char *path = h5ad_path("choose_genes.h5ad");
    assert_int_equal(choose(path, NULL, "feature_name", NULL, &c, &err), SCD_OK);
    assert_string_equal(c.gene_column, "feature_name");
    assert_int_equal(choose(path, NULL, "index", NULL, &c, &err), SCD_OK);
    assert_null(c.gene_column);
    assert_int_equal(choose(path, NULL, "symbol", NULL, &c, &err), SCD_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "feature_name, gene_ids"));
}

static void any_allocation_may_fail(void **state)
{
    (void)state;
    scd_cells *file = h5ad_open(h5ad_path("choose_raw_log.h5ad"));
    scd_cells_choice c;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_mem_fail_after(n);
        code = scd_cells_choose(file, NULL, NULL, NULL, &arena, &c, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
        assert_true(n < 1000);
    }
    assert_string_equal(c.matrix, "raw/X");
    scd_cells_close(file);
}

/* ---- real files ---- */

static void the_real_files_are_what_their_description_says(void **state)
{
    (void)state;
    static const struct {
        const char *name, *matrix, *frame, *column;
        scd_input_kind kind;
        bool recoverable;
    } files[] = {
        {"kang_ifnb.h5ad", "X", "var", NULL, SCD_INPUT_COUNTS, false},
        {"pbmc_ifnb_9k.h5ad", "X", "var", NULL, SCD_INPUT_COUNTS, false},
        {"pbmc68k_reduced.h5ad", "raw/X", "raw/var", NULL, SCD_INPUT_LOG1P_CP10K, true},
        {"perturbseq_k562_gbm.h5ad", "X", "var", NULL, SCD_INPUT_LOG1P_CP10K, true},
        {"mouse_brain_1k.h5ad", "X", "var", "ensembl_id", SCD_INPUT_COUNTS, false},
        {"formats/anndata_v0.5.0.h5ad", "raw/X", "raw/var", NULL, SCD_INPUT_LOG1P_CP10K, true},
        {"formats/cellxgene_valid.h5ad", "raw/X", "raw/var", NULL, SCD_INPUT_COUNTS, false},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        scd_cells_choice c = chosen(h5ad_data(files[i].name), NULL);
        assert_string_equal(c.matrix, files[i].matrix);
        assert_string_equal(c.frame, files[i].frame);
        assert_int_equal(c.kind, files[i].kind);
        assert_int_equal(c.recoverable, files[i].recoverable);
        if (files[i].column)
            assert_string_equal(c.gene_column, files[i].column);
        else
            assert_null(c.gene_column);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, choose_setup, choose_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(counts_are_found_in_the_order_layer_raw_x),
        TEST(counts_in_x_go_before_log1p_in_raw),
        TEST(log1p_in_raw_is_taken_where_x_is_scaled),
        TEST(another_total_than_10000_is_seen_and_told),
        TEST(values_that_are_no_multiples_are_not_recoverable),
        TEST(data_of_no_use_are_refused_with_the_value_and_the_remedy),
        TEST(the_last_rows_of_a_long_file_are_looked_at_too),
        TEST(what_the_user_names_is_taken_under_its_usual_names),
        TEST(a_broken_matrix_is_passed_over_unless_it_was_named),
        TEST(the_column_that_the_vocabulary_knows_best_names_the_genes),
        TEST(numbers_are_names_only_where_there_is_nothing_else),
        TEST(a_named_gene_column_is_taken_or_missed_by_name),
        TEST(any_allocation_may_fail),
        TEST(the_real_files_are_what_their_description_says),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
