/* response_fit.h - the tables of engine/denoise/response.h from a study, or from a part of it.
 *
 * Additive effects: in each context the delta of condition i is
 *
 *     delta_i = k_i m + sum over its targets of u_t + e_i,    k_i = n_targets_i ^ power
 *
 * with a mean effect m and effects u_t drawn from one distribution: a mixed model, whose best
 * linear prediction (Henderson 1975) shrinks what one noisy condition says, shares what several
 * conditions say of one target, and falls back to m for a target that none has. e_i holds what
 * measuring few cells adds (known from the cells' spread) and a misfit of additivity. Misfit,
 * power, how much the mean is shrunk and whether strong conditions weigh more in it are chosen by
 * leaving perturbations out.
 *
 * Threads: any; no state. Owns: scd_fit its tables, until release. */
#ifndef SCD_TRAIN_RESPONSE_FIT_H
#define SCD_TRAIN_RESPONSE_FIT_H

#include "engine/base/error.h"
#include "engine/denoise/response.h"

enum { SCD_STUDY_MAX_CONDITIONS = 1024 }; /* of one context: the fit solves systems of this size */

/* What was measured: plain data, borrowed. */
typedef struct scd_study {
    size_t n_genes, n_targets, n_contexts, n_conditions, feature_dim, n_groups;
    const scd_response_condition *conditions; /* (N) */
    const float *deltas;                      /* (N, G) */
    const double *noise;                      /* (N) variance of the delta, summed over genes */
    const float *features;                    /* (N, d) */
    const uint32_t *group; /* (N) one number for each combination of targets, whatever the context:
                              what is left out together */
} scd_study;

typedef struct scd_fit_settings {
    double misfit; /* variance of e_i by that of one target's effect */
    double power;
    double weight; /* conditions weigh |delta|^-weight in the mean */
    double shrink; /* of the mean */
} scd_fit_settings;

typedef struct scd_fit {
    scd_response response; /* over the conditions it was fitted on */
    float *block;          /* all tables */
    scd_response_condition *conditions;
    double *power;
    scd_fit_settings *settings; /* (C) */
} scd_fit;

/* The best of a fixed grid for one context, by the squared error over `folds` parts of its
 * perturbations (at most one part each), of those that keep[] marks. One condition or none: the
 * grid's middle. */
scd_code scd_fit_choose(const scd_study *study, const uint8_t *keep, uint32_t context, size_t folds,
                        scd_fit_settings *out, scd_error *err);

/* Tables from the conditions that keep[] marks, with settings (C). */
scd_code scd_fit_new(const scd_study *study, const uint8_t *keep, const scd_fit_settings *settings,
                     scd_fit *out, scd_error *err);
void scd_fit_release(scd_fit *fit);

/* Additive effects' prediction of condition `at` from those that keep[] marks in its context, `at`
 * itself left out; out (G). */
scd_code scd_fit_predict(const scd_study *study, const uint8_t *keep,
                         const scd_fit_settings *settings, size_t at, float *out, scd_error *err);

#endif
