/* worker_remote.c - a worker that asks a daemon: /v1/models, /v1/genes, /v1/embeddings and
 * /v1/annotations, in chunks; see worker.h.
 *
 * Counts go there as they are and every number comes back as the daemon has it (base64, or the
 * shortest decimal), so that the file written is that of a run in process. A chunk names only the
 * genes that its cells have. What is judged over a whole file is judged here: chunks are forced,
 * and cells without known genes answered in their place. */
#include "api/cli/worker_impl.h"

#include "api/client.h"
#include "api/json_write.h"
#include "engine/base/mem.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BODY_BYTES = 1 << 30,
    GENES_AT_ONCE = 20000,
    ENTRIES_AT_ONCE = 1 << 18, /* of a chunk: 3 MB of JSON or so */
    USUAL_NAME_BYTES = 256
};

typedef struct remote {
    scd_client *client;
    cJSON *models; /* what the daemon said; facts point into it */
    const char **labels, **ontology_ids;
    size_t max_cells, max_name_bytes, max_queue_tokens;
} remote;

static void close_remote(cli_worker *worker)
{
    remote *r = worker->self;
    if (!r)
        return;
    free(r->labels);
    free(r->ontology_ids);
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

static const cJSON *find_named(const cJSON *list, const char *name, const char *task,
                               size_t *n_fitting)
{
    const cJSON *item, *found = NULL;
    *n_fitting = 0;
    cJSON_ArrayForEach(item, list)
    {
        const char *is = text_of(item, "name"), *for_task = text_of(item, "task");
        if (!is || (task && (!for_task || strcmp(for_task, task) != 0)))
            continue;
        ++*n_fitting;
        if (!found && (!name || strcmp(is, name) == 0))
            found = item;
    }
    return found;
}

static scd_code describe_head(cli_worker *worker, remote *r, const cJSON *model, const char *name,
                              scd_error *err)
{
    size_t n_heads;
    const cJSON *heads = cJSON_GetObjectItemCaseSensitive(model, "heads"), *label;
    const cJSON *head = find_named(heads, name, "annotation", &n_heads);
    if (!head || (!name && n_heads > 1))
        return scd_fail(err, SCD_E_INVALID, "model \"%s\" of the server has %s%s",
                        worker->model.name,
                        !n_heads ? "no annotation head"
                        : name   ? "no annotation head of the name "
                                 : "several annotation heads: choose with --head",
                        n_heads && name ? name : "");
    const cJSON *labels = cJSON_GetObjectItemCaseSensitive(head, "labels");
    const cJSON *threshold = cJSON_GetObjectItemCaseSensitive(head, "threshold");
    int n_labels = cJSON_GetArraySize(labels);
    if (n_labels < 1 || !text_of(head, "digest") || !cJSON_IsNumber(threshold))
        return strange("labels, digest and threshold of the head", err);
    size_t n = (size_t)n_labels, at = 0;
    r->labels = scd_malloc(n, sizeof *r->labels);
    r->ontology_ids = scd_malloc(n, sizeof *r->ontology_ids);
    if (!r->labels || !r->ontology_ids)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu labels", n);
    cJSON_ArrayForEach(label, labels)
    {
        const char *id = text_of(label, "ontology_id");
        if (!(r->labels[at] = text_of(label, "label")))
            return strange("text for a label", err);
        r->ontology_ids[at++] = id ? id : "";
    }
    worker->model.head = (cli_head){.name = text_of(head, "name"),
                                    .digest_hex = text_of(head, "digest"),
                                    .n_labels = n,
                                    .labels = r->labels,
                                    .ontology_ids = r->ontology_ids,
                                    .threshold = threshold->valuedouble};
    return SCD_OK;
}

static scd_code describe(cli_worker *worker, remote *r, const cli_worker_options *o, scd_error *err)
{
    size_t n_models;
    scd_code code = scd_client_ask(r->client, "/v1/models", NULL, &r->models, err);
    if (code)
        return code;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(r->models, "data");
    const cJSON *limits = cJSON_GetObjectItemCaseSensitive(r->models, "limits");
    const cJSON *m = find_named(list, o->model, NULL, &n_models);
    if (!m && n_models)
        return scd_fail(err, SCD_E_NOT_FOUND,
                        "the server has no model \"%s\"; the first it has is \"%s\"", o->model,
                        text_of(cJSON_GetArrayItem(list, 0), "name"));
    worker->model =
        (cli_model){.name = text_of(m, "name"),
                    .digest_hex = text_of(m, "digest"),
                    .width = size_of(m, "hidden_dim", 0),
                    .max_gene_len = size_of(m, "max_gene_len", 0),
                    .is_trained = !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(m, "trained")),
                    .device = text_of(m, "device"),
                    .isa = text_of(m, "isa"),
                    .precision = text_of(m, "precision")};
    if (!m || !worker->model.name || !worker->model.digest_hex || !worker->model.width ||
        !worker->model.device || !worker->model.isa || !worker->model.precision)
        return strange("models", err);
    r->max_cells = size_of(limits, "max_cells", 1);
    r->max_name_bytes = size_of(limits, "max_name_bytes", USUAL_NAME_BYTES);
    r->max_queue_tokens = size_of(limits, "max_queue_tokens", 1 << 16);
    return o->needs_head ? describe_head(worker, r, m, o->head, err) : SCD_OK;
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

/* ---- cells ---- */

typedef struct chunk {
    const scd_file_plan *plan;
    const scd_cells_rows *rows;
    size_t at, n;  /* rows of the block */
    size_t first;  /* row of the matrix that the block begins with */
    uint32_t *map; /* (n_genes) place among the chunk's genes; UINT32_MAX: none */
} chunk;

static bool is_sent(const chunk *c, uint64_t i)
{
    return !c->plan->left_out[c->rows->indices[i]];
}

/* In order of column, as the cells have them. */
static void write_genes(const remote *r, chunk *c, scd_buf *out)
{
    uint64_t from = c->rows->indptr[c->at], to = c->rows->indptr[c->at + c->n];
    uint32_t n = 0;
    for (size_t gene = 0; gene < c->plan->n_genes; gene++)
        c->map[gene] = UINT32_MAX;
    for (uint64_t i = from; i < to; i++)
        if (is_sent(c, i))
            c->map[c->rows->indices[i]] = 0;
    scd_buf_puts(out, ",\"genes\":[");
    for (size_t gene = 0; gene < c->plan->n_genes; gene++) {
        if (c->map[gene] == UINT32_MAX)
            continue;
        c->map[gene] = n++;
        scd_buf_puts(out, n > 1 ? "," : "");
        scd_json_text(out, can_ask(r, c->plan->genes[gene]) ? c->plan->genes[gene] : "?");
    }
    scd_buf_putc(out, ']');
}

static void write_matrix(const chunk *c, scd_buf *out)
{
    const scd_cells_rows *rows = c->rows;
    uint64_t from = rows->indptr[c->at], to = rows->indptr[c->at + c->n], n = 0;
    scd_buf_puts(out, ",\"matrix\":{\"format\":\"csr\",\"indptr\":[0");
    for (size_t row = c->at; row < c->at + c->n; row++) {
        for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++)
            n += is_sent(c, i);
        scd_buf_putc(out, ',');
        scd_json_uint(out, n);
    }
    scd_buf_puts(out, "],\"indices\":[");
    for (uint64_t i = from, k = 0; i < to; i++)
        if (is_sent(c, i)) {
            scd_buf_puts(out, k++ ? "," : "");
            scd_json_uint(out, c->map[rows->indices[i]]);
        }
    scd_buf_puts(out, "],\"data\":[");
    for (uint64_t i = from, k = 0; i < to; i++)
        if (is_sent(c, i)) {
            scd_buf_puts(out, k++ ? "," : "");
            scd_json_double(out, rows->data[i]);
        }
    scd_buf_puts(out, "]}");
}

