/* buf.h - a growing byte buffer that has its maximum at birth.
 *
 * After a failed append the buffer is `failed` and later appends do nothing, so that a writer may
 * append freely and look once at the end.
 *
 * Threads: one at a time. Owns: its bytes, until scd_buf_release or scd_buf_take. */
#ifndef SCD_BASE_BUF_H
#define SCD_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct scd_buf {
    char *data; /* NUL after data[n_bytes - 1]; NULL before the first append */
    size_t n_bytes, cap_bytes, max_bytes;
    bool failed; /* out of memory, or over max_bytes */
} scd_buf;

void scd_buf_init(scd_buf *buf, size_t max_bytes);
void scd_buf_release(scd_buf *buf);
void scd_buf_clear(scd_buf *buf); /* keeps the memory */

/* Room for n more bytes, and where to write them; NULL when failed. Follow with scd_buf_commit. */
char *scd_buf_reserve(scd_buf *buf, size_t n);
void scd_buf_commit(scd_buf *buf, size_t n);

bool scd_buf_append(scd_buf *buf, const void *bytes, size_t n);
bool scd_buf_puts(scd_buf *buf, const char *text);
bool scd_buf_putc(scd_buf *buf, char c);
bool scd_buf_printf(scd_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The bytes, free() them; the buffer is as new afterwards. NULL when data was. */
char *scd_buf_take(scd_buf *buf);

#endif
