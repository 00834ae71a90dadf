/* test_batcher_faults.c - batches that fail, devices that fail or fall silent, and models side by
 * side, on the stand-in of batcher_devices.h.
 *
 * Threads: main, batch-N. */
#include "engine/base/mem.h"
#include "tests/unit/batcher_devices.h"

static int open_all(void **state)
{
    (void)state;
    static const char *const routes[] = {"other"};
    return scd_gate_init(&store.gate, NULL) || scd_gate_init(&done_gate, NULL) ||
           scd_metrics_new(routes, 1, &metrics, NULL);
}

static int close_all(void **state)
{
    (void)state;
    scd_metrics_free(metrics);
    scd_gate_release(&done_gate);
    scd_gate_release(&store.gate);
    return 0;
}

static atomic_int n_logged, n_events[SCD_DEVICE_STAYS + 1], last_left;

static void log_failure(void *arg, const scd_error *err)
{
    assert_ptr_equal(arg, &n_logged);
    assert_string_equal(err->message, "the device went away");
    atomic_fetch_add(&n_logged, 1);
}

static void on_device(void *arg, scd_device_event event, size_t device, size_t n_left,
                      const scd_error *err)
{
    assert_ptr_equal(arg, &n_logged);
    assert_true(device < MAX_DEVICES);
    assert_int_equal(err != NULL, event == SCD_DEVICE_FAILED || event == SCD_DEVICE_STAYS);
    atomic_store(&last_left, (int)n_left);
    atomic_fetch_add(&n_events[event], 1);
}

static double timeout_s;

static scd_code open_on(size_t n_devices, bool move_to_cpu, scd_batcher **out)
{
    scd_batcher_options o = {.engine = &engine,
                             .store = &store,
                             .metrics = metrics,
                             .max_queue_tokens = 1000,
                             .move_to_cpu = move_to_cpu,
                             .device_timeout_s = timeout_s,
                             .log = log_failure,
                             .on_device = on_device,
                             .arg = &n_logged};
    for (size_t i = 0; i < MAX_DEVICES; i++) {
        atomic_store(&engine.fail[i], SCD_OK);
        atomic_store(&engine.on_device[i], 0);
    }
    for (size_t i = 0; i < sizeof n_events / sizeof n_events[0]; i++)
        atomic_store(&n_events[i], 0);
    memset(engine.slots, 0, sizeof engine.slots);
    atomic_store(&engine.most_under_way, 1);
    atomic_store(&engine.cannot_move, 0);
    atomic_store(&engine.n_devices, n_devices);
    atomic_store(&n_logged, 0);
    store.n = 0;
    return scd_batcher_open(&o, out, NULL);
}

static int set_up(void **state)
{
    return open_on(1, false, (scd_batcher **)state) ? -1 : 0;
}

static int set_up_two(void **state)
{
    return open_on(2, false, (scd_batcher **)state) ? -1 : 0;
}

static int set_up_two_watched(void **state)
{
    timeout_s = 0.2;
    return set_up_two(state);
}

static int set_up_moving(void **state)
{
    return open_on(2, true, (scd_batcher **)state) ? -1 : 0;
}

static int set_up_overlapping(void **state)
{
    atomic_store(&engine.overlaps, true);
    return set_up(state);
}

static int set_up_two_overlapping(void **state)
{
    atomic_store(&engine.overlaps, true);
    return set_up_two(state);
}

static int set_up_moving_overlapping(void **state)
{
    atomic_store(&engine.overlaps, true);
    return set_up_moving(state);
}

static int tear_down(void **state)
{
    fake_hold(false, false);
    scd_batcher_close(*state);
    atomic_store(&engine.overlaps, false);
    timeout_s = 0;
    return 0;
}

