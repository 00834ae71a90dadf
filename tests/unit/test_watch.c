/* test_watch.c - clients that leave and deadlines that pass, on real socket pairs.
 *
 * "Nothing happens" is tested by waiting QUIET_MS: too short a wait could only hide a failure,
 * never make one.
 *
 * Threads: main, watch. */
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_EVENTS = 512, QUIET_MS = 30, WAIT_S = 60 };

typedef struct fixture {
    scd_watch *watch;
    scd_gate gate;
    size_t n;
    struct {
        uint64_t id;
        scd_code code;
        int64_t at_ns;
    } events[MAX_EVENTS];
    bool remove_at_once; /* the callback removes what it is told about */
    int ours, theirs;    /* a connection */
} fixture;

static void on_event(void *arg, uint64_t id, scd_code code)
{
    fixture *f = arg;
    if (f->remove_at_once)
        scd_watch_remove(f->watch, id);
    scd_gate_lock(&f->gate);
    if (f->n < MAX_EVENTS) {
        f->events[f->n].id = id;
        f->events[f->n].code = code;
        f->events[f->n].at_ns = scd_now_ns();
    }
    f->n++;
    scd_gate_wake(&f->gate);
    scd_gate_unlock(&f->gate);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    int pair[2];
    *state = f;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return -1;
    f->ours = pair[0];
    f->theirs = pair[1];
    return scd_gate_init(&f->gate, NULL) || scd_watch_open(on_event, f, 0, &f->watch, NULL);
}

static int tear_down(void **state)
{
    fixture *f = *state;
    scd_watch_close(f->watch);
    close(f->ours);
    close(f->theirs);
    scd_gate_release(&f->gate);
    free(f);
    return 0;
}

static void add(fixture *f, uint64_t id, int fd, int64_t deadline_ns)
{
    assert_int_equal(scd_watch_add(f->watch, id, fd, deadline_ns, NULL), SCD_OK);
}

static int64_t in_ms(int64_t ms)
{
    return scd_now_ns() + ms * SCD_NS_PER_MS;
}

/* Until n events have come; then how many there are. */
static size_t wait_events(fixture *f, size_t n)
{
    int64_t deadline = scd_now_ns() + WAIT_S * SCD_NS_PER_S;
    scd_gate_lock(&f->gate);
    while (f->n < n && scd_gate_wait(&f->gate, deadline))
        ;
    size_t have = f->n;
    scd_gate_unlock(&f->gate);
    return have;
}

static size_t events_after_a_while(fixture *f)
{
    usleep(QUIET_MS * 1000);
    return wait_events(f, 0);
}

static void a_client_that_closes_is_noticed(void **state)
{
    fixture *f = *state;
    add(f, 7, f->ours, SCD_NEVER);
    assert_int_equal(events_after_a_while(f), 0);
    shutdown(f->theirs, SHUT_RDWR);
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].id, 7);
    assert_int_equal(f->events[0].code, SCD_E_CANCELED);
}

static void a_client_that_only_half_closes_counts_as_gone(void **state)
{
    fixture *f = *state;
    add(f, 7, f->ours, SCD_NEVER);
    shutdown(f->theirs, SHUT_WR);
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].code, SCD_E_CANCELED);
}

static void a_client_that_left_before_it_was_watched_is_noticed_too(void **state)
{
    fixture *f = *state;
    shutdown(f->theirs, SHUT_WR);
    add(f, 7, f->ours, SCD_NEVER);
    assert_int_equal(wait_events(f, 1), 1);
}

static void a_client_that_sends_more_is_still_there(void **state)
{
    fixture *f = *state;
    add(f, 7, f->ours, SCD_NEVER);
    assert_int_equal(write(f->theirs, "GET /next", 9), 9);
    assert_int_equal(events_after_a_while(f), 0);
}

static void with_a_delay_a_client_that_left_is_told_later(void **state)
{
    fixture *f = *state;
    scd_watch *prompt = f->watch;
    enum { DELAY_MS = 20 };
    assert_int_equal(scd_watch_open(on_event, f, DELAY_MS * SCD_NS_PER_MS, &f->watch, NULL),
                     SCD_OK);
    add(f, 7, f->ours, SCD_NEVER);
    int64_t left_ns = scd_now_ns();
    shutdown(f->theirs, SHUT_WR);
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].id, 7);
    assert_true(f->events[0].at_ns >= left_ns + DELAY_MS * SCD_NS_PER_MS);
    scd_watch_close(f->watch);
    f->watch = prompt;
}

