/* course.h - a cell on its way through the denoiser: what is asked of it (plan), and where it
 * stands between one pass of the model and the next (course).
 *
 * The bits of a pass depend on the plan, the cell and the number of the pass alone: noise is drawn
 * from (plan.seed, pass, token, gene).
 *
 * Threads: new and free from any thread; between the two one thread at a time.
 * Owns:    copies of all that it was made of. */
#ifndef SCD_DENOISE_COURSE_H
#define SCD_DENOISE_COURSE_H

#include "engine/model/forward.h"

enum {
    SCD_MAX_STEPS = 1000,
    SCD_MAX_TEMPERATURE = 100,
    /* floats of a result for each hidden token, behind a first float: the number of passes */
    SCD_SAMPLE_WIDTH = 3
};
#define SCD_MIN_TEMPERATURE 0.001f

typedef enum scd_plan_kind {
    SCD_PLAN_SAMPLE,    /* find gene and value of the hidden tokens, some in each pass */
    SCD_PLAN_VALUES,    /* genes are shown, find the values of the hidden tokens: one pass */
    SCD_PLAN_POSTERIOR, /* the same for a model that never saw such a token: gene and value are
                              hidden, and the value of gene g is the mean over the hidden tokens'
                              values, each weighed by how probable g is there: one pass */
    SCD_PLAN_ASSOCIATE  /* what the marked tokens - regulators - have to do with all others: a
                           pass that watches attention, and four for each: the values of the
                           other tokens, hidden half by half, with the regulator in the cell and
                           without it */
} scd_plan_kind;

typedef struct scd_plan {
    scd_plan_kind kind;
    scd_pooling pooling;   /* CLEAN lets what is hidden leak through [LAT] */
    const uint8_t *hidden; /* (n_tokens of the cell) not 0: hidden; ASSOCIATE: a regulator. Of
                              SAMPLE, SCD_HIDE_VALUE: its gene is shown, and the value alone is to
                              be found */
    /* SAMPLE alone: */
    uint64_t seed;
    size_t steps;      /* passes at most, 1 to SCD_MAX_STEPS */
    float temperature; /* 0: the most probable gene; else SCD_MIN_ to SCD_MAX_TEMPERATURE */
    float confidence;  /* 0: as many tokens in each pass; above, to 1: whatever is at least so
                          probable, one token at least, and all that is left in the last pass */
    bool refresh;      /* one more pass, with everything shown, for the values that were found */
    const int32_t *candidates; /* (n_candidates) what a hidden token may be; NULL: every gene */
    size_t n_candidates;
    /* ASSOCIATE alone: (n_layers), (n_heads) not 0: attention of this one counts */
    const uint8_t *layers, *heads;
} scd_plan;

typedef struct scd_course scd_course;

/* The cell's tokens; ids of those whose gene is hidden matter where they leak alone, and may be any
 * real id. No gene becomes of two tokens: what is seen or shown is nobody's candidate.
 * SCD_E_INVALID: nothing is hidden, parameters out of their range, fewer candidates than hidden
 * genes. SCD_E_NOMEM. */
scd_code scd_course_new(const scd_plan *plan, const scd_model_config *config, const scd_cell *cell,
                        scd_course **out, scd_error *err);
void scd_course_free(scd_course *course); /* NULL is fine */

scd_pooling scd_course_pooling(const scd_course *course);
size_t scd_course_rows(const scd_course *course);        /* of the next pass: tokens and [LAT] */
size_t scd_course_passes_left(const scd_course *course); /* at most; 0: it is done */

bool scd_course_has_begun(const scd_course *course); /* a pass was made */

size_t scd_course_width(const scd_course *course); /* floats of its result */
size_t scd_course_bytes(const scd_course *course); /* of memory that it holds */

/* Floats of the result of a plan that marks so many tokens of a cell. */
static inline size_t scd_plan_width(scd_plan_kind kind, size_t n_tokens, size_t n_hidden)
{
    return 1 + n_hidden * (kind == SCD_PLAN_ASSOCIATE ? 2 * n_tokens : SCD_SAMPLE_WIDTH);
}

/* When it is done: the number of passes, then, of an ASSOCIATE plan for each regulator in the
 * cell's order, (n_tokens) the attention that each token pays to it, mean over layers and heads,
 * and (n_tokens) what its presence adds to the value found for each. Of others gene, value and
 * probability of each hidden token in the cell's order; VALUES and POSTERIOR: gene as given, and
 * the probability of the gene there (1 where it is shown). Borrowed. */
const float *scd_course_result(const scd_course *course, size_t *width);

#endif
