/* denoise_call.h - one request to POST /v1/denoise: what handle_denoise.c plans and
 * denoise_scores.c judges.
 *
 * Threads: as infer_call.h. Owns: nothing; everything lives in the call's arena. */
#ifndef SCD_SERVER_DENOISE_CALL_H
#define SCD_SERVER_DENOISE_CALL_H

#include "server/infer_call.h"

/* A hidden token whose truth is known, and what was said of it. */
typedef struct scd_judged {
    int32_t gene;
    float truth, found, gene_mean, knn; /* the baselines: NaN where there is none */
} scd_judged;

typedef struct scd_denoise_call {
    scd_plan plan;   /* of every cell, what it hides and its seed left out */
    double fraction; /* of tokens to hide; 0: by `targets` */
    uint64_t seed;
    bool impute;
    int32_t *targets; /* (n_targets) by id */
    size_t n_targets;
    uint8_t *measured, *present; /* (n_targets) of one cell at a time */
    const int32_t *measured_of;  /* the list that `measured` is of; NULL: none */
    bool one_list;               /* it is the same for all cells */
    bool per_gene;
    size_t n_without; /* cells that have none of the genes to hide */

    /* Scores: scratch for one cell at a time. */
    size_t max_hidden;       /* of any cell */
    bool has_means, has_knn; /* there are cells enough, and not too many */
    float *sums;             /* (V) of a gene's values over all cells */
    float *near, *near_sums; /* (V) the cell's own values, and its neighbours' */
    float *norms;            /* (n_cells) */
    size_t n_usable;         /* cells that are not bad */
    bool ready;              /* sums and norms are filled in */
    scd_judged *judged;      /* (all hidden tokens) of all cells so far */
    size_t n_judged;
    float *columns;   /* ten of as many as a cell hides or there are cells */
    uint32_t *places; /* (max_hidden + 1) */
    int32_t *orders;  /* (2 max_hidden) */
} scd_denoise_call;

/* What plan_cell knows of a cell. */
typedef struct scd_denoise_cell {
    uint8_t *hidden;      /* (n_tokens) */
    uint8_t *truth_known; /* (n_tokens) of hidden tokens */
} scd_denoise_cell;

/* Memory for the scores, when all cells are planned. False: out of memory. */
bool scd_denoise_scores_prepare(scd_infer_call *call);
/* ,"scores":{...} of cell c, or null. */
void scd_denoise_scores_put(const scd_infer_call *call, size_t c, scd_buf *out);
/* ,"gene_scores":[...] over all cells put so far. */
void scd_denoise_gene_scores_put(const scd_infer_call *call, scd_buf *out);

#endif
