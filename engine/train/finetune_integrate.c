/* finetune_integrate.c - scdiva-train finetune integration: a model whose embeddings forget which
 * batch a cell came from.
 *
 * The encoder goes on learning to reconstruct, so that it stays a model of cells; a discriminator
 * that names the batch has its gradient reversed; and a contrastive loss keeps like cells together,
 * by labels where there are any. All of the encoder moves, so what comes out is a new model.
 *
 * Threads: main and the device's. Owns: everything of the run. */
#include "engine/train/finetune_integrate.h"

#include "engine/train/device.h"
#include "engine/train/head_dir.h"
#include "engine/train/option_rows.h"
#include "engine/train/progress.h"
#include "engine/train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options --------------------------------------------------------------------------------- */

static const scd_integrate_options defaults = {
    .genes = "shared",
    .min_mapped = 0.5,
    .mlp_dim = 128,
    .adversary_steps = 5,
    .epochs = 20,
    .batch = 64,
    .lr = 2e-4,
    .adversary_lr = 1e-3,
    .warmup = 0.05,
    .decay = 0.01,
    .clip = 1,
    .reconstruction = 0.1,
    .value_weight = 10,
    .adversary = 1,
    .contrast = 1,
    .temperature = 0.1,
    .mask_max = 0.5,
    .report_cells = 1000,
    .micro_rows = 8192,
    .dtype = "f32",
    .augment = {.thin_min = 0.3, .panel_min = 0.2, .subset_min = 0.5},
};

enum { MAX_OPTIONS = 48 };

static size_t option_table(scd_integrate_options *o, scd_option table[MAX_OPTIONS])
{
    const scd_option all[] = {
        {"model", SCD_OPTION_TEXT, &o->model, "DIR", "the model to begin with", 0, 0, true, true},
        {"out", SCD_OPTION_TEXT, &o->out, "DIR", "the new model; must not be there", 0, 0, true,
         true},
        {"data", SCD_OPTION_LIST, &o->data, "FILE", "an .h5ad file; may be given several times", 0,
         0, false, true},
        HEADING("cells:"),
        TEXT("batch-column", batch_column, "COLUMN", "of obs; absent: each file is a batch"),
        TEXT("label-column", label_column, "COLUMN", "of obs: types to keep together"),
        TEXT("labels", labels, "FILE", "or a table: barcode, file and one column per label"),
        TEXT("exclude", exclude, "FILE", "cells to leave out: barcode, or file<TAB>barcode"),
        TEXT("matrix", matrix, "NAME", "X, raw/X or layers/NAME; absent: by evidence"),
        TEXT("gene-column", gene_column, "COLUMN", "of var; absent: by evidence"),
        TEXT("genes", genes, "WHICH",
             "the new model uses: those that all files measure, shared; or all"),
        NUMBER("min-mapped", min_mapped, "share of a file's counts on known genes, at least", 0, 1),
        HEADING("losses:"),
        NUMBER("reconstruction", reconstruction, "weight of the pre-training loss", 0, 1000),
        NUMBER("value-weight", value_weight, "of values beside genes in it", 0, 1000),
        NUMBER("mask-max", mask_max, "tokens of a cell are hidden up to this share", 0.01, 1),
        NUMBER("adversary", adversary, "weight of the reversed gradient", 0, 1000),
        COUNT("mlp", mlp_dim, "width of the discriminator", 1, 65536),
        COUNT("adversary-steps", adversary_steps, "of the discriminator for each of the encoder", 1,
              1000),
        NUMBER("contrast", contrast, "weight of the contrastive loss", 0, 1000),
        NUMBER("temperature", temperature, "of the contrastive loss", 0.01, 10),
        HEADING("learning:"),
        COUNT("epochs", epochs, "over the cells", 1, 100000),
        COUNT("batch", batch, "cells of a step", 2, 65536),
        NUMBER("lr", lr, "peak learning rate of the encoder", 0, 1),
        NUMBER("adversary-lr", adversary_lr, "and of the discriminator", 0, 1),
        NUMBER("warmup", warmup, "share of the steps", 0, 1),
        NUMBER("decay", decay, "AdamW's weight decay", 0, 1),
        NUMBER("clip", clip, "largest norm of the encoder's gradient; 0: no bound", 0, 1e6),
        {"seed", SCD_OPTION_SEED, &o->seed, "N", "fixes the run", 0, 0, false, false},
        HEADING("augmentation (shares are probabilities per view):"),
        NUMBER("thin-share", augment.thin_share, "binomial thinning", 0, 1),
        NUMBER("thin-min", augment.thin_min, "down to this fraction", 0.001, 1),
        NUMBER("panel-share", augment.panel_share, "a panel of the genes", 0, 1),
        NUMBER("panel-min", augment.panel_min, "of at least this fraction", 0.001, 1),
        NUMBER("subset-share", augment.subset_share, "a subset of the expressed genes", 0, 1),
        NUMBER("subset-min", augment.subset_min, "of at least this fraction", 0.001, 1),
        COUNT("max-tokens", augment.max_tokens, "tokens of a view; 0: all, as cells are served", 0,
              65536),
        HEADING("running:"),
        {"device", SCD_OPTION_TEXT, &o->device, "DEVICE", SCD_TRAIN_DEVICE_HELP, 0, 0, true, false},
        {"threads", SCD_OPTION_COUNT, &o->threads, "N", "0: one per core", 0, 512, true, false},
        COUNT("micro-rows", micro_rows, "rows of a micro-batch: memory", 64, 1u << 24),
        COUNT("report-cells", report_cells, "cells whose neighbours are looked at; 0: none", 0,
              20000),
        TEXT("dtype", dtype, "T", "of the new model: f32 or bf16"),
    };
    memcpy(table, all, sizeof all);
    _Static_assert(sizeof all / sizeof all[0] <= MAX_OPTIONS, "room for all options");
    return sizeof all / sizeof all[0];
}

