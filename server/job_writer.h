/* job_writer.h - the result of a stranger's .h5ad, written by a process of its own.
 *
 * The result of an .h5ad is a copy of it with more in it, and libhdf5, which adds that, does not
 * stand up to any bytes whatever. So a child copies and adds; what it is to write stands in the
 * file of chunks, which holds numbers of ours. It is confined as the reader is (api/sandbox.h): it
 * reads these two files and writes in a folder made for it, from which the parent takes the result.
 * Its memory, its file and its time are bounded; whatever becomes of it is an error of this job.
 *
 * The child is this very program with the argument SCD_JOB_WRITER_ARGUMENT: main calls
 * scd_job_writer_main first.
 *
 * Threads: any; the child has one. Owns: the child, until it has ended. */
#ifndef SCD_JOB_WRITER_H
#define SCD_JOB_WRITER_H

#include "api/run.h"

#define SCD_JOB_WRITER_ARGUMENT "--job-writer"
/* The folder beside a result in which it is being written: gone, with all that is in it, when the
 * child is; what a crash left of it goes at the next start. */
#define SCD_JOB_WRITER_FOLDER ".work"

/* From the file of chunks into a result. */
typedef struct scd_job_writing {
    scd_results_spec spec; /* cells and plan are of the input */
    const char *chunks;    /* path */
    size_t row_bytes;
    const scd_fact *facts;
    size_t n_facts;
    bool (*is_unwanted)(void *arg); /* NULL: it is wanted to the end */
    void *arg;
} scd_job_writing;

/* ---- job_result.c ---- */
scd_code scd_job_write_here(const scd_job_writing *writing, scd_error *err);

/* ---- job_writer.c ---- */
/* The same by a child. only_checks: what would be in the way is told, and nothing written. */
scd_code scd_job_write_apart(const scd_job_writing *writing, const char *input, bool only_checks,
                             scd_error *err);
/* Removes such a folder and what is in it. */
void scd_job_writer_forget(const char *folder);
/* Is this process such a child? Then *status is what main returns. */
bool scd_job_writer_main(int argc, char **argv, int *status);

#endif
