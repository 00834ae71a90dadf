/* options.c - see options.h. */
#include "engine/train/options.h"

#include "engine/base/mem.h"
#include "engine/train/train.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN = 28, MAX_VALUE = 64 };

static int usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int usage(const char *verb, const char *fmt, ...)
{
    va_list list;
    fprintf(stderr, "scdiva-train %s: ", verb);
    va_start(list, fmt);
    vfprintf(stderr, fmt, list);
    va_end(list);
    fprintf(stderr, "\nscdiva-train %s --help lists the options\n", verb);
    return SCD_EXIT_USAGE;
}

/* The value as one would type it; false where there is none. */
static bool value_text(const scd_option *o, char out[MAX_VALUE])
{
    out[0] = 0;
    switch (o->kind) {
    case SCD_OPTION_COUNT:
        snprintf(out, MAX_VALUE, "%zu", *(const size_t *)o->to);
        return true;
    case SCD_OPTION_SEED:
        snprintf(out, MAX_VALUE, "%llu", (unsigned long long)*(const uint64_t *)o->to);
        return true;
    case SCD_OPTION_NUMBER:
        snprintf(out, MAX_VALUE, "%.12g", *(const double *)o->to);
        return true;
    default:
        return false;
    }
}

static void print_help(const char *verb, const char *summary, const scd_option *table, size_t n)
{
    printf("usage: scdiva-train %s OPTIONS\n\n%s\n\n", verb, summary);
    for (size_t i = 0; i < n; i++) {
        const scd_option *o = &table[i];
        char value[MAX_VALUE];
        if (o->kind == SCD_OPTION_HEADING) {
            printf("\n%s\n", o->help);
            continue;
        }
        int width = printf("  --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("%*s%s", width < HELP_COLUMN ? HELP_COLUMN - width : 2, "", o->help);
        const char *text = o->kind == SCD_OPTION_TEXT ? *(const char *const *)o->to : NULL;
        if (o->required)
            fputs(" (required)", stdout);
        else if (value_text(o, value) || text)
            printf(" (%s)", text ? text : value);
        putchar('\n');
    }
    printf("  --help\n");
}

static int bad_value(const char *verb, const scd_option *o, const char *value)
{
    if (o->low < o->high)
        return usage(verb, "--%s %s: must be a%s number from %.12g to %.12g", o->name, value,
                     o->kind == SCD_OPTION_NUMBER ? "" : " whole", o->low, o->high);
    return usage(verb, "--%s %s: must be a%s number, 0 or more", o->name, value,
                 o->kind == SCD_OPTION_NUMBER ? "" : " whole");
}

static int read_number(const char *verb, const scd_option *o, const char *value)
{
    char *end;
    errno = 0;
    if (o->kind == SCD_OPTION_NUMBER) {
        double x = strtod(value, &end);
        if (end == value || *end || !isfinite(x) || (o->low < o->high ? x < o->low : x < 0) ||
            (o->low < o->high && x > o->high))
            return bad_value(verb, o, value);
        *(double *)o->to = x;
        return SCD_EXIT_OK;
    }
    unsigned long long x = strtoull(value, &end, 10);
    if (end == value || *end || errno || value[0] < '0' || value[0] > '9' ||
        (o->low < o->high && ((double)x < o->low || (double)x > o->high)))
        return bad_value(verb, o, value);
    if (o->kind == SCD_OPTION_SEED)
        *(uint64_t *)o->to = x;
    else
        *(size_t *)o->to = (size_t)x;
    return SCD_EXIT_OK;
}

static int add_to_list(const char *verb, scd_option_list *list, const char *value)
{
    const char **items = scd_realloc(list->items, list->n + 1, sizeof *items);
    if (!items)
        return usage(verb, "out of memory");
    list->items = items;
    items[list->n++] = value;
    return SCD_EXIT_OK;
}

static int take_value(const char *verb, const scd_option *o, const char *value)
{
    switch (o->kind) {
    case SCD_OPTION_TEXT:
        *(const char **)o->to = value;
        return SCD_EXIT_OK;
    case SCD_OPTION_LIST:
        return add_to_list(verb, o->to, value);
    default:
        return read_number(verb, o, value);
    }
}

static const scd_option *find(const scd_option *table, size_t n, const char *name, size_t n_name)
{
    for (size_t i = 0; i < n; i++)
        if (table[i].kind != SCD_OPTION_HEADING && strlen(table[i].name) == n_name &&
            !memcmp(table[i].name, name, n_name))
            return &table[i];
    return NULL;
}

static bool is_given(const scd_option *o)
{
    if (o->kind == SCD_OPTION_LIST)
        return ((const scd_option_list *)o->to)->n > 0;
    return o->kind != SCD_OPTION_TEXT || *(const char *const *)o->to;
}

int scd_options_read(const char *verb, const char *summary, const scd_option *table, size_t n,
                     int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            print_help(verb, summary, table, n);
            return -1;
        }
        if (strncmp(arg, "--", 2))
            return usage(verb, "'%s' is not an option", arg);
        const char *equals = strchr(arg, '=');
        size_t n_name = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
        const scd_option *o = find(table, n, arg + 2, n_name);
        if (!o)
            return usage(verb, "unknown option '%.*s'", (int)n_name + 2, arg);
        if (o->kind == SCD_OPTION_FLAG) {
            if (equals)
                return usage(verb, "--%s takes no value", o->name);
            *(bool *)o->to = true;
            continue;
        }
        if (!equals && i + 1 == argc)
            return usage(verb, "--%s: a value is missing", o->name);
        int status = take_value(verb, o, equals ? equals + 1 : argv[++i]);
        if (status)
            return status;
    }
    for (size_t i = 0; i < n; i++)
        if (table[i].required && !is_given(&table[i]))
            return usage(verb, "--%s %s is missing", table[i].name, table[i].value);
    return SCD_EXIT_OK;
}

/* Calls each(arg, name, value) for every value that shapes the run. */
typedef void visit(void *arg, const char *name, const char *value);

static void each_value(const scd_option *table, size_t n, visit *each, void *arg)
{
    for (size_t i = 0; i < n; i++) {
        const scd_option *o = &table[i];
        char value[MAX_VALUE];
        if (o->aside || o->kind == SCD_OPTION_HEADING)
            continue;
        if (o->kind == SCD_OPTION_LIST) {
            const scd_option_list *list = o->to;
            for (size_t k = 0; k < list->n; k++)
                each(arg, o->name, list->items[k]);
        } else if (o->kind == SCD_OPTION_TEXT && *(const char *const *)o->to) {
            each(arg, o->name, *(const char *const *)o->to);
        } else if (o->kind == SCD_OPTION_FLAG && *(const bool *)o->to) {
            each(arg, o->name, NULL);
        } else if (value_text(o, value)) {
            each(arg, o->name, value);
        }
    }
}

static void hash_value(void *arg, const char *name, const char *value)
{
    scd_hasher_add_text(arg, name);
    scd_hasher_add_text(arg, value ? value : "");
}

void scd_options_hash(const scd_option *table, size_t n, scd_hasher *hasher)
{
    each_value(table, n, hash_value, hasher);
}

static void print_value(void *arg, const char *name, const char *value)
{
    const char *base = value ? strrchr(value, '/') : NULL; /* a card names files, not places */
    scd_buf_printf(arg, " --%s%s%s", name, value ? " " : "", base ? base + 1 : value ? value : "");
}

void scd_options_recipe(const scd_option *table, size_t n, scd_buf *out)
{
    each_value(table, n, print_value, out);
}
