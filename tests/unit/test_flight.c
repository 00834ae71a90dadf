/* test_flight.c - who waits for what, and whose turn it is: flight.c without threads or a device.
 *
 * A unit of r rows is a cell of r - 1 tokens; its key is a number.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "server/flight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_ROWS = 100, MAX_UNITS = 50, MAX_TICKETS = 16, MAX_WAITERS = 64 };

typedef struct fixture {
    scd_flight flight;
    scd_ticket tickets[MAX_TICKETS];
    scd_waiter waiters[MAX_WAITERS];
    scd_order order;
    size_t n_waiters;
    uint32_t next_key;
    scd_unit *picked[MAX_UNITS];
    size_t n_picked, rows;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    for (size_t i = 0; i < MAX_TICKETS; i++)
        f->tickets[i].serial = i;
    return scd_flight_init(&f->flight, NULL) ? -1 : 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < MAX_TICKETS; i++)
        while (f->tickets[i].first) {
            scd_unit *u = f->tickets[i].first;
            scd_flight_remove(&f->flight, u);
            free(u);
        }
    scd_flight_release(&f->flight);
    free(f);
    return 0;
}

static scd_unit *new_unit(fixture *f, size_t rows, scd_work work)
{
    int32_t ids[MAX_ROWS];
    float values[MAX_ROWS];
    for (size_t i = 0; i < rows; i++) {
        ids[i] = (int32_t)(100 + i);
        values[i] = (float)i;
    }
    scd_cell cell = {.n_tokens = rows - 1, .ids = ids, .values = values};
    scd_digest key = {{0}};
    f->next_key++;
    memcpy(key.bytes, &f->next_key, sizeof f->next_key);
    scd_unit *u = scd_unit_new(&key, &cell, work);
    assert_non_null(u);
    scd_flight_insert(&f->flight, u);
    return u;
}

/* Ticket t asks for n more cells of `rows` rows. */
static void ask_work(fixture *f, size_t t, scd_class rank, size_t n, size_t rows, scd_work work)
{
    f->tickets[t].rank = rank;
    for (size_t i = 0; i < n; i++)
        scd_flight_queue(&f->flight, &f->tickets[t], new_unit(f, rows, work));
}

static void ask_model(fixture *f, size_t t, scd_class rank, size_t n, size_t rows, size_t model)
{
    ask_work(f, t, rank, n, rows, (scd_work){.model = model});
}

static void ask(fixture *f, size_t t, scd_class rank, size_t n, size_t rows)
{
    ask_model(f, t, rank, n, rows, 0);
}

static void wait_for(fixture *f, size_t t, scd_unit *u)
{
    scd_waiter *w = &f->waiters[f->n_waiters++];
    *w = (scd_waiter){.ticket = &f->tickets[t], .order = &f->order};
    scd_unit_wait(u, w);
}

/* The keys picked, 1-based in the order of asking, as text: "1 4 2". They are freed. */
static const char *pick_up_to(fixture *f, size_t max_rows)
{
    static char text[MAX_UNITS * 8];
    char *at = text;
    f->n_picked = scd_flight_pick(&f->flight, max_rows, f->picked, MAX_UNITS, &f->rows);
    *at = '\0';
    size_t rows = 0, model = f->n_picked ? f->picked[0]->work.model : 0;
    for (size_t i = 0; i < f->n_picked; i++) {
        scd_unit *u = f->picked[i];
        uint32_t key;
        memcpy(&key, u->key.bytes, sizeof key);
        assert_int_equal(u->state, SCD_UNIT_RUNNING);
        assert_null(u->owner);
        assert_int_equal(u->work.model, model);
        at += sprintf(at, i ? " %u" : "%u", key);
        rows += u->rows;
        scd_flight_remove(&f->flight, u);
        free(u);
    }
    assert_int_equal(rows, f->rows);
    assert_true(rows <= max_rows);
    return text;
}

static const char *pick(fixture *f)
{
    return pick_up_to(f, MAX_ROWS);
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

static void interactive_work_goes_before_bulk(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 20, 40);           /* 1 to 20 */
    ask(f, 2, SCD_INTERACTIVE, 1, 40);     /* 21 */
    ask(f, 3, SCD_INTERACTIVE, 1, 40);     /* 22 */
    assert_string_equal(pick(f), "21 22"); /* bulk has saved 25 rows: not yet a whole cell */
    assert_string_equal(pick(f), "1");     /* nobody else is there */
}

static void bulk_work_alone_gets_a_quarter_of_a_batch_but_always_its_next_cell(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 1, 10); /* 1 */
    ask(f, 2, SCD_BULK, 1, 90); /* 2 */
    ask(f, 3, SCD_BULK, 3, 10); /* 3 4 5 */
    assert_string_equal(pick(f), "1 3");
    assert_string_equal(pick(f), "2");
    assert_string_equal(pick(f), "4 5");
}

