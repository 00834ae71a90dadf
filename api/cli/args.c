/* args.c - the options of a verb: parsing (getopt_long), --help. See cli.h. */
#include "api/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN = 28, FIRST_LONG = 256 };

int cli_usage(const cli_verb *verb, const char *fmt, ...)
{
    va_list args;
    fprintf(stderr, "scdiva %s: ", verb->name);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nscdiva %s --help lists the options\n", verb->name);
    return CLI_USAGE;
}

int cli_part(const cli_verb *verb, int argc, char **argv, const char *const *names, size_t n,
             cli_verb *out)
{
    static char called[64]; /* one verb a run */
    const char *asked = argc > 1 ? argv[1] : "";
    *out = *verb;
    if (!strcmp(asked, "--help") || !strcmp(asked, "-h"))
        return CLI_PART_HELP;
    for (size_t i = 0; i < n; i++)
        if (strcmp(asked, names[i]) == 0) {
            snprintf(called, sizeof called, "%s %s", verb->name, names[i]);
            out->name = called;
            return (int)i;
        }
    cli_usage(verb, "what to do is missing: scdiva %s %s", verb->name, verb->input);
    return CLI_PART_NONE;
}

static void print_help(const cli_verb *verb, const cli_option *table, size_t n)
{
    printf("usage: scdiva %s%s%s [OPTIONS]\n\n%s\n\n", verb->name, verb->input ? " " : "",
           verb->input ? verb->input : "", verb->summary);
    for (size_t i = 0; i < n; i++) {
        const cli_option *o = table + i;
        int width = o->letter ? printf("  -%c, ", o->letter) : printf("      ");
        width += printf("--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("%*s%s\n", width < HELP_COLUMN ? HELP_COLUMN - width : 2, "", o->help);
    }
    printf("  -h, --help\n");
}

static int take_number(const cli_verb *verb, const cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    bool is_whole = o->kind != CLI_COUNT ||
                    (value == floor(value) && strspn(text, "0123456789") == strlen(text));
    if (end == text || *end || errno || !isfinite(value) || !is_whole || value < o->low ||
        value > o->high)
        return cli_usage(verb, "--%s %s: must be a%s number from %.12g to %.12g", o->name, text,
                         o->kind == CLI_COUNT ? " whole" : "", o->low, o->high);
    if (o->kind == CLI_COUNT)
        *(size_t *)o->to = (size_t)value;
    else
        *(double *)o->to = value;
    return CLI_OK;
}

static int take_choice(const cli_verb *verb, const cli_option *o, const char *text)
{
    for (size_t i = 0; o->choices[i]; i++)
        if (strcmp(o->choices[i], text) == 0) {
            *(const char **)o->to = text;
            return CLI_OK;
        }
    return cli_usage(verb, "--%s %s: must be %s", o->name, text, o->value);
}

static int take(const cli_verb *verb, const cli_option *o, const char *text)
{
    if (o->given)
        *o->given = true;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->to = true;
        return CLI_OK;
    case CLI_TEXT:
        *(const char **)o->to = text;
        return CLI_OK;
    case CLI_CHOICE:
        return take_choice(verb, o, text);
    default:
        return take_number(verb, o, text);
    }
}

int cli_args_read(const cli_verb *verb, const cli_option *table, size_t n, int argc, char **argv,
                  const char **input)
{
    struct option longs[CLI_MAX_OPTIONS + 2];
    char letters[2 * CLI_MAX_OPTIONS + 4] = "h";
    size_t n_letters = 1;
    for (size_t i = 0; i < n; i++) {
        bool has_value = table[i].kind != CLI_FLAG;
        longs[i] = (struct option){table[i].name, has_value, NULL, FIRST_LONG + (int)i};
        if (table[i].letter) {
            letters[n_letters++] = table[i].letter;
            if (has_value)
                letters[n_letters++] = ':';
        }
    }
    letters[n_letters] = '\0';
    longs[n] = (struct option){"help", 0, NULL, 'h'};
    longs[n + 1] = (struct option){0};
    *input = NULL;
    optind = 1;
    opterr = 0;
    for (int which; (which = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
        if (which == 'h') {
            print_help(verb, table, n);
            return -1;
        }
        if (which == '?' || which == ':')
            return cli_usage(verb, "'%s' is not an option, or its value is missing",
                             argv[optind - 1]);
        const cli_option *o = which >= FIRST_LONG ? table + (which - FIRST_LONG) : NULL;
        for (size_t i = 0; i < n && !o; i++)
            o = table[i].letter == which ? table + i : NULL;
        int status = take(verb, o, optarg);
        if (status)
            return status;
    }
    if (optind < argc && verb->input)
        *input = argv[optind++];
    if (optind < argc)
        return cli_usage(verb, "'%s' is one argument too many", argv[optind]);
    if (verb->input && !*input)
        return cli_usage(verb, "%s is missing", verb->input);
    return CLI_OK;
}
