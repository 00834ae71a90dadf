/* test_cells.c - every format behind api/cells.h: the same matrix from each, real files beside what
 * they are known to hold, and bad ones with what is said about them. */
#include "tests/unit/h5ad_fixture.h"

#include "api/cells_choose.h"
#include "engine/base/mem.h"

#include <math.h>

enum { ARENA_BYTES = 256 << 20 };

/* As tests/unit/h5ad_files.py has it. */
static const double matrix[6][5] = {{0, 2, 0, 0, 1}, {3, 0, 0, 0, 0}, {0, 0, 0, 0, 0},
                                    {1, 1, 1, 1, 1}, {0, 0, 0, 7, 0}, {0, 0, 9, 0, 2}};

static void assert_rows(scd_cells *cells, const char *name, size_t first, size_t n)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_error err = {0};
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_rows_read(cells, name, first, n, &arena, &rows, &err))
        fail_msg("%s", err.message);
    for (size_t row = 0; row < n; row++) {
        uint64_t at = rows.indptr[row];
        for (uint32_t col = 0; col < 5; col++) {
            if (matrix[first + row][col] == 0)
                continue;
            assert_true(at < rows.indptr[row + 1]);
            assert_int_equal(rows.indices[at], col);
            assert_true(rows.data[at++] == matrix[first + row][col]);
        }
        assert_int_equal(at, rows.indptr[row + 1]);
    }
    scd_arena_release(&arena);
}

static void assert_column(scd_cells *cells, const char *frame, const char *column,
                          const char *first, const char *last)
{
    scd_arena arena;
    const char *const *text;
    size_t n;
    scd_error err;
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_column_text(cells, frame, column, &arena, &text, &n, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n, scd_cells_frame_rows(cells, frame));
    assert_string_equal(text[0], first);
    assert_string_equal(text[n - 1], last);
    scd_arena_release(&arena);
}

static void the_same_matrix_comes_out_of_every_format_in_any_block(void **state)
{
    (void)state;
    static const struct {
        const char *file, *format, *matrix, *ids;
    } all[] = {
        {"tenx_v3.h5", "10x h5 v3", "matrix", "gene_ids"},
        {"tenx_v2.h5", "10x h5 v2", "GRCh38", "gene_ids"},
        {"mex_v2", "10x mex", "matrix", "gene_ids"},
        {"mex_v3", "10x mex", "matrix", "gene_ids"},
        {"mex_unsorted", "10x mex", "matrix", "gene_ids"},
        {"mex_by_cells", "10x mex", "matrix", "gene_ids"},
        {"mex.zip", "10x mex", "matrix", "gene_ids"},
        {"mex_stored.zip", "10x mex", "matrix", "gene_ids"},
        {"mex.tar", "10x mex", "matrix", "gene_ids"},
        {"mex.tar.gz", "10x mex", "matrix", "gene_ids"},
        {"mex_geo.tar.gz", "10x mex", "matrix", "gene_ids"},
        {"cells.csv", "csv", SCD_CELLS_IN_ROWS, NULL},
        {"cells.csv.gz", "csv", SCD_CELLS_IN_ROWS, NULL},
        {"cells.tsv", "tsv", SCD_CELLS_IN_ROWS, NULL},
        {"cells_quoted.csv", "csv", SCD_CELLS_IN_ROWS, NULL},
        {"cells_semicolon.csv", "csv", SCD_CELLS_IN_ROWS, NULL},
        {"genes.csv", "csv", SCD_CELLS_IN_COLUMNS, NULL},
        {"genes_r.tsv", "tsv", SCD_CELLS_IN_COLUMNS, NULL},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        scd_cells *cells = h5ad_open(h5ad_path(all[i].file));
        scd_cells_matrix m;
        assert_string_equal(scd_cells_format(cells), all[i].format);
        assert_int_equal(scd_cells_matrix_get(cells, all[i].matrix, &m, NULL), SCD_OK);
        assert_int_equal(m.rows, 6);
        assert_int_equal(m.cols, 5);
        for (size_t first = 0; first <= 6; first++)
            for (size_t n = 0; n <= 6 - first; n++)
                assert_rows(cells, all[i].matrix, first, n);
        assert_column(cells, m.obs_frame, NULL, "cell0", "cell5");
        assert_column(cells, m.var_frame, NULL, "CD3D", "PPBP");
        if (all[i].ids)
            assert_column(cells, m.var_frame, all[i].ids, "ENSG0", "ENSG4");
        scd_cells_close(cells);
    }
}

