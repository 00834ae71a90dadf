/* batcher_engine.h - a batcher on a real engine with a tiny model, for the tests that need one.
 *
 * "Busy": batch-0 has computed a batch and is held while it stores the result, so that whatever is
 * submitted meanwhile stays queued. */
#ifndef SCD_TESTS_BATCHER_ENGINE_H
#define SCD_TESTS_BATCHER_ENGINE_H

#include "tests/unit/batcher_fixture.h"
#include "tests/unit/tiny_model.h"

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

static inline void call_submit_in(pthread_t *thread, scd_batcher *b, call *c)
{
    c->batcher = b;
    assert_int_equal(pthread_create(thread, NULL, call_submit_thread, c), 0);
}

#define WITH_BATCHER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

#endif
