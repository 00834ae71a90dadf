/* error.c - see error.h. */
#include "engine/base/error.h"

#include <stdio.h>
#include <string.h>

scd_code scd_fail(scd_error *err, scd_code code, const char *fmt, ...)
{
    if (!err)
        return code;
    err->code = code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return code;
}

scd_code scd_fail_within(scd_error *err, const char *fmt, ...)
{
    if (!err)
        return SCD_E_INTERNAL;
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    size_t at = n < 0 ? 0 : (size_t)n;
    if (at < sizeof err->message)
        snprintf(err->message + at, sizeof err->message - at, ": %s", inner);
    return err->code;
}

const char *scd_code_name(scd_code code)
{
    static const char *const names[] = {
        [SCD_OK] = "ok",
        [SCD_E_INVALID] = "invalid",
        [SCD_E_TOO_LARGE] = "too_large",
        [SCD_E_BUSY] = "busy",
        [SCD_E_NOT_FOUND] = "not_found",
        [SCD_E_TIMEOUT] = "timeout",
        [SCD_E_CANCELED] = "canceled",
        [SCD_E_NOMEM] = "nomem",
        [SCD_E_IO] = "io",
        [SCD_E_CORRUPT] = "corrupt",
        [SCD_E_DEVICE] = "device",
        [SCD_E_INTERNAL] = "internal",
    };
    return (size_t)code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}
