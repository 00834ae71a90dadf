/* float_text.c - see float_text.h.
 *
 * float32 is the hot path (512 of them per embedding) and goes through Schubfach: R. Giulietti,
 * "The Schubfach way to render doubles", 2020. In short: the decimals that read back to v are those
 * of its rounding interval. With k = floor(log10(interval's width)) the interval holds at least one
 * multiple of 10^k and at most one of 10^(k+1); the latter is shorter, so it is tried first. All
 * bounds are scaled by 4 * 10^-k and rounded to odd, which keeps every comparison exact.
 *
 * float64 is only written in single numbers, so the C library's printf is tried with 15, 16 and 17
 * digits - under the "C" locale, or a comma could become the decimal point.
 *
 * Reading digits * 10^e:
 *   - digits <= 2^53, |e| <= 22: both are exact doubles and one operation rounds once (W. Clinger,
 *     "How to read floating point numbers accurately", 1990);
 *   - |e| <= 27 where long double has 64 bits: both are exact there, the operation rounds to 64
 *     bits, and rounding these to 53 is right unless they stand in the middle of two doubles. This
 *     is what float32 values printed as doubles (16 to 17 digits) need;
 *   - the rest: strtod. */
#include "api/float_text.h"

#include <float.h>
#include <locale.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FRACTION_BITS = 23,
    BIAS = 127 + FRACTION_BITS, /* v = significand * 2^(exponent - BIAS) */
    MIN_POWER = -31,
    MAX_POWER = 45
};

/* ceil(10^k * 2^(63 - floor(log2(10^k)))) for k from MIN_POWER to MAX_POWER: the 64 leading bits.
 */
static const uint64_t power_of_ten[MAX_POWER - MIN_POWER + 1] = {
    0x81CEB32C4B43FCF5, 0xA2425FF75E14FC32, 0xCAD2F7F5359A3B3F, 0xFD87B5F28300CA0E,
    0x9E74D1B791E07E49, 0xC612062576589DDB, 0xF79687AED3EEC552, 0x9ABE14CD44753B53,
    0xC16D9A0095928A28, 0xF1C90080BAF72CB2, 0x971DA05074DA7BEF, 0xBCE5086492111AEB,
    0xEC1E4A7DB69561A6, 0x9392EE8E921D5D08, 0xB877AA3236A4B44A, 0xE69594BEC44DE15C,
    0x901D7CF73AB0ACDA, 0xB424DC35095CD810, 0xE12E13424BB40E14, 0x8CBCCC096F5088CC,
    0xAFEBFF0BCB24AAFF, 0xDBE6FECEBDEDD5BF, 0x89705F4136B4A598, 0xABCC77118461CEFD,
    0xD6BF94D5E57A42BD, 0x8637BD05AF6C69B6, 0xA7C5AC471B478424, 0xD1B71758E219652C,
    0x83126E978D4FDF3C, 0xA3D70A3D70A3D70B, 0xCCCCCCCCCCCCCCCD, 0x8000000000000000,
    0xA000000000000000, 0xC800000000000000, 0xFA00000000000000, 0x9C40000000000000,
    0xC350000000000000, 0xF424000000000000, 0x9896800000000000, 0xBEBC200000000000,
    0xEE6B280000000000, 0x9502F90000000000, 0xBA43B74000000000, 0xE8D4A51000000000,
    0x9184E72A00000000, 0xB5E620F480000000, 0xE35FA931A0000000, 0x8E1BC9BF04000000,
    0xB1A2BC2EC5000000, 0xDE0B6B3A76400000, 0x8AC7230489E80000, 0xAD78EBC5AC620000,
    0xD8D726B7177A8000, 0x878678326EAC9000, 0xA968163F0A57B400, 0xD3C21BCECCEDA100,
    0x84595161401484A0, 0xA56FA5B99019A5C8, 0xCECB8F27F4200F3A, 0x813F3978F8940985,
    0xA18F07D736B90BE6, 0xC9F2C9CD04674EDF, 0xFC6F7C4045812297, 0x9DC5ADA82B70B59E,
    0xC5371912364CE306, 0xF684DF56C3E01BC7, 0x9A130B963A6C115D, 0xC097CE7BC90715B4,
    0xF0BDC21ABB48DB21, 0x96769950B50D88F5, 0xBC143FA4E250EB32, 0xEB194F8E1AE525FE,
    0x92EFD1B8D0CF37BF, 0xB7ABC627050305AE, 0xE596B7B0C643C71A, 0x8F7E32CE7BEA5C70,
    0xB35DBF821AE4F38C,
};

