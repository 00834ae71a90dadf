/* head_json.h - a trained head in the words of GET /v1/models.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_HEAD_JSON_H
#define SCD_API_HEAD_JSON_H

#include "engine/base/buf.h"
#include "engine/denoise/head.h"

/* {"name":...,"task":...,"digest":...,"backbone":...,"genes":...} with temperature, threshold and
 * labels of an annotation head, or readout_genes and contexts of a perturbation head. */
void scd_json_head(scd_buf *out, const scd_head_info *head);

#endif
