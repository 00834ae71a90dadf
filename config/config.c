/* config.c - see config.h. One table made from config.def; three readers that all end in set(). */
#include "config/config.h"

#include "engine/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum option_kind { TEXT, LIST, INT, CHOICE, NUMBERED, SWITCH } option_kind;

typedef struct option {
    option_kind kind;
    const char *key, *dflt, *metavar, *help;
    size_t offset;
    long lo, hi;
} option;

#define AT(field) offsetof(scd_config, field)
#define STRING(x) #x
static const option options[] = {
#define SCD_TEXT(field, key, dflt, metavar, help) {TEXT, key, dflt, metavar, help, AT(field), 0, 0},
#define SCD_LIST(field, key, metavar, help) {LIST, key, "", metavar, help, AT(field), 0, 0},
#define SCD_INT(field, key, dflt, lo, hi, metavar, help)                                           \
    {INT, key, STRING(dflt), metavar, help, AT(field), lo, hi},
#define SCD_CHOICE(field, key, dflt, choices, help)                                                \
    {CHOICE, key, dflt, choices, help, AT(field), 0, 0},
#define SCD_NUMBERED(field, key, dflt, choices, help)                                              \
    {NUMBERED, key, dflt, choices, help, AT(field), 0, 0},
#define SCD_SWITCH(field, key, help) {SWITCH, key, "false", NULL, help, AT(field), 0, 0},
#include "config/config.def"
#undef SCD_TEXT
#undef SCD_LIST
#undef SCD_INT
#undef SCD_CHOICE
#undef SCD_NUMBERED
#undef SCD_SWITCH
};
enum { N_OPTIONS = sizeof options / sizeof options[0] };

/* Where a value came from; a stronger source is not overwritten by a weaker one. */
typedef enum source { DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG } source;

typedef struct loader {
    scd_config *config;
    source set_by[N_OPTIONS];
    source now;
    const char *file; /* being read */
    FILE *stream;
    int line;      /* in the file, from 1 */
    bool in_line;  /* its end was not read yet */
    int long_line; /* the first that is too long, 0: none */
    scd_error *err;
    bool failed;
} loader;

static scd_code bad_value(const option *o, const char *where, const char *value, const char *want,
                          scd_error *err)
{
    return scd_fail(err, SCD_E_INVALID, "%s: %s is \"%s\", must be %s", where, o->key, value, want);
}

static scd_code set_choice(const option *o, void *field, const char *value, const char *where,
                           scd_error *err)
{
    int index = 0;
    for (const char *c = o->metavar; *c; index++) {
        size_t n = strcspn(c, "|");
        if (strlen(value) == n && !memcmp(c, value, n)) {
            *(int *)field = index;
            return SCD_OK;
        }
        c += n + (c[n] == '|');
    }
    return bad_value(o, where, value, o->metavar, err);
}

/* "all", or numbers between commas, none twice. */
static bool read_numbers(const char *text, scd_config_numbered *f)
{
    f->all = !strcmp(text, "all");
    while (!f->all) {
        size_t digits = strspn(text, "0123456789");
        long number = digits && digits <= 9 ? atol(text) : -1;
        if (number < 0 || number > SCD_CONFIG_MAX_NUMBER || f->n == SCD_CONFIG_MAX_NUMBERS)
            return false;
        for (size_t i = 0; i < f->n; i++)
            if (f->numbers[i] == (int)number)
                return false;
        f->numbers[f->n++] = (int)number;
        text += digits;
        if (*text != ',')
            return !*text;
        text++;
    }
    return true;
}

/* "auto|cpu|cuda[:N[,N]]": cuda may carry numbers. */
static scd_code set_numbered(const option *o, void *field, const char *value, const char *where,
                             scd_error *err)
{
    int index = 0;
    for (const char *c = o->metavar; *c; index++) {
        size_t n = strcspn(c, "|[");
        scd_config_numbered f = {.choice = index};
        bool here = !strncmp(value, c, n);
        bool numbered = here && value[n] == ':' && c[n] == '[';
        if (here && (!value[n] || (numbered && read_numbers(value + n + 1, &f)))) {
            *(scd_config_numbered *)field = f;
            return SCD_OK;
        }
        c += strcspn(c, "|");
        c += *c == '|';
    }
    return bad_value(o, where, value, o->metavar, err);
}

