/* engine.h - all that the layers above may know of the engine: models and their heads on a device,
 * and what to ask of them.
 *
 * An engine has its models on one device or on several of equal identity: which of them computes a
 * cell makes no difference. Where all have failed it can move to the CPU, whose results are others.
 *
 * Threads: open and close from main. A pass from its device's owner only (batch-N in the daemon);
 * everything that reads a model from any thread.
 * Owns:    devices, weights, models and heads, until close. */
#ifndef SCD_ENGINE_H
#define SCD_ENGINE_H

#include "engine/backend/registry.h"
#include "engine/base/hash.h"
#include "engine/denoise/denoiser.h"
#include "engine/denoise/head.h"
#include "engine/denoise/predictor.h"
#include "engine/model/serialize.h"

typedef struct scd_engine scd_engine;

typedef struct scd_engine_options {
    scd_device_choice device;
    const int *gpus; /* (n_gpus) which, from 0, each once; none: the first */
    size_t n_gpus;
    scd_precision precision;
    int threads;             /* CPU; 0: one per core */
    size_t max_batch_tokens; /* rows of one batch; 0: chosen by device. At least one whole cell of
                                the longest model always fits; a GPU without room gets less */
    const char *const *model_dirs;
    size_t n_models; /* at least 1 */
} scd_engine_options;

/* One model as served. Plain data, constant while the engine is open. */
typedef struct scd_served_model {
    const char *name;
    scd_digest digest;
    char digest_hex[SCD_DIGEST_HEX];
    const scd_model_config *config;
    const scd_vocab *vocab;
    size_t n_params;
    const size_t *lengths; /* (n_lengths) of its training cells, to draw from; none is fine */
    size_t n_lengths;
    const scd_head_info *const *heads; /* (n_heads) by name; trained on this very model */
    size_t n_heads;
} scd_served_model;

/* What is computed of a cell: plain data, equal where its members are. Cells of equal work share
 * passes of the model, whether they want one or many. */
typedef struct scd_work {
    size_t model;              /* index */
    const scd_head_info *head; /* of this model: probabilities of its labels; of a perturbation head
                                  the embedding by the head's own backbone. NULL: the embedding, or
                                  what the cell's course is about */
    scd_pooling pooling;       /* of courses; where nothing is hidden it changes nothing */
} scd_work;

static inline bool scd_work_equal(scd_work a, scd_work b)
{
    return a.model == b.model && a.head == b.head && a.pooling == b.pooling;
}

/* A model with a head of another model, or with a damaged one, is refused; so are devices that
 * would not give the same bits, and a message about one of several names it. */
scd_code scd_engine_open(const scd_engine_options *options, scd_engine **out, scd_error *err);
void scd_engine_close(scd_engine *engine);

/* What computes now: of the devices, which are alike, the first; the CPU once it is moved to. */
const scd_device_info *scd_engine_device(const scd_engine *engine);
const char *scd_engine_device_kind(const scd_engine *engine); /* "cpu", "cuda" */
const char *scd_engine_why(const scd_engine *engine); /* one line: how the device was chosen */
size_t scd_engine_max_rows(const scd_engine *engine); /* rows (tokens + cells) of one batch */
/* From so many rows on a batch computes a row about as fast as a larger one. */
size_t scd_engine_good_rows_at(const scd_engine *engine, size_t device);

/* The devices, from 0; each has an owner. scd_engine_add_cpu adds one and never takes one away. */
size_t scd_engine_n_devices(const scd_engine *engine);
const scd_device_info *scd_engine_device_at(const scd_engine *engine, size_t device);
const char *scd_engine_device_name(const scd_engine *engine, size_t device); /* "cpu", "cuda:1" */
size_t scd_engine_max_rows_at(const scd_engine *engine, size_t device);

/* No device is left: the models are loaded on the CPU as well - in fp32 where that was asked for,
 * else as the CPU likes -, which is the last device from now on and what scd_engine_device tells
 * of. Once, by one thread. SCD_E_DEVICE: it is the CPU already;
 * others as scd_engine_open, after which everything is as it was. */
scd_code scd_engine_move_to_cpu(scd_engine *engine, scd_error *err);

size_t scd_engine_n_models(const scd_engine *engine);
const scd_served_model *scd_engine_model(const scd_engine *engine, size_t index);

/* A perturbation head of this model, ready to predict; NULL for any other. Borrowed. */
const scd_predictor *scd_engine_predictor(const scd_engine *engine, size_t model,
                                          const scd_head_info *head);

/* Floats of one cell's result: HIDDEN_DIM, or the labels of the head. */
size_t scd_engine_width(const scd_engine *engine, scd_work work);

/* On the first device. out: (n_cells, width) floats. The bits of a cell's row depend on the cell
 * alone. SCD_E_TOO_LARGE over scd_engine_max_rows, SCD_E_INVALID for a cell without tokens,
 * SCD_E_DEVICE. */
scd_code scd_engine_compute(scd_engine *engine, scd_work work, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err);

/* One pass of the model, on that device, for each of n cells: those without course get their
 * result, (width) floats at steps[i].out; a course is taken one pass further. Their bits depend on
 * the cell and its course alone. Courses have work's pooling and no head. Errors as above; after
 * one each course stands before or behind this pass, and the rest have no result. */
scd_code scd_engine_step_on(scd_engine *engine, size_t device, scd_work work, const scd_step *steps,
                            size_t n, scd_error *err);
static inline scd_code scd_engine_step(scd_engine *engine, scd_work work, const scd_step *steps,
                                       size_t n, scd_error *err)
{
    return scd_engine_step_on(engine, 0, work, steps, n, err);
}

/* A batch behind the one that is computed, so that a device is not idle while the host hands out
 * what the last one gave: a batch in each slot, 0 and 1, as scd_engine_step_on, in two steps. Steps
 * and cells stay as they are from begin to fetch, which waits; batches are fetched as they were
 * begun, and none may be under way in another call of a pass on this device. Overlaps: whether this
 * batch may, and gains by it. A batch whose begin failed is not fetched; nor need any be on a
 * device that failed. */
bool scd_engine_device_overlaps(const scd_engine *engine, size_t device); /* any batch there */
bool scd_engine_overlaps(const scd_engine *engine, size_t device, scd_work work,
                         const scd_step *steps, size_t n);
scd_code scd_engine_begin(scd_engine *engine, size_t device, int slot, scd_work work,
                          const scd_step *steps, size_t n, scd_error *err);
scd_code scd_engine_fetch(scd_engine *engine, size_t device, int slot, scd_error *err);

/* False: this device has not all that courses need, and scd_engine_step refuses them. */
bool scd_engine_denoises(const scd_engine *engine);
/* The same of ASSOCIATE courses. */
bool scd_engine_associates(const scd_engine *engine);

#endif
