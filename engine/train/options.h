/* options.h - the options of a verb as one table: parsing, --help, the fingerprint of a run and the
 * recipe on a model's card all derive from it.
 *
 * Threads: main. Owns: nothing but the lists' arrays; texts point into argv. */
#ifndef SCD_TRAIN_OPTIONS_H
#define SCD_TRAIN_OPTIONS_H

#include "engine/base/buf.h"
#include "engine/base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum scd_option_kind {
    SCD_OPTION_TEXT,   /* const char * */
    SCD_OPTION_LIST,   /* scd_option_list: may be given several times */
    SCD_OPTION_COUNT,  /* size_t */
    SCD_OPTION_SEED,   /* uint64_t */
    SCD_OPTION_NUMBER, /* double */
    SCD_OPTION_FLAG,   /* bool; takes no value */
    SCD_OPTION_HEADING /* a line of --help only */
} scd_option_kind;

typedef struct scd_option_list {
    const char **items; /* free() */
    size_t n;
} scd_option_list;

typedef struct scd_option {
    const char *name; /* without dashes */
    scd_option_kind kind;
    void *to;          /* holds the default before parsing */
    const char *value; /* what --help calls the value: "FILE", "N" */
    const char *help;  /* one line; the default is added */
    double low, high;  /* bounds of counts and numbers; both 0: none but >= 0 */
    bool aside;        /* does not change what a run computes: threads, where it logs, ... */
    bool required;
} scd_option;

/* SCD_EXIT_OK, SCD_EXIT_USAGE after a message on stderr, or -1 when --help was asked for and
 * printed. */
int scd_options_read(const char *verb, const char *summary, const scd_option *table, size_t n,
                     int argc, char **argv);

/* Names and values of everything that is not `aside` into the hash, in table order. */
void scd_options_hash(const scd_option *table, size_t n, scd_hasher *hasher);
/* "--name value" for everything that is not `aside`, on one line. */
void scd_options_recipe(const scd_option *table, size_t n, scd_buf *out);

#endif
