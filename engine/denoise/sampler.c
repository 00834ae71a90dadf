/* sampler.c - which hidden tokens of a course become what in one pass (course.h).
 *
 * Every hidden token comes with its best genes. The most confident token takes its first; a gene is
 * taken once in a cell, so who wanted it too goes on to the next of its own list. Confidence is the
 * probability of the gene; with temperature its logarithm gets Gumbel noise too, so that tokens are
 * found in an order that is random in proportion to it (Chang et al. 2022, "MaskGIT") - but not
 * where a threshold decides, which is for all that reach it. A token whose gene was given has that
 * gene for its only option and is sure of it. */
#include "engine/denoise/course_impl.h"

#include "engine/base/rng.h"

#include <math.h>

/* Noise of a token's turn: a block beyond those of the genes. */
#define TURN_BLOCK 0x80000000u

size_t scd_fixed_count(size_t n_left, size_t passes)
{
    return (n_left + passes - 1) / passes;
}

/* Block 0 of token t's noise: 2^32 blocks each. */
static uint64_t block_of(uint32_t token)
{
    return (uint64_t)token << 32;
}

scd_pick_row scd_course_pick_row(const scd_course *c, size_t i, uint32_t set)
{
    return (scd_pick_row){.seed = c->plan.seed,
                          .stream = c->pass,
                          .block = block_of(c->left[i]),
                          .temperature = c->plan.temperature,
                          .set = set};
}

static bool is_allowed(const scd_course *c, int32_t gene)
{
    return c->allowed[gene / 32] >> gene % 32 & 1;
}

static float turn_noise(const scd_course *c, size_t i)
{
    uint32_t words[4];
    if (c->plan.temperature == 0 || c->plan.confidence > 0)
        return 0;
    scd_rng_block(c->plan.seed, c->pass, block_of(c->left[i]) + TURN_BLOCK, words);
    return c->plan.temperature * (float)scd_rng_gumbel(words[0]);
}

void scd_course_begin_pass(const scd_course *c, scd_unmasking *u)
{
    u->n_committed = 0;
    for (size_t i = 0; i < c->n_left; i++) {
        u->option[i] = 0;
        u->turn[i] = turn_noise(c, i);
    }
}

/* The token's next gene that nobody took; false: it has none in its list. */
static bool find_option(const scd_course *c, const scd_pass_view *v, scd_unmasking *u, size_t i)
{
    const int32_t *genes = v->genes + i * SCD_PICK_TOP;
    if (scd_course_is_given(c, i))
        return true;
    while (u->option[i] < SCD_PICK_TOP && genes[u->option[i]] >= 0 &&
           !is_allowed(c, genes[u->option[i]]))
        u->option[i]++;
    if (u->option[i] < SCD_PICK_TOP && genes[u->option[i]] >= 0)
        return true;
    u->option[i] = SCD_DRY;
    return false;
}

static float log_probability(const scd_course *c, const scd_pass_view *v, const scd_unmasking *u,
                             size_t i)
{
    return scd_course_is_given(c, i) ? 0 : v->logits[i * SCD_PICK_TOP + u->option[i]] - v->lse[i];
}

/* The most confident of the tokens that have an option, of equals the first; SIZE_MAX: none. */
static size_t most_confident(const scd_course *c, const scd_pass_view *v, scd_unmasking *u)
{
    size_t best = SIZE_MAX;
    float most = -INFINITY;
    for (size_t i = 0; i < c->n_left; i++) {
        if (u->option[i] >= SCD_PICK_TOP || !find_option(c, v, u, i))
            continue;
        float confidence = log_probability(c, v, u, i) + u->turn[i];
        if (best == SIZE_MAX || confidence > most) {
            most = confidence;
            best = i;
        }
    }
    return best;
}

/* Does the schedule want one more, whose probability would be p? */
static bool wants(const scd_course *c, const scd_unmasking *u, float p)
{
    size_t passes = c->plan.steps - c->pass;
    if (!u->n_committed || passes == 1)
        return u->n_committed < c->n_left;
    if (c->plan.confidence > 0)
        return p >= c->plan.confidence;
    return u->n_committed < scd_fixed_count(c->n_left, passes);
}

bool scd_course_unmask(scd_course *c, const scd_pass_view *v, scd_unmasking *u)
{
    while (u->n_committed < c->n_left) {
        size_t i = most_confident(c, v, u);
        float p = i == SIZE_MAX ? 0 : expf(log_probability(c, v, u, i));
        p = p < 1 ? p : 1; /* rounding */
        if (i == SIZE_MAX)
            return !wants(c, u, p);
        if (!wants(c, u, p))
            return true;
        int32_t gene = scd_course_is_given(c, i) ? c->ids[c->left[i]]
                                                 : v->genes[i * SCD_PICK_TOP + u->option[i]];
        scd_course_set(c, c->left[i], gene, v->values[i], p);
        u->option[i] = SCD_COMMITTED;
        u->n_committed++;
    }
    return true;
}

void scd_course_end_pass(scd_course *c, const scd_unmasking *u)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_left; i++) {
        if (u->option[i] == SCD_COMMITTED)
            c->wanted[c->left[i]] = 0;
        else
            c->left[n++] = c->left[i];
    }
    c->n_left = n;
    if (n) {
        c->pass++;
    } else if (c->plan.refresh) {
        c->pass++;
        c->refreshing = true;
        for (size_t i = 0; i < c->n_tokens; i++)
            c->wanted[i] = c->place_of[i] != UINT32_MAX;
    } else {
        scd_course_finish(c);
    }
}
