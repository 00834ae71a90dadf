/* batcher_devices.h - an engine for tests of the batcher: a stand-in whose devices fail and hang on
 * request. They answer every cell with its first value, the CPU that it may move to with 0.5 more.
 */
#ifndef SCD_TEST_BATCHER_DEVICES_H
#define SCD_TEST_BATCHER_DEVICES_H

#include "tests/unit/batcher_fixture.h"

#include <stdatomic.h>
#include <unistd.h>

enum { MAX_ROWS = 42, N_MODELS = 2, MAX_DEVICES = 3 };

struct scd_engine {
    atomic_int fail[MAX_DEVICES]; /* scd_code of the next batches */
    atomic_bool hangs[MAX_DEVICES];
    atomic_int cannot_move;
    atomic_size_t batches, on_device[MAX_DEVICES], n_devices;
    atomic_bool overlaps;
    atomic_size_t most_under_way; /* on one device */
    struct {
        scd_work work;
        const scd_step *steps;
        size_t n; /* 0: nothing is under way */
    } slots[MAX_DEVICES][SCD_SLOTS];
};

static struct scd_engine engine;
static const scd_device_info gpu = {.identity = "gpu"}, cpu = {.identity = "cpu"};
static const scd_model_config config = {.hidden_dim = CALL_DIM, .vocab = 50, .max_gene_len = 20};
static const scd_served_model models[N_MODELS] = {{.name = "a", .config = &config},
                                                  {.name = "b", .config = &config}};

size_t scd_engine_good_rows_at(const scd_engine *e, size_t device)
{
    (void)e;
    (void)device;
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

size_t scd_engine_n_devices(const scd_engine *e)
{
    return atomic_load(&e->n_devices);
}

static bool is_cpu(const scd_engine *e, size_t device)
{
    return device == MAX_DEVICES - 1 && atomic_load(&e->n_devices) == MAX_DEVICES;
}

const scd_device_info *scd_engine_device_at(const scd_engine *e, size_t device)
{
    return is_cpu(e, device) ? &cpu : &gpu;
}

const char *scd_engine_device_name(const scd_engine *e, size_t device)
{
    static const char *const names[] = {"first", "second", "third"};
    (void)e;
    return names[device];
}

size_t scd_engine_max_rows_at(const scd_engine *e, size_t device)
{
    return is_cpu(e, device) ? MAX_ROWS / 2 : MAX_ROWS;
}

scd_code scd_engine_move_to_cpu(scd_engine *e, scd_error *err)
{
    if (atomic_load(&e->cannot_move))
        return scd_fail(err, SCD_E_NOMEM, "no room on the CPU");
    atomic_store(&e->n_devices, MAX_DEVICES);
    return SCD_OK;
}

scd_code scd_engine_step_on(scd_engine *e, size_t device, scd_work work, const scd_step *steps,
                            size_t n, scd_error *err)
{
    atomic_fetch_add(&e->batches, 1);
    atomic_fetch_add(&e->on_device[device], 1);
    while (atomic_load(&e->hangs[device]))
        usleep(1000);
    scd_code fail = (scd_code)atomic_load(&e->fail[device]);
    if (fail)
        return scd_fail(err, fail, "the device went away");
    float more = is_cpu(e, device) ? 0.5f : 0.0f;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < CALL_DIM; k++)
            steps[i].out[k] = steps[i].cell->values[0] + more + 1000.0f * (float)work.model;
    return SCD_OK;
}

bool scd_engine_device_overlaps(const scd_engine *e, size_t device)
{
    return atomic_load(&e->overlaps) && !is_cpu(e, device);
}

/* Whole batches alone, so that both ways are gone. */
bool scd_engine_overlaps(const scd_engine *e, size_t device, scd_work work, const scd_step *steps,
                         size_t n)
{
    (void)work;
    return scd_engine_device_overlaps(e, device) && (n > 1 || steps[0].cell->n_tokens > 7);
}

scd_code scd_engine_begin(scd_engine *e, size_t device, int slot, scd_work work,
                          const scd_step *steps, size_t n, scd_error *err)
{
    (void)err;
    assert_int_equal(e->slots[device][slot].n, 0);
    e->slots[device][slot].work = work;
    e->slots[device][slot].steps = steps;
    e->slots[device][slot].n = n;
    if (e->slots[device][1 - slot].n)
        atomic_store(&e->most_under_way, 2);
    return SCD_OK;
}

scd_code scd_engine_fetch(scd_engine *e, size_t device, int slot, scd_error *err)
{
    size_t n = e->slots[device][slot].n;
    e->slots[device][slot].n = 0;
    assert_true(n > 0);
    scd_code code = scd_engine_step_on(e, device, e->slots[device][slot].work,
                                       e->slots[device][slot].steps, n, err);
    for (int i = 0; code == SCD_E_DEVICE && i < SCD_SLOTS; i++)
        e->slots[device][i].n = 0; /* what is under way there never comes */
    return code;
}

#endif
