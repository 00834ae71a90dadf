/* head_json.h - a trained head in the words of GET /v1/models.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_HEAD_JSON_H
#define SCD_API_HEAD_JSON_H

#include "engine/base/buf.h"
#include "engine/denoise/head.h"

/* {"name":...,"task":...,"digest":...,"backbone":...,"genes":...} with temperature, threshold and
 * labels of an annotation head, or readout_genes and contexts of a perturbation head, and how
 * either did on what was held out of its training ("evaluation"). */
void scd_json_head(scd_buf *out, const scd_head_info *head);

/* {"perturbations":8,"pearson_delta":...,"mse":...,"overlap_at_20":...,"direction_match":...} */
void scd_json_response_score(scd_buf *out, const scd_response_score *score);

#endif