static const char digit_pairs[] = "00010203040506070809101112131415161718192021222324"
                                  "25262728293031323334353637383940414243444546474849"
                                  "50515253545556575859606162636465666768697071727374"
                                  "75767778798081828384858687888990919293949596979899";

typedef struct decimal { /* digits * 10^exponent */
    uint32_t digits;
    int32_t exponent;
} decimal;

/* floor(e * log2(10)), floor(e * log10(2)), floor(e * log10(2) + log10(3/4)); exact for every
 * exponent of a float32 (>> of a negative number is arithmetic with gcc and clang). */
static int32_t floor_log2_pow10(int32_t e)
{
    return (e * 1741647) >> 19;
}

static int32_t floor_log10_pow2(int32_t e)
{
    return (e * 1262611) >> 22;
}

static int32_t floor_log10_three_quarters_pow2(int32_t e)
{
    return (e * 1262611 - 524031) >> 22;
}

/* power * x / 2^64, with the lowest bit set when anything but a table's error was cut off. */
static uint32_t round_to_odd(uint64_t power, uint32_t x)
{
    unsigned __int128 product = (unsigned __int128)power * x;
    uint32_t whole = (uint32_t)(product >> 64);
    uint32_t rest = (uint32_t)(product >> 32);
    return whole | (rest > 1);
}

/* The shortest decimal of significand c (with its hidden bit) times 2^q. */
static decimal schubfach(uint32_t c, int32_t q, bool lower_is_closer)
{
    uint32_t odd = c & 1; /* the interval's ends belong to it only when c is even */
    uint32_t below = 4 * c - 2 + lower_is_closer, above = 4 * c + 2;
    int32_t k = lower_is_closer ? floor_log10_three_quarters_pow2(q) : floor_log10_pow2(q);
    int32_t shift = q + floor_log2_pow10(-k) + 1;
    uint64_t power = power_of_ten[-k - MIN_POWER];

    uint32_t lower = round_to_odd(power, below << shift) + odd;
    uint32_t value = round_to_odd(power, (4 * c) << shift);
    uint32_t upper = round_to_odd(power, above << shift) - odd;

    uint32_t s = value / 4;
    if (s >= 10) {
        uint32_t t = s / 10;
        bool down_fits = lower <= 40 * t, up_fits = 40 * t + 40 <= upper;
        if (down_fits != up_fits)
            return (decimal){t + up_fits, k + 1};
    }
    bool down_fits = lower <= 4 * s, up_fits = 4 * s + 4 <= upper;
    if (down_fits != up_fits)
        return (decimal){s + up_fits, k};
    uint32_t middle = 4 * s + 2; /* both fit: the closer one, ties to even */
    bool up = value > middle || (value == middle && (s & 1));
    return (decimal){s + up, k};
}

static decimal shortest(uint32_t bits)
{
    uint32_t fraction = bits & ((1u << FRACTION_BITS) - 1);
    int32_t exponent = (int32_t)(bits >> FRACTION_BITS & 0xFF);
    if (exponent == 0)
        return schubfach(fraction, 1 - BIAS, false);
    uint32_t c = fraction | 1u << FRACTION_BITS;
    int32_t q = exponent - BIAS;
    if (q <= 0 && q >= -FRACTION_BITS && (c & ((1u << -q) - 1)) == 0)
        return (decimal){c >> -q, 0}; /* a whole number below 2^24 */
    return schubfach(c, q, fraction == 0 && exponent > 1);
}

