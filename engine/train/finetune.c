/* finetune.c - scdiva-train finetune annotation: a head that names cell types.
 *
 * An MLP on the cell embedding learns labels, with the backbone frozen or trained along. Cells are
 * augmented so that other depths and gene panels are no surprise; early stop, calibration and
 * threshold use cells that training never saw.
 *
 * Threads: main and the device's. Owns: everything of the run. */
#include "engine/train/device.h"
#include "engine/train/finetune.h"

#include "engine/train/finetune_integrate.h"
#include "engine/train/finetune_perturb.h"

#include "engine/train/option_rows.h"
#include "engine/train/progress.h"
#include "engine/train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options --------------------------------------------------------------------------------- */

static const scd_finetune_options defaults = {
    .name = "annotation",
    .split = "group",
    .held_out = 0.1,
    .train_layers = 4,
    .mlp_dim = 256,
    .epochs = 30,
    .patience = 6,
    .batch = 64,
    .lr = 1e-3,
    .backbone_lr = 5e-4,
    .gene_lr = 0.05,
    .warmup = 0.05,
    .decay = 0.01,
    .clip = 1,
    .beta1 = 0.9,
    .beta2 = 0.999,
    .class_power = 0.5,
    .precision = 0.9,
    .min_mapped = 0.5,
    .calibrate_copies = 3,
    .micro_rows = 8192,
    .dtype = "bf16",
    .augment = {.sum_max = 6,
                .thin_min = 0.1,
                .panel_min = 0.2,
                .panel_total = 0.5,
                .scale = 2,
                .subset_min = 0.3},
};

enum { MAX_OPTIONS = 64 };

