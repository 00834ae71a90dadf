/* course_impl.h - what course.c, sampler.c and denoiser.c share of a course; nothing else includes
 * it.
 *
 * Threads: as course.h. */
#ifndef SCD_DENOISE_COURSE_IMPL_H
#define SCD_DENOISE_COURSE_IMPL_H

#include "engine/denoise/course.h"

struct scd_course {
    scd_plan plan; /* its pointers are not used any more */
    size_t bytes, vocab;
    size_t n_tokens, n_hidden, n_left; /* hidden at the start, and still */
    size_t pass;                       /* how many were made */
    bool refreshing, done;
    bool shows;         /* the model knows tokens of which the value alone is hidden */
    int32_t *ids;       /* (n_tokens) */
    float *values;      /* (n_tokens) */
    uint8_t *hidden;    /* (n_tokens) SCD_HIDE_* bits as they are now */
    uint8_t *wanted;    /* (n_tokens) whose states the next pass must give */
    uint8_t *given;     /* (n_tokens) SAMPLE: hidden, and yet its gene was told */
    uint32_t *place_of; /* (n_tokens) which of the hidden ones it was, UINT32_MAX: none */
    uint32_t *left;     /* (n_hidden) the tokens still hidden, in order: (n_left) */
    uint32_t *allowed;  /* (scd_pick_words) what may still be named */
    float *result;      /* (scd_plan_width) */

    /* ASSOCIATE: the cell as the next pass sees it; wanted tokens there are those hidden. */
    size_t n_layers, n_heads, n_shown;
    uint8_t *layers, *heads;
    int32_t *shown_ids;    /* (n_tokens) */
    float *shown_values;   /* (n_tokens) */
    uint8_t *shown_hidden; /* (n_tokens) */
};

/* What one pass says about the tokens that are left, in their order. */
typedef struct scd_pass_view {
    const float *lse;     /* (n_left) */
    const int32_t *genes; /* (n_left, SCD_PICK_TOP) */
    const float *logits;  /* (n_left, SCD_PICK_TOP) */
    const float *values;  /* (n_left) */
} scd_pass_view;

/* Of those left, the i-th is to become the gene that it has, whatever its list says. */
static inline bool scd_course_is_given(const scd_course *c, size_t i)
{
    return c->given[c->left[i]] != 0;
}

/* ---- sampler.c ---- */

/* How far the present pass has come. */
typedef struct scd_unmasking {
    size_t n_committed;
    uint8_t *option; /* (n_left) the next of a token's genes to try; SCD_COMMITTED, SCD_DRY */
    float *turn;     /* (n_left) noise on its confidence */
} scd_unmasking;

enum { SCD_COMMITTED = 254, SCD_DRY = 255 };

/* Nothing is committed yet; option and turn have room. */
void scd_course_begin_pass(const scd_course *course, scd_unmasking *u);
/* The row of gene_pick for token left[i] in the present pass. */
scd_pick_row scd_course_pick_row(const scd_course *course, size_t i, uint32_t set);
/* Commit token after token, the most confident first, until the schedule is content: true. False:
 * tokens that the schedule needs have no gene of their list left that is not taken - their option
 * is SCD_DRY - and must be picked again for what is allowed now, and this be called again. */
bool scd_course_unmask(scd_course *course, const scd_pass_view *view, scd_unmasking *u);
/* The pass is over. */
void scd_course_end_pass(scd_course *course, const scd_unmasking *u);

/* How many of n_left tokens a pass should find with `passes` left, this one included. */
size_t scd_fixed_count(size_t n_left, size_t passes);

/* ---- associate.c ---- */

/* After the first pass: what watching gave, (n_tokens + 1, n_hidden), sums over layers. */
void scd_associate_take_attention(scd_course *course, const float *weights);
/* After every other: values of the tokens that were hidden, in order. */
void scd_associate_take_values(scd_course *course, const float *values);
/* Lay out the cell for the next pass. */
void scd_associate_show(scd_course *course);
static inline size_t scd_associate_passes(const scd_course *c)
{
    return 1 + 4 * c->n_hidden;
}

/* ---- course.c ---- */

/* The most bytes that a SAMPLE course of a cell of n tokens holds, in one block. */
size_t scd_course_sample_bytes(const scd_model_config *config, size_t n_tokens);
void scd_course_set(scd_course *course, size_t token, int32_t gene, float value, float probability);
/* All values found in one pass: VALUES, and the last of a refresh. */
void scd_course_take_values(scd_course *course, const float *values);
void scd_course_finish(scd_course *course);

#endif
