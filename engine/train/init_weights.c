/* init_weights.c - random weights that are the same bytes on every machine.
 *
 * A tensor is a Philox stream (its index in the list of SPEC section 1), an element half a block of
 * it. The bell curve is the sum of the element's four 16-bit words, standardised (Irwin-Hall): only
 * integers and one rounded product, where Box-Muller would hang on the libm's last bit; it also
 * ends at 3.5 standard deviations, as truncated initialisations do.
 *
 * Scales keep an untrained model alive, so that tests of the forward pass see every part of it:
 * products keep the size of what goes in (sd 1 / sqrt(fan-in)), queries and keys are sqrt 2 larger
 * so that attention is not flat, norm weights lie around 1, biases are small but never 0.
 *
 * Threads: main. Owns: its list of tensors during the call. */
#include "engine/train/init_weights.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/model/model.h"
#include "engine/train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct weights {
    scd_tensor_entry *entries;
    size_t n, cap, n_params;
    scd_dtype dtype;
    uint64_t seed;
} weights;

static scd_code add(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    weights *w = arg;
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 128;
        scd_tensor_entry *grown = scd_realloc(w->entries, cap, sizeof *grown);
        if (!grown)
            return scd_fail(err, SCD_E_NOMEM, "out of memory");
        w->entries = grown;
        w->cap = cap;
    }
    scd_tensor_entry *e = &w->entries[w->n];
    *e = *entry;
    e->dtype = w->dtype;
    if (!(e->name = scd_strdup(entry->name)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    w->n++;
    w->n_params += e->rows * (e->cols ? e->cols : 1);
    return SCD_OK;
}

static bool ends(const char *text, const char *tail)
{
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

static void distribution(const scd_tensor_entry *e, float *mean, float *sd)
{
    *mean = 0;
    if (ends(e->name, "norm1.weight") || ends(e->name, "norm2.weight") ||
        ends(e->name, "final_norm.weight") || ends(e->name, "latent_encoder.mlp.1.weight")) {
        *mean = 1;
        *sd = 0.05f;
    } else if (ends(e->name, ".bias")) {
        *sd = 0.1f;
    } else if (ends(e->name, "_emb") || ends(e->name, "gene_embedding.weight")) {
        *sd = 1;
    } else if (ends(e->name, "value_encoder.0.weight")) {
        *sd = 0.15f; /* values reach 9: they must not drown the gene */
    } else {
        *sd = 1 / sqrtf((float)e->cols);
        if (ends(e->name, "q_proj.weight") || ends(e->name, "k_proj.weight"))
            *sd *= sqrtf(2);
    }
}

void scd_init_weights_fill(const scd_tensor_entry *entry, size_t index, uint64_t seed, size_t first,
                           size_t n, float *out)
{
    float mean, sd;
    distribution(entry, &mean, &sd);
    /* Four words of 0..65535: mean 4 * 65535 / 2, variance 4 (65536^2 - 1) / 12. */
    const int32_t centre = 131070;
    const float scale = sd / 37837.2265f;
    uint32_t block[4];
    for (size_t i = 0; i < n; i++) {
        size_t element = first + i;
        if (!i || element % 2 == 0)
            scd_rng_block(seed, index, element / 2, block);
        const uint32_t *two = block + element % 2 * 2;
        uint32_t sum = (two[0] & 0xffff) + (two[0] >> 16) + (two[1] & 0xffff) + (two[1] >> 16);
        out[i] = mean + (float)((int32_t)sum - centre) * scale;
    }
}

static void fill(void *arg, size_t index, size_t first, size_t n, float *out)
{
    const weights *w = arg;
    scd_init_weights_fill(&w->entries[index], index, w->seed, first, n, out);
}

scd_code scd_init_weights(const char *path, const scd_model_config *config, scd_dtype dtype,
                          uint64_t seed, size_t *n_params, scd_error *err)
{
    weights w = {.dtype = dtype, .seed = seed};
    scd_code code = scd_model_each_tensor(config, add, &w, err);
    if (!code)
        code = scd_safetensors_write(path, w.entries, w.n, fill, &w, err);
    *n_params = w.n_params;
    for (size_t i = 0; i < w.n; i++)
        free((char *)(uintptr_t)w.entries[i].name);
    free(w.entries);
    return code;
}
