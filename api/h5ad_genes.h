/* h5ad_genes.h - which column of a data frame holds the gene names.
 *
 * Threads: any. Owns: nothing; strings live in the caller's arena. */
#ifndef SCD_API_H5AD_GENES_H
#define SCD_API_H5AD_GENES_H

#include "api/h5ad.h"
#include "engine/model/vocab.h"

typedef struct scd_h5ad_genes {
    const char *column; /* NULL: the index */
    size_t n_known;     /* of its names, by the vocabulary; without one, that are no numbers */
    const char *why;    /* "genes from var[feature_name], 18211 of 19000 known" */
} scd_h5ad_genes;

/* As scd_h5ad_choose has it. SCD_E_NOT_FOUND: the named column is not there (names those that are).
 */
scd_code scd_h5ad_genes_choose(scd_h5ad *file, const char *frame, const char *named,
                               const scd_vocab *vocab, scd_arena *arena, scd_h5ad_genes *out,
                               scd_error *err);

#endif
