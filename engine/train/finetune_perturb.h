/* finetune_perturb.h - what the files of `finetune perturbation` share: its options and its run.
 *
 *   finetune_perturb.c  options; opens and closes everything
 *   perturb_study.c     cells become conditions
 *   response_fit.c      additive effects and ridge
 *   perturb_train.c     epochs of the network on what the effects leave unexplained
 *   perturb_judge.c     perturbations left out: every baseline's score, and how much of the network
 *                       is let through
 *   perturb_write.c     the head's files
 *
 * Threads: main. */
#ifndef SCD_TRAIN_FINETUNE_PERTURB_H
#define SCD_TRAIN_FINETUNE_PERTURB_H

#include "engine/denoise/head.h"
#include "engine/train/classify.h"
#include "engine/train/head_dir.h"
#include "engine/train/options.h"
#include "engine/train/pert_net.h"
#include "engine/train/perturb_study.h"

typedef struct scd_perturb_options {
    const char *model, *name, *exclude, *matrix, *gene_column;
    scd_option_list data;
    scd_study_options study;
    size_t mlp_dim, epochs, cells, batch, folds;
    double min_mapped, lr, warmup, decay, clip, de_weight, rank_weight;
    uint64_t seed;
    const char *device; /* NULL: auto */
    size_t threads, micro_rows;
    const char *dtype;
    bool force;
} scd_perturb_options;

typedef struct scd_perturb_run {
    const scd_perturb_options *o;
    const char *recipe; /* the options on one line */
    scd_model *model;
    char model_digest[SCD_DIGEST_HEX];
    scd_corpus *corpus;
    scd_perturb_study study;
    scd_classifier c;  /* the backbone that embeds the controls */
    float *embeddings; /* (n_stored, H) */
    scd_pert_net *net;
    scd_head_dir dir;

    /* what comes of it */
    scd_fit fit;                /* on everything */
    float *params;              /* of the network */
    size_t best_epoch;          /* 0: the network is let through nowhere, all epochs were run */
    double *gates;              /* (C) */
    scd_response_score *scores; /* (C, SCD_N_SCORES) on perturbations left out */
} scd_perturb_run;

/* After each epoch of one training: the network's parameters so far. */
typedef scd_code scd_perturb_epoch_end(void *arg, size_t epoch, const float *params,
                                       scd_error *err);

/* Trains the network from its start on the conditions that keep[] marks, on what additive effects
 * with settings (C) leave unexplained of each when it is left out. end may be NULL. Afterwards
 * run->params holds the parameters. */
scd_code scd_perturb_train(scd_perturb_run *run, const uint8_t *keep,
                           const scd_fit_settings *settings, size_t epochs,
                           scd_perturb_epoch_end *end, void *arg, scd_error *err);

/* Residual that the network with these parameters predicts for a condition from the stored
 * controls; cells (n_stored, K) from scd_response_net_cells; scratch (K + d); out (G). */
void scd_perturb_residual(const scd_perturb_run *run, const float *params, const double *cells,
                          size_t condition, double *scratch, float *out);

/* Fills best_epoch, gates and scores. */
scd_code scd_perturb_judge(scd_perturb_run *run, scd_error *err);
scd_code scd_perturb_write(scd_perturb_run *run, scd_error *err);

int scd_train_finetune_perturb(int argc, char **argv); /* argv[0] is "perturbation" */

#endif
