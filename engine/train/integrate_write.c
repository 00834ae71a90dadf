/* integrate_write.c - what the neighbours of cells say before and after, and the model's files.
 *
 * The new model has the genes and sizes of the one it began with; its genes.tsv says besides which
 * of them it uses. Heads are not taken along: they read another encoder's embeddings. */
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/model/lengths.h"
#include "engine/train/finetune_integrate.h"
#include "engine/train/head_dir.h"
#include "engine/train/model_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_GENES_BYTES = 1 << 30 };

/* ---- neighbours ------------------------------------------------------------------------------ */

typedef struct look {
    const scd_integrate *run;
    float *x; /* (n, H) */
    int32_t *batch, *label;
    size_t n;
} look;

static scd_code keep_cell(void *arg, const scd_classified *cell, scd_error *err)
{
    look *l = arg;
    size_t H = l->run->config.hidden_dim;
    if (!cell->embedding)
        return scd_fail(err, SCD_E_INTERNAL, "cell %s without genes", cell->barcode);
    memcpy(l->x + l->n * H, cell->embedding, H * sizeof *l->x);
    l->batch[l->n] = l->run->batches.codes[cell->index];
    l->label[l->n++] = scd_integrate_label(l->run, cell->index);
    return SCD_OK;
}

/* Marks `wanted` of the training cells, evenly spread over them. */
static void mark(const scd_integrate *run, size_t wanted, uint8_t *sample)
{
    size_t seen = 0;
    for (size_t i = 0; i < run->n_cells; i++) {
        if (!run->keep[i])
            continue;
        sample[i] = (seen + 1) * wanted / run->n_train > seen * wanted / run->n_train;
        seen++;
    }
}

scd_code scd_integrate_look(scd_integrate *run, scd_mixing *out, scd_error *err)
{
    size_t n = run->o->report_cells < run->n_train ? run->o->report_cells : run->n_train;
    size_t H = run->config.hidden_dim;
    scd_feed *feed = NULL;
    *out = (scd_mixing){.own_batch = NAN, .by_chance = NAN, .own_label = NAN};
    run->n_reported = n;
    if (!n)
        return SCD_OK;
    uint8_t *sample = scd_calloc(run->n_cells, 1);
    look l = {.run = run,
              .x = scd_malloc(n * H, sizeof *l.x),
              .batch = scd_malloc(n, sizeof *l.batch),
              .label = scd_malloc(n, sizeof *l.label)};
    scd_feed_options options = {.keep = sample};
    scd_code code = sample && l.x && l.batch && l.label
                        ? SCD_OK
                        : scd_fail(err, SCD_E_NOMEM, "out of memory for %zu embeddings", n);
    if (!code) {
        mark(run, n, sample);
        code = scd_feed_new(run->corpus, &options, &feed, err);
    }
    if (!code)
        code = scd_classifier_run(&run->c, feed, n, NULL, 0, keep_cell, &l, err);
    if (!code)
        code = scd_mixing_of(l.x, n, H, l.batch, l.label, out, err);
    scd_feed_free(feed);
    free(l.label);
    free(l.batch);
    free(l.x);
    free(sample);
    return code;
}

/* ---- card.md --------------------------------------------------------------------------------- */

static void put_genes(const scd_integrate *run, scd_buf *out)
{
    if (!run->used) {
        scd_buf_puts(out, "**All genes are used**, also those that one file measures and another "
                          "lacks: where panels\ndiffer these tell batches apart, whatever was "
                          "learned.\n\n");
        return;
    }
    scd_buf_printf(
        out,
        "**%zu genes are used**: those that all files measure (genes.tsv, column `used`). "
        "Others are left out of every\ncell, here and where the model is served. Of the "
        "counts on known genes these hold",
        run->n_used);
    for (size_t i = 0; i < scd_corpus_n_files(run->corpus); i++)
        scd_buf_printf(out, "%s %.1f %% (%s)", i ? "," : "", 100 * run->on_used[i],
                       scd_corpus_file_name(run->corpus, i));
    scd_buf_puts(out, ".\n\n");
}

