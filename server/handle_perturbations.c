/* handle_perturbations.c - POST /v1/perturbations: the request's cells are the controls, an item of
 * the answer is a perturbation; the way is infer.c's.
 *
 * What is computed and cached of a control cell is its embedding - by the genes that the head's
 * study measured; the same that /v1/embeddings serves of them, unless the head has a backbone of
 * its own. A prediction is arithmetic on top of it, made when the answer is written. Without cells
 * the head's stored controls are used. */
#include "api/answer_perturb.h"
#include "api/models.h"
#include "api/perturb_fields.h"
#include "server/infer_call.h"
#include "server/router.h"

#include <math.h>
#include <stdio.h>

enum {
    DEFAULT_TOP_GENES = 20,
    MANY_NUMBERS = 1 << 15,       /* of an answer: more is prep-0's */
    MAX_NUMBERS = 1 << 23,        /* of an answer: some 200 MB */
    SERIES = 3 + SCD_N_BASELINES, /* numbers a gene in an item */
};
static const double FAR = 0.5;          /* correlation of the controls with the context's */
static const double OTHER_SCALE = 1.75; /* sum of values over that of the context's controls */

typedef struct scd_perturb_call {
    scd_perturb_fields fields;
    const scd_predictor *predictor;
    const scd_perturb_info *info;
    scd_perturb_gene (*genes)[SCD_MAX_TARGETS]; /* (fields.n) */
    size_t top_genes;
    double *sums, *squares; /* (G) of the controls' values */
    size_t n_controls;
    bool stored; /* no cells were given */
    uint32_t context;
    double correlation;        /* NAN: stored controls */
    double anchor;             /* of the controls in the context's population */
    const float *control, *sd; /* (G) */
} scd_perturb_call;

/* ---- what is asked --------------------------------------------------------------------------- */

static void add_name(char *list, size_t room, const char *name)
{
    size_t n = strlen(list);
    snprintf(list + n, room - n, "%s\"%.60s\"", n ? ", " : "", name);
}

/* Each name once; what has no room is summed up. */
static void add_unknown(char *list, size_t room, const char *name)
{
    static const char others[] = " and others";
    char quoted[64];
    size_t n = strlen(list);
    snprintf(quoted, sizeof quoted, "\"%.60s\"", name);
    if (strstr(list, quoted) || strstr(list, others))
        return;
    if (n + sizeof quoted + sizeof others < room)
        add_name(list, room, name);
    else
        snprintf(list + n, room - n, "%s", others);
}

/* A direction or a context that the head does not have is a problem of the field. */
static bool check_choice(scd_infer_call *call, const scd_perturb_call *p)
{
    char names[300] = "";
    bool has_direction = false, has_context = false, fits = false;
    for (size_t c = 0; c < p->info->n_contexts; c++) {
        const scd_perturb_context *context = &p->info->contexts[c];
        bool named = !p->fields.context.n || scd_text_is(p->fields.context, context->name);
        bool right =
            p->fields.direction == SCD_N_DIRECTIONS || p->fields.direction == context->direction;
        has_direction = has_direction || right;
        has_context = has_context || named;
        fits = fits || (named && right);
        add_name(names, sizeof names, context->name);
    }
    if (!has_context)
        scd_problem_add(&call->problem, "/context",
                        "head \"%.60s\" has no context of this name: it has %.150s",
                        call->head->name, names);
    if (!has_direction)
        scd_problem_add(&call->problem, "/direction", "head \"%.60s\" was trained on %s alone",
                        call->head->name, scd_direction_name(p->info->contexts[0].direction));
    if (has_context && has_direction && !fits)
        scd_problem_add(&call->problem, "/direction",
                        "is not that of context \"%.*s\": leave one of the two out",
                        (int)(p->fields.context.n < 80 ? p->fields.context.n : 80),
                        p->fields.context.data);
    return !call->problem.kind;
}