/* 2.7 million entries: through a temporary file, in order and not. */
static void a_large_matrix_of_text_is_read_by_rows_and_by_columns(void **state)
{
    (void)state;
    static const char *const names[] = {"large_mex", "large_mex_unsorted", "large.csv.gz"};
    scd_cells *truth = h5ad_open(h5ad_path("large_csr.h5ad"));
    for (size_t i = 0; i < 3; i++) {
        scd_cells *cells = h5ad_open(h5ad_path(names[i]));
        for (size_t first = 0; first < 3000; first += 700) {
            scd_arena arena;
            scd_cells_rows a, b;
            const char *name = i == 2 ? SCD_CELLS_IN_COLUMNS : "matrix";
            scd_arena_init(&arena, ARENA_BYTES);
            assert_int_equal(scd_cells_rows_read(truth, "X", first, 200, &arena, &a, NULL), SCD_OK);
            assert_int_equal(scd_cells_rows_read(cells, name, first, 200, &arena, &b, NULL),
                             SCD_OK);
            assert_memory_equal(a.indptr, b.indptr, 201 * sizeof *a.indptr);
            assert_memory_equal(a.indices, b.indices, a.indptr[200] * sizeof *a.indices);
            assert_memory_equal(a.data, b.data, a.indptr[200] * sizeof *a.data);
            scd_arena_release(&arena);
        }
        scd_cells_close(cells);
    }
    scd_cells_close(truth);
}

/* ---- choosing ---- */

static scd_vocab *symbols(void)
{
    static const char tsv[] = "token_id\tsymbol\n2\tCD3D\n3\tLYZ\n4\tNKG7\n";
    static const scd_model_config config = {
        .vocab = 8, .mask_id = 1, .pad_fill_id = 5, .bos_id = 6, .eos_id = 7};
    scd_vocab *vocab = NULL;
    scd_error err;
    if (scd_vocab_parse(tsv, sizeof tsv - 1, &config, &vocab, &err))
        fail_msg("%s", err.message);
    return vocab;
}

static void the_side_of_a_table_and_the_genome_are_those_whose_genes_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *file, *matrix;
        bool blind; /* without a vocabulary */
    } all[] = {
        {"cells.csv", SCD_CELLS_IN_ROWS, false},
        {"genes.csv", SCD_CELLS_IN_COLUMNS, false},
        {"genes_r.tsv", SCD_CELLS_IN_COLUMNS, false},
        {"genes_barcodes.csv", SCD_CELLS_IN_COLUMNS, true},
        {"tenx_two.h5", "hg38", false},
        {"tenx_two.h5", "a_mouse", true}, /* equal names: the one with most entries */
    };
    scd_vocab *vocab = symbols();
    scd_gene_book book = scd_gene_book_of(vocab);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        scd_cells *cells = h5ad_open(h5ad_path(all[i].file));
        scd_cells_choice c;
        scd_arena arena;
        scd_error err = {0};
        scd_arena_init(&arena, ARENA_BYTES);
        if (scd_cells_choose(cells, NULL, NULL, all[i].blind ? NULL : &book, &arena, &c, &err))
            fail_msg("%s", err.message);
        if (strcmp(c.matrix, all[i].matrix) != 0)
            fail_msg("%s: %s", all[i].file, c.why);
        assert_int_equal(c.kind, SCD_INPUT_COUNTS);
        assert_non_null(strstr(c.why, "of the matrices"));
        scd_arena_release(&arena);
        scd_cells_close(cells);
    }
    scd_vocab_free(vocab);
}

