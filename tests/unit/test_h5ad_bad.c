/* test_h5ad_bad.c - files that are broken, contradict themselves, or mean harm: refused with the
 * place in the file, without leaks, and in little memory and time. */
#include "tests/unit/h5ad_fixture.h"

#include "engine/base/clock.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { ARENA_BYTES = 64 << 20 };

/* Open, read every matrix and every column; the first failure is the result. */
static scd_code read_all(const char *path, scd_error *err)
{
    static const char *const frames[] = {"obs", "var", "raw/var"};
    scd_cells *file = NULL;
    scd_code code = scd_cells_open(path, &file, err);
    scd_arena arena;
    scd_arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; !code && i < scd_cells_n_matrices(file); i++) {
        scd_cells_matrix m;
        scd_cells_rows rows;
        code = scd_cells_matrix_get(file, scd_cells_matrix_name(file, i), &m, err);
        if (!code)
            code = scd_cells_rows_read(file, m.name, 0, m.rows, &arena, &rows, err);
    }
    for (size_t f = 0; !code && f < 3; f++)
        for (size_t i = 0; !code && i < scd_cells_n_columns(file, frames[f]); i++) {
            scd_cells_categories categories;
            const char *const *text;
            size_t n;
            const char *column = scd_cells_column_name(file, frames[f], i);
            code = scd_cells_column_text(file, frames[f], column, &arena, &text, &n, err);
            if (!code)
                code =
                    scd_cells_column_categories(file, frames[f], column, &arena, &categories, err);
        }
    scd_arena_release(&arena);
    scd_cells_close(file);
    return code;
}

struct wanted {
    const char *name;
    scd_code code;
    const char *message; /* part of it */
};

static void assert_refused(const struct wanted *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        scd_error err = {0};
        const char *path = h5ad_path(all[i].name);
        scd_code code = read_all(path, &err);
        if (code != all[i].code || !strstr(err.message, all[i].message))
            fail_msg("%s: %s: \"%s\"", all[i].name, scd_code_name(code), err.message);
        assert_int_equal(err.code, code);
        assert_non_null(strstr(err.message, all[i].name)); /* the file is named */
    }
}

#define ASSERT_REFUSED(all) assert_refused(all, sizeof(all) / sizeof(all)[0])

static void what_is_no_file_or_no_h5ad_is_refused(void **state)
{
    (void)state;
    static const struct wanted all[] = {
        {"bad_nowhere.h5ad", SCD_E_IO, "cannot be opened: No such file"},
        {"bad_text.h5ad", SCD_E_INVALID, "line 2: column \"gene\": \"gene\" is no number"},
        {"bad_empty.h5ad", SCD_E_CORRUPT, "empty"},
        {"bad_not_anndata.h5ad", SCD_E_INVALID, "neither an AnnData"},
    };
    ASSERT_REFUSED(all);
    scd_error err = {0};
    assert_int_equal(read_all("/dev", &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "no matrix.mtx in it"));
    char fifo[512];
    snprintf(fifo, sizeof fifo, "%s", h5ad_path("fifo"));
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(read_all(fifo, &err), SCD_E_IO);
}

static void a_matrix_that_contradicts_itself_is_refused(void **state)
{
    (void)state;
    static const struct wanted all[] = {
        {"bad_indptr_descends.h5ad", SCD_E_CORRUPT, "X/indptr: does not ascend at 2"},
        {"bad_indptr_beyond.h5ad", SCD_E_CORRUPT, "X/indptr: runs from 0 to 12, there are 11"},
        {"bad_indptr_middle_beyond.h5ad", SCD_E_CORRUPT, "X/indptr: does not ascend at 2"},
        {"bad_indptr_negative.h5ad", SCD_E_CORRUPT, "X/indptr: does not ascend at 1"},
        {"bad_indptr_short.h5ad", SCD_E_CORRUPT, "X/indptr: 3 entries, 7 are needed"},
        {"bad_indptr_fractions.h5ad", SCD_E_CORRUPT, "must be whole numbers"},
        {"bad_index_beyond.h5ad", SCD_E_CORRUPT, "X/indices: entry 7 is 5"},
        {"bad_index_negative.h5ad", SCD_E_CORRUPT, "X/indices: entry 7 is -1"},
        {"bad_index_missing.h5ad", SCD_E_CORRUPT, "11 values and 2 indices"},
        {"bad_csc_index.h5ad", SCD_E_CORRUPT, "X/indices: entry 3 is 6"},
        {"bad_csc_indptr.h5ad", SCD_E_CORRUPT, "X/indptr: does not ascend at 3"},
        {"bad_data_text.h5ad", SCD_E_INVALID, "does not hold numbers"},
        {"bad_data_vectors.h5ad", SCD_E_CORRUPT, "not one-dimensional"},
        {"bad_shape.h5ad", SCD_E_CORRUPT, "6 x 4, but obs has 6 rows and var 5"},
        {"bad_shape_negative.h5ad", SCD_E_CORRUPT, "shape is negative"},
        {"bad_shape_huge.h5ad", SCD_E_CORRUPT, "but obs has 6 rows"},
        {"bad_encoding.h5ad", SCD_E_INVALID, "coo_matrix"},
        {"bad_dense_shape.h5ad", SCD_E_CORRUPT, "5 x 6, but obs has 6 rows"},
        {"bad_dense_cube.h5ad", SCD_E_INVALID, "3 dimensions"},
    };
    ASSERT_REFUSED(all);
}

