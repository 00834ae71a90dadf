/* job_query.c - see job_query.h. */
#include "api/job_query.h"

#include "api/float_text.h"
#include "api/json_write.h"
#include "api/task.h"
#include "api/text.h"

#include <ctype.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum field_kind { TEXT, LIST, COUNT, NUMBER, YES_NO, SKIP_FAIL } field_kind;

static const struct {
    const char *name;
    field_kind kind;
    size_t at, n; /* TEXT: of the array */
} fields[] = {
#define FIELD(name)                                                                                \
    {                                                                                              \
#name, TEXT, offsetof(scd_job_query, name), sizeof((scd_job_query *)0)->name               \
    }
    FIELD(task),
    FIELD(format),
    FIELD(model),
    FIELD(head),
    FIELD(layer),
    FIELD(gene_column),
    FIELD(genome),
    FIELD(genes_in),
    {"threshold", NUMBER, offsetof(scd_job_query, threshold), 0},
    {"embeddings", YES_NO, offsetof(scd_job_query, embeddings), 0},
    {"force", YES_NO, offsetof(scd_job_query, force), 0},
    {"overwrite", YES_NO, offsetof(scd_job_query, overwrite), 0},
    {"on_error", SKIP_FAIL, offsetof(scd_job_query, fail_on_error), 0},
    {"genes", LIST, offsetof(scd_job_query, list), SCD_JOB_LIST_BYTES},
    FIELD(pooling),
    {"regulators", LIST, offsetof(scd_job_query, list), SCD_JOB_LIST_BYTES},
    {"top_k", COUNT, offsetof(scd_job_query, top_k), 0},
    {"perturbations", LIST, offsetof(scd_job_query, list), SCD_JOB_LIST_BYTES},
    FIELD(direction),
    FIELD(context),
    {"top_genes", COUNT, offsetof(scd_job_query, top_genes), 0},
    FIELD(control_column),
    FIELD(control),
    FIELD(batch_column),
    FIELD(label_column),
    FIELD(uncorrected),
    FIELD(layers),
    FIELD(heads),
    FIELD(filename),
    FIELD(sha256),
    FIELD(webhook),
#undef FIELD
};
enum { N_FIELDS = sizeof fields / sizeof fields[0], LIST_BYTES = 1 << 20, MAX_COUNT = 1000000 };

/* ---- setting -------------------------------------------------------------------------------- */

static void refuse(scd_problem *problem, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void refuse(scd_problem *problem, const char *name, const char *fmt, ...)
{
    char pointer[96], detail[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    snprintf(pointer, sizeof pointer, "/%.80s", name);
    scd_problem_add(problem, pointer, "%s (a parameter of the query)", detail);
}

static bool is_utf8(const char *text, size_t n)
{
    for (size_t at = 0, step; at < n; at += step)
        if (!(step = scd_utf8_length(text + at, n - at)))
            return false;
    return true;
}

static void set_text(char *out, size_t cap, const char *name, const char *value,
                     scd_problem *problem)
{
    size_t n = strlen(value);
    if (n >= cap)
        refuse(problem, name, "has %zu bytes, at most %zu are taken", n, cap - 1);
    else if (!is_utf8(value, n))
        refuse(problem, name, "is not valid UTF-8");
    else
        memcpy(out, value, n + 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)value[i] < ' ') {
            refuse(problem, name, "has control characters in it");
            return;
        }
}

/* Lists share their place, for a task has one of them at most. */
static void set_list(scd_job_query *q, const char *name, const char *value, scd_problem *problem)
{
    if (*q->list_name && strcmp(q->list_name, name)) {
        refuse(problem, name, "stands beside %s: they are of different tasks", q->list_name);
        return;
    }
    set_text(q->list, sizeof q->list, name, value, problem);
    snprintf(q->list_name, sizeof q->list_name, "%s", name);
}

static void set_number(scd_job_query *q, const char *name, const char *value, scd_problem *problem)
{
    char *end;
    double number = strtod(value, &end);
    q->has_threshold = *value && !*end && number >= 0 && number <= 1;
    if (q->has_threshold)
        q->threshold = number;
    else
        refuse(problem, name, "must be a number from 0 (never unknown) to 1");
}

static void set_count(size_t *out, const char *name, const char *value, scd_problem *problem)
{
    size_t n = strspn(value, "0123456789");
    *out = n && !value[n] && n <= 7 ? strtoul(value, NULL, 10) : 0;
    if (!*out || *out > MAX_COUNT)
        refuse(problem, name, "must be a whole number from 1 to %d", MAX_COUNT);
}

static void set_choice(bool *out, const char *name, const char *value, const char *no,
                       const char *yes, scd_problem *problem)
{
    if (strcmp(value, yes) && strcmp(value, no))
        refuse(problem, name, "must be %s or %s", no, yes);
    else
        *out = !strcmp(value, yes);
}

void scd_job_query_set(scd_job_query *q, const char *name, const char *value, scd_problem *problem)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (strcmp(fields[i].name, name))
            continue;
        char *at = (char *)q + fields[i].at;
        if (fields[i].kind == TEXT)
            set_text(at, fields[i].n, name, value, problem);
        else if (fields[i].kind == LIST)
            set_list(q, name, value, problem);
        else if (fields[i].kind == NUMBER)
            set_number(q, name, value, problem);
        else if (fields[i].kind == COUNT)
            set_count((size_t *)(void *)at, name, value, problem);
        else if (fields[i].kind == YES_NO)
            set_choice((bool *)at, name, value, "false", "true", problem);
        else
            set_choice((bool *)at, name, value, "skip", "fail", problem);
        return;
    }
    refuse(problem, name, "is not known here: GET /openapi.json lists what is");
}