static void write_body(const cli_worker *worker, chunk *c, bool annotate, scd_buf *out)
{
    const cli_head *head = &worker->model.head;
    scd_buf_puts(out, "{\"model\":");
    scd_json_text(out, worker->model.name);
    scd_buf_printf(out, ",\"input\":\"%s\",\"force\":true,\"on_error\":\"skip\"",
                   c->plan->choice.kind == SCD_INPUT_COUNTS ? "counts" : "log1p_cp10k");
    if (annotate) {
        scd_buf_puts(out, ",\"head\":");
        scd_json_text(out, head->name);
        scd_buf_printf(out, ",\"top_k\":%zu", head->n_labels);
    } else {
        scd_buf_puts(out, ",\"encoding\":\"base64\"");
    }
    write_genes(worker->self, c, out);
    write_matrix(c, out);
    scd_buf_putc(out, '}');
}

static int digit_of(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Exactly n bytes of RFC 4648. */
static bool read_base64(const char *text, void *out, size_t n)
{
    unsigned char *to = out;
    uint32_t bits = 0;
    size_t n_bits = 0, got = 0;
    for (; *text && *text != '='; text++) {
        int digit = digit_of(*text);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        if (got == n)
            return false;
        to[got++] = (unsigned char)(bits >> n_bits);
    }
    return got == n;
}

/* Probabilities come in order of size. */
static bool read_top(const cli_head *head, const cJSON *item, float *out)
{
    const cJSON *top = cJSON_GetObjectItemCaseSensitive(item, "top"), *entry;
    size_t n = 0;
    cJSON_ArrayForEach(entry, top)
    {
        const char *label = text_of(entry, "label");
        const cJSON *p = cJSON_GetObjectItemCaseSensitive(entry, "probability");
        for (size_t i = 0; label && cJSON_IsNumber(p) && i < head->n_labels; i++)
            if (strcmp(head->labels[i], label) == 0) {
                out[i] = (float)p->valuedouble;
                n++;
                break;
            }
    }
    return n == head->n_labels;
}

static void count_mapped(const chunk *c, size_t row, cli_cell *out)
{
    for (uint64_t i = c->rows->indptr[row]; i < c->rows->indptr[row + 1]; i++) {
        double value = c->rows->data[i];
        double count = c->plan->choice.kind == SCD_INPUT_COUNTS ? value : expm1(value);
        if (!is_sent(c, i))
            continue;
        out->given += count;
        out->mapped += c->plan->tokens[c->rows->indices[i]] >= 0 ? count : 0;
    }
}

/* One item of the answer: a result, or why there is none. */
static scd_code take_item(const cli_worker *worker, const chunk *c, size_t row, const cJSON *item,
                          bool annotate, float *out, cli_cell *cell, scd_error *err)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(item, "error");
    *cell = (cli_cell){.is_answered = !error};
    count_mapped(c, row, cell);
    if (error) {
        const char *pointer = text_of(error, "pointer"), *detail = text_of(error, "detail");
        if (pointer && strstr(pointer, "/indptr/"))
            return SCD_OK; /* nothing that the model knows */
        return scd_fail(err, SCD_E_INVALID, "%s, row %zu: %s", c->plan->choice.matrix,
                        c->first + row, detail ? detail : "refused");
    }
    cell->n_tokens = size_of(item, "tokens", 0);
    cell->n_truncated = size_of(item, "genes_truncated", 0);
    cell->n_unused = size_of(item, "genes_unused", 0);
    const char *text = annotate ? NULL : text_of(item, "embedding");
    bool ok = annotate ? read_top(&worker->model.head, item, out)
                       : text && read_base64(text, out, worker->model.width * sizeof *out);
    return ok ? SCD_OK : strange(annotate ? "probabilities" : "embedding", err);
}

