/* pretrain_write.c - the output directory: a checkpoint while the run lasts, a model at its end.
 *
 * model.safetensors is written last, and one that is to be replaced goes first, then the heads that
 * were trained on it: whatever moment a run is killed at, a directory that opens as a model is one.
 * One run at a time holds the directory, by a lock that ends with the process. */
#include "engine/base/mem.h"
#include "engine/denoise/head.h"
#include "engine/model/file.h"
#include "engine/model/lengths.h"
#include "engine/train/checkpoint.h"
#include "engine/train/folder.h"
#include "engine/train/model_text.h"
#include "engine/train/pretrain.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4200 };
static const char checkpoint_name[] = "checkpoint.bin", weights_name[] = "model.safetensors",
                  heads_name[] = "heads";

static const char *path_of(const scd_pretrain *run, const char *name, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", run->o.out, name);
    return out;
}

/* ---- the directory --------------------------------------------------------------------------- */

/* What a killed run left of its own: NAME.PID.tmp. */
static void remove_temporaries(const scd_pretrain *run)
{
    static const char *const names[] = {checkpoint_name, weights_name, "config.json.", "genes.tsv.",
                                        "card.md.",      "train.csv.", "lengths.tsv."};
    char path[PATH_BYTES];
    DIR *dir = opendir(run->o.out);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (n > 4 && !strcmp(e->d_name + n - 4, ".tmp") &&
                !strncmp(e->d_name, names[i], strlen(names[i])))
                unlink(path_of(run, e->d_name, path));
    }
    if (dir)
        closedir(dir);
}

/* Heads of the model that was there, or is: no other model runs them. */
static scd_code check_heads(const scd_pretrain *run, scd_error *err)
{
    char **dirs, names[256] = "";
    size_t n, at = 0;
    scd_code code = scd_heads_find(run->o.out, &dirs, &n, err);
    if (code || !n)
        return code;
    for (size_t i = 0; i < n && at < sizeof names; i++) {
        int put = snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "",
                           strrchr(dirs[i], '/') + 1);
        at += put > 0 ? (size_t)put : 0;
    }
    scd_heads_forget(dirs, n);
    if (!run->o.force)
        return scd_fail(err, SCD_E_INVALID,
                        "%s/%s: holds heads of another model (%s), which a new one cannot run; "
                        "--force removes them when the new model is written",
                        run->o.out, heads_name, names);
    fprintf(stderr, "%s/%s: the heads of the old model (%s) go when the new one is written\n",
            run->o.out, heads_name, names);
    return SCD_OK;
}

scd_code scd_pretrain_open_dir(scd_pretrain *run, scd_error *err)
{
    const char *dir = run->o.out;
    char path[PATH_BYTES];
    if (strlen(dir) > 4000)
        return scd_fail(err, SCD_E_INVALID, "--out: the path is too long");
    if (mkdir(dir, 0777) < 0 && errno != EEXIST)
        return scd_fail(err, SCD_E_IO, "%s: cannot make the directory: %s", dir, strerror(errno));
    run->dir_lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->dir_lock < 0)
        return scd_fail(err, SCD_E_IO, "%s: cannot open: %s", dir, strerror(errno));
    if (flock(run->dir_lock, LOCK_EX | LOCK_NB) < 0)
        return scd_fail(err, SCD_E_BUSY, "%s: another run is writing there", dir);
    if (!run->o.force && !access(path_of(run, weights_name, path), F_OK))
        return scd_fail(err, SCD_E_INVALID, "%s is already there; --force replaces the model",
                        path);
    scd_code code = check_heads(run, err);
    if (!code)
        remove_temporaries(run);
    return code;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

/* The sums since the last row of the log, so that a resumed run logs what an uninterrupted does. */
static void put_window(const scd_pretrain_sums *w, double *numbers)
{
    const double all[] = {w->gene,    w->value,   w->norm,    w->n_gene,
                          w->n_value, w->n_right, w->n_steps, w->n_tokens};
    memcpy(numbers, all, sizeof all);
}

static void get_window(const double *numbers, scd_pretrain_sums *w)
{
    *w = (scd_pretrain_sums){.gene = numbers[0],
                             .value = numbers[1],
                             .norm = numbers[2],
                             .n_gene = numbers[3],
                             .n_value = numbers[4],
                             .n_right = numbers[5],
                             .n_steps = numbers[6],
                             .n_tokens = numbers[7]};
}

