/* finetune_integrate.h - what the files of `finetune integration` share: its options and its run.
 *
 *   finetune_integrate.c  options; opens and closes everything
 *   integrate_data.c      batches, labels, how much a cell counts
 *   integrate_train.c     steps, epochs, checkpoints
 *   integrate_write.c     what neighbours say, the model's files
 *
 * Threads: main. */
#ifndef SCD_TRAIN_FINETUNE_INTEGRATE_H
#define SCD_TRAIN_FINETUNE_INTEGRATE_H

#include "engine/train/classify.h"
#include "engine/train/labels.h"
#include "engine/train/mixing.h"
#include "engine/train/model_dir.h"
#include "engine/train/options.h"

typedef struct scd_integrate_options {
    const char *model, *out, *exclude, *matrix, *gene_column;
    scd_option_list data;
    const char *batch_column, *labels, *label_column;
    const char *genes; /* "shared" or "all" */
    size_t mlp_dim, adversary_steps, epochs, batch, report_cells;
    double min_mapped, lr, adversary_lr, warmup, decay, clip;
    double reconstruction, value_weight, adversary, contrast, temperature, mask_max;
    scd_augment_options augment;
    uint64_t seed;
    size_t threads, micro_rows;
    const char *dtype, *device;
} scd_integrate_options;

/* Sums since the last row of the log. */
typedef struct scd_integrate_sums {
    double gene, n_gene, value, n_value; /* reconstruction over M */
    double batch, right, weight;         /* the adversary's loss, what it got right, and of what */
    double contrast, n_views;
} scd_integrate_sums;

typedef struct scd_integrate {
    const scd_integrate_options *o;
    const char *recipe; /* the options on one line */
    scd_digest fingerprint;
    scd_model *model;
    char model_digest[SCD_DIGEST_HEX];
    scd_model_config config; /* of the new model */
    scd_corpus *corpus;

    size_t n_cells, n_train;
    scd_corpus_column batches; /* codes (n_cells) */
    scd_labels labels;         /* n_classes 0: without labels */
    uint8_t *used;             /* (vocab) genes that the new model uses; NULL: all */
    size_t n_used;
    uint8_t *keep;             /* (n_cells) trained on */
    float *weights;     /* (n_cells) in the adversary's loss, mean 1 over the training cells */
    size_t n_no_batch;  /* cells left out: without a batch */
    size_t n_unknown;   /* or without any gene that the new model uses */
    double *on_used;    /* (n_files) share of the known counts on genes that are used */
    size_t n_one_batch; /* cells whose label one batch alone has: they weigh 0 */

    scd_classifier c; /* the encoder, and the batch discriminator as its head */
    scd_feed *feed;
    scd_model_dir dir;
    char *checkpoint_path;
    scd_mixing before, after;
    size_t n_reported; /* cells that these are of */

    /* where training stands */
    uint64_t step, drawn;
    size_t steps_per_epoch, n_steps;
    scd_integrate_sums sums;
} scd_integrate;

/* Label of a cell, -1 without. */
int32_t scd_integrate_label(const scd_integrate *run, size_t cell);

/* Batches, labels, who is trained on and how much each cell counts. SCD_E_INVALID names what there
 * is too little of: batches, cells of one, labels that more than one batch has. */
scd_code scd_integrate_read(scd_integrate *run, scd_error *err);
scd_code scd_integrate_train(scd_integrate *run, scd_error *err);
/* Neighbours of some training cells in the embeddings as they are now. */
scd_code scd_integrate_look(scd_integrate *run, scd_mixing *out, scd_error *err);
scd_code scd_integrate_write(scd_integrate *run, scd_error *err);

int scd_train_finetune_integrate(int argc, char **argv); /* argv[0] is "integration" */

#endif