static scd_code set_int(const option *o, void *field, const char *value, const char *where,
                        scd_error *err)
{
    char *end;
    errno = 0;
    long n = strtol(value, &end, 10);
    if (end == value || *end || errno || n < o->lo || n > o->hi) {
        char want[80];
        snprintf(want, sizeof want, "a whole number from %ld to %ld", o->lo, o->hi);
        return bad_value(o, where, value, want, err);
    }
    *(long *)field = n;
    return SCD_OK;
}

static scd_code list_add(scd_config_list *list, const char *value, size_t n, scd_error *err)
{
    char **items = scd_realloc(list->items, list->n + 1, sizeof *items);
    if (!items)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    list->items = items;
    items[list->n] = scd_strndup(value, n);
    if (!items[list->n])
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    list->n++;
    return SCD_OK;
}

static void list_clear(scd_config_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    *list = (scd_config_list){0};
}

/* A list in the environment has its items between colons, as PATH does. */
static scd_code set_list(scd_config_list *list, const char *value, bool split, scd_error *err)
{
    scd_code code = SCD_OK;
    while (*value && !code) {
        size_t n = split ? strcspn(value, ":") : strlen(value);
        if (n)
            code = list_add(list, value, n, err);
        value += n + (value[n] == ':');
    }
    return code;
}

static scd_code set(loader *l, const option *o, const char *value, const char *where)
{
    size_t i = (size_t)(o - options);
    void *field = (char *)l->config + o->offset;
    if (l->set_by[i] > l->now)
        return SCD_OK;
    if (o->kind == LIST && l->set_by[i] < l->now)
        list_clear(field);
    l->set_by[i] = l->now;
    switch (o->kind) {
    case TEXT:
        free(*(char **)field);
        *(char **)field = scd_strdup(value);
        return *(char **)field ? SCD_OK : scd_fail(l->err, SCD_E_NOMEM, "out of memory");
    case LIST:
        return set_list(field, value, l->now == FROM_ENV, l->err);
    case INT:
        return set_int(o, field, value, where, l->err);
    case CHOICE:
        return set_choice(o, field, value, where, l->err);
    case NUMBERED:
        return set_numbered(o, field, value, where, l->err);
    case SWITCH:
        if (strcmp(value, "true") && strcmp(value, "false") && strcmp(value, "1") &&
            strcmp(value, "0"))
            return bad_value(o, where, value, "true or false", l->err);
        *(bool *)field = *value == 't' || *value == '1';
        return SCD_OK;
    }
    return SCD_OK;
}

static const option *find(const char *key, size_t n)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (strlen(options[i].key) == n && !memcmp(options[i].key, key, n))
            return &options[i];
    return NULL;
}

/* SCDIVA_MAX_BATCH_TOKENS names max-batch-tokens. */
static const option *find_env(const char *name, size_t n)
{
    char key[64];
    if (n >= sizeof key)
        return NULL;
    for (size_t i = 0; i < n; i++)
        key[i] = name[i] == '_' ? '-' : (char)tolower((unsigned char)name[i]);
    return find(key, n);
}

/* fgets for inih, which would take a line that is longer than its buffer for two. */
static char *read_line(char *out, int n, void *arg)
{
    loader *l = arg;
    char *got = fgets(out, n, l->stream);
    if (got && l->in_line && !l->long_line)
        l->long_line = l->line;
    if (got && !l->in_line)
        l->line++;
    l->in_line = got && !strchr(got, '\n');
    return got;
}

