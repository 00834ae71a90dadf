/* cells_genes.h - which column of a data frame holds the gene names, and who knows them.
 *
 * Threads: any. Owns: nothing; strings live in the caller's arena. */
#ifndef SCD_API_CELLS_GENES_H
#define SCD_API_CELLS_GENES_H

#include "api/cells.h"
#include "engine/model/vocab.h"

/* Who knows gene names: a vocabulary of this process (scd_gene_book_of), or a daemon
 * (api/client.h). tokens[i] < 0: not known, rungs[i] says why. */
typedef struct scd_gene_book {
    scd_code (*resolve)(void *arg, const char *const *names, size_t n, int32_t *tokens,
                        scd_rung *rungs, scd_error *err);
    void *arg;
} scd_gene_book;
scd_gene_book scd_gene_book_of(const scd_vocab *vocab);

/* A column of gene names as it is, but for the genome that 10x Genomics puts in front of each where
 * there are several ("GRCh38_CD3D"; the column `genome` says which): *n_prefixed had one. column
 * NULL: the index. */
scd_code scd_cells_gene_names(scd_cells *cells, const char *frame, const char *column,
                              scd_arena *arena, const char *const **out, size_t *n,
                              size_t *n_prefixed, scd_error *err);

typedef struct scd_cells_genes {
    const char *column; /* NULL: the index */
    size_t n_known;     /* of its names, by the book; without one, that look like names of genes */
    const char *why;    /* "genes from var[feature_name], 18211 of 19000 known" */
} scd_cells_genes;

/* As scd_cells_choose has it. SCD_E_NOT_FOUND: the named column is not there (names those that
 * are). book may be NULL. */
scd_code scd_cells_genes_choose(scd_cells *cells, const char *frame, const char *named,
                                const scd_gene_book *book, scd_arena *arena, scd_cells_genes *out,
                                scd_error *err);

#endif
