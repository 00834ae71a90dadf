/* corpus_impl.h - the body of a corpus, shared by corpus*.c. Nothing else includes this.
 *
 * A file costs its record; a cell that is left out costs four bytes, and one that is not a fraction
 * of a byte: barcodes lie in a temporary file, found by a mark every SCD_MARK_ROWS rows.
 *
 * Threads: one at a time. Owns: see scd_corpus_free. */
#ifndef SCD_TRAIN_CORPUS_IMPL_H
#define SCD_TRAIN_CORPUS_IMPL_H

#include "api/cells_choose.h"
#include "engine/train/corpus.h"

#include <sys/types.h>

enum {
    SCD_MAX_OPEN = 16,    /* files open at once */
    SCD_MARK_ROWS = 256,  /* rows between two marks of the barcodes */
    SCD_BLOCK_CELLS = 256 /* cells that a pass over everything reads at once */
};

/* ---- corpus_map.c: names to numbers ---------------------------------------------------------- */

typedef struct scd_map_slot {
    const char *key; /* borrowed; NULL: empty */
    uint64_t hash;
    uint32_t value;
} scd_map_slot;

typedef struct scd_map {
    scd_map_slot *slots;
    size_t n, n_slots;
} scd_map;

#define SCD_NO_VALUE UINT32_MAX

uint32_t scd_map_get(const scd_map *map, const char *key); /* SCD_NO_VALUE: not there */
/* A key that is there gets the new value. False: out of memory. The key is borrowed. */
bool scd_map_put(scd_map *map, const char *key, uint32_t value);
void scd_map_release(scd_map *map);

/* ---- corpus_spool.c: the barcodes of all files ----------------------------------------------- */

typedef struct scd_spool {
    int fd; /* a temporary file that has no name any more: barcodes, each with its NUL */
    uint64_t n_bytes;
} scd_spool;

scd_code scd_spool_open(scd_spool *spool, scd_error *err);
void scd_spool_close(scd_spool *spool);
/* Append n texts (NULL counts as empty); marks (n / SCD_MARK_ROWS + 1) get where every
 * SCD_MARK_ROWS-th begins. */
scd_code scd_spool_add(scd_spool *spool, const char *const *texts, size_t n, uint64_t *marks,
                       scd_error *err);
/* Texts [first, first + n) of the n_all that one add put there, the last one ending at `end`; in
 * the arena. */
scd_code scd_spool_get(const scd_spool *spool, const uint64_t *marks, uint64_t end, size_t n_all,
                       size_t first, size_t n, scd_arena *arena, const char **out, scd_error *err);

/* ---- the corpus ------------------------------------------------------------------------------ */

/* What the columns of a file are to the vocabulary. Files with the same genes share one. */
typedef struct scd_corpus_map {
    size_t n_columns, n_panel;
    int32_t *tokens; /* (n_columns) -1: unknown */
    int32_t *panel;  /* (n_panel) ascending, no repeats */
} scd_corpus_map;

typedef struct scd_corpus_file {
    const char *path, *name, *why, *matrix, *matrix_why, *frame, *obs_frame;
    const char *gene_column; /* NULL: the index */
    bool column_is_given;    /* by the user: no vocabulary changes it */
    dev_t device;
    ino_t inode;
    scd_input_kind kind;
    bool recoverable;
    double normalised_to; /* sum of expm1 over a whole cell: 1e4, or what the file used */
    bool is_turned;       /* CSC, text: opening it again costs a pass over all of it */
    size_t n_rows;        /* in the file */
    size_t first;         /* number of its first cell in the corpus */
    size_t n_cells;       /* those not left out */
    uint32_t *left_out;   /* (n_rows - n_cells) rows, ascending */
    uint64_t *marks;      /* (n_rows / SCD_MARK_ROWS + 1) into the spool */
    uint64_t text_end;    /* where its barcodes end in the spool */
    scd_cells *handle;    /* NULL: closed now */
    uint64_t last_use;
    const scd_corpus_map *map; /* after bind */
} scd_corpus_file;

struct scd_corpus {
    scd_arena text; /* names and reasons */
    scd_corpus_file *files;
    size_t n_files, n_cells, n_open;
    uint64_t n_uses;
    scd_spool spool;
    /* after bind */
    const scd_vocab *vocab;
    scd_corpus_map **maps;
    size_t n_maps;
    size_t n_ids;         /* tokens are below it */
    double *sums;         /* (n_ids) one cell, scattered; all 0 between cells */
    uint64_t *seen, *met; /* (n_ids / 64 + 1) tokens with an input, with several; all 0 likewise */
};

/* The file's handle; the one that was not used for longest makes room. It stays open at least until
 * the next call. */
scd_code scd_corpus_handle(scd_corpus *corpus, size_t file, scd_cells **out, scd_error *err);
void scd_corpus_unbind(scd_corpus *corpus);
/* A copy that lives as long as the corpus; NULL for NULL, and without memory. */
const char *scd_corpus_keep_text(scd_corpus *corpus, const char *text);
/* The file of a cell, by its number. */
size_t scd_corpus_file_of(const scd_corpus *corpus, size_t cell);
/* The row of the k-th cell of a file. */
size_t scd_corpus_row_of(const scd_corpus_file *file, size_t k);

/* ---- corpus_names.c: what a file calls its genes ----------------------------------------------
 */

#define SCD_MAX_GENE_NAME 255 /* what genes.tsv holds: engine/model/vocab.c */

typedef struct scd_gene_name {
    const char *text;   /* as the chosen column has it; NULL: missing, or of no use */
    const char *symbol; /* without an id beside it; NULL: not known */
    const char *id;     /* Ensembl's, without version; NULL: not known */
} scd_gene_name;

/* A name of each column of the file's matrix; in the arena. */
scd_code scd_corpus_gene_names(scd_corpus *corpus, size_t file, scd_arena *arena,
                               const scd_gene_name **out, size_t *n, scd_error *err);
/* Take a name apart; parts point into the text or live in the arena. False: out of memory. */
bool scd_gene_split(const char *text, scd_arena *arena, scd_gene_name *out);
/* 1 to SCD_MAX_GENE_NAME printable ASCII characters; NULL is none. */
bool scd_gene_is_usable(const char *text);
/* The name of a gene column for messages: "index" for NULL. */
const char *scd_corpus_column_label(const char *column);
/* The length of an Ensembl id without its version; 0 where the text is none. */
size_t scd_gene_id_stem(const char *text, size_t n);

/* ---- corpus_exclude.c: barcodes to leave out --------------------------------------------------
 */

typedef struct scd_exclude scd_exclude;
scd_code scd_exclude_read(const char *path, scd_exclude **out, scd_error *err);
void scd_exclude_free(scd_exclude *exclude);
/* Is it to be left out? Remembers that it was met. NULL excludes nothing. */
bool scd_exclude_has(scd_exclude *exclude, const char *path, const char *barcode);
/* SCD_E_INVALID names the first line found whose file's name is that of several of the paths. */
scd_code scd_exclude_check_files(const scd_exclude *exclude, const char *const *paths, size_t n,
                                 scd_error *err);
/* SCD_E_INVALID names the first barcode that was never met. */
scd_code scd_exclude_check(const scd_exclude *exclude, scd_error *err);

/* ---- corpus_digest.c: scd_corpus_digest, with another bound on what is read whole -------------
 */

scd_code scd_corpus_digest_up_to(scd_corpus *corpus, uint64_t max_entries, scd_digest *out,
                                 scd_error *err);

#endif
