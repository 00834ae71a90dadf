/* job_run.h - one job on its way from file to result, in a worker: what its parts share.
 *
 *     job_run.c      the way: file, plan, model; resuming; the end
 *     job_chunk.c    some cells: rows -> orders -> the batcher -> the file of chunks
 *     job_result.c   the file of chunks -> the result (job_writer.c: by another process)
 *
 * A cell's row in the file of chunks is a scd_job_row, then the task's row of it (api/task.h).
 *
 * Threads: one worker. Owns: all of the run. */
#ifndef SCD_JOB_RUN_H
#define SCD_JOB_RUN_H

#include "api/task.h"
#include "server/jobs_impl.h"

typedef struct scd_job_row {
    uint64_t answered; /* 0 no, 1 yes, 2 outside */
    uint64_t n_tokens, n_truncated, n_unused;
    double mapped, given;
} scd_job_row;

typedef struct scd_job_way {
    scd_jobs *jobs;
    const scd_device_info *device; /* whose bits all of the results are */
    const char *device_kind;
    scd_job_record job;            /* as it was when the worker took it; n_done moves on */
    char *input, *chunks, *output; /* paths */
    scd_cells *cells;
    scd_arena arena; /* of the plan */
    scd_file_plan plan;
    scd_gene_book book;
    scd_task task;
    size_t row_bytes;
    uint64_t reserved; /* bytes of disk, for the cells that are not yet done */
    int fd;            /* of the chunks */
    scd_run_sums sums;
} scd_job_way;

/* ---- job_chunk.c ---- */
/* From cell job.n_done to the last, each chunk kept when it is done. */
scd_code scd_job_compute(scd_job_way *w, scd_error *err);
scd_run_cell scd_job_row_cell(const scd_job_row *row);

/* ---- job_result.c ---- */
/* What would be in a result's way, told before anything is computed. */
scd_code scd_job_check_result(scd_job_way *w, scd_error *err);
/* All rows of the file of chunks, in order, into what the task sums. */
scd_code scd_job_fold(scd_job_way *w, scd_error *err);
/* The result is there, durable; its digest and size. */
scd_code scd_job_write_result(scd_job_way *w, scd_digest *digest, uint64_t *n_bytes,
                              scd_error *err);

#endif
