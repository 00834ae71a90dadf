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

/* The pieces behind the struct, in falling alignment; with base NULL only their bytes add up. */
static void *piece(char *base, size_t *used, size_t bytes)
{
    void *here = base ? base + *used : NULL;
    *used += bytes;
    return here;
}

static size_t carve(scd_course *c, char *base, const scd_model_config *config)
{
    size_t n = c->n_tokens, used = 0;
    bool associates = c->plan.kind == SCD_PLAN_ASSOCIATE;
    c->ids = piece(base, &used, n * sizeof *c->ids);
    c->values = piece(base, &used, n * sizeof *c->values);
    c->place_of = piece(base, &used, n * sizeof *c->place_of);
    c->left = piece(base, &used, c->n_hidden * sizeof *c->left);
    c->allowed = piece(base, &used, scd_pick_words(c->vocab) * sizeof *c->allowed);
    c->result = piece(base, &used, scd_course_width(c) * sizeof *c->result);
    if (associates) {
        c->shown_ids = piece(base, &used, n * sizeof *c->shown_ids);
        c->shown_values = piece(base, &used, n * sizeof *c->shown_values);
        c->shown_hidden = piece(base, &used, n);
        c->layers = piece(base, &used, config->n_layers);
        c->heads = piece(base, &used, config->n_heads);
    }
    c->hidden = piece(base, &used, n);
    c->wanted = piece(base, &used, n);
    c->given = piece(base, &used, n);
    return used;
}

/* In one allocation. */
static scd_course *allocate(const scd_plan *plan, const scd_model_config *config, size_t n,
                            size_t n_hidden)
{
    scd_course shape = {.plan = *plan,
                        .vocab = config->vocab,
                        .n_tokens = n,
                        .n_hidden = n_hidden,
                        .n_left = n_hidden,
                        .shows = config->value_masking,
                        .n_layers = config->n_layers,
                        .n_heads = config->n_heads};
    shape.bytes = sizeof shape + carve(&shape, NULL, config);
    scd_course *c = scd_calloc(1, shape.bytes);
    if (!c)
        return NULL;
    *c = shape;
    carve(c, (char *)(c + 1), config);
    return c;
}

size_t scd_course_sample_bytes(const scd_model_config *config, size_t n_tokens)
{
    scd_course shape = {.plan = {.kind = SCD_PLAN_SAMPLE},
                        .vocab = config->vocab,
                        .n_tokens = n_tokens,
                        .n_hidden = n_tokens};
    return sizeof shape + carve(&shape, NULL, config);
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
    size_t n_given = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        n_given += c->given[i];
        if (!c->hidden[i] || c->given[i])
            allow(c, c->ids[i], false);
    }
    size_t n = count_allowed(c), n_unknown = c->n_hidden - n_given;
    if (c->plan.kind == SCD_PLAN_SAMPLE && n < n_unknown)
        return scd_fail(err, SCD_E_INVALID,
                        "%zu tokens are hidden and only %zu candidates are not in the cell already",
                        n_unknown, n);
    return SCD_OK;
}

/* A model that never saw a token of which the value alone is hidden is shown none: its gene is
 * hidden too, though it is known what becomes of it. */
static void lay_out(scd_course *c, const scd_plan *plan, const scd_cell *cell)
{
    const uint8_t both = SCD_HIDE_GENE | SCD_HIDE_VALUE;
    uint32_t at = 0;
    memcpy(c->ids, cell->ids, c->n_tokens * sizeof *c->ids);
    memcpy(c->values, cell->values, c->n_tokens * sizeof *c->values);
    for (size_t i = 0; i < c->n_tokens; i++) {
        bool shown = plan->kind == SCD_PLAN_VALUES;
        if (plan->kind == SCD_PLAN_SAMPLE && plan->hidden[i] == SCD_HIDE_VALUE) {
            c->given[i] = 1;
            shown = c->shows;
        }
        c->hidden[i] = !plan->hidden[i] ? 0 : shown ? SCD_HIDE_VALUE : both;
        c->wanted[i] = plan->hidden[i] != 0;
        c->place_of[i] = UINT32_MAX;
        if (plan->hidden[i]) {
            c->place_of[i] = at;
            c->left[at++] = (uint32_t)i;
        }
    }
}

/* Nothing is hidden in the first pass; `hidden` keeps how a token is hidden when it is asked for.
 */
static void begin_associate(scd_course *c, const scd_plan *plan, const scd_model_config *config)
{
    uint8_t bits = config->value_masking ? SCD_HIDE_VALUE : SCD_HIDE_GENE | SCD_HIDE_VALUE;
    memset(c->hidden, bits, c->n_tokens);
    memcpy(c->layers, plan->layers, config->n_layers);
    memcpy(c->heads, plan->heads, config->n_heads);
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
    if (plan->kind == SCD_PLAN_ASSOCIATE && cell->n_tokens < 2)
        return scd_fail(err, SCD_E_INVALID, "a regulator alone has nothing to do with others");
    scd_code code = plan->kind == SCD_PLAN_SAMPLE ? check_sample(plan, err) : SCD_OK;
    if (code)
        return code;
    scd_course *c = allocate(plan, config, cell->n_tokens, n_hidden);
    if (!c)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu tokens", cell->n_tokens);
    lay_out(c, plan, cell);
    if (plan->kind == SCD_PLAN_ASSOCIATE)
        begin_associate(c, plan, config);
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
    if (c->plan.kind == SCD_PLAN_ASSOCIATE)
        return scd_associate_passes(c) - c->pass;
    if (c->refreshing || c->plan.kind != SCD_PLAN_SAMPLE)
        return 1;
    size_t left = c->plan.steps - c->pass;
    return (left < c->n_left ? left : c->n_left) + (c->plan.refresh ? 1 : 0);
}

bool scd_course_has_begun(const scd_course *c)
{
    return c->pass > 0;
}

size_t scd_course_width(const scd_course *c)
{
    return scd_plan_width(c->plan.kind, c->n_tokens, c->n_hidden);
}

size_t scd_course_bytes(const scd_course *c)
{
    return c->bytes;
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
