/* denoise_fields.c - see denoise_fields.h. */
#include "api/denoise_fields.h"

#include "api/request_parts.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whole numbers up to here are exact in JSON's usual type. */
static const double MAX_SEED = 9007199254740991.0;

static bool whole(const cJSON *value, double least, double most, double *out)
{
    double x = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    *out = x;
    return x >= least && x <= most && x == floor(x);
}

static void no_memory(scd_problem *problem)
{
    scd_problem_set(problem, SCD_PROBLEM_TOO_LARGE,
                    "the request needs more memory than one request gets");
}

void scd_names_read(const cJSON *value, const char *pointer, scd_arena *arena, scd_names *out,
                    scd_problem *problem)
{
    int n = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : 0;
    out->given = true;
    if (!n) {
        scd_problem_add(problem, pointer, "must be an array with the name of at least one gene");
        return;
    }
    out->names = scd_arena_alloc(arena, (size_t)n, sizeof *out->names);
    if (!out->names) {
        no_memory(problem);
        return;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, value)
    {
        const char *text = cJSON_GetStringValue(item);
        if (!text || !*text) {
            char at[128];
            snprintf(at, sizeof at, "%s/%zu", pointer, out->n);
            scd_problem_add(problem, at, "must be the name of a gene");
            return;
        }
        out->names[out->n++] = (scd_text){text, strlen(text)};
    }
}

static void read_seed(const cJSON *value, const char *pointer, uint64_t *out, scd_problem *problem)
{
    double seed;
    if (whole(value, 0, MAX_SEED, &seed))
        *out = (uint64_t)seed;
    else
        scd_problem_add(problem, pointer, "must be a whole number from 0 to 2^53 - 1");
}

static void read_temperature(const cJSON *value, scd_sampling_fields *out, scd_problem *problem)
{
    double t = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    out->has_temperature = true;
    out->temperature = (float)t;
    float in_use = out->temperature;
    if (t != 0 && !(in_use >= SCD_MIN_TEMPERATURE && in_use <= SCD_MAX_TEMPERATURE))
        scd_problem_add(problem, "/temperature",
                        "must be 0 (the most probable gene) or from %g to %d",
                        (double)SCD_MIN_TEMPERATURE, (int)SCD_MAX_TEMPERATURE);
}

static void read_pooling(const cJSON *value, scd_sampling_fields *out, scd_problem *problem)
{
    const char *text = cJSON_GetStringValue(value);
    out->has_pooling = true;
    out->clean = text && !strcmp(text, "clean");
    if (!text || (strcmp(text, "clean") != 0 && strcmp(text, "visible") != 0))
        scd_problem_add(problem, "/pooling", "must be \"visible\" or \"clean\"");
}

static void read_confidence(const cJSON *value, scd_sampling_fields *out, scd_problem *problem)
{
    double c = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    out->confidence = (float)c;
    if (!(c > 0 && c <= 1))
        scd_problem_add(problem, "/confidence",
                        "must be a probability above 0 and up to 1; leave it out for as many "
                        "tokens in each step");
}

/* True when the member is one of these. */
static bool read_sampling(const cJSON *member, scd_arena *arena, scd_sampling_fields *out,
                          scd_problem *problem)
{
    double steps;
    if (!strcmp(member->string, "steps")) {
        if (whole(member, 1, SCD_MAX_STEPS, &steps))
            out->steps = (size_t)steps;
        else
            scd_problem_add(problem, "/steps", "must be a whole number from 1 to %d",
                            (int)SCD_MAX_STEPS);
    } else if (!strcmp(member->string, "temperature")) {
        read_temperature(member, out, problem);
    } else if (!strcmp(member->string, "confidence")) {
        read_confidence(member, out, problem);
    } else if (!strcmp(member->string, "refresh")) {
        out->refresh = cJSON_IsTrue(member);
        if (!cJSON_IsBool(member))
            scd_problem_add(problem, "/refresh", "must be true or false");
    } else if (!strcmp(member->string, "pooling")) {
        read_pooling(member, out, problem);
    } else if (!strcmp(member->string, "candidates")) {
        scd_names_read(member, "/candidates", arena, &out->candidates, problem);
    } else {
        return false;
    }
    return true;
}

/* ---- /v1/denoise ---------------------------------------------------------------------------- */

/* A member that is not known, or came before. */
static void refuse_member(const cJSON *mask, const cJSON *member, scd_problem *problem)
{
    scd_fault fault = {0};
    scd_place place = {"/mask", SCD_NO_INDEX, member->string, SCD_NO_INDEX};
    if (cJSON_GetObjectItemCaseSensitive(mask, member->string) != member)
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "is given twice");
    else
        scd_fault_unknown_member(&fault, &place, (scd_text){member->string, strlen(member->string)},
                                 "fraction, genes, seed");
    scd_problem_add_fault(problem, &fault);
}

