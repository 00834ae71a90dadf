/* perturb_study.h - cells of a perturbation screen become a study: conditions, their pseudobulk
 * deltas, controls.
 *
 * A cell's condition is a text of an obs column: the control's name, a gene, or genes with a
 * separator between ("KLF1+BAK1"; parts that are the control's name do not count: "KLF1+ctrl"). A
 * context is a value of another column (cell line or type), with one direction. Values are those
 * the model sees, ln(1 + counts per 10,000); genes are those that every file measures.
 *
 * Threads: main. Owns: everything, until release. */
#ifndef SCD_TRAIN_PERTURB_STUDY_H
#define SCD_TRAIN_PERTURB_STUDY_H

#include "engine/train/corpus.h"
#include "engine/train/response_fit.h"

typedef struct scd_study_options {
    const char *condition_column, *control, *separator;
    const char *context_column;   /* NULL: one context, "all" */
    const char *direction_column; /* NULL: `direction` is everyone's */
    const char *direction;
    size_t min_cells;    /* of a condition; fewer: left out, and counted */
    size_t max_controls; /* whose embeddings are stored, of each context */
} scd_study_options;

typedef struct scd_study_context {
    const char *name;
    scd_direction direction;
    bool has_direction;
    size_t n_controls; /* in the mean */
    size_t n_stored, first_stored;
} scd_study_context;

typedef struct scd_perturb_study {
    scd_study s; /* what the fit sees; features are filled by the caller */
    scd_corpus_column condition_of, context_of, direction_of;
    uint8_t *measured;      /* (vocab) the same as marks */
    int32_t *tokens;        /* (G) of the study's genes, ascending */
    char **targets;         /* (T) as the file writes them */
    int32_t *target_tokens; /* (T) -1: not in the vocabulary */
    scd_study_context *contexts;
    scd_response_condition *conditions;
    float *deltas, *features;            /* (N, G), (N, d) */
    double *noise;                       /* (N) */
    uint32_t *group;                     /* (N) */
    float *control_mean, *control_sd;    /* (C, G) */
    uint8_t *stored;                     /* (cells of the corpus): controls that are stored */
    int32_t *context_of_cell;            /* (cells of the corpus) of a control; -1: no control */
    size_t n_stored, n_few, n_few_cells; /* n_few: conditions left out for their few cells */
} scd_perturb_study;

/* The corpus is bound to the vocabulary. SCD_E_INVALID names what is missing: a context without
 * controls, a direction that nobody knows or two of them in a context, no condition at all. */
scd_code scd_perturb_study_read(scd_corpus *corpus, const scd_vocab *vocab,
                                const scd_model_config *config, const scd_study_options *options,
                                scd_perturb_study *out, scd_error *err);
void scd_perturb_study_release(scd_perturb_study *study);

/* "activation", "CRISPRa", "overexpression": activation; "knockdown", "CRISPRi", "knockout", ...:
 * knock-down. False: neither. */
bool scd_direction_parse(const char *text, scd_direction *out);

#endif
