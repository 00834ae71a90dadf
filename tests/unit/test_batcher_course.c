/* test_batcher_course.c - cells of many passes among cells of one: the same bytes alone, under
 * load, coalesced and from the cache; who is canceled stops between two passes.
 *
 * Threads: main, batch-0. */
#include "tests/unit/batcher_engine.h"

#include "engine/base/mem.h"

enum { WIDTH = 1 + 3 * CALL_TOKENS };

static uint8_t all_hidden[CALL_TOKENS];

/* Calls whose cells are found anew in `steps` passes. */
typedef struct course_call {
    call *c;
    float out[CALL_ORDERS][WIDTH];
} course_call;

static scd_course *course_for(const call *c, size_t i, size_t steps)
{
    scd_plan asked = {.kind = SCD_PLAN_SAMPLE,
                      .hidden = all_hidden,
                      .seed = (uint64_t)c->ids[i][0],
                      .steps = steps,
                      .temperature = 1};
    scd_course *course = NULL;
    scd_error err = {0};
    if (scd_course_new(&asked, scd_engine_model(engine, 0)->config, &c->cells[i], &course, &err))
        fail_msg("%s", err.message);
    return course;
}

static course_call *course_call_new(call *c, size_t steps)
{
    course_call *cc = calloc(1, sizeof *cc);
    cc->c = c;
    for (size_t i = 0; i < c->n; i++) {
        c->orders[i].course = course_for(c, i, steps);
        c->orders[i].out = cc->out[i];
    }
    return cc;
}

static void course_call_free(course_call *cc)
{
    call_free(cc->c);
    free(cc);
}

static size_t expected(const call *c, size_t i, size_t steps, float *out)
{
    size_t width;
    scd_course *course = course_for(c, i, steps);
    while (scd_course_passes_left(course)) {
        scd_step step = {.course = course};
        scd_error err = {0};
        if (scd_engine_step(engine, (scd_work){0}, &step, 1, &err))
            fail_msg("%s", err.message);
    }
    const float *r = scd_course_result(course, &width);
    memcpy(out, r, width * sizeof *r);
    scd_course_free(course);
    return width;
}

static uint64_t computed_tokens(void)
{
    return scd_metrics_get(metrics, SCD_COUNTER_ENGINE_TOKENS);
}

static void a_cell_of_many_passes_ends_with_what_it_gets_alone(void **state)
{
    fixture *f = *state;
    float want[WIDTH];
    call *plain = call_new(1, 20), *plain_late = call_new(1, 10);
    course_call *a = course_call_new(call_new(2, 20), 7), *b = course_call_new(call_new(2, 12), 3);
    uint64_t tokens = computed_tokens(), cells = computed();
    call_submit(f->b, a->c);
    call_submit(f->b, plain);
    call_submit(f->b, b->c);
    call_submit(f->b, plain_late);
    assert_int_equal(call_wait(a->c), SCD_OK);
    assert_int_equal(call_wait(b->c), SCD_OK);
    assert_int_equal(call_wait(plain), SCD_OK);
    assert_int_equal(call_wait(plain_late), SCD_OK);
    for (size_t i = 0; i < 2; i++) {
        size_t width = expected(a->c, i, 7, want);
        assert_memory_equal(a->out[i], want, width * sizeof *want);
        width = expected(b->c, i, 3, want);
        assert_memory_equal(b->out[i], want, width * sizeof *want);
    }
    assert_int_equal(computed_tokens() - tokens, 2 * 20 * 7 + 2 * 12 * 3 + 20 + 10);
    assert_int_equal(computed() - cells, 6);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    course_call_free(a);
    course_call_free(b);
    call_free(plain);
    call_free(plain_late);
}

static void the_result_is_stored_and_found_again(void **state)
{
    fixture *f = *state;
    course_call *a = course_call_new(call_new(1, 9), 4);
    call_submit(f->b, a->c);
    assert_int_equal(call_wait(a->c), SCD_OK);
    uint64_t tokens = computed_tokens();
    course_call *again = course_call_new(call_of_key(last_key, 9), 4);
    call_submit(f->b, again->c);
    assert_int_equal(call_wait(again->c), SCD_OK);
    assert_int_equal(again->c->orders[0].source, SCD_SOURCE_HIT);
    assert_memory_equal(again->out[0], a->out[0], (1 + 3 * 9) * sizeof(float));
    assert_int_equal(computed_tokens(), tokens);
    course_call_free(a);
    course_call_free(again);
}

static void identical_courses_in_flight_are_one(void **state)
{
    fixture *f = *state;
    uint64_t tokens = computed_tokens();
    begin_busy(f);
    course_call *a = course_call_new(call_new(1, 9), 4);
    course_call *b = course_call_new(call_of_key(last_key, 9), 4);
    call_submit(f->b, a->c);
    call_submit(f->b, b->c);
    end_busy(f);
    assert_int_equal(call_wait(a->c), SCD_OK);
    assert_int_equal(call_wait(b->c), SCD_OK);
    assert_int_equal(b->c->orders[0].source, SCD_SOURCE_COALESCED);
    assert_memory_equal(a->out[0], b->out[0], (1 + 3 * 9) * sizeof(float));
    assert_int_equal(computed_tokens() - tokens, 20 + 9 * 4);
    course_call_free(a);
    course_call_free(b);
}

