/* worker_remote.c - a worker that asks a daemon which models it has and which genes these know:
 * /v1/models, /v1/genes; see worker.h. */
#include "api/cli/worker_impl.h"

#include "api/client.h"
#include "api/json_write.h"
#include "engine/base/mem.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_BYTES = 1 << 30, GENES_AT_ONCE = 20000, USUAL_NAME_BYTES = 256 };

typedef struct remote {
    scd_client *client;
    cJSON *models; /* what the daemon said; facts point into it */
    size_t max_name_bytes;
} remote;

static void close_remote(cli_worker *worker)
{
    remote *r = worker->self;
    if (!r)
        return;
    cJSON_Delete(r->models);
    scd_client_close(r->client);
    free(r);
}

/* ---- reading answers ---- */

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static size_t size_of(const cJSON *object, const char *key, size_t otherwise)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e15
               ? (size_t)item->valuedouble
               : otherwise;
}

static scd_code strange(const char *what, scd_error *err)
{
    return scd_fail(err, SCD_E_CORRUPT, "the daemon's answer has no %s as expected", what);
}

/* ---- opening ---- */

/* NULL: there is none of this name. */
static const cJSON *find_named(const cJSON *list, const char *name)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *is = text_of(item, "name");
        if (is && (!name || strcmp(is, name) == 0))
            return item;
    }
    return NULL;
}

static scd_code describe(cli_worker *worker, remote *r, const cli_worker_options *o, scd_error *err)
{
    scd_code code = scd_client_ask(r->client, "/v1/models", NULL, &r->models, err);
    if (code)
        return code;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(r->models, "data");
    const cJSON *limits = cJSON_GetObjectItemCaseSensitive(r->models, "limits");
    const cJSON *m = find_named(list, o->model);
    if (!m && o->model)
        return scd_fail(err, SCD_E_NOT_FOUND,
                        "the server has no model \"%s\"; the first it has is \"%s\"", o->model,
                        text_of(cJSON_GetArrayItem(list, 0), "name")
                            ? text_of(cJSON_GetArrayItem(list, 0), "name")
                            : "");
    worker->model =
        (cli_model){.name = text_of(m, "name"), .max_gene_len = size_of(m, "max_gene_len", 0)};
    if (!worker->model.name || !worker->model.max_gene_len)
        return strange("models", err);
    r->max_name_bytes = size_of(limits, "max_name_bytes", USUAL_NAME_BYTES);
    return SCD_OK;
}

/* ---- genes ---- */

static scd_rung rung_of(const char *name)
{
    for (int i = 0; name && i < SCD_N_RUNGS; i++)
        if (strcmp(scd_rung_name((scd_rung)i), name) == 0)
            return (scd_rung)i;
    return SCD_RUNG_UNKNOWN;
}

/* Names that a request cannot hold are known to nobody. */
static bool can_ask(const remote *r, const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= r->max_name_bytes;
}

static scd_code take_tokens(const remote *r, const cJSON *answer, const char *const *names,
                            size_t n, int32_t *tokens, scd_rung *rungs, scd_error *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(answer, "data");
    item = cJSON_IsArray(item) ? item->child : NULL;
    for (size_t i = 0; i < n; i++) {
        tokens[i] = -1;
        rungs[i] = SCD_RUNG_UNKNOWN;
        if (!can_ask(r, names[i]))
            continue;
        if (!item)
            return strange("genes", err);
        const cJSON *token = cJSON_GetObjectItemCaseSensitive(item, "token");
        tokens[i] = cJSON_IsNumber(token) ? token->valueint : -1;
        rungs[i] = rung_of(text_of(item, "rung"));
        item = item->next;
    }
    return SCD_OK;
}

static scd_code resolve_there(void *arg, const char *const *names, size_t n, int32_t *tokens,
                              scd_rung *rungs, scd_error *err)
{
    const cli_worker *worker = arg;
    const remote *r = worker->self;
    scd_code code = SCD_OK;
    for (size_t at = 0, some; at < n && !code; at += some) {
        scd_buf body;
        cJSON *answer = NULL;
        size_t asked = 0;
        some = n - at < GENES_AT_ONCE ? n - at : GENES_AT_ONCE;
        scd_buf_init(&body, BODY_BYTES);
        scd_buf_puts(&body, "{\"model\":");
        scd_json_text(&body, worker->model.name);
        scd_buf_puts(&body, ",\"genes\":[");
        for (size_t i = 0; i < some; i++)
            if (can_ask(r, names[at + i])) {
                scd_buf_puts(&body, asked++ ? "," : "");
                scd_json_text(&body, names[at + i]);
            }
        scd_buf_puts(&body, "]}");
        if (asked)
            code = scd_client_ask(r->client, "/v1/genes", &body, &answer, err);
        if (!code)
            code = take_tokens(r, answer, names + at, some, tokens + at, rungs + at, err);
        cJSON_Delete(answer);
        scd_buf_release(&body);
    }
    return code;
}

/* As mouse symbols are written: "Actb". */
static bool looks_mouse(void *arg, const char *name)
{
    bool has_lower = false;
    (void)arg;
    if (strncmp(name, "ENSMUSG", 7) == 0)
        return true;
    if (name[0] < 'A' || name[0] > 'Z')
        return false;
    for (const char *at = name + 1; *at; at++) {
        if (*at >= 'A' && *at <= 'Z')
            return false;
        has_lower = has_lower || (*at >= 'a' && *at <= 'z');
    }
    return has_lower;
}

static const cli_worker_ops ops = {close_remote, resolve_there, looks_mouse};

scd_code cli_worker_open_remote(cli_worker *worker, const cli_worker_options *o, scd_error *err)
{
    remote *r = scd_calloc(1, sizeof *r);
    if (!r)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    worker->ops = &ops;
    worker->self = r;
    scd_code code = scd_client_open(o->server, o->key_file, &r->client, err);
    return code ? code : describe(worker, r, o, err);
}
