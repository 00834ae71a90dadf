/* audit.h - the record of who did what: lines of JSON, each of which holds the hash of the one
 * before.
 *
 *   {"seq":7,"time":"2026-01-31T12:00:00.000Z","event":"job.completed",
 * ...,"prev":"...","hash":"..."}
 *
 * seq counts from 1; prev is the hash of the line before (64 zeros in the first one); hash is
 * SHA-256 of the line's bytes before `,"hash":`. A line changed, removed, added or moved breaks the
 * chain from there on; lines cut off at the end are seen by who remembers the last hash, as the
 * daemon does.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_AUDIT_H
#define SCD_API_AUDIT_H

#include "engine/base/buf.h"
#include "engine/base/hash.h"

#include <stdint.h>

#define SCD_AUDIT_NO_HASH "0000000000000000000000000000000000000000000000000000000000000000"

/* *line holds `{"seq":7,...` without prev, hash and the closing brace; they are added. */
void scd_audit_seal(scd_buf *line, const char *prev, char hash[SCD_DIGEST_HEX]);

typedef struct scd_audit_state {
    uint64_t seq;              /* of the last line; 0: none */
    char hash[SCD_DIGEST_HEX]; /* its hash; SCD_AUDIT_NO_HASH where there is none */
} scd_audit_state;

/* Is this n bytes of one line, without its end, the next one after *state? Then *state is of it.
 * SCD_E_CORRUPT says what is wrong. */
scd_code scd_audit_check(const char *line, size_t n, scd_audit_state *state, scd_error *err);

/* The whole file. SCD_E_CORRUPT names the line; SCD_E_IO. */
scd_code scd_audit_verify(const char *path, scd_audit_state *out, scd_error *err);

#endif