static void put_data(const scd_integrate *run, scd_buf *out)
{
    scd_buf_puts(out, "## Data\n\n| file | chosen |\n|---|---|\n");
    for (size_t i = 0; i < scd_corpus_n_files(run->corpus); i++)
        scd_buf_printf(out, "| %s | %s |\n", scd_corpus_file_name(run->corpus, i),
                       scd_corpus_why(run->corpus, i));
    scd_buf_printf(out, "\n| batch (%s) | training cells |\n|---|---|\n",
                   run->o->batch_column ? run->o->batch_column : "the file");
    for (size_t b = 0; b < run->batches.n_values; b++) {
        size_t n = 0;
        for (size_t i = 0; i < run->n_cells; i++)
            n += run->keep[i] && run->batches.codes[i] == (int32_t)b;
        scd_buf_printf(out, "| %s | %zu |\n", run->batches.values[b], n);
    }
    scd_buf_printf(out,
                   "\nLeft out: %zu cells without a batch, %zu without a gene that is used.\n\n",
                   run->n_no_batch, run->n_unknown);
    put_genes(run, out);
}

static void put_losses(const scd_integrate *run, scd_buf *out)
{
    size_t labelled = 0;
    for (size_t i = 0; i < run->n_cells; i++)
        labelled += run->keep[i] && scd_integrate_label(run, i) >= 0;
    if (run->labels.n_classes)
        scd_buf_printf(out,
                       "**Trained with labels**: %zu labels, on %zu of %zu cells. The contrastive "
                       "loss draws cells of a label\ntogether, over all batches; batches weigh "
                       "the same within each label where they are told apart. Measures\nthat ask "
                       "for these labels on these cells are no test of it.\n\n",
                       run->labels.n_classes, labelled, run->n_train);
    else
        scd_buf_puts(out,
                     "**Trained without labels**: the contrastive loss knows two views of a cell "
                     "as alike, told from cells of its\nown batch. Where batches have different "
                     "types of cells, the adversary pushes types together: check it.\n\n");
    if (run->n_one_batch)
        scd_buf_printf(out,
                       "%zu cells have a label that one batch alone has; they were not shown to "
                       "the discriminator.\n\n",
                       run->n_one_batch);
}

static void put_number(scd_buf *out, double x)
{
    if (isnan(x))
        scd_buf_puts(out, " - |");
    else
        scd_buf_printf(out, " %.4f |", x);
}

static void put_quality(const scd_integrate *run, scd_buf *out)
{
    const scd_mixing *sides[] = {&run->before, &run->after};
    if (!run->n_reported) {
        scd_buf_puts(out, "Not measured.\n");
        return;
    }
    scd_buf_printf(out,
                   "Of the %d nearest neighbours (cosine) of %zu of these training cells, the "
                   "share of their own batch (%s)\nand of their own label. These are cells it "
                   "was trained on; of others nothing is known.\n\n"
                   "| embeddings | own batch | by chance | own label |\n|---|---|---|---|\n",
                   SCD_MIXING_NEIGHBOURS, run->n_reported,
                   run->labels.n_classes ? "among cells of their label" : "among all");
    for (size_t i = 0; i < 2; i++) {
        scd_buf_printf(out, "| %s |", i ? "this model" : "the model before");
        put_number(out, sides[i]->own_batch);
        put_number(out, sides[i]->by_chance);
        put_number(out, sides[i]->own_label);
        scd_buf_puts(out, "\n");
    }
}

static void put_card(const scd_integrate *run, scd_buf *out)
{
    const scd_model_config *c = &run->config;
    scd_buf_printf(out,
                   "# %s, its embeddings corrected for batches\n\n| | |\n|---|---|\n"
                   "| began as | model %s |\n| parameters | %zu |\n"
                   "| layers x hidden | %zu x %zu, %zu heads, feed-forward %zu |\n"
                   "| latent pooling | visible |\n"
                   "| licence | weights: as the data's and the first model's; software: Apache-2.0 "
                   "|\n\n",
                   scd_model_name(run->model), run->model_digest, scd_net_n_params(run->c.net),
                   c->n_layers, c->hidden_dim, c->n_heads, c->ffn_dim);
    put_losses(run, out);
    put_data(run, out);
    scd_buf_printf(out,
                   "## Recipe\n\n    %s\n\nReconstruction, reversed gradient of a batch "
                   "discriminator and contrastive loss; %zu steps of %zu cells on\n%s; the same "
                   "bytes on any number of threads. Made with scdiva-train %s.\n\n## Quality\n\n",
                   run->recipe, run->n_steps, run->o->batch,
                   run->c.be->info(run->c.device)->identity, SCD_VERSION);
    put_quality(run, out);
    scd_buf_printf(out,
                   "\n## Limits\n\nTaking out what tells batches apart can take out biology that "
                   "differs between them. Heads of the first model\ndo not run on this one. "
                   "Reconstruction was trained with at most %.0f %% of a cell hidden: for "
                   "generation and\nheavier masks use the first model.\n",
                   100 * run->o->mask_max);
    if (run->o->augment.max_tokens)
        scd_buf_printf(
            out,
            "It was trained on views of at most %zu tokens and is asked for whole cells: "
            "what it learned of the\nfirst need not hold for the second.\n",
            run->o->augment.max_tokens);
}

