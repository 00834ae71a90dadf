/* answer_perturb.h - one perturbation's part of the answer: what follows item_begin (answer.h).
 *
 *     ,"perturbation":["KLF1"],"direction":"activation","context":{...},"controls":{...},
 *      "in_training":{...},"genes_not_in_vocabulary":[],"delta":{"genes":[...],"values":[...]},
 *      "expression":{...},"spread":{...},
 *      "top_up":[{"gene","delta"}],"top_down":[...],"gate":0.5,"evaluation":{...},
 *      "baselines":{"mean":{"genes":[...],"values":[...],"evaluation":{...}},...}
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_ANSWER_PERTURB_H
#define SCD_API_ANSWER_PERTURB_H

#include "api/answer.h"
#include "api/perturb_fields.h"
#include "engine/denoise/predictor.h"

typedef struct scd_answer_perturbation {
    const scd_perturb_info *info;
    const scd_perturb_genes *asked;
    const bool *known; /* (asked->n) in the vocabulary */
    const bool *seen;  /* (asked->n) perturbed in the context's training data */
    uint32_t context;
    double correlation; /* of the controls with the context's; NAN: stored controls */
    size_t n_controls;
    double anchor; /* predictor.h */
    const scd_perturb_answer *predicted;
    const float *control, *sd; /* (G) of the controls */
    size_t top_genes;
    uint32_t *order;   /* (2 G) scratch */
    float *expression; /* (G) scratch */
} scd_answer_perturbation;

void scd_answer_perturbation_write(scd_answer *answer, const scd_answer_perturbation *args);

/* Bytes of it, at most, for n_genes in the answer. */
size_t scd_answer_perturbation_most(const scd_perturb_info *info);

#endif
