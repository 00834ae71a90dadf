/* infer_answer.c - see infer_call.h: from results to the bytes of the answer. */
#include "api/npy.h"
#include "server/infer_call.h"
#include "server/reply.h"

#include <math.h>
#include <stdio.h>

/* An answer's bound: beside the result, 8 KiB an item are its id and, where it is bad, what is said
 * about it, with every byte escaped as six. A row of a .npy file has four bytes a number. */
static size_t max_answer_bytes(const scd_infer_call *call)
{
    size_t about, most;
    call->task->size_result(call, &about, &most);
    size_t per_item = (8 << 10) + most + call->width * sizeof(float);
    return (64 << 10) + call->n_items * per_item + call->request.external_ids.n +
           call->request.sample_id.n;
}

size_t scd_infer_answer_bytes(const scd_infer_call *call)
{
    enum { AROUND = 256 };
    size_t about, most;
    call->task->size_result(call, &about, &most);
    if (call->as_npy)
        about = call->width * sizeof(float);
    return call->n_items * (AROUND + about);
}

/* Orders stand in the order of their cells. */
static void take_sources(scd_infer_call *call)
{
    size_t i = 0;
    for (size_t c = 0; c < call->request.n_cells && i < call->n_orders; c++)
        if (call->orders[i].cell == &call->cells[c].cell)
            call->cells[c].source = call->orders[i++].source;
}

static void count_sources(scd_infer_call *call)
{
    size_t counts[3] = {0};
    take_sources(call);
    for (size_t c = 0; c < call->request.n_cells; c++)
        if (!call->cells[c].bad && !call->cells[c].idle)
            counts[call->cells[c].source]++;
    scd_metrics_add(call->d->metrics, SCD_COUNTER_CACHE_MISSES, counts[SCD_SOURCE_MISS]);
    scd_metrics_add(call->d->metrics, SCD_COUNTER_CACHE_HITS, counts[SCD_SOURCE_HIT]);
    scd_metrics_add(call->d->metrics, SCD_COUNTER_CACHE_COALESCED, counts[SCD_SOURCE_COALESCED]);
}

static void write_more(scd_buf *out, void *arg)
{
    const scd_infer_call *call = arg;
    call->task->write_end(call, out);
}

static const char *const source_names[] = {
    [SCD_SOURCE_MISS] = "miss", [SCD_SOURCE_HIT] = "hit", [SCD_SOURCE_COALESCED] = "coalesced"};

/* An annotation says itself what its head leaves out. */
static bool leaves_out(const scd_infer_call *call)
{
    return scd_vocab_used(call->model->vocab) && (!call->head || call->head->perturb);
}

static void write_cell(scd_infer_call *call, size_t c, scd_answer *answer)
{
    const scd_infer_cell *cell = &call->cells[c];
    if (cell->bad) {
        scd_answer_error error = {c, cell->id, cell->kind, cell->detail, cell->pointer};
        scd_answer_error_write(answer, &error);
        return;
    }
    scd_answer_item item = {.index = c,
                            .id = cell->id,
                            .tokens = cell->cell.n_tokens,
                            .genes_known = cell->cell.genes_known,
                            .genes_unknown = cell->cell.genes_unknown,
                            .genes_truncated = cell->cell.genes_truncated,
                            .leaves_out = leaves_out(call),
                            .genes_unused = cell->cell.genes_unwanted,
                            .cache = source_names[cell->source]};
    scd_answer_item_begin(answer, &item);
    call->task->write_result(call, cell, answer);
    scd_answer_item_end(answer);
}

scd_answer_item scd_infer_sum(const scd_infer_call *call)
{
    scd_answer_item sum = {.leaves_out = leaves_out(call)};
    scd_source source = SCD_SOURCE_HIT;
    for (size_t c = 0; c < call->request.n_cells; c++) {
        const scd_infer_cell *cell = &call->cells[c];
        if (cell->bad)
            continue;
        sum.tokens += cell->cell.n_tokens;
        sum.genes_known += cell->cell.genes_known;
        sum.genes_unknown += cell->cell.genes_unknown;
        sum.genes_truncated += cell->cell.genes_truncated;
        sum.genes_unused += cell->cell.genes_unwanted;
        if (!cell->idle && source != SCD_SOURCE_MISS && cell->source != SCD_SOURCE_HIT)
            source = cell->source;
    }
    sum.cache = source_names[source];
    return sum;
}

