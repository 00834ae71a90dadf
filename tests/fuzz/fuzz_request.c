/* fuzz_request.c - any bytes at all as the body of a request (libFuzzer).
 *
 * The first byte picks which of the two decoders, whether cells are required and whether values may
 * be left open. Beside crashes it looks for answers that contradict themselves: a refusal without
 * words, a problem document that is not JSON, cells whose parts do not fit together, numbers that
 * are not finite. */
#include "api/denoise_fields.h"
#include "api/genes_request.h"
#include "api/grn_fields.h"
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
        must(isfinite(cell->values[i]) || (request->values_optional && isnan(cell->values[i])));
        if (request->is_matrix)
            must(cell->columns[i] < request->n_shared_genes);
        else
            must(cell->genes[i].n <= limits.max_name_bytes);
    }
}

static void check_sampling(const scd_sampling_fields *f)
{
    must(f->steps <= SCD_MAX_STEPS && f->confidence >= 0 && f->confidence <= 1);
    must(f->temperature == 0 ||
         (f->temperature >= SCD_MIN_TEMPERATURE && f->temperature <= SCD_MAX_TEMPERATURE));
    must(!f->candidates.given || f->candidates.n > 0);
}

/* The fields of the tasks that have many: taken as they promise, or refused with words. */
static void check_tasks(const scd_request *request, scd_arena *arena)
{
    scd_denoise_fields d;
    scd_generate_fields g;
    scd_grn_fields r;
    scd_problem problem = {0};
    if (scd_denoise_fields_decode(request, arena, &d, &problem)) {
        check_problem(&problem);
    } else {
        check_sampling(&d.sampling);
        must((d.fraction > 0) + d.mask.given + d.impute.given == 1 && d.fraction < 1);
    }
    problem = (scd_problem){0};
    if (scd_generate_fields_decode(request, arena, &g, &problem)) {
        check_problem(&problem);
    } else {
        check_sampling(&g.sampling);
        must(g.n >= 1 && g.n_lengths <= SCD_MAX_LENGTHS && !g.sampling.clean);
        for (size_t i = 0; i < g.n_lengths; i++)
            must(g.lengths[i] >= 1);
    }
    problem = (scd_problem){0};
    if (scd_grn_fields_decode(request, arena, &r, &problem))
        check_problem(&problem);
    else
        must(r.regulators.n >= 1 && r.regulators.n <= SCD_MAX_REGULATORS && r.top_k >= 1);
}

static void check_request(const char *body, size_t n, bool cells_required, bool values_optional)
{
    scd_arena arena;
    scd_problem problem;
    scd_request request = {.cells_required = cells_required, .values_optional = values_optional};
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
        check_tasks(&request, &arena);
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
        check_request(body, n - 1, data[0] % 3 == 0, data[0] / 3 % 2);
    return 0;
}
