/* finetune_perturb.c - scdiva-train finetune perturbation: a head that predicts how cells answer
 * when genes are knocked down or activated.
 *
 * Few perturbations are known of any cell line, and a network alone loses to adding up what is
 * known (Ahlmann-Eltze et al. 2025). So the head stands on additive effects, shrunk as leaving
 * perturbations out says; a network over the control cell's embedding and a [PERT] token learns
 * what these leave unexplained, and is let through as far as it helps on perturbations left out.
 * The backbone is not trained: any embedding of a control cell that is cached serves here too.
 *
 * Threads: main and the device's. Owns: everything of the run. */
#include "engine/train/finetune_perturb.h"

#include "engine/base/mem.h"
#include "engine/denoise/predictor.h"
#include "engine/train/device.h"
#include "engine/train/option_rows.h"
#include "engine/train/progress.h"
#include "engine/train/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- options --------------------------------------------------------------------------------- */

static const scd_perturb_options defaults = {
    .name = "perturbation",
    .study = {.condition_column = "condition",
              .control = "control",
              .separator = "+",
              .min_cells = 10,
              .max_controls = 100},
    .min_mapped = 0.5,
    .mlp_dim = 64,
    .epochs = 40,
    .cells = 16,
    .batch = 128,
    .lr = 3e-3,
    .warmup = 0.05,
    .decay = 0.01,
    .clip = 1,
    .de_weight = 1,
    .rank_weight = 0.1,
    .micro_rows = 8192,
    .dtype = "bf16",
};

enum { MAX_OPTIONS = 48 };

static size_t option_table(scd_perturb_options *o, scd_option table[MAX_OPTIONS])
{
    const scd_option all[] = {
        {"model", SCD_OPTION_TEXT, &o->model, "DIR", "the model; the head goes to DIR/heads/NAME",
         0, 0, true, true},
        {"data", SCD_OPTION_LIST, &o->data, "FILE", "an .h5ad file; may be given several times", 0,
         0, false, true},
        TEXT("name", name, "NAME", "of the head"),
        {"force", SCD_OPTION_FLAG, &o->force, NULL, "replace a head of this name", 0, 0, true, 0},
        HEADING("cells:"),
        TEXT("condition-column", study.condition_column, "COLUMN", "of obs: what was perturbed"),
        TEXT("control", study.control, "NAME", "the controls' condition"),
        TEXT("separator", study.separator, "TEXT", "between the genes of a combination"),
        TEXT("context-column", study.context_column, "COLUMN",
             "of obs: cell line or type; absent: all cells are one"),
        TEXT("direction-column", study.direction_column, "COLUMN",
             "of obs: CRISPRa or activation, CRISPRi or knockdown"),
        TEXT("direction", study.direction, "NAME", "or one for all: activation or knockdown"),
        COUNT("min-cells", study.min_cells, "of a condition; those with fewer are left out", 1,
              1000000),
        COUNT("controls", study.max_controls, "stored of each context, as embeddings", 1, 100000),
        TEXT("exclude", exclude, "FILE", "cells to leave out: barcode, or file<TAB>barcode"),
        TEXT("matrix", matrix, "NAME", "X, raw/X or layers/NAME; absent: by evidence"),
        TEXT("gene-column", gene_column, "COLUMN", "of var; absent: by evidence"),
        NUMBER("min-mapped", min_mapped, "share of a file's counts on known genes, at least", 0, 1),
        HEADING("learning:"),
        COUNT("folds", folds, "parts of the perturbations left out in turn; 0: one by one up to 32",
              0, 1000),
        COUNT("mlp", mlp_dim, "width of the network", 1, 65536),
        COUNT("epochs", epochs, "at most; the best one is kept", 1, 100000),
        COUNT("cells", cells, "control cells drawn for each condition in an epoch", 1, 65536),
        COUNT("batch", batch, "of a step", 1, 65536),
        NUMBER("lr", lr, "peak learning rate", 0, 1),
        NUMBER("warmup", warmup, "share of the steps", 0, 1),
        NUMBER("decay", decay, "AdamW's weight decay", 0, 1),
        NUMBER("clip", clip, "largest norm of the gradient; 0: no bound", 0, 1e6),
        NUMBER("de-weight", de_weight, "of genes that change, in the squared error", 0, 1000),
        NUMBER("rank-weight", rank_weight, "of the ranking loss", 0, 1000),
        {"seed", SCD_OPTION_SEED, &o->seed, "N", "fixes the run", 0, 0, false, false},
        HEADING("running:"),
        {"device", SCD_OPTION_TEXT, &o->device, "DEVICE", SCD_TRAIN_DEVICE_HELP, 0, 0, true, false},
        {"threads", SCD_OPTION_COUNT, &o->threads, "N", "0: one per core", 0, 512, true, false},
        COUNT("micro-rows", micro_rows, "rows of a micro-batch: memory", 64, 1u << 24),
        TEXT("dtype", dtype, "T", "of the network in the head: f32 or bf16"),
    };
    memcpy(table, all, sizeof all);
    _Static_assert(sizeof all / sizeof all[0] <= MAX_OPTIONS, "room for all options");
    return sizeof all / sizeof all[0];
}

