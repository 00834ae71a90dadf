/* test_h5ad.c - what the reader makes of sound files, its own little ones and real ones; beside
 * what h5py reads in them. */
#include "tests/unit/h5ad_fixture.h"

#include "engine/base/mem.h"

#include <math.h>
#include <pthread.h>
#include <zlib.h>

enum { ARENA_BYTES = 256 << 20 };

static const double matrix[6][5] = {{0, 2, 0, 0, 1}, {3, 0, 0, 0, 0}, {0, 0, 0, 0, 0},
                                    {1, 1, 1, 1, 1}, {0, 0, 0, 7, 0}, {0, 0, 9, 0, 2}};

/* Rows [first, first + n) are those of `matrix`, in order and without zeros. */
static void assert_rows(scd_cells *file, const char *name, size_t first, size_t n)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_error err = {0};
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_rows_read(file, name, first, n, &arena, &rows, &err))
        fail_msg("%s", err.message);
    assert_int_equal(rows.n, n);
    assert_int_equal(rows.indptr[0], 0);
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

static void every_encoding_of_a_matrix_reads_the_same_in_any_block(void **state)
{
    (void)state;
    static const char *const names[] = {
        "good_csr.h5ad",        "good_csr_int64.h5ad", "good_csr_big_endian.h5ad",
        "good_csr_uint.h5ad",   "good_csr_lzf.h5ad",   "good_csr_gzip.h5ad",
        "good_csc.h5ad",        "good_csc_gzip.h5ad",  "good_dense.h5ad",
        "good_dense_gzip.h5ad", "good_dense_int.h5ad", "good_dense_big_endian.h5ad",
        "good_dense_half.h5ad", "good_untidy.h5ad",    "linked_inside.h5ad",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        scd_cells *file = h5ad_open(h5ad_path(names[i]));
        for (size_t first = 0; first <= 6; first++)
            for (size_t n = 0; n <= 6 - first; n++)
                assert_rows(file, "X", first, n);
        scd_cells_close(file);
    }
}

static void a_matrix_says_what_it_is(void **state)
{
    (void)state;
    scd_cells_matrix m;
    scd_cells *file = h5ad_open(h5ad_path("records.h5ad"));
    assert_int_equal(scd_cells_n_obs(file), 6);
    assert_int_equal(scd_cells_n_matrices(file), 2);
    assert_string_equal(scd_cells_matrix_name(file, 0), "X");
    assert_string_equal(scd_cells_matrix_name(file, 1), "raw/X");
    assert_null(scd_cells_matrix_name(file, 2));
    assert_int_equal(scd_cells_matrix_get(file, "X", &m, NULL), SCD_OK);
    assert_int_equal(m.encoding, SCD_CELLS_DENSE);
    assert_int_equal(m.n_stored, 30);
    assert_false(m.is_raw);
    assert_int_equal(scd_cells_matrix_get(file, "raw/X", &m, NULL), SCD_OK);
    assert_int_equal(m.encoding, SCD_CELLS_CSR);
    assert_int_equal(m.n_stored, 11);
    assert_true(m.is_raw);
    assert_rows(file, "raw/X", 0, 6);
    scd_cells_close(file);
}

static void a_matrix_without_entries_or_without_cells_reads_as_such(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows rows;
    const char *const *names;
    size_t n;
    scd_cells *file = h5ad_open(h5ad_path("good_empty.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 6, &arena, &rows, NULL), SCD_OK);
    assert_int_equal(rows.indptr[6], 0);
    scd_cells_close(file);
    file = h5ad_open(h5ad_path("good_no_cells.h5ad"));
    assert_int_equal(scd_cells_n_obs(file), 0);
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 0, &arena, &rows, NULL), SCD_OK);
    assert_int_equal(scd_cells_column_text(file, "obs", NULL, &arena, &names, &n, NULL), SCD_OK);
    assert_int_equal(n, 0);
    scd_cells_close(file);
    scd_arena_release(&arena);
}

