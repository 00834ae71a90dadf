/* sampling.c - see sampling.h. */
#include "server/sampling.h"

#include "api/json_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void name_fault(scd_infer_call *call, const char *pointer, size_t i, scd_text name,
                       const char *what)
{
    char at[128];
    snprintf(at, sizeof at, "%s/%zu", pointer, i);
    scd_problem_add(&call->problem, at, "\"%.*s\" %s", (int)(name.n < 80 ? name.n : 80), name.data,
                    what);
}

static bool is_twice(const int32_t *tokens, size_t i, const uint32_t *seen)
{
    return seen[tokens[i] / 32] >> tokens[i] % 32 & 1;
}

int32_t *scd_sampling_resolve(scd_infer_call *call, const scd_names *names, const char *pointer)
{
    const scd_served_model *m = call->model;
    int32_t *tokens = scd_arena_alloc(&call->arena, names->n, sizeof *tokens);
    uint32_t *seen = scd_arena_zalloc(&call->input, scd_pick_words(m->config->vocab), sizeof *seen);
    if (!tokens || !seen) {
        scd_infer_out_of_memory(call);
        return NULL;
    }
    for (size_t i = 0; i < names->n; i++) {
        scd_rung rung;
        scd_text name = names->names[i];
        tokens[i] = scd_vocab_resolve(m->vocab, name.data, name.n, &rung);
        if (rung == SCD_RUNG_AMBIGUOUS)
            name_fault(call, pointer, i, name, "is an alias of several genes: name one of them");
        else if (tokens[i] < 0)
            name_fault(call, pointer, i, name,
                       "is no gene of the model (POST /v1/genes shows what names become)");
        else if (is_twice(tokens, i, seen))
            name_fault(call, pointer, i, name, "is given twice");
        else
            seen[tokens[i] / 32] |= 1u << tokens[i] % 32;
    }
    return call->problem.kind ? NULL : tokens;
}

static void warn_of_pooling(scd_infer_call *call, bool clean)
{
    if (clean)
        scd_infer_warn(call, "leaking",
                       "\"clean\" pooling lets what is hidden leak through the latent token: these "
                       "figures compare with the paper and say nothing about reconstruction");
    else if (!call->model->config->latent_visible)
        scd_infer_warn(call, "pooling",
                       "model \"%.80s\" was trained with clean pooling; [LAT] is pooled from what "
                       "is visible all the same, so that nothing hidden leaks",
                       call->model->name);
}

bool scd_sampling_plan(scd_infer_call *call, const scd_sampling_fields *fields,
                       float default_temperature, scd_plan *out)
{
    if (!scd_engine_denoises(call->d->engine)) {
        scd_problem_set(&call->problem, SCD_PROBLEM_UNAVAILABLE,
                        "this device (%s) does not denoise: serve with --device cpu",
                        scd_engine_device_kind(call->d->engine));
        return false;
    }
    *out = (scd_plan){.kind = SCD_PLAN_SAMPLE,
                      .pooling = fields->clean ? SCD_POOL_CLEAN : SCD_POOL_VISIBLE,
                      .steps = fields->steps ? fields->steps : SCD_DEFAULT_STEPS,
                      .temperature =
                          fields->has_temperature ? fields->temperature : default_temperature,
                      .confidence = fields->confidence,
                      .refresh = fields->refresh};
    if (fields->candidates.given) {
        out->candidates = scd_sampling_resolve(call, &fields->candidates, "/candidates");
        out->n_candidates = fields->candidates.n;
    }
    call->work.pooling = out->pooling;
    warn_of_pooling(call, fields->clean);
    return call->problem.kind == SCD_PROBLEM_NONE;
}

bool scd_sampling_seed(scd_infer_call *call, uint64_t seed, uint64_t sample, const scd_cell *cell,
                       uint64_t *out)
{
    uint64_t numbers[3] = {seed, sample, cell->n_tokens};
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher)
        return scd_infer_out_of_memory(call);
    scd_hasher_add_text(hasher, "scdiva-seed-1");
    scd_hasher_add(hasher, numbers, sizeof numbers);
    scd_hasher_add(hasher, cell->ids, cell->n_tokens * sizeof *cell->ids);
    scd_hasher_add(hasher, cell->values, cell->n_tokens * sizeof *cell->values);
    scd_digest digest = scd_hasher_finish(hasher);
    scd_hasher_free(hasher);
    memcpy(out, digest.bytes, sizeof *out);
    return true;
}

void scd_sampling_put_gene(scd_buf *out, const scd_vocab *vocab, int32_t token)
{
    const char *symbol = scd_vocab_symbol(vocab, token);
    if (!symbol)
        symbol = scd_vocab_ensembl(vocab, token);
    if (symbol)
        scd_json_text(out, symbol);
    else
        scd_buf_printf(out, "\"token_%d\"", (int)token);
}

/* One of the arrays: what was seen, then column `which` of what was found. */
static void put_column(scd_buf *out, const char *name, const float *seen, size_t n_seen,
                       const float *result, size_t n_hidden, size_t which)
{
    scd_buf_printf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < n_seen + n_hidden; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_float(out, i >= n_seen ? result[1 + SCD_SAMPLE_WIDTH * (i - n_seen) + which]
                            : seen      ? seen[i]
                                        : 1);
    }
    scd_buf_putc(out, ']');
}

void scd_sampling_put_found(scd_buf *out, const scd_vocab *vocab, const scd_cell *seen,
                            const float *result, size_t n_hidden)
{
    size_t n_seen = seen ? seen->n_tokens : 0;
    scd_buf_printf(out, ",\"passes\":%zu,\"genes\":[", n_hidden ? (size_t)result[0] : 0);
    for (size_t i = 0; i < n_seen + n_hidden; i++) {
        if (i)
            scd_buf_putc(out, ',');
        int32_t gene =
            i < n_seen ? seen->ids[i] : (int32_t)result[1 + SCD_SAMPLE_WIDTH * (i - n_seen)];
        scd_sampling_put_gene(out, vocab, gene);
    }
    scd_buf_putc(out, ']');
    put_column(out, "values", seen ? seen->values : NULL, n_seen, result, n_hidden, 1);
    put_column(out, "probabilities", NULL, n_seen, result, n_hidden, 2);
}

void scd_sampling_put_parameters(scd_buf *out, const scd_plan *plan, uint64_t seed)
{
    bool samples = plan->kind == SCD_PLAN_SAMPLE;
    scd_buf_printf(out, ",\"parameters\":{\"pooling\":\"%s\",\"steps\":%zu",
                   plan->pooling == SCD_POOL_CLEAN ? "clean" : "visible",
                   samples ? plan->steps : (size_t)1);
    if (samples) {
        scd_buf_printf(out, ",\"seed\":%llu,\"temperature\":", (unsigned long long)seed);
        scd_json_float(out, plan->temperature);
        scd_buf_puts(out, ",\"confidence\":");
        scd_json_float(out, plan->confidence > 0 ? plan->confidence : NAN);
        scd_buf_printf(out, ",\"refresh\":%s", plan->refresh ? "true" : "false");
    }
    scd_buf_putc(out, '}');
}