static void a_batch_that_fails_fails_everyone_who_waits_for_it_and_is_logged_once(void **state)
{
    scd_batcher *b = *state;
    uint64_t before = computed();
    call *busy = call_new(1, 20), *one = call_new(1, 10), *same = call_of_key(last_key, 10);
    fake_hold(false, true);
    call_submit(b, busy);
    assert_true(fake_wait_held(0, 1));
    call_submit(b, one);
    call_submit(b, same);
    atomic_store(&engine.fail[0], SCD_E_DEVICE);
    fake_hold(false, false);
    assert_int_equal(call_wait(busy), SCD_OK);
    assert_int_equal(call_wait(one), SCD_E_DEVICE);
    assert_int_equal(call_wait(same), SCD_E_DEVICE);
    assert_string_equal(one->outcome.message, "the device went away");
    assert_int_equal(atomic_load(&n_logged), 1);
    assert_int_equal(computed() - before, 1);
    assert_false(fake_has(&one->orders[0].key));
    assert_int_equal(scd_batcher_queued(b), 0);
    call_free(busy);
    call_free(one);
    call_free(same);
}

static void a_request_of_several_batches_fails_with_the_first_and_leaves_the_queue(void **state)
{
    scd_batcher *b = *state;
    size_t before = atomic_load(&engine.batches);
    call *c = call_new(10, 20);
    atomic_store(&engine.fail[0], SCD_E_DEVICE);
    call_submit(b, c);
    assert_int_equal(call_wait(c), SCD_E_DEVICE);
    assert_int_equal(scd_batcher_queued(b), 0);
    assert_int_equal(atomic_load(&engine.batches) - before, 1);
    call_free(c);
}

static void the_next_request_for_a_cell_that_failed_computes_it(void **state)
{
    scd_batcher *b = *state;
    call *c = call_new(1, 10), *again = call_of_key(last_key, 10);
    atomic_store(&engine.fail[0], SCD_E_DEVICE);
    call_submit(b, c);
    assert_int_equal(call_wait(c), SCD_E_DEVICE);
    atomic_store(&engine.fail[0], SCD_OK);
    call_submit(b, again);
    assert_int_equal(call_wait(again), SCD_OK);
    assert_int_equal(again->orders[0].source, SCD_SOURCE_MISS);
    assert_true(fake_has(&again->orders[0].key));
    call_free(c);
    call_free(again);
}

static void a_warm_up_that_fails_says_why(void **state)
{
    scd_error err = {0};
    atomic_store(&engine.fail[0], SCD_E_DEVICE);
    assert_int_equal(scd_batcher_warm_up(*state, &err), SCD_E_DEVICE);
    assert_string_equal(err.message, "the device went away");
}

static void cells_of_two_models_are_computed_by_their_own(void **state)
{
    scd_batcher *b = *state;
    call *busy = call_new(1, 20), *a = call_new(2, 5), *other = call_new(2, 5);
    size_t before = atomic_load(&engine.batches);
    fake_hold(false, true);
    call_submit(b, busy);
    assert_true(fake_wait_held(0, 1));
    other->work.model = 1;
    call_submit(b, other);
    call_submit(b, a);
    fake_hold(false, false);
    assert_int_equal(call_wait(a), SCD_OK);
    assert_int_equal(call_wait(other), SCD_OK);
    assert_int_equal(call_wait(busy), SCD_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_true(a->out[i][CALL_DIM - 1] == a->values[i][0]);
        assert_true(other->out[i][0] == other->values[i][0] + 1000.0f);
    }
    assert_int_equal(atomic_load(&engine.batches) - before, 3);
    call_free(busy);
    call_free(a);
    call_free(other);
}

/* ---- several devices ------------------------------------------------------------------------- */

static void fail_device(size_t device)
{
    atomic_store(&engine.fail[device], SCD_E_DEVICE);
}

/* Two calls at a time: the device that has computed the first is held while it stores the result.
 */
