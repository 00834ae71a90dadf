/* grn_fields.c - see grn_fields.h. */
#include "api/grn_fields.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void read_numbers(const cJSON *value, scd_arena *arena, scd_numbers *out,
                         scd_problem *problem)
{
    int n = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : 0;
    char at[128];
    snprintf(at, sizeof at, "/%s", value->string);
    if (!n) {
        scd_problem_add(problem, at, "must be an array of at least one number, from 0");
        return;
    }
    out->numbers = scd_arena_alloc(arena, (size_t)n, sizeof *out->numbers);
    if (!out->numbers) {
        scd_problem_set(problem, SCD_PROBLEM_TOO_LARGE,
                        "the request needs more memory than one request gets");
        return;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, value)
    {
        double x = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(x >= 0 && x < 1e6 && x == floor(x))) {
            snprintf(at, sizeof at, "/%s/%zu", value->string, out->n);
            scd_problem_add(problem, at, "must be a whole number from 0");
            return;
        }
        out->numbers[out->n++] = (size_t)x;
    }
}

static void read_top_k(const cJSON *value, scd_grn_fields *out, scd_problem *problem)
{
    double k = cJSON_IsNumber(value) ? value->valuedouble : 0;
    if (k >= 1 && k <= 1e6 && k == floor(k))
        out->top_k = (size_t)k;
    else
        scd_problem_add(problem, "/top_k",
                        "must be a whole number: how many targets of each regulator to list");
}

scd_problem_kind scd_grn_fields_decode(const scd_request *request, scd_arena *arena,
                                       scd_grn_fields *out, scd_problem *problem)
{
    *out = (scd_grn_fields){.top_k = SCD_GRN_TOP_K};
    for (const cJSON *m = request->task->child; m; m = m->next) {
        if (!strcmp(m->string, "regulators"))
            scd_names_read(m, "/regulators", arena, &out->regulators, problem);
        else if (!strcmp(m->string, "top_k"))
            read_top_k(m, out, problem);
        else if (!strcmp(m->string, "layers"))
            read_numbers(m, arena, &out->layers, problem);
        else if (!strcmp(m->string, "heads"))
            read_numbers(m, arena, &out->heads, problem);
        else if (!out->unknown)
            out->unknown = m->string;
    }
    if (!out->regulators.given)
        scd_problem_add(problem, "",
                        "\"regulators\" is missing: the genes whose associations are asked for");
    else if (out->regulators.n > SCD_MAX_REGULATORS)
        scd_problem_add(problem, "/regulators", "has %zu genes: ask for at most %d at a time",
                        out->regulators.n, (int)SCD_MAX_REGULATORS);
    return problem->kind;
}
