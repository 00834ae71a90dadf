/* test_flight.c - who waits for what, and whose turn it is: flight.c without threads or a device.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "tests/unit/flight_fixture.h"

static void wait_for(fixture *f, size_t t, scd_unit *u)
{
    scd_waiter *w = &f->waiters[f->n_waiters++];
    *w = (scd_waiter){.ticket = &f->tickets[t], .order = &f->order};
    scd_unit_wait(u, w);
}

/* ---- the tables ------------------------------------------------------------------------------ */

static void a_unit_keeps_a_copy_of_its_cell_and_is_found_by_its_key(void **state)
{
    fixture *f = *state;
    scd_unit *u = new_unit(f, 5, (scd_work){.model = 3}),
             *other = new_unit(f, 2, (scd_work){.model = 3});
    scd_digest key = u->key, absent = {{9, 9}};
    assert_ptr_equal(scd_flight_find(&f->flight, &key), u);
    assert_null(scd_flight_find(&f->flight, &absent));
    assert_int_equal(u->state, SCD_UNIT_LOOKUP);
    assert_int_equal(u->rows, 5);
    assert_int_equal(u->work.model, 3);
    assert_int_equal(u->cell.ids[3], 103);
    assert_true(u->cell.values[3] == 3.0f);
    scd_flight_remove(&f->flight, u);
    assert_null(scd_flight_find(&f->flight, &key));
    free(u);
    scd_flight_remove(&f->flight, other);
    free(other);
}

static void keys_that_share_a_bucket_are_told_apart(void **state)
{
    fixture *f = *state;
    scd_unit *u[3];
    for (size_t i = 0; i < 3; i++) {
        u[i] = new_unit(f, 2, (scd_work){.model = 0});
        scd_flight_remove(&f->flight, u[i]);
        memset(u[i]->key.bytes, 0, 8); /* the bytes that choose the bucket */
        u[i]->key.bytes[20] = (uint8_t)i;
        scd_flight_insert(&f->flight, u[i]);
    }
    for (size_t i = 0; i < 3; i++)
        assert_ptr_equal(scd_flight_find(&f->flight, &u[i]->key), u[i]);
    scd_flight_remove(&f->flight, u[1]);
    assert_null(scd_flight_find(&f->flight, &u[1]->key));
    assert_ptr_equal(scd_flight_find(&f->flight, &u[0]->key), u[0]);
    assert_ptr_equal(scd_flight_find(&f->flight, &u[2]->key), u[2]);
    scd_flight_remove(&f->flight, u[0]);
    scd_flight_remove(&f->flight, u[2]);
    for (size_t i = 0; i < 3; i++)
        free(u[i]);
}

static void tickets_are_found_by_serial_even_in_one_bucket(void **state)
{
    fixture *f = *state;
    f->tickets[1].serial = 1 + SCD_FLIGHT_BUCKETS;
    f->tickets[2].serial = 1 + 2 * SCD_FLIGHT_BUCKETS;
    f->tickets[3].serial = 1;
    for (size_t i = 1; i <= 3; i++)
        scd_flight_add_ticket(&f->flight, &f->tickets[i]);
    assert_int_equal(f->flight.n_tickets, 3);
    scd_flight_remove_ticket(&f->flight, &f->tickets[2]);
    assert_ptr_equal(scd_flight_find_ticket(&f->flight, 1), &f->tickets[3]);
    assert_ptr_equal(scd_flight_find_ticket(&f->flight, 1 + SCD_FLIGHT_BUCKETS), &f->tickets[1]);
    assert_null(scd_flight_find_ticket(&f->flight, 1 + 2 * SCD_FLIGHT_BUCKETS));
    scd_flight_remove_ticket(&f->flight, &f->tickets[1]);
    scd_flight_remove_ticket(&f->flight, &f->tickets[3]);
    assert_int_equal(f->flight.n_tickets, 0);
}

static void waiters_come_and_go_in_any_order(void **state)
{
    fixture *f = *state;
    scd_unit *u = new_unit(f, 2, (scd_work){.model = 0});
    for (size_t t = 0; t < 4; t++)
        wait_for(f, t, u);
    scd_unit_leave(&f->waiters[2]);
    scd_unit_leave(&f->waiters[0]);
    assert_null(f->waiters[2].unit);
    assert_ptr_equal(f->waiters[1].unit, u);
    size_t n = 0;
    for (scd_waiter *w = u->waiters; w; w = w->next, n++)
        assert_true(w == &f->waiters[1] || w == &f->waiters[3]);
    assert_int_equal(n, 2);
    scd_unit_leave(&f->waiters[3]);
    scd_unit_leave(&f->waiters[1]);
    assert_null(u->waiters);
    scd_flight_remove(&f->flight, u);
    free(u);
}

