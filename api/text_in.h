/* text_in.h - lines of text out of anything that gives bytes, gzip or not, in bounded memory.
 *
 * A bound on the bytes that may come out is set at birth: what a small file unpacks to is the only
 * thing about it that its size does not bound. Deflate packs 1032:1 at best, so that a file of n
 * bytes which is packed once stays below scd_text_in_bound(n); one that is packed twice does not.
 *
 * Threads: one at a time. Owns: its buffers; not where the bytes come from. */
#ifndef SCD_API_TEXT_IN_H
#define SCD_API_TEXT_IN_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_text_in scd_text_in;

/* Up to `cap` bytes; *n = 0: no more. Messages begin with what went wrong: names are put before. */
typedef scd_code scd_bytes_read(void *arg, void *buf, size_t cap, size_t *n, scd_error *err);

/* `name` begins messages and is copied. SCD_E_NOMEM. */
scd_code scd_text_in_new(scd_bytes_read *read, void *arg, const char *name, uint64_t max_bytes,
                         scd_text_in **out, scd_error *err);
void scd_text_in_free(scd_text_in *in); /* NULL is fine */

/* The next line without its end (\n or \r\n), a NUL behind it; valid until the next call. *line
 * NULL: no more. Lines of up to 256 MB, without NUL. A byte order mark in front is left out. */
scd_code scd_text_in_line(scd_text_in *in, char **line, size_t *n, scd_error *err);
uint64_t scd_text_in_line_number(const scd_text_in *in); /* of the last one, from 1 */
uint64_t scd_text_in_bytes(const scd_text_in *in);       /* that came out */
const char *scd_text_in_name(const scd_text_in *in);

/* "NAME: line 7: ..." */
scd_code scd_text_in_fail(const scd_text_in *in, scd_code code, scd_error *err, const char *fmt,
                          ...) __attribute__((format(printf, 4, 5)));

uint64_t scd_text_in_bound(uint64_t file_bytes);

/* The bytes of an open file, from its position on; arg: int *fd. */
scd_bytes_read scd_bytes_of_fd;

/* The first bytes of an open file, unpacked where it is gzip, for finding out what it is. */
scd_code scd_text_in_peek(int fd, const char *path, char *out, size_t cap, size_t *n,
                          bool *is_packed, scd_error *err);

/* A finite number, all of [text, end): digits alone are read without further ado. False: it is
 * none. */
bool scd_number_read(const char *text, const char *end, double *out);

#endif
