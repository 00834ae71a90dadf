/* cli.h - what the verbs of scdiva share: exit codes, options, progress, reports.
 *
 * Threads: main. Owns: nothing. */
#ifndef SCD_CLI_H
#define SCD_CLI_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of inspect and validate: 0 of use to the model, 1 readable but of no use, 2 not readable. Of all
 * others: 0 done, 1 failed, 2 used wrongly. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNREADABLE = 2 };

/* ---- args.c: the options of a verb as one table ---- */

typedef enum cli_kind {
    CLI_TEXT,   /* const char * */
    CLI_COUNT,  /* size_t */
    CLI_NUMBER, /* double */
    CLI_FLAG,   /* bool; takes no value */
    CLI_CHOICE  /* const char *, one of `choices` */
} cli_kind;

typedef struct cli_option {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    cli_kind kind;
    void *to; /* holds the default before parsing */
    const char *value, *help;
    const char *const *choices; /* NULL-terminated */
    double low, high;           /* of numbers and counts */
    bool *given;                /* NULL: nobody asks */
} cli_option;

typedef struct cli_verb {
    const char *name, *summary;
    const char *input; /* what --help calls the one argument; NULL: takes none */
    int (*run)(const struct cli_verb *verb, int argc, char **argv);
    /* The options, bound to `into`; for parsing, --help and completion. NULL: none. */
    size_t (*options)(const struct cli_verb *verb, void *into, cli_option *table);
    bool is_hidden;
} cli_verb;

enum { CLI_MAX_OPTIONS = 32 };

extern const cli_verb cli_verbs[];
extern const size_t cli_n_verbs;

/* CLI_OK, CLI_USAGE after a message on stderr, or -1 after --help. *input NULL where none was
 * given. */
int cli_args_read(const cli_verb *verb, const cli_option *table, size_t n, int argc, char **argv,
                  const char **input);
/* A verb of several parts ("scdiva jobs show ID"): which of names (n) argv[1] is; *out is the verb
 * as that part is called. CLI_PART_HELP: --help is asked for; CLI_PART_NONE, after a message. */
enum { CLI_PART_HELP = -1, CLI_PART_NONE = -2 };
int cli_part(const cli_verb *verb, int argc, char **argv, const char *const *names, size_t n,
             cli_verb *out);
int cli_usage(const cli_verb *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- progress.c: a bar on a terminal, plain lines otherwise, nothing when quiet ---- */

typedef struct cli_progress {
    size_t total, done;
    int64_t start_ns, last_ns;
    size_t last_tenth;
    bool is_terminal, is_quiet, is_shown;
} cli_progress;

void cli_progress_begin(cli_progress *p, size_t total, bool quiet);
void cli_progress_add(cli_progress *p, size_t n);
void cli_progress_end(cli_progress *p);

/* ---- report.c ---- */

/* "scdiva: MESSAGE" on stderr, or {"error": {"code", "message"}} on stdout; CLI_FAILED. */
int cli_fail(const scd_error *err, bool json);
/* Lines "warning: ..." on stderr. */
void cli_print_notes(const char *kind, const char *const *notes, size_t n);
void cli_json_texts(scd_buf *out, const char *key, const char *const *texts, size_t n);
void cli_json_text(scd_buf *out, const char *key, const char *text); /* null for NULL */
/* The buffer on stdout; CLI_FAILED where that cannot be written. */
int cli_print(scd_buf *out, int status);

/* ---- the verbs ---- */
int cli_run_task(const cli_verb *verb, int argc, char **argv);
size_t cli_task_options(const cli_verb *verb, void *into, cli_option *table);
int cli_inspect(const cli_verb *verb, int argc, char **argv);
size_t cli_inspect_options(const cli_verb *verb, void *into, cli_option *table);
int cli_models(const cli_verb *verb, int argc, char **argv);
size_t cli_models_options(const cli_verb *verb, void *into, cli_option *table);
int cli_audit(const cli_verb *verb, int argc, char **argv);
size_t cli_audit_options(const cli_verb *verb, void *into, cli_option *table);
int cli_jobs(const cli_verb *verb, int argc, char **argv);
size_t cli_jobs_options(const cli_verb *verb, void *into, cli_option *table);
int cli_keys(const cli_verb *verb, int argc, char **argv);
size_t cli_keys_options(const cli_verb *verb, void *into, cli_option *table);
int cli_completion(const cli_verb *verb, int argc, char **argv);

#endif
