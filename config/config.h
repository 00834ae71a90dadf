/* config.h - the daemon's options, from flags, environment and file.
 *
 * Precedence: flag, then environment (SCDIVA_<KEY>), then file (--config FILE or SCDIVA_CONFIG),
 * then default. Unknown keys and values out of range are errors that name where they stood.
 *
 * Threads: read-only after scd_config_load. Owns: its strings, until scd_config_release. */
#ifndef SCD_CONFIG_H
#define SCD_CONFIG_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct scd_config_list {
    char **items;
    size_t n;
} scd_config_list;

/* One of several words, and the different numbers that it may carry: cuda:0,2, or cuda:all. */
enum { SCD_CONFIG_MAX_NUMBERS = 64, SCD_CONFIG_MAX_NUMBER = 999 };
typedef struct scd_config_numbered {
    int choice;
    bool all;
    size_t n; /* 0: it carries none */
    int numbers[SCD_CONFIG_MAX_NUMBERS];
} scd_config_numbered;

typedef struct scd_config {
#define SCD_TEXT(field, key, dflt, metavar, help) char *field;
#define SCD_LIST(field, key, metavar, help) scd_config_list field;
#define SCD_INT(field, key, dflt, lo, hi, metavar, help) long field;
#define SCD_CHOICE(field, key, dflt, choices, help) int field;
#define SCD_NUMBERED(field, key, dflt, choices, help) scd_config_numbered field;
#define SCD_SWITCH(field, key, help) bool field;
#include "config/config.def"
#undef SCD_TEXT
#undef SCD_LIST
#undef SCD_INT
#undef SCD_CHOICE
#undef SCD_NUMBERED
#undef SCD_SWITCH
} scd_config;

/* What the command line asked for besides options. */
typedef enum scd_config_action {
    SCD_CONFIG_RUN,
    SCD_CONFIG_HELP,
    SCD_CONFIG_VERSION,
    SCD_CONFIG_PRINT /* --print-config: a sample file with every key at its default */
} scd_config_action;

/* `environ` as of main. SCD_E_INVALID: the message names the flag, variable or file line. */
scd_code scd_config_load(int argc, char **argv, char **environ, scd_config *out,
                         scd_config_action *action, scd_error *err);
void scd_config_release(scd_config *config);

void scd_config_help(scd_buf *out);   /* the text of --help */
void scd_config_sample(scd_buf *out); /* the text of --print-config */

#endif
