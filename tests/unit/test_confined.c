/* test_confined.c - files read by a process of their own: the same cells come out, and whatever
 * becomes of that process is an error of the file. */
#include "tests/unit/h5ad_fixture.h"

#include "api/confined.h"
#include "engine/base/mem.h"

#include <linux/landlock.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* whose readers are not bound   \
                                                                   */
enum { ARENA_BYTES = 256 << 20, IS_SANITIZED = 1 };
#else
enum { ARENA_BYTES = 256 << 20, IS_SANITIZED = 0 };
#endif

static scd_cells *open_confined(const char *path)
{
    scd_cells *cells = NULL;
    scd_error err = {0};
    if (scd_cells_open_confined(path, NULL, &cells, &err))
        fail_msg("%s", err.message);
    return cells;
}

static pid_t only_child(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%d", &pid) != 1)
            pid = 0;
        fclose(f);
    }
    if (!pid)
        skip(); /* a kernel that does not list them */
    return pid;
}

static void assert_same_column(scd_cells *a, scd_cells *b, const char *frame, const char *column)
{
    scd_arena arena;
    const char *const *x, *const *y;
    scd_cells_categories p, q;
    size_t n, m;
    scd_arena_init(&arena, ARENA_BYTES);
    scd_code code = scd_cells_column_text(a, frame, column, &arena, &x, &n, NULL);
    assert_int_equal(scd_cells_column_text(b, frame, column, &arena, &y, &m, NULL), code);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n && !code; i++) {
        assert_true(!x[i] == !y[i]);
        if (x[i])
            assert_string_equal(x[i], y[i]);
    }
    code = scd_cells_column_categories(a, frame, column, &arena, &p, NULL);
    assert_int_equal(scd_cells_column_categories(b, frame, column, &arena, &q, NULL), code);
    if (!code) {
        assert_int_equal(p.n_categories, q.n_categories);
        assert_memory_equal(p.codes, q.codes, p.n * sizeof *p.codes);
        for (size_t i = 0; i < p.n_categories; i++)
            assert_string_equal(p.categories[i], q.categories[i]);
    }
    scd_arena_release(&arena);
}

static void assert_same_matrix(scd_cells *a, scd_cells *b, const char *name)
{
    scd_cells_matrix m, k;
    assert_int_equal(scd_cells_matrix_get(a, name, &m, NULL), SCD_OK);
    assert_int_equal(scd_cells_matrix_get(b, name, &k, NULL), SCD_OK);
    assert_string_equal(m.obs_frame, k.obs_frame);
    assert_string_equal(m.var_frame, k.var_frame);
    assert_true(m.rows == k.rows && m.cols == k.cols && m.n_stored == k.n_stored &&
                m.is_raw == k.is_raw && m.encoding == k.encoding);
    for (size_t first = 0; first < m.rows; first += 4) {
        scd_arena arena;
        scd_cells_rows x, y;
        size_t n = m.rows - first < 4 ? m.rows - first : 4;
        scd_arena_init(&arena, ARENA_BYTES);
        assert_int_equal(scd_cells_rows_read(a, name, first, n, &arena, &x, NULL), SCD_OK);
        assert_int_equal(scd_cells_rows_read(b, name, first, n, &arena, &y, NULL), SCD_OK);
        assert_memory_equal(x.indptr, y.indptr, (n + 1) * sizeof *x.indptr);
        assert_memory_equal(x.indices, y.indices, x.indptr[n] * sizeof *x.indices);
        assert_memory_equal(x.data, y.data, x.indptr[n] * sizeof *x.data);
        scd_arena_release(&arena);
    }
    for (size_t f = 0; f < 2; f++) {
        const char *frame = f ? m.var_frame : m.obs_frame;
        size_t n = scd_cells_n_columns(a, frame);
        assert_int_equal(scd_cells_n_columns(b, frame), n);
        assert_int_equal(scd_cells_frame_rows(b, frame), scd_cells_frame_rows(a, frame));
        for (size_t i = 0; i <= n; i++) {
            const char *column = i < n ? scd_cells_column_name(a, frame, i) : NULL;
            if (column)
                assert_string_equal(scd_cells_column_name(b, frame, i), column);
            assert_same_column(a, b, frame, column);
        }
    }
}

