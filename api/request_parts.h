/* request_parts.h - what the decoders of request bodies share: typed reads that say where they
 * failed.
 *
 * Two kinds of failure. Malformed JSON or no memory ends the decoding: the function returns false
 * and the scanner knows why. Wrong content (a type, a length) is a fault: it is noted with its JSON
 * pointer, the value is skipped, and reading goes on, so that one answer lists many faults.
 *
 * Threads: one at a time. Owns: the decoder owns its scratch, until scd_decoder_release. */
#ifndef SCD_API_REQUEST_PARTS_H
#define SCD_API_REQUEST_PARTS_H

#include "api/json_scan.h"
#include "api/request.h"

typedef struct scd_decoder {
    scd_scan scan;
    const scd_request_limits *limits;
    scd_arena *arena;
    scd_problem *problem;
    scd_scan_vec numbers, names, cells; /* scratch */
    bool values_optional;               /* scd_request.values_optional */
} scd_decoder;

/* Where a value stands: base "/index" "/member" "/element", the absent parts left out. Only turned
 * into text (RFC 6901) when something is wrong. */
typedef struct scd_place {
    const char *base;
    size_t index; /* SCD_NO_INDEX: none */
    const char *member;
    size_t element;
} scd_place;

#define SCD_NO_INDEX SIZE_MAX

typedef struct scd_fault {
    scd_problem_kind kind; /* NONE: no fault */
    char pointer[128];
    char detail[256];
} scd_fault;

void scd_decoder_init(scd_decoder *decoder, const char *body, size_t n,
                      const scd_request_limits *limits, scd_arena *arena, scd_problem *problem);
void scd_decoder_release(scd_decoder *decoder);

/* Fill *problem from what stopped the scanner, if anything did. */
scd_problem_kind scd_decoder_stopped(scd_decoder *decoder);

/* From the arena; NULL: the scanner has stopped. */
void *scd_decoder_alloc(scd_decoder *decoder, size_t count, size_t size);

/* *out = value where it is a whole number from 0 that a double holds exactly. */
bool scd_whole(double value, size_t *out);

/* Note a fault; an earlier one is kept. */
void scd_fault_set(scd_fault *fault, scd_problem_kind kind, const scd_place *place, const char *fmt,
                   ...) __attribute__((format(printf, 4, 5)));
/* The fault of a member `key` of the object at `place` that nobody knows. */
void scd_fault_unknown_member(scd_fault *fault, const scd_place *place, scd_text key,
                              const char *known);
/* A fault of the request as a whole: one more error of the problem. */
void scd_problem_add_fault(scd_problem *problem, const scd_fault *fault);

/* True when a value of this type is next; otherwise it is skipped and noted. *ok tells whether
 * reading can go on. */
bool scd_read_expect(scd_decoder *decoder, scd_scan_type wanted, const scd_place *place,
                     scd_fault *fault, bool *ok);

/* The outermost object: false when the body is another value, or malformed (the scanner knows). */
bool scd_read_start(scd_decoder *decoder);

/* Typed reads. After a fault *out is untouched, but for the arrays: empty. */
bool scd_read_text(scd_decoder *decoder, const scd_place *place, size_t max_bytes, scd_text *out,
                   scd_fault *fault);
bool scd_read_number(scd_decoder *decoder, const scd_place *place, double *out, scd_fault *fault);
bool scd_read_total(scd_decoder *decoder, const scd_place *place, double *out, scd_fault *fault);
bool scd_read_bool(scd_decoder *decoder, const scd_place *place, bool *out, scd_fault *fault);
bool scd_read_input_kind(scd_decoder *decoder, const scd_place *place, scd_input_kind *out,
                         scd_fault *fault);

/* The field of every task that place->member names: input, timeout_ms, on_error or force. */
bool scd_read_field(scd_decoder *decoder, const scd_place *place, scd_request *out,
                    scd_fault *fault);
/* A member of the object at `base` that nobody knows: one more field of out->task. n_bytes: of all
 * of them so far. */
bool scd_read_task_member(scd_decoder *decoder, const char *base, scd_text key, size_t *n_bytes,
                          scd_request *out, scd_fault *fault);
/* Where errors are not skipped, faults of single cells are problems of the request. */
void scd_judge_cells(const scd_request *request, scd_problem *problem);

/* Arrays into the arena; *n is their length also when there is a fault in one of the elements.
 * More than `max` elements: a TOO_LARGE fault. */
bool scd_read_numbers(scd_decoder *decoder, const scd_place *place, size_t max, const double **out,
                      size_t *n, scd_fault *fault);
/* The same, where null is NaN if values are optional. */
bool scd_read_values(scd_decoder *decoder, const scd_place *place, size_t max, const double **out,
                     size_t *n, scd_fault *fault);
bool scd_read_names(scd_decoder *decoder, const scd_place *place, size_t max, const scd_text **out,
                    size_t *n, scd_fault *fault);

#endif
