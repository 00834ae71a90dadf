/* perturb_ask.c - see perturb_ask.h. */
#include "api/perturb_ask.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

static const double FAR = 0.5;          /* correlation of the controls with the context's */
static const double OTHER_SCALE = 1.75; /* sum of values over that of the context's controls */

static void tell(const scd_perturb_ear *ear, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void tell(const scd_perturb_ear *ear, const char *code, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ear->warn(ear->arg, code, text);
}

/* ---- what is asked --------------------------------------------------------------------------- */

static void add_name(char *list, size_t room, const char *name)
{
    size_t n = strlen(list);
    snprintf(list + n, room - n, "%s\"%.60s\"", n ? ", " : "", name);
}

/* Each name once; what has no room is summed up. */
static void add_unknown(char *list, size_t room, scd_text text)
{
    static const char others[] = " and others";
    char quoted[64], name[61];
    size_t n = strlen(list);
    snprintf(name, sizeof name, "%.*s", (int)(text.n < 60 ? text.n : 60), text.data);
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    if (strstr(list, quoted) || strstr(list, others))
        return;
    if (n + sizeof quoted + sizeof others < room)
        add_name(list, room, name);
    else
        snprintf(list + n, room - n, "%s", others);
}

void scd_perturb_check_choice(const scd_perturb_controls *p, scd_problem *problem)
{
    const scd_perturb_info *info = p->head->perturb;
    char names[300] = "";
    bool has_direction = false, has_context = false, fits = false;
    for (size_t c = 0; c < info->n_contexts; c++) {
        const scd_perturb_context *context = &info->contexts[c];
        bool named = !p->wanted_context.n || scd_text_is(p->wanted_context, context->name);
        bool right = p->direction == SCD_N_DIRECTIONS || p->direction == context->direction;
        has_direction = has_direction || right;
        has_context = has_context || named;
        fits = fits || (named && right);
        add_name(names, sizeof names, context->name);
    }
    if (!has_context)
        scd_problem_add(problem, "/context",
                        "head \"%.60s\" has no context of this name: it has %.150s", p->head->name,
                        names);
    if (!has_direction)
        scd_problem_add(problem, "/direction", "head \"%.60s\" was trained on %s alone",
                        p->head->name, scd_direction_name(info->contexts[0].direction));
    if (has_context && has_direction && !fits)
        scd_problem_add(
            problem, "/direction", "is not that of context \"%.*s\": leave one of the two out",
            (int)(p->wanted_context.n < 80 ? p->wanted_context.n : 80), p->wanted_context.data);
}

bool scd_perturb_fits(const scd_perturb_controls *p, size_t n, scd_problem *problem)
{
    size_t each = p->head->perturb->n_genes * SCD_PERTURB_SERIES;
    size_t at_once = SCD_PERTURB_MAX_NUMBERS / each;
    if (n <= 1 || n <= at_once)
        return true;
    scd_problem_set(problem, SCD_PROBLEM_TOO_LARGE,
                    "%zu perturbations over %zu genes are too long an answer: ask for at most %zu "
                    "at a time",
                    n, p->head->perturb->n_genes, at_once ? at_once : 1);
    return false;
}

static bool is_same(scd_perturb_gene a, scd_perturb_gene b)
{
    return (a.token >= 0 && a.token == b.token) || (a.target >= 0 && a.target == b.target);
}

void scd_perturb_find(const scd_perturb_controls *p, const char *model,
                      const scd_perturb_genes *asked, size_t n,
                      scd_perturb_gene (*genes)[SCD_MAX_TARGETS], const scd_perturb_ear *ear,
                      scd_problem *problem)
{
    char unknown[200] = "";
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < asked[i].n; k++) {
            scd_text name = asked[i].names[k];
            genes[i][k] = scd_predictor_find(p->predictor, name.data, name.n);
            if (genes[i][k].token < 0)
                add_unknown(unknown, sizeof unknown, name);
            for (size_t j = 0; j < k; j++) {
                char pointer[64];
                if (!is_same(genes[i][k], genes[i][j]))
                    continue;
                snprintf(pointer, sizeof pointer, "/perturbations/%zu/%zu", i, k);
                scd_problem_add(problem, pointer, "\"%.*s\" is the same gene as \"%.*s\"",
                                (int)(name.n < 80 ? name.n : 80), name.data,
                                (int)(asked[i].names[j].n < 80 ? asked[i].names[j].n : 80),
                                asked[i].names[j].data);
            }
        }
    if (*unknown && ear)
        tell(ear, "perturbed-gene-unknown",
             "%s: not in the vocabulary of model \"%.60s\"; answered from the other genes of the "
             "perturbation and from the baselines",
             unknown, model);
}