static bool is_set(const scd_job_query *q, size_t i)
{
    const char *at = (const char *)q + fields[i].at;
    return fields[i].kind == TEXT     ? *at != 0
           : fields[i].kind == LIST   ? !strcmp(q->list_name, fields[i].name)
           : fields[i].kind == NUMBER ? q->has_threshold
           : fields[i].kind == COUNT  ? *(const size_t *)(const void *)at != 0
                                      : *(const bool *)at;
}

/* ---- checking ------------------------------------------------------------------------------- */

static void check_task(const scd_job_query *q, const scd_task_kind *kind, scd_problem *problem)
{
    char names[160];
    scd_task_names(NULL, names);
    if (kind)
        return;
    if (q->task[0])
        refuse(problem, "task", "\"%s\" is no task: there is %s", q->task, names);
    else
        refuse(problem, "task", "is missing: there is %s", names);
}

/* What is said has to be of this task. */
static void check_parameters(const scd_job_query *q, const scd_task_kind *kind,
                             scd_problem *problem)
{
    char names[160];
    for (size_t i = 0; i < N_FIELDS; i++) {
        scd_task_names(fields[i].name, names);
        if (is_set(q, i) && *names && !scd_task_takes(kind, fields[i].name))
            refuse(problem, fields[i].name, "is of the task %s alone", names);
    }
}

static bool is_format(const char *format)
{
    return !strcmp(format, "h5ad") || !strcmp(format, "csv") || !strcmp(format, "tsv") ||
           !strcmp(format, "npy");
}

bool scd_job_list_read(const char *list, scd_arena *arena, scd_text **items, size_t *n)
{
    static const char blanks[] = " \t";
    size_t most = 1;
    for (const char *c = list; *c; c++)
        most += *c == ',';
    *n = 0;
    *items = scd_arena_alloc(arena, most, sizeof **items);
    for (const char *at = list; *items && *n < most; at += strcspn(at, ",") + 1) {
        const char *from = at + strspn(at, blanks), *end = at + strcspn(at, ",");
        while (end > from && strchr(blanks, end[-1]))
            end--;
        (*items)[(*n)++] = (scd_text){from, from < end ? (size_t)(end - from) : 0};
    }
    return *items != NULL;
}

