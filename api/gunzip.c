/* gunzip.c - see gunzip.h. */
#include "api/gunzip.h"

#include <limits.h>
#include <stdint.h>
#include <zlib.h>

enum { STEP_BYTES = 1 << 16, GZIP_WINDOW = 15 + 16 };

scd_code scd_gunzip(const void *bytes, size_t n, scd_buf *out, scd_error *err)
{
    z_stream z = {0};
    if (n > UINT_MAX)
        return scd_fail(err, SCD_E_TOO_LARGE, "the gzip body is too large");
    if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)n;
    scd_code code = SCD_OK;
    for (int rc = Z_OK; !code && (rc != Z_STREAM_END || z.avail_in);) {
        if (rc == Z_STREAM_END)
            inflateReset(&z); /* another member follows: together they are the body */
        size_t room = out->max_bytes - out->n_bytes;
        char *at = scd_buf_reserve(out, room < STEP_BYTES ? room : STEP_BYTES);
        if (!at) {
            code = scd_fail(err, SCD_E_NOMEM, "out of memory for the decompressed body");
            break;
        }
        z.next_out = (Bytef *)at;
        z.avail_out = (uInt)(room < STEP_BYTES ? room : STEP_BYTES);
        uInt before = z.avail_out;
        rc = inflate(&z, Z_NO_FLUSH);
        scd_buf_commit(out, before - z.avail_out);
        if (rc == Z_STREAM_END)
            continue;
        if (rc == Z_OK && z.avail_out == before && !z.avail_in)
            rc = Z_BUF_ERROR;
        if (rc == Z_BUF_ERROR && room == 0)
            code = scd_fail(err, SCD_E_TOO_LARGE, "the decompressed body is over %zu bytes",
                            out->max_bytes);
        else if (rc != Z_OK)
            code = scd_fail(err, SCD_E_INVALID, "the gzip body is %s",
                            rc == Z_BUF_ERROR ? "cut off" : "damaged or not gzip");
    }
    inflateEnd(&z);
    return code;
}
