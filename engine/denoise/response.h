/* response.h - what a study of perturbations says of a perturbation that may not be in it:
 * baselines, and the residual that a network adds, from tables. Pure arithmetic.
 *
 * The trainer fits the tables on part of a study and judges them by these functions; the daemon
 * answers by the same ones. A context is a cell line (or type) in which one direction - knock-down
 * or activation - was studied; everything but features is a context's own. A target is a gene that
 * some condition perturbs; a condition is one combination of targets in one context. Deltas are
 * pseudobulks: mean of ln(1 + counts per 10,000) over perturbed cells minus that over controls.
 *
 * Threads: any; no state. Owns: nothing, all arrays are borrowed. */
#ifndef SCD_DENOISE_RESPONSE_H
#define SCD_DENOISE_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum scd_direction { SCD_KNOCKDOWN, SCD_ACTIVATION, SCD_N_DIRECTIONS } scd_direction;
const char *scd_direction_name(scd_direction direction); /* "knockdown", "activation" */

typedef enum scd_baseline {
    SCD_BASELINE_NO_CHANGE, /* the controls as they are */
    SCD_BASELINE_MEAN,      /* mean delta of the context's conditions */
    SCD_BASELINE_ADDITIVE,  /* sum of the genes' own measured deltas; a gene never measured alone
                               counts as the mean; the mean where none was */
    SCD_BASELINE_RIDGE,     /* mean + ridge regression on gene features: the bilinear model of
                               Ahlmann-Eltze et al. 2025 */
    SCD_BASELINE_NEAREST, /* the condition that shares most targets, then has the likest features */
    SCD_BASELINE_EFFECTS, /* additive effects of targets, each shrunk by what the study can tell
                             (engine/train/response_fit.h): what the network's residual stands on */
    SCD_N_BASELINES
} scd_baseline;
const char *scd_baseline_name(scd_baseline baseline); /* "no_change", "mean", ... */

enum { SCD_MAX_TARGETS = 16 }; /* genes of one perturbation */

typedef struct scd_response_condition {
    uint32_t context;
    uint32_t n_targets, targets[SCD_MAX_TARGETS]; /* ascending */
    uint32_t n_cells;
} scd_response_condition;

typedef struct scd_response {
    size_t n_genes, n_targets, n_contexts, n_conditions, feature_dim;
    const scd_response_condition *conditions; /* (N) */
    const float *deltas;                      /* (N, G) measured */
    const float *means;                       /* (C, G) their mean in each context */
    const float *effect_mean, *effects;       /* (C, G), (C, T, G); 0: a target not studied there */
    const double *power;                      /* (C) effect_mean counts n_targets^power times */
    const float *ridge;                       /* (N, G) weights of kernel ridge */
    const float *features;                    /* (N, d) of conditions: sums over their targets */
} scd_response;

/* One question: genes asked for, those of them that are targets of the study, and the sum of the
 * features of all that have some. */
typedef struct scd_response_query {
    uint32_t context;
    uint32_t n_asked;
    uint32_t n_targets, targets[SCD_MAX_TARGETS]; /* ascending */
    const float *feature;                         /* (d) */
} scd_response_query;

/* out (G) */
void scd_response_baseline(const scd_response *response, scd_baseline baseline,
                           const scd_response_query *query, float *out);

/* The condition of the query's context with exactly these targets; SIZE_MAX: there is none. */
size_t scd_response_find(const scd_response *response, const scd_response_query *query);

/* The network: a two-layer regressor of [cell embedding; perturbation], where the perturbation is
 * the learned [PERT] token plus its direction's embedding plus the sum of its genes' embeddings. */
typedef struct scd_response_net {
    size_t hidden_dim, feature_dim, mlp_dim, n_genes;
    const float *w0, *b0;   /* (K, H + d), (K) */
    const float *w2, *b2;   /* (G, K), (G) */
    const float *token;     /* (d) */
    const float *direction; /* (SCD_N_DIRECTIONS, d) */
} scd_response_net;

/* What the network takes of n cells, once for any number of perturbations: the cells' part of W0
 * [e; p]. embeddings (n, H), out (n, K). */
void scd_response_net_cells(const scd_response_net *net, const float *embeddings, size_t n,
                            double *out);
/* out (G): mean over the n cells of W2 relu(W0 [e; p] + b0) + b2; cells (n, K) from above; feature
 * (d) as in the query. scratch: (K + d) doubles. */
void scd_response_net_run(const scd_response_net *net, const double *cells, size_t n,
                          scd_direction direction, const float *feature, double *scratch,
                          float *out);

/* No gene falls below 0: delta >= -control. */
void scd_response_clamp(size_t n_genes, const float *control, float *delta);

/* Pearson's correlation over n genes; 0 where one of the two is constant. */
double scd_response_correlation(size_t n, const float *a, const float *b);

/* How near a prediction comes to what was measured. */
typedef struct scd_response_score {
    size_t n;                                /* conditions in the mean */
    double pearson, mse, overlap, direction; /* correlation over genes (0 where one is constant),
                                                mean squared error, share of the 20 genes that
                                                change most that are among the prediction's 20, and
                                                share of them whose sign is right */
} scd_response_score;
enum { SCD_SCORE_TOP = 20 };
/* order: (2 G) scratch. */
void scd_response_score_of(size_t n_genes, const float *predicted, const float *measured,
                           uint32_t *order, scd_response_score *out);
/* Sum into a mean: call with each score, then scd_response_score_mean once. */
void scd_response_score_add(scd_response_score *sum, const scd_response_score *one);
void scd_response_score_mean(scd_response_score *sum);

/* The genes by falling |delta|, ties by index, in order[0 .. n); order has room for 2 n. */
void scd_response_top(const float *delta, size_t n, uint32_t *order);

#endif
