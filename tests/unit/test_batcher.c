/* test_batcher.c - from cells to batches on a real engine: results, single flight, admission. The
 * store is a stand-in whose steps the tests can hold.
 *
 * Threads: main, batch-0, the submitters that a test starts. */
#include "tests/unit/batcher_engine.h"

#include <math.h>

/* ---- results --------------------------------------------------------------------------------- */

static void a_cell_is_computed_stored_and_handed_out_bit_for_bit(void **state)
{
    fixture *f = *state;
    call *c = call_new(1, 7);
    float expected[TINY_DIM];
    const scd_cell *cell = &c->cells[0];
    assert_int_equal(scd_engine_compute(engine, (scd_work){0}, &cell, 1, expected, NULL), SCD_OK);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_memory_equal(c->out[0], expected, sizeof expected);
    assert_int_equal(c->orders[0].source, SCD_SOURCE_MISS);
    assert_true(fake_has(&c->orders[0].key));
    assert_true(c->outcome.queue_s >= 0 && c->outcome.infer_s > 0);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    call_free(c);
}

static void every_cell_of_a_request_larger_than_a_batch_comes_in_its_place(void **state)
{
    fixture *f = *state;
    call *c = call_new(CALL_ORDERS, 1);
    uint64_t before = computed();
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(computed() - before, CALL_ORDERS);
    for (size_t i = 0; i < c->n; i++) {
        float expected[TINY_DIM];
        const scd_cell *cell = &c->cells[i];
        assert_int_equal(scd_engine_compute(engine, (scd_work){0}, &cell, 1, expected, NULL),
                         SCD_OK);
        assert_memory_equal(c->out[i], expected, sizeof expected);
    }
    call_free(c);
}

static void orders_of_one_request_may_be_of_different_work(void **state)
{
    fixture *f = *state;
    call *c = call_new(4, 9);
    const scd_work other = {.pooling = SCD_POOL_CLEAN}; /* the same where nothing is hidden */
    c->orders[2].work = c->orders[3].work = &other;
    uint64_t before = computed();
    begin_busy(f);
    call_submit(f->b, c);
    assert_int_equal(scd_batcher_queued(f->b), 20 + 4 * 9);
    end_busy(f);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(computed() - before, 1 + 4);
    for (size_t i = 0; i < c->n; i++) {
        float expected[TINY_DIM];
        const scd_cell *cell = &c->cells[i];
        assert_int_equal(scd_engine_compute(engine, (scd_work){0}, &cell, 1, expected, NULL),
                         SCD_OK);
        assert_memory_equal(c->out[i], expected, sizeof expected);
    }
    call_free(c);
}

static void a_request_for_nothing_is_done_at_once(void **state)
{
    fixture *f = *state;
    call *c = call_new(0, 0);
    call_submit(f->b, c);
    assert_int_equal(call_n_done(c), 1);
    assert_int_equal(c->outcome.code, SCD_OK);
    call_free(c);
}

/* ---- single flight --------------------------------------------------------------------------- */

static void threads_that_ask_for_one_cell_at_once_have_it_computed_once(void **state)
{
    fixture *f = *state;
    enum { N = 16 };
    pthread_t threads[N];
    call *calls[N];
    size_t misses = 0;
    uint64_t before = computed();
    uint32_t key = ++last_key;
    for (size_t i = 0; i < N; i++) {
        calls[i] = call_of_key(key, 12);
        call_submit_in(&threads[i], f->b, calls[i]);
    }
    for (size_t i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(call_wait(calls[i]), SCD_OK);
        assert_memory_equal(calls[i]->out[0], calls[0]->out[0], sizeof calls[0]->out[0]);
        misses += calls[i]->orders[0].source == SCD_SOURCE_MISS;
    }
    assert_int_equal(computed() - before, 1);
    assert_int_equal(misses, 1);
    for (size_t i = 0; i < N; i++)
        call_free(calls[i]);
}

