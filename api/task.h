/* task.h - the tasks of whole files, each a row of one table: what of a query belongs to it, what
 * is computed of a cell, and what comes of all cells.
 *
 * Whoever computes - a worker of jobs, or scdiva - goes the same way, so that the bytes are the
 * same:
 *
 *     scd_task_check    the query against the model: before a file is there
 *     scd_task_open     the file's plan is made: how long a cell's row is
 *     scd_task_spec     what the result will hold, for what would be in its way
 *     scd_task_add      for each cell: orders - what is to be computed, and where it goes
 *     scd_task_take     for each order that is done: what it means, into the cell's row
 *     scd_task_fold     all rows in order, from the first: what is summed over cells
 *     scd_task_finish   what comes of the sums
 *     scd_task_block    rows become what is written of cells
 *
 * A cell's row depends on the cell alone: rows may be kept, and a file cut into chunks anywhere.
 *
 * To add a task: a row of the table in task.c, its functions in a task_*.c.
 *
 * Threads: one at a time. Owns: nothing; what is made lives in the caller's arenas. */
#ifndef SCD_API_TASK_H
#define SCD_API_TASK_H

#include "api/job_query.h"
#include "api/run.h"

struct scd_task_ops;

/* A row of the table. */
typedef struct scd_task_kind {
    const char *name;
    const char *head;              /* the task of its heads, one of which it needs; NULL: none */
    const char *const *parameters; /* of a query, beside those of every task; NULL-terminated */
    const char *const *formats;    /* that its result can have; NULL-terminated */
    const struct scd_task_ops *ops;
    const char *needs, *needs_what; /* a list that has to be given, and what it is; NULL: none */
} scd_task_kind;

const scd_task_kind *scd_task_find(const char *name); /* NULL: there is none */
/* "embed, annotate": those that take this parameter (NULL: all tasks), for messages. */
void scd_task_names(const char *parameter, char out[160]);
bool scd_task_takes(const scd_task_kind *kind, const char *parameter);
bool scd_task_writes(const scd_task_kind *kind, const char *format);

/* Who is asked. */
typedef struct scd_task_model {
    const scd_engine *engine;
    const scd_device_info *device; /* whose bits all results are */
    const char *device_kind;
    size_t index;
    const scd_served_model *model;
    const scd_head_info *head; /* NULL: none */
} scd_task_model;

/* Does what the query says make sense to this model? Else *problem says which parameter does not.
 */
void scd_task_check(const scd_job_query *query, const scd_task_model *who, scd_problem *problem);

enum { SCD_TASK_MAX_WORKS = 2, SCD_TASK_MAX_FACTS = 16 };

/* How many cells have a label as their best, and how many of them are below the threshold. */
typedef struct scd_label_count {
    size_t n_cells, n_unknown;
} scd_label_count;

typedef struct scd_task {
    const scd_task_kind *kind;
    const scd_job_query *query;
    scd_task_model who;
    scd_cells *cells;
    scd_file_plan *plan;
    scd_arena *arena; /* of all that lives as long as the task */
    /* From here on of scd_task_open: */
    scd_work works[SCD_TASK_MAX_WORKS];          /* kinds of work that cells are asked for */
    const char *cache_tasks[SCD_TASK_MAX_WORKS]; /* as the routes name them in keys */
    size_t n_works;
    size_t row_floats;                   /* of a cell */
    size_t width, n_labels;              /* of its row: an embedding, then probabilities; 0: none */
    const char **labels, **ontology_ids; /* (n_labels) */
    double threshold;
    scd_label_count *counts; /* (n_labels) of annotate, after scd_task_fold */
    scd_table table;         /* of a task whose result is one: filled by scd_task_finish */
    scd_fact facts[SCD_TASK_MAX_FACTS]; /* of this task, for provenance */
    size_t n_facts;
    void *own;
} scd_task;

/* task->kind, query, who, cells, plan and arena are set. Adds warnings to the plan.
 * SCD_E_INVALID: the file has not what the query says; SCD_E_NOMEM. */
scd_code scd_task_open(scd_task *task, scd_error *err);
/* What its result holds but for path and overwrite; until the end of the task. */
scd_results_spec scd_task_spec(const scd_task *task);
/* The facts of uns["scdiva"][task]; how many. */
size_t scd_task_facts(const scd_task *task, const scd_run_sums *sums, const char *input,
                      const char *input_sha256, scd_fact facts[SCD_RUN_MAX_FACTS]);

