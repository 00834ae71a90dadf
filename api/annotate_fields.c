/* annotate_fields.c - see annotate_fields.h. */
#include "api/annotate_fields.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

static void read_head(const cJSON *value, scd_annotate_fields *out, scd_problem *problem)
{
    const char *text = cJSON_GetStringValue(value);
    if (text && *text)
        out->head = (scd_text){text, strlen(text)};
    else
        scd_problem_add(problem, "/head", "must be the name of a head");
}

static void read_top_k(const cJSON *value, scd_annotate_fields *out, scd_problem *problem)
{
    double k = cJSON_IsNumber(value) ? value->valuedouble : 0;
    if (k >= 1 && k <= 1e6 && k == floor(k))
        out->top_k = (size_t)k;
    else
        scd_problem_add(problem, "/top_k", "must be a whole number from 1 to the head's labels");
}

static void read_threshold(const cJSON *value, scd_annotate_fields *out, scd_problem *problem)
{
    out->has_threshold =
        cJSON_IsNumber(value) && value->valuedouble >= 0 && value->valuedouble <= 1;
    if (out->has_threshold)
        out->threshold = value->valuedouble;
    else
        scd_problem_add(problem, "/threshold", "must be a number from 0 (never unknown) to 1");
}

scd_problem_kind scd_annotate_fields_decode(const scd_request *request, scd_annotate_fields *out,
                                            scd_problem *problem)
{
    *out = (scd_annotate_fields){0};
    for (const cJSON *member = request->task->child; member; member = member->next) {
        if (!strcmp(member->string, "head"))
            read_head(member, out, problem);
        else if (!strcmp(member->string, "top_k"))
            read_top_k(member, out, problem);
        else if (!strcmp(member->string, "threshold"))
            read_threshold(member, out, problem);
        else if (!out->unknown)
            out->unknown = member->string;
    }
    return problem->kind;
}
