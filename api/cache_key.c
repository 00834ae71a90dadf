/* cache_key.c - see cache_key.h. The schema is part of the key: whoever changes what a stored value
 * means, or a field of the key, gives it a new name and thereby a cache of its own. */
#include "api/cache_key.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "keys and stored values are little-endian");
_Static_assert(sizeof(float) == 4, "values are float32");

static const char schema[] = "scdiva-cache-1";

scd_digest scd_cache_key(scd_hasher *hasher, const scd_cache_scope *scope, const scd_cell *cell)
{
    uint64_t n_tokens = cell->n_tokens;
    scd_hasher_add_text(hasher, schema);
    scd_hasher_add_field(hasher, scope->model.bytes, sizeof scope->model.bytes);
    scd_hasher_add_field(hasher, scope->head.bytes, sizeof scope->head.bytes);
    scd_hasher_add_text(hasher, scope->task);
    scd_hasher_add_text(hasher, scope->parameters);
    scd_hasher_add_text(hasher, scope->identity);
    scd_hasher_add_field(hasher, &n_tokens, sizeof n_tokens);
    scd_hasher_add_field(hasher, cell->ids, cell->n_tokens * sizeof cell->ids[0]);
    scd_hasher_add_field(hasher, cell->values, cell->n_tokens * sizeof cell->values[0]);
    return scd_hasher_finish(hasher);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* `hex` becomes the digest of n bytes, or "all" where there are none. */
static void digest_text(const void *bytes, size_t n, char hex[SCD_DIGEST_HEX])
{
    scd_digest d;
    strcpy(hex, "all");
    if (bytes) {
        d = scd_digest_of(bytes, n);
        scd_digest_hex(&d, hex);
    }
}

void scd_cache_plan_text(const scd_plan *plan, const scd_model_config *config, size_t n_tokens,
                         char out[SCD_PLAN_TEXT])
{
    char hidden[SCD_DIGEST_HEX], candidates[SCD_DIGEST_HEX];
    char layers[SCD_DIGEST_HEX], heads[SCD_DIGEST_HEX];
    digest_text(plan->hidden, n_tokens, hidden);
    digest_text(plan->candidates, plan->n_candidates * sizeof plan->candidates[0], candidates);
    digest_text(plan->layers, config->n_layers, layers);
    digest_text(plan->heads, config->n_heads, heads);
    snprintf(out, SCD_PLAN_TEXT,
             "course-1 kind=%d pooling=%d seed=%" PRIu64
             " steps=%zu temperature=%08x confidence=%08x refresh=%d hidden=%s candidates=%s "
             "layers=%s heads=%s",
             (int)plan->kind, (int)plan->pooling, plan->seed, plan->steps,
             bits_of(plan->temperature), bits_of(plan->confidence), plan->refresh, hidden,
             candidates, layers, heads);
}
