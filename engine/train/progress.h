/* progress.h - how a run looks from outside: a bar on a terminal, plain lines elsewhere, a CSV log.
 *
 * On a terminal one line is redrawn a few times a second (step, losses, tokens/s, time left); else
 * a line every half minute. The CSV is appended to, a row at each call of scd_progress_log,
 * flushed; a resumed run goes on in the same file: rows past the step it resumes from are cut off
 * first.
 *
 * Threads: one. Owns: the CSV, until free. */
#ifndef SCD_TRAIN_PROGRESS_H
#define SCD_TRAIN_PROGRESS_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_progress scd_progress;

/* csv_path NULL: none. columns: names of what scd_progress_log gets; `step` comes first. Rows with
 * a step above first_step are removed. SCD_E_IO names the file. */
scd_code scd_progress_new(const char *title, uint64_t n_steps, uint64_t first_step,
                          const char *csv_path, const char *const *columns, size_t n_columns,
                          scd_progress **out, scd_error *err);
void scd_progress_free(scd_progress *progress); /* ends the line; NULL is fine */

/* After each step; `tokens` of this step; `text` like "gene 6.21 value 0.83". */
void scd_progress_step(scd_progress *progress, uint64_t step, size_t tokens, const char *text);
double scd_progress_tokens_per_s(const scd_progress *progress);
/* A row of the CSV; NAN becomes an empty field. */
scd_code scd_progress_log(scd_progress *progress, uint64_t step, const double *values,
                          scd_error *err);
/* A line of text above the bar. */
void scd_progress_say(scd_progress *progress, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* SIGINT and SIGTERM ask for a stop; a second one ends at once. True once one has come. */
void scd_stop_on_signals(void);
bool scd_stop_asked(void);

#endif
