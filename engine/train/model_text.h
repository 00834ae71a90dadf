/* model_text.h - the texts of a model directory: config.json, and genes.tsv with other entropies.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TRAIN_MODEL_TEXT_H
#define SCD_TRAIN_MODEL_TEXT_H

#include "engine/base/buf.h"
#include "engine/model/config.h"

/* Appends config.json as scd_model_config_parse reads it. */
void scd_model_text_config(const scd_model_config *config, scd_buf *out);

/* The ids of a new vocabulary of config->vocab (specials first and last, SPEC section 3), RoPE
 * positions enough for every gene at once, and head_dim. */
void scd_model_text_lay_out(scd_model_config *config);

/* Appends the genes.tsv `tsv` (n bytes) with `entropies` (vocab; NAN: none) as its last column, or,
 * where entropies is NULL, without any. SCD_E_INVALID: no column token_id, or an id >= vocab;
 * SCD_E_NOMEM. */
scd_code scd_model_text_genes(const char *tsv, size_t n, const float *entropies, size_t vocab,
                              scd_buf *out, scd_error *err);
/* The same with the column `used` (vocab; vocab.h). */
scd_code scd_model_text_used(const char *tsv, size_t n, const uint8_t *used, size_t vocab,
                             scd_buf *out, scd_error *err);

#endif
