/* embed_fields.h - the task's own fields of POST /v1/embeddings, out of scd_request.task.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_EMBED_FIELDS_H
#define SCD_API_EMBED_FIELDS_H

#include "api/answer.h"
#include "api/request.h"

typedef struct scd_embed_fields {
    scd_encoding encoding;
    const char *unknown; /* first member that nobody knows, borrowed from the request; or NULL */
} scd_embed_fields;

/* Otherwise *problem says which field and what it may be. */
scd_problem_kind scd_embed_fields_decode(const scd_request *request, scd_embed_fields *out,
                                         scd_problem *problem);

#endif
