/* tsv.h - walks the lines and fields of a tab-separated table in memory, without copying.
 *
 * A UTF-8 byte order mark, CRLF line ends and empty lines are passed over; line numbers are those
 * of the file, from 1.
 *
 * Threads: one at a time. Owns: nothing; fields point into the caller's text. */
#ifndef SCD_MODEL_TSV_H
#define SCD_MODEL_TSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_tsv_field {
    const char *text; /* not NUL-terminated */
    size_t n;
} scd_tsv_field;

typedef struct scd_tsv {
    const char *at, *end;
    size_t line; /* of the row that scd_tsv_next gave last */
} scd_tsv;

void scd_tsv_init(scd_tsv *tsv, const char *text, size_t n);

/* The fields of the next line that is not empty: the first `max` of them are stored, *n_fields
 * counts all. False at the end. */
bool scd_tsv_next(scd_tsv *tsv, scd_tsv_field *fields, size_t max, size_t *n_fields);

bool scd_tsv_is(scd_tsv_field field, const char *text);

/* A whole number from 0 to `most`: digits only, false for anything else. */
bool scd_tsv_whole(scd_tsv_field field, int32_t most, int32_t *out);

#endif
