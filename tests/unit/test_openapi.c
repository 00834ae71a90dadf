/* test_openapi.c - the OpenAPI document says what the code does: routes, problem types, request
 * members, and examples that our own decoder takes. */
#include "api/annotate_fields.h"
#include "api/denoise_fields.h"
#include "api/embed_fields.h"
#include "api/genes_request.h"
#include "api/grn_fields.h"
#include "api/oip_request.h"
#include "api/openapi.h"
#include "api/perturb_fields.h"
#include "api/request.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static cJSON *document;

/* The node at a path of keys, the last one NULL. */
static const cJSON *at(const char *key, ...)
{
    const cJSON *node = document;
    va_list keys;
    va_start(keys, key);
    for (; key; key = va_arg(keys, const char *)) {
        node = cJSON_GetObjectItemCaseSensitive(node, key);
        if (!node)
            fail_msg("the document has no \"%s\"", key);
    }
    va_end(keys);
    return node;
}

static void every_route_is_described_and_no_other(void **state)
{
    (void)state;
#define SCD_ROUTE(method, path, name, access) {method, path},
    static const char *const routes[][2] = {
#include "api/routes.def"
    };
#undef SCD_ROUTE
    int n_described = 0;
    const cJSON *paths = at("paths", NULL), *path;
    cJSON_ArrayForEach(path, paths) n_described += cJSON_GetArraySize(path);
    size_t n = sizeof routes / sizeof routes[0];
    for (size_t i = 0; i < n; i++) {
        char name[100] = "", method[8] = "";
        size_t n_stars = 0, length = 0;
        for (const char *at = routes[i][1]; *at; at++) {
            const char *stands_for = n_stars                                ? "{version}"
                                     : strncmp(routes[i][1], "/v1/jobs", 8) ? "{name}"
                                                                            : "{id}";
            int n_put = *at == '*' ? snprintf(name + length, sizeof name - length, "%s", stands_for)
                                   : snprintf(name + length, sizeof name - length, "%c", *at);
            length += (size_t)n_put;
            n_stars += *at == '*';
        }
        for (size_t k = 0; k < 7 && routes[i][0][k]; k++)
            method[k] = (char)(routes[i][0][k] | 0x20);
        if (!cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(paths, name),
                                              method))
            fail_msg("%s %s is not described", method, name);
    }
    assert_int_equal(n_described, n);
}

static void the_problem_types_are_those_of_the_code(void **state)
{
    (void)state;
    const cJSON *types = at("components", "schemas", "ProblemType", "enum", NULL);
    assert_int_equal(cJSON_GetArraySize(types), SCD_N_PROBLEMS - 1);
    for (scd_problem_kind kind = SCD_PROBLEM_MALFORMED_JSON; kind < SCD_N_PROBLEMS; kind++) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "urn:scdiva:problem:%s", scd_problem_name(kind));
        assert_string_equal(cJSON_GetArrayItem(types, (int)kind - 1)->valuestring, wanted);
    }
}

static void the_example_problems_are_what_the_code_writes(void **state)
{
    (void)state;
    const cJSON *response, *example;
    size_t n = 0;
    cJSON_ArrayForEach(response, at("components", "responses", NULL))
    {
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(response, "content");
        example = cJSON_GetObjectItemCaseSensitive(content->child, "example");
        for (scd_problem_kind kind = SCD_PROBLEM_NONE; example && kind < SCD_N_PROBLEMS; kind++) {
            const char *type = cJSON_GetObjectItemCaseSensitive(example, "type")->valuestring;
            if (strcmp(strrchr(type, ':') + 1, scd_problem_name(kind)) != 0)
                continue;
            assert_string_equal(cJSON_GetObjectItemCaseSensitive(example, "title")->valuestring,
                                scd_problem_title(kind));
            assert_int_equal(cJSON_GetObjectItemCaseSensitive(example, "status")->valueint,
                             scd_problem_status(kind));
            n++;
        }
    }
    assert_true(n >= 9);
}

static const scd_request_limits limits = {100, 100, 32, 100};

static scd_problem_kind decode_fields(const char *path, const scd_request *request,
                                      scd_arena *arena, const char **unknown, scd_problem *problem)
{
    scd_embed_fields embed = {0};
    scd_annotate_fields annotate = {0};
    scd_denoise_fields denoise = {0};
    scd_generate_fields generate = {0};
    scd_grn_fields grn = {0};
    scd_perturb_fields perturb = {0};
    scd_problem_kind kind = SCD_PROBLEM_NONE;
    if (!strcmp(path, "/v1/embeddings"))
        kind = scd_embed_fields_decode(request, &embed, problem);
    else if (!strcmp(path, "/v1/annotations"))
        kind = scd_annotate_fields_decode(request, &annotate, problem);
    else if (!strcmp(path, "/v1/denoise"))
        kind = scd_denoise_fields_decode(request, arena, &denoise, problem);
    else if (!strcmp(path, "/v1/grn"))
        kind = scd_grn_fields_decode(request, arena, &grn, problem);
    else if (!strcmp(path, "/v1/perturbations"))
        kind = scd_perturb_fields_decode(request, limits.max_name_bytes, arena, &perturb, problem);
    else
        kind = scd_generate_fields_decode(request, arena, &generate, problem);
    const char *const all[] = {embed.unknown,    annotate.unknown, denoise.unknown,
                               generate.unknown, grn.unknown,      perturb.unknown};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        *unknown = all[i] ? all[i] : *unknown;
    return kind;
}

