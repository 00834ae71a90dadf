/* model.h - a model directory: config.json, model.safetensors, genes.tsv (SPEC section 3).
 *
 * Open checks that every tensor of section 1 is there with its shape; nothing falls back to random
 * weights. The digest - SHA-256 over the bytes of config.json, model.safetensors and genes.tsv, in
 * this order, as `cat config.json model.safetensors genes.tsv | sha256sum` prints it - is computed
 * by a thread of its own meanwhile.
 *
 * Threads: any after open. Owns: mapping and vocabulary, until close. */
#ifndef SCD_MODEL_H
#define SCD_MODEL_H

#include "engine/base/hash.h"
#include "engine/model/safetensors.h"
#include "engine/model/vocab.h"

typedef struct scd_model scd_model;

scd_code scd_model_open(const char *dir, scd_model **out, scd_error *err);
void scd_model_close(scd_model *model);

const char *scd_model_name(const scd_model *model); /* the directory's last component */
const scd_model_config *scd_model_get_config(const scd_model *model);
const scd_vocab *scd_model_vocab(const scd_model *model);
const scd_safetensors *scd_model_tensors(const scd_model *model);
size_t scd_model_n_params(const scd_model *model);

/* Waits for the digest thread the first time. SCD_E_IO when a file could not be read. */
scd_code scd_model_digest(scd_model *model, scd_digest *out, scd_error *err);

/* The list of tensors a config asks for: calls each(arg, entry) in file order, stops at an error.
 */
typedef scd_code scd_model_tensor_visit(void *arg, const scd_tensor_entry *entry, scd_error *err);
scd_code scd_model_each_tensor(const scd_model_config *config, scd_model_tensor_visit *each,
                               void *arg, scd_error *err);

#endif