static void both_devices_compute_at_a_time(void **state)
{
    scd_batcher *b = *state;
    scd_device_stats stats[4];
    call *one = call_new(1, 10), *two = call_new(1, 7);
    fake_hold(false, true);
    call_submit(b, one);
    assert_true(fake_wait_held(0, 1));
    call_submit(b, two);
    assert_true(fake_wait_held(0, 2));
    fake_hold(false, false);
    assert_int_equal(call_wait(one), SCD_OK);
    assert_int_equal(call_wait(two), SCD_OK);
    assert_int_equal(scd_batcher_devices(b, stats, 4), 2);
    assert_int_equal(scd_batcher_devices(b, stats, 1), 1);
    assert_int_equal(stats[0].batches, 1);
    assert_false(stats[0].lost || stats[1].lost);
    assert_int_equal(stats[0].tokens + stats[1].tokens, 17);
    call_free(one);
    call_free(two);
}

static void what_a_device_that_fails_had_is_computed_by_the_other_and_kept(void **state)
{
    scd_batcher *b = *state;
    enum { N = 40 };
    call *calls[N];
    scd_device_stats stats[2];
    fail_device(0);
    fake_hold(false, true); /* so that the one that works is busy with the first */
    for (size_t i = 0; i < N; i++) {
        calls[i] = call_new(2, 10);
        calls[i]->identity = gpu.identity;
        call_submit(b, calls[i]);
        if (!i)
            assert_true(fake_wait_held(0, 1));
    }
    while (!atomic_load(&n_events[SCD_DEVICE_FAILED]))
        usleep(1000);
    fake_hold(false, false);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(call_wait(calls[i]), SCD_OK);
        assert_true(calls[i]->out[1][0] == calls[i]->values[1][0]);
        assert_true(fake_has(&calls[i]->orders[1].key));
        assert_false(calls[i]->outcome.moved);
        call_free(calls[i]);
    }
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_FAILED]), 1);
    assert_int_equal(atomic_load(&last_left), 1);
    assert_int_equal(atomic_load(&engine.on_device[0]), 1); /* and is asked no more */
    assert_true(scd_batcher_answers(b));
    assert_int_equal(scd_batcher_devices(b, stats, 2), 2);
    assert_true(stats[0].lost && !stats[1].lost && !stats[0].batches);
}

/* One of the two hangs with the call's cells, which the other answers. Which. */
static size_t let_one_hang(scd_batcher *b, call *c)
{
    atomic_store(&engine.hangs[0], true);
    atomic_store(&engine.hangs[1], true);
    call_submit(b, c);
    while (!atomic_load(&engine.on_device[0]) && !atomic_load(&engine.on_device[1]))
        usleep(1000);
    size_t silent = atomic_load(&engine.on_device[0]) ? 0 : 1;
    atomic_store(&engine.hangs[1 - silent], false);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_true(c->out[0][0] == c->values[0][0] && c->out[1][0] == c->values[1][0]);
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_SILENT]), 1);
    assert_int_equal(scd_batcher_queued(b), 0);
    return silent;
}

static void what_a_silent_device_has_is_computed_by_the_other(void **state)
{
    scd_batcher *b = *state;
    scd_device_stats stats[2];
    call *c = call_new(2, 10);
    size_t silent = let_one_hang(b, c);
    assert_int_equal(scd_batcher_devices(b, stats, 2), 2);
    assert_true(stats[silent].silent_s > 0 && scd_batcher_answers(b));
    atomic_store(&engine.hangs[silent], false); /* what it comes back with nobody wants */
    for (stats[silent].batches = 0; !stats[silent].batches; scd_batcher_devices(b, stats, 2))
        usleep(1000);
    assert_true(stats[silent].silent_s <= 0);
    assert_int_equal(scd_batcher_queued(b), 0);
    call_free(c);
}