/* False: call->problem is set. */
static bool write_list(scd_infer_call *call, scd_buf *out)
{
    const scd_request *r = &call->request;
    scd_answer answer;
    scd_answer_end_args end = {.sample_id = r->sample_id, .external_ids = r->external_ids};
    scd_answer_head head;
    scd_answer_begin_args begin = {call->model->name, call->model->digest_hex, NULL};
    if (call->head) {
        head = (scd_answer_head){call->head->name, call->head->digest_hex,
                                 call->head->perturb ? NAN : call->fields.annotate.threshold};
        begin.head = &head;
    }
    scd_answer_begin(&answer, out, &begin);
    if (call->task->write_items && !call->task->write_items(call, &answer))
        return false;
    for (size_t c = 0; c < r->n_cells; c++) {
        if (!call->task->write_items)
            write_cell(call, c, &answer);
        if (call->cells[c].bad)
            continue;
        end.cells++;
        end.tokens += call->cells[c].cell.n_tokens;
        end.cached += call->cells[c].source == SCD_SOURCE_HIT;
    }
    end.warnings = call->warnings;
    end.n_warnings = call->n_warnings;
    if (call->task->write_end) {
        end.write_more = write_more;
        end.more_arg = call;
    }
    scd_answer_end(&answer, &end);
    return true;
}

/* Rows in the order of the request; a bad cell's row is NaN. */
static void write_npy(scd_infer_call *call, scd_buf *out)
{
    size_t n = call->request.n_cells;
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; call->cells[c].bad && i < call->width; i++)
            call->cells[c].result[i] = NAN;
    scd_npy_header(out, n, call->width);
    scd_buf_append(out, call->results, n * call->width * sizeof(float));
}

void scd_infer_set_json_length(scd_exchange *x, const scd_memo_info *info)
{
    char text[24];
    if (!info->n_json)
        return;
    snprintf(text, sizeof text, "%zu", info->n_json);
    scd_exchange_set_header(x, SCD_OIP_HEADER, text);
}

static void set_timing(scd_infer_call *call)
{
    char text[160];
    snprintf(text, sizeof text, "queue;dur=%.3f, infer;dur=%.3f, cache;dur=%.3f",
             call->outcome.queue_s * 1e3, call->outcome.infer_s * 1e3, call->cache_s * 1e3);
    scd_exchange_set_header(call->x, "Server-Timing", text);
}

static void problem_of_outcome(scd_infer_call *call)
{
    scd_error err = {.code = call->outcome.code};
    snprintf(err.message, sizeof err.message, "%s", call->outcome.message);
    scd_problem_from_error(&call->problem, &err);
    call->problem.retry_after_s = call->outcome.retry_after_s;
}

static bool write_answer(scd_infer_call *call, scd_buf *body, scd_memo_info *info)
{
    info->content_type = call->as_npy ? "application/x-npy" : "application/json";
    if (call->task->write_answer)
        return call->task->write_answer(call, body, info);
    if (!call->as_npy)
        return write_list(call, body);
    write_npy(call, body);
    return true;
}

/* Every result was in the cache; how many. */
static bool all_hits(const scd_infer_call *call, size_t *n)
{
    const scd_infer_call *b = call->beside;
    *n = call->n_hits + (b ? b->n_hits : 0);
    return call->n_hits == call->request.n_cells && (!b || b->n_hits == b->request.n_cells);
}

void scd_infer_answer(scd_infer_call *call)
{
    if (call->outcome.code)
        problem_of_outcome(call);
    set_timing(call);
    if (call->problem.kind) {
        scd_reply_with(call->x, &call->problem);
        return;
    }
    count_sources(call);
    if (call->beside)
        count_sources(call->beside);
    scd_buf body;
    scd_memo_info info = {.timeout_ms = call->request.timeout_ms};
    scd_buf_init(&body, max_answer_bytes(call));
    if (!write_answer(call, &body, &info)) {
        scd_buf_release(&body);
        scd_reply_with(call->x, &call->problem);
        return;
    }
    if (call->want_memo && !body.failed && all_hits(call, &info.cells))
        scd_memo_put(call->d->memo, &call->memo_key, &info, body.data, body.n_bytes);
    scd_infer_set_json_length(call->x, &info);
    scd_exchange_answer(call->x, 200, info.content_type, &body);
}
