/* eval.c - scdiva-train eval: what a model and its head make of the cells of a file.
 *
 * Scores for people and scripts (JSON), and the raw material of tests/bench/quality: predictions as
 * a table and embeddings as .npy, cells in file order.
 *
 * Threads: main and the device's. Owns: everything of the run. */
#include "api/json_write.h"
#include "api/npy.h"
#include "engine/base/mem.h"
#include "engine/denoise/head.h"
#include "engine/model/file.h"
#include "engine/train/device.h"
#include "engine/train/eval.h"
#include "engine/train/labels.h"
#include "engine/train/options.h"
#include "engine/train/scores.h"
#include "engine/train/train.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *model, *head, *exclude, *matrix, *gene_column, *labels, *label_column;
    const char *predictions, *embeddings, *device;
    scd_option_list data;
    size_t threads, micro_rows;
    double min_mapped;
    bool losses;
} options;

typedef struct evaluation {
    const options *o;
    scd_model *model;
    scd_corpus *corpus;
    scd_head *head;
    const scd_head_info *info; /* NULL: no head, embeddings only */
    scd_labels labels;         /* of the data, under their own names */
    int32_t *class_of;         /* (labels.n_classes): the head's label of that name, -1: none */
    scd_classifier c;
    scd_feed *feed;
    size_t n;
    scd_eval_loss losses[SCD_EVAL_RATES];

    scd_file_writer predictions, embeddings;
    bool predictions_open, embeddings_open;
    float *logits;  /* (n_scored, n_labels) of cells whose truth the head knows */
    int32_t *truth; /* (n_scored) */
    double *p;      /* (n_labels) probabilities of one cell: a head may have 65,536 labels */
    float *nothing; /* (H) NaN: the embedding of a cell without known genes */
    size_t n_scored, n_foreign, n_empty; /* n_foreign: labelled with what the head does not know */
} evaluation;

/* ---- opening --------------------------------------------------------------------------------- */

/* The one annotation head there is; e->head stays NULL without any. */
static scd_code only_head(evaluation *e, char path[4096], scd_error *err)
{
    char **dirs = NULL;
    size_t n = 0;
    scd_code code = scd_heads_find(e->o->model, &dirs, &n, err);
    for (size_t i = 0; i < n && !code; i++) {
        scd_head *head = NULL;
        code = scd_head_open(dirs[i], scd_model_get_config(e->model), &head, err);
        if (!code && e->head && !scd_head_get_info(head)->perturb)
            code = scd_fail(err, SCD_E_INVALID, "%s has several heads (%s, %s): choose with --head",
                            e->o->model, scd_head_get_info(e->head)->name,
                            scd_head_get_info(head)->name);
        if (!code && !scd_head_get_info(head)->perturb) {
            e->head = head;
            head = NULL;
            snprintf(path, 4096, "%s", dirs[i]);
        }
        scd_head_close(head);
    }
    scd_heads_forget(dirs, n);
    return code;
}

/* A head means something on the model that it was trained on and on no other. */
static scd_code check_model(const evaluation *e, const char *path, scd_error *err)
{
    scd_digest digest;
    char hex[SCD_DIGEST_HEX];
    scd_code code = scd_model_digest(e->model, &digest, err);
    if (code)
        return code;
    scd_digest_hex(&digest, hex);
    if (strcmp(hex, e->info->model_digest_hex) != 0)
        return scd_fail(err, SCD_E_INVALID,
                        "%s/head.json: the head was trained on the model with digest %s, this one "
                        "has %s: train it again (scdiva-train finetune), or choose another with "
                        "--head",
                        path, e->info->model_digest_hex, hex);
    return SCD_OK;
}

static scd_code open_head(evaluation *e, scd_error *err)
{
    char path[4096] = "";
    scd_code code = SCD_OK;
    if (e->o->head) {
        snprintf(path, sizeof path, "%s/heads/%s", e->o->model, e->o->head);
        code = scd_head_open(path, scd_model_get_config(e->model), &e->head, err);
    } else {
        code = only_head(e, path, err);
    }
    if (code || !e->head)
        return code;
    e->info = scd_head_get_info(e->head);
    if (e->info->perturb)
        return scd_fail(err, SCD_E_INVALID,
                        "%s is a perturbation head: eval measures annotation heads; what this one "
                        "scored is in its head.json",
                        path);
    return check_model(e, path, err);
}

