/* cache_key.h - the name of a result: SHA-256 over all that its bits depend on.
 *
 * Fields, each with its length first: schema, model digest, head digest (zeros: none), task,
 * parameters, device identity (kind, instruction set, precision, kernel and library version), then
 * the serialized cell (token count, ids as int32, values as float32 bits; little-endian).
 *
 * Threads: any; a hasher per thread. */
#ifndef SCD_API_CACHE_KEY_H
#define SCD_API_CACHE_KEY_H

#include "engine/base/hash.h"
#include "engine/denoise/course.h"
#include "engine/model/serialize.h"

typedef struct scd_cache_scope {
    scd_digest model, head;
    const char *task;       /* "embed", "annotate" */
    const char *parameters; /* canonical text, "" for none */
    const char *identity;   /* scd_device_info.identity */
} scd_cache_scope;

scd_digest scd_cache_key(scd_hasher *hasher, const scd_cache_scope *scope, const scd_cell *cell);

/* What a plan adds to the key of a cell of n tokens, as the canonical text of its parameters. */
enum { SCD_PLAN_TEXT = 512 };
void scd_cache_plan_text(const scd_plan *plan, const scd_model_config *config, size_t n_tokens,
                         char out[SCD_PLAN_TEXT]);

#endif
