/* models.c - see models.h. */
#include "server/models.h"

#include <stdio.h>

const scd_served_model *scd_models_choose(const scd_engine *engine, scd_text name, size_t *index,
                                          scd_problem *problem)
{
    char names[400] = "";
    for (size_t i = 0; i < scd_engine_n_models(engine); i++) {
        const scd_served_model *m = scd_engine_model(engine, i);
        *index = i;
        if (!name.n || scd_text_is(name, m->name))
            return m;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s\"%s\"", n ? ", " : "", m->name);
    }
    scd_problem_set(problem, SCD_PROBLEM_NOT_FOUND, "there is no model \"%.*s\" here: there is %s",
                    (int)(name.n < 100 ? name.n : 100), name.data, names);
    return NULL;
}
