/* cache_key.c - see cache_key.h. The schema is part of the key: whoever changes what a stored value
 * means, or a field of the key, gives it a new name and thereby a cache of its own. */
#include "api/cache_key.h"

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