/* Something that is to be computed of a cell. */
typedef struct scd_task_order {
    struct scd_task_order *next;
    size_t work; /* which of task->works */
    scd_cell cell;
    scd_plan *plan;         /* a course of passes; NULL: one pass */
    float *out;             /* (width) for its result */
    size_t width, n_tokens; /* n_tokens: of all its passes */
    float *row;             /* of the cell: for scd_task_take */
    size_t part;            /* the task's own */
} scd_task_order;

/* Cells at a time: their orders, in the arena. */
typedef struct scd_task_chunk {
    scd_arena *arena;
    scd_task_order *first, **last;
    size_t n_orders, n_tokens; /* n_tokens: of all passes */
} scd_task_chunk;

void scd_task_chunk_init(scd_task_chunk *chunk, scd_arena *arena);

/* Row `row` of a block the first of which is row `first` of the file. out: (row_floats), filled
 * with NaN and then with what orders do not fill. Errors as scd_run_cell_make. */
scd_code scd_task_add(scd_task *task, const scd_cells_rows *rows, size_t row, size_t first,
                      float *out, scd_task_chunk *chunk, scd_run_cell *said, scd_error *err);
void scd_task_take(scd_task *task, const scd_task_order *order);

bool scd_task_folds(const scd_task *task);
/* n rows, each `stride` bytes behind the one before it. */
scd_code scd_task_fold(scd_task *task, const scd_run_cell *said, const void *rows, size_t stride,
                       size_t n, size_t first, scd_error *err);
scd_code scd_task_finish(scd_task *task, scd_error *err);
/* Of annotate, the labels that cells have, in the head's order: [{"label":...,"cells":...,
 * "unknown":...}, ...]. False, and nothing written: the task has no labels. */
bool scd_task_write_labels(const scd_task *task, scd_buf *out);

/* What of the rows is written; spec: as above. Arrays in the arena. input: the file's own rows, or
 * NULL where spec does not need them. SCD_E_NOMEM. */
scd_code scd_task_block(const scd_results_spec *spec, const void *rows, size_t stride, size_t n,
                        const scd_cells_rows *input, scd_arena *arena, scd_results_block *out,
                        scd_error *err);

/* ---- what tasks are made of: task_*.c ------------------------------------------------------- */

typedef struct scd_task_ops {
    void (*check)(const scd_job_query *query, const scd_task_model *who, scd_problem *problem);
    scd_code (*open)(scd_task *task, scd_error *err);
    /* NULL: an embedding, then probabilities, of one pass each. */
    scd_code (*add)(scd_task *task, const scd_cells_rows *rows, size_t row, size_t first,
                    float *out, scd_task_chunk *chunk, scd_run_cell *said, scd_error *err);
    void (*take)(scd_task *task, const scd_task_order *order); /* NULL: results are in the row */
    scd_code (*fold)(scd_task *task, const scd_run_cell *said, const float *row, size_t cell,
                     scd_error *err);                           /* NULL: nothing is summed */
    scd_code (*finish)(scd_task *task, scd_error *err);         /* may be NULL */
    void (*spec)(const scd_task *task, scd_results_spec *spec); /* may be NULL */
} scd_task_ops;

/* One more order of the chunk: one pass, with a result of `width` floats into `out`; NULL: out of
 * memory. */
scd_task_order *scd_task_order_add(scd_task_chunk *chunk, size_t work, const scd_cell *cell,
                                   float *out, size_t width);
/* One for a course of n_passes, which hides n_hidden tokens; its result is for scd_task_take. */
scd_task_order *scd_task_course_add(scd_task_chunk *chunk, size_t work, const scd_cell *cell,
                                    scd_plan *plan, size_t n_hidden, size_t n_passes, float *row);
scd_code scd_task_no_memory(scd_error *err);
/* Tokens of the genes that the query's list names, in its order; *n. What is no gene of the model,
 * or the same as another, is the problem's. NULL: then, or out of memory, which is one as well. */
int32_t *scd_task_genes(const scd_job_query *query, const scd_vocab *vocab, scd_arena *arena,
                        size_t *n, scd_problem *problem);
/* Does the device do courses? Else it is the problem's. */
bool scd_task_can_denoise(const scd_task_model *who, scd_problem *problem);
/* More of provenance. */
void scd_task_fact_text(scd_task *task, const char *key, const char *text);
void scd_task_fact_number(scd_task *task, const char *key, double number);
void scd_task_fact_list(scd_task *task, const char *key, const char *const *list, size_t n);

extern const scd_task_ops scd_task_impute, scd_task_grn, scd_task_perturb, scd_task_integrate;

#endif
