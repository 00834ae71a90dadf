/* handle_genes.c - POST /v1/genes: how names would resolve, without computing anything. */
#include "api/answer.h"
#include "api/genes_request.h"
#include "api/json_write.h"
#include "api/models.h"
#include "server/reply.h"
#include "server/router.h"

#include <math.h>

enum {
    LARGE_BODY_BYTES = 8 << 10, /* some 1,000 names: 1 ms; more is prep-0's */
    ARENA_TIMES_BODY = 24,
    ARENA_EXTRA_BYTES = 1 << 20,
    BYTES_PER_GENE = 4096, /* of the answer, at most; and as a rule: */
    USUAL_BYTES_PER_GENE = 128,
};

typedef struct tally {
    size_t rungs[SCD_N_RUNGS];
    double mapped, given; /* in count space */
} tally;

static void write_optional(scd_buf *out, const char *name, const char *value)
{
    scd_buf_printf(out, ",\"%s\":", name);
    if (value)
        scd_json_text(out, value);
    else
        scd_buf_puts(out, "null");
}

static void write_gene(const scd_genes_request *r, const scd_vocab *vocab, size_t i, tally *t,
                       scd_buf *out)
{
    scd_rung rung;
    scd_text name = r->genes[i];
    int32_t token = scd_vocab_resolve(vocab, name.data, name.n, &rung);
    t->rungs[rung]++;
    if (r->values) {
        double count = r->input == SCD_INPUT_COUNTS ? r->values[i] : expm1(r->values[i]);
        t->given += count;
        t->mapped += token >= 0 ? count : 0;
    }
    scd_buf_printf(out, "%s{\"index\":%zu,\"name\":", i ? "," : "", i);
    scd_json_string(out, name.data, name.n);
    scd_buf_printf(out, ",\"rung\":\"%s\",\"token\":", scd_rung_name(rung));
    if (token >= 0)
        scd_json_uint(out, (uint64_t)token);
    else
        scd_buf_puts(out, "null");
    write_optional(out, "symbol", token >= 0 ? scd_vocab_symbol(vocab, token) : NULL);
    write_optional(out, "ensembl_id", token >= 0 ? scd_vocab_ensembl(vocab, token) : NULL);
    scd_buf_putc(out, '}');
}

static void write_summary(const scd_genes_request *r, const tally *t, scd_buf *out)
{
    size_t unknown = t->rungs[SCD_RUNG_UNKNOWN], ambiguous = t->rungs[SCD_RUNG_AMBIGUOUS];
    scd_buf_printf(out,
                   "],\"summary\":{\"known\":%zu,\"unknown\":%zu,\"ambiguous\":%zu,\"rungs\":{",
                   r->n - unknown - ambiguous, unknown, ambiguous);
    bool first = true;
    for (int rung = 0; rung < SCD_N_RUNGS; rung++) {
        if (!t->rungs[rung])
            continue;
        scd_buf_printf(out, "%s\"%s\":%zu", first ? "" : ",", scd_rung_name((scd_rung)rung),
                       t->rungs[rung]);
        first = false;
    }
    scd_buf_putc(out, '}');
    if (r->values && t->given > 0) {
        scd_buf_puts(out, ",\"fraction_mapped\":");
        scd_json_double(out, t->mapped / t->given);
    }
    scd_buf_putc(out, '}');
}

static void answer(const scd_served_model *m, const scd_genes_request *r, scd_exchange *x)
{
    scd_buf out;
    scd_buf_init(&out, (r->n + 4) * BYTES_PER_GENE);
    scd_buf_puts(&out, "{\"object\":\"genes\",\"model\":");
    scd_answer_model(&out, m->name, m->digest_hex);
    scd_buf_puts(&out, ",\"data\":[");
    tally t = {0};
    for (size_t i = 0; i < r->n; i++)
        write_gene(r, m->vocab, i, &t, &out);
    write_summary(r, &t, &out);
    scd_warning untrained = {"untrained", "this model has random weights"};
    scd_buf_puts(&out, ",\"warnings\":");
    scd_answer_warnings(&out, &untrained, m->config->trained ? 0 : 1);
    scd_buf_putc(&out, '}');
    scd_reply_json(x, &out);
}

static void resolve(scd_exchange *x)
{
    const scd_daemon *d = scd_exchange_get_note(x)->task;
    size_t n, index;
    const char *body = scd_exchange_body(x, &n);
    scd_arena arena;
    scd_arena_init(&arena, ARENA_TIMES_BODY * n + ARENA_EXTRA_BYTES);
    scd_genes_request r;
    scd_problem problem = {0};
    const scd_served_model *m = NULL;
    if (!scd_genes_request_decode(body, n, &d->limits, &arena, &r, &problem))
        m = scd_models_choose(d->engine, r.model, &index, &problem);
    if (m && !scd_exchange_keep(x, arena.used_bytes + r.n * USUAL_BYTES_PER_GENE))
        scd_no_room(x, &problem);
    if (problem.kind)
        scd_reply_with(x, &problem);
    else
        answer(m, &r, x);
    scd_arena_release(&arena);
}

void scd_handle_genes(scd_daemon *d, scd_exchange *x)
{
    size_t n;
    scd_exchange_body(x, &n);
    scd_exchange_get_note(x)->task = d;
    if (n > LARGE_BODY_BYTES)
        scd_exchange_hand_over(x, resolve);
    else
        resolve(x);
}
