/* test_batcher.c - from cells to batches on a real engine: single flight, admission, cancellation,
 * the end. The store is a stand-in whose steps the tests can hold.
 *
 * "Busy": batch-0 has computed a batch and is held while it stores the result, so that whatever is
 * submitted meanwhile stays queued.
 *
 * Threads: main, batch-0, the submitters that a test starts. */
#include "tests/unit/batcher_fixture.h"
#include "tests/unit/tiny_model.h"

#include <math.h>

enum { MAX_QUEUE = 100 };

static tiny_model model;
static scd_engine *engine;

typedef struct fixture {
    scd_batcher *b;
    call *busy;
} fixture;

static int open_all(void **state)
{
    (void)state;
    const char *dir = model.dir;
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .precision = SCD_PRECISION_FP32,
                            .threads = 1,
                            .max_batch_tokens = 2 * (TINY_MAX_GENES + 1),
                            .model_dirs = &dir,
                            .n_models = 1};
    static const char *const routes[] = {"other"};
    return tiny_model_make(&model, "tiny", "1") || scd_gate_init(&store.gate, NULL) ||
           scd_gate_init(&done_gate, NULL) || scd_metrics_new(routes, 1, &metrics, NULL) ||
           scd_engine_open(&o, &engine, NULL);
}

static int close_all(void **state)
{
    (void)state;
    scd_engine_close(engine);
    scd_metrics_free(metrics);
    scd_gate_release(&done_gate);
    scd_gate_release(&store.gate);
    tiny_model_remove(&model);
    return 0;
}

static scd_code open_batcher(scd_batcher **out, scd_error *err)
{
    scd_batcher_options o = {
        .engine = engine, .store = &store, .metrics = metrics, .max_queue_tokens = MAX_QUEUE};
    return scd_batcher_open(&o, out, err);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    store.n = 0;
    return open_batcher(&f->b, NULL) || scd_batcher_warm_up(f->b, NULL);
}

static int tear_down(void **state)
{
    fixture *f = *state;
    fake_hold(false, false);
    scd_batcher_close(f->b);
    free(f);
    return 0;
}

/* Batch-0 is busy with a call of one 20-token cell until end_busy. */
static void begin_busy(fixture *f)
{
    fake_hold(false, true);
    f->busy = call_new(1, 20);
    call_submit(f->b, f->busy);
    assert_true(fake_wait_held(0, 1));
}

static void end_busy(fixture *f)
{
    fake_hold(false, false);
    assert_int_equal(call_wait(f->busy), SCD_OK);
    call_free(f->busy);
}

static void *call_submit_thread(void *arg)
{
    call *c = arg;
    call_submit(c->batcher, c);
    return NULL;
}

static void call_submit_in(pthread_t *thread, scd_batcher *b, call *c)
{
    c->batcher = b;
    assert_int_equal(pthread_create(thread, NULL, call_submit_thread, c), 0);
}

/* ---- results --------------------------------------------------------------------------------- */