/* Room for parameters and moments: one allocation, free(arrays[0].data). */
static scd_code make_checkpoint(const scd_pretrain *run, scd_checkpoint *c, scd_error *err)
{
    size_t n = scd_net_n_params(run->net);
    float *all = scd_malloc(n, 3 * sizeof *all);
    *c = (scd_checkpoint){.fingerprint = run->fingerprint, .n_arrays = 3};
    if (!all)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a checkpoint");
    for (size_t i = 0; i < 3; i++) {
        c->arrays[i].data = all + i * n;
        c->arrays[i].n = n;
    }
    return SCD_OK;
}

scd_code scd_pretrain_save(scd_pretrain *run, scd_error *err)
{
    scd_checkpoint c;
    char path[PATH_BYTES];
    scd_code code = make_checkpoint(run, &c, err);
    if (code)
        return code;
    c.step = run->step;
    c.drawn = run->drawn;
    put_window(&run->window, c.numbers);
    code =
        scd_net_export_state(run->net, c.arrays[0].data, c.arrays[1].data, c.arrays[2].data, err);
    if (!code)
        code = scd_checkpoint_write(path_of(run, checkpoint_name, path), &c, err);
    free(c.arrays[0].data);
    return code;
}

scd_code scd_pretrain_load(scd_pretrain *run, scd_error *err)
{
    scd_checkpoint c;
    char path[PATH_BYTES];
    path_of(run, checkpoint_name, path);
    if (access(path, F_OK) < 0)
        return SCD_OK;
    scd_code code = make_checkpoint(run, &c, err);
    if (code)
        return code;
    if (!(code = scd_checkpoint_read(path, &c, err)) &&
        !(code = scd_net_import_state(run->net, c.arrays[0].data, c.arrays[1].data,
                                      c.arrays[2].data, err)) &&
        !(code = scd_feed_seek(run->feed, c.drawn, err))) {
        run->step = c.step;
        run->drawn = c.drawn;
        get_window(c.numbers, &run->window);
    }
    free(c.arrays[0].data);
    return code;
}

/* ---- the model ------------------------------------------------------------------------------- */

static void write_table(const scd_pretrain *run, const scd_pretrain_score *scores, scd_buf *out)
{
    if (!run->n_eval) {
        scd_buf_puts(out, "Not measured: no cell was held out.\n");
        return;
    }
    scd_buf_printf(out,
                   "On %zu of %zu held-out cells (the same hidden tokens in every run), latent "
                   "pooling as trained;\nbaselines from %zu training cells.\n\n"
                   "| hidden | tokens | gene named | most frequent gene | value MSE | gene mean's "
                   "MSE | cross-entropy |\n|---|---|---|---|---|---|---|\n",
                   run->n_eval, run->n_held_out, run->n_baseline);
    for (size_t r = 0; r < SCD_PRETRAIN_RATES; r++)
        scd_buf_printf(out, "| %.0f %% | %zu | %.4f | %.4f | %.4f | %.4f | %.4f |\n",
                       100 * scd_pretrain_rates[r], scores[r].n, scores[r].accuracy,
                       scores[r].base_accuracy, scores[r].mse, scores[r].base_mse,
                       scores[r].gene_loss);
    scd_buf_puts(out, "\nThe gene mean is told which gene is hidden; the model is not.\n");
}

static void write_limits(const scd_pretrain *run, scd_buf *out)
{
    static const char *const orders[] = {
        "entropies of the training cells, in genes.tsv",
        "expression alone: genes.tsv has no entropies",
        ("random in training (an ablation); serving orders by expression, which this model has "
         "not seen")};
    scd_buf_printf(out, "\n## Limits\n\nToken order: %s.\n", orders[run->order]);
    if (run->o.no_latent)
        scd_buf_puts(out, "Trained without [LAT]'s latent input (an ablation): z is 0, in serving "
                          "too.\n");
    if (run->o.value_only <= 0)
        scd_buf_puts(out, "Never trained to tell a value whose gene is shown.\n");
    scd_buf_puts(out, "It knows the tissues, chemistries and genes of the files above and nothing "
                      "else. Pre-training\nlearns to fill in genes; what a task head makes of it "
                      "is that head's to report.\n");
}

