/* job_query.h - what POST /v1/jobs is asked to do with a file: its query, checked and in one form.
 *
 *   task              a row of the table in task.c
 *   format            of the result: h5ad, csv, tsv, npy
 *   model             name; the default model
 *   head              annotate, perturb: name; the only one
 *   layer, gene_column, genome
 *   genes_in          of a table: rows or columns
 *   threshold         annotate: below it a cell is unknown
 *   embeddings        annotate: true writes embeddings as well
 *   genes             impute: names with commas between; all of the file's
 *   pooling           impute: visible, or clean, which leaks what is hidden
 *   regulators        grn: names with commas between
 *   top_k             grn: targets of each regulator; 20
 *   layers, heads     grn: numbers with commas between, from 0; all
 *   perturbations     perturb: "KLF1,KLF1+BAK1"
 *   direction, context
 *   top_genes         perturb: as POST /v1/perturbations has them; all
 *   control_column    perturb: a column of obs; all cells are controls
 *   control           perturb: what a control has in it; "control"
 *   batch_column, label_column
 *   uncorrected       integrate: what is compared, see task_integrate.c
 *   force, overwrite  true or false
 *   on_error          skip or fail
 *   filename          of the file, for messages and names
 *   sha256            64 hex digits: of the whole file
 *   webhook           URL that is told when the job is over
 *
 * Threads: any. Owns: nothing; plain data with fixed bounds. */
#ifndef SCD_API_JOB_QUERY_H
#define SCD_API_JOB_QUERY_H

#include "api/problem.h"
#include "api/text.h"
#include "engine/base/arena.h"
#include "engine/base/hash.h"

#include <stdbool.h>

enum {
    SCD_JOB_NAME_BYTES = 256,
    SCD_JOB_URL_BYTES = 1024,
    SCD_JOB_LIST_BYTES = 4096,
    SCD_JOB_NUMBERS_BYTES = 256
};

typedef struct scd_job_query {
    char task[16], format[8];
    char model[SCD_JOB_NAME_BYTES], head[SCD_JOB_NAME_BYTES];
    char layer[SCD_JOB_NAME_BYTES], gene_column[SCD_JOB_NAME_BYTES], genome[SCD_JOB_NAME_BYTES];
    char genes_in[8];
    char filename[SCD_JOB_NAME_BYTES];
    char sha256[SCD_DIGEST_HEX];
    char webhook[SCD_JOB_URL_BYTES];
    char direction[16], context[SCD_JOB_NAME_BYTES];
    char batch_column[SCD_JOB_NAME_BYTES], label_column[SCD_JOB_NAME_BYTES];
    char uncorrected[SCD_JOB_NAME_BYTES];
    char control_column[SCD_JOB_NAME_BYTES], control[SCD_JOB_NAME_BYTES];
    char pooling[8], layers[SCD_JOB_NUMBERS_BYTES], heads[SCD_JOB_NUMBERS_BYTES];
    char list[SCD_JOB_LIST_BYTES]; /* of the parameter list_name: a task has one list at most */
    char list_name[16];
    bool has_threshold, embeddings, force, overwrite, fail_on_error;
    double threshold;
    size_t top_k, top_genes; /* 0: none given */
} scd_job_query;

/* One parameter. What is wrong with it is added to *problem, "/name" being its place. */
void scd_job_query_set(scd_job_query *query, const char *name, const char *value,
                       scd_problem *problem);
/* All are set: is that a job? */
void scd_job_query_check(scd_job_query *query, scd_problem *problem);

/* "task=embed&format=csv&...": what is not empty, in one order, percent-encoded; what it means is
 * the same where the text is the same. Reading it gives the query back; false: it is no such text.
 */
void scd_job_query_write(const scd_job_query *query, scd_buf *out);
bool scd_job_query_read(scd_job_query *query, const char *text);

/* Members ",\"name\":value" of what is set, but task, format, model, filename and sha256. */
void scd_job_query_put(const scd_job_query *query, scd_buf *out);

/* "name=value" of those of `names` (NULL-terminated) that are set, as people write them, in the
 * arena. False: out of memory. */
bool scd_job_query_tell(const scd_job_query *query, const char *const *names, scd_arena *arena,
                        const char *const **out, size_t *n);

/* What stands between the commas of a list, without the blanks around it; items in the arena, text
 * in the list. False: out of memory. */
bool scd_job_list_read(const char *list, scd_arena *arena, scd_text **items, size_t *n);

/* May a file come as this Content-Type? multipart/form-data is told apart in *is_form. */
bool scd_job_takes_type(const char *content_type, bool *is_form);
/* Of the result. */
const char *scd_job_result_type(const char *format);

#endif