static scd_code check(const scd_perturb_options *o, scd_error *err)
{
    scd_direction direction;
    if (!o->study.direction_column == !o->study.direction)
        return scd_fail(
            err, SCD_E_INVALID,
            "one of --direction-column and --direction must be given: are genes knocked "
            "down, or activated?");
    if (o->study.direction && !scd_direction_parse(o->study.direction, &direction))
        return scd_fail(err, SCD_E_INVALID, "--direction %s: must be activation or knockdown",
                        o->study.direction);
    if (strcmp(o->dtype, "f32") && strcmp(o->dtype, "bf16"))
        return scd_fail(err, SCD_E_INVALID, "--dtype %s: must be f32 or bf16", o->dtype);
    return scd_head_name_check(o->name, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

static scd_code open_data(scd_perturb_run *run, scd_error *err)
{
    const scd_perturb_options *o = run->o;
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
    return code ? code
                : scd_perturb_study_read(run->corpus, scd_model_vocab(run->model),
                                         scd_model_get_config(run->model), &o->study, &run->study,
                                         err);
}

static void say_data(const scd_perturb_run *run)
{
    const scd_study *s = &run->study.s;
    for (size_t f = 0; f < scd_corpus_n_files(run->corpus); f++)
        printf("%s: %s\n", scd_corpus_file_name(run->corpus, f), scd_corpus_why(run->corpus, f));
    printf("%zu conditions of %zu perturbed genes in %zu contexts, %zu genes measured\n",
           s->n_conditions, s->n_targets, s->n_contexts, s->n_genes);
    if (run->study.n_few)
        printf("%zu conditions with %zu cells together left out: fewer than %zu cells each\n",
               run->study.n_few, run->study.n_few_cells, run->o->study.min_cells);
    for (size_t t = 0; t < s->n_targets; t++)
        if (run->study.target_tokens[t] < 0)
            printf("%s is not in the model's vocabulary: the network does not see it\n",
                   run->study.targets[t]);
    fflush(stdout);
}

/* Sums of the targets' features for each condition. */
static scd_code find_features(scd_perturb_run *run, scd_error *err)
{
    const scd_study *s = &run->study.s;
    float *row = scd_malloc(s->feature_dim, sizeof *row);
    if (!row)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < s->n_conditions; i++)
        for (size_t k = 0; k < s->conditions[i].n_targets; k++)
            scd_gene_feature(run->model, run->study.target_tokens[s->conditions[i].targets[k]], row,
                             run->study.features + i * s->feature_dim);
    free(row);
    return SCD_OK;
}

typedef struct embedding {
    scd_perturb_run *run;
    size_t *next; /* (C) place of the next stored control */
} embedding;

static scd_code keep_embedding(void *arg, const scd_classified *cell, scd_error *err)
{
    embedding *e = arg;
    size_t H = e->run->c.config->hidden_dim;
    int32_t context = e->run->study.context_of_cell[cell->index];
    if (!cell->embedding)
        return scd_fail(err, SCD_E_INVALID,
                        "control cell %s expresses no gene that all files measure: --exclude it",
                        cell->barcode);
    memcpy(e->run->embeddings + e->next[context]++ * H, cell->embedding, H * sizeof(float));
    return SCD_OK;
}

static scd_code embed_controls(scd_perturb_run *run, scd_error *err)
{
    size_t H = run->c.config->hidden_dim, C = run->study.s.n_contexts, n = run->study.n_stored;
    scd_feed_options options = {.keep = run->study.stored};
    scd_feed *feed = NULL;
    embedding e = {.run = run, .next = scd_calloc(C, sizeof *e.next)};
    run->embeddings = scd_calloc(n * H, sizeof *run->embeddings);
    scd_code code = e.next && run->embeddings
                        ? scd_feed_new(run->corpus, &options, &feed, err)
                        : scd_fail(err, SCD_E_NOMEM, "out of memory for %zu embeddings", n);
    for (size_t c = 0; c < C && !code; c++)
        e.next[c] = run->study.contexts[c].first_stored;
    if (!code)
        code = scd_classifier_run(&run->c, feed, n, NULL, 0, keep_embedding, &e, err);
    scd_feed_free(feed);
    free(e.next);
    return code;
}

static scd_code open_net(scd_perturb_run *run, scd_error *err)
{
    const scd_perturb_options *o = run->o;
    const scd_study *s = &run->study.s;
    scd_pert_shape shape = {run->c.config->hidden_dim, s->feature_dim, o->mlp_dim, s->n_genes,
                            o->batch};
    scd_code code = scd_pert_net_new(run->c.be, run->c.ops, run->c.device, &shape, &run->net, err);
    if (code)
        return code;
    run->params = scd_calloc(scd_pert_net_n_params(run->net), sizeof *run->params);
    run->gates = scd_calloc(s->n_contexts, sizeof *run->gates);
    run->scores = scd_calloc(s->n_contexts * SCD_N_SCORES, sizeof *run->scores);
    return run->params && run->gates && run->scores
               ? SCD_OK
               : scd_fail(err, SCD_E_NOMEM, "out of memory for a network");
}

/* The head itself: fitted on everything. */
static scd_code fit_all(scd_perturb_run *run, scd_error *err)
{
    const scd_study *s = &run->study.s;
    uint8_t *all = scd_malloc(s->n_conditions, 1);
    scd_fit_settings *settings = scd_calloc(s->n_contexts, sizeof *settings);
    scd_code code = all && settings ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        memset(all, 1, s->n_conditions);
    for (uint32_t c = 0; c < s->n_contexts && !code; c++)
        code = scd_fit_choose(s, all, c, 0, &settings[c], err);
    if (!code)
        code = scd_fit_new(s, all, settings, &run->fit, err);
    if (!code)
        code =
            scd_perturb_train(run, all, settings,
                              run->best_epoch ? run->best_epoch : run->o->epochs, NULL, NULL, err);
    free(settings);
    free(all);
    return code;
}

static scd_code run_all(scd_perturb_run *run, scd_error *err)
{
    const scd_perturb_options *o = run->o;
    const scd_classifier_options backbone = {
        .micro_rows = o->micro_rows, .device = o->device, .threads = o->threads};
    scd_digest digest;
    scd_code code = scd_model_open(o->model, &run->model, err);
    if (!code)
        code = scd_head_dir_name(o->model, o->name, o->force, &run->dir, err);
    if (!code)
        code = open_data(run, err);
    if (!code)
        code = scd_head_dir_open(&run->dir, o->model, err);
    if (code)
        return code;
    say_data(run);
    code = scd_model_digest(run->model, &digest, err);
    scd_digest_hex(&digest, run->model_digest);
    if (!code)
        code = scd_classifier_open(run->model, &backbone, &run->c, err);
    run->c.genes = run->study.measured; /* controls are read as the head's users' will be */
    if (!code)
        code = find_features(run, err);
    if (!code)
        code = embed_controls(run, err);
    if (!code)
        code = open_net(run, err);
    if (!code)
        code = scd_perturb_judge(run, err);
    if (!code)
        code = fit_all(run, err);
    return code ? code : scd_perturb_write(run, err);
}

static void run_release(scd_perturb_run *run)
{
    scd_fit_release(&run->fit);
    scd_pert_net_free(run->net);
    scd_classifier_close(&run->c);
    scd_perturb_study_release(&run->study);
    scd_corpus_free(run->corpus);
    scd_model_close(run->model);
    scd_head_dir_release(&run->dir);
    free(run->embeddings);
    free(run->params);
    free(run->gates);
    free(run->scores);
}

int scd_train_finetune_perturb(int argc, char **argv)
{
    scd_perturb_options o = defaults;
    scd_option table[MAX_OPTIONS];
    size_t n = option_table(&o, table);
    scd_error err = {0};
    scd_buf recipe;
    int status = scd_options_read("finetune perturbation",
                                  "Train a head that predicts the response to perturbed genes.",
                                  table, n, argc, argv);
    if (status) {
        free(o.data.items);
        return status < 0 ? SCD_EXIT_OK : status;
    }
    scd_buf_init(&recipe, 1u << 20);
    scd_buf_puts(&recipe, "scdiva-train finetune perturbation");
    scd_options_recipe(table, n, &recipe);
    scd_perturb_run run = {.o = &o, .recipe = recipe.data, .dir = {.lock = -1}};
    scd_stop_on_signals();
    scd_code code = check(&o, &err);
    status = code ? SCD_EXIT_USAGE : SCD_EXIT_OK;
    if (!code && (code = run_all(&run, &err)))
        status = SCD_EXIT_FAILED;
    if (code)
        fprintf(stderr, "scdiva-train finetune: %s\n", err.message);
    run_release(&run);
    scd_buf_release(&recipe);
    free(o.data.items);
    return status;
}
