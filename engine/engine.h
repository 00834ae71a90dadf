/* engine.h - all that the layers above may know of the engine: models on a device, and what to ask
 * of them.
 *
 * Threads: open and close from main. scd_engine_embed from the device's owner only (batch-N in the
 * daemon); everything that reads a model from any thread.
 * Owns:    device, weights and models, until close. */
#ifndef SCD_ENGINE_H
#define SCD_ENGINE_H

#include "engine/backend/registry.h"
#include "engine/base/hash.h"
#include "engine/model/serialize.h"

typedef struct scd_engine scd_engine;

typedef struct scd_engine_options {
    scd_device_choice device;
    scd_precision precision;
    int threads;             /* CPU; 0: one per core */
    size_t max_batch_tokens; /* rows of one batch; 0: chosen by device. At least one whole cell of
                                the longest model always fits */
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
} scd_served_model;

scd_code scd_engine_open(const scd_engine_options *options, scd_engine **out, scd_error *err);
void scd_engine_close(scd_engine *engine);

const scd_device_info *scd_engine_device(const scd_engine *engine);
const char *scd_engine_device_kind(const scd_engine *engine); /* "cpu", "cuda" */
const char *scd_engine_why(const scd_engine *engine); /* one line: how the device was chosen */
size_t scd_engine_max_rows(const scd_engine *engine); /* rows (tokens + cells) of one batch */

size_t scd_engine_n_models(const scd_engine *engine);
const scd_served_model *scd_engine_model(const scd_engine *engine, size_t index);

/* Embeddings of n_cells cells by model `index`: out is (n_cells, HIDDEN_DIM) floats. The bits of a
 * cell's row depend on the cell alone. SCD_E_TOO_LARGE over scd_engine_max_rows, SCD_E_DEVICE. */
scd_code scd_engine_embed(scd_engine *engine, size_t index, const scd_cell *const *cells,
                          size_t n_cells, float *out, scd_error *err);

#endif