static void check_list(const scd_job_query *q, scd_problem *problem)
{
    scd_arena arena;
    scd_text *items;
    size_t n;
    scd_arena_init(&arena, LIST_BYTES);
    if (!scd_job_list_read(q->list, &arena, &items, &n))
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    for (size_t i = 0; i < n && !problem->kind; i++) {
        if (!items[i].n)
            refuse(problem, q->list_name, "item %zu is empty: names stand between commas", i + 1);
        for (size_t k = 0; k < i && !problem->kind; k++)
            if (items[k].n == items[i].n && !memcmp(items[k].data, items[i].data, items[i].n))
                refuse(problem, q->list_name, "\"%.*s\" is given twice",
                       (int)(items[i].n < 80 ? items[i].n : 80), items[i].data);
    }
    scd_arena_release(&arena);
}

void scd_job_query_check(scd_job_query *q, scd_problem *problem)
{
    scd_digest digest;
    const scd_task_kind *kind = scd_task_find(q->task);
    check_task(q, kind, problem);
    if (!q->format[0])
        refuse(problem, "format", "is missing: the result can be h5ad, csv, tsv or npy");
    else if (!is_format(q->format))
        refuse(problem, "format", "\"%s\" cannot be written: h5ad, csv, tsv or npy can", q->format);
    else if (kind && !scd_task_writes(kind, q->format))
        refuse(problem, "format", "\"%s\" cannot hold what \"%s\" says", q->format, q->task);
    if (kind)
        check_parameters(q, kind, problem);
    if (kind && *q->list_name)
        check_list(q, problem);
    if (kind && kind->needs && strcmp(q->list_name, kind->needs))
        refuse(problem, kind->needs, "is missing: %s", kind->needs_what);
    if (q->control[0] && !q->control_column[0])
        refuse(problem, "control", "needs control_column: the column of obs that it stands in");
    if (q->top_genes && !strcmp(q->format, "npy"))
        refuse(problem, "top_genes", "a .npy file holds all genes of the head");
    if ((q->label_column[0] || q->uncorrected[0]) && !q->batch_column[0])
        refuse(problem, q->label_column[0] ? "label_column" : "uncorrected",
               "needs batch_column: what is mixed is batches");
    if (q->direction[0] && strcmp(q->direction, "activation") && strcmp(q->direction, "knockdown"))
        refuse(problem, "direction", "must be activation or knockdown");
    if (q->pooling[0] && strcmp(q->pooling, "visible") && strcmp(q->pooling, "clean"))
        refuse(problem, "pooling", "must be visible or clean");
    if (q->embeddings && !strcmp(q->format, "npy"))
        refuse(problem, "embeddings", "a .npy file holds one matrix: embeddings or probabilities");
    if (q->layer[0] && q->genes_in[0])
        refuse(problem, "genes_in", "names the matrix as layer does: give one of them");
    if (q->genes_in[0] && strcmp(q->genes_in, "rows") && strcmp(q->genes_in, "columns"))
        refuse(problem, "genes_in", "must be rows or columns");
    for (char *c = q->sha256; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    if (q->sha256[0] && !scd_digest_parse(q->sha256, &digest))
        refuse(problem, "sha256", "must be 64 hex digits");
    if (q->webhook[0] && strncmp(q->webhook, "https://", 8) && strncmp(q->webhook, "http://", 7))
        refuse(problem, "webhook", "must be a URL that begins with https:// or http://");
    for (char *c = q->filename; (c = strpbrk(c, "/\\\"")); c++)
        *c = '_'; /* a name, not a path */
}

/* ---- as text -------------------------------------------------------------------------------- */

static void put_escaped(const char *text, scd_buf *out)
{
    for (; *text; text++)
        if (isalnum((unsigned char)*text) || strchr("-._~", *text))
            scd_buf_putc(out, *text);
        else
            scd_buf_printf(out, "%%%02X", (unsigned char)*text);
}

static void put_value(const scd_job_query *q, size_t i, bool escapes, scd_buf *out)
{
    const char *at = (const char *)q + fields[i].at;
    if (fields[i].kind == TEXT || fields[i].kind == LIST)
        escapes ? put_escaped(at, out) : (void)scd_buf_puts(out, at);
    else if (fields[i].kind == NUMBER)
        scd_json_double(out, q->threshold);
    else if (fields[i].kind == COUNT)
        scd_buf_printf(out, "%zu", *(const size_t *)(const void *)at);
    else
        scd_buf_puts(out, fields[i].kind == YES_NO ? "true" : "fail");
}

bool scd_job_query_tell(const scd_job_query *q, const char *const *names, scd_arena *arena,
                        const char *const **out, size_t *n)
{
    const char **texts = scd_arena_alloc(arena, N_FIELDS, sizeof *texts);
    scd_buf text;
    bool ok = texts != NULL;
    *out = texts;
    *n = 0;
    scd_buf_init(&text, LIST_BYTES);
    for (; *names && ok; names++)
        for (size_t i = 0; i < N_FIELDS && ok; i++) {
            if (strcmp(fields[i].name, *names) != 0 || !is_set(q, i))
                continue;
            scd_buf_clear(&text);
            scd_buf_printf(&text, "%s=", *names);
            put_value(q, i, false, &text);
            texts[*n] = text.failed ? NULL : scd_arena_strndup(arena, text.data, text.n_bytes);
            ok = texts[(*n)++] != NULL;
        }
    scd_buf_release(&text);
    return ok;
}

void scd_job_query_put(const scd_job_query *q, scd_buf *out)
{
    static const char *const others[] = {"task", "format", "model", "filename", "sha256"};
    for (size_t i = 0; i < N_FIELDS; i++) {
        bool is_told = !is_set(q, i);
        for (size_t k = 0; k < sizeof others / sizeof others[0]; k++)
            is_told = is_told || strcmp(fields[i].name, others[k]) == 0;
        if (is_told)
            continue;
        scd_buf_printf(out, ",\"%s\":", fields[i].name);
        if (fields[i].kind == TEXT || fields[i].kind == LIST)
            scd_json_text(out, (const char *)q + fields[i].at);
        else if (fields[i].kind == SKIP_FAIL)
            scd_buf_puts(out, "\"fail\"");
        else
            put_value(q, i, false, out);
    }
}

void scd_job_query_write(const scd_job_query *q, scd_buf *out)
{
    size_t n = 0;
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (!is_set(q, i))
            continue;
        scd_buf_printf(out, "%s%s=", n++ ? "&" : "", fields[i].name);
        put_value(q, i, true, out);
    }
}

