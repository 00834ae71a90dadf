/* recorded.c - see recorded.h. */
#include "engine/model/recorded.h"

static const size_t cell_buckets[] = {1, 4, SCD_RECORDED_CELLS};
enum { N_CELL_BUCKETS = sizeof cell_buckets / sizeof cell_buckets[0] };

bool scd_recorded_bucket(const scd_backend *backend, size_t rows, size_t cells, size_t kind,
                         size_t max_rows, scd_bucket *out)
{
    size_t at = 0, step = rows / SCD_RECORDED_STEP; /* rows + 1, rounded up, is step + 1 of them */
    if (!backend->record || cells < 1 || cells > SCD_RECORDED_CELLS)
        return false;
    while (cell_buckets[at] < cells)
        at++;
    *out = (scd_bucket){.rows = (step + 1) * SCD_RECORDED_STEP, .cells = cell_buckets[at]};
    if (out->rows > SCD_RECORDED_ROWS || out->rows > max_rows)
        return false;
    out->slot = (step * N_CELL_BUCKETS + at) * SCD_RECORDED_KINDS + kind;
    return true;
}

/* Record the work; whether that went well or not, the device records no more. */
static scd_code make(const scd_backend *be, scd_device *device,
                     scd_code (*work)(void *arg, scd_error *err), void *arg, scd_graph **out,
                     scd_error *err)
{
    *out = NULL;
    scd_code code = be->record(device, err);
    if (code)
        return code;
    code = work(arg, err);
    scd_code end = be->record_end(device, out, code ? NULL : err);
    if (code) {
        be->graph_free(device, *out);
        *out = NULL;
    }
    return code ? code : end;
}

scd_code scd_recorded_run(scd_recorded *recorded, const scd_backend *be, scd_device *device,
                          const scd_bucket *bucket, scd_code (*work)(void *arg, scd_error *err),
                          void *arg, scd_error *err)
{
    scd_graph **graph = &recorded->graphs[bucket->slot];
    if (*graph) {
        scd_code code = be->replay(device, *graph, err);
        if (code != SCD_E_NOT_FOUND)
            return code;
        be->graph_free(device, *graph); /* memory has moved: begin again */
        *graph = NULL;
        recorded->seen[bucket->slot] = false;
    }
    if (recorded->seen[bucket->slot]) {
        scd_code code = make(be, device, work, arg, graph, err);
        return code ? code : be->replay(device, *graph, err);
    }
    scd_code code = work(arg, err);
    recorded->seen[bucket->slot] = !code;
    return code;
}

void scd_recorded_release(scd_recorded *recorded, const scd_backend *be, scd_device *device)
{
    for (size_t i = 0; i < SCD_RECORDED_SLOTS; i++)
        if (recorded->graphs[i])
            be->graph_free(device, recorded->graphs[i]);
    *recorded = (scd_recorded){0};
}