static void a_reading_side_that_was_shut_reads_what_was_sent_and_then_the_end(void **state)
{
    fixture *f = *state;
    char got[16];
    add(f, 7, f->ours, SCD_NEVER);
    assert_int_equal(write(f->theirs, "half", 4), 4);
    scd_watch_shut(f->watch, 8); /* not there: nothing */
    scd_watch_shut(f->watch, 7);
    assert_int_equal(read(f->ours, got, sizeof got), 4);
    assert_int_equal(read(f->ours, got, sizeof got), 0);
    assert_int_equal(send(f->ours, "answer", 6, MSG_NOSIGNAL), 6);
    assert_int_equal(read(f->theirs, got, sizeof got), 6);
}

static void a_deadline_passes_at_its_time(void **state)
{
    fixture *f = *state;
    int64_t deadline = in_ms(20);
    add(f, 7, f->ours, deadline);
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].code, SCD_E_TIMEOUT);
    assert_true(f->events[0].at_ns >= deadline);
}

static void a_deadline_needs_no_connection_and_may_have_passed(void **state)
{
    fixture *f = *state;
    add(f, 7, -1, in_ms(-1000));
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].code, SCD_E_TIMEOUT);
}

static void deadlines_come_in_the_order_of_their_times(void **state)
{
    fixture *f = *state;
    int64_t start = scd_now_ns();
    for (uint64_t id = 1; id <= 200; id++) /* more than one round takes; many share a bucket */
        add(f, id * 1024, -1, start + (int64_t)(201 - id) * SCD_NS_PER_MS / 10);
    assert_int_equal(wait_events(f, 200), 200);
    assert_int_equal(events_after_a_while(f), 200);
    for (size_t i = 0; i < 200; i++) {
        uint64_t id = f->events[i].id / 1024;
        assert_true(f->events[i].at_ns >= start + (int64_t)(201 - id) * SCD_NS_PER_MS / 10);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(f->events[k].id, f->events[i].id);
    }
}

static void a_deadline_can_be_brought_forward_and_put_off(void **state)
{
    fixture *f = *state;
    add(f, 1, -1, SCD_NEVER);
    add(f, 2, -1, in_ms(QUIET_MS / 2));
    scd_watch_set_deadline(f->watch, 2, in_ms(3600 * 1000));
    scd_watch_set_deadline(f->watch, 3, in_ms(0)); /* not there: nothing */
    assert_int_equal(events_after_a_while(f), 0);
    scd_watch_set_deadline(f->watch, 1, in_ms(1));
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].id, 1);
}

static void what_was_removed_is_not_told(void **state)
{
    fixture *f = *state;
    add(f, 7, f->ours, in_ms(QUIET_MS / 2));
    scd_watch_remove(f->watch, 7);
    scd_watch_remove(f->watch, 7);
    shutdown(f->theirs, SHUT_WR);
    assert_int_equal(events_after_a_while(f), 0);
    assert_false(scd_watch_check(f->watch, 7));
    add(f, 8, f->ours, SCD_NEVER); /* the same connection, its next request */
    assert_int_equal(wait_events(f, 1), 1);
    assert_int_equal(f->events[0].id, 8);
}

static void an_event_is_told_once_and_again_when_asked(void **state)
{
    fixture *f = *state;
    add(f, 7, f->ours, SCD_NEVER);
    assert_false(scd_watch_check(f->watch, 7));
    shutdown(f->theirs, SHUT_WR);
    assert_int_equal(wait_events(f, 1), 1);
    scd_watch_set_deadline(f->watch, 7, in_ms(1));
    assert_int_equal(events_after_a_while(f), 1); /* the client left: its deadline is moot */
    assert_true(scd_watch_check(f->watch, 7));
    assert_int_equal(wait_events(f, 2), 2);
    assert_int_equal(f->events[1].id, 7);
    assert_int_equal(f->events[1].code, SCD_E_CANCELED);
}