static bool unescape(const char *from, size_t n, char *out, size_t cap)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++, at++) {
        if (at + 1 >= cap)
            return false;
        unsigned byte = (unsigned char)from[i];
        if (from[i] == '%' && (i + 2 >= n || sscanf(from + i + 1, "%2x", &byte) != 1))
            return false;
        i += from[i] == '%' ? 2 : 0;
        out[at] = (char)byte;
    }
    out[at] = '\0';
    return true;
}

bool scd_job_query_read(scd_job_query *q, const char *text)
{
    scd_problem problem = {0};
    *q = (scd_job_query){0};
    while (*text) {
        char name[32], value[SCD_JOB_LIST_BYTES];
        size_t n = strcspn(text, "&"), n_name = strcspn(text, "=&");
        if (text[n_name] != '=' || !unescape(text, n_name, name, sizeof name) ||
            !unescape(text + n_name + 1, n - n_name - 1, value, sizeof value))
            return false;
        scd_job_query_set(q, name, value, &problem);
        text += n + (text[n] == '&');
    }
    return !problem.kind;
}

/* ---- media types ---------------------------------------------------------------------------- */

bool scd_job_takes_type(const char *type, bool *is_form)
{
    static const char *const types[] = {
        "multipart/form-data", "application/x-hdf5", "application/octet-stream", "application/zip",
        "application/gzip",    "text/csv",           "text/tab-separated-values"};
    *is_form = false;
    for (size_t i = 0; type && i < sizeof types / sizeof types[0]; i++) {
        size_t n = strlen(types[i]);
        if (!strncasecmp(type, types[i], n) && (!type[n] || strchr("; \t", type[n]))) {
            *is_form = i == 0;
            return true;
        }
    }
    return false;
}

const char *scd_job_result_type(const char *format)
{
    return !strcmp(format, "csv")   ? "text/csv; charset=utf-8"
           : !strcmp(format, "tsv") ? "text/tab-separated-values; charset=utf-8"
           : !strcmp(format, "npy") ? "application/x-npy"
                                    : "application/x-hdf5";
}
