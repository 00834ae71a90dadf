/* infer_beside.c - see infer_call.h: a second work of the same request's cells.
 *
 * It is a call of its own, for another head sees other genes of a cell; but the request is
 * admitted, given up and answered as one, so its orders stand behind the first call's in one array,
 * and what is said of it goes to the first. */
#include "server/infer_call.h"

#include <string.h>

scd_infer_call *scd_infer_add_beside(scd_infer_call *call, const scd_infer_task *task)
{
    scd_infer_call *b = scd_arena_zalloc(&call->arena, 1, sizeof *b);
    if (!b)
        return NULL;
    b->task = task;
    b->d = call->d;
    b->device = call->device;
    b->x = call->x;
    b->id = call->id;
    b->deadline_ns = call->deadline_ns;
    b->model = call->model;
    b->work.model = call->work.model;
    b->request = call->request; /* borrowed: `decoded` stays false */
    scd_arena_init(&b->input, call->input.max_bytes);
    scd_arena_init(&b->arena, call->arena.max_bytes);
    call->beside = b;
    return b;
}

void scd_infer_drop_beside(scd_infer_call *b)
{
    scd_infer_drop_input(b);
    scd_arena_release(&b->arena);
}

/* Warnings that the first call has not. */
static void take_warnings(scd_infer_call *call, const scd_infer_call *b)
{
    for (size_t i = 0; i < b->n_warnings; i++) {
        bool known = false;
        for (size_t k = 0; k < call->n_warnings && !known; k++)
            known = !strcmp(b->warnings[i].code, call->warnings[k].code) &&
                    !strcmp(b->warnings[i].detail, call->warnings[k].detail);
        if (!known)
            scd_infer_warn(call, b->warnings[i].code, "%s", b->warnings[i].detail);
    }
}

static bool join_orders(scd_infer_call *call, scd_infer_call *b)
{
    size_t n = call->n_orders;
    scd_order *all = scd_arena_alloc(&call->arena, n + b->n_orders + 1, sizeof *all);
    if (!all)
        return scd_infer_out_of_memory(call);
    memcpy(all, call->orders, n * sizeof *all);
    memcpy(all + n, b->orders, b->n_orders * sizeof *all);
    for (size_t i = 0; i < b->n_orders; i++)
        all[n + i].work = &b->work;
    call->orders = all;
    call->n_orders += b->n_orders;
    b->orders = all + n;
    return true;
}

bool scd_infer_prepare_beside(scd_infer_call *call)
{
    scd_infer_call *b = call->beside;
    bool ok = scd_infer_serialize(b) && scd_infer_look_up(b);
    scd_infer_drop_input(b);
    b->request.cells = NULL; /* they go with the first call's input */
    b->request.shared_genes = NULL;
    if (!ok) {
        call->problem = b->problem;
        return false;
    }
    call->cache_s += b->cache_s;
    take_warnings(call, b);
    return join_orders(call, b);
}
