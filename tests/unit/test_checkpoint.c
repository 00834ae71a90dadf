/* test_checkpoint.c - a checkpoint comes back to the bit, or is refused for what is wrong with it.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/train/checkpoint.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_PARAMS = 300000, N_HEAD = 7 }; /* more than one chunk of the hash */

typedef struct fixture {
    char root[32], path[48];
    float *params, *head, *read_params, *read_head;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->root, "/tmp/scdiva-ckpt-XXXXXX");
    if (!mkdtemp(f->root))
        return -1;
    snprintf(f->path, sizeof f->path, "%s/checkpoint.bin", f->root);
    f->params = malloc(N_PARAMS * sizeof(float));
    f->read_params = calloc(N_PARAMS, sizeof(float));
    f->head = malloc(N_HEAD * sizeof(float));
    f->read_head = calloc(N_HEAD, sizeof(float));
    for (size_t i = 0; i < N_PARAMS; i++)
        f->params[i] = (float)i * 0.1f - 3.0f;
    for (size_t i = 0; i < N_HEAD; i++)
        f->head[i] = -1.0f / (float)(i + 1);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    unlink(f->path);
    int left = rmdir(f->root); /* fails where a temporary file was left */
    free(f->params);
    free(f->read_params);
    free(f->head);
    free(f->read_head);
    free(f);
    return left;
}

static scd_checkpoint written(const fixture *f)
{
    scd_checkpoint c = {.fingerprint = scd_digest_of("run", 3),
                        .step = 41,
                        .drawn = UINT64_C(1) << 40,
                        .numbers = {0.5, 0, -1e300},
                        .n_arrays = 2,
                        .arrays = {{f->params, N_PARAMS}, {f->head, N_HEAD}}};
    return c;
}

static scd_checkpoint expected(const fixture *f)
{
    scd_checkpoint c = {.fingerprint = scd_digest_of("run", 3),
                        .n_arrays = 2,
                        .arrays = {{f->read_params, N_PARAMS}, {f->read_head, N_HEAD}}};
    return c;
}

static void write_one(const fixture *f)
{
    scd_checkpoint c = written(f);
    assert_int_equal(scd_checkpoint_write(f->path, &c, NULL), SCD_OK);
}

static scd_code read_one(const fixture *f, scd_error *err)
{
    scd_checkpoint c = expected(f);
    return scd_checkpoint_read(f->path, &c, err);
}

static void what_was_written_comes_back_to_the_bit(void **state)
{
    fixture *f = *state;
    write_one(f);
    scd_checkpoint c = expected(f);
    assert_int_equal(scd_checkpoint_read(f->path, &c, NULL), SCD_OK);
    assert_int_equal(c.step, 41);
    assert_true(c.drawn == UINT64_C(1) << 40);
    assert_true(c.numbers[0] == 0.5 && c.numbers[2] == -1e300);
    assert_memory_equal(f->params, f->read_params, N_PARAMS * sizeof(float));
    assert_memory_equal(f->head, f->read_head, N_HEAD * sizeof(float));
}

static void a_file_that_is_not_there_is_told_apart(void **state)
{
    fixture *f = *state;
    assert_int_equal(read_one(f, NULL), SCD_E_NOT_FOUND);
}

static void a_checkpoint_of_another_run_is_refused(void **state)
{
    fixture *f = *state;
    scd_error err;
    write_one(f);
    scd_checkpoint c = expected(f);
    c.fingerprint = scd_digest_of("another", 7);
    assert_int_equal(scd_checkpoint_read(f->path, &c, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, f->path));
    assert_non_null(strstr(err.message, "another run"));
    c = expected(f);
    c.arrays[1].n--;
    assert_int_equal(scd_checkpoint_read(f->path, &c, NULL), SCD_E_INVALID);
    c = expected(f);
    c.n_arrays = 1;
    assert_int_equal(scd_checkpoint_read(f->path, &c, NULL), SCD_E_INVALID);
}

static void one_flipped_bit_anywhere_is_damage(void **state)
{
    fixture *f = *state;
    write_one(f);
    const off_t places[] = {0, 9, 60, 500, 1000000, -1};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        int fd = open(f->path, O_RDWR);
        off_t at = places[i] < 0 ? lseek(fd, 0, SEEK_END) + places[i] : places[i];
        char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte = (char)(byte ^ 4);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_equal(read_one(f, NULL), SCD_E_CORRUPT);
        byte = (char)(byte ^ 4);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    assert_int_equal(read_one(f, NULL), SCD_OK);
}

static void a_file_cut_short_is_damage(void **state)
{
    fixture *f = *state;
    const off_t lengths[] = {900000, 300, 40, 1, 0};
    write_one(f);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        assert_int_equal(truncate(f->path, lengths[i]), 0);
        assert_int_equal(read_one(f, NULL), SCD_E_CORRUPT);
    }
}

static void a_full_disk_leaves_the_old_checkpoint(void **state)
{
    fixture *f = *state;
    scd_error err;
    write_one(f);
    struct rlimit old, little;
    getrlimit(RLIMIT_FSIZE, &old);
    little = old;
    little.rlim_cur = 100000; /* write(2) answers EFBIG once SIGXFSZ is ignored */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &little);
    scd_checkpoint c = written(f);
    c.step = 42;
    scd_code code = scd_checkpoint_write(f->path, &c, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(code, SCD_E_IO);
    assert_non_null(strstr(err.message, f->path));
    c = expected(f);
    assert_int_equal(scd_checkpoint_read(f->path, &c, NULL), SCD_OK);
    assert_int_equal(c.step, 41);
}

static void every_allocation_may_fail(void **state)
{
    fixture *f = *state;
    write_one(f);
    scd_checkpoint c = written(f);
    for (long n = 0, failed = 1; failed; n++) {
        scd_mem_fail_after(n);
        scd_code wrote = scd_checkpoint_write(f->path, &c, NULL);
        scd_mem_fail_after(n);
        scd_code read = read_one(f, NULL);
        scd_mem_fail_after(-1);
        assert_true(wrote == SCD_OK || wrote == SCD_E_NOMEM);
        assert_true(read == SCD_OK || read == SCD_E_NOMEM);
        failed = wrote != SCD_OK || read != SCD_OK;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_written_comes_back_to_the_bit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_not_there_is_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_checkpoint_of_another_run_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_flipped_bit_anywhere_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_cut_short_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_disk_leaves_the_old_checkpoint, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_allocation_may_fail, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