static void bulk_work_does_not_lengthen_a_batch_of_interactive_work_beyond_a_quarter(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 2, 30);        /* 1 2: more than bulk has saved */
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 3 */
    assert_string_equal(pick(f), "3");
    assert_string_equal(pick(f), "1");
}

static void a_unit_that_comes_again_stands_in_front(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_INTERACTIVE, 3, 50); /* 1 2 3 */
    scd_unit *u[2];
    size_t rows;
    assert_int_equal(scd_flight_pick(&f->flight, MAX_ROWS, u, 2, &rows), 2);
    for (size_t i = 2; i-- > 0;)
        scd_flight_queue_again(&f->flight, &f->tickets[1], u[i]);
    assert_ptr_equal(f->tickets[1].first, u[0]);
    assert_string_equal(pick(f), "1 2");
    assert_string_equal(pick(f), "3");
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 4: the only one of its ticket */
    assert_int_equal(scd_flight_pick(&f->flight, MAX_ROWS, u, 2, &rows), 1);
    assert_false(f->tickets[2].ready);
    scd_flight_queue_again(&f->flight, &f->tickets[2], u[0]);
    assert_true(f->tickets[2].ready && f->tickets[2].last == u[0]);
    assert_string_equal(pick(f), "4");
}

static void bulk_keeps_a_quarter_and_pays_for_whole_cells(void **state)
{
    fixture *f = *state;
    size_t bulk_rows = 0;
    ask(f, 1, SCD_BULK, 40, 40);         /* 1 to 40 */
    ask(f, 2, SCD_INTERACTIVE, 100, 20); /* 41 to 140 */
    for (int batch = 0; batch < 16; batch++) {
        char *keys = strdup(pick(f));
        for (char *key = strtok(keys, " "); key; key = strtok(NULL, " "))
            if (atoi(key) <= 40)
                bulk_rows += 40;
        assert_int_equal(f->rows, 100);
        free(keys);
    }
    /* 16 batches of 100 rows: a quarter is 400, less than one cell of it still saved. */
    assert_in_range(bulk_rows, 361, 400);
}

static void unspent_credit_of_bulk_is_bounded(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 1, 100);
    ask(f, 2, SCD_INTERACTIVE, 1, 10);
    f->flight.bulk_credit = 1000000;
    pick(f);
    assert_true(f->flight.bulk_credit <= 2 * MAX_ROWS);
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

static void bulk_work_of_another_model_does_not_keep_interactive_work_out(void **state)
{
    fixture *f = *state;
    size_t interactive = 0, bulk = 0;
    ask_model(f, 1, SCD_BULK, 400, 5, 1);
    ask_model(f, 2, SCD_INTERACTIVE, 400, 5, 0);
    for (int batch = 0; batch < 12; batch++) {
        scd_flight_pick(&f->flight, MAX_ROWS, f->picked, MAX_UNITS, &f->rows);
        f->n_picked = f->rows / 5;
        *(f->picked[0]->work.model ? &bulk : &interactive) += f->rows;
        if (batch == 0)
            assert_int_equal(f->picked[0]->work.model, 0);
        for (size_t i = 0; i < f->n_picked; i++) {
            scd_flight_remove(&f->flight, f->picked[i]);
            free(f->picked[i]);
        }
    }
    assert_int_equal(interactive, 900); /* three quarters of 12 batches */
    assert_int_equal(bulk, 300);
}

static void nor_does_bulk_work_of_two_models(void **state)
{
    fixture *f = *state;
    ask_model(f, 1, SCD_BULK, 10, 90, 0);       /* 1 to 10: too dear for a while */
    ask_model(f, 2, SCD_BULK, 100, 5, 1);       /* cheap, of another model */
    ask_model(f, 3, SCD_INTERACTIVE, 1, 20, 0); /* 111 */
    assert_string_equal(pick(f), "111");
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

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

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
        WITH_FIXTURE(interactive_work_goes_before_bulk),
        WITH_FIXTURE(bulk_work_alone_gets_a_quarter_of_a_batch_but_always_its_next_cell),
        WITH_FIXTURE(bulk_work_does_not_lengthen_a_batch_of_interactive_work_beyond_a_quarter),
        WITH_FIXTURE(a_unit_that_comes_again_stands_in_front),
        WITH_FIXTURE(bulk_keeps_a_quarter_and_pays_for_whole_cells),
        WITH_FIXTURE(unspent_credit_of_bulk_is_bounded),
        WITH_FIXTURE(a_batch_is_of_one_model),
        WITH_FIXTURE(a_batch_is_of_one_head),
        WITH_FIXTURE(models_alternate_while_both_have_work),
        WITH_FIXTURE(bulk_work_of_another_model_does_not_keep_interactive_work_out),
        WITH_FIXTURE(nor_does_bulk_work_of_two_models),
        WITH_FIXTURE(a_unit_taken_out_gives_its_ticket_no_turn_any_more),
        WITH_FIXTURE(a_unit_that_moves_goes_to_the_end_of_its_new_owner),
        cmocka_unit_test(a_table_without_memory_is_refused_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
