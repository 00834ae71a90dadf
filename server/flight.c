/* flight.c - see flight.h. */
#include "server/flight.h"

#include "engine/base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

scd_code scd_flight_init(scd_flight *f, scd_error *err)
{
    *f = (scd_flight){0};
    f->units = scd_calloc(SCD_FLIGHT_BUCKETS, sizeof *f->units);
    f->tickets = scd_calloc(SCD_FLIGHT_BUCKETS, sizeof *f->tickets);
    if (f->units && f->tickets)
        return SCD_OK;
    scd_flight_release(f);
    return scd_fail(err, SCD_E_NOMEM, "out of memory for the table of work in flight");
}

void scd_flight_release(scd_flight *f)
{
    free(f->units);
    free(f->tickets);
    *f = (scd_flight){0};
}

/* ---- units ---------------------------------------------------------------------------------- */

scd_unit *scd_unit_new(const scd_digest *key, const scd_cell *cell, scd_work work)
{
    size_t n = cell->n_tokens;
    scd_unit *u = scd_malloc(1, sizeof *u + n * (sizeof(int32_t) + sizeof(float)));
    if (!u)
        return NULL;
    *u = (scd_unit){.key = *key, .work = work, .rows = n + 1, .cell = *cell};
    u->cell.ids = (int32_t *)(u + 1);
    u->cell.values = (float *)(u->cell.ids + n);
    memcpy(u->cell.ids, cell->ids, n * sizeof *cell->ids);
    memcpy(u->cell.values, cell->values, n * sizeof *cell->values);
    return u;
}

void scd_unit_free(scd_unit *u)
{
    if (u)
        scd_course_free(u->course);
    free(u);
}

/* A digest is uniform: its first bytes are its hash. */
static size_t unit_bucket(const scd_digest *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof h);
    return (size_t)(h % SCD_FLIGHT_BUCKETS);
}

scd_unit *scd_flight_find(const scd_flight *f, const scd_digest *key)
{
    scd_unit *u = f->units[unit_bucket(key)];
    while (u && memcmp(&u->key, key, sizeof *key))
        u = u->hash_next;
    return u;
}

void scd_flight_insert(scd_flight *f, scd_unit *u)
{
    scd_unit **bucket = &f->units[unit_bucket(&u->key)];
    u->hash_next = *bucket;
    *bucket = u;
}

void scd_flight_remove(scd_flight *f, scd_unit *u)
{
    if (u->owner)
        scd_flight_unqueue(f, u);
    scd_unit **at = &f->units[unit_bucket(&u->key)];
    while (*at != u)
        at = &(*at)->hash_next;
    *at = u->hash_next;
}

void scd_unit_wait(scd_unit *u, scd_waiter *w)
{
    w->unit = u;
    w->next = u->waiters;
    u->waiters = w;
}

void scd_unit_leave(scd_waiter *w)
{
    scd_waiter **at = &w->unit->waiters;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    w->unit = NULL;
}

scd_ticket *scd_unit_heir(const scd_unit *u)
{
    scd_ticket *heir = NULL;
    for (const scd_waiter *w = u->waiters; w; w = w->next) /* the newest first */
        if (!heir || w->ticket->rank <= heir->rank)
            heir = w->ticket;
    return heir;
}

/* ---- tickets -------------------------------------------------------------------------------- */

void scd_flight_add_ticket(scd_flight *f, scd_ticket *t)
{
    scd_ticket **bucket = &f->tickets[t->serial % SCD_FLIGHT_BUCKETS];
    t->hash_next = *bucket;
    *bucket = t;
    f->n_tickets++;
}

void scd_flight_remove_ticket(scd_flight *f, scd_ticket *t)
{
    assert(!t->first);
    scd_ticket **at = &f->tickets[t->serial % SCD_FLIGHT_BUCKETS];
    while (*at != t)
        at = &(*at)->hash_next;
    *at = t->hash_next;
    f->n_tickets--;
}

scd_ticket *scd_flight_find_ticket(const scd_flight *f, uint64_t serial)
{
    scd_ticket *t = f->tickets[serial % SCD_FLIGHT_BUCKETS];
    while (t && t->serial != serial)
        t = t->hash_next;
    return t;
}

/* ---- whose turn ----------------------------------------------------------------------------- */

/* A ticket that becomes ready goes to the end of its class's ring: just before whose turn it is. */
static void ring_add(scd_flight *f, scd_ticket *t)
{
    scd_ticket **ring = &f->ring[t->rank];
    if (*ring) {
        t->ready_next = *ring;
        t->ready_prev = (*ring)->ready_prev;
        t->ready_prev->ready_next = t->ready_next->ready_prev = t;
    } else {
        *ring = t->ready_next = t->ready_prev = t;
    }
    t->ready = true;
}

static void ring_remove(scd_flight *f, scd_ticket *t)
{
    scd_ticket **ring = &f->ring[t->rank];
    t->ready_prev->ready_next = t->ready_next;
    t->ready_next->ready_prev = t->ready_prev;
    if (*ring == t)
        *ring = t->ready_next == t ? NULL : t->ready_next;
    t->ready = false;
}

void scd_flight_queue(scd_flight *f, scd_ticket *t, scd_unit *u)
{
    u->state = SCD_UNIT_QUEUED;
    u->owner = t;
    u->next = NULL;
    u->prev = t->last;
    *(t->last ? &t->last->next : &t->first) = u;
    t->last = u;
    if (!t->ready)
        ring_add(f, t);
}