/* "'A', 'B', 'C', ..." */
static void put_names(scd_buf *out, size_t n, const char *(*name)(const evaluation *, size_t),
                      const evaluation *e)
{
    enum { SHOWN = 3 };
    for (size_t k = 0; k < n && k < SHOWN; k++)
        scd_buf_printf(out, "%s'%.40s'", k ? ", " : "", name(e, k));
    scd_buf_puts(out, n > SHOWN ? ", ..." : "");
}

static const char *name_in_data(const evaluation *e, size_t k)
{
    return e->labels.names[k];
}

static const char *name_in_head(const evaluation *e, size_t k)
{
    return e->info->labels[k].label;
}

/* A score of no cells would look like a run that went well. */
static scd_code nothing_in_common(const evaluation *e, scd_error *err)
{
    scd_buf data, head;
    scd_code code;
    scd_buf_init(&data, 1u << 12);
    scd_buf_init(&head, 1u << 12);
    put_names(&data, e->labels.n_classes, name_in_data, e);
    put_names(&head, e->info->n_labels, name_in_head, e);
    if (data.failed || head.failed)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for labels");
    else
        code = scd_fail(err, SCD_E_INVALID,
                        "none of the %zu labels of %s (%s) is one of the %zu of head %s (%s): give "
                        "the column or table that names them as the head does, or none to have "
                        "predictions alone",
                        e->labels.n_classes, e->o->labels ? e->o->labels : e->o->label_column,
                        data.data, e->info->n_labels, e->info->name, head.data);
    scd_buf_release(&data);
    scd_buf_release(&head);
    return code;
}

static scd_code open_labels(evaluation *e, scd_error *err)
{
    const options *o = e->o;
    size_t n_known = 0;
    scd_code code = o->labels
                        ? scd_labels_truth_from_table(e->corpus, o->labels, &e->labels, err)
                        : scd_labels_truth_from_column(e->corpus, o->label_column, &e->labels, err);
    if (code || !e->info)
        return code;
    e->class_of = scd_malloc(e->labels.n_classes, sizeof *e->class_of);
    if (!e->class_of)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for labels");
    for (size_t k = 0; k < e->labels.n_classes; k++) {
        e->class_of[k] = -1;
        for (size_t j = 0; j < e->info->n_labels && e->class_of[k] < 0; j++)
            if (!strcmp(e->labels.names[k], e->info->labels[j].label))
                e->class_of[k] = (int32_t)j;
        n_known += e->class_of[k] >= 0;
    }
    return n_known ? SCD_OK : nothing_in_common(e, err);
}

static scd_code open_all(evaluation *e, scd_error *err)
{
    const options *o = e->o;
    scd_corpus_options corpus = {.paths = o->data.items,
                                 .n_paths = o->data.n,
                                 .matrix = o->matrix,
                                 .gene_column = o->gene_column,
                                 .exclude = o->exclude};
    scd_feed_options in_order = {0};
    scd_code code = scd_model_open(o->model, &e->model, err);
    if (!code)
        code = open_head(e, err);
    if (!code)
        code = scd_corpus_open(&corpus, &e->corpus, err);
    if (!code)
        code = scd_corpus_bind(e->corpus, scd_model_vocab(e->model), 0, err);
    if (!code)
        code = scd_corpus_check_mapped(e->corpus, o->min_mapped, err);
    if (!code && (o->labels || o->label_column))
        code = open_labels(e, err);
    scd_classifier_options classifier = {
        .micro_rows = o->micro_rows, .device = o->device, .threads = o->threads};
    if (e->info) {
        classifier.classes = e->info->n_labels;
        classifier.mlp_dim = e->info->mlp_dim;
        classifier.has_genes = e->info->has_gene_term;
    }
    if (!code)
        code = scd_classifier_open(e->model, &classifier, &e->c, err);
    for (size_t i = 0; o->losses && i < SCD_EVAL_RATES && !code; i++) /* of the model alone */
        code = scd_eval_losses(&e->c, e->corpus, scd_eval_rates[i], &e->losses[i], err);
    if (!code && e->head)
        code = scd_classifier_overlay(&e->c, scd_head_tensors(e->head), err);
    e->c.genes = e->info ? e->info->genes : NULL;
    if (!code)
        code = scd_feed_new(e->corpus, &in_order, &e->feed, err);
    if (code)
        return code;
    e->n = scd_corpus_n_cells(e->corpus);
    e->nothing = scd_malloc(e->c.config->hidden_dim, sizeof *e->nothing);
    for (size_t i = 0; e->nothing && i < e->c.config->hidden_dim; i++)
        e->nothing[i] = NAN;
    if (!e->nothing)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (e->info) {
        size_t n_logits = 0;
        if (scd_size_mul(e->n, e->info->n_labels, &n_logits))
            e->logits = scd_malloc(n_logits, sizeof *e->logits);
        e->truth = scd_malloc(e->n + 1, sizeof *e->truth);
        e->p = scd_malloc(e->info->n_labels, sizeof *e->p);
        if (!e->logits || !e->truth || !e->p)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", e->n);
    }
    return SCD_OK;
}

