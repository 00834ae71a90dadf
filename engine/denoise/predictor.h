/* predictor.h - a perturbation head bound to its model: control cells in, predicted response out.
 *
 * delta = additive effects + gate x the network's residual, no gene below 0; a combination that the
 * head's study measured in the context is answered by the effects alone, which then hold its own
 * measurement. What a study measures are perturbed cells, and a change only against its own
 * controls with their sampling noise. So where the controls given are of the same population as
 * the stored ones (`anchor`), the expression is what is predicted, and delta is its distance from
 * the controls given; where they are not, delta itself is carried over. Embeddings of the control
 * cells come from the model (or from the head's backbone tensors) as any embedding does; all else
 * is arithmetic on the host.
 *
 * Threads: any after open, each with its own scratch. Owns: its tables, until close; head and model
 *          must outlive it. */
#ifndef SCD_DENOISE_PREDICTOR_H
#define SCD_DENOISE_PREDICTOR_H

#include "engine/base/arena.h"
#include "engine/denoise/head.h"

typedef struct scd_predictor scd_predictor;

/* What the network and ridge know of a gene: out (d) += its embedding as a unit vector. False, and
 * nothing added, where it has none (token -1, or a zero row). row: (d) scratch. */
bool scd_gene_feature(const scd_model *model, int32_t token, float *row, float *out);

/* SCD_E_INVALID: a gene of the head that the model's vocabulary does not have, or has twice. */
scd_code scd_predictor_open(const scd_head *head, const scd_model *model, scd_predictor **out,
                            scd_error *err);
void scd_predictor_close(scd_predictor *predictor);
const scd_perturb_info *scd_predictor_info(const scd_predictor *predictor);

/* The head's gene with this token; -1: it has none. */
int32_t scd_predictor_gene_of(const scd_predictor *predictor, int32_t token);

/* A gene that somebody perturbs: what the model and what the head's study know of it. */
typedef struct scd_perturb_gene {
    int32_t token;  /* -1: not in the vocabulary */
    int32_t target; /* -1: not perturbed in the head's study */
} scd_perturb_gene;
scd_perturb_gene scd_predictor_find(const scd_predictor *predictor, const char *name, size_t n);
/* Was the gene perturbed in this context, alone or with others? */
bool scd_predictor_has_seen(const scd_predictor *predictor, uint32_t context,
                            scd_perturb_gene gene);

/* Stored controls of a context: mean and standard deviation (G) of the values, embeddings (n, H).
 */
typedef struct scd_perturb_control {
    const float *mean, *sd, *embeddings;
    size_t n_cells;
} scd_perturb_control;
scd_perturb_control scd_predictor_control(const scd_predictor *predictor, uint32_t context);

/* The context whose controls correlate best with `control` (G) among those of one direction, or
 * among all (SCD_N_DIRECTIONS); ties by order. *correlation may be NULL. control NULL: the context
 * with the most conditions. -1: no context has the direction. */
int32_t scd_predictor_nearest(const scd_predictor *predictor, const float *control,
                              scd_direction direction, double *correlation);

/* Correlation of `control` (G) with the context's; 0 where it is NULL. */
double scd_predictor_correlation(const scd_predictor *predictor, const float *control,
                                 uint32_t context);

/* Control cells as the network sees them, for any number of perturbations: from the arena. NULL:
 * out of memory. */
const double *scd_predictor_cells(const scd_predictor *predictor, const float *embeddings, size_t n,
                                  scd_arena *arena);

/* How far n controls with this mean and standard deviation (G) may count as the context's own
 * population: 1 where the means differ by no more than sampling lets expect and n is 50 or more, 0
 * where they differ by three times that; in proportion to n below 50. */
double scd_predictor_anchor(const scd_predictor *predictor, uint32_t context, const float *mean,
                            const float *sd, size_t n);

typedef struct scd_perturb_ask {
    uint32_t context;
    size_t n_genes; /* 1 to SCD_MAX_TARGETS, distinct */
    const scd_perturb_gene *genes;
    const float *control; /* (G) mean of the controls, or the stored one */
    double anchor;        /* see above; 0 for stored controls */
    const double *cells;  /* from scd_predictor_cells */
    size_t n_cells;
} scd_perturb_ask;

typedef struct scd_perturb_answer {
    float *delta;                      /* (G) */
    float *baselines[SCD_N_BASELINES]; /* (G) each */
    bool in_training;                  /* this very combination, in this context */
    float gate;                        /* of the network's part in delta */
} scd_perturb_answer;

/* Everything in *out is the arena's. SCD_E_NOMEM. */
scd_code scd_predictor_run(const scd_predictor *predictor, const scd_perturb_ask *ask,
                           scd_arena *arena, scd_perturb_answer *out, scd_error *err);

#endif
