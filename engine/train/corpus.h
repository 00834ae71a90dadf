/* corpus.h - one or many files of cells (api/cells.h) as a numbered list, read by row blocks.
 *
 * Memory is bounded by the blocks being read, never by the files: 59 million cells are only a
 * longer list. What stays is a record of each file, the row numbers that are left out, and one map
 * for each distinct list of genes; barcodes lie in a temporary file ($TMPDIR, else /tmp). Cells are
 * counted through all files in order; a cell is (file, row). Values are counts where the file has
 * or yields them (api/cells_choose.h), else log1p_cp10k.
 *
 * Threads: one at a time. Owns: the open files (at most a few at once), until free. */
#ifndef SCD_TRAIN_CORPUS_H
#define SCD_TRAIN_CORPUS_H

#include "engine/base/arena.h"
#include "engine/base/hash.h"
#include "engine/model/serialize.h"

typedef struct scd_corpus scd_corpus;

typedef struct scd_corpus_options {
    const char *const *paths;
    size_t n_paths;
    const char *matrix;      /* NULL: by evidence, for each file */
    const char *gene_column; /* NULL: likewise, and again once there is a vocabulary */
    const char *exclude;     /* barcodes to leave out, one a line: "barcode", or "file<TAB>barcode"
                                with the file's name without directory, or its path as in `paths`
                                where several have that name; '#' begins a comment; a name that
                                several have is an error, and a barcode that is found nowhere; or
                                NULL */
} scd_corpus_options;

/* SCD_E_INVALID names the file: of no known format, no counts, scaled, no cells, given twice. */
scd_code scd_corpus_open(const scd_corpus_options *options, scd_corpus **out, scd_error *err);
void scd_corpus_free(scd_corpus *corpus);

size_t scd_corpus_n_files(const scd_corpus *corpus);
const char *scd_corpus_file_name(const scd_corpus *corpus, size_t file); /* without directory */
const char *scd_corpus_why(const scd_corpus *corpus, size_t file);       /* what was chosen there */
size_t scd_corpus_n_cells(const scd_corpus *corpus); /* excluded ones not counted */

/* The union of all files' genes as the text of a genes.tsv (token_id, symbol, ensembl_id), sorted
 * by symbol, ids from 2. `extra` are further symbols; `table` (or NULL) is a file that gives
 * symbols their Ensembl ids ("Ensembl id, symbol, ..." as CSV, gzip or not). Ensembl ids found in
 * the files come first; a symbol that two files write in two ways (composite, with version) is one
 * gene, and so are two symbols with one id: further names become aliases. */
typedef struct scd_corpus_genes {
    char *tsv;             /* free() it */
    size_t n_bytes, vocab; /* vocab: ids with the specials: 2 + genes + 3 */
} scd_corpus_genes;
scd_code scd_corpus_union(scd_corpus *corpus, const char *const *extra, size_t n_extra,
                          const char *table, scd_corpus_genes *out, scd_error *err);

/* Resolve every file's genes once, from the column whose names the vocabulary knows best (unless
 * the options name one; scd_corpus_why says which): by Ensembl id where the file has them, else as
 * they are written.
 * `min_mapped` of a file's genes, and one at least, must be known, else SCD_E_INVALID names the
 * file, the column and examples of unknown names. The vocabulary must outlive the corpus. */
scd_code scd_corpus_bind(scd_corpus *corpus, const scd_vocab *vocab, double min_mapped,
                         scd_error *err);
/* Token of each gene that file measures, ascending; (n) */
const int32_t *scd_corpus_panel(const scd_corpus *corpus, size_t file, size_t *n);

/* One cell as it was measured, before any corruption. Where counts are recovered, a cell whose
 * values are no multiples of one unit stays log1p_cp10k. */
typedef struct scd_corpus_cell {
    uint32_t file;
    uint32_t row;
    const char *barcode;
    scd_input_kind kind;
    size_t n;              /* expressed genes that the vocabulary knows; may be 0 */
    const int32_t *tokens; /* (n) ascending, no repeats (inputs on one token are summed) */
    const float *values;   /* (n) counts, or log1p_cp10k */
    double total;          /* counts: sum over all counts of the cell, known or not */
    double given, mapped;  /* in count space: all inputs, and those on known genes */
} scd_corpus_cell;

/* Cells [first, first + n) of the list, in the arena. Reads whole runs of rows at once. */
scd_code scd_corpus_read(scd_corpus *corpus, size_t first, size_t n, scd_arena *arena,
                         scd_corpus_cell *out, scd_error *err);

/* Share of each file's counts (count space; of the cells not left out) that are of genes which the
 * vocabulary knows: (n_files) out. One pass over all cells. */
scd_code scd_corpus_mapped(scd_corpus *corpus, double *out, scd_error *err);
/* SPEC section 2 for a run on the vocabulary of a model that is there: a line on standard error for
 * a file under 80 %, SCD_E_INVALID for one under `least`. */
scd_code scd_corpus_check_mapped(scd_corpus *corpus, double least, scd_error *err);

/* Column `name` of obs for every cell of the list: codes of the distinct values over all files, -1
 * where a file lacks the column or the value is missing. SCD_E_NOT_FOUND: no file has it. */
typedef struct scd_corpus_column {
    size_t n, n_values;
    int32_t *codes; /* (n) free() both with scd_corpus_column_release */
    char **values;  /* (n_values) */
} scd_corpus_column;
scd_code scd_corpus_obs(scd_corpus *corpus, const char *name, scd_corpus_column *out,
                        scd_error *err);
void scd_corpus_column_release(scd_corpus_column *column);

/* Entropies of SPEC section 1 over the cells with keep[i] != 0 (NULL: all): H (vocab ids), NAN for
 * a gene that no kept cell measures or expresses. One pass: sums of x and x log x for each gene. */
scd_code scd_corpus_entropies(scd_corpus *corpus, const uint8_t *keep, size_t vocab, float *out,
                              scd_error *err);

/* What the cells are, for the fingerprint of a run: which files are meant, not where they lie or
 * how they are compressed. Of a file of more than SCD_DIGEST_ENTRIES stored entries, the values of
 * 4,096 rows stand for all. After bind; SCD_E_* as reading has them. */
#define SCD_DIGEST_ENTRIES (UINT64_C(1) << 24)
scd_code scd_corpus_digest(scd_corpus *corpus, scd_digest *out, scd_error *err);

#endif