static void a_cell_that_is_in_flight_is_joined_in_any_state(void **state)
{
    fixture *f = *state;
    uint64_t before = computed();
    begin_busy(f);
    call *running = call_new(0, 0), *queued = call_new(1, 5), *joined = call_new(0, 0);
    call_submit(f->b, queued);
    running->n = joined->n = 0;
    call_add(running, last_key - 1, 20); /* what batch-0 is busy with */
    call_add(joined, last_key, 5);
    call_submit(f->b, running);
    call_submit(f->b, joined);
    assert_int_equal(scd_batcher_queued(f->b), 25);
    end_busy(f);
    assert_int_equal(call_wait(running), SCD_OK);
    assert_int_equal(call_wait(queued), SCD_OK);
    assert_int_equal(call_wait(joined), SCD_OK);
    assert_int_equal(running->orders[0].source, SCD_SOURCE_COALESCED);
    assert_int_equal(joined->orders[0].source, SCD_SOURCE_COALESCED);
    assert_int_equal(queued->orders[0].source, SCD_SOURCE_MISS);
    assert_memory_equal(joined->out[0], queued->out[0], sizeof queued->out[0]);
    assert_int_equal(computed() - before, 2);
    call_free(running);
    call_free(queued);
    call_free(joined);
}

static void the_same_cell_twice_in_a_request_is_computed_once(void **state)
{
    fixture *f = *state;
    call *c = call_new(1, 9);
    uint64_t before = computed();
    call_add(c, last_key, 9);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(computed() - before, 1);
    assert_memory_equal(c->out[0], c->out[1], sizeof c->out[0]);
    call_free(c);
}

static void a_result_stored_since_the_caller_looked_is_a_hit(void **state)
{
    fixture *f = *state;
    call *c = call_new(2, 9);
    uint64_t before = computed();
    float stored[TINY_DIM] = {42.0f};
    fake_put(&c->orders[1].key, stored, sizeof stored);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(computed() - before, 1);
    assert_int_equal(c->orders[0].source, SCD_SOURCE_MISS);
    assert_int_equal(c->orders[1].source, SCD_SOURCE_HIT);
    assert_memory_equal(c->out[1], stored, sizeof stored);
    call_free(c);
}

static void a_stored_value_of_another_length_is_not_used(void **state)
{
    fixture *f = *state;
    call *c = call_new(1, 9);
    float stored[TINY_DIM + 1] = {42.0f};
    fake_put(&c->orders[0].key, stored, sizeof stored - 8);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(c->orders[0].source, SCD_SOURCE_MISS);
    call_free(c);
}

/* ---- admission ------------------------------------------------------------------------------- */

static void a_full_queue_takes_all_of_a_request_or_nothing(void **state)
{
    fixture *f = *state;
    uint64_t before = computed();
    begin_busy(f); /* 20 tokens */
    call *first = call_new(3, 20), *second = call_new(2, 11), *third = call_new(2, 10);
    call_submit(f->b, first);
    call_submit(f->b, second); /* 80 + 22 > 100 */
    assert_int_equal(call_n_done(second), 1);
    assert_int_equal(second->outcome.code, SCD_E_BUSY);
    assert_int_equal(scd_batcher_queued(f->b), 80);
    call_submit(f->b, third); /* exactly 100 */
    assert_int_equal(call_n_done(third), 0);
    assert_int_equal(scd_batcher_queued(f->b), 100);
    end_busy(f);
    assert_int_equal(call_wait(first), SCD_OK);
    assert_int_equal(call_wait(third), SCD_OK);
    assert_int_equal(computed() - before, 6);
    call_free(first);
    call_free(second);
    call_free(third);
}

static void a_refused_request_hears_from_the_measured_rate_when_to_come_back(void **state)
{
    fixture *f = *state;
    begin_busy(f);
    double rate = scd_batcher_rate(f->b);
    call *first = call_new(4, 20), *second = call_new(1, 7);
    call_submit(f->b, first);
    call_submit(f->b, second);
    assert_int_equal(second->outcome.code, SCD_E_BUSY);
    assert_true(rate > 0);
    int s = second->outcome.retry_after_s; /* the exact one, and some more that it may be spread */
    assert_true(s >= fmin(3600, 7 / rate) && s <= fmin(3600, 2 + 1.25 * 7 / rate));
    assert_non_null(strstr(second->outcome.message, "the queue is full (100 of 100 tokens)"));
    end_busy(f);
    assert_int_equal(call_wait(first), SCD_OK);
    call_free(first);
    call_free(second);
}

