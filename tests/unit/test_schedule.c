/* test_schedule.c - the learning rate climbs, turns and falls where it should.
 *
 * Threads: main. */
#include "engine/train/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void warm_up_climbs_in_equal_steps_to_the_peak(void **state)
{
    (void)state;
    for (uint64_t step = 1; step <= 10; step++)
        assert_true(scd_schedule_lr(2, step, 10, 100) == 2 * (double)step / 10);
}

static void after_the_peak_it_only_falls(void **state)
{
    (void)state;
    for (uint64_t step = 11; step <= 100; step++)
        assert_true(scd_schedule_lr(2, step, 10, 100) < scd_schedule_lr(2, step - 1, 10, 100));
    assert_true(scd_schedule_lr(2, 100, 10, 100) > 0); /* the last step still counts */
    /* Half way along the cosine, which begins at step 10 and is 0 at step 101. */
    assert_true(fabs(scd_schedule_lr(2, 55, 10, 100) + scd_schedule_lr(2, 56, 10, 100) - 2) <
                1e-12);
}

static void without_warm_up_the_first_step_has_the_peak(void **state)
{
    (void)state;
    assert_true(scd_schedule_lr(3, 1, 0, 50) == 3);
    assert_true(scd_schedule_lr(3, 1, 1, 1) == 3);
}

static void warm_up_may_last_for_the_whole_run(void **state)
{
    (void)state;
    assert_true(scd_schedule_lr(1, 5, 5, 5) == 1);
    assert_true(scd_schedule_lr(1, 6, 5, 5) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_climbs_in_equal_steps_to_the_peak),
        cmocka_unit_test(after_the_peak_it_only_falls),
        cmocka_unit_test(without_warm_up_the_first_step_has_the_peak),
        cmocka_unit_test(warm_up_may_last_for_the_whole_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
