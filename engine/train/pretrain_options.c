/* pretrain_options.c - the options of pretrain, and what they come to. */
#include "engine/train/device.h"
#include "engine/train/option_rows.h"
#include "engine/train/pretrain.h"
#include "engine/train/train.h"

#include <stdio.h>
#include <string.h>

static const char summary[] =
    "Pre-train a model on .h5ad files by masked diffusion: a share t ~ U(0, 1) of each cell's "
    "genes\n"
    "is hidden, and the model learns to name them and their values. The same options and files "
    "give\n"
    "the same bytes with any number of threads. Ctrl-C writes a checkpoint; the same command goes "
    "on\n"
    "from there. DIR/train.csv is the log; DIR becomes a model when the run is complete.";

static const scd_pretrain_options defaults = {
    .order = "entropy",
    .dtype = "f32",
    .init_embedding = "random",
    .epochs = 20,
    .held_out = 0.05,
    .min_mapped = 0.5,
    .batch = 64,
    .micro_rows = 4096,
    .eval_cells = 256,
    .checkpoint_seconds = 300,
    .lr = 1e-3,
    .warmup = 0.05,
    .decay = 0.05,
    .clip = 1,
    .beta1 = 0.9,
    .beta2 = 0.98,
    .value_weight = 10,
    .depth_min = 0.25,
    .augment = {.panel_min = 0.2,
                .panel_total = 0.5,
                .thin_min = 0.1,
                .scale = 2,
                .subset_min = 0.3,
                .sum_max = 2},
};

enum { HIDDEN = 128, LAYERS = 4, HEADS = 4, FFN = 512, MAX_GENES = 1200 };