static void a_request_that_the_queue_can_never_hold_is_told_the_bound(void **state)
{
    fixture *f = *state;
    call *c = call_new(6, 17);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_E_TOO_LARGE);
    assert_non_null(strstr(c->outcome.message, "needs 102 tokens computed, the queue holds at "
                                               "most 100"));
    assert_int_equal(c->outcome.retry_after_s, 0);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    call_free(c);
}

static void what_the_cache_has_or_others_compute_needs_no_room(void **state)
{
    fixture *f = *state;
    float stored[TINY_DIM] = {1.0f};
    begin_busy(f);
    call *full = call_new(4, 20), *c = call_new(1, 20);
    call_submit(f->b, full);
    fake_put(&c->orders[0].key, stored, sizeof stored);
    call_add(c, last_key - 1, 20); /* the last cell of `full` */
    call_submit(f->b, c);
    end_busy(f);
    assert_int_equal(call_wait(full), SCD_OK);
    assert_int_equal(call_wait(c), SCD_OK);
    assert_int_equal(c->orders[0].source, SCD_SOURCE_HIT);
    assert_int_equal(c->orders[1].source, SCD_SOURCE_COALESCED);
    call_free(full);
    call_free(c);
}

/* A large request is looking its cells up when a small one asks for one of them. */
static void a_refusal_is_for_the_request_that_is_too_large_alone(void **state)
{
    fixture *f = *state;
    pthread_t large_thread, small_thread;
    call *large = call_new(6, 17), *small = call_of_key(last_key, 17);
    fake_hold(true, false);
    call_submit_in(&large_thread, f->b, large);
    assert_true(fake_wait_held(1, 0));
    call_submit_in(&small_thread, f->b, small);
    pthread_join(small_thread, NULL); /* it has nothing to look up */
    assert_int_equal(call_n_done(small), 0);
    fake_hold(false, false);
    pthread_join(large_thread, NULL);
    assert_int_equal(call_wait(large), SCD_E_TOO_LARGE);
    assert_int_equal(call_wait(small), SCD_OK);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    call_free(large);
    call_free(small);
}

static void who_joined_a_refused_request_is_admitted_or_refused_as_a_whole(void **state)
{
    fixture *f = *state;
    pthread_t large_thread;
    uint64_t before = computed();
    begin_busy(f); /* 20 tokens */
    call *large = call_new(6, 17), *half = call_of_key(last_key, 17);
    for (uint32_t k = 1; k < 6; k++)
        call_add(half, last_key - k, 17); /* all of them: 102 tokens */
    fake_hold(true, true);
    call_submit_in(&large_thread, f->b, large);
    assert_true(fake_wait_held(1, 0));
    call_submit(f->b, half);
    fake_hold(false, true);
    pthread_join(large_thread, NULL);
    assert_int_equal(call_wait(large), SCD_E_TOO_LARGE);
    assert_int_not_equal(call_wait(half), SCD_OK);
    assert_int_equal(scd_batcher_queued(f->b), 20);
    end_busy(f);
    assert_int_equal(computed() - before, 1);
    call_free(large);
    call_free(half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BATCHER(a_cell_is_computed_stored_and_handed_out_bit_for_bit),
        WITH_BATCHER(every_cell_of_a_request_larger_than_a_batch_comes_in_its_place),
        WITH_BATCHER(orders_of_one_request_may_be_of_different_work),
        WITH_BATCHER(a_request_for_nothing_is_done_at_once),
        WITH_BATCHER(threads_that_ask_for_one_cell_at_once_have_it_computed_once),
        WITH_BATCHER(a_cell_that_is_in_flight_is_joined_in_any_state),
        WITH_BATCHER(the_same_cell_twice_in_a_request_is_computed_once),
        WITH_BATCHER(a_result_stored_since_the_caller_looked_is_a_hit),
        WITH_BATCHER(a_stored_value_of_another_length_is_not_used),
        WITH_BATCHER(a_full_queue_takes_all_of_a_request_or_nothing),
        WITH_BATCHER(a_refused_request_hears_from_the_measured_rate_when_to_come_back),
        WITH_BATCHER(a_request_that_the_queue_can_never_hold_is_told_the_bound),
        WITH_BATCHER(what_the_cache_has_or_others_compute_needs_no_room),
        WITH_BATCHER(a_refusal_is_for_the_request_that_is_too_large_alone),
        WITH_BATCHER(who_joined_a_refused_request_is_admitted_or_refused_as_a_whole),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