static int on_file_pair(void *arg, const char *section, const char *name, const char *value)
{
    loader *l = arg;
    char where[512];
    if (l->failed || l->long_line)
        return 1;
    snprintf(where, sizeof where, "%s: line %d", l->file, l->line);
    const option *o = find(name, strlen(name));
    if (*section)
        scd_fail(l->err, SCD_E_INVALID, "%s: sections are not used here: [%s]", where, section);
    else if (!o)
        scd_fail(l->err, SCD_E_INVALID, "%s: unknown key \"%s\" (scdivad --print-config lists all)",
                 where, name);
    else if (!set(l, o, value, where))
        return 1;
    l->failed = true;
    return 0;
}

static scd_code read_file(loader *l, const char *path)
{
    l->now = FROM_FILE;
    l->file = path;
    l->stream = fopen(path, "re");
    if (!l->stream)
        return scd_fail(l->err, SCD_E_IO, "cannot read the configuration file %s: %s", path,
                        strerror(errno));
    int rc = ini_parse_stream(read_line, l, on_file_pair, l);
    bool broken = ferror(l->stream);
    fclose(l->stream);
    if (l->failed)
        return l->err ? l->err->code : SCD_E_INVALID;
    if (rc < 0 || broken)
        return scd_fail(l->err, SCD_E_IO, "cannot read the configuration file %s", path);
    if (l->long_line)
        return scd_fail(l->err, SCD_E_INVALID, "%s: line %d is too long", path, l->long_line);
    if (rc > 0)
        return scd_fail(l->err, SCD_E_INVALID, "%s: line %d is not \"key = value\"", path, rc);
    return SCD_OK;
}

/* Variables of our prefix that are not options: SCDIVA_ISA belongs to engine/cpu, SCDIVA_CUDA_* to
 * engine/cuda, SCDIVA_API_KEY to the client, SCDIVA_TEST_* to the tests, and Kubernetes gives every
 * pod SCDIVA_PORT... and SCDIVA_SERVICE_... when a service is called scdiva. */
static bool is_foreign(const char *name, size_t n)
{
    static const char *const prefixes[] = {"ISA", "CUDA_", "API_KEY", "TEST_", "PORT", "SERVICE_"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t k = strlen(prefixes[i]);
        if (n >= k && !memcmp(name, prefixes[i], k))
            return true;
    }
    return false;
}

static scd_code read_env(loader *l, char **environ, const char **config_file)
{
    static const char prefix[] = "SCDIVA_";
    enum { N_PREFIX = sizeof prefix - 1 };
    l->now = FROM_ENV;
    for (char **e = environ; e && *e; e++) {
        const char *eq = strchr(*e, '=');
        if (!eq || strncmp(*e, prefix, N_PREFIX))
            continue;
        size_t n = (size_t)(eq - *e) - N_PREFIX;
        const char *name = *e + N_PREFIX;
        if (n == 6 && !memcmp(name, "CONFIG", n)) {
            *config_file = eq + 1;
            continue;
        }
        const option *o = find_env(name, n);
        if (!o && is_foreign(name, n))
            continue;
        if (!o)
            return scd_fail(l->err, SCD_E_INVALID, "environment: unknown option %.*s",
                            (int)(eq - *e), *e);
        char where[96];
        snprintf(where, sizeof where, "environment %.*s", (int)(eq - *e), *e);
        if (set(l, o, eq + 1, where))
            return l->err ? l->err->code : SCD_E_INVALID;
    }
    return SCD_OK;
}