static size_t option_table(scd_finetune_options *o, scd_option table[MAX_OPTIONS])
{
    const scd_option all[] = {
        {"model", SCD_OPTION_TEXT, &o->model, "DIR", "the model; the head goes to DIR/heads/NAME",
         0, 0, true, true},
        {"data", SCD_OPTION_LIST, &o->data, "FILE", "an .h5ad file; may be given several times", 0,
         0, false, true},
        TEXT("name", name, "NAME", "of the head"),
        {"force", SCD_OPTION_FLAG, &o->force, NULL, "replace a head of this name", 0, 0, true, 0},
        HEADING("labels:"),
        TEXT("labels", labels, "FILE", "a table: barcode, file, group and one column per label"),
        TEXT("label-column", label_column, "COLUMN", "or a column of obs"),
        TEXT("ontology", ontology, "FILE", "label and Cell Ontology id, tab between"),
        TEXT("ontology-column", ontology_column, "COLUMN", "of obs, with the ids"),
        TEXT("exclude", exclude, "FILE", "cells to leave out: barcode, or file<TAB>barcode"),
        TEXT("matrix", matrix, "NAME", "X, raw/X or layers/NAME; absent: by evidence"),
        TEXT("gene-column", gene_column, "COLUMN", "of var; absent: by evidence"),
        NUMBER("min-mapped", min_mapped, "share of a file's counts on known genes, at least", 0, 1),
        HEADING("split:"),
        TEXT("group-column", group_column, "COLUMN", "of obs: donor or batch, never torn apart"),
        TEXT("split", split, "KIND", "by group (where there are groups) or by cell"),
        NUMBER("held-out", held_out, "share of cells held out", 0.001, 0.9),
        {"held-out-group", SCD_OPTION_LIST, &o->held_out_groups, "G", "these alone", 0, 0, 0, 0},
        HEADING("learning:"),
        COUNT("train-layers", train_layers, "last layers trained; 0: frozen backbone", 0, 1024),
        COUNT("mlp", mlp_dim, "width of the head", 1, 65536),
        COUNT("epochs", epochs, "at most", 1, 100000),
        COUNT("patience", patience,
              "epochs without a better macro-F1 that end the run; 0: all, and the last is kept", 0,
              100000),
        COUNT("batch", batch, "cells of a step", 1, 65536),
        NUMBER("lr", lr, "peak learning rate of the head", 0, 1),
        NUMBER("backbone-lr", backbone_lr, "and of the backbone", 0, 1),
        NUMBER("gene-lr", gene_lr, "of the linear half over the genes; 0: a head without", 0, 10),
        NUMBER("warmup", warmup, "share of the steps", 0, 1),
        NUMBER("decay", decay, "AdamW's weight decay", 0, 1),
        NUMBER("clip", clip, "largest norm of the gradient; 0: no bound", 0, 1e6),
        NUMBER("beta1", beta1, "AdamW", 0, 0.9999),
        NUMBER("beta2", beta2, "AdamW", 0, 0.99999),
        NUMBER("class-weight", class_power, "power of the inverse class frequency", 0, 1),
        NUMBER("file-weight", file_power, "power of the inverse file size", 0, 1),
        NUMBER("smoothing", label_smoothing, "label smoothing of the network", 0, 0.5),
        NUMBER("average", average, "share of the steps, the last ones, whose mean weights are kept",
               0, 1),
        {"seed", SCD_OPTION_SEED, &o->seed, "N", "fixes the run", 0, 0, false, false},
        HEADING("augmentation (shares are probabilities per cell):"),
        NUMBER("sum-share", augment.sum_share, "sum several cells of a kind", 0, 1),
        COUNT("sum-max", augment.sum_max, "at most so many", 2, 64),
        NUMBER("thin-share", augment.thin_share, "binomial thinning", 0, 1),
        NUMBER("thin-min", augment.thin_min, "down to this fraction", 0.001, 1),
        NUMBER("gene-sigma", augment.gene_sigma, "log-normal gene effects", 0, 4),
        NUMBER("panel-share", augment.panel_share, "a panel of the genes", 0, 1),
        NUMBER("panel-min", augment.panel_min, "of at least this fraction", 0.001, 1),
        NUMBER("panel-top", augment.panel_top, "without the genes expressed most", 0, 1),
        NUMBER("panel-total", augment.panel_total, "total recomputed on the panel", 0, 1),
        NUMBER("scale-share", augment.scale_share, "shift the values' scale", 0, 1),
        NUMBER("scale", augment.scale, "by at most this factor", 1, 1000),
        NUMBER("subset-share", augment.subset_share, "a subset of the expressed genes", 0, 1),
        NUMBER("subset-min", augment.subset_min, "of at least this fraction", 0.001, 1),
        COUNT("max-tokens", augment.max_tokens, "tokens of a cell; 0: the model's", 0, 65536),
        HEADING("calibration:"),
        COUNT("calibrate-copies", calibrate_copies, "of held-out cells, augmented", 0, 64),
        NUMBER("precision", precision, "of labels above the threshold", 0, 1),
        HEADING("running:"),
        {"device", SCD_OPTION_TEXT, &o->device, "DEVICE", SCD_TRAIN_DEVICE_HELP, 0, 0, true, false},
        {"threads", SCD_OPTION_COUNT, &o->threads, "N", "0: one per core", 0, 512, true, false},
        COUNT("micro-rows", micro_rows, "rows of a micro-batch: memory", 64, 1u << 24),
        TEXT("dtype", dtype, "T", "of backbone tensors in the head: f32 or bf16"),
    };
    memcpy(table, all, sizeof all);
    _Static_assert(sizeof all / sizeof all[0] <= MAX_OPTIONS, "room for all options");
    return sizeof all / sizeof all[0];
}

