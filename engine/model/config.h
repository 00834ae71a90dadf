/* config.h - the sizes of a model, read from its config.json (SPEC section 1).
 *
 * Uppercase keys, unknown keys ignored, defaults of the official checkpoint. Threads: any, plain
 * data. */
#ifndef SCD_MODEL_CONFIG_H
#define SCD_MODEL_CONFIG_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCD_VALUE_HEAD_DIM = 512 }; /* the value head's hidden width, fixed in the format */

typedef struct scd_model_config {
    size_t d;          /* SCGPT_DIM */
    size_t hidden_dim; /* HIDDEN_DIM */
    size_t n_layers, n_heads, head_dim;
    size_t ffn_dim;    /* D_HID */
    size_t vocab;      /* VOCAB_SIZE */
    int32_t pad_id, mask_id, pad_fill_id, bos_id, eos_id;
    size_t max_gene_len;
    double rope_theta;
    size_t rope_max_len;
    double dropout;
    bool latent_visible;    /* "latent_pooling": "visible" */
    bool value_masking;     /* "value_masking": true */
    bool trained;           /* "trained": false marks random weights; absent: true */
} scd_model_config;

/* Parse n bytes of JSON. SCD_E_INVALID names the key and what it must be. */
scd_code scd_model_config_parse(const char *json, size_t n, scd_model_config *out, scd_error *err);

/* SCD_E_INVALID when the sizes contradict one another or cannot be computed with (head_dim must be
 * even and 16 to 128, HIDDEN_DIM divisible by N_HEADS, special ids inside the vocabulary, ...). */
scd_code scd_model_config_check(const scd_model_config *config, scd_error *err);

/* True for ids that never enter a sequence: PAD, MASK, PAD_FILL, BOS, EOS. */
bool scd_model_is_special(const scd_model_config *config, int32_t id);

#endif
