/* test_batcher_leave.c - requests that are given up, whose turn it is, and the end.
 *
 * Threads: main, batch-0, the submitters and clients that a test starts. */
#include "tests/unit/batcher_engine.h"

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

static void *stop_it(void *arg)
{
    scd_batcher_stop(arg);
    return NULL;
}

static void a_stop_cancels_what_is_queued_and_refuses_what_comes(void **state)
{
    enum { PROBES = 200 };
    fixture *f = *state;
    pthread_t stopping;
    call *probes[PROBES];
    size_t n = 0;
    begin_busy(f);
    call *queued = call_new(2, 10), *late = call_new(1, 10);
    call_submit(f->b, queued);
    assert_int_equal(pthread_create(&stopping, NULL, stop_it, f->b), 0);
    do { /* until one is refused at once: the stop has begun; those before it wait in the queue */
        usleep(5000);
        probes[n] = call_new(1, 10);
        call_submit(f->b, probes[n]);
    } while (!call_n_done(probes[n++]) && n < PROBES);
    fake_hold(false, false); /* the batch that runs is finished first */
    pthread_join(stopping, NULL);
    assert_int_equal(call_wait(f->busy), SCD_OK);
    assert_int_equal(call_wait(queued), SCD_E_CANCELED);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(call_wait(probes[i]), SCD_E_CANCELED);
        call_free(probes[i]);
    }
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
        const scd_ask ask = call_ask(c);
        code = scd_batcher_submit(f->b, &ask, &err);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
