/* head_impl.h - what head.c, head_genes.c, head_perturb.c and the fuzzer share; nothing else
 * includes it.
 *
 * Threads: as head.h. */
#ifndef SCD_DENOISE_HEAD_IMPL_H
#define SCD_DENOISE_HEAD_IMPL_H

#include "engine/denoise/head.h"

struct cJSON;

struct scd_head {
    scd_head_info info;
    char *name;
    struct cJSON *json; /* owns all text */
    scd_head_label *labels;
    uint8_t *genes; /* (vocab), or NULL */
    scd_perturb_info perturb;
    const char **names; /* readout genes, then targets */
    scd_perturb_context *contexts;
    scd_response_condition *conditions;
    scd_safetensors *tensors;
};

/* head_perturb.c: what head.json of a perturbation head holds. */
scd_code scd_head_read_perturb(scd_head *head, const char *path, scd_error *err);

/* A head from the n bytes of head.json, behind which a NUL stands: without name, tensors, digest
 * and what is known of them. */
scd_code scd_head_parse(const char *json, size_t n, const char *path, scd_head **out,
                        scd_error *err);

/* *out = the member `key` or NULL; SCD_E_INVALID where it is given twice. */
scd_code scd_head_find(const char *path, const struct cJSON *object, const char *key,
                       const struct cJSON **out, scd_error *err);

/* The member "genes" of head.json as one byte for each of `vocab` tokens, and how many are 1;
 * *out stays NULL where there is none. free() it. SCD_E_INVALID, SCD_E_NOMEM. */
scd_code scd_head_read_genes(const struct cJSON *json, const char *path, size_t vocab,
                             uint8_t **out, size_t *n_genes, scd_error *err);

#endif
