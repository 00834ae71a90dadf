/* oip_call.h - what the routes of the Open Inference Protocol share: which model a path names, and
 * the outputs that a model has.
 *
 * Threads: http-N and prep-0. Owns: nothing. */
#ifndef SCD_OIP_CALL_H
#define SCD_OIP_CALL_H

#include "api/oip_model.h"
#include "server/daemon.h"

/* A model is named by its digest; of versions in the protocol's sense there is one. */
#define SCD_OIP_VERSION "1"

typedef enum scd_oip_output_id {
    SCD_OUT_EMBEDDING,
    SCD_OUT_LABEL, /* this and those up to top_probabilities are of an annotation head */
    SCD_OUT_ONTOLOGY_ID,
    SCD_OUT_PROBABILITY,
    SCD_OUT_UNKNOWN,
    SCD_OUT_TOP_LABELS,
    SCD_OUT_TOP_PROBABILITIES,
    SCD_OUT_TOKENS, /* this and what follows: what is known of a cell without computing anything */
    SCD_OUT_GENES_KNOWN,
    SCD_OUT_GENES_UNKNOWN,
    SCD_OUT_GENES_TRUNCATED,
    SCD_OUT_GENES_UNUSED,
    SCD_OUT_ERROR,
    SCD_N_OUTPUTS
} scd_oip_output_id;

static inline bool scd_oip_is_annotation(scd_oip_output_id id)
{
    return id >= SCD_OUT_LABEL && id <= SCD_OUT_TOP_PROBABILITIES;
}

/* Of any model; the width of an embedding is its hidden size. */
extern const scd_oip_output_kind scd_oip_outputs[SCD_N_OUTPUTS];

/* Has it an annotation head? Else it has not those outputs. */
bool scd_oip_annotates(const scd_served_model *model);

/* The model of a path /v2/models/NAME[/versions/VERSION][/...], by its name as well. NULL: there is
 * no such model or version, and the exchange is answered. */
const scd_served_model *scd_oip_find_model(scd_daemon *d, scd_exchange *x, scd_text *name);

#endif
