/* perturb_ask.h - a question to a perturbation head: which genes, which context answers, what the
 * controls are, and what the user should know of them. The same for a request and for a file.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_PERTURB_ASK_H
#define SCD_API_PERTURB_ASK_H

#include "api/perturb_fields.h"
#include "api/problem.h"
#include "engine/denoise/predictor.h"
#include "engine/model/serialize.h"

/* Who is told: `code` for programs, `text` for people. */
typedef struct scd_perturb_ear {
    void (*warn)(void *arg, const char *code, const char *text);
    void *arg;
} scd_perturb_ear;

typedef struct scd_perturb_controls {
    const scd_head_info *head;
    const scd_predictor *predictor;
    scd_text wanted_context; /* n == 0: none */
    scd_direction direction; /* SCD_N_DIRECTIONS: none */
    bool stored;             /* the head's own controls, for no cells were given */
    size_t n;                /* cells */
    double *sums, *squares;  /* (G) of their values */
    /* Of scd_perturb_settle: */
    const float *mean, *sd; /* (G) */
    uint32_t context;
    double correlation; /* with the context's controls; NAN: stored */
    double anchor;      /* of the controls in the context's population */
} scd_perturb_controls;

/* Is there such a direction, such a context? Else /direction, /context are the problem's. */
void scd_perturb_check_choice(const scd_perturb_controls *controls, scd_problem *problem);

/* Names become genes: genes (n). Two names of one gene in one perturbation are the problem's, at
 * /perturbations/I/K; what is not in the vocabulary is told. */
void scd_perturb_find(const scd_perturb_controls *controls, const char *model,
                      const scd_perturb_genes *asked, size_t n,
                      scd_perturb_gene (*genes)[SCD_MAX_TARGETS], const scd_perturb_ear *ear,
                      scd_problem *problem);

/* Numbers of an answer on n perturbations, against what one may have. False: the problem says how
 * many to ask for at a time. */
enum { SCD_PERTURB_SERIES = 3 + SCD_N_BASELINES, SCD_PERTURB_MAX_NUMBERS = 1 << 23 };
bool scd_perturb_fits(const scd_perturb_controls *controls, size_t n, scd_problem *problem);

/* One more control cell, not truncated. */
void scd_perturb_add(scd_perturb_controls *controls, const scd_cell *whole);

/* All controls are there (or stored): mean, context, anchor, and what there is to be told of them.
 * False: out of memory. */
bool scd_perturb_settle(scd_perturb_controls *controls, scd_arena *arena,
                        const scd_perturb_ear *ear);

/* "KLF1+BAK1"; data NULL: out of memory. */
scd_text scd_perturb_name(const scd_perturb_genes *genes, scd_arena *arena);

#endif
