/* head.h - a trained task head: heads/NAME/head.json and head.safetensors (SPEC section 3).
 *
 * Of an annotation head:
 *
 *   head.json {"task": "annotation", "format": 1,
 *              "labels": [{"label": "B", "ontology_id": "CL:0000236"}, ...],   ontology_id optional
 *              "temperature": 1.31, "threshold": 0.45,
 *              "model_digest": "hex of the model it was trained on",
 *              "genes": [[2, 311], [313, 340], ...],
 *              "evaluation": {"held_out": {"cells": 417, "accuracy": 0.94, "balanced_accuracy":
 * 0.9, "macro_f1": 0.92, "ece": 0.03}, ...},    optional
 *              ... anything else (recipe) is for people}
 *   head.safetensors   mlp.0.weight (K, H), mlp.0.bias (K), mlp.2.weight (C, K), mlp.2.bias (C):
 *              logits = W2 relu(W0 e + b0) + b2 of the cell embedding e; genes.weight (V, C) and
 *              genes.bias (C) where the head has a linear half (gene_term.h), the logits being the
 *              mean of both halves'; and backbone tensors under the model's names where fine-tuning
 *              changed them.
 *
 * probability = softmax(logits / temperature); below `threshold` the answer is "unknown".
 *
 * "genes" are the tokens that the training files measured, as ascending ranges [first, past).
 * What a head makes of any other gene is chance, so cells come to it without them; the key may be
 * absent: all genes.
 *
 * Of a perturbation head (G genes, T targets, C contexts, N conditions; response.h says what they
 * are):
 *
 *   head.json {"task": "perturbation", "format": 1, "readout": [G symbols], "targets": [T symbols],
 *              "contexts": [{"name": "k562", "direction": "activation", "cells": 100,
 *                            "power": 0.5, "gate": 0.25}, ...],
 *              "conditions": [{"context": 0, "targets": [3, 7], "cells": 100}, ...],
 *              "evaluation": {"contexts": [{"model": SCORE, "no_change": SCORE, ...}, ...], ...},
 *              "model_digest": "..."}
 *              SCORE {"perturbations", "pearson_delta", "mse", "overlap_at_20", "direction_match"}
 *   head.safetensors   control.mean, control.sd (C, G); control.embeddings (cells of all contexts,
 *              H); deltas (N, G); effects.mean (C, G); effects.targets (C T, G); ridge.weight
 *              (N, G); pert.token (d); pert.direction (2, d): knock-down, activation; mlp.0.weight
 *              (K, H + d), mlp.0.bias (K), mlp.2.weight (G, K), mlp.2.bias (G); and backbone
 *              tensors as above.
 *
 * Threads: any after open. Owns: mapping and strings, until close. */
#ifndef SCD_DENOISE_HEAD_H
#define SCD_DENOISE_HEAD_H

#include "engine/base/hash.h"
#include "engine/denoise/response.h"
#include "engine/model/model.h"

typedef struct scd_head scd_head;

enum { SCD_HEAD_MAX_LABEL_BYTES = 256 }; /* of a label or an ontology id */

typedef struct scd_head_label {
    const char *label;
    const char *ontology_id; /* NULL: none given */
} scd_head_label;

/* How an annotation head did on cells that were held out; NaN: head.json does not say. */
typedef struct scd_head_scores {
    double cells, accuracy, balanced_accuracy, macro_f1, ece;
} scd_head_scores;

enum { SCD_SCORE_MODEL = SCD_N_BASELINES, SCD_N_SCORES };

typedef struct scd_perturb_context {
    const char *name;
    scd_direction direction;
    size_t n_cells, first_cell; /* stored controls: their place among those of all contexts */
    double power;               /* see scd_response */
    double gate;                /* how much of the network's residual is added; 0: none */
    scd_response_score scores[SCD_N_SCORES]; /* each baseline's, then the model's, on perturbations
                                                that were left out */
} scd_perturb_context;

/* What a perturbation head is about. */
typedef struct scd_perturb_info {
    size_t n_genes, n_targets, n_contexts, n_conditions, n_cells;
    const char *const *genes;                 /* (G) symbols */
    const char *const *targets;               /* (T) symbols of perturbed genes */
    const scd_perturb_context *contexts;      /* (C) */
    const scd_response_condition *conditions; /* (N) */
} scd_perturb_info;

typedef struct scd_head_info {
    const char *name;                /* the directory's last component */
    const char *task;                /* "annotation" or "perturbation" */
    const scd_perturb_info *perturb; /* NULL for annotation; else there are no labels */
    size_t n_labels, mlp_dim;
    const scd_head_label *labels; /* (n_labels) in the order of the logits */
    double temperature, threshold;
    scd_head_scores held_out; /* of an annotation head */
    const uint8_t *genes;     /* (vocab) 1: measured by the training files; NULL: all are taken */
    size_t n_genes;           /* how many are 1; 0 without */
    bool has_gene_term;       /* genes.weight and genes.bias are there: gene_term.h */
    bool has_backbone;        /* it carries backbone tensors: embeddings are not the model's own */
    scd_digest digest;        /* SHA-256 over head.json and head.safetensors, in this order */
    char digest_hex[SCD_DIGEST_HEX];
    char model_digest_hex[SCD_DIGEST_HEX];
} scd_head_info;

/* The tensors that belong to a head itself, in this order, with the shapes they must have: the
 * first four of any head, all of a perturbation head. Needs n_labels or perturb, and mlp_dim.
 * Returns how many. */
enum {
    SCD_HEAD_W0,
    SCD_HEAD_B0,
    SCD_HEAD_W2,
    SCD_HEAD_B2,
    SCD_HEAD_TOKEN,
    SCD_HEAD_DIRECTION,
    SCD_HEAD_CONTROL_MEAN,
    SCD_HEAD_CONTROL_SD,
    SCD_HEAD_CONTROL_EMBEDDINGS,
    SCD_HEAD_DELTAS,
    SCD_HEAD_EFFECTS_MEAN,
    SCD_HEAD_EFFECTS_TARGETS,
    SCD_HEAD_RIDGE,
    SCD_HEAD_MAX_TENSORS
};
size_t scd_head_own_tensors(const scd_head_info *info, const scd_model_config *config,
                            scd_tensor_entry out[SCD_HEAD_MAX_TENSORS]);

/* SCD_E_IO, SCD_E_CORRUPT or SCD_E_INVALID name the file, and tensor and shapes or the key. Shapes
 * of backbone tensors are checked against the model's config; unknown tensors are refused. */
scd_code scd_head_open(const char *dir, const scd_model_config *config, scd_head **out,
                       scd_error *err);
void scd_head_close(scd_head *head);
const scd_head_info *scd_head_get_info(const scd_head *head);
const scd_safetensors *scd_head_tensors(const scd_head *head);

/* The directories in MODEL_DIR/heads by name, those whose names begin with a dot left out; none
 * where there is no such folder. Give the list back with scd_heads_forget. */
scd_code scd_heads_find(const char *model_dir, char ***dirs, size_t *n, scd_error *err);
void scd_heads_forget(char **dirs, size_t n);

/* logits (n_labels) -> out (n_labels): softmax(logits / temperature), in float64. */
void scd_head_probabilities(const scd_head *head, const float *logits, double *out);

#endif
