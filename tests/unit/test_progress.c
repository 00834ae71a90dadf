/* test_progress.c - the log of a run: its rows, what a resumed run keeps of them, and stopping.
 *
 * What goes to a person (standard error) is sent to a file here, which is no terminal.
 *
 * Threads: main. */
#include "engine/model/file.h"
#include "engine/train/progress.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const columns[] = {"loss", "accuracy"};

typedef struct fixture {
    char root[32], csv[48], said[48];
    int old_stderr;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->root, "/tmp/scdiva-prog-XXXXXX");
    if (!mkdtemp(f->root))
        return -1;
    snprintf(f->csv, sizeof f->csv, "%s/train.csv", f->root);
    snprintf(f->said, sizeof f->said, "%s/stderr", f->root);
    f->old_stderr = dup(2);
    int fd = open(f->said, O_CREAT | O_WRONLY, 0600);
    dup2(fd, 2);
    close(fd);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    dup2(f->old_stderr, 2);
    close(f->old_stderr);
    unlink(f->csv);
    unlink(f->said);
    int left = rmdir(f->root);
    free(f);
    return left;
}

static void assert_holds(const char *path, const char *text)
{
    int fd;
    size_t n;
    char *bytes = NULL;
    assert_int_equal(scd_file_open(path, &fd, &n, NULL), SCD_OK);
    assert_int_equal(scd_file_read(fd, path, 1 << 20, &bytes, &n, NULL), SCD_OK);
    close(fd);
    assert_string_equal(bytes, text);
    free(bytes);
}

static scd_progress *begin(const fixture *f, uint64_t first_step)
{
    scd_progress *p = NULL;
    scd_error err = {0};
    if (scd_progress_new("pretrain", 100, first_step, f->csv, columns, 2, &p, &err))
        fail_msg("%s", err.message);
    return p;
}

static void log_rows(const fixture *f)
{
    scd_progress *p = begin(f, 0);
    const double rows[][2] = {{6.25, NAN}, {5.5, 0.1}, {1e-9, 1}};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(scd_progress_log(p, 10 * i, rows[i], NULL), SCD_OK);
    scd_progress_free(p);
}

static void a_number_that_was_not_measured_is_an_empty_field(void **state)
{
    fixture *f = *state;
    log_rows(f);
    assert_holds(f->csv, "step,loss,accuracy\n0,6.25,\n10,5.5,0.1\n20,1e-09,1\n");
}

static void a_new_run_begins_a_new_log(void **state)
{
    fixture *f = *state;
    log_rows(f);
    scd_progress_free(begin(f, 0));
    assert_holds(f->csv, "step,loss,accuracy\n");
}

static void a_resumed_run_cuts_the_rows_past_its_step(void **state)
{
    fixture *f = *state;
    log_rows(f);
    scd_progress *p = begin(f, 15);
    const double row[] = {4, 0.5};
    assert_int_equal(scd_progress_log(p, 20, row, NULL), SCD_OK);
    scd_progress_free(p);
    assert_holds(f->csv, "step,loss,accuracy\n0,6.25,\n10,5.5,0.1\n20,4,0.5\n");
}

static void a_row_that_a_killed_run_left_half_written_goes(void **state)
{
    fixture *f = *state;
    const char *text = "step,loss,accuracy\n5,1,2\n6,3";
    assert_int_equal(scd_file_write(f->csv, text, strlen(text), NULL), SCD_OK);
    scd_progress_free(begin(f, 50));
    assert_holds(f->csv, "step,loss,accuracy\n5,1,2\n");
}

static void a_log_with_other_columns_is_not_continued(void **state)
{
    fixture *f = *state;
    scd_progress *p = NULL;
    scd_error err;
    assert_int_equal(scd_file_write(f->csv, "step,colour\n5,1\n", 16, NULL), SCD_OK);
    assert_int_equal(scd_progress_new("t", 9, 5, f->csv, columns, 2, &p, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, f->csv));
    assert_holds(f->csv, "step,colour\n5,1\n");
    assert_null(p);
}

static void a_log_that_cannot_be_written_is_named(void **state)
{
    (void)state;
    scd_progress *p = NULL;
    scd_error err;
    assert_int_equal(scd_progress_new("t", 9, 0, "/nowhere/train.csv", columns, 2, &p, &err),
                     SCD_E_IO);
    assert_non_null(strstr(err.message, "/nowhere/train.csv"));
}

static void without_a_terminal_a_short_run_says_only_what_it_is_told_to(void **state)
{
    fixture *f = *state;
    scd_progress *p = NULL;
    assert_int_equal(scd_progress_new("t", 9, 0, NULL, columns, 2, &p, NULL), SCD_OK);
    for (uint64_t step = 1; step <= 9; step++)
        scd_progress_step(p, step, 1000, "loss 1");
    assert_true(scd_progress_tokens_per_s(p) > 0);
    assert_int_equal(scd_progress_log(p, 1, (const double[]){1, 2}, NULL), SCD_OK);
    scd_progress_say(p, "saved %d", 7);
    scd_progress_free(p);
    scd_progress_free(NULL);
    assert_holds(f->said, "saved 7\n");
}

static void the_first_signal_asks_and_the_second_ends(void **state)
{
    (void)state;
    const int signals[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {
            scd_stop_on_signals();
            if (scd_stop_asked())
                _exit(1);
            raise(signals[i]);
            if (!scd_stop_asked())
                _exit(2);
            raise(signals[i]);
            _exit(3);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), signals[i]);
    }
}

int main(void)
{
#define WITH_FILES(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FILES(a_number_that_was_not_measured_is_an_empty_field),
        WITH_FILES(a_new_run_begins_a_new_log),
        WITH_FILES(a_resumed_run_cuts_the_rows_past_its_step),
        WITH_FILES(a_row_that_a_killed_run_left_half_written_goes),
        WITH_FILES(a_log_with_other_columns_is_not_continued),
        WITH_FILES(a_log_that_cannot_be_written_is_named),
        WITH_FILES(without_a_terminal_a_short_run_says_only_what_it_is_told_to),
        cmocka_unit_test(the_first_signal_asks_and_the_second_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
