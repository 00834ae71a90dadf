/* cells_choose.h - which matrix holds the counts and which column the gene names: by evidence.
 *
 * Order: what the user names; of an h5ad layers/counts, raw/X, X; of a 10x file with
 * several genomes, and of the two ways to read a table, the one whose genes are known best. Up to
 * 1,000 rows spread over the file are looked at. Integers are counts; non-negative and at most ln(1
 * + 1e4) is log1p_cp10k; negatives are scaled data and refused, saying which layer to use instead.
 * Every decision is reported in `why`.
 *
 * Where log1p values are whole multiples of each cell's least value once expm1 is taken, counts can
 * be recovered: `recoverable` says so. Count = expm1(x) / min expm1(x) of the cell, and the cell's
 * total is normalised_to / min expm1(x).
 *
 * Threads: any. Owns: nothing; strings live in the caller's arena. */
#ifndef SCD_API_CELLS_CHOOSE_H
#define SCD_API_CELLS_CHOOSE_H

#include "api/cells_genes.h"
#include "engine/model/serialize.h"

typedef struct scd_cells_choice {
    const char *matrix; /* as scd_cells_matrix_name */
    scd_input_kind kind;
    bool recoverable;        /* log1p whose counts can be recovered */
    double normalised_to;    /* log1p: what expm1 of every row looked at sums to, within 1 %; 1e4
                                where rows differ (a subset of the genes) */
    const char *frame;       /* that names its columns: "var" or "raw/var", ... */
    const char *obs_frame;   /* ... and its rows */
    const char *gene_column; /* NULL: the index */
    const char *why;         /* one line: what was chosen, and the evidence */
    const char *matrix_why;  /* what of it is about the matrix */
} scd_cells_choice;

/* matrix, gene_column: what the user says, or NULL. book (may be NULL) decides between gene
 * columns: the one whose names it knows best; without one, the one with most names that are no
 * numbers. Of columns that are as good the first is taken, in the order ensembl_id, gene_ids,
 * feature_name, gene_name, gene_symbols, index. SCD_E_INVALID: scaled or fractional data, nothing
 * usable; the message names file, matrix and what to use. */
scd_code scd_cells_choose(scd_cells *file, const char *matrix, const char *gene_column,
                          const scd_gene_book *book, scd_arena *arena, scd_cells_choice *out,
                          scd_error *err);

#endif