void scd_flight_queue_again(scd_flight *f, scd_ticket *t, scd_unit *u)
{
    u->state = SCD_UNIT_QUEUED;
    u->owner = t;
    u->prev = NULL;
    u->next = t->first;
    *(t->first ? &t->first->prev : &t->last) = u;
    t->first = u;
    if (!t->ready)
        ring_add(f, t);
}

void scd_flight_unqueue(scd_flight *f, scd_unit *u)
{
    scd_ticket *t = u->owner;
    *(u->prev ? &u->prev->next : &t->first) = u->next;
    *(u->next ? &u->next->prev : &t->last) = u->prev;
    u->owner = NULL;
    if (!t->first)
        ring_remove(f, t);
}

typedef struct pick {
    scd_unit **out;
    size_t n, max_units, rows, max_rows, patient_rows;
    size_t took[SCD_N_CLASSES]; /* rows */
    bool one_work;              /* chosen by the first unit */
    scd_work work;
} pick;

/* Within `limit` rows, which a first unit may exceed: no cell is too long for ever. */
static bool fits(const pick *p, const scd_unit *u, size_t limit)
{
    return p->n < p->max_units && (!p->n || (p->rows < limit && u->rows <= limit - p->rows)) &&
           (!p->one_work || scd_work_equal(u->work, p->work));
}

/* One unit from each ticket of the class in turn, while they fit. Ends after a whole round without
 * a fit. The first ticket whose unit did not fit has the first turn in the next batch, where it
 * does: nobody starves. */
static void pick_class(scd_flight *f, scd_class rank, pick *p, size_t limit)
{
    scd_ticket *first_stuck = NULL;
    const scd_ticket *round_start = NULL; /* of the present round without a fit */
    while (f->ring[rank] && f->ring[rank] != round_start) {
        scd_ticket *t = f->ring[rank];
        scd_unit *u = t->first;
        f->ring[rank] = t->ready_next;
        if (!fits(p, u, limit)) {
            if (!first_stuck)
                first_stuck = t;
            if (!round_start)
                round_start = t;
            continue;
        }
        scd_flight_unqueue(f, u);
        u->state = SCD_UNIT_RUNNING;
        p->one_work = true;
        p->work = u->work;
        p->out[p->n++] = u;
        p->rows += u->rows;
        p->took[rank] += u->rows;
        round_start = NULL;
    }
    if (first_stuck && first_stuck->ready)
        f->ring[rank] = first_stuck;
}

/* A share is kept by credit in rows. A quarter of all that two sides compute is left to the second:
 * it earns a third of what the first computes while it waits, and pays for its own whenever that is
 * computed, so that who had its share while nobody else was there has nothing to come. */
static size_t settled(size_t credit, size_t first, size_t own, bool waited, size_t most)
{
    credit += first / 3;
    credit = credit < most ? credit : most;
    return waited && credit > own ? credit - own : 0;
}

static void settle(scd_flight *f, const pick *p, const bool waited[SCD_N_CLASSES])
{
    size_t most = 2 * p->max_rows, patient = p->took[SCD_STEPS] + p->took[SCD_BULK];
    bool any = waited[SCD_STEPS] || waited[SCD_BULK];
    f->patient_credit = settled(f->patient_credit, p->took[SCD_INTERACTIVE], patient, any, most);
    f->bulk_credit =
        settled(f->bulk_credit, p->took[SCD_STEPS], p->took[SCD_BULK], waited[SCD_BULK], most);
}

/* Which of the patient classes goes first. */
static scd_class first_patient(const scd_flight *f)
{
    if (!f->ring[SCD_STEPS])
        return SCD_BULK;
    return f->ring[SCD_BULK] && f->bulk_credit >= f->ring[SCD_BULK]->first->rows ? SCD_BULK
                                                                                 : SCD_STEPS;
}

/* Has patient work, ticket t at its head, waited long enough behind interactive work? A batch has
 * one model and head: where the two differ in that, going first shuts the others out, and is worth
 * it for a whole batch. */
static bool is_due(const scd_flight *f, const scd_ticket *t, const pick *p)
{
    const scd_ticket *above = f->ring[SCD_INTERACTIVE];
    if (!t || !above)
        return false;
    size_t need = t->first->rows;
    if (!scd_work_equal(t->first->work, above->first->work) && need < p->patient_rows)
        need = p->patient_rows;
    return f->patient_credit >= need;
}

static void pick_patient(scd_flight *f, scd_class first, pick *p, size_t limit)
{
    pick_class(f, first, p, limit);
    pick_class(f, first == SCD_STEPS ? SCD_BULK : SCD_STEPS, p, limit);
}

size_t scd_flight_pick(scd_flight *f, const scd_pick_room *room, scd_unit **out,
                       size_t took[SCD_N_CLASSES])
{
    pick p = {.out = out,
              .max_units = room->max_units,
              .max_rows = room->max_rows,
              .patient_rows = room->patient_rows};
    bool waited[SCD_N_CLASSES];
    for (scd_class k = 0; k < SCD_N_CLASSES; k++)
        waited[k] = f->ring[k] != NULL;
    scd_class first = first_patient(f);
    if (is_due(f, f->ring[first], &p)) {
        size_t earned = f->patient_credit < p.max_rows ? f->patient_credit : p.max_rows;
        pick_patient(f, first, &p, earned > p.patient_rows ? earned : p.patient_rows);
    }
    pick_class(f, SCD_INTERACTIVE, &p, p.max_rows);
    pick_patient(f, first, &p, p.patient_rows);
    settle(f, &p, waited);
    memcpy(took, p.took, sizeof p.took);
    return p.n;
}
