/* test_thread.c - named threads without signals, and waits that end. Also the clock they wait on.
 *
 * Threads: main and the ones it starts. */
#include "engine/base/clock.h"
#include "engine/base/thread.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct seen {
    char name[16];
    bool term_blocked, usr1_blocked;
} seen;

static void *look_around(void *arg)
{
    seen *s = arg;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    s->term_blocked = sigismember(&blocked, SIGTERM);
    s->usr1_blocked = sigismember(&blocked, SIGUSR1);
    return NULL;
}

static void *stay_until_woken(void *arg)
{
    scd_gate *gate = arg;
    scd_gate_lock(gate);
    scd_gate_unlock(gate);
    return NULL;
}

static void a_thread_takes_no_signals_and_main_still_does(void **state)
{
    (void)state;
    sigset_t before, after;
    seen s = {0};
    scd_thread t = {0};
    scd_error err = {0};
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(scd_thread_start(&t, "looker", look_around, &s, &err), SCD_OK);
    scd_thread_join(&t);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_true(s.term_blocked);
    assert_true(s.usr1_blocked);
    assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}

static void a_thread_has_its_name_and_is_joined_once(void **state)
{
    (void)state;
    scd_gate gate;
    scd_thread t = {0};
    scd_error err = {0};
    char name[16];
    assert_int_equal(scd_gate_init(&gate, &err), SCD_OK);
    scd_gate_lock(&gate);
    assert_int_equal(scd_thread_start(&t, "batch-0", stay_until_woken, &gate, &err), SCD_OK);
    assert_int_equal(pthread_getname_np(t.id, name, sizeof name), 0);
    assert_string_equal(name, "batch-0");
    assert_true(t.running);
    scd_gate_unlock(&gate);
    scd_thread_join(&t);
    assert_false(t.running);
    scd_thread_join(&t);
    scd_gate_release(&gate);
}

static void a_wait_ends_at_its_deadline_and_not_before(void **state)
{
    (void)state;
    scd_gate gate;
    assert_int_equal(scd_gate_init(&gate, NULL), SCD_OK);
    scd_gate_lock(&gate);
    int64_t deadline = scd_now_ns() + 20 * SCD_NS_PER_MS;
    while (scd_gate_wait(&gate, deadline))
        assert_true(scd_now_ns() < deadline); /* woken early: allowed, but only before it */
    assert_true(scd_now_ns() >= deadline);
    scd_gate_unlock(&gate);
    scd_gate_release(&gate);
}

static void a_deadline_that_has_passed_does_not_wait(void **state)
{
    (void)state;
    scd_gate gate;
    assert_int_equal(scd_gate_init(&gate, NULL), SCD_OK);
    scd_gate_lock(&gate);
    assert_false(scd_gate_wait(&gate, scd_now_ns() - SCD_NS_PER_S));
    assert_false(scd_gate_wait(&gate, 0));
    assert_false(scd_gate_wait(&gate, -1));
    assert_false(scd_gate_wait(&gate, INT64_MIN));
    scd_gate_unlock(&gate);
    scd_gate_release(&gate);
}

typedef struct turns {
    scd_gate gate;
    int turn;
    int counted[3];
} turns;

static void *take_turns(void *arg)
{
    turns *t = arg;
    scd_gate_lock(&t->gate);
    for (int i = 0; i < 1000; i++) {
        while (t->turn % 2 != 1)
            scd_gate_wait(&t->gate, SCD_NEVER);
        t->counted[1]++;
        t->turn++;
        scd_gate_wake(&t->gate);
    }
    scd_gate_unlock(&t->gate);
    return NULL;
}

static void a_wake_reaches_everyone_who_waits(void **state)
{
    (void)state;
    turns t = {0};
    scd_thread other = {0};
    assert_int_equal(scd_gate_init(&t.gate, NULL), SCD_OK);
    assert_int_equal(scd_thread_start(&other, "turns", take_turns, &t, NULL), SCD_OK);
    scd_gate_lock(&t.gate);
    for (int i = 0; i < 1000; i++) {
        while (t.turn % 2 != 0)
            scd_gate_wait(&t.gate, SCD_NEVER);
        t.counted[0]++;
        t.turn++;
        scd_gate_wake(&t.gate);
    }
    scd_gate_unlock(&t.gate);
    scd_thread_join(&other);
    assert_int_equal(t.counted[0], 1000);
    assert_int_equal(t.counted[1], 1000);
    scd_gate_release(&t.gate);
}

static void monotonic_time_goes_on_and_splits_into_seconds(void **state)
{
    (void)state;
    int64_t before = scd_now_ns();
    usleep(2000);
    assert_true(scd_now_ns() - before >= 2 * SCD_NS_PER_MS);
    struct timespec t = scd_timespec(INT64_C(3000000007));
    assert_int_equal(t.tv_sec, 3);
    assert_int_equal(t.tv_nsec, 7);
    assert_true(scd_wall_ms() > INT64_C(1700000000000)); /* November 2023 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_takes_no_signals_and_main_still_does),
        cmocka_unit_test(a_thread_has_its_name_and_is_joined_once),
        cmocka_unit_test(a_wait_ends_at_its_deadline_and_not_before),
        cmocka_unit_test(a_deadline_that_has_passed_does_not_wait),
        cmocka_unit_test(a_wake_reaches_everyone_who_waits),
        cmocka_unit_test(monotonic_time_goes_on_and_splits_into_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
