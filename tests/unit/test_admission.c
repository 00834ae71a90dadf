/* test_admission.c - what those are told for whom the queue has no room, on a clock of our own.
 *
 * The queue holds 1,000 tokens and computes 100 a second.
 *
 * Threads: main. */
#include "engine/base/clock.h"
#include "server/admission.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { MAX = 1000, RATE = 100 };

static scd_admission full_queue(void)
{
    scd_admission a = {.max_tokens = MAX, .queued_tokens = MAX};
    scd_admission_measure(&a, RATE, 1);
    return a;
}

static int64_t at_s(double seconds)
{
    return (int64_t)(seconds * 1e9);
}

static void there_is_room_up_to_the_bound_and_no_further(void **state)
{
    (void)state;
    scd_admission a = {.max_tokens = MAX, .queued_tokens = 990};
    assert_true(scd_admission_has_room(&a, 10));
    assert_false(scd_admission_has_room(&a, 11));
    assert_false(scd_admission_has_room(&a, SIZE_MAX));
    a.queued_tokens = 0;
    assert_true(scd_admission_has_room(&a, MAX));
    assert_false(scd_admission_has_room(&a, MAX + 1));
}

static void the_rate_follows_what_is_measured_and_forgets(void **state)
{
    (void)state;
    scd_admission a = {.max_tokens = MAX};
    assert_true(scd_admission_rate(&a) == 0);
    scd_admission_measure(&a, 100, 1);
    assert_float_equal(scd_admission_rate(&a), 100, 1e-9);
    for (int i = 0; i < 100; i++)
        scd_admission_measure(&a, 100, 0.5);
    assert_float_equal(scd_admission_rate(&a), 200, 0.1);
}

static void a_lone_cell_is_told_the_next_seconds(void **state)
{
    (void)state;
    for (uint64_t serial = 0; serial < 100; serial++) {
        scd_admission a = full_queue();
        int s = scd_admission_turn_away(&a, 10, serial, at_s(5));
        assert_in_range(s, 1, 2);
    }
}

static void a_request_is_told_when_there_will_be_room_for_all_of_it(void **state)
{
    (void)state;
    for (uint64_t serial = 0; serial < 100; serial++) {
        scd_admission a = full_queue();
        assert_in_range(scd_admission_turn_away(&a, 800, serial, at_s(5)), 8, 10);
        a = full_queue();
        a.queued_tokens = 400; /* 600 are free: 2 s for the other 200 */
        assert_in_range(scd_admission_turn_away(&a, 800, serial, at_s(5)), 2, 3);
    }
}

static void who_is_turned_away_later_is_told_later_up_to_one_full_queue(void **state)
{
    (void)state;
    scd_admission a = full_queue();
    int last = 0;
    for (uint64_t serial = 0; serial < 10000; serial++)
        last = scd_admission_turn_away(&a, 10, serial, at_s(5));
    assert_in_range(last, 10, 13); /* a full queue's 10 s, and a quarter */
    assert_float_equal(a.turned_away_tokens, MAX, 1e-6);
}

static void those_turned_away_together_do_not_come_back_together(void **state)
{
    (void)state;
    scd_admission a = full_queue();
    int in_second[64] = {0};
    for (uint64_t serial = 1; serial <= 100; serial++)
        in_second[scd_admission_turn_away(&a, 10, serial, at_s(5))]++;
    for (int s = 0; s < 64; s++)
        assert_in_range(in_second[s], 0, 2 * RATE / 10); /* twice what one second computes */
    assert_in_range(in_second[1] + in_second[2], 1, 30);
}

static void what_was_turned_away_is_forgotten_as_fast_as_it_could_have_been_computed(void **state)
{
    (void)state;
    scd_admission a = full_queue();
    for (uint64_t serial = 0; serial < 50; serial++)
        scd_admission_turn_away(&a, 10, serial, at_s(5)); /* 500 tokens: 5 s */
    assert_in_range(scd_admission_turn_away(&a, 10, 0, at_s(8)), 3, 4);
    assert_in_range(scd_admission_turn_away(&a, 10, 0, at_s(20)), 1, 1);
}

static void
before_anything_was_measured_it_is_a_second_or_two_and_never_more_than_an_hour(void **state)
{
    (void)state;
    scd_admission a = {.max_tokens = MAX, .queued_tokens = MAX};
    for (uint64_t serial = 0; serial < 100; serial++)
        assert_in_range(scd_admission_turn_away(&a, 10, serial, at_s(5)), 1, 2);
    scd_admission_measure(&a, 1, 1e9);
    assert_int_equal(scd_admission_turn_away(&a, 500, 1, at_s(5)), 3600);
}

static void a_queue_of_many_passes_takes_as_many_times_longer(void **state)
{
    (void)state;
    scd_admission once = full_queue(), often = full_queue();
    often.work_tokens = 8 * MAX;
    int soon = scd_admission_turn_away(&once, 500, 0, at_s(5));
    int late = scd_admission_turn_away(&often, 500, 0, at_s(5));
    assert_in_range(soon, 5, 7);
    assert_in_range(late, 40, 51);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_room_up_to_the_bound_and_no_further),
        cmocka_unit_test(the_rate_follows_what_is_measured_and_forgets),
        cmocka_unit_test(a_lone_cell_is_told_the_next_seconds),
        cmocka_unit_test(a_queue_of_many_passes_takes_as_many_times_longer),
        cmocka_unit_test(a_request_is_told_when_there_will_be_room_for_all_of_it),
        cmocka_unit_test(who_is_turned_away_later_is_told_later_up_to_one_full_queue),
        cmocka_unit_test(those_turned_away_together_do_not_come_back_together),
        cmocka_unit_test(what_was_turned_away_is_forgotten_as_fast_as_it_could_have_been_computed),
        cmocka_unit_test(
            before_anything_was_measured_it_is_a_second_or_two_and_never_more_than_an_hour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
