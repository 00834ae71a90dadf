/* mex.h - the three files of a 10x Genomics MEX matrix, one at a time and in any order, into cells.
 *
 *   matrix.mtx                   Matrix Market, coordinates: features x barcodes (the other way
 *                                round where the names say so)
 *   features.tsv or genes.tsv    id, name, type; id, name; or names alone
 *   barcodes.tsv                 the first column
 *
 * Threads: one at a time. Owns: nothing but the cells until finish. */
#ifndef SCD_API_MEX_H
#define SCD_API_MEX_H

#include "api/text_cells.h"
#include "api/text_in.h"

typedef enum scd_mex_part {
    SCD_MEX_MATRIX,
    SCD_MEX_FEATURES,
    SCD_MEX_BARCODES,
    SCD_MEX_N
} scd_mex_part;

typedef struct scd_mex {
    scd_text_cells *cells;
    char *names[SCD_MEX_N]; /* where each part was found; NULL: not yet */
    uint64_t rows, cols, n; /* as the matrix says */
} scd_mex;

/* Which part a file of this name is; SCD_MEX_N: none. *prefix_bytes: what stands before its part
 * of the name, folder included ("GSM1_", "a/b/"). */
scd_mex_part scd_mex_part_of(const char *path, size_t *prefix_bytes);

/* Another file of the same part, or a part of another set, is refused. */
scd_code scd_mex_read(scd_mex *mex, scd_mex_part part, const char *name, scd_text_in *in,
                      scd_error *err);
scd_code scd_mex_finish(scd_mex *mex, scd_error *err);

/* A folder's parts, in the order of their names, as a .tar into a file: the same bytes for the same
 * folder. SCD_E_NOT_FOUND: there is none in it. */
scd_code scd_mex_pack(const char *folder, int to, scd_error *err);
void scd_mex_release(scd_mex *mex); /* the names; the cells are the caller's */

#endif