static void the_callback_may_remove_what_it_is_told_about(void **state)
{
    fixture *f = *state;
    f->remove_at_once = true;
    for (uint64_t id = 1; id <= 100; id++)
        add(f, id, -1, in_ms(2));
    assert_int_equal(wait_events(f, 100), 100);
    assert_int_equal(events_after_a_while(f), 100);
    for (uint64_t id = 1; id <= 100; id++)
        assert_false(scd_watch_check(f->watch, id));
}

static void a_connection_that_cannot_be_watched_is_an_error(void **state)
{
    fixture *f = *state;
    scd_error err = {0};
    assert_int_equal(scd_watch_add(f->watch, 7, 1000000, SCD_NEVER, &err), SCD_E_IO);
    assert_non_null(err.message[0] ? err.message : NULL);
    assert_false(scd_watch_check(f->watch, 7));
    scd_mem_fail_after(0);
    assert_int_equal(scd_watch_add(f->watch, 7, f->ours, SCD_NEVER, &err), SCD_E_NOMEM);
    scd_mem_fail_after(-1);
    add(f, 7, f->ours, SCD_NEVER);
}

static void it_closes_with_entries_left_and_opens_only_with_memory(void **state)
{
    fixture *f = *state;
    scd_watch *other = (scd_watch *)1;
    add(f, 1, f->ours, SCD_NEVER);
    add(f, 2, -1, in_ms(3600 * 1000));
    scd_mem_fail_after(0);
    assert_int_equal(scd_watch_open(on_event, f, 0, &other, NULL), SCD_E_NOMEM);
    scd_mem_fail_after(-1);
    assert_null(other);
    scd_watch_close(NULL);
}

typedef struct adder {
    pthread_t thread;
    fixture *f;
    uint64_t first_id;
} adder;

/* Adds and removes while events come: each id once, on a connection of its own. */
static void *come_and_go(void *arg)
{
    adder *a = arg;
    for (uint64_t i = 0; i < 200; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
            return (void *)1;
        uint64_t id = a->first_id + i;
        scd_watch_add(a->f->watch, id, pair[0], scd_now_ns() + SCD_NS_PER_MS, NULL);
        close(pair[1]);
        if (i % 2)
            scd_watch_check(a->f->watch, id);
        scd_watch_remove(a->f->watch, id);
        close(pair[0]);
    }
    return NULL;
}

static void requests_come_and_go_while_clients_leave(void **state)
{
    fixture *f = *state;
    adder adders[3];
    for (uint64_t i = 0; i < 3; i++) {
        adders[i] = (adder){.f = f, .first_id = 1 + i * 1000};
        assert_int_equal(pthread_create(&adders[i].thread, NULL, come_and_go, &adders[i]), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        void *failed;
        pthread_join(adders[i].thread, &failed);
        assert_null(failed);
    }
    for (uint64_t id = 1; id < 3000; id++)
        assert_false(scd_watch_check(f->watch, id));
}

#define WITH_WATCH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_WATCH(a_client_that_closes_is_noticed),
        WITH_WATCH(a_client_that_only_half_closes_counts_as_gone),
        WITH_WATCH(a_client_that_left_before_it_was_watched_is_noticed_too),
        WITH_WATCH(a_client_that_sends_more_is_still_there),
        WITH_WATCH(with_a_delay_a_client_that_left_is_told_later),
        WITH_WATCH(a_reading_side_that_was_shut_reads_what_was_sent_and_then_the_end),
        WITH_WATCH(a_deadline_passes_at_its_time),
        WITH_WATCH(a_deadline_needs_no_connection_and_may_have_passed),
        WITH_WATCH(deadlines_come_in_the_order_of_their_times),
        WITH_WATCH(a_deadline_can_be_brought_forward_and_put_off),
        WITH_WATCH(what_was_removed_is_not_told),
        WITH_WATCH(an_event_is_told_once_and_again_when_asked),
        WITH_WATCH(the_callback_may_remove_what_it_is_told_about),
        WITH_WATCH(a_connection_that_cannot_be_watched_is_an_error),
        WITH_WATCH(it_closes_with_entries_left_and_opens_only_with_memory),
        WITH_WATCH(requests_come_and_go_while_clients_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
