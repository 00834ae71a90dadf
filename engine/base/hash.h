/* hash.h - SHA-256 (libcrypto) and the digest type that keys and names everything.
 *
 * Threads: any; a hasher belongs to one thread at a time. */
#ifndef SCD_BASE_HASH_H
#define SCD_BASE_HASH_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCD_DIGEST_BYTES 32
#define SCD_DIGEST_HEX 65 /* with the NUL */

typedef struct scd_digest {
    uint8_t bytes[SCD_DIGEST_BYTES];
} scd_digest;

typedef struct scd_hasher scd_hasher;

scd_hasher *scd_hasher_new(void); /* NULL: out of memory */
void scd_hasher_free(scd_hasher *hasher);
void scd_hasher_add(scd_hasher *hasher, const void *bytes, size_t n);
/* Length first, then the bytes: fields hashed this way cannot run into one another. */
void scd_hasher_add_field(scd_hasher *hasher, const void *bytes, size_t n);
void scd_hasher_add_text(scd_hasher *hasher, const char *text);
/* Ends the hash and makes the hasher ready for the next one. */
scd_digest scd_hasher_finish(scd_hasher *hasher);

/* All bytes of an open file from its start, read in blocks (nothing stays mapped). */
scd_code scd_hasher_add_file(scd_hasher *hasher, int fd, const char *name, scd_error *err);

scd_digest scd_digest_of(const void *bytes, size_t n);
/* HMAC-SHA256 (RFC 2104). */
scd_digest scd_hmac_of(const void *key, size_t n_key, const void *bytes, size_t n);
/* Base64 with padding (RFC 4648) into out, at most cap bytes; how many, or SIZE_MAX: it is none. */
size_t scd_base64_read(const char *text, unsigned char *out, size_t cap);
void scd_digest_hex(const scd_digest *digest, char out[SCD_DIGEST_HEX]);
bool scd_digest_parse(const char *hex, scd_digest *out);         /* false: not 64 hex digits */
bool scd_digest_equal(const scd_digest *a, const scd_digest *b); /* constant time */

#endif
