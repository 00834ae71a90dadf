/* compute.c - what tasks ask of cells, by an engine in this process; see task.h.
 *
 * A batch is one pass for each of its cells. A cell on a course of many passes stays until it is
 * done, and the next ones take the places of those that are: as a daemon does it, so that the bits
 * are the same. */
#include "api/cli/task.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* A cell under way. */
typedef struct going {
    const scd_task_order *order;
    scd_course *course; /* NULL: one pass */
} going;

typedef struct computing {
    scd_engine *engine;
    const scd_task *task;
    size_t work;
    const scd_task_order *next; /* that has not begun */
    going *going;               /* (n) in one batch */
    scd_step *steps;
    size_t n, cap;
} computing;

static size_t rows_of(const going *g)
{
    return g->course ? scd_course_rows(g->course) : g->order->cell.n_tokens + 1;
}

/* Cells that fit beside those that are there. */
static scd_code fill(computing *p, scd_error *err)
{
    size_t rows = 0, most = scd_engine_max_rows(p->engine);
    const scd_model_config *config =
        scd_engine_model(p->engine, p->task->works[p->work].model)->config;
    for (size_t i = 0; i < p->n; i++)
        rows += rows_of(&p->going[i]);
    for (; p->next && p->n < p->cap; p->next = p->next->next) {
        going g = {.order = p->next};
        if (g.order->work != p->work)
            continue;
        rows += g.order->cell.n_tokens + 1;
        if (rows > most)
            return SCD_OK;
        scd_code code = g.order->plan
                            ? scd_course_new(g.order->plan, config, &g.order->cell, &g.course, err)
                            : SCD_OK;
        if (code)
            return code;
        p->going[p->n++] = g;
    }
    return SCD_OK;
}

/* Those that are done leave with their result. */
static void harvest(computing *p)
{
    size_t left = 0;
    for (size_t i = 0; i < p->n; i++) {
        going *g = &p->going[i];
        if (g->course && scd_course_passes_left(g->course)) {
            p->going[left++] = *g;
            continue;
        }
        if (g->course) {
            size_t width;
            const float *result = scd_course_result(g->course, &width);
            memcpy(g->order->out, result, width * sizeof *result);
        }
        scd_course_free(g->course);
    }
    p->n = left;
}

static scd_code run(computing *p, const scd_task_order *first, scd_error *err)
{
    scd_code code = SCD_OK;
    p->next = first;
    while (!code && (p->next || p->n)) {
        code =
            cli_is_interrupted(NULL) ? scd_fail(err, SCD_E_CANCELED, "interrupted") : fill(p, err);
        for (size_t i = 0; i < p->n; i++)
            p->steps[i] = (scd_step){.cell = &p->going[i].order->cell,
                                     .course = p->going[i].course,
                                     .out = p->going[i].order->out};
        if (!code && p->n)
            code = scd_engine_step(p->engine, p->task->works[p->work], p->steps, p->n, err);
        if (!code)
            harvest(p);
    }
    for (size_t i = 0; i < p->n; i++)
        scd_course_free(p->going[i].course);
    p->n = 0;
    return code;
}

scd_code cli_compute(scd_engine *engine, const scd_task *task, const scd_task_chunk *chunk,
                     scd_error *err)
{
    size_t most = scd_engine_max_rows(engine) / 2; /* a cell has two rows at least */
    computing p = {.engine = engine, .task = task};
    p.cap = chunk->n_orders < most ? chunk->n_orders : most;
    p.going = scd_malloc(p.cap + 1, sizeof *p.going);
    p.steps = scd_malloc(p.cap + 1, sizeof *p.steps);
    scd_code code = p.going && p.steps ? SCD_OK : scd_task_no_memory(err);
    for (; p.work < task->n_works && !code; p.work++)
        code = run(&p, chunk->first, err);
    free(p.steps);
    free(p.going);
    return code;
}
