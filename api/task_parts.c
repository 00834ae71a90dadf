/* task_parts.c - what several tasks are made of; see task.h. */
#include "api/task.h"

#include <stdio.h>
#include <string.h>

/* ---- genes of a query ----------------------------------------------------------------------- */

static void refuse(scd_problem *problem, const scd_job_query *q, scd_text name, const char *what)
{
    char pointer[32];
    snprintf(pointer, sizeof pointer, "/%s", q->list_name);
    scd_problem_add(problem, pointer, "\"%.*s\" %s", (int)(name.n < 80 ? name.n : 80), name.data,
                    what);
}

int32_t *scd_task_genes(const scd_job_query *q, const scd_vocab *vocab, scd_arena *arena, size_t *n,
                        scd_problem *problem)
{
    scd_text *names;
    bool ok = scd_job_list_read(q->list, arena, &names, n);
    int32_t *tokens = ok ? scd_arena_alloc(arena, *n, sizeof *tokens) : NULL;
    if (!tokens) {
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return NULL;
    }
    for (size_t i = 0; i < *n; i++) {
        scd_rung rung;
        tokens[i] = scd_vocab_resolve(vocab, names[i].data, names[i].n, &rung);
        if (rung == SCD_RUNG_AMBIGUOUS)
            refuse(problem, q, names[i], "is an alias of several genes: name one of them");
        else if (tokens[i] < 0)
            refuse(problem, q, names[i],
                   "is no gene of the model (POST /v1/genes shows what names become)");
        for (size_t k = 0; k < i && tokens[i] >= 0; k++)
            if (tokens[k] == tokens[i])
                refuse(problem, q, names[i], "is a gene that was named already");
    }
    return problem->kind ? NULL : tokens;
}

bool scd_task_can_denoise(const scd_task_model *who, scd_problem *problem)
{
    if (scd_engine_denoises(who->engine))
        return true;
    scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "this device (%s) does not denoise: use cpu",
                    scd_engine_device_kind(who->engine));
    return false;
}

/* ---- facts ---------------------------------------------------------------------------------- */

static void add_fact(scd_task *t, scd_fact fact)
{
    if (t->n_facts < SCD_TASK_MAX_FACTS)
        t->facts[t->n_facts++] = fact;
}

void scd_task_fact_text(scd_task *t, const char *key, const char *text)
{
    add_fact(t, (scd_fact){.key = key, .text = text});
}

void scd_task_fact_number(scd_task *t, const char *key, double number)
{
    add_fact(t, (scd_fact){.key = key, .number = number, .is_number = true});
}

void scd_task_fact_list(scd_task *t, const char *key, const char *const *list, size_t n)
{
    add_fact(t, (scd_fact){.key = key, .list = list, .n_list = n, .is_list = true});
}
