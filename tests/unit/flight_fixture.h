/* flight_fixture.h - a flight without threads or a device: tickets that ask for units, and what is
 * picked of them.
 *
 * A unit of r rows is a cell of r - 1 tokens; its key is a number. */
#ifndef SCD_TESTS_FLIGHT_FIXTURE_H
#define SCD_TESTS_FLIGHT_FIXTURE_H

#include "server/flight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_ROWS = 100, PATIENT = 25, MAX_UNITS = 50, MAX_TICKETS = 16, MAX_WAITERS = 64 };

typedef struct fixture {
    scd_flight flight;
    scd_ticket tickets[MAX_TICKETS];
    scd_waiter waiters[MAX_WAITERS];
    scd_order order;
    size_t n_waiters;
    uint32_t next_key;
    scd_unit *picked[MAX_UNITS];
    size_t n_picked, rows, took[SCD_N_CLASSES];
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

static size_t pick_units(fixture *f, size_t max_rows, scd_unit **out, size_t max_units)
{
    scd_pick_room room = {max_units, max_rows, PATIENT};
    size_t n = scd_flight_pick(&f->flight, &room, out, f->took);
    f->rows = 0;
    for (size_t k = 0; k < SCD_N_CLASSES; k++)
        f->rows += f->took[k];
    return n;
}

/* The keys picked, 1-based in the order of asking, as text: "1 4 2". They are freed. */
static const char *pick_up_to(fixture *f, size_t max_rows)
{
    static char text[MAX_UNITS * 8];
    char *at = text;
    f->n_picked = pick_units(f, max_rows, f->picked, MAX_UNITS);
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

#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

#endif
