/* classifier.h - an annotation head on a device: cells in, probabilities of its labels out.
 *
 * The forward pass is the model's own, or one over the head's backbone tensors where fine-tuning
 * changed some; then the head's two products on the [LAT] states; its linear half, where it has one
 * (gene_term.h), and softmax on the host in float64. The bits of a cell's row depend on the cell
 * alone.
 *
 * Threads: the device's owner. Owns: its packed weights, two blocks of activations and the pass
 *          over backbone tensors, until close; head and base must outlive it. */
#ifndef SCD_DENOISE_CLASSIFIER_H
#define SCD_DENOISE_CLASSIFIER_H

#include "engine/denoise/head.h"
#include "engine/model/forward.h"

typedef struct scd_classifier scd_classifier;

/* base: the model's own pass, opened for batches of max_rows rows. */
scd_code scd_classifier_open(const scd_backend *backend, scd_device *device, const scd_head *head,
                             const scd_model_config *config, scd_forward *base, size_t max_rows,
                             scd_classifier **out, scd_error *err);
void scd_classifier_close(scd_classifier *classifier);

/* The same one behind the other, as scd_forward_begin, _end and _fetch; where the base overlaps.
 * The cells are those of begin. */
scd_code scd_classifier_begin(scd_classifier *classifier, int slot, const scd_cell *const *cells,
                              size_t n_cells, scd_error *err);
scd_code scd_classifier_fetch(scd_classifier *classifier, int slot, const scd_cell *const *cells,
                              size_t n_cells, float *out, scd_error *err);

/* out: (n_cells, n_labels) host floats. Cells as for scd_forward_embed. */
scd_code scd_classifier_run(scd_classifier *classifier, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err);

#endif
