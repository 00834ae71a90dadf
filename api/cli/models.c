/* models.c - scdiva models: what a model directory or a server holds.
 *
 * Threads: main. Owns: nothing beyond the call. */
#include "api/cli/cli.h"
#include "api/client.h"
#include "api/head_json.h"
#include "api/json_write.h"
#include "engine/denoise/head.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_BYTES = 1 << 26 };

typedef struct models_options {
    const char *model, *server, *key_file;
    bool json;
} models_options;

size_t cli_models_options(const cli_verb *verb, void *into, cli_option *t)
{
    (void)verb;
    models_options *o = into;
    const cli_option all[] = {
        {"model", 'm', CLI_TEXT, &o->model, "DIR", "a model directory ($SCDIVA_MODEL)", 0, 0, 0, 0},
        {"server", 0, CLI_TEXT, &o->server, "URL", "those that a daemon serves", 0, 0, 0, 0},
        {"key-file", 0, CLI_TEXT, &o->key_file, "FILE",
         "its bearer token (else $SCDIVA_API_KEY, where set)", 0, 0, 0, 0},
        {"json", 0, CLI_FLAG, &o->json, NULL, "as JSON", 0, 0, 0, 0},
    };
    memcpy(t, all, sizeof all);
    return sizeof all / sizeof all[0];
}

/* ---- a directory, in the words of GET /v1/models ---- */

static scd_code write_heads(const char *dir, const scd_model_config *config, scd_buf *out,
                            scd_error *err)
{
    char **dirs;
    size_t n;
    scd_code code = scd_heads_find(dir, &dirs, &n, err);
    if (code)
        return code;
    scd_buf_puts(out, ",\"heads\":[");
    for (size_t i = 0; i < n && !code; i++) {
        scd_head *head = NULL;
        code = scd_head_open(dirs[i], config, &head, err);
        scd_buf_puts(out, i ? "," : "");
        if (!code)
            scd_json_head(out, scd_head_get_info(head));
        scd_head_close(head);
    }
    scd_buf_putc(out, ']');
    scd_heads_forget(dirs, n);
    return code;
}

static scd_code write_directory(const char *dir, scd_buf *out, scd_error *err)
{
    scd_model *model = NULL;
    scd_digest digest;
    char hex[SCD_DIGEST_HEX];
    scd_code code = scd_model_open(dir, &model, err);
    if (!code)
        code = scd_model_digest(model, &digest, err);
    if (!code) {
        const scd_model_config *c = scd_model_get_config(model);
        scd_digest_hex(&digest, hex);
        scd_buf_puts(out, "{\"object\":\"list\",\"data\":[{\"object\":\"model\",\"name\":");
        scd_json_text(out, scd_model_name(model));
        cli_json_text(out, "digest", hex);
        scd_buf_printf(out,
                       ",\"trained\":%s,\"parameters\":%zu,\"hidden_dim\":%zu,\"n_layers\":%zu,"
                       "\"n_heads\":%zu,\"genes\":%zu,\"max_gene_len\":%zu",
                       c->trained ? "true" : "false", scd_model_n_params(model), c->hidden_dim,
                       c->n_layers, c->n_heads, scd_vocab_n_genes(scd_model_vocab(model)),
                       c->max_gene_len);
        code = write_heads(dir, c, out, err);
        scd_buf_puts(out, "}]}");
    }
    scd_model_close(model);
    return code;
}

/* ---- telling ---- */

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static double number_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* Its labels, or the contexts whose perturbations it was trained on. */
static void tell_head(const cJSON *head, scd_buf *out)
{
    const cJSON *item;
    const char *between = "";
    scd_buf_printf(out, "  head %s (%s): ", text_of(head, "name"), text_of(head, "task"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(head, "labels"))
    {
        scd_buf_printf(out, "%s%s", between, text_of(item, "label"));
        between = ", ";
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(head, "contexts"))
    {
        scd_buf_printf(out, "%s%s (%s, %d perturbations)", between, text_of(item, "name"),
                       text_of(item, "direction"),
                       cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(item, "perturbations")));
        between = ", ";
    }
    scd_buf_putc(out, '\n');
}

static void tell(const cJSON *answer, scd_buf *out)
{
    const cJSON *model, *head;
    cJSON_ArrayForEach(model, cJSON_GetObjectItemCaseSensitive(answer, "data"))
    {
        scd_buf_printf(
            out,
            "%s: %.0f parameters, %.0f genes, embeddings of %.0f, at most %.0f "
            "genes a cell%s\n  digest %s\n",
            text_of(model, "name"), number_of(model, "parameters"), number_of(model, "genes"),
            number_of(model, "hidden_dim"), number_of(model, "max_gene_len"),
            cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(model, "trained")) ? " (random weights)"
                                                                              : "",
            text_of(model, "digest"));
        cJSON_ArrayForEach(head, cJSON_GetObjectItemCaseSensitive(model, "heads"))
            tell_head(head, out);
    }
}

static scd_code ask(const models_options *o, cJSON **out, scd_error *err)
{
    scd_client *client = NULL;
    scd_buf said;
    scd_code code;
    if (o->server) {
        code = scd_client_open(o->server, o->key_file, &client, err);
        if (!code)
            code = scd_client_ask(client, "/v1/models", NULL, out, err);
        scd_client_close(client);
        return code;
    }
    scd_buf_init(&said, OUT_BYTES);
    code = write_directory(o->model, &said, err);
    *out = code || said.failed ? NULL : cJSON_ParseWithLength(said.data, said.n_bytes);
    if (!code && !*out)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_buf_release(&said);
    return code;
}

int cli_models(const cli_verb *verb, int argc, char **argv)
{
    models_options o = {0};
    cli_option table[CLI_MAX_OPTIONS];
    const char *input;
    scd_error err = {0};
    cJSON *answer = NULL;
    scd_buf out;
    int status =
        cli_args_read(verb, table, cli_models_options(verb, &o, table), argc, argv, &input);
    if (status)
        return status < 0 ? CLI_OK : status;
    o.model = o.model ? o.model : getenv("SCDIVA_MODEL");
    if (!o.model && !o.server)
        return cli_usage(verb, "--model DIR or --server URL is missing");
    if (ask(&o, &answer, &err))
        return cli_fail(&err, o.json);
    scd_buf_init(&out, OUT_BYTES);
    if (o.json) {
        char *text = cJSON_PrintUnformatted(answer);
        scd_buf_puts(&out, text ? text : "");
        scd_buf_putc(&out, '\n');
        free(text);
    } else {
        tell(answer, &out);
    }
    cJSON_Delete(answer);
    return cli_print(&out, CLI_OK);
}