static void read_mask(const cJSON *mask, scd_arena *arena, scd_denoise_fields *out,
                      scd_problem *problem)
{
    bool has_fraction = false;
    if (!cJSON_IsObject(mask)) {
        scd_problem_add(problem, "/mask", "must be an object with \"fraction\" or \"genes\"");
        return;
    }
    for (const cJSON *m = mask->child; m; m = m->next) {
        if (cJSON_GetObjectItemCaseSensitive(mask, m->string) != m) {
            refuse_member(mask, m, problem);
        } else if (!strcmp(m->string, "fraction")) {
            has_fraction = true;
            out->fraction = cJSON_IsNumber(m) ? m->valuedouble : NAN;
            if (!(out->fraction > 0 && out->fraction < 1))
                scd_problem_add(problem, "/mask/fraction",
                                "must be above 0 and below 1: with everything hidden there is "
                                "nothing to go by (POST /v1/generate makes cells from nothing)");
        } else if (!strcmp(m->string, "genes")) {
            scd_names_read(m, "/mask/genes", arena, &out->mask, problem);
        } else if (!strcmp(m->string, "seed")) {
            read_seed(m, "/mask/seed", &out->seed, problem);
        } else {
            refuse_member(mask, m, problem);
        }
    }
    if (has_fraction == out->mask.given)
        scd_problem_add(problem, "/mask",
                        has_fraction ? "has both \"fraction\" and \"genes\": give one"
                                     : "needs \"fraction\" or \"genes\"");
}

scd_problem_kind scd_denoise_fields_decode(const scd_request *request, scd_arena *arena,
                                           scd_denoise_fields *out, scd_problem *problem)
{
    *out = (scd_denoise_fields){0};
    bool has_mask = false;
    for (const cJSON *m = request->task->child; m; m = m->next) {
        if (!strcmp(m->string, "mask")) {
            has_mask = true;
            read_mask(m, arena, out, problem);
        } else if (!strcmp(m->string, "impute")) {
            scd_names_read(m, "/impute", arena, &out->impute, problem);
        } else if (!strcmp(m->string, "gene_scores")) {
            out->has_per_gene = true;
            out->per_gene = cJSON_IsTrue(m);
            if (!cJSON_IsBool(m))
                scd_problem_add(problem, "/gene_scores", "must be true or false");
        } else if (!read_sampling(m, arena, &out->sampling, problem) && !out->unknown) {
            out->unknown = m->string;
        }
    }
    if (has_mask && out->impute.given)
        scd_problem_add(
            problem, "/impute",
            "stands beside \"mask\": a request hides tokens or imputes genes, not both");
    else if (!has_mask && !out->impute.given)
        scd_problem_add(problem, "",
                        "\"mask\" or \"impute\" is missing: which tokens to hide, or which genes' "
                        "values to find");
    return problem->kind;
}

/* ---- /v1/generate --------------------------------------------------------------------------- */

static void read_length(const cJSON *value, scd_arena *arena, scd_generate_fields *out,
                        scd_problem *problem)
{
    bool is_list = cJSON_IsArray(value);
    int n = is_list ? cJSON_GetArraySize(value) : 1;
    if (n < 1 || n > SCD_MAX_LENGTHS) {
        scd_problem_add(problem, "/length", "has %d lengths to draw from: give 1 to %d", n,
                        (int)SCD_MAX_LENGTHS);
        return;
    }
    out->lengths = scd_arena_alloc(arena, (size_t)n, sizeof *out->lengths);
    if (!out->lengths) {
        no_memory(problem);
        return;
    }
    const cJSON *item = is_list ? value->child : value;
    for (out->n_lengths = 0; out->n_lengths < (size_t)n; item = item->next) {
        double length;
        char at[64] = "/length";
        if (is_list)
            snprintf(at, sizeof at, "/length/%zu", out->n_lengths);
        if (!whole(item, 1, 1e6, &length)) {
            scd_problem_add(problem, at,
                            "must be a number of tokens, from 1 to the model's max_gene_len");
            return;
        }
        out->lengths[out->n_lengths++] = (size_t)length;
    }
}

static void read_values(const cJSON *value, scd_arena *arena, scd_generate_fields *out,
                        scd_problem *problem)
{
    int n = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : 0;
    if (!n) {
        scd_problem_add(problem, "/values",
                        "must be an array of numbers, one for each of genes, null where the value "
                        "is to be found; or leave it out");
        return;
    }
    out->values = scd_arena_alloc(arena, (size_t)n, sizeof *out->values);
    if (!out->values) {
        no_memory(problem);
        return;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, value)
    {
        if (!cJSON_IsNumber(item) && !cJSON_IsNull(item)) {
            char at[64];
            snprintf(at, sizeof at, "/values/%zu", out->n_values);
            scd_problem_add(problem, at, "must be a number, or null: to be found");
            return;
        }
        out->values[out->n_values++] = cJSON_IsNull(item) ? NAN : item->valuedouble;
    }
}

scd_problem_kind scd_generate_fields_decode(const scd_request *request, scd_arena *arena,
                                            scd_generate_fields *out, scd_problem *problem)
{
    *out = (scd_generate_fields){.n = 1};
    for (const cJSON *m = request->task->child; m; m = m->next) {
        double n;
        if (!strcmp(m->string, "n")) {
            if (whole(m, 1, 1e9, &n))
                out->n = (size_t)n;
            else
                scd_problem_add(problem, "/n", "must be a whole number of cells, at least 1");
        } else if (!strcmp(m->string, "seed")) {
            read_seed(m, "/seed", &out->seed, problem);
        } else if (!strcmp(m->string, "length")) {
            read_length(m, arena, out, problem);
        } else if (!strcmp(m->string, "values")) {
            read_values(m, arena, out, problem);
        } else if (!read_sampling(m, arena, &out->sampling, problem) && !out->unknown) {
            out->unknown = m->string;
        }
    }
    if (out->sampling.clean)
        scd_problem_add(problem, "/pooling",
                        "\"clean\" pools what is hidden, and here there is nothing behind it");
    return problem->kind;
}
