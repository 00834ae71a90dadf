/* perturb_fields.c - see perturb_fields.h. */
#include "api/perturb_fields.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

typedef struct reading {
    size_t max_name_bytes;
    scd_arena *arena;
    scd_perturb_fields *out;
    scd_problem *problem;
    bool no_memory;
} reading;

static scd_text copy(reading *r, const char *text)
{
    size_t n = strlen(text);
    scd_text out = {scd_arena_strndup(r->arena, text, n), n};
    r->no_memory = r->no_memory || !out.data;
    return out;
}

/* A text that is not empty, at `pointer`. */
static void read_text(reading *r, const cJSON *value, const char *pointer, const char *what,
                      scd_text *out)
{
    const char *text = cJSON_GetStringValue(value);
    if (text && *text)
        *out = copy(r, text);
    else
        scd_problem_add(r->problem, pointer, "must be the name of a %s", what);
}

static void read_top_genes(reading *r, const cJSON *value)
{
    double n = cJSON_IsNumber(value) ? value->valuedouble : -1;
    if (n >= 0 && n <= 1e6 && n == floor(n))
        r->out->top_genes = (size_t)n;
    else
        scd_problem_add(r->problem, "/top_genes", "must be a whole number from 0");
}

static void read_direction(reading *r, const cJSON *value)
{
    const char *text = cJSON_GetStringValue(value);
    for (int k = 0; text && k < SCD_N_DIRECTIONS; k++)
        if (!strcmp(text, scd_direction_name((scd_direction)k))) {
            r->out->direction = (scd_direction)k;
            return;
        }
    scd_problem_add(r->problem, "/direction", "must be \"activation\" or \"knockdown\"");
}

/* One name; where it is wrong it is said and left empty. */
static scd_text read_gene(reading *r, const cJSON *item, size_t i, size_t k, const scd_text *before)
{
    char pointer[128];
    const char *text = cJSON_GetStringValue(item);
    snprintf(pointer, sizeof pointer, "/perturbations/%zu/%zu", i, k);
    if (!text || !*text) {
        scd_problem_add(r->problem, pointer, "must be a gene name");
        return (scd_text){0};
    }
    if (strlen(text) > r->max_name_bytes) {
        scd_problem_add(r->problem, pointer, "has %zu bytes, a name may have %zu", strlen(text),
                        r->max_name_bytes);
        return (scd_text){0};
    }
    for (size_t j = 0; j < k; j++)
        if (before[j].n && scd_text_is(before[j], text))
            scd_problem_add(r->problem, pointer, "\"%.80s\" is named twice in this perturbation",
                            text);
    return copy(r, text);
}

static void read_genes(reading *r, const cJSON *array, size_t i, scd_perturb_genes *out)
{
    char pointer[128];
    const cJSON *item;
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    if (n < 1 || n > SCD_MAX_TARGETS) {
        snprintf(pointer, sizeof pointer, "/perturbations/%zu", i);
        scd_problem_add(r->problem, pointer, "must be an array of 1 to %d gene names",
                        SCD_MAX_TARGETS);
        return;
    }
    scd_text *names = scd_arena_zalloc(r->arena, (size_t)n, sizeof *names);
    r->no_memory = r->no_memory || !names;
    if (!names)
        return;
    out->names = names;
    cJSON_ArrayForEach(item, array)
    {
        names[out->n] = read_gene(r, item, i, out->n, names);
        out->n++;
    }
}

static void read_perturbations(reading *r, const cJSON *array)
{
    const cJSON *item;
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    if (n < 1 || n > SCD_MAX_PERTURBATIONS) {
        scd_problem_add(r->problem, "/perturbations",
                        "must be an array of 1 to %d perturbations, each an array of gene names: "
                        "[[\"KLF1\"], [\"KLF1\", \"BAK1\"]]",
                        SCD_MAX_PERTURBATIONS);
        return;
    }
    scd_perturb_genes *genes = scd_arena_zalloc(r->arena, (size_t)n, sizeof *genes);
    r->no_memory = r->no_memory || !genes;
    if (!genes)
        return;
    r->out->genes = genes;
    cJSON_ArrayForEach(item, array)
    {
        read_genes(r, item, r->out->n, &genes[r->out->n]);
        r->out->n++;
    }
}

scd_problem_kind scd_perturb_fields_decode(const scd_request *request, size_t max_name_bytes,
                                           scd_arena *arena, scd_perturb_fields *out,
                                           scd_problem *problem)
{
    reading r = {.max_name_bytes = max_name_bytes, .arena = arena, .out = out, .problem = problem};
    bool has_perturbations = false;
    *out = (scd_perturb_fields){.top_genes = SIZE_MAX, .direction = SCD_N_DIRECTIONS};
    for (const cJSON *member = request->task->child; member; member = member->next) {
        if (!strcmp(member->string, "perturbations")) {
            has_perturbations = true;
            read_perturbations(&r, member);
        } else if (!strcmp(member->string, "head"))
            read_text(&r, member, "/head", "head", &out->head);
        else if (!strcmp(member->string, "top_genes"))
            read_top_genes(&r, member);
        else if (!strcmp(member->string, "direction"))
            read_direction(&r, member);
        else if (!strcmp(member->string, "context"))
            read_text(&r, member, "/context", "context of the head", &out->context);
        else if (!out->unknown)
            out->unknown = copy(&r, member->string).data;
    }
    if (!has_perturbations)
        scd_problem_add(
            problem, "/perturbations",
            "is missing: which genes are perturbed? [[\"KLF1\"], [\"KLF1\", \"BAK1\"]]");
    if (!request->n_cells && request->n_shared_genes)
        scd_problem_add(problem, "/matrix",
                        "is missing: \"genes\" without it are no cells. Leave both out for the "
                        "head's stored controls");
    if (r.no_memory)
        scd_problem_set(problem, SCD_PROBLEM_TOO_LARGE,
                        "the request needs more memory than one request gets");
    return problem->kind;
}