static void a_broken_matrix_does_not_stand_in_the_way_of_the_columns(void **state)
{
    (void)state;
    scd_arena arena;
    const char *const *names;
    size_t n = 0;
    scd_cells *file = h5ad_open(h5ad_path("bad_indptr_short.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_column_text(file, "obs", NULL, &arena, &names, &n, NULL), SCD_OK);
    assert_int_equal(n, 6);
    scd_arena_release(&arena);
    scd_cells_close(file);
}

static void a_column_that_contradicts_itself_is_refused(void **state)
{
    (void)state;
    static const struct wanted all[] = {
        {"bad_column_length.h5ad", SCD_E_CORRUPT, "obs/x: 7 rows, its index has 6"},
        {"bad_column_matrix.h5ad", SCD_E_INVALID, "obs/x: not one-dimensional"},
        {"bad_column_utf8.h5ad", SCD_E_INVALID, "obs/x: row 1: the text is not UTF-8"},
        {"bad_column_nul.h5ad", SCD_E_INVALID, "obs/x: row 1: the text has a NUL inside"},
        {"bad_column_codes.h5ad", SCD_E_CORRUPT, "obs/x/codes: row 3: code 3"},
        {"bad_column_codes_below.h5ad", SCD_E_CORRUPT, "obs/x/codes: row 2: code -2"},
        {"bad_column_mask.h5ad", SCD_E_CORRUPT, "obs/x: 6 values, a mask of 5"},
        {"bad_column_deep.h5ad", SCD_E_INVALID, "nested too deeply"},
        {"bad_column_self.h5ad", SCD_E_INVALID, "nested too deeply"},
        {"bad_column_kind.h5ad", SCD_E_INVALID, "obs/x: neither text nor numbers"},
        {"bad_no_index.h5ad", SCD_E_INVALID, "obs: no index"},
        {"bad_index_matrix.h5ad", SCD_E_INVALID, "obs/_index: not one-dimensional"},
        {"bad_frame_in_itself.h5ad", SCD_E_INVALID, "obs: more than 20000 columns"},
    };
    ASSERT_REFUSED(all);
}

static void what_lies_outside_of_the_file_is_not_followed(void **state)
{
    (void)state;
    static const struct wanted all[] = {
        {"bad_external_link.h5ad", SCD_E_INVALID, "X: a link to another file"},
        {"bad_external_through_soft.h5ad", SCD_E_INVALID, "X: a link to another file"},
        {"bad_external_group.h5ad", SCD_E_INVALID, "obs: a link to another file"},
        {"bad_external_storage.h5ad", SCD_E_INVALID, "X: its values lie outside of this file"},
        {"bad_virtual.h5ad", SCD_E_INVALID, "X: its values lie outside of this file"},
        {"bad_soft_loop.h5ad", SCD_E_CORRUPT, "too many links"},
    };
    ASSERT_REFUSED(all);
}

/* What the files claim is terabytes; none of it may be allocated. 256 MB is what the arena, the
 * staging buffers and the library itself need at most. */
static void sizes_that_the_file_cannot_hold_are_refused_in_little_memory_and_time(void **state)
{
    (void)state;
    static const struct wanted all[] = {
        {"bad_no_storage.h5ad", SCD_E_CORRUPT, "the 0 bytes stored are too few"},
        {"bad_no_storage_data.h5ad", SCD_E_CORRUPT, "X/data: 1000000000000 elements"},
        {"bad_chunk.h5ad", SCD_E_CORRUPT, "X: chunks of 16384 x 16383 elements"},
        {"bad_packed_twice.h5ad", SCD_E_INVALID, "compressed 2 times over"},
        {"bad_filter.h5ad", SCD_E_INVALID, "filter 32015 (zstd), which is not installed"},
        {"bad_wide_string.h5ad", SCD_E_CORRUPT, "elements of 268435456 bytes"},
        {"bad_text_bomb.h5ad", SCD_E_CORRUPT, "its text is longer than the file"},
    };
    int64_t start = scd_now_ns();
    ASSERT_REFUSED(all);
    assert_true(scd_now_ns() - start < 10 * SCD_NS_PER_S);
#ifndef __SANITIZE_ADDRESS__
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    assert_true(usage.ru_maxrss < 256 << 10); /* kilobytes */
#endif
}

/* ---- cut and damaged files ---- */

static char *load(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    fclose(f);
    return bytes;
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    size_t n;
    char *bytes = load(h5ad_path("good_csr_gzip.h5ad"), &n), path[512];
    snprintf(path, sizeof path, "%s", h5ad_path("cut.h5ad"));
    for (size_t at = 0; at < n; at += at < 4096 ? 61 : 331) {
        FILE *f = fopen(path, "wb");
        scd_error err = {0};
        assert_non_null(f);
        fwrite(bytes, 1, at, f);
        fclose(f);
        scd_code code = read_all(path, &err);
        assert_true(code == SCD_E_CORRUPT);
        assert_non_null(strstr(err.message, "cut.h5ad"));
    }
    free(bytes);
}

static void damage_inside_packed_values_is_noticed(void **state)
{
    (void)state;
    size_t n;
    char *bytes = load(h5ad_path("good_csr_gzip.h5ad"), &n);
    size_t refused = 0;
    /* The last chunks that were written, checksummed: those of X/indptr. */
    for (size_t at = n - 2000; at < n; at += 97) {
        scd_cells *file = NULL;
        scd_arena arena;
        scd_cells_rows rows;
        scd_error err = {0};
        bytes[at] ^= 0x55;
        scd_arena_init(&arena, ARENA_BYTES);
        scd_code code = scd_cells_open_image(bytes, n, "image", &file, &err);
        if (!code)
            code = scd_cells_rows_read(file, "X", 0, 6, &arena, &rows, &err);
        assert_true(code == SCD_OK || err.code == code);
        refused += code != SCD_OK;
        scd_arena_release(&arena);
        scd_cells_close(file);
        bytes[at] ^= 0x55;
    }
    assert_true(refused > 0);
    free(bytes);
}

static void an_image_in_memory_reads_as_the_file(void **state)
{
    (void)state;
    size_t n;
    char *bytes = load(h5ad_path("good_csr.h5ad"), &n);
    scd_cells *file = NULL;
    assert_int_equal(scd_cells_open_image(bytes, n, "image", &file, NULL), SCD_OK);
    free(bytes); /* it was copied */
    assert_string_equal(scd_cells_path(file), "image");
    assert_int_equal(scd_cells_n_obs(file), 6);
    scd_cells_close(file);
    scd_error err;
    assert_int_equal(scd_cells_open_image("hello", 5, "image", &file, &err), SCD_E_CORRUPT);
}

/* ---- leaks ---- */

static size_t count_open(void)
{
    size_t n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}

/* The library keeps a file open as long as one of its objects is: a descriptor that stays is a
 * handle that was forgotten. */
static void no_handle_stays_open_whatever_goes_wrong(void **state)
{
    (void)state;
    h5ad_path("");
    size_t before = count_open(), n_files = 0;
    DIR *folder = opendir(h5ad_folder);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)); n_files++) {
        scd_error err;
        if (strstr(entry->d_name, ".h5ad") && !strstr(entry->d_name, "large"))
            read_all(h5ad_path(entry->d_name), &err);
    }
    closedir(folder);
    assert_true(n_files > 60);
    assert_int_equal(count_open(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_the_file_cannot_hold_are_refused_in_little_memory_and_time),
        cmocka_unit_test(what_is_no_file_or_no_h5ad_is_refused),
        cmocka_unit_test(a_matrix_that_contradicts_itself_is_refused),
        cmocka_unit_test(a_broken_matrix_does_not_stand_in_the_way_of_the_columns),
        cmocka_unit_test(a_column_that_contradicts_itself_is_refused),
        cmocka_unit_test(what_lies_outside_of_the_file_is_not_followed),
        cmocka_unit_test(a_file_cut_at_any_byte_is_refused),
        cmocka_unit_test(damage_inside_packed_values_is_noticed),
        cmocka_unit_test(an_image_in_memory_reads_as_the_file),
        cmocka_unit_test(no_handle_stays_open_whatever_goes_wrong),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
