/* npy.c - see npy.h. Layout: magic, version, header length (u16, little-endian), a Python
 * dictionary padded with spaces so that the data start at a multiple of 64. */
#include "api/npy.h"

#include <stdio.h>
#include <string.h>

void scd_npy_header(scd_buf *out, size_t rows, size_t cols)
{
    enum { PREFIX = 10, ALIGN = 64 };
    char header[2 * ALIGN + 64];
    int n = snprintf(header + PREFIX, sizeof header - PREFIX,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, cols);
    size_t total = (PREFIX + (size_t)n + 1 + ALIGN - 1) / ALIGN * ALIGN;
    memset(header + PREFIX + n, ' ', total - PREFIX - (size_t)n - 1);
    header[total - 1] = '\n';
    size_t length = total - PREFIX;
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(length & 0xFF);
    header[9] = (char)(length >> 8);
    scd_buf_append(out, header, total);
}