static bool check_size(scd_infer_call *call, const scd_perturb_call *p)
{
    size_t numbers = p->fields.n * p->info->n_genes * SERIES;
    size_t at_once = MAX_NUMBERS / (p->info->n_genes * SERIES);
    call->large = call->large || numbers > MANY_NUMBERS;
    if (numbers <= MAX_NUMBERS || p->fields.n == 1)
        return true;
    scd_problem_set(&call->problem, SCD_PROBLEM_TOO_LARGE,
                    "%zu perturbations over %zu genes are too long an answer: ask for at most %zu "
                    "at a time",
                    p->fields.n, p->info->n_genes, at_once ? at_once : 1);
    return false;
}

/* Names become genes; two names of one gene in one perturbation are one too many. */
static void find_genes(scd_infer_call *call, scd_perturb_call *p)
{
    char unknown[200] = "";
    for (size_t i = 0; i < p->fields.n; i++) {
        const scd_perturb_genes *asked = &p->fields.genes[i];
        for (size_t k = 0; k < asked->n; k++) {
            scd_perturb_gene gene =
                scd_predictor_find(p->predictor, asked->names[k].data, asked->names[k].n);
            p->genes[i][k] = gene;
            if (gene.token < 0)
                add_unknown(unknown, sizeof unknown, asked->names[k].data);
            for (size_t j = 0; j < k; j++) {
                scd_perturb_gene other = p->genes[i][j];
                if ((gene.token < 0 || gene.token != other.token) &&
                    (gene.target < 0 || gene.target != other.target))
                    continue;
                char pointer[64];
                snprintf(pointer, sizeof pointer, "/perturbations/%zu/%zu", i, k);
                scd_problem_add(&call->problem, pointer, "\"%.80s\" is the same gene as \"%.80s\"",
                                asked->names[k].data, asked->names[j].data);
            }
        }
    }
    if (*unknown)
        scd_infer_warn(call, "perturbed-gene-unknown",
                       "%s: not in the vocabulary of model \"%.60s\"; answered from the other "
                       "genes of the perturbation and from the baselines",
                       unknown, call->model->name);
}

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_perturb_call *p = scd_arena_zalloc(&call->arena, 1, sizeof *p);
    if (!p)
        return scd_infer_out_of_memory(call);
    call->fields.perturb = p;
    if (scd_perturb_fields_decode(&call->request, call->d->limits.max_name_bytes, &call->arena,
                                  &p->fields, &call->problem))
        return false;
    *unknown = p->fields.unknown;
    call->head =
        scd_models_choose_head(call->model, "perturbation", p->fields.head, &call->problem);
    if (!call->head)
        return false;
    call->work.head = call->head->has_backbone ? call->head : NULL;
    p->predictor = scd_engine_predictor(call->d->engine, call->work.model, call->head);
    p->info = call->head->perturb;
    p->top_genes = p->fields.top_genes == SIZE_MAX ? DEFAULT_TOP_GENES : p->fields.top_genes;
    p->stored = !call->request.n_cells;
    call->n_items = p->fields.n;
    p->genes = scd_arena_zalloc(&call->arena, p->fields.n, sizeof *p->genes);
    p->sums = scd_arena_zalloc(&call->arena, p->info->n_genes, sizeof *p->sums);
    p->squares = scd_arena_zalloc(&call->arena, p->info->n_genes, sizeof *p->squares);
    if (!p->genes || !p->sums || !p->squares)
        return scd_infer_out_of_memory(call);
    find_genes(call, p);
    return !call->problem.kind && check_choice(call, p) && check_size(call, p);
}

/* ---- the controls ---------------------------------------------------------------------------- */

static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    scd_perturb_call *p = call->fields.perturb;
    scd_cell whole;
    if (!scd_infer_whole_cell(call, c, measured, &whole))
        return false;
    p->n_controls++;
    for (size_t i = 0; i < whole.n_tokens; i++) {
        int32_t g = scd_predictor_gene_of(p->predictor, whole.ids[i]);
        double x = (double)whole.values[i];
        if (g < 0)
            continue;
        p->sums[g] += x;
        p->squares[g] += x * x;
    }
    return true;
}

static double sum_of(const float *values, size_t n)
{
    double sum = 0;
    for (size_t g = 0; g < n; g++)
        sum += (double)values[g];
    return sum;
}

