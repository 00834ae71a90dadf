/* json_write.h - appending JSON to a buffer: strings, numbers, arrays of floats.
 *
 * Floats are written as the shortest decimal that reads back to the same float32 (so a client that
 * parses to double and rounds to float32 has our bits). NaN and infinity become null.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_JSON_WRITE_H
#define SCD_API_JSON_WRITE_H

#include "api/float_text.h"
#include "engine/base/buf.h"

#include <stdint.h>

/* "text" with escapes; bytes that are not valid UTF-8 become U+FFFD. */
void scd_json_string(scd_buf *out, const char *text, size_t n);
void scd_json_text(scd_buf *out, const char *text); /* NUL-terminated */
void scd_json_double(scd_buf *out, double value); /* shortest that reads back to the same double */
void scd_json_uint(scd_buf *out, uint64_t value);
void scd_json_float(scd_buf *out, float value);
void scd_json_floats(scd_buf *out, const float *values, size_t n); /* [1,2.5,...] */

/* Base64 (RFC 4648, padded) of n bytes, without quotes. */
void scd_base64(scd_buf *out, const void *bytes, size_t n);

#endif
