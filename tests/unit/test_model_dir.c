/* test_model_dir.c - the folder of a model while it is made. */
#include "engine/train/model_dir.h"

#include "engine/base/mem.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char top[] = "/tmp/scdiva-model-dir-XXXXXX";

static const char *under(const char *name)
{
    static char path[4][256];
    static size_t next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", top, name);
    return out;
}

static void put(const char *name)
{
    int fd = open(under(name), O_WRONLY | O_CREAT, 0666);
    assert_true(fd >= 0);
    close(fd);
}

static bool is_there(const char *name)
{
    return !access(under(name), F_OK);
}

static int set_up(void **state)
{
    (void)state;
    return !mkdtemp(top);
}

static int tear_down(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", top);
    return system(command);
}

static void it_takes_its_name_without_the_scratch_file(void **state)
{
    (void)state;
    scd_model_dir dir;
    scd_error err = {0};
    assert_int_equal(scd_model_dir_name(under("a//"), &dir, &err), SCD_OK);
    assert_string_equal(dir.final, under("a"));
    assert_string_equal(dir.hidden, under(".a.partial"));
    assert_int_equal(scd_model_dir_open(&dir, &err), SCD_OK);
    put(".a.partial/model.safetensors");
    put(".a.partial/checkpoint.bin");
    assert_int_equal(scd_model_dir_publish(&dir, "checkpoint.bin", &err), SCD_OK);
    assert_true(is_there("a/model.safetensors") && !is_there("a/checkpoint.bin"));
    assert_false(is_there(".a.partial"));
    scd_model_dir_release(&dir);
    assert_int_equal(scd_model_dir_name(under("a"), &dir, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "is there already"));
    scd_model_dir_release(&dir);
}

static void names_that_cannot_be_new_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"", "/", "//", ".", "..", "a/..", "./"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        scd_model_dir dir;
        scd_error err = {0};
        assert_int_equal(scd_model_dir_name(names[i], &dir, &err), SCD_E_INVALID);
        assert_non_null(strstr(err.message, "must name a new folder"));
        scd_model_dir_release(&dir);
    }
}

static void two_do_not_hold_it_at_once(void **state)
{
    (void)state;
    scd_model_dir one, two;
    scd_error err = {0};
    assert_int_equal(scd_model_dir_name(under("b"), &one, &err), SCD_OK);
    assert_int_equal(scd_model_dir_name(under("b"), &two, &err), SCD_OK);
    assert_int_equal(scd_model_dir_open(&one, &err), SCD_OK);
    assert_int_equal(scd_model_dir_open(&two, &err), SCD_E_BUSY);
    scd_model_dir_release(&two);
    scd_model_dir_release(&one);
    assert_int_equal(scd_model_dir_name(under("b"), &two, &err), SCD_OK);
    assert_int_equal(scd_model_dir_open(&two, &err), SCD_OK);
    scd_model_dir_release(&two);
}

static void what_appeared_meanwhile_is_not_overwritten(void **state)
{
    (void)state;
    scd_model_dir dir;
    scd_error err = {0};
    assert_int_equal(scd_model_dir_name(under("c"), &dir, &err), SCD_OK);
    assert_int_equal(scd_model_dir_open(&dir, &err), SCD_OK);
    assert_int_equal(mkdir(under("c"), 0777), 0);
    put("c/theirs");
    assert_int_equal(scd_model_dir_publish(&dir, "checkpoint.bin", &err), SCD_E_IO);
    assert_true(is_there("c/theirs") && is_there(".c.partial"));
    scd_model_dir_release(&dir);
}

static void a_folder_of_somebody_elses_is_left_alone(void **state)
{
    (void)state;
    scd_model_dir dir;
    scd_error err = {0};
    assert_int_equal(mkdir(under(".d.partial"), 0777), 0);
    put(".d.partial/thesis.tex");
    assert_int_equal(scd_model_dir_name(under("d"), &dir, &err), SCD_OK);
    assert_int_equal(scd_model_dir_open(&dir, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "thesis.tex"));
    assert_true(is_there(".d.partial/thesis.tex"));
    scd_model_dir_release(&dir);
}

static void an_allocation_that_fails_is_said(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_model_dir dir;
        scd_mem_fail_after(n);
        code = scd_model_dir_name(under("e"), &dir, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || (code == SCD_E_NOMEM && n < 8));
        scd_model_dir_release(&dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_takes_its_name_without_the_scratch_file),
        cmocka_unit_test(names_that_cannot_be_new_are_refused),
        cmocka_unit_test(two_do_not_hold_it_at_once),
        cmocka_unit_test(what_appeared_meanwhile_is_not_overwritten),
        cmocka_unit_test(a_folder_of_somebody_elses_is_left_alone),
        cmocka_unit_test(an_allocation_that_fails_is_said),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
