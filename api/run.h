/* run.h - a file of cells through a model, whoever computes: rows become cells, what is judged over
 * all of them, and the facts that are written beside the results.
 *
 * Nothing here depends on when, where or how long: the same input and model give the same cells,
 * judgements and facts, in a program or in a daemon.
 *
 * Threads: any. Owns: nothing; what is made lives in the caller's arena. */
#ifndef SCD_API_RUN_H
#define SCD_API_RUN_H

#include "api/results.h"
#include "engine/engine.h"

/* What came out of one cell. */
typedef struct scd_run_cell {
    bool is_answered;
    bool is_outside; /* not asked about: no answer is missing */
    size_t n_tokens, n_truncated;
    size_t n_unused;      /* expressed genes that the head does not use */
    double mapped, given; /* counts */
} scd_run_cell;

/* Row `row` of the block as a cell. `wanted` is the head's genes, or NULL: all. A cell without
 * known genes is not answered. SCD_E_INVALID names matrix, row (first is that of the block's first)
 * and gene where a value is of no use. */
scd_code scd_run_cell_make(const scd_served_model *model, const scd_file_plan *plan,
                           const scd_cells_rows *rows, size_t row, size_t first,
                           const uint8_t *wanted, scd_arena *arena, scd_cell *cell,
                           scd_run_cell *out, scd_error *err);

/* The sums over all cells. */
typedef struct scd_run_sums {
    size_t n_cells, n_answered, n_outside, n_poor, n_truncated_cells, first_unanswered;
    uint64_t n_tokens, n_truncated, n_unused;
    double mapped, given;
    double seconds; /* of the whole run; told, not written */
} scd_run_sums;

/* Count the n next cells, the first of which is row `first`. fail_unanswered: one without known
 * genes is SCD_E_INVALID. `path` is for messages. */
scd_code scd_run_count(scd_run_sums *sums, const scd_run_cell *cells, size_t n, size_t first,
                       bool fail_unanswered, const char *path, scd_error *err);

/* Over all cells, what scd_cells_plan judged over a sample: SCD_E_INVALID, or warnings of the
 * plan. head NULL: none. */
scd_code scd_run_judge(const scd_run_sums *sums, scd_file_plan *plan, scd_arena *arena, bool force,
                       const char *path, const char *model, size_t max_gene_len, const char *head,
                       scd_error *err);

/* Who computed, and with what. */
typedef struct scd_run_about {
    const char *task; /* "embed", "annotate" */
    const char *model, *model_digest;
    const char *device, *isa, *precision;
    const char *head, *head_digest; /* NULL: none */
    double threshold;
    size_t n_labels;
    const char *const *labels, *const *ontology_ids; /* (n_labels) */
    const scd_fact *facts;                           /* (n_facts) the task's own */
    size_t n_facts;
    const char *input, *input_format, *input_sha256; /* input: the file's name */
} scd_run_about;

enum { SCD_RUN_MAX_FACTS = 56 };

/* The facts of uns["scdiva"][task]; how many. */
size_t scd_run_facts(const scd_run_about *about, const scd_file_plan *plan,
                     const scd_run_sums *sums, scd_fact facts[SCD_RUN_MAX_FACTS]);

#endif
