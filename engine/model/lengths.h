/* lengths.h - lengths.tsv of a model directory: how many tokens its training cells had, for who
 * makes cells (optional).
 *
 *   a header line "tokens", then a number a line, from 1 to MAX_GENE_LEN: quantiles, or every cell;
 *   drawing a line at random draws a length
 *
 * No part of the model's digest: it changes nothing but the lengths that are drawn where a request
 * names none, and what is drawn is part of every result's key.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_MODEL_LENGTHS_H
#define SCD_MODEL_LENGTHS_H

#include "engine/base/error.h"

#include <stddef.h>

enum { SCD_MAX_MODEL_LENGTHS = 100000, SCD_LENGTH_QUANTILES = 101 };

/* The lengths in MODEL_DIR/lengths.tsv, free() them; none where there is no such file.
 * SCD_E_CORRUPT names file and line. */
scd_code scd_lengths_read(const char *dir, size_t max_gene_len, size_t **out, size_t *n,
                          scd_error *err);

/* The file of these lengths, which are sorted: at most SCD_LENGTH_QUANTILES of them. */
scd_code scd_lengths_write(const char *path, size_t *lengths, size_t n, scd_error *err);

#endif