enum { SOME_WITHOUT = 1000 }; /* some examples have no cells */

/* The examples of a route that takes cells; how many each has. */
static void decode_cells(const char *path, size_t n_cells)
{
    const cJSON *example;
    cJSON_ArrayForEach(example, at("paths", path, "post", "requestBody", "content",
                                   "application/json", "examples", NULL))
    {
        char *body = cJSON_Print(cJSON_GetObjectItemCaseSensitive(example, "value"));
        scd_arena arena;
        scd_problem problem = {0};
        scd_request request = {.cells_required = n_cells > 0 && n_cells != SOME_WITHOUT};
        scd_arena_init(&arena, 1 << 20);
        if (scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem))
            fail_msg("%s: %s", example->string, problem.detail);
        if (n_cells != SOME_WITHOUT)
            assert_int_equal(request.n_cells, n_cells);
        const char *unknown = NULL;
        if (decode_fields(path, &request, &arena, &unknown, &problem))
            fail_msg("%s: %s", example->string, problem.detail);
        assert_null(unknown);
        scd_request_release(&request);
        scd_arena_release(&arena);
        cJSON_free(body);
    }
}

static void our_decoder_takes_the_example_requests(void **state)
{
    (void)state;
    const cJSON *example;
    decode_cells("/v1/embeddings", 2);
    decode_cells("/v1/annotations", 2);
    decode_cells("/v1/denoise", 2);
    decode_cells("/v1/generate", 0);
    decode_cells("/v1/grn", 2);
    decode_cells("/v1/perturbations", SOME_WITHOUT);
    cJSON_ArrayForEach(example, at("paths", "/v1/genes", "post", "requestBody", "content",
                                   "application/json", "examples", NULL))
    {
        char *body = cJSON_Print(cJSON_GetObjectItemCaseSensitive(example, "value"));
        scd_arena arena;
        scd_problem problem;
        scd_genes_request request;
        scd_arena_init(&arena, 1 << 20);
        if (scd_genes_request_decode(body, strlen(body), &limits, &arena, &request, &problem))
            fail_msg("%s: %s", example->string, problem.detail);
        scd_arena_release(&arena);
        cJSON_free(body);
    }
}

static void our_decoder_takes_the_example_requests_of_tensors(void **state)
{
    (void)state;
    const cJSON *example;
    size_t n = 0;
    cJSON_ArrayForEach(example, at("paths", "/v2/models/{name}/infer", "post", "requestBody",
                                   "content", "application/json", "examples", NULL))
    {
        char *json = cJSON_Print(cJSON_GetObjectItemCaseSensitive(example, "value"));
        scd_arena arena;
        scd_problem problem = {0};
        scd_request request = {0};
        scd_oip_request oip;
        scd_oip_body body = {json, strlen(json), strlen(json), false};
        scd_arena_init(&arena, 1 << 20);
        if (scd_oip_decode(&body, &limits, &arena, &oip, &request, &problem))
            fail_msg("%s: %s", example->string, problem.detail);
        assert_int_equal(request.n_cells, 2);
        assert_null(oip.unknown);
        assert_null(scd_oip_first_parameter(&request));
        n++;
        scd_request_release(&request);
        scd_arena_release(&arena);
        cJSON_free(json);
    }
    assert_int_equal(n, 3);
}

static void the_members_that_every_task_has_are_known_to_the_decoder(void **state)
{
    (void)state;
    const cJSON *member;
    cJSON_ArrayForEach(member, at("components", "schemas", "Common", "properties", NULL))
    { /* what the decoder knows does not end up among the task's own fields */
        char body[300];
        snprintf(body, sizeof body, "{\"%s\":{\"x\":1},\"n\":1}", member->string);
        scd_arena arena;
        scd_problem problem;
        scd_request request = {.cells_required = false};
        scd_arena_init(&arena, 1 << 20);
        scd_request_decode(body, strlen(body), &limits, &arena, &request, &problem);
        if (request.task && cJSON_GetArraySize(request.task) != 1)
            fail_msg("%s goes to the task", member->string);
        scd_request_release(&request);
        scd_arena_release(&arena);
    }
    assert_int_equal(
        at("components", "schemas", "Common", "properties", "timeout_ms", "maximum", NULL)
            ->valueint,
        SCD_REQUEST_MAX_TIMEOUT_MS);
}

static int parse(void **state)
{
    (void)state;
    document =
        cJSON_ParseWithLength(scd_openapi_json, (size_t)(scd_openapi_json_end - scd_openapi_json));
    return document ? 0 : -1;
}

static int release(void **state)
{
    (void)state;
    cJSON_Delete(document);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_described_and_no_other),
        cmocka_unit_test(the_problem_types_are_those_of_the_code),
        cmocka_unit_test(the_example_problems_are_what_the_code_writes),
        cmocka_unit_test(our_decoder_takes_the_example_requests),
        cmocka_unit_test(our_decoder_takes_the_example_requests_of_tensors),
        cmocka_unit_test(the_members_that_every_task_has_are_known_to_the_decoder),
    };
    return cmocka_run_group_tests(tests, parse, release);
}