static scd_code write_card(const scd_pretrain *run, const scd_pretrain_score *scores,
                           scd_error *err)
{
    const scd_model_config *c = &run->config;
    char path[PATH_BYTES];
    scd_buf out;
    scd_buf_init(&out, 1 << 24);
    scd_buf_printf(&out,
                   "# A pre-trained scDiVa model\n\n| | |\n|---|---|\n| parameters | %zu |\n"
                   "| layers x hidden | %zu x %zu, %zu heads, feed-forward %zu |\n"
                   "| gene embedding | %zu |\n| vocabulary | %zu ids, %zu genes |\n"
                   "| genes per cell | at most %zu |\n| latent pooling | %s |\n"
                   "| licence | weights: as the data's; software: Apache-2.0 |\n\n## Data\n\n"
                   "| file | chosen |\n|---|---|\n",
                   scd_net_n_params(run->net), c->n_layers, c->hidden_dim, c->n_heads, c->ffn_dim,
                   c->d, c->vocab, scd_vocab_n_genes(run->vocab), c->max_gene_len,
                   c->latent_visible ? "visible" : "clean");
    for (size_t i = 0; i < scd_corpus_n_files(run->corpus); i++)
        scd_buf_printf(&out, "| %s | %s |\n", scd_corpus_file_name(run->corpus, i),
                       scd_corpus_why(run->corpus, i));
    scd_buf_printf(&out,
                   "\n%zu cells to train on, %zu held out.\n\n## Recipe\n\n    scdiva-train "
                   "pretrain",
                   run->n_train, run->n_held_out);
    scd_options_recipe(run->table, run->n_table, &out);
    scd_buf_printf(&out,
                   "\n\n%llu steps of %zu cells on %s; the same bytes on any number of threads. "
                   "Made with scdiva-train %s.\n\n## Quality\n\n",
                   (unsigned long long)run->n_steps, run->o.batch,
                   run->be->info(run->device)->identity, SCD_VERSION);
    write_table(run, scores, &out);
    write_limits(run, &out);
    path_of(run, "card.md", path);
    scd_code code = out.failed ? scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path)
                               : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    return code;
}

static scd_code write_config(const scd_pretrain *run, scd_error *err)
{
    char path[PATH_BYTES];
    scd_buf out;
    scd_buf_init(&out, 1 << 16);
    scd_model_text_config(&run->config, &out);
    path_of(run, "config.json", path);
    scd_code code = out.failed ? scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path)
                               : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    return code;
}

/* How many tokens the training cells had, as the model saw them at most. */
static scd_code write_lengths(const scd_pretrain *run, scd_error *err)
{
    char path[PATH_BYTES];
    size_t most = run->config.max_gene_len, n = 0;
    if (run->o.augment.max_tokens && run->o.augment.max_tokens < most)
        most = run->o.augment.max_tokens;
    path_of(run, "lengths.tsv", path);
    size_t *lengths = scd_malloc(run->n_cells, sizeof *lengths);
    if (!lengths)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < run->n_cells && !code; i++) {
        scd_corpus_cell cell;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        if (run->keep[i])
            code = scd_corpus_read(run->corpus, i, 1, &arena, &cell, err);
        if (run->keep[i] && !code && cell.n)
            lengths[n++] = cell.n < most ? cell.n : most;
        scd_arena_release(&arena);
    }
    if (!code && n)
        code = scd_lengths_write(path, lengths, n, err);
    free(lengths);
    return code;
}

/* The old model goes: first what makes it one, then its heads. */
static scd_code make_way(const scd_pretrain *run, scd_error *err)
{
    char path[PATH_BYTES];
    path_of(run, weights_name, path);
    if (unlink(path) < 0 && errno != ENOENT)
        return scd_fail(err, SCD_E_IO, "%s: cannot replace: %s", path, strerror(errno));
    path_of(run, heads_name, path);
    return run->o.force ? scd_folder_remove(path, err) : SCD_OK;
}

scd_code scd_pretrain_write_model(scd_pretrain *run, const scd_pretrain_score *scores,
                                  scd_error *err)
{
    char path[PATH_BYTES];
    scd_code code;
    if ((code = make_way(run, err)) || (code = write_config(run, err)) ||
        (code = scd_file_write(path_of(run, "genes.tsv", path), run->genes.data, run->genes.n_bytes,
                               err)) ||
        (code = write_lengths(run, err)) || (code = write_card(run, scores, err)) ||
        (code = scd_net_save(run->net, path_of(run, weights_name, path), run->dtype, err)))
        return code;
    unlink(path_of(run, checkpoint_name, path));
    return SCD_OK;
}
