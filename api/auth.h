/* auth.h - who may use this daemon: bearer tokens, of which only SHA-256 hashes are kept.
 *
 * A keys file has one key per line, "<sha256 of the token, 64 hex digits> <name>"; blank lines and
 * lines that start with # are skipped. The name is what logs and jobs show; the token itself is
 * neither stored nor logged. `scdiva keys make NAME` adds one.
 *
 * Threads: open and close one at a time; the others from any thread, nothing changes after open.
 * Owns:    its keys. */
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
void scd_auth_close(scd_auth *auth); /* NULL is fine */

/* What an administrator should be told about the file (others can read it), or NULL. */
const char *scd_auth_warning(const scd_auth *auth);
size_t scd_auth_count(const scd_auth *auth);
const char *scd_auth_name(const scd_auth *auth, size_t index);
bool scd_auth_is_name(const char *name); /* can it stand in a keys file? */
const scd_digest *scd_auth_digest(const scd_auth *auth, size_t index); /* of its token */

/* The name of the key in an Authorization header ("Bearer TOKEN"), borrowed until close; NULL: not
 * one of ours, malformed, or no header. Takes the same time whichever key matches, or none. */
const char *scd_auth_check(const scd_auth *auth, const char *authorization_header);

#endif
