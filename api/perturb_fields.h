/* perturb_fields.h - the task's own fields of POST /v1/perturbations, out of scd_request.task.
 *
 * What they mean for a head - whether it exists, whether it knows a direction or a context - is
 * judged where the head is known.
 *
 * Threads: any. Owns: nothing; lists and texts live in the arena. */
#ifndef SCD_API_PERTURB_FIELDS_H
#define SCD_API_PERTURB_FIELDS_H

#include "api/request.h"
#include "engine/denoise/response.h"

enum { SCD_MAX_PERTURBATIONS = 256 }; /* of one request */

typedef struct scd_perturb_genes {
    size_t n;              /* 1 to SCD_MAX_TARGETS */
    const scd_text *names; /* (n) distinct */
} scd_perturb_genes;

typedef struct scd_perturb_fields {
    scd_text head;                  /* n == 0: none given */
    size_t n;                       /* 1 to SCD_MAX_PERTURBATIONS */
    const scd_perturb_genes *genes; /* (n) */
    size_t top_genes;               /* SIZE_MAX: none given */
    scd_direction direction;        /* SCD_N_DIRECTIONS: none given */
    scd_text context;               /* n == 0: none given */
    const char *unknown;            /* first member that nobody knows, in the arena; or NULL */
} scd_perturb_fields;

/* Otherwise *problem says which fields and what they may be. */
scd_problem_kind scd_perturb_fields_decode(const scd_request *request, size_t max_name_bytes,
                                           scd_arena *arena, scd_perturb_fields *out,
                                           scd_problem *problem);

#endif
