/* json_scan.h - a strict JSON reader that walks over the body once and builds no tree.
 *
 * RFC 8259 to the letter, and bounds on nesting and on the length of a number. Every read is
 * checked against the end of the body. Strings without escapes are returned as pointers into the
 * body.
 *
 * The first thing wrong is remembered with its place; from then on every function returns false, so
 * that a caller may look once at the end.
 *
 * Threads: one at a time. Owns: nothing; the body must outlive the texts. */
#ifndef SCD_API_JSON_SCAN_H
#define SCD_API_JSON_SCAN_H

#include "api/text.h"
#include "engine/base/arena.h"

#include <stdint.h>

enum { SCD_SCAN_MAX_DEPTH = 256 }; /* whatever the caller asks for: skipping recurses */

typedef enum scd_scan_type {
    SCD_SCAN_NOTHING, /* not the start of a value */
    SCD_SCAN_OBJECT,
    SCD_SCAN_ARRAY,
    SCD_SCAN_STRING,
    SCD_SCAN_NUMBER,
    SCD_SCAN_BOOL,
    SCD_SCAN_NULL
} scd_scan_type;

typedef struct scd_scan {
    const char *begin, *at, *end;
    size_t depth, max_depth;
    /* Of what was read since the caller cleared them: what other readers of JSON cannot take. */
    size_t longest_number; /* bytes */
    bool met_infinity;     /* a number past the range of a double */
    bool met_nul;          /* \u0000 in a string */
    bool nulls;            /* set by the caller: a null among numbers is NaN */
    const char *error;     /* what was expected; NULL: nothing is wrong so far */
    const char *error_at;
    bool no_memory;  /* it was the heap that gave out, ... */
    bool over_arena; /* ... or the bound of the arena: the body is well-formed as far as read */
} scd_scan;

void scd_scan_init(scd_scan *scan, const char *body, size_t n, size_t max_depth);

/* What the next value is; nothing is consumed but white space. */
scd_scan_type scd_scan_peek(scd_scan *scan);
const char *scd_scan_type_name(scd_scan_type type); /* "a string", "an object", ... */

/* Containers:  if (scd_scan_enter(s, '{')) for (size_t i = 0; scd_scan_member(s, i, ...); i++) ...
 * The loop ends behind the closing bracket or at an error; the body of the loop must consume the
 * value. Keys with escapes are decoded into the arena. */
bool scd_scan_enter(scd_scan *scan, char bracket);
bool scd_scan_member(scd_scan *scan, size_t i, scd_arena *arena, scd_text *key);
bool scd_scan_element(scd_scan *scan, size_t i);

/* Values; the caller has peeked at the type. */
bool scd_scan_string(scd_scan *scan, scd_arena *arena, scd_text *out);
bool scd_scan_number(scd_scan *scan, double *out); /* correctly rounded; may be infinite */
bool scd_scan_bool(scd_scan *scan, bool *out);
bool scd_scan_skip(scd_scan *scan, scd_text *raw); /* any value; raw (may be NULL): its bytes */
bool scd_scan_end(scd_scan *scan);                 /* only white space is left */

/* Scratch for arrays whose length is not known before their end. Holds at most max elements. */
typedef struct scd_scan_vec {
    void *data;
    size_t cap, max;
} scd_scan_vec;

/* Room for element i (of `size` bytes), below vec->max; false: no memory. */
bool scd_scan_vec_reserve(scd_scan_vec *vec, size_t i, size_t size);
void scd_scan_vec_release(scd_scan_vec *vec);

typedef struct scd_scan_array {
    size_t n;   /* elements of the array; those below vec->max are stored */
    size_t bad; /* the first that is not what was asked for; SIZE_MAX: none */
    scd_scan_type
        bad_type; /* what it is; the wanted type itself: too long a name, no finite number */
} scd_scan_array;

/* A whole array of numbers into vec (double), or of strings (scd_text). The array must be next.
 * Elements of another type are skipped and reported in *out (but see scan->nulls). */
bool scd_scan_numbers(scd_scan *scan, scd_scan_vec *vec, scd_scan_array *out);
bool scd_scan_names(scd_scan *scan, scd_arena *arena, size_t max_name_bytes, scd_scan_vec *vec,
                    scd_scan_array *out);

/* count * size bytes of the arena; NULL: the scan has stopped, with no_memory or over_arena. */
void *scd_scan_alloc(scd_scan *scan, scd_arena *arena, size_t count, size_t size);
bool scd_scan_no_memory(scd_scan *scan); /* stop because the heap gave out; false */

/* "line 3, column 14: expected ',' or ']', found 'x'"; columns count characters. */
void scd_scan_describe(const scd_scan *scan, char *out, size_t cap);

#endif