/* By columns and by rows are the same matrix; of 2.7 million entries, which do not fit one band. */
static void a_large_matrix_by_columns_is_turned_through_a_temporary_file(void **state)
{
    (void)state;
    static const size_t blocks[][2] = {{2990, 10}, {0, 100}, {2200, 300}, {1499, 3}, {0, 3000}};
    scd_cells *by_rows = h5ad_open(h5ad_path("large_csr.h5ad"));
    scd_cells *by_columns = h5ad_open(h5ad_path("large_csc.h5ad"));
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        scd_arena arena;
        scd_cells_rows a, b;
        size_t n = blocks[i][1];
        scd_arena_init(&arena, ARENA_BYTES);
        assert_int_equal(scd_cells_rows_read(by_rows, "X", blocks[i][0], n, &arena, &a, NULL), 0);
        assert_int_equal(scd_cells_rows_read(by_columns, "X", blocks[i][0], n, &arena, &b, NULL),
                         0);
        assert_memory_equal(a.indptr, b.indptr, (n + 1) * sizeof *a.indptr);
        assert_memory_equal(a.indices, b.indices, a.indptr[n] * sizeof *a.indices);
        assert_memory_equal(a.data, b.data, a.indptr[n] * sizeof *a.data);
        scd_arena_release(&arena);
    }
    scd_cells_close(by_columns);
    scd_cells_close(by_rows);
}

static void a_missing_folder_for_temporary_files_is_named(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows rows;
    scd_error err = {0};
    scd_cells *file = h5ad_open(h5ad_path("large_csc.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    setenv("TMPDIR", "/nowhere", 1);
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 1, &arena, &rows, &err), SCD_E_IO);
    unsetenv("TMPDIR");
    assert_non_null(strstr(err.message, "/nowhere"));
    assert_non_null(strstr(err.message, "41 MB"));
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 1, &arena, &rows, &err), SCD_OK);
    scd_arena_release(&arena);
    scd_cells_close(file);
}

/* ---- columns ---- */

static void assert_text(scd_cells *file, const char *frame, const char *column,
                        const char *const *wanted, size_t n)
{
    scd_arena arena;
    const char *const *text = NULL;
    size_t n_text = 0;
    scd_error err = {0};
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_column_text(file, frame, column, &arena, &text, &n_text, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n_text, n);
    for (size_t i = 0; i < n; i++) {
        if (!wanted[i])
            assert_null(text[i]);
        else if (!text[i] || strcmp(text[i], wanted[i]) != 0)
            fail_msg("%s row %zu: \"%s\", not \"%s\"", column, i, text[i] ? text[i] : "(missing)",
                     wanted[i]);
    }
    scd_arena_release(&arena);
}

static void columns_of_every_kind_read_as_text(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text[6];
    } columns[] = {
        {"whole", {"-3", "-2", "-1", "0", "1", "2"}},
        {"single", {"0.1", NULL, "inf", "1", "2.5", "-3"}},
        {"double", {"0.1", NULL, "-inf", "1e+300", "2.5", "-3"}},
        {"flag", {"true", "false", "true", "true", "false", "false"}},
        {"fixed", {"a", "bb", "", "dddd", "\u00e9", "f"}},
        {"text", {"x", "", "z", "\u00e9", "x", "x"}},
        {"a/b", {"0", "1", "2", "3", "4", "5"}},
        {"kind", {"NK", "B", NULL, "NK", "T", "B"}},
        {"numbered", {"20", "10", "20", "20", "10", "10"}},
        {"maybe", {"0", NULL, "2", "3", "4", NULL}},
        {"perhaps", {"true", NULL, "true", "false", "true", NULL}},
        {"words", {"u", "v", "w", NULL, "y", "z"}},
        {"nested", {"p", "q", "p", "q", "p", "q"}},
        {NULL, {"cell0", "cell1", "cell2", "cell3", "cell4", "cell5"}},
        {"_index", {"cell0", "cell1", "cell2", "cell3", "cell4", "cell5"}},
    };
    scd_cells *file = h5ad_open(h5ad_path("columns.h5ad"));
    assert_int_equal(scd_cells_n_columns(file, "obs"), 14);
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        assert_text(file, "obs", columns[i].name, columns[i].text, 6);
    scd_cells_close(file);
}

