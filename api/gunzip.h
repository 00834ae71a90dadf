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

#endif