static void a_cell_is_computed_stored_and_handed_out_bit_for_bit(void **state)
{
    fixture *f = *state;
    call *c = call_new(1, 7);
    float expected[TINY_DIM];
    const scd_cell *cell = &c->cells[0];
    assert_int_equal(scd_engine_embed(engine, 0, &cell, 1, expected, NULL), SCD_OK);
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
        assert_int_equal(scd_engine_embed(engine, 0, &cell, 1, expected, NULL), SCD_OK);
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
    int expected = (int)fmin(3600, fmax(1, ceil(7 / rate)));
    assert_int_equal(second->outcome.retry_after_s, expected);
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

/* ---- giving up ------------------------------------------------------------------------------- */

static void a_canceled_request_leaves_the_queue_and_is_not_computed(void **state)
{
    fixture *f = *state;
    uint64_t before = computed();
    begin_busy(f);
    call *c = call_new(3, 10), *late = call_new(1, 10);
    call_submit(f->b, c);
    call_submit(f->b, late);
    assert_int_equal(scd_batcher_queued(f->b), 60);
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    assert_int_equal(call_n_done(c), 1);
    assert_int_equal(c->outcome.code, SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 30);
    scd_batcher_cancel(f->b, late->serial, SCD_E_TIMEOUT);
    assert_int_equal(late->outcome.code, SCD_E_TIMEOUT);
    assert_non_null(strstr(late->outcome.message, "deadline"));
    end_busy(f);
    assert_int_equal(computed() - before, 1);
    call_free(c);
    call_free(late);
}

static void a_request_canceled_while_it_runs_is_over_at_once_and_its_result_is_stored(void **state)
{
    fixture *f = *state;
    fake_hold(false, true);
    call *c = call_new(1, 10);
    call_submit(f->b, c);
    assert_true(fake_wait_held(0, 1));
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    assert_int_equal(call_n_done(c), 1);
    scd_digest key = c->orders[0].key;
    memset(c->out, 0, sizeof c->out);
    fake_hold(false, false);
    call *next = call_new(1, 10);
    call_submit(f->b, next);
    assert_int_equal(call_wait(next), SCD_OK);
    assert_true(fake_has(&key));
    for (size_t i = 0; i < TINY_DIM; i++)
        assert_true(c->out[0][i] == 0.0f); /* the caller's memory is its own again */
    call_free(c);
    call_free(next);
}

static void a_cell_outlives_the_request_that_brought_it_when_another_waits(void **state)
{
    fixture *f = *state;
    uint64_t before = computed();
    begin_busy(f);
    call *owner = call_new(3, 10), *other = call_of_key(last_key, 10);
    call_submit(f->b, owner);
    call_submit(f->b, other);
    scd_batcher_cancel(f->b, owner->serial, SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 30);
    end_busy(f);
    assert_int_equal(call_wait(other), SCD_OK);
    assert_int_equal(computed() - before, 2);
    assert_int_equal(owner->outcome.code, SCD_E_CANCELED);
    call_free(owner);
    call_free(other);
}

static void a_request_with_a_cell_twice_can_be_canceled(void **state)
{
    fixture *f = *state;
    begin_busy(f);
    call *c = call_new(1, 10);
    call_add(c, last_key, 10);
    call_add(c, last_key, 10);
    call_submit(f->b, c);
    assert_int_equal(scd_batcher_queued(f->b), 30);
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 20);
    end_busy(f);
    call_free(c);
}

