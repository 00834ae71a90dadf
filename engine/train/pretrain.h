/* pretrain.h - the parts of `scdiva-train pretrain`; only pretrain*.c include it.
 *
 *   pretrain.c         the verb: run, checkpoints, signals
 *   pretrain_options.c options, and what they come to
 *   pretrain_setup.c   data, genes, entropies, split, model
 *   pretrain_step.c    one global batch: corruption, micro-batches, update
 *   pretrain_eval.c    held-out cells, and the baselines beside them
 *   pretrain_write.c   the output directory
 *
 * Threads: main. Owns: a run owns everything in it, until scd_pretrain_release. */
#ifndef SCD_TRAIN_PRETRAIN_H
#define SCD_TRAIN_PRETRAIN_H

#include "engine/train/augment.h"
#include "engine/train/corrupt.h"
#include "engine/train/feed.h"
#include "engine/train/net.h"
#include "engine/train/options.h"
#include "engine/train/pack.h"
#include "engine/train/progress.h"

enum { SCD_PRETRAIN_RATES = 3, SCD_PRETRAIN_MAX_OPTIONS = 80 };
extern const double scd_pretrain_rates[SCD_PRETRAIN_RATES]; /* 0.15, 0.5, 0.9 */

typedef enum scd_pretrain_order {
    SCD_ORDER_ENTROPY,
    SCD_ORDER_EXPRESSION,
    SCD_ORDER_RANDOM
} scd_pretrain_order;

/* As given; texts that name a choice are read into scd_pretrain. */
typedef struct scd_pretrain_options {
    scd_option_list data;
    const char *out, *exclude, *matrix, *gene_column, *genes, *extra_genes_column, *gene_table;
    const char *init, *init_embedding, *held_out_column;
    const char *pooling; /* NULL until it is known: that of --init, else visible */
    const char *order, *dtype, *device;
    size_t hidden, dim, layers, heads, ffn, max_genes; /* 0: the default, or those of --init */
    uint64_t seed;
    double epochs, held_out, min_mapped;
    size_t steps, batch, micro_rows, eval_cells, threads, eval_every, checkpoint_steps;
    double checkpoint_seconds;
    double lr, warmup, decay, clip, beta1, beta2, value_weight;
    double depth_min, value_only;
    scd_augment_options augment;
    bool no_latent, force;
} scd_pretrain_options;

/* Sums over M of a step, or of several. */
typedef struct scd_pretrain_sums {
    double gene, value, norm; /* losses over M; norms of the gradients over steps */
    double n_gene, n_value, n_right, n_steps, n_tokens;
} scd_pretrain_sums;

/* One masking rate on the held-out cells. */
typedef struct scd_pretrain_score {
    double accuracy, mse, gene_loss;
    double base_accuracy, base_mse; /* the most frequent gene; the mean of each gene */
    size_t n;                       /* hidden tokens */
} scd_pretrain_score;

typedef struct scd_pretrain {
    scd_pretrain_options o;
    scd_option table[SCD_PRETRAIN_MAX_OPTIONS];
    size_t n_table;
    scd_pretrain_order order;
    scd_dtype dtype;
    int dir_lock;

    scd_corpus *corpus;
    scd_vocab *bound, *vocab; /* before and after the entropies were fitted */
    scd_buf genes;            /* genes.tsv as it will be written */
    scd_model_config config;
    scd_model *start;  /* --init, while it is loaded */
    uint8_t *keep;     /* (cells) training cells */
    uint8_t *held_out; /* (cells) */
    size_t n_cells, n_train, n_held_out;
    scd_digest fingerprint;

    const scd_backend *be;
    scd_device *device;
    scd_net *net;
    scd_pack *pack;
    scd_feed *feed;

    uint64_t n_steps, warmup_steps, step, drawn; /* drawn: cells */
    scd_pretrain_sums window;                    /* since the last row of the log */
    scd_progress *progress;

    scd_arena eval_arena;
    scd_clean_cell *eval_cells; /* (n_eval) */
    uint64_t *eval_draws;       /* (n_eval) number of the cell in the corpus */
    size_t n_eval;
    int32_t frequent;  /* expressed by most training cells */
    float *gene_means; /* (vocab) over the training cells that express it */
    double mean_value; /* over all tokens of the training cells */
    size_t n_baseline; /* training cells that these come from */
} scd_pretrain;

/* pretrain_options.c: 0, SCD_EXIT_* or -1 (help was printed). */
int scd_pretrain_read_options(scd_pretrain *run, int argc, char **argv);

/* pretrain_setup.c: everything up to step 0. Lines for people go to standard error. */
scd_code scd_pretrain_set_up(scd_pretrain *run, scd_error *err);
void scd_pretrain_release(scd_pretrain *run);

/* pretrain_step.c: the next step; what it did is added to *sums. */
scd_code scd_pretrain_step(scd_pretrain *run, scd_pretrain_sums *sums, scd_error *err);

/* pretrain_eval.c: fit the baselines, choose cells; then evaluate as often as wanted. */
scd_code scd_pretrain_fit_baselines(scd_pretrain *run, scd_error *err);
scd_code scd_pretrain_choose_cells(scd_pretrain *run, scd_error *err);
scd_code scd_pretrain_eval(scd_pretrain *run, scd_pretrain_score scores[SCD_PRETRAIN_RATES],
                           scd_error *err);

/* pretrain_write.c */
scd_code scd_pretrain_open_dir(scd_pretrain *run, scd_error *err);
scd_code scd_pretrain_load(scd_pretrain *run,
                           scd_error *err); /* a checkpoint, where there is one */
scd_code scd_pretrain_save(scd_pretrain *run, scd_error *err); /* a checkpoint */
scd_code scd_pretrain_write_model(scd_pretrain *run, const scd_pretrain_score *scores,
                                  scd_error *err);

#endif
