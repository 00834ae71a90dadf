/* jobs.c - scdiva jobs: what a daemon has been asked to do with files, and what came of it.
 *
 * Threads: main. Owns: nothing beyond the call. */
#include "api/cli/job_client.h"
#include "api/cli/task.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_BYTES = 1 << 28, PAGE = 100, PATH_BYTES = 256, DEFAULT_LIMIT = 20 };

typedef struct jobs_options {
    const char *server, *key_file, *state, *output;
    size_t limit;
    bool overwrite, json, quiet;
} jobs_options;

typedef enum part { LIST, SHOW, WAIT, RESULT, CANCEL, DELETE, N_PARTS } part;

size_t cli_jobs_options(const cli_verb *verb, void *into, cli_option *t)
{
    static const char *const states[] = {"QUEUED", "RUNNING",  "COMPLETE", "FAILED",
                                         "ERROR",  "CANCELED", NULL};
    jobs_options *o = into;
    (void)verb;
    const cli_option all[] = {
        {"server", 0, CLI_TEXT, &o->server, "URL", "the daemon", 0, 0, 0, 0},
        {"key-file", 0, CLI_TEXT, &o->key_file, "FILE",
         "its bearer token (else $SCDIVA_API_KEY, where set)", 0, 0, 0, 0},
        {"state", 0, CLI_CHOICE, &o->state, "STATE", "list: QUEUED, RUNNING, COMPLETE, ... alone",
         states, 0, 0, 0},
        {"limit", 0, CLI_COUNT, &o->limit, "N", "list: at most so many, the newest (20)", 0, 1, 1e6,
         0},
        {"output", 'o', CLI_TEXT, &o->output, "FILE", "result: where it goes", 0, 0, 0, 0},
        {"overwrite", 0, CLI_FLAG, &o->overwrite, NULL, "result: replace FILE", 0, 0, 0, 0},
        {"json", 0, CLI_FLAG, &o->json, NULL, "as JSON", 0, 0, 0, 0},
        {"quiet", 'q', CLI_FLAG, &o->quiet, NULL, "no progress", 0, 0, 0, 0},
    };
    memcpy(t, all, sizeof all);
    return sizeof all / sizeof all[0];
}

/* ---- telling --------------------------------------------------------------------------------- */

static const char *or_blank(const char *text)
{
    return text ? text : "";
}

static void tell_line(const cJSON *job, scd_buf *out)
{
    const cJSON *progress = cli_object_of(job, "progress");
    scd_buf_printf(out, "%s  %-8s  %-9s %-4s  %6.0f of %-6.0f  %.19s  %s\n",
                   or_blank(cli_text_of(job, "id")), or_blank(cli_text_of(job, "state")),
                   or_blank(cli_text_of(job, "task")), or_blank(cli_text_of(job, "format")),
                   cli_number_of(progress, "cells_done"), cli_number_of(progress, "cells"),
                   or_blank(cli_text_of(job, "created")), or_blank(cli_text_of(job, "filename")));
}

static void tell_texts(const char *kind, const cJSON *list, scd_buf *out)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        scd_buf_printf(out, "  %s: %s\n", kind, or_blank(cJSON_GetStringValue(item)));
    }
}

static void tell_job(const cJSON *job, scd_buf *out)
{
    const cJSON *result = cli_object_of(job, "result"), *model = cli_object_of(job, "model");
    const char *detail = cli_text_of(cli_object_of(job, "error"), "detail");
    tell_line(job, out);
    scd_buf_printf(out, "  model: %s %s\n", or_blank(cli_text_of(model, "name")),
                   or_blank(cli_text_of(model, "digest")));
    if (detail)
        scd_buf_printf(out, "  error: %s\n", detail);
    if (result)
        scd_buf_printf(out, "  result: %.0f bytes, SHA-256 %s, until %.19s\n",
                       cli_number_of(result, "bytes"), or_blank(cli_text_of(result, "sha256")),
                       or_blank(cli_text_of(job, "expires")));
    tell_texts("note", cli_object_of(job, "decisions"), out);
    tell_texts("warning", cli_object_of(job, "warnings"), out);
}

static void put_json(const cJSON *value, scd_buf *out)
{
    char *text = cJSON_PrintUnformatted(value);
    scd_buf_puts(out, text ? text : "null");
    scd_buf_putc(out, '\n');
    free(text);
}

static int print_job(const jobs_options *o, const cJSON *job)
{
    scd_buf out;
    scd_buf_init(&out, OUT_BYTES);
    if (o->json)
        put_json(job, &out);
    else
        tell_job(job, &out);
    return cli_print(&out, CLI_OK);
}

/* ---- what can be done ------------------------------------------------------------------------ */

/* One page more, at the end of *all; *after: the last id, "" at the beginning. */
static scd_code add_page(scd_client *client, const jobs_options *o, cJSON *all, char after[64],
                         bool *more, scd_error *err)
{
    char path[PATH_BYTES];
    cJSON *answer = NULL, *item;
    size_t left = o->limit - (size_t)cJSON_GetArraySize(all);
    int n = snprintf(path, sizeof path, "/v1/jobs?limit=%zu", left < PAGE ? left : (size_t)PAGE);
    if (o->state)
        n += snprintf(path + n, sizeof path - (size_t)n, "&state=%s", o->state);
    if (*after)
        snprintf(path + n, sizeof path - (size_t)n, "&after=%s", after);
    scd_code code = scd_client_ask(client, path, NULL, &answer, err);
    *more = cJSON_IsTrue(cli_object_of(answer, "has_more"));
    cJSON *data = cJSON_GetObjectItemCaseSensitive(answer, "data");
    while (!code && (item = cJSON_DetachItemFromArray(data, 0))) {
        snprintf(after, 64, "%s", or_blank(cli_text_of(item, "id")));
        cJSON_AddItemToArray(all, item);
    }
    cJSON_Delete(answer);
    return code;
}

