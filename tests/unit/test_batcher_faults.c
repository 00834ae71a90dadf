/* test_batcher_faults.c - batches that fail, and models side by side. The engine is a stand-in that
 * fails on request and answers every cell with its first value.
 *
 * Threads: main, batch-0. */
#include "engine/base/mem.h"
#include "tests/unit/batcher_fixture.h"

#include <stdatomic.h>

enum { MAX_ROWS = 42, N_MODELS = 2 };

struct scd_engine {
    atomic_int fail; /* scd_code of the next batches */
    atomic_size_t batches, wrong_model;
};

static struct scd_engine engine;
static const scd_model_config config = {.hidden_dim = CALL_DIM, .vocab = 50, .max_gene_len = 20};
static const scd_served_model models[N_MODELS] = {{.name = "a", .config = &config},
                                                  {.name = "b", .config = &config}};

size_t scd_engine_good_rows(const scd_engine *e)
{
    (void)e;
    return 16;
}

size_t scd_engine_max_rows(const scd_engine *e)
{
    (void)e;
    return MAX_ROWS;
}

size_t scd_engine_n_models(const scd_engine *e)
{
    (void)e;
    return N_MODELS;
}

const scd_served_model *scd_engine_model(const scd_engine *e, size_t index)
{
    (void)e;
    return &models[index];
}

size_t scd_engine_width(const scd_engine *e, scd_work work)
{
    (void)e;
    (void)work;
    return CALL_DIM;
}

bool scd_engine_denoises(const scd_engine *e)
{
    (void)e;
    return false;
}

scd_code scd_engine_step(scd_engine *e, scd_work work, const scd_step *steps, size_t n,
                         scd_error *err)
{
    atomic_fetch_add(&e->batches, 1);
    scd_code fail = (scd_code)atomic_load(&e->fail);
    if (fail)
        return scd_fail(err, fail, "the device went away");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < CALL_DIM; k++)
            steps[i].out[k] = steps[i].cell->values[0] + 1000.0f * (float)work.model;
    return SCD_OK;
}

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

static atomic_int n_logged;

static void log_failure(void *arg, const scd_error *err)
{
    assert_ptr_equal(arg, &n_logged);
    assert_string_equal(err->message, "the device went away");
    atomic_fetch_add(&n_logged, 1);
}

static int set_up(void **state)
{
    scd_batcher_options o = {.engine = &engine,
                             .store = &store,
                             .metrics = metrics,
                             .max_queue_tokens = 1000,
                             .log = log_failure,
                             .log_arg = &n_logged};
    atomic_store(&engine.fail, SCD_OK);
    atomic_store(&n_logged, 0);
    store.n = 0;
    return scd_batcher_open(&o, (scd_batcher **)state, NULL) ? -1 : 0;
}

static int tear_down(void **state)
{
    fake_hold(false, false);
    scd_batcher_close(*state);
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
    atomic_store(&engine.fail, SCD_E_DEVICE);
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
    atomic_store(&engine.fail, SCD_E_DEVICE);
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
    atomic_store(&engine.fail, SCD_E_DEVICE);
    call_submit(b, c);
    assert_int_equal(call_wait(c), SCD_E_DEVICE);
    atomic_store(&engine.fail, SCD_OK);
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
    atomic_store(&engine.fail, SCD_E_DEVICE);
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

#define WITH_BATCHER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BATCHER(a_batch_that_fails_fails_everyone_who_waits_for_it_and_is_logged_once),
        WITH_BATCHER(a_request_of_several_batches_fails_with_the_first_and_leaves_the_queue),
        WITH_BATCHER(the_next_request_for_a_cell_that_failed_computes_it),
        WITH_BATCHER(a_warm_up_that_fails_says_why),
        WITH_BATCHER(cells_of_two_models_are_computed_by_their_own),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
