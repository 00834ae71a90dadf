/* export.c - scdiva-train export: a model directory with its weights in another dtype.
 *
 * All of it is written to a folder inside --out first, and opened from there as the daemon would
 * open it; then what was in --out makes way, and the files move up with model.safetensors as the
 * last: whatever moment a run is killed at, a directory that opens as a model is one, and a full
 * disk costs nothing that was there. */
#include "engine/train/export.h"

#include "engine/denoise/head.h"
#include "engine/train/folder.h"
#include "engine/train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_OPTIONS = 8, MAX_DIR = 4000 };

static const char summary[] =
    "Write a model directory again, with its weights in another dtype: F32 to half the size, or "
    "back.\n"
    "Heads go along, bound to the new model; their tensors stay as they are. What was converted "
    "stands\n"
    "at the end of card.md.";

/* In the order in which they move; the last makes a directory a model. */
static const char *const files[] = {"config.json", "genes.tsv", "lengths.tsv",
                                    "card.md",     "heads",     "model.safetensors"};
enum { N_FILES = sizeof files / sizeof files[0] };

static scd_code io_error(const char *path, const char *what, scd_error *err)
{
    return scd_fail(err, SCD_E_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* ---- options --------------------------------------------------------------------------------- */

static size_t fill_table(scd_export *run, scd_option *table)
{
    const scd_option all[] = {
        {"model", SCD_OPTION_TEXT, &run->from, "DIR", "the model", 0, 0, false, true},
        {"out", SCD_OPTION_TEXT, &run->out, "DIR", "where to; made if it is not there", 0, 0, false,
         true},
        {"dtype", SCD_OPTION_TEXT, &run->dtype_name, "T",
         "of the weights: f32, bf16 or f16; absent: as they are", 0, 0, false, false},
        {"head", SCD_OPTION_LIST, &run->head_names, "NAME",
         "take this head along; may be given several times; absent: all of them", 0, 0, false,
         false},
        {"no-heads", SCD_OPTION_FLAG, &run->no_heads, NULL, "take none along", 0, 0, false, false},
        {"force", SCD_OPTION_FLAG, &run->force, NULL, "replace a model in --out; its heads go too",
         0, 0, false, false}};
    memcpy(table, all, sizeof all);
    return sizeof all / sizeof all[0];
}

static int usage(const char *what, const char *value)
{
    fprintf(stderr,
            "scdiva-train export: %s%s\n"
            "scdiva-train export --help lists the options\n",
            what, value);
    return SCD_EXIT_USAGE;
}

static int read_options(scd_export *run, int argc, char **argv)
{
    static const char *const names[] = {[SCD_F32] = "f32", [SCD_F16] = "f16", [SCD_BF16] = "bf16"};
    scd_option table[MAX_OPTIONS];
    size_t n = fill_table(run, table);
    int rc = scd_options_read("export", summary, table, n, argc, argv);
    if (rc)
        return rc;
    run->dtype = SCD_EXPORT_KEPT;
    for (size_t i = 0; run->dtype_name && i < SCD_EXPORT_DTYPES; i++)
        if (!strcmp(run->dtype_name, names[i]))
            run->dtype = i;
    if (run->dtype_name && run->dtype == SCD_EXPORT_KEPT)
        return usage("--dtype must be f32, bf16 or f16, not ", run->dtype_name);
    if (run->no_heads && run->head_names.n)
        return usage("--head and --no-heads contradict each other", "");
    if (strlen(run->from) > MAX_DIR || strlen(run->out) > MAX_DIR)
        return usage("--model, --out: the path is too long", "");
    return SCD_EXIT_OK;
}

/* ---- folders --------------------------------------------------------------------------------- */

static scd_code check_free(const scd_export *run, scd_error *err)
{
    char path[SCD_EXPORT_PATH];
    struct stat from, out;
    if (!stat(run->from, &from) && !stat(run->out, &out) && from.st_dev == out.st_dev &&
        from.st_ino == out.st_ino)
        return scd_fail(err, SCD_E_INVALID, "--out %s is the model itself: give another folder",
                        run->out);
    for (size_t i = 0; i < N_FILES && !run->force; i++) {
        snprintf(path, sizeof path, "%s/%s", run->out, files[i]);
        if (!access(path, F_OK))
            return scd_fail(err, SCD_E_INVALID,
                            "%s is already there; --force replaces the model, its heads too", path);
    }
    return SCD_OK;
}

static scd_code open_stage(scd_export *run, scd_error *err)
{
    char path[SCD_EXPORT_PATH];
    scd_code code;
    if (!mkdir(run->out, 0777))
        run->made_out = true;
    else if (errno != EEXIST)
        return io_error(run->out, "make the folder", err);
    run->dir_lock = open(run->out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->dir_lock < 0)
        return io_error(run->out, "open", err);
    if (flock(run->dir_lock, LOCK_EX | LOCK_NB) < 0)
        return scd_fail(err, SCD_E_BUSY, "%s: another run is writing there", run->out);
    if ((code = check_free(run, err)))
        return code;
    snprintf(path, sizeof path, "%s/.export", run->out);
    if ((code = scd_folder_remove(path, err))) /* what a killed run left */
        return code;
    if (mkdir(path, 0777) < 0)
        return io_error(path, "make the folder", err);
    memcpy(run->stage, path, sizeof path);
    return SCD_OK;
}

/* Half a model is none: nothing of it stays. */
static void close_stage(scd_export *run)
{
    if (run->stage[0])
        scd_folder_remove(run->stage, NULL);
    if (run->made_out)
        rmdir(run->out); /* fails where the model is in it */
}

/* Renames are durable once their folder is. */
static scd_code sync_folder(const char *path, scd_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scd_code code = SCD_OK;
    if (fd < 0 || fsync(fd) < 0)
        code = io_error(path, "sync", err);
    if (fd >= 0)
        close(fd);
    return code;
}

static scd_code move_up(const scd_export *run, const char *file, scd_error *err)
{
    char from[SCD_EXPORT_PATH + 32], to[SCD_EXPORT_PATH];
    snprintf(from, sizeof from, "%s/%s", run->stage, file);
    snprintf(to, sizeof to, "%s/%s", run->out, file);
    if (rename(from, to) < 0)
        return io_error(to, "replace", err);
    return SCD_OK;
}

static scd_code publish(scd_export *run, scd_error *err)
{
    char path[SCD_EXPORT_PATH + 32];
    scd_code code = SCD_OK;
    snprintf(path, sizeof path, "%s/heads", run->stage);
    if (run->n_heads && (code = sync_folder(path, err)))
        return code;
    snprintf(path, sizeof path, "%s/%s", run->out, files[N_FILES - 1]);
    if (unlink(path) < 0 && errno != ENOENT)
        return io_error(path, "replace", err);
    snprintf(path, sizeof path, "%s/heads", run->out);
    if ((code = scd_folder_remove(path, err)))
        return code;
    for (size_t i = 0; i + 1 < N_FILES && !code; i++)
        if ((strcmp(files[i], "heads") != 0 || run->n_heads) &&
            (strcmp(files[i], "lengths.tsv") != 0 || run->has_lengths))
            code = move_up(run, files[i], err);
    if (code || (code = sync_folder(run->out, err)) ||
        (code = move_up(run, files[N_FILES - 1], err)))
        return code;
    return sync_folder(run->out, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

/* The stage opens as a model, and as the same one where nothing was to change. */
static scd_code check_stage(scd_export *run, scd_error *err)
{
    scd_model *model = NULL;
    scd_code code = scd_model_open(run->stage, &model, err);
    if (!code)
        code = scd_model_digest(model, &run->new_digest, err);
    scd_model_close(model);
    if (!code && !run->is_converted && !run->config_changed &&
        !scd_digest_equal(&run->old_digest, &run->new_digest))
        code = scd_fail(err, SCD_E_CORRUPT, "%s: was changed while it was exported", run->from);
    return code;
}

static void report(const scd_export *run)
{
    char had[32] = "", digest[SCD_DIGEST_HEX];
    scd_export_had_text(run, had);
    scd_digest_hex(&run->new_digest, digest);
    printf("%s: %zu parameters, %s", run->out, scd_model_n_params(run->model), had);
    if (run->is_converted)
        printf(" -> %s, largest change %.3g", scd_export_dtype_text((scd_dtype)run->dtype),
               run->max_change);
    printf("\ndigest %s\n", digest);
    for (size_t i = 0; i < run->n_heads; i++)
        printf("head %s\n", strrchr(run->heads[i], '/') + 1);
    if (run->n_unused)
        printf("%zu tensors of the file, which the model does not use, were left out\n",
               run->n_unused);
}

static scd_code run_all(scd_export *run, scd_error *err)
{
    scd_code code;
    if ((code = scd_model_open(run->from, &run->model, err)) ||
        (code = scd_model_digest(run->model, &run->old_digest, err)) ||
        (code = scd_export_choose_heads(run, err)) || (code = open_stage(run, err)) ||
        (code = scd_export_weights(run, err)) || (code = scd_export_texts(run, err)) ||
        (code = check_stage(run, err)) || (code = scd_export_heads(run, err)) ||
        (code = publish(run, err)))
        return code;
    report(run);
    return SCD_OK;
}

int scd_train_export(int argc, char **argv)
{
    scd_export run = {.dir_lock = -1};
    scd_error err = {0};
    int rc = read_options(&run, argc, argv);
    if (!rc && run_all(&run, &err)) {
        fprintf(stderr, "scdiva-train export: %s\n", err.message);
        rc = SCD_EXIT_FAILED;
    }
    close_stage(&run);
    if (run.dir_lock >= 0)
        close(run.dir_lock);
    scd_heads_forget(run.heads, run.n_heads);
    scd_model_close(run.model);
    free(run.head_names.items);
    return rc < 0 ? SCD_EXIT_OK : rc;
}