static int list(scd_client *client, const jobs_options *o)
{
    char after[64] = "";
    scd_error err = {0};
    scd_buf out;
    bool more = true;
    cJSON *all = cJSON_CreateArray();
    const cJSON *job;
    scd_code code = all ? SCD_OK : scd_fail(&err, SCD_E_NOMEM, "out of memory");
    while (!code && more && (size_t)cJSON_GetArraySize(all) < o->limit)
        code = add_page(client, o, all, after, &more, &err);
    if (code) {
        cJSON_Delete(all);
        return cli_fail(&err, o->json);
    }
    scd_buf_init(&out, OUT_BYTES);
    if (o->json) {
        put_json(all, &out);
    } else {
        cJSON_ArrayForEach(job, all) tell_line(job, &out);
        if (more && !o->quiet)
            fprintf(stderr, "there are more: --limit\n");
    }
    cJSON_Delete(all);
    return cli_print(&out, CLI_OK);
}

static int show_or_wait(scd_client *client, const jobs_options *o, const char *id, bool waits)
{
    scd_error err = {0};
    cJSON *job = NULL;
    scd_code code = waits ? cli_job_wait(client, id, o->quiet, &job, &err)
                          : cli_job_get(client, id, &job, &err);
    int status = code ? cli_fail(&err, o->json) : print_job(o, job);
    if (!code && waits && cli_job_judge(job, &err)) /* its JSON is out: for people alone */
        status = cli_fail(&err, false);
    cJSON_Delete(job);
    return status;
}

static int fetch(scd_client *client, const jobs_options *o, const char *id)
{
    scd_error err = {0};
    cJSON *job = NULL;
    scd_code code = cli_job_get(client, id, &job, &err);
    if (!code)
        code = cli_job_judge(job, &err);
    if (!code)
        code = cli_job_fetch(client, job, o->output, o->overwrite, &err);
    int status = code ? cli_fail(&err, o->json) : o->quiet ? CLI_OK : print_job(o, job);
    cJSON_Delete(job);
    return status;
}

/* DELETE cancels what is under way and forgets what is over: each verb does its own alone. */
static int end(scd_client *client, const jobs_options *o, const char *id, bool forgets)
{
    scd_error err = {0};
    cJSON *job = NULL, *answer = NULL;
    scd_buf out;
    scd_code code = cli_job_get(client, id, &job, &err);
    const char *state = code ? "" : cli_text_of(job, "state");
    bool is_over = strcmp(state, "QUEUED") != 0 && strcmp(state, "RUNNING") != 0;
    if (!code && is_over && !forgets)
        code = scd_fail(&err, SCD_E_INVALID, "%s is over: it is %s; scdiva jobs delete forgets it",
                        id, state);
    if (!code)
        code = cli_job_end(client, id, &answer, &err);
    bool is_gone = cJSON_IsTrue(cli_object_of(answer, "deleted"));
    if (!code && forgets && !is_gone) {
        cJSON_Delete(answer);
        answer = NULL;
        code = cli_job_end(client, id, &answer, &err);
        is_gone = !code;
    }
    cJSON_Delete(job);
    scd_buf_init(&out, OUT_BYTES);
    if (!code && o->json)
        put_json(answer, &out);
    else if (!code)
        scd_buf_printf(&out, "%s is %s\n", id,
                       !is_gone  ? "canceled"
                       : forgets ? "forgotten, with its result"
                                 : "forgotten: it was over by then");
    cJSON_Delete(answer);
    int status = cli_print(&out, CLI_OK);
    return code ? cli_fail(&err, o->json) : status;
}

int cli_jobs(const cli_verb *verb, int argc, char **argv)
{
    static const char *const names[N_PARTS] = {"list",   "show",   "wait",
                                               "result", "cancel", "delete"};
    jobs_options o = {.limit = DEFAULT_LIMIT};
    cli_option table[CLI_MAX_OPTIONS];
    const char *id = NULL;
    scd_client *client = NULL;
    scd_error err = {0};
    cli_verb one;
    int which = cli_part(verb, argc, argv, names, N_PARTS, &one);
    if (which == CLI_PART_NONE)
        return CLI_USAGE;
    one.input = which == LIST || which == CLI_PART_HELP ? NULL : "ID";
    int skip = which == CLI_PART_HELP ? 0 : 1;
    int status = cli_args_read(which == CLI_PART_HELP ? verb : &one, table,
                               cli_jobs_options(verb, &o, table), argc - skip, argv + skip, &id);
    if (status)
        return status < 0 ? CLI_OK : status;
    if (!o.server)
        return cli_usage(&one, "--server URL is missing");
    if (which == RESULT && !o.output)
        return cli_usage(&one, "-o FILE is missing");
    if (id && !cli_job_is_id(id))
        return cli_usage(&one, "'%s' is no job's id", id);
    cli_catch_signals();
    if (scd_client_open(o.server, o.key_file, &client, &err))
        return cli_fail(&err, o.json);
    status = which == LIST                    ? list(client, &o)
             : which == SHOW || which == WAIT ? show_or_wait(client, &o, id, which == WAIT)
             : which == RESULT                ? fetch(client, &o, id)
                                              : end(client, &o, id, which == DELETE);
    scd_client_close(client);
    return status;
}
