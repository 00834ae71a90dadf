/* memo.h - whole answers to request bodies that were seen before, byte for byte.
 *
 * A body is recognised by its SHA-256 before it is parsed. Only answers whose every cell was a
 * cache hit are kept: they are what parsing again would give.
 *
 * Threads: any. Owns: copies of the answers, least recently used first out. */
#ifndef SCD_MEMO_H
#define SCD_MEMO_H

#include "engine/base/buf.h"
#include "engine/base/hash.h"

#include <stdint.h>

typedef struct scd_memo scd_memo;

typedef struct scd_memo_info {
    const char *content_type; /* a constant string */
    size_t cells;
    int64_t timeout_ms; /* that the request gave itself; 0: none */
    size_t n_json;      /* of an answer with binary tensors: how long its JSON is; 0: no such one */
} scd_memo_info;

/* max_bytes 0: keeps nothing. */
scd_code scd_memo_open(size_t max_bytes, scd_memo **out, scd_error *err);
void scd_memo_close(scd_memo *memo); /* NULL is fine */

/* Append the answer to *out: true when there is one. */
bool scd_memo_get(scd_memo *memo, const scd_digest *key, scd_buf *out, scd_memo_info *info);
void scd_memo_put(scd_memo *memo, const scd_digest *key, const scd_memo_info *info,
                  const void *answer, size_t n);

#endif