static void a_canceled_course_makes_no_other_pass_than_the_one_it_is_in(void **state)
{
    fixture *f = *state;
    uint64_t before = computed_tokens();
    course_call *a = course_call_new(call_new(4, 20), 20);
    call_submit(f->b, a->c);
    while (computed_tokens() == before)
        usleep(10);
    scd_batcher_cancel(f->b, a->c->serial, SCD_E_CANCELED);
    uint64_t then = computed_tokens();
    if (call_wait(a->c) == SCD_OK)
        then = UINT64_MAX; /* it was faster than we were */
    call *last = call_new(1, 20);
    call_submit(f->b, last);
    assert_int_equal(call_wait(last), SCD_OK);
    if (then != UINT64_MAX) /* a batch holds two cells */
        assert_true(computed_tokens() - then <= 2 * 20 + 20);
    assert_int_equal(scd_batcher_queued(f->b), 0);
    call_free(last);
    course_call_free(a);
}

static void a_course_whose_owner_leaves_goes_on_for_who_else_waits(void **state)
{
    fixture *f = *state;
    float want[WIDTH];
    begin_busy(f);
    course_call *a = course_call_new(call_new(1, 15), 6);
    course_call *b = course_call_new(call_of_key(last_key, 15), 6);
    call_submit(f->b, a->c);
    call_submit(f->b, b->c);
    scd_batcher_cancel(f->b, a->c->serial, SCD_E_TIMEOUT);
    end_busy(f);
    assert_int_equal(call_wait(a->c), SCD_E_TIMEOUT);
    assert_int_equal(call_wait(b->c), SCD_OK);
    size_t width = expected(b->c, 0, 6, want);
    assert_memory_equal(b->out[0], want, width * sizeof *want);
    course_call_free(a);
    course_call_free(b);
}

static void room_is_counted_in_tokens_and_not_in_passes(void **state)
{
    fixture *f = *state;
    begin_busy(f); /* 20 tokens */
    course_call *a = course_call_new(call_new(4, 20), 1000),
                *b = course_call_new(call_new(1, 1), 1);
    call_submit(f->b, a->c);
    assert_int_equal(scd_batcher_queued(f->b), 100);
    call_submit(f->b, b->c);
    assert_int_equal(call_wait(b->c), SCD_E_BUSY);
    assert_true(b->c->outcome.retry_after_s >= 1);
    scd_batcher_cancel(f->b, a->c->serial, SCD_E_CANCELED);
    assert_int_equal(scd_batcher_queued(f->b), 20);
    end_busy(f);
    course_call_free(a);
    course_call_free(b);
}

/* The bulk call was there first; of the batch that follows the present one, the other has it all.
 */
static void what_is_called_bulk_waits_even_where_it_is_little(void **state)
{
    fixture *f = *state;
    begin_busy(f);
    call *bulk = call_new(1, 20), *late = call_new(2, 20);
    bulk->bulk = true;
    call_submit(f->b, bulk);
    call_submit(f->b, late);
    end_busy(f);
    assert_int_equal(call_wait(bulk), SCD_OK);
    assert_int_equal(call_wait(late), SCD_OK);
    assert_true(bulk->outcome.queue_s >= late->outcome.queue_s);
    call_free(bulk);
    call_free(late);
}

static void a_submission_without_memory_frees_the_courses_it_was_given(void **state)
{
    fixture *f = *state;
    for (long n = 0; n < 7; n++) {
        course_call *a = course_call_new(call_new(3, 10), 2);
        const scd_ask ask = call_ask(a->c);
        scd_mem_fail_after(n);
        scd_code code = scd_batcher_submit(f->b, &ask, NULL);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
        for (size_t i = 0; i < 3; i++)
            assert_null(a->c->orders[i].course);
        free(a->c);
        free(a);
    }
}

static void a_stop_ends_courses_that_are_under_way(void **state)
{
    fixture *f = *state;
    uint64_t before = computed_tokens();
    course_call *a = course_call_new(call_new(4, 20), 20);
    call_submit(f->b, a->c);
    while (computed_tokens() == before)
        usleep(10);
    scd_batcher_stop(f->b);
    scd_code code = call_wait(a->c);
    assert_true(code == SCD_E_CANCELED || code == SCD_OK);
    course_call_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BATCHER(a_cell_of_many_passes_ends_with_what_it_gets_alone),
        WITH_BATCHER(the_result_is_stored_and_found_again),
        WITH_BATCHER(identical_courses_in_flight_are_one),
        WITH_BATCHER(a_canceled_course_makes_no_other_pass_than_the_one_it_is_in),
        WITH_BATCHER(a_course_whose_owner_leaves_goes_on_for_who_else_waits),
        WITH_BATCHER(room_is_counted_in_tokens_and_not_in_passes),
        WITH_BATCHER(what_is_called_bulk_waits_even_where_it_is_little),
        WITH_BATCHER(a_submission_without_memory_frees_the_courses_it_was_given),
        WITH_BATCHER(a_stop_ends_courses_that_are_under_way),
    };
    memset(all_hidden, 1, sizeof all_hidden);
    return cmocka_run_group_tests(tests, open_all, close_all);
}