static void release(evaluation *e)
{
    if (e->predictions_open)
        scd_file_writer_abandon(&e->predictions);
    if (e->embeddings_open)
        scd_file_writer_abandon(&e->embeddings);
    scd_feed_free(e->feed);
    scd_classifier_close(&e->c);
    scd_labels_release(&e->labels);
    scd_head_close(e->head);
    scd_corpus_free(e->corpus);
    scd_model_close(e->model);
    free(e->class_of);
    free(e->logits);
    free(e->truth);
    free(e->p);
    free(e->nothing);
}

/* ---- files ----------------------------------------------------------------------------------- */

static scd_code add(scd_file_writer *writer, scd_buf *text, scd_error *err)
{
    scd_code code = text->failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for %s", writer->path)
                                 : scd_file_writer_add(writer, text->data, text->n_bytes, err);
    scd_buf_release(text);
    return code;
}

static scd_code begin_files(evaluation *e, scd_error *err)
{
    scd_buf text;
    scd_code code = SCD_OK;
    scd_buf_init(&text, 1u << 25); /* 65,536 labels of 256 bytes */
    if (e->o->predictions && !e->info)
        return scd_fail(err, SCD_E_INVALID, "--predictions: the model %s has no head", e->o->model);
    if (e->o->predictions) {
        code = scd_file_writer_open(&e->predictions, e->o->predictions, err);
        e->predictions_open = !code;
        scd_buf_puts(&text, "file\tbarcode\ttruth");
        for (size_t k = 0; k < e->info->n_labels; k++)
            scd_buf_printf(&text, "\t%s", e->info->labels[k].label);
        scd_buf_putc(&text, '\n');
        if (!code)
            code = add(&e->predictions, &text, err);
    }
    if (!code && e->o->embeddings) {
        code = scd_file_writer_open(&e->embeddings, e->o->embeddings, err);
        e->embeddings_open = !code;
        scd_npy_header(&text, e->n, e->c.config->hidden_dim);
        if (!code)
            code = add(&e->embeddings, &text, err);
    }
    scd_buf_release(&text);
    return code;
}

static scd_code end_files(evaluation *e, scd_error *err)
{
    scd_code code = SCD_OK;
    if (e->predictions_open)
        code = scd_file_writer_commit(&e->predictions, err);
    e->predictions_open = false;
    if (!code && e->embeddings_open) {
        code = scd_file_writer_commit(&e->embeddings, err);
        e->embeddings_open = false;
    }
    return code;
}

static scd_code put_prediction(evaluation *e, const scd_classified *cell, const char *truth,
                               scd_error *err)
{
    scd_buf text;
    scd_buf_init(&text, 1u << 20);
    if (cell->logits)
        scd_scores_softmax(cell->logits, e->info->n_labels, e->info->temperature, e->p);
    scd_buf_printf(&text, "%s\t%s\t%s", scd_corpus_file_name(e->corpus, cell->file), cell->barcode,
                   truth ? truth : "");
    for (size_t k = 0; k < e->info->n_labels; k++) {
        scd_buf_putc(&text, '\t');
        if (cell->logits)
            scd_buf_printf(&text, "%.6f", e->p[k]);
    }
    scd_buf_putc(&text, '\n');
    return add(&e->predictions, &text, err);
}