static scd_code check(const scd_integrate_options *o, scd_error *err)
{
    if (o->labels && o->label_column)
        return scd_fail(err, SCD_E_INVALID, "--labels and --label-column: give one of them");
    if (strcmp(o->dtype, "f32") && strcmp(o->dtype, "bf16"))
        return scd_fail(err, SCD_E_INVALID, "--dtype %s: must be f32 or bf16", o->dtype);
    if (strcmp(o->genes, "shared") && strcmp(o->genes, "all"))
        return scd_fail(err, SCD_E_INVALID, "--genes %s: must be shared or all", o->genes);
    return scd_augment_check(&o->augment, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

static scd_code open_data(scd_integrate *run, scd_error *err)
{
    const scd_integrate_options *o = run->o;
    const scd_corpus_options corpus = {.paths = o->data.items,
                                       .n_paths = o->data.n,
                                       .matrix = o->matrix,
                                       .gene_column = o->gene_column,
                                       .exclude = o->exclude};
    scd_code code = scd_corpus_open(&corpus, &run->corpus, err);
    if (!code)
        code = scd_corpus_bind(run->corpus, scd_model_vocab(run->model), 0, err);
    if (!code)
        code = scd_corpus_check_mapped(run->corpus, o->min_mapped, err);
    return code ? code : scd_integrate_read(run, err);
}

static void say_data(const scd_integrate *run)
{
    for (size_t f = 0; f < scd_corpus_n_files(run->corpus); f++)
        printf("%s: %s\n", scd_corpus_file_name(run->corpus, f), scd_corpus_why(run->corpus, f));
    if (run->used) {
        printf("%zu genes are measured by all files and used; they hold", run->n_used);
        for (size_t f = 0; f < scd_corpus_n_files(run->corpus); f++)
            printf("%s %.0f %%", f ? "," : "", 100 * run->on_used[f]);
        printf(" of the known counts\n");
    }
    printf("%zu cells to train on, %zu batches, ", run->n_train, run->batches.n_values);
    if (run->labels.n_classes)
        printf("with %zu labels\n", run->labels.n_classes);
    else
        printf("without labels\n");
    if (run->n_no_batch)
        printf("%zu cells have no batch: left out\n", run->n_no_batch);
    if (run->n_unknown)
        printf("%zu cells have no gene that the model uses: left out\n", run->n_unknown);
    if (run->n_one_batch)
        printf("%zu cells have a label that one batch alone has: not shown to the discriminator\n",
               run->n_one_batch);
    fflush(stdout);
}

/* Everything that fixes the run: options, model, cells. */
static scd_code fingerprint(scd_integrate *run, const scd_option *table, size_t n, scd_error *err)
{
    scd_digest digest, data;
    scd_code code = scd_model_digest(run->model, &digest, err);
    if (!code)
        code = scd_corpus_digest(run->corpus, &data, err);
    scd_hasher *hasher = code ? NULL : scd_hasher_new();
    if (code)
        return code;
    if (!hasher)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_digest_hex(&digest, run->model_digest);
    scd_options_hash(table, n, hasher);
    scd_hasher_add_text(hasher, "finetune integration");
    scd_hasher_add_text(hasher, run->model_digest);
    scd_hasher_add_field(hasher, data.bytes, sizeof data.bytes);
    scd_hasher_add_field(hasher, run->batches.codes, run->n_cells * sizeof *run->batches.codes);
    scd_hasher_add_field(hasher, run->keep, run->n_cells);
    if (run->labels.n_classes)
        scd_hasher_add_field(hasher, run->labels.best, run->n_cells * sizeof *run->labels.best);
    run->fingerprint = scd_hasher_finish(hasher);
    scd_hasher_free(hasher);
    return SCD_OK;
}

static scd_code open_net(scd_integrate *run, scd_error *err)
{
    const scd_integrate_options *o = run->o;
    const scd_feed_options feed = {.seed = o->seed, .keep = run->keep, .shuffle = true};
    const scd_classifier_options classifier = {.classes = run->batches.n_values,
                                               .mlp_dim = o->mlp_dim,
                                               .micro_rows = o->micro_rows,
                                               .device = o->device,
                                               .threads = o->threads,
                                               .config = &run->config};
    scd_code code = scd_classifier_open(run->model, &classifier, &run->c, err);
    run->c.genes = run->used;
    return code ? code : scd_feed_new(run->corpus, &feed, &run->feed, err);
}

static scd_code run_all(scd_integrate *run, const scd_option *table, size_t n, scd_error *err)
{
    scd_code code = scd_model_dir_name(run->o->out, &run->dir, err);
    if (!code)
        code = scd_model_open(run->o->model, &run->model, err);
    if (!code)
        code = open_data(run, err);
    if (code)
        return code;
    run->config = *scd_model_get_config(run->model);
    run->config.latent_visible = true; /* what is hidden is not told to [LAT] */
    run->config.trained = true;
    if (!code)
        code = scd_model_dir_open(&run->dir, err);
    if (code)
        return code;
    run->checkpoint_path = scd_path_join(run->dir.hidden, "checkpoint.bin", "");
    if (!run->checkpoint_path)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    say_data(run);
    code = fingerprint(run, table, n, err);
    if (!code)
        code = open_net(run, err);
    if (!code)
        code = scd_integrate_look(run, &run->before, err);
    if (!code)
        code = scd_integrate_train(run, err);
    if (!code)
        code = scd_integrate_look(run, &run->after, err);
    return code ? code : scd_integrate_write(run, err);
}

static void run_release(scd_integrate *run)
{
    scd_feed_free(run->feed);
    scd_classifier_close(&run->c);
    scd_labels_release(&run->labels);
    scd_corpus_column_release(&run->batches);
    scd_corpus_free(run->corpus);
    scd_model_close(run->model);
    scd_model_dir_release(&run->dir);
    free(run->checkpoint_path);
    free(run->weights);
    free(run->on_used);
    free(run->used);
    free(run->keep);
}

int scd_train_finetune_integrate(int argc, char **argv)
{
    scd_integrate_options o = defaults;
    scd_option table[MAX_OPTIONS];
    size_t n = option_table(&o, table);
    scd_error err = {0};
    scd_buf recipe;
    int status = scd_options_read("finetune integration",
                                  "Train a model whose embeddings are free of batch effects.",
                                  table, n, argc, argv);
    if (status) {
        free(o.data.items);
        return status < 0 ? SCD_EXIT_OK : status;
    }
    o.augment.seed = o.seed;
    scd_buf_init(&recipe, 1u << 20);
    scd_buf_puts(&recipe, "scdiva-train finetune integration");
    scd_options_recipe(table, n, &recipe);
    scd_integrate run = {.o = &o, .recipe = recipe.data, .dir = {.lock = -1}};
    scd_stop_on_signals();
    scd_code code = check(&o, &err);
    status = code ? SCD_EXIT_USAGE : SCD_EXIT_OK;
    if (!code && recipe.failed)
        code = scd_fail(&err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = run_all(&run, table, n, &err);
    if (code && !status)
        status = SCD_EXIT_FAILED;
    if (code)
        fprintf(stderr, "scdiva-train finetune integration: %s\n", err.message);
    run_release(&run);
    scd_buf_release(&recipe);
    free(o.data.items);
    return status;
}
