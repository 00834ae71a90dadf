/* option_rows.h - rows of a verb's table of options (options.h), whose target is a member of `o`.
 *
 * Short names, for they stand in tables: include this in .c files alone. */
#ifndef SCD_TRAIN_OPTION_ROWS_H
#define SCD_TRAIN_OPTION_ROWS_H

#include "engine/train/options.h"

#define TEXT(name, field, value, help)                                                             \
    {                                                                                              \
        name, SCD_OPTION_TEXT, &o->field, value, help, 0, 0, false, false                          \
    }
/* One that does not change what a run computes. */
#define ASIDE(name, field, value, help)                                                            \
    {                                                                                              \
        name, SCD_OPTION_TEXT, &o->field, value, help, 0, 0, true, false                           \
    }
#define COUNT(name, field, help, low, high)                                                        \
    {                                                                                              \
        name, SCD_OPTION_COUNT, &o->field, "N", help, low, high, false, false                      \
    }
#define NUMBER(name, field, help, low, high)                                                       \
    {                                                                                              \
        name, SCD_OPTION_NUMBER, &o->field, "X", help, low, high, false, false                     \
    }
#define HEADING(help)                                                                              \
    {                                                                                              \
        NULL, SCD_OPTION_HEADING, NULL, NULL, help, 0, 0, true, false                              \
    }

#endif
