/* gene_head.h - the linear half of an annotation head (engine/denoise/gene_term.h) while it learns.
 *
 * Its loss is its own: softmax cross-entropy of g alone, so that neither half leans on the other.
 * The sums over tokens run on the host; AdamW on the device. Gradients are dense and not clipped:
 * each is a sum of unit vectors.
 *
 * Threads: the device's owner. Owns: parameters, gradient and moments, until free. */
#ifndef SCD_TRAIN_GENE_HEAD_H
#define SCD_TRAIN_GENE_HEAD_H

#include "engine/denoise/gene_term.h"
#include "engine/train/net.h"

typedef struct scd_gene_head scd_gene_head;

/* All zero: every label is as probable as another. */
scd_code scd_gene_head_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                           size_t vocab, size_t classes, scd_gene_head **out, scd_error *err);
void scd_gene_head_free(scd_gene_head *head);
scd_code scd_gene_head_load(scd_gene_head *head, const scd_safetensors *tensors, scd_error *err);

/* Its two tensors in the order of its parameters; entries' dtype is left at F32. */
enum { SCD_GENE_HEAD_TENSORS = 2 };
void scd_gene_head_entries(const scd_gene_head *head,
                           scd_tensor_entry entries[SCD_GENE_HEAD_TENSORS]);

/* The cells of the batch: logits (n_cells, classes) of the other half become the mean of both. */
void scd_gene_head_join(scd_gene_head *head, const scd_net_batch *batch, float *logits);
/* Adds the gradient of scale * sum of weight * cross-entropy; targets (n_cells, classes), weights
 * (n_cells). Returns the sum without scale. */
double scd_gene_head_loss(scd_gene_head *head, const scd_net_batch *batch, const float *targets,
                          const float *weights, float scale);
/* AdamW over what was added since the last update. The bias is not decayed. */
scd_code scd_gene_head_update(scd_gene_head *head, const scd_net_step *step, scd_error *err);

size_t scd_gene_head_n_params(const scd_gene_head *head);
scd_code scd_gene_head_export(scd_gene_head *head, float *params, float *m, float *v,
                              scd_error *err); /* each (n_params) or NULL */
scd_code scd_gene_head_import(scd_gene_head *head, const float *params, const float *m,
                              const float *v, scd_error *err); /* m, v may be NULL: left alone */

#endif
