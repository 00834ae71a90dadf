/* results_impl.h - what the writers of results share; see results.h.
 *
 * Threads: one at a time. Owns: see scd_results. */
#ifndef SCD_API_RESULTS_IMPL_H
#define SCD_API_RESULTS_IMPL_H

#include "api/h5_write.h"
#include "api/results.h"
#include "engine/base/buf.h"
#include "engine/base/hash.h"
#include "engine/model/file.h"

typedef enum scd_results_kind {
    SCD_RESULTS_H5AD,
    SCD_RESULTS_CSV,
    SCD_RESULTS_TSV,
    SCD_RESULTS_NPY,
    SCD_RESULTS_UNKNOWN
} scd_results_kind;

/* What was said of each cell so far. */
typedef struct scd_labels_said {
    int32_t *codes;       /* (n_cells) -1: nothing */
    float *probabilities; /* (n_cells) */
    uint8_t *unknown;     /* (n_cells) */
} scd_labels_said;

struct scd_results {
    scd_results_spec spec;
    scd_results_kind kind;
    size_t n_done; /* cells */
    scd_labels_said said;
    scd_file_writer writer;
    bool writer_open;

    /* .csv, .tsv */
    scd_arena names_arena;
    const char *const *names; /* (n_cells) */
    scd_buf text;

    /* .h5ad */
    bool is_new; /* the input is of another format */
    scd_h5ad file;
    scd_digest input_digest;
    hid_t embedding; /* obsm/X_scdiva, or where it waits */
    const char *embedding_path;
    scd_h5_csr counts, denoised;
    bool counts_open, denoised_open;
};

/* ---- results_h5ad.c ---- */
scd_code scd_results_h5ad_check(const scd_results_spec *spec, scd_error *err);
scd_code scd_results_h5ad_begin(scd_results *r, scd_error *err);
scd_code scd_results_h5ad_add(scd_results *r, const scd_results_block *block, scd_error *err);
scd_code scd_results_h5ad_end(scd_results *r, const scd_fact *facts, size_t n, scd_error *err);

/* ---- results.c: into `text` ---- */
void scd_results_put_field(scd_results *r, const char *text); /* with quotes where it needs them */
void scd_results_put_separator(scd_results *r);
void scd_results_put_float(scd_results *r, float value); /* nothing where there is no number */
scd_code scd_results_flush_text(scd_results *r, scd_error *err);

/* ---- results_table.c ---- */
scd_code scd_results_table_lines(scd_results *r, scd_error *err);
scd_code scd_results_table_npy(scd_results *r, scd_error *err);
/* A data frame; group: uns["scdiva"][task]. */
scd_code scd_results_table_frame(scd_results *r, const char *group, scd_error *err);

/* ---- results_new.c ---- */
/* An AnnData of the names and the counts' frame; counts themselves come with the blocks. */
scd_code scd_results_new_begin(scd_results *r, scd_error *err);

/* ---- results_frame.c: obs gets columns ---- */
/* The labels that occur, in the head's order, and codes of these; free() both. */
scd_code scd_results_used_labels(const scd_results *r, const char ***labels, size_t *n,
                                 int32_t **codes, scd_error *err);
scd_code scd_results_add_obs(scd_results *r, scd_error *err);

/* ---- results_records.c: a data set of records gets members (anndata before 0.7) ---- */
typedef struct scd_h5_member {
    const char *name;
    hid_t type;         /* of an element in the file and in memory */
    const void *values; /* (rows), one after another; NULL: rows of `dset` */
    hid_t dset;
} scd_h5_member;
/* Members of these names that are there are replaced; the others keep their bytes. */
scd_code scd_h5_add_members(scd_h5ad *file, const char *path, const scd_h5_member *members,
                            size_t n, scd_error *err);

#define SCD_OBSM_KEY "X_scdiva"
#define SCD_LAYER_KEY "scdiva_denoised"
#define SCD_UNS_KEY "scdiva"
extern const char *const scd_obs_keys[3]; /* scdiva_label, scdiva_probability, scdiva_unknown */

#endif