static void what_a_silent_device_had_is_not_computed_again_when_it_dies(void **state)
{
    scd_batcher *b = *state;
    scd_device_stats stats[2];
    call *c = call_new(2, 10);
    size_t silent = let_one_hang(b, c), before = atomic_load(&engine.batches);
    fail_device(silent);
    atomic_store(&engine.hangs[silent], false);
    while (!atomic_load(&n_events[SCD_DEVICE_FAILED]))
        usleep(1000);
    assert_int_equal(scd_batcher_queued(b), 0);
    assert_int_equal(scd_batcher_devices(b, stats, 2), 2);
    assert_true(stats[silent].lost && stats[silent].silent_s <= 0 && scd_batcher_answers(b));
    assert_int_equal(atomic_load(&engine.batches), before);
    call_free(c);
}

/* It would take one device after the other with it. */
static void a_cell_that_was_there_when_two_devices_failed_is_given_up(void **state)
{
    scd_batcher *b = *state;
    call *c = call_new(1, 10), *next = call_new(1, 10);
    fail_device(0);
    fail_device(1);
    call_submit(b, c);
    assert_int_equal(call_wait(c), SCD_E_DEVICE);
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_FAILED]), 2);
    assert_int_equal(atomic_load(&last_left), 0);
    assert_false(scd_batcher_answers(b));
    assert_int_equal(scd_batcher_queued(b), 0);
    call_submit(b, next); /* answered, if badly */
    assert_int_equal(call_wait(next), SCD_E_DEVICE);
    call_free(c);
    call_free(next);
}

static void
with_the_last_device_lost_the_cpu_goes_on_and_keeps_what_it_computed_for_itself_alone(void **state)
{
    scd_batcher *b = *state;
    call *c = call_new(3, 10), *after = call_new(1, 10), *of_cpu = call_new(1, 10);
    c->identity = after->identity = gpu.identity;
    of_cpu->identity = cpu.identity;
    fail_device(0);
    fail_device(1);
    call_submit(b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_true(c->outcome.moved);
    for (size_t i = 0; i < c->n; i++) {
        assert_true(c->out[i][0] == c->values[i][0] + 0.5f);
        assert_false(fake_has(&c->orders[i].key));
    }
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_MOVES]), 1);
    call_submit(b, after); /* its key was made before the move */
    assert_int_equal(call_wait(after), SCD_OK);
    assert_true(after->outcome.moved && !fake_has(&after->orders[0].key));
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_MOVED]), 1);
    assert_true(scd_batcher_answers(b));
    call_submit(b, of_cpu);
    assert_int_equal(call_wait(of_cpu), SCD_OK);
    assert_true(!of_cpu->outcome.moved && fake_has(&of_cpu->orders[0].key));
    assert_int_equal(scd_batcher_queued(b), 0);
    fail_device(2); /* there is nowhere else to go */
    call *last = call_new(1, 10);
    call_submit(b, last);
    assert_int_equal(call_wait(last), SCD_E_DEVICE);
    assert_false(scd_batcher_answers(b));
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_MOVES]), 1);
    call_free(c);
    call_free(after);
    call_free(of_cpu);
    call_free(last);
}

static void a_cpu_that_cannot_take_over_leaves_things_as_they_are(void **state)
{
    scd_batcher *b = *state;
    atomic_store(&engine.cannot_move, 1);
    fail_device(0);
    fail_device(1);
    for (int i = 0; i < 2; i++) {
        call *c = call_new(1, 10);
        call_submit(b, c);
        assert_int_equal(call_wait(c), SCD_E_DEVICE);
        assert_string_equal(c->outcome.message, "the device went away");
        call_free(c);
    }
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_STAYS]), 1);
    assert_int_equal(atomic_load(&n_events[SCD_DEVICE_MOVED]), 0);
    assert_false(scd_batcher_answers(b));
}

/* ---- one batch behind the other -------------------------------------------------------------- */

