/* sampling.h - what /v1/denoise and /v1/generate share: names to tokens, fields to a plan, seeds.
 *
 * Threads: as infer_call.h. Owns: nothing; everything lives in the call's arena. */
#ifndef SCD_SERVER_SAMPLING_H
#define SCD_SERVER_SAMPLING_H

#include "api/denoise_fields.h"
#include "server/infer_call.h"

enum { SCD_DEFAULT_STEPS = 16 };

/* Tokens of names, which stand at `pointer` in the body; (names.n). NULL: call->problem says which
 * are no genes of the model, or the same gene twice. */
int32_t *scd_sampling_resolve(scd_infer_call *call, const scd_names *names, const char *pointer);

/* The parameters of a SAMPLE plan, what it hides left out. False: call->problem is set. Also says
 * by warning what pooling means for this model. */
bool scd_sampling_plan(scd_infer_call *call, const scd_sampling_fields *fields,
                       float default_temperature, scd_plan *out);

/* A cell's own seed: from the request's, the number of its sample and its content. */
bool scd_sampling_seed(scd_infer_call *call, uint64_t seed, uint64_t sample, const scd_cell *cell,
                       uint64_t *out);

/* The gene's symbol, or what there is of it, as a JSON string. */
void scd_sampling_put_gene(scd_buf *out, const scd_vocab *vocab, int32_t token);

/* ,"passes":...,"genes":[...],"values":[...],"probabilities":[...] of a course's result, behind
 * what was seen of the cell (with probability 1; NULL: left out). */
void scd_sampling_put_found(scd_buf *out, const scd_vocab *vocab, const scd_cell *seen,
                            const float *result, size_t n_hidden);

/* ,"parameters":{...}: what was asked for and what was not, for who wants the same again. */
void scd_sampling_put_parameters(scd_buf *out, const scd_plan *plan, uint64_t seed);

#endif
