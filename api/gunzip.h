/* gunzip.h - gzip-encoded request bodies (RFC 1952), bounded.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_GUNZIP_H
#define SCD_API_GUNZIP_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

/* Append what n bytes of gzip hold to *out, whose max_bytes is the bound. Members one after the
 * other are one body. SCD_E_INVALID: not gzip, damaged, cut off, or followed by something else.
 * SCD_E_TOO_LARGE: more than the bound. */
scd_code scd_gunzip(const void *bytes, size_t n, scd_buf *out, scd_error *err);

/* The same piece by piece, of a body of any length. */
typedef struct scd_gunzip_stream scd_gunzip_stream;
scd_gunzip_stream *scd_gunzip_new(void); /* NULL: out of memory */
void scd_gunzip_free(scd_gunzip_stream *stream);
/* What the next n bytes hold goes to `take`, some 64 KiB at a time, until it returns false. False:
 * that, or *damaged: they are not gzip, or what follows is not. */
bool scd_gunzip_feed(scd_gunzip_stream *stream, const void *bytes, size_t n,
                     bool (*take)(void *arg, const char *bytes, size_t n), void *arg,
                     bool *damaged);
bool scd_gunzip_is_whole(const scd_gunzip_stream *stream); /* it ends where a member ends */

#endif