static void
the_heir_is_an_interactive_waiter_before_a_bulk_one_and_the_first_of_its_class(void **state)
{
    fixture *f = *state;
    scd_unit *u = new_unit(f, 2, (scd_work){.model = 0});
    for (size_t t = 0; t < 4; t++)
        f->tickets[t].rank = t < 2 ? SCD_BULK : SCD_INTERACTIVE;
    wait_for(f, 0, u);
    wait_for(f, 1, u);
    assert_ptr_equal(scd_unit_heir(u), &f->tickets[0]);
    wait_for(f, 2, u);
    wait_for(f, 3, u);
    assert_ptr_equal(scd_unit_heir(u), &f->tickets[2]);
    scd_unit_leave(&f->waiters[2]);
    assert_ptr_equal(scd_unit_heir(u), &f->tickets[3]);
    scd_unit_leave(&f->waiters[3]);
    scd_unit_leave(&f->waiters[0]);
    assert_ptr_equal(scd_unit_heir(u), &f->tickets[1]);
    scd_flight_remove(&f->flight, u);
    free(u);
}

/* ---- whose turn ------------------------------------------------------------------------------ */

static void an_empty_queue_gives_nothing(void **state)
{
    fixture *f = *state;
    assert_string_equal(pick(f), "");
    assert_int_equal(f->rows, 0);
}

static void tickets_take_turns_one_unit_at_a_time(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 3, 10); /* 1 2 3 */
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 4 */
    ask(f, 3, SCD_INTERACTIVE, 2, 10); /* 5 6 */
    assert_string_equal(pick(f), "1 4 5 2 6 3");
    assert_string_equal(pick(f), "");
}

static void the_turn_goes_on_where_the_last_batch_ended(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 4, 40); /* 1 2 3 4 */
    ask(f, 2, SCD_INTERACTIVE, 4, 40); /* 5 6 7 8 */
    ask(f, 3, SCD_INTERACTIVE, 4, 40); /* 9 10 11 12 */
    assert_string_equal(pick(f), "1 5");
    assert_string_equal(pick(f), "9 2");
    assert_string_equal(pick(f), "6 10");
    assert_string_equal(pick(f), "3 7");
}

static void a_batch_is_full_by_units_or_by_rows(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, MAX_UNITS + 5, 1);
    pick(f);
    assert_int_equal(f->n_picked, MAX_UNITS);
    pick(f);
    assert_int_equal(f->n_picked, 5);
    ask(f, 1, SCD_INTERACTIVE, 3, 50);
    pick(f);
    assert_int_equal(f->n_picked, 2);
    assert_int_equal(f->rows, MAX_ROWS);
}

static void small_units_fill_the_room_that_a_large_one_leaves(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 1, 60); /* 1 */
    ask(f, 2, SCD_INTERACTIVE, 1, 60); /* 2: does not fit beside 1 */
    ask(f, 3, SCD_INTERACTIVE, 1, 30); /* 3: does */
    assert_string_equal(pick(f), "1 3");
    assert_string_equal(pick(f), "2");
}

static void a_large_unit_waits_for_one_batch_at_most_while_small_ones_keep_coming(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 1, 10);
    ask(f, 2, SCD_INTERACTIVE, 1, 100); /* unit 2 needs a batch of its own */
    for (size_t t = 3; t < 13; t++)
        ask(f, t, SCD_INTERACTIVE, 1, 10);
    assert_string_equal(pick(f), "1 3 4 5 6 7 8 9 10 11");
    for (size_t t = 3; t < 12; t++)
        ask(f, t, SCD_INTERACTIVE, 2, 10);
    assert_string_equal(pick(f), "2");
}

static void the_first_that_was_stuck_has_the_first_turn_next_time(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 2, 50); /* 1 2 */
    ask(f, 2, SCD_INTERACTIVE, 1, 70); /* 3: stuck first */
    ask(f, 3, SCD_INTERACTIVE, 1, 90); /* 4: stuck second */
    ask(f, 4, SCD_INTERACTIVE, 1, 50); /* 5 */
    assert_string_equal(pick(f), "1 5");
    assert_string_equal(pick(f), "3");
    assert_string_equal(pick(f), "4");
    assert_string_equal(pick(f), "2");
}

static void a_unit_that_comes_again_stands_in_front(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 3, 50); /* 1 2 3 */
    scd_unit *u[2];
    assert_int_equal(pick_units(f, MAX_ROWS, u, 2), 2);
    for (size_t i = 2; i-- > 0;)
        scd_flight_queue_again(&f->flight, &f->tickets[1], u[i]);
    assert_ptr_equal(f->tickets[1].first, u[0]);
    assert_string_equal(pick(f), "1 2");
    assert_string_equal(pick(f), "3");
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 4: the only one of its ticket */
    assert_int_equal(pick_units(f, MAX_ROWS, u, 2), 1);
    assert_false(f->tickets[2].ready);
    scd_flight_queue_again(&f->flight, &f->tickets[2], u[0]);
    assert_true(f->tickets[2].ready && f->tickets[2].last == u[0]);
    assert_string_equal(pick(f), "4");
}

