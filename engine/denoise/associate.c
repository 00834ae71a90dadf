/* associate.c - what regulators have to do with the other genes of a cell (course.h).
 *
 * Pass 0 watches attention. Passes 1 + 4 r + 2 h + w are about regulator r: the values of every
 * second other token - h says which - are hidden and found, with the regulator in the cell (w 0)
 * and taken out of it (w 1). What its presence adds to a value is the difference; half of the
 * values stay, so that there is something to go by. */
#include "engine/denoise/course_impl.h"

/* Of the coming pass. */
typedef struct stage {
    size_t regulator, half;
    bool without;
} stage;

static stage stage_of(const scd_course *c)
{
    size_t i = c->pass - 1;
    return (stage){i / 4, i / 2 % 2, i % 2};
}

static bool is_asked(const scd_course *c, const stage *s, size_t token)
{
    return token != c->left[s->regulator] && token % 2 == s->half;
}

static float *effects_of(scd_course *c, size_t regulator)
{
    return c->result + 1 + (2 * regulator + 1) * c->n_tokens;
}

void scd_associate_show(scd_course *c)
{
    stage s = stage_of(c);
    c->n_shown = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        if (s.without && i == c->left[s.regulator])
            continue;
        c->shown_ids[c->n_shown] = c->ids[i];
        c->shown_values[c->n_shown] = c->values[i];
        c->shown_hidden[c->n_shown++] = is_asked(c, &s, i) ? c->hidden[i] : 0;
    }
}

/* Halves of which nothing is asked - in a cell of two or three tokens - are not computed. */
static void go_on(scd_course *c)
{
    c->result[0] += 1; /* passes that were made */
    for (c->pass++; c->pass < scd_associate_passes(c); c->pass++) {
        stage s = stage_of(c);
        for (size_t i = 0; i < c->n_tokens; i++)
            if (is_asked(c, &s, i)) {
                scd_associate_show(c);
                return;
            }
    }
    c->done = true;
}

void scd_associate_take_attention(scd_course *c, const float *weights)
{
    size_t n_used = 0;
    for (size_t i = 0; i < c->n_layers; i++)
        n_used += c->layers[i] != 0;
    for (size_t r = 0; r < c->n_hidden; r++)
        for (size_t i = 0; i < c->n_tokens; i++)
            effects_of(c, r)[i - c->n_tokens] = weights[(i + 1) * c->n_hidden + r] / (float)n_used;
    go_on(c);
}

void scd_associate_take_values(scd_course *c, const float *values)
{
    stage s = stage_of(c);
    float *effects = effects_of(c, s.regulator);
    for (size_t i = 0; i < c->n_tokens; i++)
        if (is_asked(c, &s, i)) {
            float value = *values > 0 ? *values : 0;
            effects[i] += s.without ? -value : value;
            values++;
        }
    go_on(c);
}