scd_text scd_perturb_name(const scd_perturb_genes *genes, scd_arena *arena)
{
    size_t n = 0, at = 0;
    for (size_t k = 0; k < genes->n; k++)
        n += genes->names[k].n + 1;
    char *out = scd_arena_alloc(arena, n, 1);
    for (size_t k = 0; out && k < genes->n; k++) {
        memcpy(out + at, genes->names[k].data, genes->names[k].n);
        at += genes->names[k].n;
        if (k + 1 < genes->n)
            out[at++] = '+';
    }
    return (scd_text){out, out ? at : 0};
}

/* ---- the controls ---------------------------------------------------------------------------- */

void scd_perturb_add(scd_perturb_controls *p, const scd_cell *whole)
{
    p->n++;
    for (size_t i = 0; i < whole->n_tokens; i++) {
        int32_t g = scd_predictor_gene_of(p->predictor, whole->ids[i]);
        double x = (double)whole->values[i];
        if (g < 0)
            continue;
        p->sums[g] += x;
        p->squares[g] += x * x;
    }
}

static double sum_of(const float *values, size_t n)
{
    double sum = 0;
    for (size_t g = 0; g < n; g++)
        sum += (double)values[g];
    return sum;
}

/* The context that was named, or the nearest one of the direction asked for. */
static void choose_context(scd_perturb_controls *p, const scd_perturb_ear *ear)
{
    const scd_perturb_info *info = p->head->perturb;
    const float *control = p->stored ? NULL : p->mean;
    double best = 0;
    int32_t nearest = scd_predictor_nearest(p->predictor, control, SCD_N_DIRECTIONS, &best);
    if (p->wanted_context.n) {
        for (size_t c = 0; c < info->n_contexts; c++)
            if (scd_text_is(p->wanted_context, info->contexts[c].name) &&
                (p->direction == SCD_N_DIRECTIONS || p->direction == info->contexts[c].direction))
                p->context = (uint32_t)c;
        p->correlation = scd_predictor_correlation(p->predictor, control, p->context);
    } else {
        p->context =
            (uint32_t)scd_predictor_nearest(p->predictor, control, p->direction, &p->correlation);
        if (!p->stored && (int32_t)p->context != nearest)
            tell(ear, "context-direction",
                 "the controls are nearest to context \"%.60s\", which was studied under %s alone: "
                 "context \"%.60s\" answers, whose cells are others",
                 info->contexts[nearest].name,
                 scd_direction_name(info->contexts[nearest].direction),
                 info->contexts[p->context].name);
    }
    if (p->stored)
        p->correlation = NAN;
}

/* What the user should know of these controls, and of this context. */
static void warn_of_controls(const scd_perturb_controls *p, const scd_perturb_ear *ear)
{
    const scd_perturb_info *info = p->head->perturb;
    const scd_perturb_context *context = &info->contexts[p->context];
    scd_perturb_control stored = scd_predictor_control(p->predictor, p->context);
    double scale = sum_of(p->mean, info->n_genes) / sum_of(stored.mean, info->n_genes);
    if (p->correlation < FAR)
        tell(ear, "context-far",
             "the controls' mean correlates %.2f with that of context \"%.60s\": the head has seen "
             "no cells like these",
             p->correlation, context->name);
    if (scale > OTHER_SCALE || scale < 1 / OTHER_SCALE)
        tell(ear, "controls-scale",
             "the controls' values are %.2g times those of context \"%.60s\" in sum: counts of "
             "some genes need the \"total\" over all genes of each cell",
             scale, context->name);
    for (int b = 0; b < SCD_N_BASELINES; b++)
        if (context->scores[b].mse < context->scores[SCD_SCORE_MODEL].mse) {
            tell(ear, "baseline-better",
                 "on perturbations left out of context \"%.60s\" the baseline \"%s\" had a smaller "
                 "error than the model",
                 context->name, scd_baseline_name((scd_baseline)b));
            return;
        }
}

static void use_stored(scd_perturb_controls *p)
{
    scd_perturb_control control = scd_predictor_control(p->predictor, p->context);
    p->mean = control.mean;
    p->sd = control.sd;
    p->n = control.n_cells;
}

bool scd_perturb_settle(scd_perturb_controls *p, scd_arena *arena, const scd_perturb_ear *ear)
{
    size_t G = p->head->perturb->n_genes;
    if (p->stored) {
        choose_context(p, ear);
        use_stored(p);
        warn_of_controls(p, ear);
        return true;
    }
    float *mean = scd_arena_alloc(arena, 2 * G, sizeof *mean);
    if (!mean)
        return false;
    for (size_t g = 0; g < G; g++) {
        double n = (double)p->n, m = p->sums[g] / n;
        mean[g] = (float)m;
        mean[G + g] = (float)sqrt(fmax(p->squares[g] / n - m * m, 0));
    }
    p->mean = mean;
    p->sd = mean + G;
    choose_context(p, ear);
    p->anchor = scd_predictor_anchor(p->predictor, p->context, p->mean, p->sd, p->n);
    warn_of_controls(p, ear);
    return true;
}