static void a_full_queue_keeps_a_batch_behind_the_one_that_is_computed(void **state)
{
    scd_batcher *b = *state;
    enum { N = 30 };
    call *busy = call_new(1, 20), *calls[N];
    fake_hold(false, true);
    call_submit(b, busy);
    assert_true(fake_wait_held(0, 1));
    for (size_t i = 0; i < N; i++) {
        calls[i] = call_new(1, i % 9 + 4);
        calls[i]->work.model = i % 10 == 9;
        calls[i]->bulk = i % 3 == 0;
        call_submit(b, calls[i]);
    }
    fake_hold(false, false);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(call_wait(calls[i]), SCD_OK);
        assert_true(calls[i]->out[0][0] ==
                    calls[i]->values[0][0] + 1000.0f * (float)calls[i]->work.model);
        call_free(calls[i]);
    }
    assert_int_equal(call_wait(busy), SCD_OK);
    assert_int_equal(atomic_load(&engine.most_under_way), 2);
    assert_int_equal(scd_batcher_queued(b), 0);
    call_free(busy);
}

static void a_lone_request_is_behind_nobody(void **state)
{
    scd_batcher *b = *state;
    for (int i = 0; i < 20; i++) {
        call *c = call_new(1, 10);
        call_submit(b, c);
        assert_int_equal(call_wait(c), SCD_OK);
        call_free(c);
    }
    assert_int_equal(atomic_load(&engine.most_under_way), 1);
}

static void every_allocation_that_fails_at_the_start_is_reported(void **state)
{
    (void)state;
    scd_batcher *b = NULL;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_mem_fail_after(n);
        code = open_on(2, true, &b);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    scd_batcher_close(b);
}

#define WITH_BATCHER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define OVERLAPPING(test, set_up) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define WITH_TWO(test) cmocka_unit_test_setup_teardown(test, set_up_two, tear_down)
#define WITH_TWO_WATCHED(test) cmocka_unit_test_setup_teardown(test, set_up_two_watched, tear_down)
#define WITH_MOVING(test) cmocka_unit_test_setup_teardown(test, set_up_moving, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BATCHER(a_batch_that_fails_fails_everyone_who_waits_for_it_and_is_logged_once),
        WITH_BATCHER(a_request_of_several_batches_fails_with_the_first_and_leaves_the_queue),
        WITH_BATCHER(the_next_request_for_a_cell_that_failed_computes_it),
        WITH_BATCHER(a_warm_up_that_fails_says_why),
        WITH_BATCHER(cells_of_two_models_are_computed_by_their_own),
        WITH_TWO(both_devices_compute_at_a_time),
        WITH_TWO(what_a_device_that_fails_had_is_computed_by_the_other_and_kept),
        WITH_TWO_WATCHED(what_a_silent_device_has_is_computed_by_the_other),
        WITH_TWO_WATCHED(what_a_silent_device_had_is_not_computed_again_when_it_dies),
        WITH_TWO(a_cell_that_was_there_when_two_devices_failed_is_given_up),
        WITH_MOVING(
            with_the_last_device_lost_the_cpu_goes_on_and_keeps_what_it_computed_for_itself_alone),
        WITH_MOVING(a_cpu_that_cannot_take_over_leaves_things_as_they_are),
        cmocka_unit_test(every_allocation_that_fails_at_the_start_is_reported),
        OVERLAPPING(a_full_queue_keeps_a_batch_behind_the_one_that_is_computed, set_up_overlapping),
        OVERLAPPING(a_lone_request_is_behind_nobody, set_up_overlapping),
        OVERLAPPING(a_batch_that_fails_fails_everyone_who_waits_for_it_and_is_logged_once,
                    set_up_overlapping),
        OVERLAPPING(cells_of_two_models_are_computed_by_their_own, set_up_overlapping),
        OVERLAPPING(what_a_device_that_fails_had_is_computed_by_the_other_and_kept,
                    set_up_two_overlapping),
        OVERLAPPING(a_cell_that_was_there_when_two_devices_failed_is_given_up,
                    set_up_two_overlapping),
        OVERLAPPING(
            with_the_last_device_lost_the_cpu_goes_on_and_keeps_what_it_computed_for_itself_alone,
            set_up_moving_overlapping),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
