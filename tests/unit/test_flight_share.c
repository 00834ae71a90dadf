/* test_flight_share.c - interactive work goes before patient work, whose batches are short beside
 * it, and nobody starves.
 *
 * Threads: main. */
#include "tests/unit/flight_fixture.h"

static void interactive_work_goes_before_bulk(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 20, 40);           /* 1 to 20 */
    ask(f, 2, SCD_INTERACTIVE, 1, 40);     /* 21 */
    ask(f, 3, SCD_INTERACTIVE, 1, 40);     /* 22 */
    assert_string_equal(pick(f), "21 22"); /* bulk has earned 26 rows: not yet a whole cell */
    assert_string_equal(pick(f), "1");     /* nobody else is there */
}

static void patient_work_alone_gets_a_short_batch_but_always_its_next_cell(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 1, 10); /* 1 */
    ask(f, 2, SCD_BULK, 1, 90); /* 2 */
    ask(f, 3, SCD_BULK, 3, 10); /* 3 4 5 */
    assert_string_equal(pick(f), "1 3");
    assert_string_equal(pick(f), "2");
    assert_string_equal(pick(f), "4 5");
}

static void patient_work_does_not_lengthen_a_batch_of_interactive_work_beyond_that(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 2, 20);        /* 1 2: each too long beside 3 */
    ask(f, 2, SCD_INTERACTIVE, 1, 10); /* 3 */
    ask(f, 3, SCD_STEPS, 2, 12);       /* 4 5: one is not */
    assert_string_equal(pick(f), "3 4");
    assert_string_equal(pick(f), "5");
    assert_string_equal(pick(f), "1");
}

static void steps_go_behind_interactive_work_and_before_bulk(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 1, 20);        /* 1 */
    ask(f, 2, SCD_STEPS, 2, 20);       /* 2 3 */
    ask(f, 3, SCD_INTERACTIVE, 1, 20); /* 4 */
    assert_string_equal(pick(f), "4");
    assert_string_equal(pick(f), "2");
    assert_string_equal(pick(f), "3");
    assert_string_equal(pick(f), "1");
}

static void steps_leave_bulk_a_quarter_of_what_is_left_to_them(void **state)
{
    fixture *f = *state;
    size_t steps = 0, bulk = 0;
    ask(f, 1, SCD_BULK, 40, 30);
    ask(f, 2, SCD_STEPS, 40, 20);
    for (int batch = 0; batch < 32; batch++) {
        pick(f);
        steps += f->took[SCD_STEPS];
        bulk += f->took[SCD_BULK];
    }
    assert_in_range(bulk, steps / 3 - 60, steps / 3);
}

static void who_had_its_share_while_nobody_else_was_there_has_nothing_to_come(void **state)
{
    fixture *f = *state;
    ask(f, 1, SCD_BULK, 40, 30); /* 1 to 40 */
    for (int round = 0; round < 8; round++) {
        ask(f, 2, SCD_INTERACTIVE, 1, 30); /* 31 of 40: a turn would be due in the third round */
        pick(f);
        assert_int_equal(f->took[SCD_INTERACTIVE], 30);
        assert_int_equal(f->took[SCD_BULK], 0);
        pick(f);
        assert_int_equal(f->took[SCD_BULK], 30);
    }
}

/* Courses without end beside a cell now and then, each at the worst moment: a batch has begun. */
static void
an_interactive_cell_waits_for_one_patient_batch_and_shares_its_own_with_none(void **state)
{
    fixture *f = *state;
    for (size_t t = 1; t <= 8; t++)
        ask(f, t, t % 2 ? SCD_BULK : SCD_STEPS, 20, 30);
    for (int round = 0; round < 10; round++) {
        pick(f); /* has begun */
        assert_int_equal(f->n_picked, 1);
        ask(f, 9, SCD_INTERACTIVE, 1, 30);
        pick(f);
        assert_true(f->n_picked == 1 && f->took[SCD_INTERACTIVE] == 30);
    }
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
    /* 16 batches of 100 rows: a quarter is 400, less what may still be to come. */
    assert_in_range(bulk_rows, 320, 400);
}

static void unspent_credit_is_bounded_and_ends_with_the_wait(void **state)
{
    fixture *f = *state;
    ask_model(f, 1, SCD_BULK, 1, 100, 1); /* 1 */
    ask(f, 2, SCD_INTERACTIVE, 2, 90);    /* 2 3 */
    f->flight.patient_credit = 99;        /* not yet a whole cell */
    assert_string_equal(pick(f), "2");
    assert_int_equal(f->flight.patient_credit, 129);
    assert_string_equal(pick(f), "1");
    assert_int_equal(f->flight.patient_credit, 29);
    assert_string_equal(pick(f), "3");
    assert_int_equal(f->flight.patient_credit, 0);
    ask(f, 1, SCD_BULK, 1, 100);
    ask(f, 2, SCD_INTERACTIVE, 1, 90);
    f->flight.patient_credit = 1000000;
    pick(f);
    assert_true(f->flight.patient_credit <= 2 * MAX_ROWS);
}

static void bulk_work_of_another_model_does_not_keep_interactive_work_out(void **state)
{
    fixture *f = *state;
    size_t interactive = 0, bulk = 0;
    ask_model(f, 1, SCD_BULK, 400, 5, 1);
    ask_model(f, 2, SCD_INTERACTIVE, 400, 5, 0);
    for (int batch = 0; batch < 24; batch++) {
        f->n_picked = pick_units(f, MAX_ROWS, f->picked, MAX_UNITS);
        *(f->picked[0]->work.model ? &bulk : &interactive) += f->rows;
        if (batch == 0)
            assert_int_equal(f->picked[0]->work.model, 0);
        for (size_t i = 0; i < f->n_picked; i++) {
            scd_flight_remove(&f->flight, f->picked[i]);
            free(f->picked[i]);
        }
    }
    assert_true(interactive >= 1000);
    assert_in_range(bulk, interactive / 3 - PATIENT - 40, interactive / 3); /* a quarter of all */
}

static void nor_does_bulk_work_of_two_models(void **state)
{
    fixture *f = *state;
    ask_model(f, 1, SCD_BULK, 10, 90, 0);       /* 1 to 10: too dear for a while */
    ask_model(f, 2, SCD_BULK, 100, 5, 1);       /* cheap, of another model */
    ask_model(f, 3, SCD_INTERACTIVE, 1, 20, 0); /* 111 */
    assert_string_equal(pick(f), "111");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(interactive_work_goes_before_bulk),
        WITH_FIXTURE(patient_work_alone_gets_a_short_batch_but_always_its_next_cell),
        WITH_FIXTURE(patient_work_does_not_lengthen_a_batch_of_interactive_work_beyond_that),
        WITH_FIXTURE(steps_go_behind_interactive_work_and_before_bulk),
        WITH_FIXTURE(steps_leave_bulk_a_quarter_of_what_is_left_to_them),
        WITH_FIXTURE(who_had_its_share_while_nobody_else_was_there_has_nothing_to_come),
        WITH_FIXTURE(an_interactive_cell_waits_for_one_patient_batch_and_shares_its_own_with_none),
        WITH_FIXTURE(bulk_keeps_a_quarter_and_pays_for_whole_cells),
        WITH_FIXTURE(unspent_credit_is_bounded_and_ends_with_the_wait),
        WITH_FIXTURE(bulk_work_of_another_model_does_not_keep_interactive_work_out),
        WITH_FIXTURE(nor_does_bulk_work_of_two_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