/* The context that was named, or the nearest one of the direction asked for. */
static void choose_context(scd_infer_call *call, scd_perturb_call *p)
{
    const float *control = p->stored ? NULL : p->control;
    double best = 0;
    int32_t nearest = scd_predictor_nearest(p->predictor, control, SCD_N_DIRECTIONS, &best);
    if (p->fields.context.n) {
        for (size_t c = 0; c < p->info->n_contexts; c++)
            if (scd_text_is(p->fields.context, p->info->contexts[c].name) &&
                (p->fields.direction == SCD_N_DIRECTIONS ||
                 p->fields.direction == p->info->contexts[c].direction))
                p->context = (uint32_t)c;
        p->correlation = scd_predictor_correlation(p->predictor, control, p->context);
    } else {
        p->context = (uint32_t)scd_predictor_nearest(p->predictor, control, p->fields.direction,
                                                     &p->correlation);
        if (!p->stored && (int32_t)p->context != nearest)
            scd_infer_warn(call, "context-direction",
                           "the controls are nearest to context \"%.60s\", which was studied under "
                           "%s alone: context \"%.60s\" answers, whose cells are others",
                           p->info->contexts[nearest].name,
                           scd_direction_name(p->info->contexts[nearest].direction),
                           p->info->contexts[p->context].name);
    }
    if (p->stored)
        p->correlation = NAN;
}

/* What the user should know of these controls, and of this context. */
static void warn_of_controls(scd_infer_call *call, const scd_perturb_call *p)
{
    const scd_perturb_context *context = &p->info->contexts[p->context];
    scd_perturb_control stored = scd_predictor_control(p->predictor, p->context);
    double scale = sum_of(p->control, p->info->n_genes) / sum_of(stored.mean, p->info->n_genes);
    if (p->correlation < FAR)
        scd_infer_warn(
            call, "context-far",
            "the controls' mean correlates %.2f with that of context \"%.60s\": the head "
            "has seen no cells like these",
            p->correlation, context->name);
    if (scale > OTHER_SCALE || scale < 1 / OTHER_SCALE)
        scd_infer_warn(call, "controls-scale",
                       "the controls' values are %.2g times those of context \"%.60s\" in sum: "
                       "counts of some genes need the \"total\" over all genes of each cell",
                       scale, context->name);
    for (int b = 0; b < SCD_N_BASELINES; b++)
        if (context->scores[b].mse < context->scores[SCD_SCORE_MODEL].mse) {
            scd_infer_warn(call, "baseline-better",
                           "on perturbations left out of context \"%.60s\" the baseline \"%s\" had "
                           "a smaller error than the model",
                           context->name, scd_baseline_name((scd_baseline)b));
            return;
        }
}

