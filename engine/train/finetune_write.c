/* finetune_write.c - calibration on the held-out cells, and the head's two files.
 *
 * Temperature and threshold are fitted on held-out cells as measured and, where the run augments,
 * as other laboratories might have measured them (augmented copies, sums aside): the confidence of
 * cells like the training data alone says little about theirs. The run's folder becomes the head
 * when everything in it is whole. */
#include "api/json_write.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/train/finetune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct calibration {
    size_t n; /* cells, copies counted */
    double temperature, threshold, coverage;
    scd_scores before, after;         /* of held-out cells as measured */
    scd_scores augmented, calibrated; /* of what the temperature was fitted on */
} calibration;

/* The held-out cells and their copies, one set after the other, and fit. */
static scd_code fit(scd_finetune *run, calibration *c, scd_error *err)
{
    const uint64_t far = (uint64_t)1 << 48; /* draws that no training step uses */
    size_t classes = run->labels.n_classes, sets = 1 + run->o->calibrate_copies;
    c->n = run->n_held * sets;
    float *logits = scd_malloc(c->n * classes, sizeof *logits);
    float *targets = scd_malloc(c->n * classes, sizeof *targets);
    int32_t *truth = scd_malloc(c->n, sizeof *truth);
    scd_code code = SCD_OK;
    if (!logits || !targets || !truth)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu held-out cells", c->n);
    for (size_t i = 0; i < sets && !code; i++)
        code = scd_finetune_evaluate(run, i ? &run->augment : NULL, far + i * run->n_held,
                                     logits + i * run->n_held * classes,
                                     targets + i * run->n_held * classes, truth + i * run->n_held,
                                     err);
    if (!code) {
        c->temperature = scd_scores_fit_temperature(logits, targets, c->n, classes);
        code = scd_scores_of(logits, targets, truth, c->n, classes, 1, &c->augmented, err);
    }
    if (!code)
        code = scd_scores_of(logits, targets, truth, c->n, classes, c->temperature, &c->calibrated,
                             err);
    if (!code)
        code = scd_scores_fit_threshold(logits, truth, c->n, classes, c->temperature,
                                        run->o->precision, &c->threshold, err);
    if (!code) /* the first set */
        code = scd_scores_of(logits, targets, truth, run->n_held, classes, 1, &c->before, err);
    if (!code)
        code = scd_scores_of(logits, targets, truth, run->n_held, classes, c->temperature,
                             &c->after, err);
    free(logits);
    free(targets);
    free(truth);
    return code;
}

/* ---- head.safetensors ------------------------------------------------------------------------ */

typedef struct tensors {
    const scd_finetune *run;
    scd_dtype dtype;
    scd_tensor_entry *entries;
    const float **data; /* of each entry */
    char **names;       /* the entries' own */
    size_t n, room;
} tensors;

/* What fine-tuning changed: layers from first_layer on and the final norm; with 0 everything but
 * the heads of pre-training. */
static bool is_trained(const scd_finetune *run, const char *name)
{
    size_t layer;
    if (run->frozen || !strncmp(name, "gene_head.", 10) || !strncmp(name, "value_head.", 11))
        return false;
    if (!run->first_layer || !strncmp(name, "final_norm.", 11))
        return true;
    return sscanf(name, "layers.%zu.", &layer) == 1 && layer >= run->first_layer;
}

static scd_code add_backbone(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    tensors *t = arg;
    size_t first, n;
    if (!is_trained(t->run, entry->name))
        return SCD_OK;
    scd_code code = scd_net_tensor(t->run->c.net, entry->name, &first, &n, err);
    if (code)
        return code;
    if (t->n == t->room || !(t->names[t->n] = scd_strdup(entry->name)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the head's tensors");
    t->entries[t->n] = *entry;
    t->entries[t->n].name = t->names[t->n];
    t->entries[t->n].dtype = t->dtype;
    t->data[t->n++] = t->run->parts[SCD_PART_NET].best + first;
    return SCD_OK;
}

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    const tensors *t = arg;
    memcpy(out, t->data[entry] + first, n * sizeof *out);
}

static void add_own(tensors *t, const scd_tensor_entry *entries, size_t n, const float *data)
{
    for (size_t i = 0; i < n; i++) {
        t->entries[t->n] = entries[i];
        t->data[t->n++] = data;
        data += entries[i].rows * (entries[i].cols ? entries[i].cols : 1);
    }
}

static scd_code write_tensors(scd_finetune *run, const char *path, scd_error *err)
{
    tensors t = {.run = run,
                 .room = SCD_CLASS_HEAD_TENSORS + SCD_GENE_HEAD_TENSORS + 32 +
                         9 * run->c.config->n_layers};
    t.dtype = !strcmp(run->o->dtype, "bf16") ? SCD_BF16 : SCD_F32;
    t.entries = scd_calloc(t.room, sizeof *t.entries);
    t.data = scd_calloc(t.room, sizeof *t.data);
    t.names = scd_calloc(t.room, sizeof *t.names);
    scd_tensor_entry mlp[SCD_CLASS_HEAD_TENSORS], genes[SCD_GENE_HEAD_TENSORS];
    scd_code code = SCD_OK;
    if (!t.entries || !t.data || !t.names) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the head's tensors");
        goto done;
    }
    scd_class_head_entries(run->c.head, mlp);
    add_own(&t, mlp, SCD_CLASS_HEAD_TENSORS, run->parts[SCD_PART_MLP].best);
    if (run->c.genes_head) {
        scd_gene_head_entries(run->c.genes_head, genes);
        genes[0].dtype = t.dtype;
        add_own(&t, genes, SCD_GENE_HEAD_TENSORS, run->parts[SCD_PART_GENES].best);
    }
    code = scd_model_each_tensor(run->c.config, add_backbone, &t, err);
    if (!code)
        code = scd_safetensors_write(path, t.entries, t.n, fill, &t, err);
done:
    for (size_t i = 0; t.names && i < t.room; i++)
        free(t.names[i]);
    free(t.entries);
    free(t.data);
    free(t.names);
    return code;
}