static scd_code ask(cli_worker *worker, chunk *c, bool annotate, float *out, cli_cell *cells,
                    scd_error *err)
{
    remote *r = worker->self;
    size_t width = annotate ? worker->model.head.n_labels : worker->model.width;
    scd_buf body;
    cJSON *answer = NULL;
    scd_buf_init(&body, BODY_BYTES);
    write_body(worker, c, annotate, &body);
    scd_code code = scd_client_ask(r->client, annotate ? "/v1/annotations" : "/v1/embeddings",
                                   &body, &answer, err);
    const char *digest = text_of(cJSON_GetObjectItemCaseSensitive(answer, "model"), "digest");
    if (!code && (!digest || strcmp(digest, worker->model.digest_hex) != 0))
        code = scd_fail(err, SCD_E_INVALID,
                        "the server answers with another model now (%s, was %s): run again",
                        digest ? digest : "none", worker->model.digest_hex);
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(answer, "data");
    item = cJSON_IsArray(item) ? item->child : NULL;
    for (size_t row = c->at; row < c->at + c->n && !code; row++) {
        for (size_t i = 0; i < width; i++)
            out[row * width + i] = NAN;
        code = item ? take_item(worker, c, row, item, annotate, out + row * width, cells + row, err)
                    : strange("item for each cell", err);
        item = item ? item->next : NULL;
    }
    cJSON_Delete(answer);
    scd_buf_release(&body);
    return code;
}

/* As many rows as one request may hold; one at least. */
static size_t chunk_rows(const cli_worker *worker, const scd_cells_rows *rows, size_t at)
{
    const remote *r = worker->self;
    size_t by_tokens = r->max_queue_tokens / 2 / (worker->model.max_gene_len + 1), n = 1;
    while (at + n < rows->n && n < r->max_cells && n < by_tokens &&
           rows->indptr[at + n + 1] - rows->indptr[at] < ENTRIES_AT_ONCE)
        n++;
    return n;
}

static scd_code run_there(cli_worker *worker, const scd_file_plan *plan, const scd_cells_rows *rows,
                          size_t first, float *embeddings, float *probabilities, cli_cell *cells,
                          scd_error *err)
{
    chunk c = {.plan = plan, .rows = rows, .first = first};
    c.map = scd_malloc(plan->n_genes + 1, sizeof *c.map);
    scd_code code = c.map ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (; c.at < rows->n && !code; c.at += c.n) {
        c.n = chunk_rows(worker, rows, c.at);
        if (embeddings)
            code = ask(worker, &c, false, embeddings, cells, err);
        if (!code && probabilities)
            code = ask(worker, &c, true, probabilities, cells, err);
    }
    free(c.map);
    return code;
}

static const cli_worker_ops ops = {close_remote, resolve_there, looks_mouse, run_there};

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