static void a_batch_is_of_one_model(void **state)
{
    fixture *f = *state;
    ask_model(f, 1, SCD_INTERACTIVE, 2, 10, 0); /* 1 2 */
    ask_model(f, 2, SCD_INTERACTIVE, 2, 10, 1); /* 3 4 */
    ask_model(f, 3, SCD_INTERACTIVE, 1, 10, 0); /* 5 */
    assert_string_equal(pick(f), "1 5 2");
    assert_string_equal(pick(f), "3 4");
}

static void a_batch_is_of_one_head(void **state)
{
    static const scd_head_info heads[2];
    fixture *f = *state;
    ask_work(f, 1, SCD_INTERACTIVE, 2, 10, (scd_work){.head = &heads[0]}); /* 1 2 */
    ask_work(f, 2, SCD_INTERACTIVE, 2, 10, (scd_work){0});                 /* 3 4 */
    ask_work(f, 3, SCD_INTERACTIVE, 1, 10, (scd_work){.head = &heads[1]}); /* 5 */
    ask_work(f, 4, SCD_INTERACTIVE, 1, 10, (scd_work){.head = &heads[0]}); /* 6 */
    assert_string_equal(pick(f), "1 6 2");
    assert_string_equal(pick(f), "3 4");
    assert_string_equal(pick(f), "5");
}

static void models_alternate_while_both_have_work(void **state)
{
    fixture *f = *state;
    ask_model(f, 1, SCD_INTERACTIVE, 40, 50, 0); /* 1 to 40 */
    ask_model(f, 2, SCD_INTERACTIVE, 40, 50, 1); /* 41 to 80 */
    assert_string_equal(pick(f), "1 2");
    assert_string_equal(pick(f), "41 42");
    assert_string_equal(pick(f), "3 4");
    assert_string_equal(pick(f), "43 44");
}

static void a_unit_taken_out_gives_its_ticket_no_turn_any_more(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 1, 10); /* 1 */
    ask(f, 2, SCD_INTERACTIVE, 3, 10); /* 2 3 4 */
    ask(f, 3, SCD_INTERACTIVE, 1, 10); /* 5 */
    scd_unit *u1 = f->tickets[1].first, *u3 = f->tickets[2].first->next;
    scd_flight_remove(&f->flight, u1);
    scd_flight_remove(&f->flight, u3);
    assert_false(f->tickets[1].ready);
    assert_true(f->tickets[2].ready);
    assert_string_equal(pick(f), "2 5 4");
    free(u1);
    free(u3);
}

static void a_unit_that_moves_goes_to_the_end_of_its_new_owner(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 2, 10);        /* 1 2 */
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 3 */
    scd_unit *u = f->tickets[1].first;
    scd_flight_unqueue(&f->flight, u);
    scd_flight_queue(&f->flight, &f->tickets[2], u);
    assert_ptr_equal(u->owner, &f->tickets[2]);
    assert_ptr_equal(f->tickets[2].last, u);
    assert_string_equal(pick_up_to(f, 30), "3 1");
    assert_string_equal(pick(f), "2");
}

static void a_table_without_memory_is_refused_and_leaks_nothing(void **state)
{
    (void)state;
    scd_flight flight;
    scd_cell cell = {0};
    scd_digest key = {{0}};
    for (long fail = 0; fail < 2; fail++) {
        scd_mem_fail_after(fail);
        assert_int_equal(scd_flight_init(&flight, NULL), SCD_E_NOMEM);
    }
    scd_mem_fail_after(0);
    assert_null(scd_unit_new(&key, &cell, (scd_work){0}));
    scd_mem_fail_after(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(a_unit_keeps_a_copy_of_its_cell_and_is_found_by_its_key),
        WITH_FIXTURE(keys_that_share_a_bucket_are_told_apart),
        WITH_FIXTURE(tickets_are_found_by_serial_even_in_one_bucket),
        WITH_FIXTURE(waiters_come_and_go_in_any_order),
        WITH_FIXTURE(
            the_heir_is_an_interactive_waiter_before_a_bulk_one_and_the_first_of_its_class),
        WITH_FIXTURE(an_empty_queue_gives_nothing),
        WITH_FIXTURE(tickets_take_turns_one_unit_at_a_time),
        WITH_FIXTURE(the_turn_goes_on_where_the_last_batch_ended),
        WITH_FIXTURE(a_batch_is_full_by_units_or_by_rows),
        WITH_FIXTURE(small_units_fill_the_room_that_a_large_one_leaves),
        WITH_FIXTURE(a_large_unit_waits_for_one_batch_at_most_while_small_ones_keep_coming),
        WITH_FIXTURE(the_first_that_was_stuck_has_the_first_turn_next_time),
        WITH_FIXTURE(a_unit_that_comes_again_stands_in_front),
        WITH_FIXTURE(a_batch_is_of_one_model),
        WITH_FIXTURE(a_batch_is_of_one_head),
        WITH_FIXTURE(models_alternate_while_both_have_work),
        WITH_FIXTURE(a_unit_taken_out_gives_its_ticket_no_turn_any_more),
        WITH_FIXTURE(a_unit_that_moves_goes_to_the_end_of_its_new_owner),
        cmocka_unit_test(a_table_without_memory_is_refused_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