/* ---- head.json ------------------------------------------------------------------------------- */

static void put_number(scd_buf *out, const char *key, double value)
{
    scd_buf_printf(out, "\"%s\":", key);
    scd_json_double(out, value);
}

static void put_scores(scd_buf *out, const char *key, const scd_scores *s)
{
    scd_buf_printf(out, "    \"%s\": {\"cells\":%zu,", key, s->n);
    const struct {
        const char *name;
        double value;
    } table[] = {{"loss", s->loss},
                 {"accuracy", s->accuracy},
                 {"balanced_accuracy", s->balanced_accuracy},
                 {"macro_f1", s->macro_f1},
                 {"ece", s->ece}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (i)
            scd_buf_putc(out, ',');
        put_number(out, table[i].name, table[i].value);
    }
    scd_buf_puts(out, "}");
}

static void put_labels(scd_buf *out, const scd_labels *l)
{
    scd_buf_puts(out, "  \"labels\": [");
    for (size_t k = 0; k < l->n_classes; k++) {
        scd_buf_puts(out, k ? ",\n             {\"label\":" : "{\"label\":");
        scd_json_text(out, l->names[k]);
        if (l->ontology[k]) {
            scd_buf_puts(out, ",\"ontology_id\":");
            scd_json_text(out, l->ontology[k]);
        }
        scd_buf_putc(out, '}');
    }
    scd_buf_puts(out, "],\n");
}

static scd_code write_json(const scd_finetune *run, const calibration *c, const char *path,
                           scd_error *err)
{
    scd_buf out;
    scd_buf_init(&out, (size_t)1 << 26);
    scd_buf_puts(&out, "{\n  \"task\": \"annotation\",\n  \"format\": 1,\n");
    put_labels(&out, &run->labels);
    scd_head_put_genes(&out, run->measured, run->c.config->vocab);
    scd_buf_puts(&out, "  ");
    put_number(&out, "temperature", c->temperature);
    scd_buf_puts(&out, ",\n  ");
    put_number(&out, "threshold", c->threshold);
    scd_buf_printf(&out, ",\n  \"model_digest\": \"%s\",\n  \"evaluation\": {\n",
                   run->model_digest);
    put_scores(&out, "held_out_uncalibrated", &c->before);
    scd_buf_puts(&out, ",\n");
    put_scores(&out, "held_out", &c->after);
    scd_buf_puts(&out, ",\n");
    put_scores(&out, "held_out_augmented", &c->calibrated);
    scd_buf_printf(&out, ",\n    \"epoch\": %.0f, \"training_cells\": %zu\n  },\n  \"recipe\": ",
                   run->best_epoch, run->n_train);
    scd_json_text(&out, run->recipe);
    scd_buf_puts(&out, "\n}\n");
    scd_code code = out.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for %s", path)
                               : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    return code;
}

/* ---- the end of a run ------------------------------------------------------------------------ */

static void report(const scd_finetune *run, const calibration *c)
{
    printf("epoch %.0f kept; %zu training cells, %zu held out\n", run->best_epoch, run->n_train,
           run->n_held);
    printf("held out as measured:  accuracy %.4f  balanced %.4f  macro-F1 %.4f  ECE %.4f -> %.4f\n",
           c->after.accuracy, c->after.balanced_accuracy, c->after.macro_f1, c->before.ece,
           c->after.ece);
    if (run->o->calibrate_copies)
        printf("with %zu copies each:  accuracy %.4f  balanced %.4f  macro-F1 %.4f  ECE %.4f -> "
               "%.4f\n",
               run->o->calibrate_copies, c->calibrated.accuracy, c->calibrated.balanced_accuracy,
               c->calibrated.macro_f1, c->augmented.ece, c->calibrated.ece);
    printf("temperature %.4f, threshold %.4f\n%s\n", c->temperature, c->threshold, run->dir.final);
}

scd_code scd_finetune_write(scd_finetune *run, scd_error *err)
{
    calibration c = {0};
    char json[4096], weights[4096];
    snprintf(json, sizeof json, "%s/head.json", run->dir.hidden);
    snprintf(weights, sizeof weights, "%s/head.safetensors", run->dir.hidden);
    scd_code code = fit(run, &c, err);
    if (code)
        return code;
    code = write_tensors(run, weights, err);
    if (!code)
        code = write_json(run, &c, json, err);
    if (!code)
        code = scd_head_dir_publish(&run->dir, "checkpoint.bin", err);
    if (!code)
        report(run, &c);
    return code;
}