static scd_code check(const scd_finetune_options *o, scd_error *err)
{
    if (!o->labels == !o->label_column)
        return scd_fail(err, SCD_E_INVALID, "one of --labels and --label-column must be given");
    if (o->labels && (o->ontology_column || o->group_column))
        return scd_fail(err, SCD_E_INVALID,
                        "--ontology-column and --group-column belong to --label-column; a table "
                        "has a column `group`, and --ontology FILE");
    if (o->label_column && o->ontology)
        return scd_fail(err, SCD_E_INVALID,
                        "--ontology FILE belongs to --labels; with --label-column give "
                        "--ontology-column");
    if (strcmp(o->split, "group") && strcmp(o->split, "cell"))
        return scd_fail(err, SCD_E_INVALID, "--split %s: must be group or cell", o->split);
    if (o->average > 0 && o->patience)
        return scd_fail(err, SCD_E_INVALID,
                        "--average keeps a mean of the last steps, --patience the best epoch: give "
                        "--patience 0 with it");
    if (strcmp(o->dtype, "f32") && strcmp(o->dtype, "bf16"))
        return scd_fail(err, SCD_E_INVALID, "--dtype %s: must be f32 or bf16", o->dtype);
    scd_code code = scd_head_name_check(o->name, err);
    return code ? code : scd_augment_check(&o->augment, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

static scd_code open_data(scd_finetune *run, scd_error *err)
{
    const scd_finetune_options *o = run->o;
    scd_corpus_options corpus = {.paths = o->data.items,
                                 .n_paths = o->data.n,
                                 .matrix = o->matrix,
                                 .gene_column = o->gene_column,
                                 .exclude = o->exclude};
    scd_code code = scd_corpus_open(&corpus, &run->corpus, err);
    if (!code)
        code = scd_corpus_bind(run->corpus, scd_model_vocab(run->model), 0, err);
    if (!code)
        code = scd_corpus_check_mapped(run->corpus, o->min_mapped, err);
    if (!code && o->labels)
        code = scd_labels_from_table(run->corpus, o->labels, o->ontology, &run->labels, err);
    else if (!code)
        code = scd_labels_from_column(run->corpus, o->label_column, o->ontology_column,
                                      o->group_column, &run->labels, err);
    return code ? code : scd_finetune_split(run, err);
}

static scd_code open_feeds(scd_finetune *run, scd_error *err)
{
    scd_feed_options train = {.seed = run->o->seed, .keep = run->train, .shuffle = true};
    scd_feed_options held = {.keep = run->held};
    scd_code code = scd_feed_new(run->corpus, &train, &run->feed, err);
    return code ? code : scd_feed_new(run->corpus, &held, &run->held_feed, err);
}

/* Everything that fixes the run: options, model, cells. */
static scd_code fingerprint(scd_finetune *run, const scd_option *table, size_t n, scd_error *err)
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
    scd_hasher_add_text(hasher, "finetune annotation");
    scd_hasher_add_text(hasher, run->model_digest);
    scd_hasher_add_field(hasher, data.bytes, sizeof data.bytes);
    scd_hasher_add_field(hasher, run->labels.targets,
                         run->labels.n_cells * run->labels.n_classes * sizeof(float));
    scd_hasher_add_field(hasher, run->train, run->labels.n_cells);
    run->fingerprint = scd_hasher_finish(hasher);
    scd_hasher_free(hasher);
    return SCD_OK;
}

static void say_data(const scd_finetune *run)
{
    for (size_t f = 0; f < scd_corpus_n_files(run->corpus); f++)
        printf("%s: %s\n", scd_corpus_file_name(run->corpus, f), scd_corpus_why(run->corpus, f));
    printf("%zu cells, %zu to train on, %zu held out (%s), %zu labels\n", run->labels.n_cells,
           run->n_train, run->n_held, run->by_group ? "whole groups" : "cell by cell",
           run->labels.n_classes);
    if (run->labels.n_other_files || run->labels.n_left_out)
        printf("%s: %zu rows about files not given, %zu about cells left out: skipped\n",
               run->o->labels, run->labels.n_other_files, run->labels.n_left_out);
    if (run->n_unknown)
        printf("%zu labelled cells have no gene that the model knows: left out\n", run->n_unknown);
    fflush(stdout);
}

static scd_code run_all(scd_finetune *run, const scd_option *table, size_t n, scd_error *err)
{
    const scd_finetune_options *o = run->o;
    scd_code code = scd_model_open(o->model, &run->model, err);
    if (!code)
        code = scd_head_dir_name(o->model, o->name, o->force, &run->dir, err);
    if (!code)
        code = open_data(run, err);
    if (!code)
        code = scd_finetune_weigh(run, err);
    if (!code)
        code = scd_head_dir_open(&run->dir, o->model, err);
    if (code)
        return code;
    run->checkpoint_path = scd_path_join(run->dir.hidden, "checkpoint.bin", "");
    if (!run->checkpoint_path)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    say_data(run);
    size_t layers = scd_model_get_config(run->model)->n_layers;
    run->frozen = !o->train_layers;
    run->first_layer = o->train_layers >= layers ? 0 : layers - o->train_layers;
    const scd_classifier_options classifier = {.classes = run->labels.n_classes,
                                               .mlp_dim = o->mlp_dim,
                                               .has_genes = o->gene_lr > 0,
                                               .micro_rows = o->micro_rows,
                                               .device = o->device,
                                               .threads = o->threads};
    code = scd_classifier_open(run->model, &classifier, &run->c, err);
    run->c.genes = run->measured; /* held-out cells are read as the head's users will be */
    if (!code)
        code = fingerprint(run, table, n, err);
    if (!code)
        code = open_feeds(run, err);
    if (!code)
        code = scd_finetune_train(run, err);
    return code ? code : scd_finetune_write(run, err);
}

static void run_release(scd_finetune *run)
{
    scd_feed_free(run->feed);
    scd_feed_free(run->held_feed);
    scd_classifier_close(&run->c);
    scd_labels_release(&run->labels);
    scd_corpus_free(run->corpus);
    scd_model_close(run->model);
    free(run->train);
    free(run->held);
    free(run->weights);
    free(run->gene_rank);
    free(run->gene_level);
    free(run->measured);
    scd_head_dir_release(&run->dir);
    free(run->checkpoint_path);
    for (size_t i = 0; i < SCD_PARTS; i++) {
        free(run->parts[i].best);
        free(run->parts[i].now);
    }
}

static int finetune_annotation(int argc, char **argv)
{
    scd_finetune_options o = defaults;
    scd_option table[MAX_OPTIONS];
    size_t n = option_table(&o, table);
    scd_error err = {0};
    scd_buf recipe;
    int status = scd_options_read("finetune annotation", "Train a head that names cell types.",
                                  table, n, argc, argv);
    if (status) {
        free(o.data.items);
        free(o.held_out_groups.items);
        return status < 0 ? SCD_EXIT_OK : status;
    }
    scd_buf_init(&recipe, 1u << 20);
    scd_buf_puts(&recipe, "scdiva-train finetune annotation");
    scd_options_recipe(table, n, &recipe);
    scd_finetune run = {.o = &o, .recipe = recipe.data, .dir = {.lock = -1}};
    scd_stop_on_signals();
    scd_code code = check(&o, &err);
    status = code ? SCD_EXIT_USAGE : SCD_EXIT_OK;
    if (!code && (code = run_all(&run, table, n, &err)))
        status = SCD_EXIT_FAILED;
    if (code)
        fprintf(stderr, "scdiva-train finetune: %s\n", err.message);
    run_release(&run);
    scd_buf_release(&recipe);
    free(o.data.items);
    free(o.held_out_groups.items);
    return status;
}

int scd_train_finetune(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "annotation"))
        return finetune_annotation(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "perturbation"))
        return scd_train_finetune_perturb(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "integration"))
        return scd_train_finetune_integrate(argc - 1, argv + 1);
    bool help = argc > 1 && !strncmp(argv[1], "--h", 3);
    fputs("usage: scdiva-train finetune TASK OPTIONS\n\n"
          "  annotation     a head that names cell types\n"
          "  perturbation   a head that predicts the response to perturbed genes\n"
          "  integration    a model whose embeddings are corrected for batches\n\n"
          "  scdiva-train finetune TASK --help   the options of a task\n",
          help ? stdout : stderr);
    return help ? SCD_EXIT_OK : SCD_EXIT_USAGE;
}