static void a_gene_column_of_any_name_is_found_where_the_usual_ones_hold_nothing_known(void **state)
{
    (void)state;
    scd_vocab *vocab = symbols();
    scd_gene_book book = scd_gene_book_of(vocab);
    scd_cells *cells = h5ad_open(h5ad_path("good_odd_column.h5ad"));
    scd_cells_choice c;
    scd_arena arena;
    scd_error err = {0};
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_choose(cells, NULL, NULL, &book, &arena, &c, &err))
        fail_msg("%s", err.message);
    assert_string_equal(c.gene_column, "HGNC");
    scd_arena_release(&arena);
    scd_cells_close(cells);
    scd_vocab_free(vocab);
}

/* ---- bad files ---- */

static scd_code read_all(const char *path, scd_error *err)
{
    scd_cells *cells = NULL;
    scd_cells_matrix m;
    scd_cells_rows rows;
    scd_arena arena;
    scd_arena_init(&arena, ARENA_BYTES);
    scd_code code = scd_cells_open(path, &cells, err);
    if (!code)
        code = scd_cells_matrix_get(cells, scd_cells_matrix_name(cells, 0), &m, err);
    if (!code)
        code = scd_cells_rows_read(cells, m.name, 0, m.rows, &arena, &rows, err);
    scd_cells_close(cells);
    scd_arena_release(&arena);
    return code;
}

static void bad_files_are_refused_with_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        scd_code code;
        const char *message;
    } all[] = {
        {"bad_short_line.csv", SCD_E_CORRUPT, "line 3: 5 fields, the lines before have 6"},
        {"bad_word.csv", SCD_E_INVALID, "line 3: column \"LYZ\": \"many\" is no number"},
        {"bad_first.csv", SCD_E_INVALID, "line 2: column \"CD3D\": \"none\" is no number"},
        {"bad_nan.csv", SCD_E_INVALID, "\"nan\" is no number"},
        {"bad_hex.csv", SCD_E_INVALID, "\"0x10\" is no number"},
        {"bad_quote.csv", SCD_E_INVALID, "field 1: quotes that do not match"},
        {"bad_nul.csv", SCD_E_INVALID, "of no known format"},
        {"bad_latin.csv", SCD_E_INVALID, "name 1 is not UTF-8"},
        {"bad_no_names.csv", SCD_E_INVALID, "its first column holds numbers"},
        {"bad_one_line.csv", SCD_E_INVALID, "one line, no values"},
        {"bad_cut.csv.gz", SCD_E_CORRUPT, "its gzip stream does not end"},
        {"bad_damaged.csv.gz", SCD_E_CORRUPT, "damaged gzip"},
        {"bad.bz2", SCD_E_INVALID, "compressed with bzip2"},
        {"bad_alone.mtx", SCD_E_INVALID, "a matrix without its names"},
        {"bad_mex_missing", SCD_E_INVALID, "no barcodes.tsv in it"},
        {"bad_mex_twice", SCD_E_INVALID, "more than one matrix"},
        {"bad_mex_shape", SCD_E_CORRUPT, "matrix.mtx is 7 x 6"},
        {"bad_mex_index", SCD_E_CORRUPT, "line 3: row 6, column 1; the matrix has 5 x 6"},
        {"bad_mex_few", SCD_E_CORRUPT, "cut off: ends after 1 of 3 entries"},
        {"bad_mex_many", SCD_E_CORRUPT, "more than the 1 entries it speaks of"},
        {"bad_mex_array", SCD_E_INVALID, "coordinate integer general"},
        {"bad_mex_huge", SCD_E_CORRUPT, "is 4000000000 x 4000000000"},
        {"bad_slip.zip", SCD_E_INVALID, "../matrix.mtx: a name that leads outside"},
        {"bad_slip.tar", SCD_E_INVALID, "/etc/matrix.mtx: a name that leads outside"},
        {"bad_link.tar", SCD_E_INVALID, "matrix.mtx: a link or device"},
        {"bad_encrypted.zip", SCD_E_INVALID, "matrix.mtx: encrypted"},
        {"bad_cut.zip", SCD_E_CORRUPT, "bad_cut.zip: "},
        {"bad_empty.zip", SCD_E_INVALID, "no matrix.mtx in it"},
        {"bad_bomb.tar.gz", SCD_E_TOO_LARGE, "matrix.mtx.gz: unpacks to more than"},
        {"bad_tenx_shape.h5", SCD_E_CORRUPT, "matrix/shape: 5 x 7, but there are 5 features"},
        {"bad_tenx_indptr.h5", SCD_E_CORRUPT, "matrix/indptr"},
        {"bad_mudata.h5mu", SCD_E_INVALID, "a MuData file"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        scd_error err = {0};
        const char *path = h5ad_path(all[i].file);
        scd_code code = read_all(path, &err);
        if (code != all[i].code || !strstr(err.message, all[i].message))
            fail_msg("%s: %s: \"%s\"", all[i].file, scd_code_name(code), err.message);
        if (!strstr(err.message, all[i].file))
            fail_msg("%s is not in \"%s\"", all[i].file, err.message);
    }
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"tenx_v3.h5", "mex_v3", "mex.tar.gz", "genes.csv",
                                        "mex_unsorted"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *path = h5ad_path(names[i]);
        for (long n = 0;; n++) {
            scd_error err = {0};
            scd_mem_fail_after(n);
            scd_code code = read_all(path, &err);
            scd_mem_fail_after(-1);
            if (!code)
                break;
            if (code != SCD_E_NOMEM)
                fail_msg("%s, allocation %ld: %s", names[i], n, err.message);
            assert_true(n < 2000);
        }
    }
}

