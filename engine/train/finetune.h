/* finetune.h - what the files of the verb finetune share: its options and its run.
 *
 *   finetune.c        options; opens and closes everything
 *   finetune_data.c   labels, split, class weights, gene weights
 *   finetune_run.c    epochs, early stop, checkpoints
 *   finetune_write.c  calibration and the head's files
 *
 * Threads: main. */
#ifndef SCD_TRAIN_FINETUNE_H
#define SCD_TRAIN_FINETUNE_H

#include "engine/train/checkpoint.h"
#include "engine/train/classify.h"
#include "engine/train/head_dir.h"
#include "engine/train/labels.h"
#include "engine/train/options.h"
#include "engine/train/scores.h"

typedef struct scd_finetune_options {
    const char *model, *name, *exclude, *matrix, *gene_column;
    scd_option_list data;
    const char *labels, *label_column, *ontology, *ontology_column, *group_column, *split;
    scd_option_list held_out_groups;
    double held_out;
    size_t train_layers, mlp_dim, epochs, patience, batch;
    double lr, backbone_lr, gene_lr, warmup, decay, clip, beta1, beta2, class_power, file_power;
    double label_smoothing, average, precision, min_mapped;
    size_t calibrate_copies;
    scd_augment_options augment;
    uint64_t seed;
    size_t threads, micro_rows;
    const char *dtype, *device;
    bool force;
} scd_finetune_options;

/* What learns, each with its own parameters: the MLP, the linear term over genes, the backbone. */
enum { SCD_PART_MLP, SCD_PART_GENES, SCD_PART_NET, SCD_PARTS };

typedef struct scd_finetune_part {
    size_t n;    /* parameters; 0: not a part of this run */
    float *best; /* to keep: the best epoch's, the last's, or the mean of the last steps' */
    float *now;  /* of a step, on their way into the mean; NULL without a mean */
} scd_finetune_part;

/* One run, from opened files to the head's directory. */
typedef struct scd_finetune {
    const scd_finetune_options *o;
    const char *recipe; /* the options on one line */
    scd_digest fingerprint;
    scd_model *model;
    char model_digest[SCD_DIGEST_HEX];
    scd_corpus *corpus;
    scd_labels labels;
    uint8_t *train, *held; /* (n_cells): which side of the split; neither: no label */
    size_t n_train, n_held;
    bool by_group;                 /* whether groups stayed whole */
    float *weights;                /* (n_cells) of the training loss, mean 1 over training cells */
    size_t n_unknown;              /* labelled cells without any gene the model knows: left out */
    float *gene_rank, *gene_level; /* (vocab) */
    uint8_t *measured;             /* (vocab) 1: a file with training cells measured the gene */
    scd_augment_options augment;   /* as asked for, with the run's seed and genes */
    scd_classifier c;
    size_t first_layer; /* as scd_net_backward counts; n_layers: frozen */
    bool frozen;
    scd_feed *feed, *held_feed;
    scd_head_dir dir;
    char *checkpoint_path;

    /* where training stands */
    uint64_t step, drawn;
    size_t steps_per_epoch, n_steps;
    double best_f1, best_epoch;
    scd_finetune_part parts[SCD_PARTS];
} scd_finetune;

/* Who is on which side; SCD_E_INVALID where a side, or a label's training cells, would be empty. */
scd_code scd_finetune_split(scd_finetune *run, scd_error *err);
/* Leaves out cells without known genes, weighs the others, ranks the genes. */
scd_code scd_finetune_weigh(scd_finetune *run, scd_error *err);
scd_code scd_finetune_train(scd_finetune *run, scd_error *err);
/* Logits (n_held, classes) of the held-out cells with their truth; augment NULL: as measured.
 * truth (n_held), targets (n_held, classes) may be NULL. */
scd_code scd_finetune_evaluate(scd_finetune *run, const scd_augment_options *augment,
                               uint64_t first_draw, float *logits, float *targets, int32_t *truth,
                               scd_error *err);
scd_code scd_finetune_write(scd_finetune *run, scd_error *err);

#endif