/* ---- the files ------------------------------------------------------------------------------- */

static scd_code write_text(const scd_integrate *run, const char *name,
                           void (*put)(const scd_integrate *, scd_buf *), scd_error *err)
{
    scd_buf out;
    char *path = scd_path_join(run->dir.hidden, name, "");
    scd_buf_init(&out, 1 << 24);
    put(run, &out);
    scd_code code = !path || out.failed ? scd_fail(err, SCD_E_NOMEM, "%s: out of memory", name)
                                        : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    free(path);
    return code;
}

static void put_config(const scd_integrate *run, scd_buf *out)
{
    scd_model_text_config(&run->config, out);
}

static scd_code write_genes(const scd_integrate *run, scd_error *err)
{
    char *from = scd_path_join(run->o->model, "genes.tsv", "");
    char *to = scd_path_join(run->dir.hidden, "genes.tsv", ""), *text = NULL;
    size_t n;
    int fd = -1;
    scd_buf out;
    scd_buf_init(&out, 2u * MAX_GENES_BYTES);
    scd_code code = from && to ? scd_file_open(from, &fd, &n, err)
                               : scd_fail(err, SCD_E_NOMEM, "genes.tsv: out of memory");
    if (!code)
        code = scd_file_read(fd, from, MAX_GENES_BYTES, &text, &n, err);
    if (!code && run->used)
        code = scd_model_text_used(text, n, run->used, run->config.vocab, &out, err);
    if (!code)
        code = scd_file_write(to, run->used ? out.data : text, run->used ? out.n_bytes : n, err);
    if (fd >= 0)
        close(fd);
    scd_buf_release(&out);
    free(text);
    free(to);
    free(from);
    return code;
}

/* lengths.tsv, where the first model has one. */
static scd_code copy_lengths(const scd_integrate *run, scd_error *err)
{
    size_t *lengths = NULL, n = 0;
    scd_code code = scd_lengths_read(run->o->model, run->config.max_gene_len, &lengths, &n, err);
    char *path = code || !n ? NULL : scd_path_join(run->dir.hidden, "lengths.tsv", "");
    if (!code && n)
        code = path ? scd_lengths_write(path, lengths, n, err)
                    : scd_fail(err, SCD_E_NOMEM, "lengths.tsv: out of memory");
    free(path);
    free(lengths);
    return code;
}

static void report(const scd_integrate *run)
{
    if (!run->n_reported) {
        printf("%s\n", run->dir.final);
        return;
    }
    printf("neighbours of their own batch %.4f -> %.4f (by chance %.4f)", run->before.own_batch,
           run->after.own_batch, run->after.by_chance);
    if (run->labels.n_classes)
        printf(", of their own label %.4f -> %.4f", run->before.own_label, run->after.own_label);
    printf("\n%s\n", run->dir.final);
}

scd_code scd_integrate_write(scd_integrate *run, scd_error *err)
{
    scd_dtype dtype = !strcmp(run->o->dtype, "bf16") ? SCD_BF16 : SCD_F32;
    char *weights = scd_path_join(run->dir.hidden, "model.safetensors", "");
    scd_code code = weights ? write_text(run, "config.json", put_config, err)
                            : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = write_genes(run, err);
    if (!code)
        code = copy_lengths(run, err);
    if (!code)
        code = write_text(run, "card.md", put_card, err);
    if (!code)
        code = scd_net_save(run->c.net, weights, dtype, err);
    if (!code)
        code = scd_model_dir_publish(&run->dir, "checkpoint.bin", err);
    if (!code)
        report(run);
    free(weights);
    return code;
}