/* The digits of v, most significant first, to `out`; returns how many. */
static size_t write_digits(uint32_t v, char *out)
{
    char text[10];
    size_t at = sizeof text;
    while (v >= 100) {
        at -= 2;
        memcpy(text + at, digit_pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    if (v >= 10) {
        at -= 2;
        memcpy(text + at, digit_pairs + 2 * v, 2);
    } else {
        text[--at] = (char)('0' + v);
    }
    memcpy(out, text + at, sizeof text - at);
    return sizeof text - at;
}

/* The decimal point stands behind digit `point`: plain notation where that is as short as people
 * expect (0.0001 to 999999999), else d.ddde-7. */
static size_t place_point(char *out, size_t n, int32_t point)
{
    if (point > 0 && point <= 9) {
        size_t whole = (size_t)point;
        if (n <= whole) {
            memset(out + n, '0', whole - n);
            return whole;
        }
        memmove(out + whole + 1, out + whole, n - whole);
        out[whole] = '.';
        return n + 1;
    }
    if (point <= 0 && point > -4) {
        size_t zeros = (size_t)-point;
        memmove(out + 2 + zeros, out, n);
        memset(out, '0', 2 + zeros);
        out[1] = '.';
        return n + 2 + zeros;
    }
    if (n > 1) {
        memmove(out + 2, out + 1, n - 1);
        out[1] = '.';
        n++;
    }
    out[n++] = 'e';
    int32_t e = point - 1;
    if (e < 0) {
        out[n++] = '-';
        e = -e;
    }
    return n + write_digits((uint32_t)e, out + n);
}

size_t scd_float_text(float value, char *out)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    size_t sign = bits >> 31;
    out[0] = '-';
    out += sign;
    bits &= 0x7FFFFFFF;
    if (bits == 0) { /* "-0" reads as the integer 0 in Python, which has no sign */
        memcpy(out, sign ? "0.0" : "0", sign ? 3 : 1);
        return sign + (sign ? 3 : 1);
    }
    decimal d = shortest(bits);
    while (d.digits % 10 == 0) {
        d.digits /= 10;
        d.exponent++;
    }
    size_t n = write_digits(d.digits, out);
    return sign + place_point(out, n, (int32_t)n + d.exponent);
}

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void open_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* glibc: static, cannot fail */
}

size_t scd_double_text(double value, char out[SCD_DOUBLE_TEXT_BYTES])
{
    pthread_once(&c_locale_once, open_c_locale);
    if (value == 0)
        return (size_t)snprintf(out, SCD_DOUBLE_TEXT_BYTES, "%s",
                                __builtin_signbit(value) ? "-0.0" : "0");
    locale_t before = uselocale(c_locale);
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(out, SCD_DOUBLE_TEXT_BYTES, "%.*g", digits, value);
        if (strtod_l(out, NULL, c_locale) == value)
            break;
    }
    uselocale(before);
    return (size_t)n;
}

/* ---- reading ----------------------------------------------------------------------------------*/

static const double exact_powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                      1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                      1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

#if LDBL_MANT_DIG == 64
static const long double long_powers[] = {1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,
                                          1e7L,  1e8L,  1e9L,  1e10L, 1e11L, 1e12L, 1e13L,
                                          1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L, 1e20L,
                                          1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};
#endif

double scd_text_to_double(const char *text, size_t n)
{
    char copy[SCD_NUMBER_MAX_BYTES + 1]; /* strtod wants a NUL, which a body does not have */
    memcpy(copy, text, n);
    copy[n] = '\0';
    pthread_once(&c_locale_once, open_c_locale);
    return strtod_l(copy, NULL, c_locale);
}

double scd_decimal_to_double(uint64_t digits, int64_t exponent, const char *text, size_t n)
{
    if (digits <= UINT64_C(1) << 53 && exponent >= -22 && exponent <= 22)
        return exponent < 0 ? (double)digits / exact_powers[-exponent]
                            : (double)digits * exact_powers[exponent];
#if LDBL_MANT_DIG == 64
    if (exponent >= -27 && exponent <= 27) {
        long double x = exponent < 0 ? (long double)digits / long_powers[-exponent]
                                     : (long double)digits * long_powers[exponent];
        uint64_t significand;
        memcpy(&significand, &x, sizeof significand);
        if ((significand & 0x7FF) != 0x400) /* else a tie that the first rounding may have made */
            return (double)x;
    }
#endif
    return scd_text_to_double(text, n);
}
