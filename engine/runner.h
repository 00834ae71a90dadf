/* runner.h - an engine's models on one device: their weights packed there, and the passes over
 * them. An engine has a runner for each of its devices; the models are the engine's.
 *
 * Threads: open, load and close from one thread; a pass from the device's owner alone.
 * Owns:    the device and all that lies on it, until close. The models must outlive it. */
#ifndef SCD_ENGINE_RUNNER_H
#define SCD_ENGINE_RUNNER_H

#include "engine/backend/registry.h"
#include "engine/denoise/denoiser.h"
#include "engine/denoise/head.h"
#include "engine/model/model.h"

typedef struct scd_runner scd_runner;

/* A model and its heads, all borrowed. */
typedef struct scd_runner_model {
    const scd_model *model;
    scd_head *const *heads; /* (n_heads) */
    size_t n_heads;
} scd_runner_model;

/* Which of a runner's models computes, and with which head; n_heads: with none. */
typedef struct scd_runner_work {
    size_t model, head;
    scd_pooling pooling;
} scd_runner_work;

/* The device alone. `why` (n bytes): as scd_backend_open. */
scd_code scd_runner_open(scd_device_choice choice, const scd_device_options *options,
                         scd_runner **out, char *why, size_t n, scd_error *err);
/* The models, for batches of max_rows rows: once. */
scd_code scd_runner_load(scd_runner *runner, const scd_runner_model *models, size_t n_models,
                         size_t max_rows, scd_error *err);
void scd_runner_close(scd_runner *runner); /* NULL is fine */

const scd_backend *scd_runner_backend(const scd_runner *runner);
const scd_device_info *scd_runner_info(const scd_runner *runner);
const char *scd_runner_name(const scd_runner *runner); /* "cpu", "cuda:1" */
size_t scd_runner_max_rows(const scd_runner *runner);

/* As scd_engine_compute, scd_engine_step, scd_engine_overlaps, _begin and _fetch (engine.h). */
scd_code scd_runner_compute(scd_runner *runner, scd_runner_work work, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err);
scd_code scd_runner_step(scd_runner *runner, scd_runner_work work, const scd_step *steps, size_t n,
                         scd_error *err);
bool scd_runner_overlaps(const scd_runner *runner, scd_runner_work work, const scd_step *steps,
                         size_t n);
scd_code scd_runner_begin(scd_runner *runner, int slot, scd_runner_work work, const scd_step *steps,
                          size_t n, scd_error *err);
scd_code scd_runner_fetch(scd_runner *runner, int slot, scd_error *err);

#endif
