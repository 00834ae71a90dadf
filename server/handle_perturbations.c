/* handle_perturbations.c - POST /v1/perturbations: the request's cells are the controls, an item of
 * the answer is a perturbation; the way is infer.c's.
 *
 * What is computed and cached of a control cell is its embedding - by the genes that the head's
 * study measured; the same that /v1/embeddings serves of them, unless the head has a backbone of
 * its own. A prediction is arithmetic on top of it, made when the answer is written. Without cells
 * the head's stored controls are used. */
#include "api/answer_perturb.h"
#include "api/models.h"
#include "api/perturb_ask.h"
#include "server/infer_call.h"
#include "server/router.h"

enum {
    DEFAULT_TOP_GENES = 20,
    MANY_NUMBERS = 1 << 15, /* of an answer: more is prep-0's */
};

typedef struct scd_perturb_call {
    scd_perturb_fields fields;
    const scd_perturb_info *info;
    scd_perturb_gene (*genes)[SCD_MAX_TARGETS]; /* (fields.n) */
    size_t top_genes;
    scd_perturb_controls controls;
} scd_perturb_call;

static void warn(void *arg, const char *code, const char *text)
{
    scd_infer_warn(arg, code, "%s", text);
}

static scd_perturb_ear ear_of(scd_infer_call *call)
{
    return (scd_perturb_ear){warn, call};
}

/* ---- what is asked --------------------------------------------------------------------------- */

static bool check_size(scd_infer_call *call, const scd_perturb_call *p)
{
    size_t numbers = p->fields.n * p->info->n_genes * SCD_PERTURB_SERIES;
    call->large = call->large || numbers > MANY_NUMBERS;
    return scd_perturb_fits(&p->controls, p->fields.n, &call->problem);
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
    p->info = call->head->perturb;
    p->top_genes = p->fields.top_genes == SIZE_MAX ? DEFAULT_TOP_GENES : p->fields.top_genes;
    p->controls = (scd_perturb_controls){
        .head = call->head,
        .predictor = scd_engine_predictor(call->d->engine, call->work.model, call->head),
        .wanted_context = p->fields.context,
        .direction = p->fields.direction,
        .stored = !call->request.n_cells,
        .sums = scd_arena_zalloc(&call->arena, p->info->n_genes, sizeof(double)),
        .squares = scd_arena_zalloc(&call->arena, p->info->n_genes, sizeof(double))};
    call->n_items = p->fields.n;
    p->genes = scd_arena_zalloc(&call->arena, p->fields.n, sizeof *p->genes);
    if (!p->genes || !p->controls.sums || !p->controls.squares)
        return scd_infer_out_of_memory(call);
    const scd_perturb_ear ear = ear_of(call);
    scd_perturb_find(&p->controls, call->model->name, p->fields.genes, p->fields.n, p->genes, &ear,
                     &call->problem);
    if (!call->problem.kind)
        scd_perturb_check_choice(&p->controls, &call->problem);
    return !call->problem.kind && check_size(call, p);
}

/* ---- the controls ---------------------------------------------------------------------------- */

static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    scd_cell whole;
    if (!scd_infer_whole_cell(call, c, measured, &whole))
        return false;
    scd_perturb_add(&call->fields.perturb->controls, &whole);
    return true;
}

static bool plan_end(scd_infer_call *call)
{
    scd_perturb_controls *controls = &call->fields.perturb->controls;
    const scd_perturb_ear ear = ear_of(call);
    if (!controls->stored && !controls->n) {
        scd_problem_set(&call->problem, SCD_PROBLEM_INVALID,
                        "none of the %zu control cells can be used, the first: %.200s",
                        call->request.n_cells,
                        call->cells[0].detail ? call->cells[0].detail : "it is empty");
        return false;
    }
    if (!scd_perturb_settle(controls, &call->arena, &ear))
        return scd_infer_out_of_memory(call);
    if (!controls->stored)
        scd_infer_warn_skipped(call);
    return true;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Embeddings of the controls that can be used, one after the other. */
static const float *gather(const scd_infer_call *call, const scd_perturb_call *p, scd_arena *arena,
                           size_t *n)
{
    const scd_perturb_controls *controls = &p->controls;
    scd_perturb_control stored = scd_predictor_control(controls->predictor, controls->context);
    *n = controls->n;
    if (controls->stored)
        return stored.embeddings;
    float *out = scd_arena_alloc(arena, controls->n, call->width * sizeof *out);
    size_t row = 0;
    for (size_t c = 0; out && c < call->request.n_cells; c++)
        if (!call->cells[c].bad)
            memcpy(out + row++ * call->width, call->cells[c].result, call->width * sizeof *out);
    return out;
}

/* Item i; SCD_E_NOMEM. */
static scd_code write_item(const scd_infer_call *call, size_t i, scd_perturb_ask *ask,
                           scd_answer_item *item, scd_answer *answer)
{
    const scd_perturb_call *p = call->fields.perturb;
    const scd_perturb_controls *controls = &p->controls;
    const scd_perturb_genes *asked = &p->fields.genes[i];
    bool known[SCD_MAX_TARGETS], seen[SCD_MAX_TARGETS];
    scd_perturb_answer predicted;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    for (size_t k = 0; k < asked->n; k++) {
        known[k] = p->genes[i][k].token >= 0;
        seen[k] = scd_predictor_has_seen(controls->predictor, controls->context, p->genes[i][k]);
    }
    ask->n_genes = asked->n;
    ask->genes = p->genes[i];
    item->index = i;
    item->id = scd_perturb_name(asked, &arena);
    scd_answer_perturbation args = {
        .info = p->info,
        .asked = asked,
        .known = known,
        .seen = seen,
        .context = controls->context,
        .correlation = controls->correlation,
        .n_controls = controls->n,
        .anchor = controls->anchor,
        .predicted = &predicted,
        .control = controls->mean,
        .sd = controls->sd,
        .top_genes = p->top_genes,
        .order = scd_arena_alloc(&arena, 2 * p->info->n_genes, sizeof(uint32_t)),
        .expression = scd_arena_alloc(&arena, p->info->n_genes, sizeof(float))};
    scd_code code = args.order && args.expression && item->id.data ? SCD_OK : SCD_E_NOMEM;
    if (!code)
        code = scd_predictor_run(controls->predictor, ask, &arena, &predicted, NULL);
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
    const scd_perturb_controls *controls = &p->controls;
    scd_perturb_ask ask = {
        .context = controls->context, .control = controls->mean, .anchor = controls->anchor};
    scd_answer_item item = scd_infer_sum(call);
    scd_arena_init(&arena, SIZE_MAX / 2);
    const float *embeddings = gather(call, p, &arena, &ask.n_cells);
    scd_code code = embeddings ? SCD_OK : SCD_E_NOMEM;
    if (!code && p->info->contexts[controls->context].gate > 0) {
        ask.cells = scd_predictor_cells(controls->predictor, embeddings, ask.n_cells, &arena);
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
    *about = AROUND + info->n_genes * SCD_PERTURB_SERIES * NUMBER_AND_NAME;
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
