/* models.c - see models.h. */
#include "api/models.h"

#include <stdio.h>

/* One more name of a list for people; what does not fit is left out. */
static void add_name(char names[400], const char *name)
{
    size_t n = strlen(names);
    snprintf(names + n, 400 - n, "%s\"%s\"", n ? ", " : "", name);
}

const scd_served_model *scd_models_choose(const scd_engine *engine, scd_text name, size_t *index,
                                          scd_problem *problem)
{
    char names[400] = "";
    for (size_t i = 0; i < scd_engine_n_models(engine); i++) {
        const scd_served_model *m = scd_engine_model(engine, i);
        *index = i;
        if (!name.n || scd_text_is(name, m->name))
            return m;
        add_name(names, m->name);
    }
    scd_problem_set(problem, SCD_PROBLEM_NOT_FOUND, "there is no model \"%.*s\" here: there is %s",
                    (int)(name.n < 100 ? name.n : 100), name.data, names);
    return NULL;
}

const scd_head_info *scd_models_choose_head(const scd_served_model *model, const char *task,
                                            scd_text name, scd_problem *problem)
{
    char names[400] = "";
    const scd_head_info *only = NULL;
    size_t n = 0;
    for (size_t i = 0; i < model->n_heads; i++) {
        const scd_head_info *head = model->heads[i];
        if (strcmp(head->task, task) != 0)
            continue;
        if (name.n && scd_text_is(name, head->name))
            return head;
        add_name(names, head->name);
        only = head;
        n++;
    }
    if (!n)
        scd_problem_add(problem, "/model",
                        "model \"%.80s\" has no %s head: scdiva-train finetune makes one",
                        model->name, task);
    else if (name.n)
        scd_problem_set(problem, SCD_PROBLEM_NOT_FOUND,
                        "model \"%.80s\" has no %s head \"%.*s\": there is %s", model->name, task,
                        (int)(name.n < 100 ? name.n : 100), name.data, names);
    else if (n > 1) {
        scd_problem_set(problem, SCD_PROBLEM_INVALID,
                        "model \"%.80s\" has %zu %s heads: name one in \"head\", there is %s",
                        model->name, n, task, names);
        scd_problem_add(problem, "/head", "must be one of those that the model has");
    }
    return !name.n && n == 1 ? only : NULL;
}

static scd_text text_of(const char *text)
{
    return (scd_text){text, strlen(text)};
}

void scd_models_choose_for(const scd_task_kind *kind, const scd_job_query *query, const char *model,
                           scd_task_model *who, scd_problem *problem)
{
    who->model = scd_models_choose(who->engine, text_of(model), &who->index, problem);
    if (who->model && kind->head)
        who->head = scd_models_choose_head(who->model, kind->head, text_of(query->head), problem);
}
