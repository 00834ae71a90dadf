/* annotate_fields.h - the task's own fields of POST /v1/annotations, out of scd_request.task.
 *
 * What they mean for a head - whether it exists, how many labels it has - is judged where the head
 * is known.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_ANNOTATE_FIELDS_H
#define SCD_API_ANNOTATE_FIELDS_H

#include "api/request.h"

typedef struct scd_annotate_fields {
    scd_text head; /* n == 0: none given; borrowed from the request */
    size_t top_k;  /* 0: none given */
    bool has_threshold;
    double threshold;    /* 0 to 1 */
    const char *unknown; /* first member that nobody knows, borrowed from the request; or NULL */
} scd_annotate_fields;

/* Otherwise *problem says which fields and what they may be. */
scd_problem_kind scd_annotate_fields_decode(const scd_request *request, scd_annotate_fields *out,
                                            scd_problem *problem);

#endif