static size_t fill_table(scd_pretrain_options *o, scd_option *table)
{
    const scd_option all[] = {
        {"data", SCD_OPTION_LIST, &o->data, "FILE", "an .h5ad file; may be given several times", 0,
         0, false, true},
        {"out", SCD_OPTION_TEXT, &o->out, "DIR", "where to; made if it is not there", 0, 0, true,
         true},
        {"force", SCD_OPTION_FLAG, &o->force, NULL,
         "replace a finished model in DIR; its heads go too", 0, 0, true, false},
        HEADING("data:"),
        TEXT("exclude", exclude, "FILE", "cells to leave out: barcode, or file<TAB>barcode"),
        TEXT("matrix", matrix, "NAME", "X, raw/X or layers/NAME; absent: by evidence"),
        TEXT("gene-column", gene_column, "COLUMN", "of var; absent: by evidence"),
        TEXT("genes", genes, "FILE", "genes.tsv; absent: the union of the files' genes"),
        TEXT("extra-genes-column", extra_genes_column, "COLUMN",
             "of obs: its symbols (\"A+B\") join the union"),
        TEXT("gene-table", gene_table, "FILE", "Ensembl ids of symbols, as CSV"),
        NUMBER("min-mapped", min_mapped, "share of each file's genes that must be known", 0, 1),
        NUMBER("held-out", held_out, "share of the cells kept for evaluation", 0, 0.9),
        TEXT("held-out-column", held_out_column, "COLUMN=VALUE", "these cells instead"),
        HEADING("model (sizes are those of --init where it is given):"),
        TEXT("init", init, "DIR", "start from this model, its genes and entropies"),
        COUNT("hidden", hidden, "width of the transformer; 0: 128", 0, 1 << 16),
        COUNT("dim", dim, "width of the gene embedding; 0: --hidden", 0, 1 << 16),
        COUNT("layers", layers, "0: 4", 0, 1 << 10),
        COUNT("heads", heads, "0: 4", 0, 1 << 10),
        COUNT("ffn", ffn, "inner width of the feed-forward part; 0: 512", 0, 1 << 20),
        COUNT("max-genes", max_genes, "gene tokens per cell at most; 0: 1200", 0, 1 << 20),
        TEXT("pooling", pooling, "P",
             "what [LAT] sees in training: clean or visible; absent: as --init, else visible"),
        {"no-latent", SCD_OPTION_FLAG, &o->no_latent, NULL, "ablation: [LAT] starts from nothing",
         0, 0, false, false},
        TEXT("order", order, "O", "of a cell's tokens: entropy, expression or random"),
        TEXT("init-embedding", init_embedding, "E", "of genes: random, or svd (co-expression)"),
        TEXT("dtype", dtype, "T", "of the weights in the file: f32, bf16 or f16"),
        HEADING("objective:"),
        NUMBER("depth-min", depth_min, "values are rescaled by s ~ U(this, 1)", 0.001, 1),
        NUMBER("value-only-share", value_only, "of the hidden tokens, only the value is", 0, 0.9),
        NUMBER("value-weight", value_weight, "of the values' loss beside the genes'", 0, 1e6),
        NUMBER("panel-share", augment.panel_share, "of the cells, seen through a gene panel", 0, 1),
        NUMBER("panel-min", augment.panel_min, "of at least this share of all genes", 0.001, 1),
        NUMBER("subset-share", augment.subset_share, "of the cells, a subset of their genes", 0, 1),
        NUMBER("subset-min", augment.subset_min, "of at least this share of them", 0.001, 1),
        NUMBER("thin-share", augment.thin_share, "of the cells, binomially thinned", 0, 1),
        NUMBER("thin-min", augment.thin_min, "to at least this share of the counts", 0.001, 1),
        COUNT("max-tokens", augment.max_tokens, "of a cell, at random; 0: all", 0, 1 << 20),
        HEADING("learning:"),
        NUMBER("epochs", epochs, "passes over the training cells", 0, 1e6),
        COUNT("steps", steps, "instead of --epochs", 0, 1e12),
        COUNT("batch", batch, "cells of a step", 1, 1 << 20),
        COUNT("micro-rows", micro_rows, "rows computed at once: memory", 16, 1 << 24),
        NUMBER("lr", lr, "peak of the learning rate", 0, 10),
        NUMBER("warmup", warmup, "share of the steps that climb to it; a cosine after", 0, 1),
        NUMBER("decay", decay, "AdamW's, of matrices", 0, 10),
        NUMBER("clip", clip, "largest norm of the gradient; 0: any", 0, 1e6),
        NUMBER("beta1", beta1, "AdamW", 0, 0.9999),
        NUMBER("beta2", beta2, "AdamW", 0, 0.99999),
        {"seed", SCD_OPTION_SEED, &o->seed, "N", "fixes the run", 0, 0, false, false},
        HEADING("running (changes nothing in the model but how another device rounds):"),
        {"device", SCD_OPTION_TEXT, &o->device, "DEVICE", SCD_TRAIN_DEVICE_HELP, 0, 0, true, false},
        {"threads", SCD_OPTION_COUNT, &o->threads, "N", "0: one per core", 0, 512, true, false},
        {"eval-every", SCD_OPTION_COUNT, &o->eval_every, "STEPS", "0: twenty times a run", 0, 1e12,
         true, false},
        {"eval-cells", SCD_OPTION_COUNT, &o->eval_cells, "N", "held-out", 1, 1e9, true, false},
        {"checkpoint-every", SCD_OPTION_NUMBER, &o->checkpoint_seconds, "SECONDS",
         "0: only at the end", 0, 1e9, true, false},
        {"checkpoint-steps", SCD_OPTION_COUNT, &o->checkpoint_steps, "STEPS", "besides; 0: never",
         0, 1e12, true, false},
    };
    _Static_assert(sizeof all / sizeof all[0] <= SCD_PRETRAIN_MAX_OPTIONS, "room for all options");
    memcpy(table, all, sizeof all);
    return sizeof all / sizeof all[0];
}

static int refuse(const char *name, const char *value, const char *must)
{
    fprintf(stderr,
            "scdiva-train pretrain: --%s %s: must be %s\n"
            "scdiva-train pretrain --help lists the options\n",
            name, value, must);
    return SCD_EXIT_USAGE;
}