/* ---- real files ---- */

static void real_files_hold_what_they_are_known_to_hold(void **state)
{
    (void)state;
    static const struct {
        const char *file, *matrix;
        size_t rows, cols;
        uint64_t n;
    } all[] = {
        {"formats/10x_v3.h5", "matrix", 1107, 507, 23866},
        {"formats/10x_v3_mex", "matrix", 1107, 507, 23866},
        {"formats/10x_v2.h5", "hg19_chr21", 12, 343, 12},
        {"formats/10x_v2_mex", "matrix", 12, 343, 12},
        {"formats/10x_v2_two_genomes.h5", "another_genome", 12, 343, 12},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        scd_cells_matrix m;
        scd_cells *cells = h5ad_open(h5ad_data(all[i].file));
        assert_int_equal(scd_cells_matrix_get(cells, all[i].matrix, &m, NULL), SCD_OK);
        assert_int_equal(m.rows, all[i].rows);
        assert_int_equal(m.cols, all[i].cols);
        assert_int_equal(m.n_stored, all[i].n);
        scd_cells_close(cells);
    }
}

static void the_two_forms_of_one_real_matrix_are_the_same(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows a, b;
    char path[512];
    snprintf(path, sizeof path, "%s", h5ad_data("formats/10x_v3.h5"));
    scd_cells *h5 = h5ad_open(path), *mex = h5ad_open(h5ad_data("formats/10x_v3_mex"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_rows_read(h5, "matrix", 0, 1107, &arena, &a, NULL), SCD_OK);
    assert_int_equal(scd_cells_rows_read(mex, "matrix", 0, 1107, &arena, &b, NULL), SCD_OK);
    assert_memory_equal(a.indptr, b.indptr, 1108 * sizeof *a.indptr);
    assert_memory_equal(a.indices, b.indices, a.indptr[1107] * sizeof *a.indices);
    assert_memory_equal(a.data, b.data, a.indptr[1107] * sizeof *a.data);
    scd_arena_release(&arena);
    scd_cells_close(mex);
    scd_cells_close(h5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_matrix_comes_out_of_every_format_in_any_block),
        cmocka_unit_test(a_large_matrix_of_text_is_read_by_rows_and_by_columns),
        cmocka_unit_test(the_side_of_a_table_and_the_genome_are_those_whose_genes_are_known),
        cmocka_unit_test(
            a_gene_column_of_any_name_is_found_where_the_usual_ones_hold_nothing_known),
        cmocka_unit_test(bad_files_are_refused_with_the_place),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(real_files_hold_what_they_are_known_to_hold),
        cmocka_unit_test(the_two_forms_of_one_real_matrix_are_the_same),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
