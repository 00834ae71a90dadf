/* job_result.c - see job_run.h: the result, from the file of chunks. */
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "server/job_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_ROWS = 256, MAX_ENTRIES = 1 << 20, BLOCK_BYTES = 1 << 30 };

scd_results_spec scd_job_spec(const scd_job_way *w)
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

static scd_code read_chunk_rows(const scd_job_way *w, size_t first, size_t n, char *out,
                                scd_error *err)
{
    size_t left = n * w->row_bytes;
    for (off_t from = (off_t)(first * w->row_bytes); left;) {
        ssize_t got = pread(w->fd, out, left, from);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return scd_fail(err, SCD_E_IO, "chunks cannot be read: %s",
                            got ? strerror(errno) : "their file is short");
        out += got;
        from += got;
        left -= (size_t)got;
    }
    return SCD_OK;
}

/* One block from the chunks into the result. */
static scd_code add_block(scd_job_way *w, scd_results *results, size_t first, size_t n,
                          bool with_rows, scd_error *err)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_arena_init(&arena, BLOCK_BYTES);
    char *kept = scd_arena_alloc(&arena, n, w->row_bytes);
    float *embeddings = scd_arena_alloc(&arena, n, (w->width + 1) * sizeof *embeddings);
    float *probabilities = scd_arena_alloc(&arena, n, (w->n_labels + 1) * sizeof *probabilities);
    scd_code code = kept && embeddings && probabilities
                        ? read_chunk_rows(w, first, n, kept, err)
                        : scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
    if (!code && with_rows)
        code = scd_cells_rows_read(w->cells, w->plan.choice.matrix, first, n, &arena, &rows, err);
    for (size_t i = 0; i < n && !code; i++) {
        const char *at = kept + i * w->row_bytes + sizeof(scd_job_row);
        memcpy(embeddings + i * w->width, at, w->width * sizeof *embeddings);
        memcpy(probabilities + i * w->n_labels, at + w->width * sizeof *embeddings,
               w->n_labels * sizeof *probabilities);
    }
    scd_results_block block = {n, w->width ? embeddings : NULL, w->n_labels ? probabilities : NULL,
                               with_rows ? &rows : NULL, NULL};
    if (!code)
        code = scd_results_add(results, &block, err);
    scd_arena_release(&arena);
    return code;
}

static size_t facts_of(const scd_job_way *w, scd_fact facts[SCD_RUN_MAX_FACTS])
{
    const scd_device_info *device = scd_engine_device(w->jobs->o.engine);
    const scd_results_spec spec = scd_job_spec(w);
    const scd_run_about about = {.task = w->job.query.task,
                                 .model = w->model->name,
                                 .model_digest = w->model->digest_hex,
                                 .device = scd_engine_device_kind(w->jobs->o.engine),
                                 .isa = device->isa,
                                 .precision =
                                     device->precision == SCD_PRECISION_BF16 ? "bf16" : "fp32",
                                 .head = w->head ? w->head->name : NULL,
                                 .head_digest = w->head ? w->head->digest_hex : NULL,
                                 .threshold = spec.threshold,
                                 .n_labels = w->n_labels,
                                 .labels = w->labels,
                                 .ontology_ids = w->ontology_ids,
                                 .input = w->job.query.filename,
                                 .input_format = scd_cells_format(w->cells),
                                 .input_sha256 = w->job.input_sha256};
    return scd_run_facts(&about, &w->plan, &w->sums, facts);
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
    scd_results *results = NULL;
    const scd_results_spec spec = scd_job_spec(w);
    bool with_rows = scd_results_is_h5ad(w->output) && strcmp(scd_cells_format(w->cells), "h5ad");
    size_t per_cell = (size_t)(w->plan.n_stored / w->plan.n_cells) + 1,
           block = MAX_ENTRIES / per_cell;
    block = block < 1 ? 1 : block > BLOCK_ROWS ? BLOCK_ROWS : block;
    unlink(w->output); /* of a time before a crash: this one is the same */
    scd_code code = scd_results_open(&spec, &results, err);
    for (size_t at = 0; at < w->plan.n_cells && !code; at += block) {
        size_t left = w->plan.n_cells - at;
        code = scd_job_is_unwanted(w->jobs, w->job.id)
                   ? scd_fail(err, SCD_E_CANCELED, "not wanted any more")
                   : add_block(w, results, at, left < block ? left : block, with_rows, err);
    }
    if (!code)
        code = scd_results_commit(results, facts, facts_of(w, facts), err);
    scd_results_free(results);
    return code ? code : digest_file(w->output, digest, n_bytes, err);
}
