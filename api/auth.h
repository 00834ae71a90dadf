/* auth.h - who may use this daemon: bearer tokens, of which only SHA-256 hashes are kept.
 *
 * A keys file has one key per line, "<sha256 of the token, 64 hex digits> <name>"; blank lines and
 * lines that start with # are skipped. The name is what logs and jobs show; the token itself is
 * neither stored nor logged. `scdiva keys make NAME` adds one.
 *
 * The file may be read again while requests come: who is in the old one alone is refused from then
 * on. Names once given stay good until close.
 *
 * Threads: open, read_again and close one at a time; the others from any thread.
 * Owns:    its keys, those of before included. */
#ifndef SCD_API_AUTH_H
#define SCD_API_AUTH_H

#include "engine/base/error.h"
#include "engine/base/hash.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SCD_AUTH_MAX_TOKEN = 1024,       /* bytes of one token */
    SCD_AUTH_MAX_NAME = 64,          /* bytes of a key's name */
    SCD_AUTH_MAX_FILE = 1024 * 1024, /* bytes of a keys file */
};

typedef struct scd_auth scd_auth;

/* SCD_E_IO: the file cannot be read. SCD_E_INVALID: a malformed line, a hash or a name that stands
 * there twice, or no key at all; the message names file and line. */
scd_code scd_auth_open(const char *path, scd_auth **out, scd_error *err);
/* The same file once more. Any error: the keys stay as they are. */
scd_code scd_auth_read_again(scd_auth *auth, scd_error *err);
void scd_auth_close(scd_auth *auth); /* NULL is fine */

/* What an administrator should be told about the file (others can read it), or NULL. */
const char *scd_auth_warning(const scd_auth *auth);
size_t scd_auth_count(const scd_auth *auth);
const char *scd_auth_name(const scd_auth *auth, size_t index);
bool scd_auth_is_name(const char *name); /* can it stand in a keys file? */
const scd_digest *scd_auth_digest(const scd_auth *auth, size_t index); /* of its token */

enum { SCD_AUTH_FINGERPRINT = 16 }; /* hex digits */
/* A key as it may be shown. The fingerprint tells tokens of one name apart, and nothing of them: it
 * is of the hash, not the hash. */
typedef struct scd_auth_key {
    char name[SCD_AUTH_MAX_NAME + 1], fingerprint[SCD_AUTH_FINGERPRINT + 1];
} scd_auth_key;
/* Those of now, by name; free() them. */
scd_code scd_auth_list(const scd_auth *auth, scd_auth_key **out, size_t *n, scd_error *err);

/* The name of the key in an Authorization header ("Bearer TOKEN"), borrowed until close; NULL: not
 * one of ours, malformed, or no header. Takes the same time whichever key matches, or none. */
const char *scd_auth_check(const scd_auth *auth, const char *authorization_header);

#endif
