/* fuzz_config.c - any bytes as config.json: refused with a message, or sizes that can be computed
 * with.
 *
 * Threads: one. */
#include "engine/model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scd_model_config c;
    scd_error err;
    char *text = malloc(size + !size);
    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    if (!scd_model_config_parse(text, size, &c, &err) && !scd_model_config_check(&c, &err)) {
        size_t weights;
        if (__builtin_mul_overflow(c.vocab * 8, c.d, &weights) ||
            __builtin_mul_overflow(c.vocab * 8, c.hidden_dim, &weights) ||
            __builtin_mul_overflow(c.ffn_dim * 8, c.hidden_dim * c.n_layers, &weights))
            abort();
        if (!c.n_layers || c.head_dim * c.n_heads != c.hidden_dim || c.head_dim % 2 ||
            (size_t)c.eos_id >= c.vocab || c.pad_id == c.mask_id ||
            c.rope_max_len <= c.max_gene_len || !(c.rope_theta >= 1))
            abort();
    }
    free(text);
    return 0;
}