/* The place of `text` in `words`, SIZE_MAX when it is none of them. */
static size_t choose(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(text, words[i]))
            return i;
    return SIZE_MAX;
}

static int read_choices(scd_pretrain *run)
{
    static const char *const orders[] = {"entropy", "expression", "random"};
    static const char *const dtypes[] = {"f32", "f16", "bf16"}; /* as in scd_dtype */
    static const char *const starts[] = {"random", "svd"};
    static const char *const poolings[] = {"clean", "visible"};
    enum { VISIBLE = 1 };
    const scd_pretrain_options *o = &run->o;
    size_t order = choose(o->order, orders, 3), dtype = choose(o->dtype, dtypes, 3);
    size_t pooling = o->pooling ? choose(o->pooling, poolings, 2) : VISIBLE;
    if (order == SIZE_MAX)
        return refuse("order", o->order, "entropy, expression or random");
    if (dtype == SIZE_MAX)
        return refuse("dtype", o->dtype, "f32, bf16 or f16");
    if (pooling == SIZE_MAX)
        return refuse("pooling", o->pooling, "clean or visible");
    if (choose(o->init_embedding, starts, 2) == SIZE_MAX)
        return refuse("init-embedding", o->init_embedding, "random or svd");
    if (o->held_out_column && (!strchr(o->held_out_column, '=') || *o->held_out_column == '='))
        return refuse("held-out-column", o->held_out_column, "COLUMN=VALUE");
    run->order = (scd_pretrain_order)order;
    run->dtype = (scd_dtype)dtype;
    run->config.latent_visible = pooling == VISIBLE;
    return SCD_EXIT_OK;
}

static int read_sizes(scd_pretrain *run)
{
    const scd_pretrain_options *o = &run->o;
    scd_model_config *c = &run->config;
    bool latent_visible = c->latent_visible;
    scd_error err;
    if (o->init && (o->hidden || o->dim || o->layers || o->heads || o->ffn || o->max_genes)) {
        fputs("scdiva-train pretrain: with --init the sizes are the model's: leave them out\n",
              stderr);
        return SCD_EXIT_USAGE;
    }
    if (o->init && (o->genes || o->extra_genes_column || o->gene_table)) {
        fputs("scdiva-train pretrain: with --init the genes are the model's: leave --genes, "
              "--extra-genes-column and --gene-table out\n",
              stderr);
        return SCD_EXIT_USAGE;
    }
    if (o->init && !strcmp(o->init_embedding, "svd")) {
        fputs("scdiva-train pretrain: --init-embedding svd would overwrite what --init knows\n",
              stderr);
        return SCD_EXIT_USAGE;
    }
    if (scd_model_config_parse("{}", 2, c, &err)) {
        fprintf(stderr, "scdiva-train pretrain: %s\n", err.message);
        return SCD_EXIT_FAILED;
    }
    c->hidden_dim = o->hidden ? o->hidden : HIDDEN;
    c->d = o->dim ? o->dim : c->hidden_dim;
    c->n_layers = o->layers ? o->layers : LAYERS;
    c->n_heads = o->heads ? o->heads : HEADS;
    c->ffn_dim = o->ffn ? o->ffn : FFN;
    c->max_gene_len = o->max_genes ? o->max_genes : MAX_GENES;
    c->latent_visible = latent_visible;
    c->value_masking = o->value_only > 0;
    c->dropout = 0; /* none is applied */
    c->trained = true;
    return SCD_EXIT_OK;
}

int scd_pretrain_read_options(scd_pretrain *run, int argc, char **argv)
{
    run->o = defaults;
    run->n_table = fill_table(&run->o, run->table);
    int rc = scd_options_read("pretrain", summary, run->table, run->n_table, argc, argv);
    if (rc || (rc = read_choices(run)))
        return rc;
    run->o.augment.seed = run->o.seed;
    return read_sizes(run);
}