static bool plan_end(scd_infer_call *call)
{
    scd_perturb_call *p = call->fields.perturb;
    size_t G = p->info->n_genes;
    if (p->stored) {
        choose_context(call, p);
        scd_perturb_control control = scd_predictor_control(p->predictor, p->context);
        p->control = control.mean;
        p->sd = control.sd;
        p->n_controls = control.n_cells;
        warn_of_controls(call, p);
        return true;
    }
    if (!p->n_controls) {
        scd_problem_set(&call->problem, SCD_PROBLEM_INVALID,
                        "none of the %zu control cells can be used, the first: %.200s",
                        call->request.n_cells,
                        call->cells[0].detail ? call->cells[0].detail : "it is empty");
        return false;
    }
    float *mean = scd_arena_alloc(&call->arena, 2 * G, sizeof *mean);
    if (!mean)
        return scd_infer_out_of_memory(call);
    for (size_t g = 0; g < G; g++) {
        double n = (double)p->n_controls, m = p->sums[g] / n;
        mean[g] = (float)m;
        mean[G + g] = (float)sqrt(fmax(p->squares[g] / n - m * m, 0));
    }
    p->control = mean;
    p->sd = mean + G;
    choose_context(call, p);
    p->anchor = scd_predictor_anchor(p->predictor, p->context, p->control, p->sd, p->n_controls);
    warn_of_controls(call, p);
    scd_infer_warn_skipped(call);
    return true;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Embeddings of the controls that can be used, one after the other. */
static const float *gather(const scd_infer_call *call, const scd_perturb_call *p, scd_arena *arena,
                           size_t *n)
{
    scd_perturb_control stored = scd_predictor_control(p->predictor, p->context);
    *n = p->stored ? stored.n_cells : p->n_controls;
    if (p->stored)
        return stored.embeddings;
    float *out = scd_arena_alloc(arena, p->n_controls, call->width * sizeof *out);
    size_t row = 0;
    for (size_t c = 0; out && c < call->request.n_cells; c++)
        if (!call->cells[c].bad)
            memcpy(out + row++ * call->width, call->cells[c].result, call->width * sizeof *out);
    return out;
}

/* "KLF1+BAK1", which is also the item's id. */
static scd_text join_names(const scd_perturb_genes *genes, scd_arena *arena)
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

/* Item i; SCD_E_NOMEM. */
static scd_code write_item(const scd_infer_call *call, size_t i, scd_perturb_ask *ask,
                           scd_answer_item *item, scd_answer *answer)
{
    const scd_perturb_call *p = call->fields.perturb;
    const scd_perturb_genes *asked = &p->fields.genes[i];
    bool known[SCD_MAX_TARGETS], seen[SCD_MAX_TARGETS];
    scd_perturb_answer predicted;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    for (size_t k = 0; k < asked->n; k++) {
        known[k] = p->genes[i][k].token >= 0;
        seen[k] = scd_predictor_has_seen(p->predictor, p->context, p->genes[i][k]);
    }
    ask->n_genes = asked->n;
    ask->genes = p->genes[i];
    item->index = i;
    item->id = join_names(asked, &arena);
    scd_answer_perturbation args = {
        .info = p->info,
        .asked = asked,
        .known = known,
        .seen = seen,
        .context = p->context,
        .correlation = p->correlation,
        .n_controls = p->n_controls,
        .anchor = p->anchor,
        .predicted = &predicted,
        .control = p->control,
        .sd = p->sd,
        .top_genes = p->top_genes,
        .order = scd_arena_alloc(&arena, 2 * p->info->n_genes, sizeof(uint32_t)),
        .expression = scd_arena_alloc(&arena, p->info->n_genes, sizeof(float))};
    scd_code code = args.order && args.expression && item->id.data ? SCD_OK : SCD_E_NOMEM;
    if (!code)
        code = scd_predictor_run(p->predictor, ask, &arena, &predicted, NULL);
    if (!code) {
        scd_answer_item_begin(answer, item);
        scd_answer_perturbation_write(answer, &args);
        scd_answer_item_end(answer);
    }
    scd_arena_release(&arena);
    return code;
}

static bool write_items(scd_infer_call *call, scd_answer *answer)
{
    const scd_perturb_call *p = call->fields.perturb;
    scd_arena arena;
    scd_perturb_ask ask = {.context = p->context, .control = p->control, .anchor = p->anchor};
    scd_answer_item item = scd_infer_sum(call);
    scd_arena_init(&arena, SIZE_MAX / 2);
    const float *embeddings = gather(call, p, &arena, &ask.n_cells);
    scd_code code = embeddings ? SCD_OK : SCD_E_NOMEM;
    if (!code && p->info->contexts[p->context].gate > 0) {
        ask.cells = scd_predictor_cells(p->predictor, embeddings, ask.n_cells, &arena);
        code = ask.cells ? SCD_OK : SCD_E_NOMEM;
    }
    for (size_t i = 0; i < p->fields.n && !code; i++)
        code = write_item(call, i, &ask, &item, answer);
    scd_arena_release(&arena);
    if (code)
        scd_problem_set(&call->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    return !code;
}

/* Numbers have some ten bytes; a name is written as often as a number is. */
static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { NUMBER_AND_NAME = 20, AROUND = 2048, NAME = 6 * 256 };
    const scd_perturb_info *info = call->fields.perturb->info;
    *about = AROUND + info->n_genes * SERIES * NUMBER_AND_NAME;
    *most = AROUND + 3 * SCD_MAX_TARGETS * NAME + scd_answer_perturbation_most(info);
}

static const scd_infer_task task = {.name = "perturb",
                                    .cells_optional = true,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .plan_end = plan_end,
                                    .write_items = write_items,
                                    .size_result = size_result};

void scd_handle_perturbations(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