static void every_format_reads_the_same_in_a_process_of_its_own(void **state)
{
    (void)state;
    static const char *const names[] = {"good_csr.h5ad",
                                        "good_csc_gzip.h5ad",
                                        "columns.h5ad",
                                        "records.h5ad",
                                        "tenx_v3.h5",
                                        "tenx_two.h5",
                                        "mex_v3",
                                        "mex.zip",
                                        "mex_geo.tar.gz",
                                        "genes.csv",
                                        "good_no_cells.h5ad"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s", h5ad_path(names[i]));
        scd_cells *a = h5ad_open(path), *b = open_confined(path);
        assert_string_equal(scd_cells_format(a), scd_cells_format(b));
        assert_string_equal(scd_cells_path(a), scd_cells_path(b));
        assert_int_equal(scd_cells_n_obs(a), scd_cells_n_obs(b));
        assert_int_equal(scd_cells_n_matrices(a), scd_cells_n_matrices(b));
        for (size_t k = 0; k < scd_cells_n_matrices(a); k++)
            assert_same_matrix(a, b, scd_cells_matrix_name(a, k));
        scd_cells_close(b);
        scd_cells_close(a);
    }
}

/* Turned through a temporary file, which the reader may write and nothing else. */
static void a_matrix_that_has_to_be_turned_can_be(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows x, y;
    char path[512];
    snprintf(path, sizeof path, "%s", h5ad_path("large_csr.h5ad"));
    scd_cells *a = h5ad_open(path), *b = open_confined(h5ad_path("large_csc.h5ad"));
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_rows_read(a, "X", 2900, 100, &arena, &x, NULL), SCD_OK);
    scd_error err = {0};
    if (scd_cells_rows_read(b, "X", 2900, 100, &arena, &y, &err))
        fail_msg("%s", err.message);
    assert_memory_equal(x.indices, y.indices, x.indptr[100] * sizeof *x.indices);
    scd_arena_release(&arena);
    scd_cells_close(b);
    scd_cells_close(a);
}

static void what_the_reader_says_of_a_bad_file_is_handed_on(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        scd_code code;
        const char *message;
    } all[] = {{"bad_not_anndata.h5ad", SCD_E_INVALID, "neither an AnnData"},
               {"bad_slip.zip", SCD_E_INVALID, "leads outside"},
               {"nowhere.h5ad", SCD_E_IO, "No such file"},
               {"bad_bomb.tar.gz", SCD_E_TOO_LARGE, "unpacks to more than"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        scd_cells *cells = NULL;
        scd_error err = {0};
        assert_int_equal(scd_cells_open_confined(h5ad_path(all[i].file), NULL, &cells, &err),
                         all[i].code);
        assert_non_null(strstr(err.message, all[i].message));
    }
    scd_cells *cells = open_confined(h5ad_path("bad_indptr_short.h5ad"));
    scd_cells_matrix m;
    scd_error err = {0};
    assert_int_equal(scd_cells_matrix_get(cells, "X", &m, &err), SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "X/indptr: 3 entries"));
    assert_int_equal(scd_cells_matrix_get(cells, "Y", &m, &err), SCD_E_NOT_FOUND);
    scd_cells_close(cells);
}

static void a_reader_that_crashes_is_an_error_of_the_file(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows rows;
    scd_error err = {0};
    scd_cells *cells = open_confined(h5ad_path("good_csr.h5ad"));
    kill(only_child(), SIGKILL);
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_rows_read(cells, "X", 0, 6, &arena, &rows, &err), SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "crashed the reader (Killed)"));
    assert_int_equal(scd_cells_rows_read(cells, "X", 0, 6, &arena, &rows, &err), SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "its reader has gone"));
    scd_arena_release(&arena);
    scd_cells_close(cells);
}

