/* entries.h - the entries of a matrix read from text: kept once, read by rows or by columns.
 *
 * They are taken in any order, in one pass. Up to 2 million stay in memory, more go to a temporary
 * file ($TMPDIR, else /tmp). Entries that came in order of rows are read from there as they are;
 * else, or by columns, they are sorted once through api/bands.h.
 *
 * Threads: one at a time. Owns: file and counts, until free. */
#ifndef SCD_API_ENTRIES_H
#define SCD_API_ENTRIES_H

#include "api/bands.h"

typedef struct scd_entries scd_entries;

/* `what` begins messages and is copied. */
scd_code scd_entries_new(const char *what, scd_entries **out, scd_error *err);
void scd_entries_free(scd_entries *entries); /* NULL is fine */

scd_code scd_entries_add(scd_entries *entries, scd_entry entry, scd_error *err);
/* No more of them; all rows are below n_rows, all columns below n_cols. */
scd_code scd_entries_end(scd_entries *entries, size_t n_rows, size_t n_cols, scd_error *err);
uint64_t scd_entries_n(const scd_entries *entries);

/* Rows [first, first + n) as scd_cells_rows_read has it; by_columns: of the turned matrix. */
scd_code scd_entries_read(scd_entries *entries, bool by_columns, size_t first, size_t n,
                          scd_arena *arena, scd_cells_rows *out, scd_error *err);

#endif
