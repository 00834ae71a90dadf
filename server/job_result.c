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

enum { BLOCK_ROWS = 256, MAX_ENTRIES = 1 << 20, BLOCK_BYTES = 1 << 30, FOLD_BYTES = 16 << 20 };

/* ---- writing -------------------------------------------------------------------------------- */

/* One block from the chunks into the result. */
static scd_code add_block(const scd_job_writing *w, int fd, scd_results *results, size_t first,
                          size_t n, bool with_rows, scd_error *err)
{
    const scd_results_spec *s = &w->spec;
    scd_arena arena;
    scd_cells_rows rows;
    scd_code code = SCD_OK;
    scd_arena_init(&arena, BLOCK_BYTES);
    char *kept = scd_arena_alloc(&arena, n, w->row_bytes);
    scd_results_block block;
    if (!kept)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
    else if (!scd_pread_all(fd, kept, n * w->row_bytes, first * w->row_bytes))
        code = scd_fail(err, SCD_E_IO, "chunks cannot be read: %s",
                        errno ? strerror(errno) : "their file is short");
    if (!code && with_rows)
        code = scd_cells_rows_read(s->cells, s->plan->choice.matrix, first, n, &arena, &rows, err);
    if (!code)
        code = scd_task_block(s, kept + sizeof(scd_job_row), w->row_bytes, n,
                              with_rows ? &rows : NULL, &arena, &block, err);
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
    size_t n_bytes, per_cell = s->denoised ? s->plan->n_genes + 1
                                           : (size_t)(s->plan->n_stored / s->plan->n_cells) + 1;
    size_t block = MAX_ENTRIES / per_cell;
    block = block < 1 ? 1 : block > BLOCK_ROWS ? BLOCK_ROWS : block;
    bool with_rows = s->denoised || (scd_results_is_h5ad(s->path) && !is_h5ad(s));
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
    scd_results_spec spec = scd_task_spec(&w->task);
    spec.path = w->output;
    spec.overwrite = w->job.query.overwrite;
    return spec;
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

/* ---- what is summed over cells --------------------------------------------------------------- */

scd_code scd_job_fold(scd_job_way *w, scd_error *err)
{
    scd_code code = SCD_OK;
    size_t block = FOLD_BYTES / w->row_bytes + 1;
    char *kept = scd_malloc(block, w->row_bytes);
    scd_run_cell *said = scd_malloc(block, sizeof *said);
    if (!kept || !said)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the rows of %zu cells", block);
    for (size_t at = 0; at < w->plan.n_cells && !code; at += block) {
        size_t n = w->plan.n_cells - at < block ? w->plan.n_cells - at : block;
        if (is_unwanted(w))
            code = scd_fail(err, SCD_E_CANCELED, "not wanted any more");
        else if (!scd_pread_all(w->fd, kept, n * w->row_bytes, at * w->row_bytes))
            code = scd_fail(err, SCD_E_IO, "chunks cannot be read: %s", strerror(errno));
        for (size_t i = 0; i < n && !code; i++)
            said[i] = scd_job_row_cell((const scd_job_row *)(kept + i * w->row_bytes));
        if (!code)
            code =
                scd_task_fold(&w->task, said, kept + sizeof(scd_job_row), w->row_bytes, n, at, err);
    }
    free(said);
    free(kept);
    return code ? code : scd_task_finish(&w->task, err);
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
    size_t n =
        scd_task_facts(&w->task, &w->sums, w->job.query.filename, w->job.input_sha256, facts);
    scd_code code = write_result(w, facts, n, false, err);
    return code ? code : digest_file(w->output, digest, n_bytes, err);
}
