/* denoiser.h - courses on a device: one pass of the model for a batch of them.
 *
 * Plain cells ride along: their embeddings come out of the same pass. What a cell gets does not
 * depend on the company that it keeps.
 *
 * Threads: the device's owner. Owns: the packed gene and value heads and its buffers, until close;
 *          model and forward must outlive it. */
#ifndef SCD_DENOISE_DENOISER_H
#define SCD_DENOISE_DENOISER_H

#include "engine/denoise/course.h"

typedef struct scd_denoiser scd_denoiser;

/* One cell of a batch. */
typedef struct scd_step {
    const scd_cell *cell; /* where there is no course: its embedding is wanted */
    scd_course *course;   /* not done: is taken one pass further; or NULL */
    float *out;           /* (HIDDEN_DIM) host; of a cell without course */
} scd_step;

/* For batches of max_rows rows. SCD_E_DEVICE: the device has no gene_pick. */
scd_code scd_denoiser_open(const scd_backend *backend, scd_device *device, const scd_model *model,
                           scd_forward *forward, size_t max_rows, scd_denoiser **out,
                           scd_error *err);
void scd_denoiser_close(scd_denoiser *denoiser); /* NULL is fine */

/* Every course has this pooling. After an error each course stands before or behind this pass, so
 * that another denoiser can take it further; plain cells have no result. */
scd_code scd_denoiser_run(scd_denoiser *denoiser, const scd_step *steps, size_t n,
                          scd_pooling pooling, scd_error *err);

#endif