static void columns_of_records_read_as_text(void **state)
{
    (void)state;
    static const char *const louvain[] = {"first", "second", "second", NULL, "first", "second"};
    static const char *const n[] = {"0", "100000", "200000", "300000", "400000", "500000"};
    static const char *const ok[] = {"true", "false", "true", "false", "true", "false"};
    static const char *const genes[] = {"CD3D", "LYZ", "NKG7", "MS4A1", "PPBP"};
    scd_cells *file = h5ad_open(h5ad_path("records.h5ad"));
    assert_text(file, "obs", "louvain", louvain, 6);
    assert_text(file, "obs", "n", n, 6);
    assert_text(file, "obs", "ok", ok, 6);
    assert_text(file, "var", NULL, genes, 5);
    assert_text(file, "raw/var", NULL, genes, 5);
    scd_cells_close(file);
}

static void a_categorical_gives_its_own_codes_and_others_those_of_first_appearance(void **state)
{
    (void)state;
    static const int32_t kind[] = {1, 0, -1, 1, 2, 0}, text[] = {0, 1, 2, 3, 0, 0};
    scd_arena arena;
    scd_cells_categories c;
    scd_cells *file = h5ad_open(h5ad_path("columns.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_column_categories(file, "obs", "kind", &arena, &c, NULL), SCD_OK);
    assert_int_equal(c.n_categories, 3);
    assert_string_equal(c.categories[1], "NK");
    assert_memory_equal(c.codes, kind, sizeof kind);
    assert_int_equal(scd_cells_column_categories(file, "obs", "text", &arena, &c, NULL), SCD_OK);
    assert_int_equal(c.n_categories, 4);
    assert_string_equal(c.categories[2], "z");
    assert_memory_equal(c.codes, text, sizeof text);
    assert_int_equal(scd_cells_column_categories(file, "obs", "maybe", &arena, &c, NULL), SCD_OK);
    assert_int_equal(c.n_categories, 4);
    assert_int_equal(c.codes[5], -1);
    scd_arena_release(&arena);
    scd_cells_close(file);
}

static void what_is_not_there_is_answered_with_what_is(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_matrix m;
    const char *const *text;
    size_t n;
    scd_error err = {0};
    scd_cells *file = h5ad_open(h5ad_path("records.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_matrix_get(file, "counts", &m, &err), SCD_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "X, raw/X"));
    assert_int_equal(scd_cells_column_text(file, "obs", "batch", &arena, &text, &n, &err),
                     SCD_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "louvain, n, ok"));
    assert_int_equal(scd_cells_column_text(file, "obsm", "x", &arena, &text, &n, &err),
                     SCD_E_NOT_FOUND);
    assert_int_equal(scd_cells_n_columns(file, "obsm"), 0);
    assert_int_equal(scd_cells_frame_rows(file, "obsm"), 0);
    scd_arena_release(&arena);
    scd_cells_close(file);
}

static void a_block_past_the_end_or_over_the_arena_is_refused(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows rows;
    scd_cells *file = h5ad_open(h5ad_path("large_csr.h5ad"));
    scd_arena_init(&arena, 1 << 20);
    assert_int_equal(scd_cells_rows_read(file, "X", 2999, 2, &arena, &rows, NULL), SCD_E_INVALID);
    assert_int_equal(scd_cells_rows_read(file, "X", SIZE_MAX, 2, &arena, &rows, NULL),
                     SCD_E_INVALID);
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 3000, &arena, &rows, NULL), SCD_E_NOMEM);
    assert_int_equal(scd_cells_rows_read(file, "X", 0, 30, &arena, &rows, NULL), SCD_OK);
    scd_arena_release(&arena);
    scd_cells_close(file);
}

/* ---- memory, threads ---- */

/* Everything that a caller does; the first failure ends it. */
static scd_code read_all(const char *path, scd_arena *arena)
{
    scd_cells *file = NULL;
    scd_cells_rows rows;
    scd_cells_categories categories;
    scd_error err;
    scd_code code = scd_cells_open(path, &file, &err);
    size_t n = code ? 0 : scd_cells_n_columns(file, "obs");
    if (!code)
        code = scd_cells_rows_read(file, "X", 0, 6, arena, &rows, &err);
    for (size_t i = 0; i <= n && !code; i++) {
        const char *column = i < n ? scd_cells_column_name(file, "obs", i) : NULL;
        code = scd_cells_column_categories(file, "obs", column, arena, &categories, &err);
    }
    scd_cells_close(file);
    return code;
}

static void any_allocation_may_fail(void **state)
{
    (void)state;
    static const char *const names[] = {"columns.h5ad", "good_csc.h5ad", "good_dense.h5ad",
                                        "good_untidy.h5ad", "records.h5ad"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *path = h5ad_path(names[i]);
        scd_code code = SCD_E_NOMEM;
        for (long n = 0; code; n++) {
            scd_arena arena;
            scd_arena_init(&arena, ARENA_BYTES);
            scd_mem_fail_after(n);
            code = read_all(path, &arena);
            scd_mem_fail_after(-1);
            scd_arena_release(&arena);
            assert_true(code == SCD_OK || code == SCD_E_NOMEM);
            assert_true(n < 10000);
        }
    }
}

static void *read_many_times(void *path)
{
    for (int i = 0; i < 20; i++) {
        scd_arena arena;
        scd_arena_init(&arena, ARENA_BYTES);
        scd_code code = read_all(path, &arena);
        scd_arena_release(&arena);
        if (code)
            return path;
    }
    return NULL;
}

static void several_threads_read_the_same_and_other_files(void **state)
{
    (void)state;
    static const char *const names[] = {"columns.h5ad", "columns.h5ad", "good_csc_gzip.h5ad",
                                        "records.h5ad"};
    char paths[4][512];
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        snprintf(paths[i], sizeof paths[i], "%s", h5ad_path(names[i]));
        assert_int_equal(pthread_create(threads + i, NULL, read_many_times, paths[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

/* ---- beside h5py ---- */

/* One line of h5ad_files.py facts. */
static void assert_matrix_fact(scd_cells *file, char *line)
{
    char name[256];
    size_t n_rows, n_cols, n;
    double wanted, sum = 0;
    scd_arena arena;
    scd_cells_rows rows;
    scd_cells_matrix m;
    scd_error err = {0};
    assert_int_equal(
        sscanf(line, "matrix|%255[^|]|%zu|%zu|%zu|%lf", name, &n_rows, &n_cols, &n, &wanted), 5);
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_matrix_get(file, name, &m, &err) ||
        scd_cells_rows_read(file, name, 0, n_rows, &arena, &rows, &err))
        fail_msg("%s", err.message);
    assert_int_equal(m.rows, n_rows);
    assert_int_equal(m.cols, n_cols);
    assert_int_equal(rows.indptr[n_rows], n);
    for (size_t row = 0; row < n_rows; row++)
        for (uint64_t i = rows.indptr[row]; i < rows.indptr[row + 1]; i++)
            sum += rows.data[i] * (double)(row % 7 + 1) * (double)(rows.indices[i] % 11 + 1);
    /* Nine digits are printed; sums of 10^6 float64 in another order differ by less. */
    assert_true(fabs(sum - wanted) <= 2e-9 * fabs(wanted) + 1e-6);
    scd_arena_release(&arena);
}

static void assert_column_fact(scd_cells *file, char *line)
{
    char kind[16], frame[64], column[256];
    size_t n_wanted, n = 0;
    double wanted, sum = 0;
    scd_arena arena;
    const char *const *text = NULL;
    scd_error err = {0};
    assert_int_equal(
        sscanf(line, "%15[^|]|%63[^|]|%255[^|]|%zu|%lf", kind, frame, column, &n_wanted, &wanted),
        5);
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_cells_column_text(file, frame, column, &arena, &text, &n, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n, n_wanted);
    uLong crc = crc32(0, NULL, 0);
    for (size_t i = 0; i < n; i++) {
        if (i)
            crc = crc32(crc, (const Bytef *)"\n", 1);
        if (text[i])
            crc = crc32(crc, (const Bytef *)text[i], (uInt)strlen(text[i]));
        sum += text[i] ? strtod(text[i], NULL) : 0;
    }
    if (strcmp(kind, "text") == 0)
        assert_true((double)crc == wanted);
    else /* the shortest decimals of float32 are within half a unit of them */
        assert_true(fabs(sum - wanted) <= 1e-6 * fabs(wanted) + 1e-6);
    scd_arena_release(&arena);
}

static void assert_as_h5py(const char *path)
{
    char command[768], line[1024];
    size_t n = 0;
    scd_cells *file = h5ad_open(path);
    if (!h5ad_made)
        skip();
    snprintf(command, sizeof command, H5AD_PYTHON " " H5AD_SCRIPT " facts '%s'", path);
    FILE *facts = popen(command, "r");
    assert_non_null(facts);
    for (; fgets(line, sizeof line, facts); n++) {
        if (strncmp(line, "matrix", 6) == 0)
            assert_matrix_fact(file, line);
        else
            assert_column_fact(file, line);
    }
    assert_int_equal(pclose(facts), 0);
    assert_true(n >= 2);
    scd_cells_close(file);
}

static void real_files_read_as_h5py_reads_them(void **state)
{
    (void)state;
    static const char *const names[] = {"kang_ifnb.h5ad", "pbmc_ifnb_9k.h5ad",
                                        "pbmc68k_reduced.h5ad", "perturbseq_k562_gbm.h5ad",
                                        "mouse_brain_1k.h5ad"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_as_h5py(h5ad_data(names[i]));
}

static void files_of_every_anndata_read_as_h5py_reads_them(void **state)
{
    (void)state;
    static const char *const names[] = {
        "formats/anndata_v0.5.0.h5ad", "formats/anndata_v0.7.0.h5ad", "formats/anndata_v0.7.8.h5ad",
        "formats/anndata_v0.11.4.h5ad", "formats/cellxgene_valid.h5ad"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_as_h5py(h5ad_data(names[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoding_of_a_matrix_reads_the_same_in_any_block),
        cmocka_unit_test(a_matrix_says_what_it_is),
        cmocka_unit_test(a_matrix_without_entries_or_without_cells_reads_as_such),
        cmocka_unit_test(a_large_matrix_by_columns_is_turned_through_a_temporary_file),
        cmocka_unit_test(a_missing_folder_for_temporary_files_is_named),
        cmocka_unit_test(columns_of_every_kind_read_as_text),
        cmocka_unit_test(columns_of_records_read_as_text),
        cmocka_unit_test(a_categorical_gives_its_own_codes_and_others_those_of_first_appearance),
        cmocka_unit_test(what_is_not_there_is_answered_with_what_is),
        cmocka_unit_test(a_block_past_the_end_or_over_the_arena_is_refused),
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(several_threads_read_the_same_and_other_files),
        cmocka_unit_test(real_files_read_as_h5py_reads_them),
        cmocka_unit_test(files_of_every_anndata_read_as_h5py_reads_them),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
