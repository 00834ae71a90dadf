/* float_text.h - numbers to decimal text and back, whatever the process's locale is.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_FLOAT_TEXT_H
#define SCD_API_FLOAT_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum {
    SCD_FLOAT_TEXT_BYTES = 16,
    SCD_DOUBLE_TEXT_BYTES = 32,
    SCD_DECIMAL_DIGITS = 19,     /* any integer of so many digits fits into 64 bits */
    SCD_NUMBER_MAX_BYTES = 1024, /* well past the 767 digits that can decide a rounding */
};

/* Shortest decimal that reads back to the same float32, of those the closest; without a NUL.
 * `value` must be finite. */
size_t scd_float_text(float value, char *out);

/* Shortest decimal that reads back to the same double, with a NUL. `value` must be finite. */
size_t scd_double_text(double value, char out[SCD_DOUBLE_TEXT_BYTES]);

/* The correctly rounded double of a decimal number of n <= SCD_NUMBER_MAX_BYTES characters;
 * HUGE_VAL past the range. The former spares the work where the text's digits are known to be the
 * integer `digits`, and its value digits * 10^exponent. */
double scd_decimal_to_double(uint64_t digits, int64_t exponent, const char *text, size_t n);
double scd_text_to_double(const char *text, size_t n);

#endif