static void a_request_canceled_during_its_look_up_is_done_once(void **state)
{
    fixture *f = *state;
    pthread_t thread;
    uint64_t before = computed();
    call *c = call_new(2, 10);
    fake_hold(true, false);
    call_submit_in(&thread, f->b, c);
    assert_true(fake_wait_held(1, 0));
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    scd_batcher_cancel(f->b, c->serial, SCD_E_TIMEOUT);
    fake_hold(false, false);
    pthread_join(thread, NULL);
    assert_int_equal(call_wait(c), SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    assert_int_equal(computed(), before);
    call_free(c);
}

static void who_joined_a_look_up_is_served_though_its_owner_gave_up(void **state)
{
    fixture *f = *state;
    pthread_t thread;
    uint64_t before = computed();
    call *owner = call_new(2, 10), *other = call_of_key(last_key, 10);
    fake_hold(true, false);
    call_submit_in(&thread, f->b, owner);
    assert_true(fake_wait_held(1, 0));
    call_submit(f->b, other);
    scd_batcher_cancel(f->b, owner->serial, SCD_E_CANCELED);
    fake_hold(false, false);
    pthread_join(thread, NULL);
    assert_int_equal(call_wait(other), SCD_OK);
    assert_int_equal(call_wait(owner), SCD_E_CANCELED);
    assert_int_equal(computed() - before, 1);
    call_free(owner);
    call_free(other);
}

static void canceling_what_is_over_or_never_was_does_nothing(void **state)
{
    fixture *f = *state;
    call *c = call_new(1, 10);
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    call_submit(f->b, c);
    assert_int_equal(call_wait(c), SCD_OK);
    scd_batcher_cancel(f->b, c->serial, SCD_E_CANCELED);
    call_free(c);
}

/* ---- whose turn ------------------------------------------------------------------------------ */

/* max_rows is 42: more than that is bulk work. */
static void a_single_cell_does_not_wait_behind_the_bulk_request_that_has_it_too(void **state)
{
    fixture *f = *state;
    begin_busy(f);
    call *bulk = call_new(4, 19), *single = call_of_key(last_key, 19); /* its last cell */
    call_submit(f->b, bulk);
    call_submit(f->b, single);
    assert_int_equal(scd_batcher_queued(f->b), 96);
    fake_hold(false, false);
    assert_int_equal(call_wait(single), SCD_OK);
    assert_int_equal(call_wait(bulk), SCD_OK);
    assert_int_equal(call_wait(f->busy), SCD_OK);
    /* Stored in the order computed: the busy cell, then the batch that the single cell leads. */
    scd_gate_lock(&store.gate);
    size_t place = fake_find(&single->orders[0].key);
    scd_gate_unlock(&store.gate);
    assert_int_equal(place, 1);
    call_free(f->busy);
    call_free(bulk);
    call_free(single);
}

/* ---- the end --------------------------------------------------------------------------------- */

static void a_drain_refuses_what_comes_and_waits_for_what_is_there(void **state)
{
    fixture *f = *state;
    begin_busy(f);
    call *waiting = call_new(1, 10), *late = call_new(1, 10);
    call_submit(f->b, waiting);
    assert_false(scd_batcher_drain(f->b, scd_now_ns() + 5 * SCD_NS_PER_MS));
    call_submit(f->b, late);
    assert_int_equal(call_n_done(late), 1);
    assert_int_equal(late->outcome.code, SCD_E_CANCELED);
    assert_int_equal(call_n_done(waiting), 0);
    fake_hold(false, false);
    assert_true(scd_batcher_drain(f->b, scd_now_ns() + WAIT_S * SCD_NS_PER_S));
    assert_int_equal(call_wait(waiting), SCD_OK);
    assert_int_equal(call_wait(f->busy), SCD_OK);
    call_free(f->busy);
    call_free(waiting);
    call_free(late);
}

typedef struct stopper {
    pthread_t thread;
    scd_batcher *b;
} stopper;

static void *stop_it(void *arg)
{
    scd_batcher_stop(arg);
    return NULL;
}

static void a_stop_cancels_what_is_queued_and_refuses_what_comes(void **state)
{
    fixture *f = *state;
    pthread_t stopping;
    begin_busy(f);
    call *queued = call_new(2, 10), *late = call_new(1, 10);
    call_submit(f->b, queued);
    assert_int_equal(pthread_create(&stopping, NULL, stop_it, f->b), 0);
    usleep(20000); /* the batch that runs is finished first */
    fake_hold(false, false);
    pthread_join(stopping, NULL);
    assert_int_equal(call_wait(f->busy), SCD_OK);
    assert_int_equal(call_wait(queued), SCD_E_CANCELED);
    call_submit(f->b, late);
    assert_int_equal(call_wait(late), SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    scd_batcher_stop(f->b); /* twice is fine */
    call_free(f->busy);
    call_free(queued);
    call_free(late);
}

static void a_stop_does_not_wait_for_a_request_that_looks_its_cells_up(void **state)
{
    fixture *f = *state;
    pthread_t thread;
    call *c = call_new(2, 10), *joined = call_of_key(last_key, 10);
    fake_hold(true, false);
    call_submit_in(&thread, f->b, c);
    assert_true(fake_wait_held(1, 0));
    call_submit(f->b, joined);
    alarm(20); /* the alternative is to hang */
    scd_batcher_stop(f->b);
    alarm(0);
    assert_int_equal(call_wait(joined), SCD_E_CANCELED);
    assert_int_equal(call_n_done(c), 0); /* its own thread ends it */
    fake_hold(false, false);
    pthread_join(thread, NULL);
    assert_int_equal(call_wait(c), SCD_E_CANCELED);
    call_free(c);
    call_free(joined);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void a_batcher_without_memory_is_not_opened_and_leaks_nothing(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    for (; code && n < 100; n++) {
        scd_batcher *b = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = open_batcher(&b, &err);
        scd_mem_fail_after(-1);
        if (code) {
            assert_int_equal(code, SCD_E_NOMEM);
            assert_null(b);
            assert_true(err.message[0]);
        }
        scd_batcher_close(b);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 5);
}

static void a_submission_without_memory_leaves_no_trace(void **state)
{
    fixture *f = *state;
    call *c = call_new(3, 10);
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; n < 7; n++) { /* ticket, two arrays, waiters, three units */
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = scd_batcher_submit(f->b, 0, c->orders, c->n, c->serial, call_done, c, &err);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
        assert_string_equal(err.message, "out of memory for 3 cells");
        assert_int_equal(call_n_done(c), 0);
    }
    scd_mem_fail_after(7); /* room for cached values: without it they are computed */
    call_submit(f->b, c);
    scd_mem_fail_after(-1);
    assert_int_equal(call_wait(c), SCD_OK);
    call_free(c);
}

/* ---- everything at once ---------------------------------------------------------------------- */

typedef struct client {
    pthread_t thread;
    scd_batcher *b;
    unsigned seed;
    int n_bad;
} client;

/* Asks for one to four of eight cells, cancels every third time; every answer is right or absent.
 */
static void *ask_and_cancel(void *arg)
{
    client *cl = arg;
    for (int round = 0; round < 60; round++) {
        call *c = calloc(1, sizeof *c);
        c->serial = 1000000 + cl->seed * 1000 + (unsigned)round;
        size_t n = 1 + (size_t)(rand_r(&cl->seed) % 4);
        for (size_t i = 0; i < n; i++) {
            uint32_t key = 900000 + (uint32_t)(round / 4 * 8 + rand_r(&cl->seed) % 8);
            call_add(c, key, 1 + key % 11);
        }
        call_submit(cl->b, c);
        if (round % 3 == 0)
            scd_batcher_cancel(cl->b, c->serial, SCD_E_CANCELED);
        scd_code code = call_wait(c);
        cl->n_bad += code && code != SCD_E_CANCELED && code != SCD_E_BUSY;
        for (size_t i = 0; i < n && !code; i++)
            for (size_t k = 0; k < n; k++)
                if (!memcmp(&c->orders[i].key, &c->orders[k].key, sizeof c->orders[i].key))
                    cl->n_bad += memcmp(c->out[i], c->out[k], sizeof c->out[i]) != 0;
        call_free(c);
    }
    return NULL;
}

static void clients_that_come_join_and_leave_at_random_get_one_answer_each(void **state)
{
    fixture *f = *state;
    enum { N = 6 };
    client clients[N];
    for (unsigned i = 0; i < N; i++) {
        clients[i] = (client){.b = f->b, .seed = i + 1};
        assert_int_equal(pthread_create(&clients[i].thread, NULL, ask_and_cancel, &clients[i]), 0);
    }
    for (size_t i = 0; i < N; i++) {
        pthread_join(clients[i].thread, NULL);
        assert_int_equal(clients[i].n_bad, 0);
    }
    assert_true(scd_batcher_drain(f->b, scd_now_ns() + WAIT_S * SCD_NS_PER_S));
    assert_int_equal(scd_batcher_queued(f->b), 0);
}

#define WITH_BATCHER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BATCHER(a_cell_is_computed_stored_and_handed_out_bit_for_bit),
        WITH_BATCHER(every_cell_of_a_request_larger_than_a_batch_comes_in_its_place),
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
        WITH_BATCHER(a_canceled_request_leaves_the_queue_and_is_not_computed),
        WITH_BATCHER(a_request_canceled_while_it_runs_is_over_at_once_and_its_result_is_stored),
        WITH_BATCHER(a_cell_outlives_the_request_that_brought_it_when_another_waits),
        WITH_BATCHER(a_request_with_a_cell_twice_can_be_canceled),
        WITH_BATCHER(a_request_canceled_during_its_look_up_is_done_once),
        WITH_BATCHER(who_joined_a_look_up_is_served_though_its_owner_gave_up),
        WITH_BATCHER(canceling_what_is_over_or_never_was_does_nothing),
        WITH_BATCHER(a_single_cell_does_not_wait_behind_the_bulk_request_that_has_it_too),
        WITH_BATCHER(a_drain_refuses_what_comes_and_waits_for_what_is_there),
        WITH_BATCHER(a_stop_cancels_what_is_queued_and_refuses_what_comes),
        WITH_BATCHER(a_stop_does_not_wait_for_a_request_that_looks_its_cells_up),
        cmocka_unit_test(a_batcher_without_memory_is_not_opened_and_leaks_nothing),
        WITH_BATCHER(a_submission_without_memory_leaves_no_trace),
        WITH_BATCHER(clients_that_come_join_and_leave_at_random_get_one_answer_each),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
