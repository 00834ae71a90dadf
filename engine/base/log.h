/* log.h - one line per event to standard error, as text or as JSON.
 *
 * Only server/ and the programs' mains log; the layers below return errors. Expression values and
 * bearer tokens never go into a log line.
 *
 * Threads: any; a line is one write(2). */
#ifndef SCD_BASE_LOG_H
#define SCD_BASE_LOG_H

#include <stdbool.h>

typedef enum scd_log_level {
    SCD_LOG_DEBUG,
    SCD_LOG_INFO,
    SCD_LOG_WARN,
    SCD_LOG_ERROR
} scd_log_level;

void scd_log_setup(scd_log_level level, bool json);

/* `event` is a constant name; then pairs of key and value: SCD_LOG(INFO, "ready", "port", "8080")
 * Values are strings; numbers come in through scd_log_num, which uses a small ring per thread. */
void scd_log(scd_log_level level, const char *event, ...); /* key, value, ..., (char *)NULL */
const char *scd_log_num(double value);

#define SCD_LOG(level, ...) scd_log(SCD_LOG_##level, __VA_ARGS__, (const char *)0)

#endif
