/* fuzz_request.c - any bytes at all as the body of a request (libFuzzer).
 *
 * The first byte picks which of the two decoders and whether cells are required. Beside crashes it
 * looks for answers that contradict themselves: a refusal without words, a problem document that is
 * not JSON, cells whose parts do not fit together, numbers that are not finite. */
#include "api/genes_request.h"
#include "api/request.h"

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

static void check_problem(const scd_problem *problem)
{
    must(problem->detail[0] && problem->n_errors <= SCD_PROBLEM_MAX_ERRORS);
    scd_buf out;
    scd_buf_init(&out, 1 << 16);
    scd_problem_write(problem, "id", &out);
    cJSON *json = cJSON_ParseWithLength(out.data, out.n_bytes);
    must(json != NULL && !out.failed);
    cJSON_Delete(json);
    scd_buf_release(&out);
}

static void check_cell(const scd_request *request, const scd_cell_input *cell)
{
    must(cell->n <= limits.max_genes_per_cell && cell->id.n <= limits.max_name_bytes);
    must(cell->fault ? request->skip_errors && cell->fault_pointer && cell->n == 0 : true);
    must(cell->total >= 0 && isfinite(cell->total));
    for (size_t i = 0; i < cell->n; i++) {
        must(isfinite(cell->values[i]));
        if (request->is_matrix)
            must(cell->columns[i] < request->n_shared_genes);
        else
            must(cell->genes[i].n <= limits.max_name_bytes);
    }
}

static void check_request(const char *body, size_t n, bool cells_required)
{
    scd_arena arena;
    scd_problem problem;
    scd_request request = {.cells_required = cells_required};
    scd_arena_init(&arena, 1 << 18);
    scd_problem_kind kind = scd_request_decode(body, n, &limits, &arena, &request, &problem);
    if (kind != SCD_PROBLEM_NONE) {
        must(request.task == NULL && kind == problem.kind);
        check_problem(&problem);
    } else {
        must(request.task && request.n_cells <= limits.max_cells);
        must(!cells_required || request.n_cells > 0);
        for (size_t i = 0; i < request.n_cells; i++)
            check_cell(&request, &request.cells[i]);
    }
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static void check_genes(const char *body, size_t n)
{
    scd_arena arena;
    scd_problem problem;
    scd_genes_request request;
    scd_arena_init(&arena, 1 << 18);
    if (scd_genes_request_decode(body, n, &limits, &arena, &request, &problem) != SCD_PROBLEM_NONE)
        check_problem(&problem);
    else
        must(request.n > 0 && request.n <= limits.max_genes_per_cell);
    scd_arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    const char *body = (const char *)data + 1;
    if (data[0] % 3 == 2)
        check_genes(body, n - 1);
    else
        check_request(body, n - 1, data[0] % 3 == 0);
    return 0;
}