static scd_code take(void *arg, const scd_classified *cell, scd_error *err)
{
    evaluation *e = arg;
    int32_t best = e->labels.best ? e->labels.best[cell->index] : -1;
    scd_code code = SCD_OK;
    const float *embedding = cell->embedding ? cell->embedding : e->nothing;
    if (e->embeddings_open)
        code = scd_file_writer_add(&e->embeddings, embedding,
                                   e->c.config->hidden_dim * sizeof(float), err);
    e->n_empty += !cell->embedding;
    if (!cell->embedding)
        best = -1;
    if (!code && e->predictions_open)
        code = put_prediction(e, cell, best >= 0 ? e->labels.names[best] : NULL, err);
    if (best >= 0 && e->info && e->class_of[best] < 0)
        e->n_foreign++;
    if (best >= 0 && e->info && e->class_of[best] >= 0) {
        memcpy(e->logits + e->n_scored * e->info->n_labels, cell->logits,
               e->info->n_labels * sizeof *e->logits);
        e->truth[e->n_scored++] = e->class_of[best];
    }
    return code;
}

/* ---- the report ------------------------------------------------------------------------------ */

static void put(scd_buf *out, const char *key, double value)
{
    scd_buf_printf(out, ",\"%s\":", key);
    scd_json_double(out, value);
}

/* Share of cells at or above the head's threshold, and their accuracy. */
static void put_coverage(evaluation *e, scd_buf *out)
{
    double *p = e->p;
    size_t classes = e->info->n_labels, n = 0, right = 0;
    for (size_t i = 0; i < e->n_scored; i++) {
        size_t best = 0;
        scd_scores_softmax(e->logits + i * classes, classes, e->info->temperature, p);
        for (size_t k = 1; k < classes; k++)
            best = p[k] > p[best] ? k : best;
        if (p[best] >= e->info->threshold) {
            n++;
            right += (int32_t)best == e->truth[i];
        }
    }
    put(out, "threshold", e->info->threshold);
    put(out, "coverage", (double)n / (double)e->n_scored);
    put(out, "covered_accuracy", n ? (double)right / (double)n : 0);
}

static scd_code put_scores(evaluation *e, scd_buf *out, scd_error *err)
{
    scd_scores s;
    scd_code code = scd_scores_of(e->logits, NULL, e->truth, e->n_scored, e->info->n_labels,
                                  e->info->temperature, &s, err);
    if (code)
        return code;
    put(out, "loss", s.loss);
    put(out, "accuracy", s.accuracy);
    put(out, "balanced_accuracy", s.balanced_accuracy);
    put(out, "macro_f1", s.macro_f1);
    put(out, "ece", s.ece);
    put_coverage(e, out);
    return SCD_OK;
}

