/* fuzz_oip.c - any bytes at all as a request of the Open Inference Protocol (libFuzzer).
 *
 * The first two bytes say how long the JSON is, little-endian; more than there is stands for a
 * request without that header. Beside crashes it looks for answers that contradict themselves: a
 * refusal without words, a problem document that is not JSON, cells whose parts do not fit together
 * or lie outside of the body. */
#include "api/oip_request.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const scd_request_limits limits = {
    .max_cells = 8, .max_genes_per_cell = 64, .max_depth = 12, .max_name_bytes = 24};

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void check_problem(scd_problem *problem)
{
    must(problem->detail[0] && problem->n_errors <= SCD_PROBLEM_MAX_ERRORS);
    scd_buf out;
    scd_buf_init(&out, 1 << 16);
    scd_problem_within(problem, "/parameters");
    scd_problem_write_oip(problem, "id", &out);
    cJSON *json = cJSON_ParseWithLength(out.data, out.n_bytes);
    must(json && !out.failed && cJSON_GetObjectItemCaseSensitive(json, "error"));
    cJSON_Delete(json);
    scd_buf_release(&out);
}

static volatile unsigned sink; /* every byte of a text is read */

static void touch(scd_text text)
{
    must(text.n <= limits.max_name_bytes);
    for (size_t i = 0; i < text.n; i++)
        sink += (unsigned char)text.data[i];
}

static void check_cells(const scd_request *request)
{
    must(request->n_cells > 0 && request->n_cells <= limits.max_cells);
    for (size_t c = 0; c < request->n_cells; c++) {
        const scd_cell_input *cell = &request->cells[c];
        must(cell->n <= limits.max_genes_per_cell && cell->total >= 0 && !isnan(cell->total));
        must(!cell->fault || (request->skip_errors && cell->fault_pointer && !cell->n));
        for (size_t i = 0; i < cell->n; i++) {
            sink += cell->values[i] > 0;
            if (request->is_matrix)
                must(cell->columns[i] < request->n_shared_genes);
            else
                touch(cell->genes[i]);
        }
    }
    for (size_t g = 0; g < request->n_shared_genes; g++)
        touch(request->shared_genes[g]);
    must(request->places.cells && request->places.values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    size_t n_json = data[0] | (size_t)data[1] << 8;
    const char *bytes = (const char *)data + 2;
    n -= 2;
    scd_oip_body body = {bytes, n, n_json <= n ? n_json : n, n_json <= n};
    scd_arena arena;
    scd_oip_request oip;
    scd_request request = {0};
    scd_problem problem = {0};
    scd_arena_init(&arena, 1 << 18);
    scd_problem_kind kind = scd_oip_decode(&body, &limits, &arena, &oip, &request, &problem);
    if (kind != SCD_PROBLEM_NONE) {
        must(request.task == NULL && kind == problem.kind);
        check_problem(&problem);
    } else {
        must(request.task && oip.n_outputs <= SCD_OIP_MAX_OUTPUTS);
        check_cells(&request);
    }
    scd_request_release(&request);
    scd_arena_release(&arena);
    return 0;
}
