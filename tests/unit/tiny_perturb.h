/* tiny_perturb.h - a perturbation head for a model made by tiny_model.h, or damaged as a test
 * wants.
 *
 * Four readout genes, three targets (the last one in no vocabulary), contexts "a" (activation) and
 * "k" (knock-down), four conditions. Weights follow from the tensor's place and the element's
 * index. One thread. */
#ifndef SCD_TESTS_TINY_PERTURB_H
#define SCD_TESTS_TINY_PERTURB_H

#include "engine/denoise/head.h"
#include "engine/model/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PERT_GENES = 4,
    PERT_TARGETS = 3,
    PERT_CONTEXTS = 2,
    PERT_CONDITIONS = 4,
    PERT_CELLS = 5,
    PERT_MLP = 6
};

#define PERT_START "\"task\":\"perturbation\",\"format\":1,"
#define PERT_GENES_JSON                                                                            \
    "\"genes\":[[3,7]],\"readout\":[\"GENE00003\",\"GENE00004\",\"GENE00005\",\"GENE00006\"],"     \
    "\"targets\":[\"GENE00010\",\"GENE00004\",\"STRANGER\"],"
#define PERT_CONTEXTS_JSON                                                                         \
    "\"contexts\":[{\"name\":\"a\",\"direction\":\"activation\",\"cells\":3,\"power\":0.5,"        \
    "\"gate\":0.5},{\"name\":\"k\",\"direction\":\"knockdown\",\"cells\":2,\"power\":0,\"gate\":"  \
    "0}],"
#define PERT_CONDITIONS_JSON                                                                       \
    "\"conditions\":[{\"context\":0,\"targets\":[0],\"cells\":9},"                                 \
    "{\"context\":0,\"targets\":[1],\"cells\":9},{\"context\":0,\"targets\":[0,2],\"cells\":9},"   \
    "{\"context\":1,\"targets\":[0],\"cells\":9}],"
#define PERT_SCORE                                                                                 \
    "{\"perturbations\":3,\"pearson_delta\":0.5,\"mse\":0.25,\"overlap_at_20\":0.5,"               \
    "\"direction_match\":0.75}"
#define PERT_SCORES                                                                                \
    "{\"no_change\":" PERT_SCORE ",\"mean\":" PERT_SCORE ",\"additive\":" PERT_SCORE               \
    ",\"ridge\":" PERT_SCORE ",\"nearest\":" PERT_SCORE ",\"effects\":" PERT_SCORE                 \
    ",\"model\":" PERT_SCORE "}"
#define PERT_EVALUATION_JSON "\"evaluation\":{\"contexts\":[" PERT_SCORES "," PERT_SCORES "]},"

static void pert_fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    (void)arg;
    bool spread = entry == SCD_HEAD_CONTROL_SD || entry == SCD_HEAD_CONTROL_MEAN;
    for (size_t i = 0; i < n; i++) {
        float x = sinf((float)(11 * entry + first + i + 1));
        out[i] = spread ? fabsf(x) : x;
    }
}

/* `json` NULL: a good head of the model with this digest. */
static scd_code pert_write_json(const char *dir, const char *json, const char *digest)
{
    char path[128], text[8000];
    snprintf(path, sizeof path, "%s/head.json", dir);
    snprintf(
        text, sizeof text,
        "{" PERT_START PERT_GENES_JSON PERT_CONTEXTS_JSON PERT_CONDITIONS_JSON PERT_EVALUATION_JSON
        "\"model_digest\":\"%s\",\"recipe\":{}}\n",
        digest);
    return scd_file_write(path, json ? json : text, strlen(json ? json : text), NULL);
}

/* more: a backbone tensor, or NULL. n_genes: PERT_GENES, or another number to be refused. */
static scd_code pert_write_tensors(const char *dir, const scd_model_config *config, size_t n_genes,
                                   const scd_tensor_entry *more)
{
    char path[128];
    const scd_perturb_info p = {.n_genes = n_genes,
                                .n_targets = PERT_TARGETS,
                                .n_contexts = PERT_CONTEXTS,
                                .n_conditions = PERT_CONDITIONS,
                                .n_cells = PERT_CELLS};
    const scd_head_info info = {.perturb = &p, .mlp_dim = PERT_MLP};
    scd_tensor_entry entries[SCD_HEAD_MAX_TENSORS + 1];
    size_t n = scd_head_own_tensors(&info, config, entries);
    if (more)
        entries[n++] = *more;
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    return scd_safetensors_write(path, entries, n, pert_fill, NULL, NULL);
}

#endif