static void put_losses(const evaluation *e, scd_buf *out)
{
    scd_buf_puts(out, ",\"hidden\":[");
    for (size_t i = 0; i < SCD_EVAL_RATES; i++) {
        const scd_eval_loss *l = &e->losses[i];
        scd_buf_printf(out, "%s{\"share\":", i ? "," : "");
        scd_json_double(out, scd_eval_rates[i]);
        scd_buf_printf(out, ",\"tokens\":%zu", l->n);
        put(out, "gene_loss", l->gene_loss);
        put(out, "gene_accuracy", l->accuracy);
        put(out, "value_mse", l->value_mse);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

static scd_code report(evaluation *e, scd_error *err)
{
    scd_buf out;
    scd_code code = SCD_OK;
    scd_buf_init(&out, 1u << 20);
    scd_buf_puts(&out, "{\"model\":");
    scd_json_text(&out, scd_model_name(e->model));
    scd_buf_puts(&out, ",\"head\":");
    scd_json_text(&out, e->info ? e->info->name : "");
    scd_buf_printf(&out,
                   ",\"cells\":%zu,\"scored\":%zu,\"labels_unknown_to_head\":%zu,"
                   "\"cells_without_known_genes\":%zu",
                   e->n, e->n_scored, e->n_foreign, e->n_empty);
    if (e->o->labels)
        scd_buf_printf(&out, ",\"rows_of_other_files\":%zu,\"rows_left_out\":%zu",
                       e->labels.n_other_files, e->labels.n_left_out);
    if (e->n_scored)
        code = put_scores(e, &out, err);
    if (e->o->losses)
        put_losses(e, &out);
    scd_buf_puts(&out, "}\n");
    if (!code && out.failed)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the report");
    if (!code && (fputs(out.data, stdout) == EOF || fflush(stdout) == EOF))
        code = scd_fail(err, SCD_E_IO, "the report could not be written to standard output: %s",
                        strerror(errno));
    scd_buf_release(&out);
    return code;
}

int scd_train_eval(int argc, char **argv)
{
    options o = {.micro_rows = 8192, .min_mapped = 0.5};
    const scd_option table[] = {
        {"model", SCD_OPTION_TEXT, &o.model, "DIR", "the model directory", 0, 0, 0, true},
        {"data", SCD_OPTION_LIST, &o.data, "FILE", "an .h5ad file; may be given several times", 0,
         0, 0, true},
        {"head", SCD_OPTION_TEXT, &o.head, "NAME", "absent: the only annotation head", 0, 0, 0, 0},
        {"labels", SCD_OPTION_TEXT, &o.labels, "FILE", "truth: a table as finetune reads it", 0, 0,
         0, 0},
        {"label-column", SCD_OPTION_TEXT, &o.label_column, "COLUMN", "or a column of obs", 0, 0, 0,
         0},
        {"exclude", SCD_OPTION_TEXT, &o.exclude, "FILE", "cells to leave out", 0, 0, 0, 0},
        {"matrix", SCD_OPTION_TEXT, &o.matrix, "NAME", "X, raw/X or layers/NAME", 0, 0, 0, 0},
        {"gene-column", SCD_OPTION_TEXT, &o.gene_column, "COLUMN", "of var", 0, 0, 0, 0},
        {"min-mapped", SCD_OPTION_NUMBER, &o.min_mapped, "X",
         "share of each file's counts that must be of known genes", 0, 1, 0, 0},
        {"predictions", SCD_OPTION_TEXT, &o.predictions, "FILE",
         "table: file, barcode, truth, one probability per label", 0, 0, 0, 0},
        {"embeddings", SCD_OPTION_TEXT, &o.embeddings, "FILE", ".npy, cells in file order", 0, 0, 0,
         0},
        {"losses", SCD_OPTION_FLAG, &o.losses, NULL,
         "the objective's losses of the model, 15, 50 and 90 % hidden", 0, 0, 0, 0},
        {"device", SCD_OPTION_TEXT, &o.device, "DEVICE", SCD_TRAIN_DEVICE_HELP, 0, 0, 0, 0},
        {"threads", SCD_OPTION_COUNT, &o.threads, "N", "0: one per core", 0, 512, 0, 0},
        {"micro-rows", SCD_OPTION_COUNT, &o.micro_rows, "N", "rows of a batch", 64, 1 << 24, 0, 0},
    };
    size_t n = sizeof table / sizeof table[0];
    scd_error err = {0};
    evaluation e = {.o = &o};
    int status = scd_options_read("eval", "Measure a model and its head on the cells of files.",
                                  table, n, argc, argv);
    if (status)
        goto done;
    status = SCD_EXIT_FAILED;
    if (o.labels && o.label_column) {
        scd_fail(&err, SCD_E_INVALID, "--labels and --label-column exclude one another");
        status = SCD_EXIT_USAGE;
    } else if (!open_all(&e, &err) && !begin_files(&e, &err) &&
               !scd_classifier_run(&e.c, e.feed, e.n, NULL, 0, take, &e, &err) &&
               !end_files(&e, &err) && !report(&e, &err)) {
        status = SCD_EXIT_OK;
    }
    if (status)
        fprintf(stderr, "scdiva-train eval: %s\n", err.message);
done:
    release(&e);
    free(o.data.items);
    return status < 0 ? SCD_EXIT_OK : status;
}