/* One flag at argv[*i]; its value is after '=' or in the next word. */
static scd_code read_flag(loader *l, int argc, char **argv, int *i, const char **config_file,
                          scd_config_action *action)
{
    const char *arg = argv[*i];
    if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
        *action = SCD_CONFIG_HELP;
    else if (!strcmp(arg, "--version"))
        *action = SCD_CONFIG_VERSION;
    else if (!strcmp(arg, "--print-config"))
        *action = SCD_CONFIG_PRINT;
    if (*action != SCD_CONFIG_RUN)
        return SCD_OK;
    if (strncmp(arg, "--", 2))
        return scd_fail(l->err, SCD_E_INVALID, "unexpected argument \"%s\" (see --help)", arg);
    const char *key = arg + 2, *eq = strchr(key, '=');
    size_t n = eq ? (size_t)(eq - key) : strlen(key);
    const option *o = find(key, n);
    bool is_config = n == 6 && !memcmp(key, "config", n);
    if (!o && !is_config)
        return scd_fail(l->err, SCD_E_INVALID, "unknown option %.*s (see --help)", (int)n + 2, arg);
    const char *value = eq ? eq + 1 : NULL;
    if (!value && o && o->kind == SWITCH)
        value = "true";
    if (!value && *i + 1 >= argc)
        return scd_fail(l->err, SCD_E_INVALID, "%s needs a value (see --help)", arg);
    if (!value)
        value = argv[++*i];
    if (is_config) {
        *config_file = value;
        return SCD_OK;
    }
    char where[80];
    snprintf(where, sizeof where, "--%s", o->key);
    return set(l, o, value, where);
}

scd_code scd_config_load(int argc, char **argv, char **environ, scd_config *out,
                         scd_config_action *action, scd_error *err)
{
    loader l = {.config = out, .err = err};
    const char *file_by_flag = NULL, *file_by_env = NULL;
    *out = (scd_config){0};
    *action = SCD_CONFIG_RUN;
    scd_code code = SCD_OK;
    for (size_t i = 0; i < N_OPTIONS && !code; i++)
        if (options[i].kind != LIST)
            code = set(&l, &options[i], options[i].dflt, "default");
    l.now = FROM_FLAG;
    for (int i = 1; i < argc && !code && *action == SCD_CONFIG_RUN; i++)
        code = read_flag(&l, argc, argv, &i, &file_by_flag, action);
    if (!code && *action == SCD_CONFIG_RUN)
        code = read_env(&l, environ, &file_by_env);
    const char *file = file_by_flag ? file_by_flag : file_by_env;
    if (!code && *action == SCD_CONFIG_RUN && file)
        code = read_file(&l, file);
    if (code)
        scd_config_release(out);
    return code;
}

void scd_config_release(scd_config *config)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        void *field = (char *)config + options[i].offset;
        if (options[i].kind == TEXT)
            free(*(char **)field);
        else if (options[i].kind == LIST)
            list_clear(field);
    }
    *config = (scd_config){0};
}

void scd_config_help(scd_buf *out)
{
    scd_buf_puts(
        out, "usage: scdivad --model DIR [options]\n\n"
             "Serves a scDiVa model over HTTP: embeddings of single cells, exact and cached.\n\n"
             "Every option is also a key of the file and an environment variable SCDIVA_<KEY>\n"
             "(--max-batch-tokens: SCDIVA_MAX_BATCH_TOKENS); flags win, then the environment.\n\n"
             "  --config FILE              read options from FILE (key = value)\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const option *o = &options[i];
        char head[80];
        snprintf(head, sizeof head, "--%s %s", o->key, o->metavar ? o->metavar : "");
        scd_buf_printf(out,
                       strlen(head) < 26 ? "  %-26s %s" : "  %s\n                             %s",
                       head, o->help);
        if (*o->dflt && o->kind != SWITCH)
            scd_buf_printf(out, " (default %s)", o->dflt);
        scd_buf_putc(out, '\n');
    }
    scd_buf_puts(out, "  --print-config             print a sample configuration file\n"
                      "  --help, --version          what they say\n");
}

void scd_config_sample(scd_buf *out)
{
    scd_buf_puts(out,
                 "# scdivad.conf - every option at its default (scdivad --print-config).\n"
                 "# A flag or an environment variable SCDIVA_<KEY> overrides what stands here.\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const option *o = &options[i];
        scd_buf_printf(out, "\n# %s", o->help);
        if (o->kind == CHOICE || o->kind == NUMBERED)
            scd_buf_printf(out, " (%s)", o->metavar);
        scd_buf_printf(out, "\n# %s = %s\n", o->key, o->kind == LIST ? "models/pbmc" : o->dflt);
    }
}