static void a_reader_that_takes_too_long_is_killed(void **state)
{
    (void)state;
    scd_arena arena;
    scd_cells_rows rows;
    scd_error err = {0};
    scd_cells *cells = NULL;
    scd_confinement limits = {.seconds = 1.5, .mb_per_second = 1e6};
    assert_int_equal(scd_cells_open_confined(h5ad_path("good_csr.h5ad"), &limits, &cells, &err),
                     SCD_OK);
    kill(only_child(), SIGSTOP);
    scd_arena_init(&arena, ARENA_BYTES);
    assert_int_equal(scd_cells_rows_read(cells, "X", 0, 6, &arena, &rows, &err), SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "took more than 2 s"));
    scd_arena_release(&arena);
    scd_cells_close(cells);
}

static void a_reader_gets_no_more_memory_than_it_may_have(void **state)
{
    (void)state;
    if (IS_SANITIZED)
        skip();
    scd_error err = {0};
    scd_cells *cells = NULL;
    scd_confinement limits = {.memory_bytes = 64 << 20}; /* less than its libraries */
    scd_code code = scd_cells_open_confined(h5ad_path("large.csv.gz"), &limits, &cells, &err);
    if (code != SCD_E_TOO_LARGE && code != SCD_E_CORRUPT)
        fail_msg("%s: %s", scd_code_name(code), err.message);
}

static void names_are_no_more_than_the_caller_has_room_for(void **state)
{
    (void)state;
    static const size_t rooms[] = {64, 40 << 10}; /* under the answer; under its names */
    scd_cells *cells = open_confined(h5ad_path("large_csr.h5ad"));
    for (size_t i = 0; i < 2; i++) {
        scd_arena arena;
        scd_error err = {0};
        const char *const *names;
        size_t n;
        scd_arena_init(&arena, rooms[i]);
        assert_int_equal(scd_cells_column_text(cells, "obs", NULL, &arena, &names, &n, &err),
                         SCD_E_TOO_LARGE);
        assert_non_null(strstr(err.message, i ? "names, more than are taken" : "more at once"));
        scd_arena_release(&arena);
        if (i == 0) { /* its reader was let go */
            scd_cells_close(cells);
            cells = open_confined(h5ad_path("large_csr.h5ad"));
        }
    }
    scd_cells_close(cells);
}

static void a_reader_cannot_follow_a_link_to_another_file(void **state)
{
    (void)state;
    char path[512], link[600];
    scd_cells *cells = NULL;
    scd_error err = {0};
    if (IS_SANITIZED ||
        syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0)
        skip();
    snprintf(path, sizeof path, "%s", h5ad_path("mex_linked"));
    snprintf(link, sizeof link, "%s/matrix.mtx", path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(symlink("/etc/passwd", link), 0);
    assert_int_equal(scd_cells_open_confined(path, NULL, &cells, &err), SCD_E_IO);
    assert_non_null(strstr(err.message, "Permission denied"));
}

int main(int argc, char **argv)
{
    int status;
    if (scd_confined_main(argc, argv, &status))
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_reads_the_same_in_a_process_of_its_own),
        cmocka_unit_test(a_matrix_that_has_to_be_turned_can_be),
        cmocka_unit_test(what_the_reader_says_of_a_bad_file_is_handed_on),
        cmocka_unit_test(a_reader_that_crashes_is_an_error_of_the_file),
        cmocka_unit_test(a_reader_that_takes_too_long_is_killed),
        cmocka_unit_test(a_reader_gets_no_more_memory_than_it_may_have),
        cmocka_unit_test(names_are_no_more_than_the_caller_has_room_for),
        cmocka_unit_test(a_reader_cannot_follow_a_link_to_another_file),
    };
    return cmocka_run_group_tests(tests, h5ad_setup, h5ad_teardown);
}
