/* cells_plan.h - all that is decided about a file before a model sees it, and how much of it maps.
 *
 *   matrix, gene column   scd_cells_choose
 *   columns left out      features that are no gene expression (feature_types), other genomes
 *                         than the one asked for (genome): they count in no total
 *   names                 10x Genomics puts "GENOME_" before the names of several genomes: it goes
 *   tokens                by the book; mouse identifiers on a human model are refused
 *   mapping               the share of counts on known genes, over up to 1,000 rows spread over
 *                         the file: under 80 % a warning, under 50 % refused unless forced
 *
 * What was decided is told in `decisions`, what is doubtful in `warnings`.
 *
 * Threads: any. Owns: nothing; everything lives in the caller's arena. */
#ifndef SCD_API_CELLS_PLAN_H
#define SCD_API_CELLS_PLAN_H

#include "api/cells_choose.h"

enum { SCD_PLAN_MAX_NOTES = 32, SCD_PLAN_SAMPLE_ROWS = 1000 };

typedef struct scd_file_plan_options {
    const char *matrix, *gene_column; /* what the user says, or NULL */
    const char *genome;               /* only this one's genes; NULL: all */
    bool force;                       /* little that maps is no reason to refuse */
    const scd_gene_book *book;        /* NULL: nothing is mapped; tokens stay NULL */
    /* Is this unknown name one of a mouse? NULL: ENSMUSG ids alone are. */
    bool (*is_mouse)(void *arg, const char *name);
    void *is_mouse_arg;
    const char *model; /* its name, for messages */
} scd_file_plan_options;

typedef struct scd_file_plan {
    scd_cells_choice choice;
    size_t n_cells, n_genes;
    uint64_t n_stored;
    const char *const *genes;                           /* (n_genes) "" where there is none */
    const int32_t *tokens;                              /* (n_genes) -1: not known, or left out */
    const bool *left_out;                               /* (n_genes) */
    size_t n_left_out, n_known, n_unknown, n_ambiguous; /* genes */
    size_t rungs[SCD_N_RUNGS];
    size_t n_sampled;             /* rows that the figures below are of */
    double mapped_share;          /* of their counts; NaN: no counts at all */
    double values_per_cell;       /* positive values on known genes; without a book, of all */
    size_t n_poor;                /* rows with less than half of their counts on known genes */
    const char *unknown_examples; /* "A1BG-X, foo": a few names that are not known; or "" */

    const char *decisions[SCD_PLAN_MAX_NOTES], *warnings[SCD_PLAN_MAX_NOTES];
    size_t n_decisions, n_warnings;
} scd_file_plan;

/* SCD_E_INVALID: nothing usable, mouse genes, too little known; the message says what to do. Where
 * that is found late, *out holds what is known until then. */
scd_code scd_cells_plan(scd_cells *cells, const scd_file_plan_options *options, scd_arena *arena,
                        scd_file_plan *out, scd_error *err);

/* Shares of counts at which SPEC's warnings and refusals begin. */
#define SCD_WARN_MAPPED 0.8
#define SCD_REFUSE_MAPPED 0.5

/* One more warning; what does not fit is left out. */
void scd_file_plan_warn(scd_file_plan *plan, scd_arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
