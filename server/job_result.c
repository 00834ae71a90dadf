/* job_result.c - see job_run.h and job_writer.h: the result, from the file of chunks. */
#include "engine/base/fd.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "server/job_run.h"
#include "server/job_writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_ROWS = 256, MAX_ENTRIES = 1 << 20, BLOCK_BYTES = 1 << 30 };

/* ---- writing -------------------------------------------------------------------------------- */

/* One block from the chunks into the result. */
static scd_code add_block(const scd_job_writing *w, int fd, scd_results *results, size_t first,
                          size_t n, bool with_rows, scd_error *err)
{
    const scd_results_spec *s = &w->spec;
    size_t width = s->embedding_width, n_labels = s->n_labels;
    scd_arena arena;
    scd_cells_rows rows;
    scd_code code = SCD_OK;
    scd_arena_init(&arena, BLOCK_BYTES);
    char *kept = scd_arena_alloc(&arena, n, w->row_bytes);
    float *embeddings = scd_arena_alloc(&arena, n, (width + 1) * sizeof *embeddings);
    float *probabilities = scd_arena_alloc(&arena, n, (n_labels + 1) * sizeof *probabilities);
    if (!kept || !embeddings || !probabilities)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
    else if (!scd_pread_all(fd, kept, n * w->row_bytes, first * w->row_bytes))
        code = scd_fail(err, SCD_E_IO, "chunks cannot be read: %s",
                        errno ? strerror(errno) : "their file is short");
    if (!code && with_rows)
        code = scd_cells_rows_read(s->cells, s->plan->choice.matrix, first, n, &arena, &rows, err);
    for (size_t i = 0; i < n && !code; i++) {
        const char *at = kept + i * w->row_bytes + sizeof(scd_job_row);
        memcpy(embeddings + i * width, at, width * sizeof *embeddings);
        memcpy(probabilities + i * n_labels, at + width * sizeof *embeddings,
               n_labels * sizeof *probabilities);
    }
    scd_results_block block = {n, width ? embeddings : NULL, n_labels ? probabilities : NULL,
                               with_rows ? &rows : NULL, NULL};
    if (!code)
        code = scd_results_add(results, &block, err);
    scd_arena_release(&arena);
    return code;
}

static bool is_h5ad(const scd_results_spec *s)
{
    return strcmp(scd_cells_format(s->cells), "h5ad") == 0;
}

scd_code scd_job_write_here(const scd_job_writing *w, scd_error *err)
{
    const scd_results_spec *s = &w->spec;
    scd_results *results = NULL;
    int fd = -1;
    size_t n_bytes, per_cell = (size_t)(s->plan->n_stored / s->plan->n_cells) + 1;
    size_t block = MAX_ENTRIES / per_cell;
    block = block < 1 ? 1 : block > BLOCK_ROWS ? BLOCK_ROWS : block;
    bool with_rows = scd_results_is_h5ad(s->path) && !is_h5ad(s);
    scd_code code = scd_file_open(w->chunks, &fd, &n_bytes, err);
    if (!code)
        code = scd_results_open(s, &results, err);
    for (size_t at = 0; at < s->plan->n_cells && !code; at += block) {
        size_t left = s->plan->n_cells - at;
        code = w->is_unwanted && w->is_unwanted(w->arg)
                   ? scd_fail(err, SCD_E_CANCELED, "not wanted any more")
                   : add_block(w, fd, results, at, left < block ? left : block, with_rows, err);
    }
    if (!code)
        code = scd_results_commit(results, w->facts, w->n_facts, err);
    scd_results_free(results);
    if (fd >= 0)
        close(fd);
    return code;
}

/* ---- of a job ------------------------------------------------------------------------------- */

static scd_results_spec spec_of(const scd_job_way *w)
{
    const scd_job_query *q = &w->job.query;
    return (scd_results_spec){.path = w->output,
                              .cells = w->cells,
                              .plan = &w->plan,
                              .task = q->task,
                              .overwrite = q->overwrite,
                              .embedding_width = w->width,
                              .n_labels = w->n_labels,
                              .labels = w->labels,
                              .threshold = q->has_threshold ? q->threshold
                                           : w->head        ? w->head->threshold
                                                            : 0};
}

static size_t facts_of(const scd_job_way *w, scd_fact facts[SCD_RUN_MAX_FACTS])
{
    const scd_device_info *device = scd_engine_device(w->jobs->o.engine);
    const scd_run_about about = {.task = w->job.query.task,
                                 .model = w->model->name,
                                 .model_digest = w->model->digest_hex,
                                 .device = scd_engine_device_kind(w->jobs->o.engine),
                                 .isa = device->isa,
                                 .precision =
                                     device->precision == SCD_PRECISION_BF16 ? "bf16" : "fp32",
                                 .head = w->head ? w->head->name : NULL,
                                 .head_digest = w->head ? w->head->digest_hex : NULL,
                                 .threshold = spec_of(w).threshold,
                                 .n_labels = w->n_labels,
                                 .labels = w->labels,
                                 .ontology_ids = w->ontology_ids,
                                 .input = w->job.query.filename,
                                 .input_format = scd_cells_format(w->cells),
                                 .input_sha256 = w->job.input_sha256};
    return scd_run_facts(&about, &w->plan, &w->sums, facts);
}

static bool is_unwanted(void *arg)
{
    const scd_job_way *w = arg;
    return scd_job_is_unwanted(w->jobs, w->job.id);
}

/* By a process of its own where libhdf5 is to add to a stranger's file. */
static scd_code write_result(scd_job_way *w, const scd_fact *facts, size_t n, bool only_checks,
                             scd_error *err)
{
    const scd_job_writing writing = {.spec = spec_of(w),
                                     .chunks = w->chunks,
                                     .row_bytes = w->row_bytes,
                                     .facts = facts,
                                     .n_facts = n,
                                     .is_unwanted = is_unwanted,
                                     .arg = w};
    unlink(w->output); /* of a time before a crash: this one is the same */
    if (scd_results_is_h5ad(w->output) && is_h5ad(&writing.spec)) {
        scd_code code = scd_job_write_apart(&writing, w->input, only_checks, err);
        if (!code && !only_checks && !scd_jobs_sync_dir(w->jobs))
            code = scd_fail(err, SCD_E_IO, "the result cannot be synced: %s", strerror(errno));
        return code;
    }
    return only_checks ? scd_results_check(&writing.spec, err) : scd_job_write_here(&writing, err);
}

scd_code scd_job_check_result(scd_job_way *w, scd_error *err)
{
    return write_result(w, NULL, 0, true, err);
}

static scd_code digest_file(const char *path, scd_digest *digest, uint64_t *n_bytes, scd_error *err)
{
    int fd = -1;
    size_t n;
    scd_hasher *hasher = scd_hasher_new();
    scd_code code =
        hasher ? scd_file_open(path, &fd, &n, err) : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = scd_hasher_add_file(hasher, fd, path, err);
    if (!code) {
        *digest = scd_hasher_finish(hasher);
        *n_bytes = n;
    }
    if (fd >= 0)
        close(fd);
    scd_hasher_free(hasher);
    return code;
}

scd_code scd_job_write_result(scd_job_way *w, scd_digest *digest, uint64_t *n_bytes, scd_error *err)
{
    scd_fact facts[SCD_RUN_MAX_FACTS];
    scd_code code = write_result(w, facts, facts_of(w, facts), false, err);
    return code ? code : digest_file(w->output, digest, n_bytes, err);
}
