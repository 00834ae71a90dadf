/* course.c - see course.h. */
#include "engine/denoise/course_impl.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static scd_code check_sample(const scd_plan *p, scd_error *err)
{
    if (p->steps < 1 || p->steps > SCD_MAX_STEPS)
        return scd_fail(err, SCD_E_INVALID, "%zu steps: 1 to %d", p->steps, (int)SCD_MAX_STEPS);
    bool plain = p->temperature == 0;
    if (!plain && !(p->temperature >= SCD_MIN_TEMPERATURE && p->temperature <= SCD_MAX_TEMPERATURE))
        return scd_fail(err, SCD_E_INVALID, "temperature %g: 0, or %g to %d",
                        (double)p->temperature, (double)SCD_MIN_TEMPERATURE,
                        (int)SCD_MAX_TEMPERATURE);
    if (!(p->confidence >= 0 && p->confidence <= 1))
        return scd_fail(err, SCD_E_INVALID, "confidence %g: 0 to 1", (double)p->confidence);
    return SCD_OK;
}

/* Room for everything behind the struct, in one allocation; arrays in falling alignment. */
static scd_course *allocate(const scd_plan *plan, size_t vocab, size_t n, size_t n_hidden)
{
    size_t words = scd_pick_words(vocab), width = scd_plan_width(n_hidden);
    size_t bytes = n * (sizeof(int32_t) + sizeof(float) + sizeof(uint32_t) + 2) +
                   (n_hidden + words) * sizeof(uint32_t) + width * sizeof(float);
    scd_course *c = scd_calloc(1, sizeof *c + bytes);
    if (!c)
        return NULL;
    c->plan = *plan;
    c->vocab = vocab;
    c->n_tokens = n;
    c->n_hidden = c->n_left = n_hidden;
    c->ids = (int32_t *)(c + 1);
    c->values = (float *)(c->ids + n);
    c->place_of = (uint32_t *)(c->values + n);
    c->left = c->place_of + n;
    c->allowed = c->left + n_hidden;
    c->result = (float *)(c->allowed + words);
    c->hidden = (uint8_t *)(c->result + width);
    c->wanted = c->hidden + n;
    return c;
}

static void allow(scd_course *c, int32_t gene, bool yes)
{
    uint32_t bit = 1u << gene % 32, *word = &c->allowed[gene / 32];
    *word = yes ? *word | bit : *word & ~bit;
}

static size_t count_allowed(const scd_course *c)
{
    size_t n = 0;
    for (size_t i = 0; i < scd_pick_words(c->vocab); i++)
        n += (size_t)__builtin_popcount(c->allowed[i]);
    return n;
}

static scd_code choose_candidates(scd_course *c, const scd_plan *plan,
                                  const scd_model_config *config, scd_error *err)
{
    if (!plan->candidates)
        for (int32_t g = 0; (size_t)g < c->vocab; g++)
            allow(c, g, !scd_model_is_special(config, g));
    for (size_t i = 0; i < plan->n_candidates; i++) {
        int32_t g = plan->candidates[i];
        if (g < 0 || (size_t)g >= c->vocab || scd_model_is_special(config, g))
            return scd_fail(err, SCD_E_INVALID, "candidate %d is no gene of the model", (int)g);
        allow(c, g, true);
    }
    for (size_t i = 0; i < c->n_tokens; i++)
        if (!c->hidden[i])
            allow(c, c->ids[i], false);
    size_t n = count_allowed(c);
    if (c->plan.kind == SCD_PLAN_SAMPLE && n < c->n_hidden)
        return scd_fail(err, SCD_E_INVALID,
                        "%zu tokens are hidden and only %zu candidates are not in the cell already",
                        c->n_hidden, n);
    return SCD_OK;
}

static void lay_out(scd_course *c, const scd_plan *plan, const scd_cell *cell)
{
    uint8_t bits = plan->kind == SCD_PLAN_VALUES ? SCD_HIDE_VALUE : SCD_HIDE_GENE | SCD_HIDE_VALUE;
    uint32_t at = 0;
    memcpy(c->ids, cell->ids, c->n_tokens * sizeof *c->ids);
    memcpy(c->values, cell->values, c->n_tokens * sizeof *c->values);
    for (size_t i = 0; i < c->n_tokens; i++) {
        c->hidden[i] = plan->hidden[i] ? bits : 0;
        c->wanted[i] = plan->hidden[i] != 0;
        c->place_of[i] = UINT32_MAX;
        if (plan->hidden[i]) {
            c->place_of[i] = at;
            c->left[at++] = (uint32_t)i;
        }
    }
}

scd_code scd_course_new(const scd_plan *plan, const scd_model_config *config, const scd_cell *cell,
                        scd_course **out, scd_error *err)
{
    *out = NULL;
    size_t n_hidden = 0;
    for (size_t i = 0; i < cell->n_tokens; i++)
        n_hidden += plan->hidden[i] != 0;
    if (!n_hidden)
        return scd_fail(err, SCD_E_INVALID, "no token is hidden: there is nothing to find");
    scd_code code = plan->kind == SCD_PLAN_SAMPLE ? check_sample(plan, err) : SCD_OK;
    if (code)
        return code;
    scd_course *c = allocate(plan, config->vocab, cell->n_tokens, n_hidden);
    if (!c)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu tokens", cell->n_tokens);
    lay_out(c, plan, cell);
    code = choose_candidates(c, plan, config, err);
    if (code) {
        free(c);
        return code;
    }
    *out = c;
    return SCD_OK;
}

void scd_course_free(scd_course *course)
{
    free(course);
}

scd_pooling scd_course_pooling(const scd_course *c)
{
    return c->plan.pooling;
}

size_t scd_course_rows(const scd_course *c)
{
    return c->n_tokens + 1;
}

size_t scd_course_passes_left(const scd_course *c)
{
    if (c->done)
        return 0;
    if (c->refreshing || c->plan.kind != SCD_PLAN_SAMPLE)
        return 1;
    size_t left = c->plan.steps - c->pass;
    return (left < c->n_left ? left : c->n_left) + (c->plan.refresh ? 1 : 0);
}

size_t scd_course_width(const scd_course *c)
{
    return scd_plan_width(c->n_hidden);
}

const float *scd_course_result(const scd_course *c, size_t *width)
{
    *width = scd_course_width(c);
    return c->result;
}

/* ---- for the denoiser ---- */

/* A number that training never saw - overflow in a damaged model - must not pass as expression. */
static float clamped(float value)
{
    return value > 0 ? value : 0;
}

void scd_course_set(scd_course *c, size_t token, int32_t gene, float value, float probability)
{
    float *r = c->result + 1 + SCD_SAMPLE_WIDTH * c->place_of[token];
    r[0] = (float)gene;
    r[1] = c->values[token] = clamped(value);
    r[2] = probability;
    c->ids[token] = gene;
    c->hidden[token] = 0;
    allow(c, gene, false);
}

void scd_course_take_values(scd_course *c, const float *values)
{
    size_t at = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        if (!c->wanted[i])
            continue;
        float *r = c->result + 1 + SCD_SAMPLE_WIDTH * c->place_of[i];
        r[1] = clamped(values[at++]);
        if (!c->refreshing) {
            r[0] = (float)c->ids[i];
            r[2] = 1;
        }
    }
    scd_course_finish(c);
}

void scd_course_finish(scd_course *c)
{
    c->pass++;
    c->result[0] = (float)c->pass;
    c->n_left = 0;
    c->done = true;
}
