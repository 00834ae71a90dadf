/* classify.h - a model with one annotation head, as finetune and eval run it: cells in, logits out.
 *
 * Threads: the device's owner. Owns: device, net, head and staging, until close. */
#ifndef SCD_TRAIN_CLASSIFY_H
#define SCD_TRAIN_CLASSIFY_H

#include "engine/train/augment.h"
#include "engine/train/class_head.h"
#include "engine/train/feed.h"
#include "engine/train/gene_head.h"
#include "engine/train/pack.h"

typedef struct scd_classifier {
    const scd_backend *be;
    const scd_train_ops *ops;
    scd_device *device;
    const scd_model *model; /* borrowed */
    const scd_model_config *config;
    const scd_vocab *vocab;
    scd_net *net;
    scd_class_head *head;      /* NULL: embeddings only */
    scd_gene_head *genes_head; /* its linear half; NULL: it has none */
    scd_pack *pack;
    size_t classes;
    const uint8_t *genes; /* (vocab) 0: left out of every cell, as those are that the model does not
                             use; NULL: all are taken. Borrowed */
} scd_classifier;

typedef struct scd_classifier_options {
    size_t classes, mlp_dim; /* classes 0: no head */
    bool has_genes;          /* the head has a linear half */
    size_t micro_rows;       /* rows of a micro-batch; at least one longest cell fits */
    const char *device;      /* as device.h has it, and threads */
    size_t threads;
    const scd_model_config *config; /* NULL: the model's; else borrowed, of the same sizes */
} scd_classifier_options;

scd_code scd_classifier_open(const scd_model *model, const scd_classifier_options *options,
                             scd_classifier *out, scd_error *err);
void scd_classifier_close(scd_classifier *classifier);

/* Head and backbone tensors of a trained head over those of the model. */
scd_code scd_classifier_overlay(scd_classifier *classifier, const scd_safetensors *tensors,
                                scd_error *err);

/* *out = the cell without genes that are left out, in the arena; its total stays. SCD_E_NOMEM. */
scd_code scd_classifier_take(const scd_classifier *classifier, const scd_corpus_cell *cell,
                             scd_arena *arena, scd_corpus_cell *out, scd_error *err);

typedef struct scd_classified {
    size_t index; /* the cell's number in the corpus */
    uint32_t file;
    const char *barcode;
    const float *logits;    /* (classes); NULL without a head */
    const float *embedding; /* (H); both NULL for a cell without any gene the model knows */
} scd_classified;
typedef scd_code scd_classified_sink(void *arg, const scd_classified *cell, scd_error *err);

/* sink(arg, cell) for the next n cells of the feed, in its order. augment NULL: cells as measured;
 * else draws are numbered from first_draw. */
scd_code scd_classifier_run(scd_classifier *classifier, scd_feed *feed, size_t n,
                            const scd_augment_options *augment, uint64_t first_draw,
                            scd_classified_sink *sink, void *arg, scd_error *err);

#endif
