/* perturb_study.c - see perturb_study.h. Two passes: names decide which cells count where, then the
 * cells are read once. */
#include "engine/train/perturb_study.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BLOCK_CELLS = 1024 };

/* What is known while reading. */
typedef struct reading {
    scd_corpus *corpus;
    const scd_study_options *o;
    scd_perturb_study *out;
    size_t n_cells;
    int32_t *condition_at; /* (n_cells) row in the table of conditions; -1: none, or control */
    int32_t *gene_of;      /* (vocab) the study's gene of a token */
    size_t n_raw;          /* conditions seen, before those with few cells go */
    int32_t *raw_context, *raw_code; /* (n_raw) */
    size_t *number_of;      /* (contexts x values of the condition column) 1 + raw number */
    size_t *raw_cells;      /* (n_raw) */
    double *sums, *squares; /* (C + n_raw, G): controls first */
} reading;

bool scd_direction_parse(const char *text, scd_direction *out)
{
    static const struct {
        const char *text;
        scd_direction direction;
    } words[] = {{"activation", SCD_ACTIVATION},
                 {"CRISPRa", SCD_ACTIVATION},
                 {"overexpression", SCD_ACTIVATION},
                 {"OE", SCD_ACTIVATION},
                 {"knockdown", SCD_KNOCKDOWN},
                 {"CRISPRi", SCD_KNOCKDOWN},
                 {"knockout", SCD_KNOCKDOWN},
                 {"CRISPR", SCD_KNOCKDOWN},
                 {"CRISPR-Cas9", SCD_KNOCKDOWN},
                 {"KO", SCD_KNOCKDOWN},
                 {"KD", SCD_KNOCKDOWN}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strcasecmp(text, words[i].text)) {
            *out = words[i].direction;
            return true;
        }
    return false;
}

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for a study");
}

/* ---- contexts -------------------------------------------------------------------------------- */

static int32_t context_of(const reading *r, size_t cell)
{
    return r->o->context_column ? r->out->context_of.codes[cell] : 0;
}

static const char *condition_text(const reading *r, size_t cell)
{
    int32_t code = r->out->condition_of.codes[cell];
    return code < 0 ? NULL : r->out->condition_of.values[code];
}

/* The direction of one perturbed cell becomes, or agrees with, its context's. */
static scd_code note_direction(const reading *r, size_t cell, scd_study_context *context,
                               scd_error *err)
{
    const char *text = r->o->direction;
    if (r->o->direction_column) {
        int32_t code = r->out->direction_of.codes[cell];
        text = code < 0 ? "" : r->out->direction_of.values[code];
    }
    scd_direction direction;
    if (!scd_direction_parse(text, &direction))
        return scd_fail(
            err, SCD_E_INVALID,
            "direction '%.80s' of a cell of condition '%.80s' is not known: activation, "
            "CRISPRa, overexpression, knockdown, CRISPRi or knockout",
            text, condition_text(r, cell));
    if (context->has_direction && context->direction != direction)
        return scd_fail(err, SCD_E_INVALID,
                        "context '%.80s' has cells of both directions: --context-column must tell "
                        "them apart",
                        context->name);
    context->has_direction = true;
    context->direction = direction;
    return SCD_OK;
}

/* Which cells are controls, and what each context is. */
static scd_code find_contexts(reading *r, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t n = r->o->context_column ? out->context_of.n_values : 1;
    out->contexts = scd_calloc(n + 1, sizeof *out->contexts);
    out->context_of_cell = scd_malloc(r->n_cells + 1, sizeof *out->context_of_cell);
    if (!out->contexts || !out->context_of_cell)
        return no_memory(err);
    out->s.n_contexts = n;
    for (size_t c = 0; c < n; c++)
        out->contexts[c].name = r->o->context_column ? out->context_of.values[c] : "all";
    for (size_t i = 0; i < r->n_cells; i++) {
        const char *text = condition_text(r, i);
        int32_t c = context_of(r, i);
        out->context_of_cell[i] = -1;
        if (!text || c < 0)
            continue;
        if (!strcmp(text, r->o->control)) {
            out->context_of_cell[i] = c;
            out->contexts[c].n_controls++;
            continue;
        }
        scd_code code = note_direction(r, i, &out->contexts[c], err);
        if (code)
            return code;
    }
    for (size_t c = 0; c < n; c++)
        if (out->contexts[c].has_direction && !out->contexts[c].n_controls)
            return scd_fail(err, SCD_E_INVALID,
                            "context '%.80s' has perturbed cells and none of condition '%.80s': "
                            "--control names the controls, --exclude leaves cells out",
                            out->contexts[c].name, r->o->control);
    return SCD_OK;
}

/* Contexts without any condition of enough cells leave; the others move up. */
static void drop_contexts(reading *r)
{
    scd_perturb_study *out = r->out;
    size_t n = 0;
    for (size_t c = 0; c < out->s.n_contexts; c++) {
        bool stays = false;
        for (size_t k = 0; k < r->n_raw; k++)
            stays =
                stays || (r->raw_context[k] == (int32_t)c && r->raw_cells[k] >= r->o->min_cells);
        for (size_t i = 0; i < r->n_cells; i++)
            if (out->context_of_cell[i] == (int32_t)c)
                out->context_of_cell[i] = stays ? (int32_t)n : -1;
        for (size_t k = 0; k < r->n_raw; k++)
            if (r->raw_context[k] == (int32_t)c)
                r->raw_context[k] = (int32_t)n;
        if (stays)
            out->contexts[n++] = out->contexts[c];
    }
    out->s.n_contexts = n;
}

/* Stored controls of a context: spread evenly over its controls. */
static scd_code choose_stored(reading *r, scd_error *err)
{
    scd_perturb_study *out = r->out;
    out->stored = scd_calloc(r->n_cells + 1, sizeof *out->stored);
    if (!out->stored)
        return no_memory(err);
    for (size_t c = 0; c < out->s.n_contexts; c++) {
        scd_study_context *context = &out->contexts[c];
        size_t all = context->n_controls, some = r->o->max_controls, seen = 0;
        some = some < all ? some : all;
        context->first_stored = out->n_stored;
        for (size_t i = 0; i < r->n_cells; i++) {
            if (out->context_of_cell[i] != (int32_t)c)
                continue;
            bool take = (seen + 1) * some / all > seen * some / all;
            out->stored[i] = take;
            context->n_stored += take;
            seen++;
        }
        out->n_stored += context->n_stored;
    }
    return SCD_OK;
}

/* ---- conditions ------------------------------------------------------------------------------ */

/* The number of a pair of context and condition; a new one where it is met first. */
static size_t raw_of(reading *r, int32_t context, int32_t code)
{
    size_t at = (size_t)context * r->out->condition_of.n_values + (size_t)code;
    if (!r->number_of[at]) {
        r->raw_context[r->n_raw] = context;
        r->raw_code[r->n_raw] = code;
        r->number_of[at] = ++r->n_raw;
    }
    return r->number_of[at] - 1;
}

/* Every pair of context and condition that occurs, and whose cell is whose. */
static scd_code find_conditions(reading *r, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t most = out->s.n_contexts * out->condition_of.n_values + 1;
    r->condition_at = scd_malloc(r->n_cells + 1, sizeof *r->condition_at);
    r->raw_context = scd_calloc(most, sizeof *r->raw_context);
    r->raw_code = scd_calloc(most, sizeof *r->raw_code);
    r->raw_cells = scd_calloc(most, sizeof *r->raw_cells);
    r->number_of = scd_calloc(most, sizeof *r->number_of);
    if (!r->condition_at || !r->number_of || !r->raw_context || !r->raw_code || !r->raw_cells)
        return no_memory(err);
    for (size_t i = 0; i < r->n_cells; i++) {
        int32_t c = context_of(r, i), code = out->condition_of.codes[i];
        r->condition_at[i] = -1;
        if (c < 0 || code < 0 || out->context_of_cell[i] >= 0)
            continue;
        size_t k = raw_of(r, c, code);
        r->condition_at[i] = (int32_t)k;
        r->raw_cells[k]++;
    }
    return SCD_OK;
}

static scd_code add_target(reading *r, const scd_vocab *vocab, const char *name, size_t n,
                           scd_response_condition *c, scd_error *err)
{
    scd_perturb_study *out = r->out;
    scd_rung rung;
    int32_t token = scd_vocab_resolve(vocab, name, n, &rung);
    size_t t = 0;
    while (t < out->s.n_targets &&
           (strlen(out->targets[t]) != n || memcmp(out->targets[t], name, n)) &&
           (token < 0 || out->target_tokens[t] != token))
        t++;
    if (t == out->s.n_targets) {
        out->target_tokens[t] = token;
        out->targets[t] = scd_strndup(name, n);
        if (!out->targets[t])
            return no_memory(err);
        out->s.n_targets++;
    }
    if (c->n_targets == SCD_MAX_TARGETS)
        return scd_fail(err, SCD_E_INVALID, "a condition with more than %d genes", SCD_MAX_TARGETS);
    size_t at = c->n_targets;
    while (at && c->targets[at - 1] > t)
        at--;
    if (at && c->targets[at - 1] == t)
        return SCD_OK; /* named twice */
    memmove(c->targets + at + 1, c->targets + at, (c->n_targets - at) * sizeof c->targets[0]);
    c->targets[at] = (uint32_t)t;
    c->n_targets++;
    return SCD_OK;
}

static scd_code parse_condition(reading *r, const scd_vocab *vocab, const char *text,
                                scd_response_condition *c, scd_error *err)
{
    const char *at = text, *separator = r->o->separator;
    scd_code code = SCD_OK;
    while (at && !code) {
        const char *end = *separator ? strstr(at, separator) : NULL;
        size_t n = end ? (size_t)(end - at) : strlen(at);
        bool is_control = n == strlen(r->o->control) && !memcmp(at, r->o->control, n);
        if (n && !is_control)
            code = add_target(r, vocab, at, n, c, err);
        at = end ? end + strlen(separator) : NULL;
    }
    if (!code && !c->n_targets)
        code = scd_fail(err, SCD_E_INVALID, "condition '%.80s' names no gene", text);
    return code;
}

static bool same_targets(const scd_response_condition *a, const scd_response_condition *b)
{
    return a->n_targets == b->n_targets &&
           !memcmp(a->targets, b->targets, a->n_targets * sizeof a->targets[0]);
}

/* Raw conditions with enough cells become the study's; raw cells get their new numbers. */
static scd_code keep_conditions(reading *r, const scd_vocab *vocab, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t n = 0, most = r->n_raw * SCD_MAX_TARGETS + 1;
    int32_t *new_number = scd_malloc(r->n_raw + 1, sizeof *new_number);
    out->conditions = scd_calloc(r->n_raw + 1, sizeof *out->conditions);
    out->group = scd_calloc(r->n_raw + 1, sizeof *out->group);
    out->targets = scd_calloc(most, sizeof *out->targets);
    out->target_tokens = scd_calloc(most, sizeof *out->target_tokens);
    scd_code code = SCD_OK;
    if (!new_number || !out->conditions || !out->group || !out->targets || !out->target_tokens)
        code = no_memory(err);
    for (size_t k = 0; k < r->n_raw && !code; k++) {
        new_number[k] = -1;
        if (r->raw_cells[k] < r->o->min_cells) {
            out->n_few++;
            out->n_few_cells += r->raw_cells[k];
            continue;
        }
        scd_response_condition *c = &out->conditions[n];
        code = parse_condition(r, vocab, out->condition_of.values[r->raw_code[k]], c, err);
        c->context = (uint32_t)r->raw_context[k];
        c->n_cells = (uint32_t)r->raw_cells[k];
        size_t like = 0;
        while (like < n && !same_targets(&out->conditions[like], c))
            like++;
        out->group[n] = like < n ? out->group[like] : (uint32_t)out->s.n_groups++;
        for (size_t i = 0; i < n && !code; i++)
            if (out->conditions[i].context == c->context && same_targets(&out->conditions[i], c))
                code = scd_fail(err, SCD_E_INVALID,
                                "condition '%.80s' of context '%.80s' is written in two ways",
                                out->condition_of.values[r->raw_code[k]],
                                out->contexts[c->context].name);
        new_number[k] = (int32_t)n++;
    }
    for (size_t i = 0; i < r->n_cells && !code; i++)
        if (r->condition_at[i] >= 0)
            r->condition_at[i] = new_number[r->condition_at[i]];
    out->s.n_conditions = n;
    free(new_number);
    if (!code && n < 2)
        code = scd_fail(err, SCD_E_INVALID,
                        "%zu conditions have %zu cells or more: a head needs at least two", n,
                        r->o->min_cells);
    return code;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Genes that every file measures. */
static scd_code find_genes(reading *r, size_t vocab, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t n_files = scd_corpus_n_files(r->corpus), n = 0;
    r->gene_of = scd_calloc(vocab, sizeof *r->gene_of);
    out->tokens = scd_malloc(vocab, sizeof *out->tokens);
    out->measured = scd_calloc(vocab, sizeof *out->measured);
    if (!r->gene_of || !out->tokens || !out->measured)
        return no_memory(err);
    for (size_t f = 0; f < n_files; f++) {
        size_t n_panel;
        const int32_t *panel = scd_corpus_panel(r->corpus, f, &n_panel);
        for (size_t i = 0; i < n_panel; i++)
            r->gene_of[panel[i]]++;
    }
    for (size_t t = 0; t < vocab; t++) {
        bool in_all = r->gene_of[t] == (int32_t)n_files;
        r->gene_of[t] = in_all ? (int32_t)n : -1;
        out->measured[t] = in_all;
        if (in_all)
            out->tokens[n++] = (int32_t)t;
    }
    out->s.n_genes = n;
    if (n < 2)
        return scd_fail(err, SCD_E_INVALID, "the files have %zu genes in common", n);
    return SCD_OK;
}

static void add_cell(const reading *r, const scd_corpus_cell *cell, size_t row)
{
    size_t G = r->out->s.n_genes;
    double *sums = r->sums + row * G, *squares = r->squares + row * G;
    for (size_t i = 0; i < cell->n; i++) {
        int32_t g = r->gene_of[cell->tokens[i]];
        double x = (double)cell->values[i];
        if (cell->kind == SCD_INPUT_COUNTS)
            x = (double)(float)log1p(1e4 * x / cell->total);
        if (g >= 0) {
            sums[g] += x;
            squares[g] += x * x;
        }
    }
}

static scd_code read_cells(reading *r, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t rows = out->s.n_contexts + out->s.n_conditions, G = out->s.n_genes;
    scd_corpus_cell *cells = scd_malloc(BLOCK_CELLS, sizeof *cells);
    r->sums = scd_calloc(rows * G, sizeof *r->sums);
    r->squares = scd_calloc(rows * G, sizeof *r->squares);
    scd_code code = cells && r->sums && r->squares ? SCD_OK : no_memory(err);
    for (size_t first = 0; first < r->n_cells && !code; first += BLOCK_CELLS) {
        size_t n = r->n_cells - first < BLOCK_CELLS ? r->n_cells - first : BLOCK_CELLS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corpus_read(r->corpus, first, n, &arena, cells, err);
        for (size_t i = 0; i < n && !code; i++) {
            int32_t context = out->context_of_cell[first + i], at = r->condition_at[first + i];
            if (context >= 0)
                add_cell(r, &cells[i], (size_t)context);
            else if (at >= 0)
                add_cell(r, &cells[i], out->s.n_contexts + (size_t)at);
        }
        scd_arena_release(&arena);
    }
    free(cells);
    return code;
}

static scd_code make_tables(reading *r, size_t d, scd_error *err)
{
    scd_perturb_study *out = r->out;
    size_t G = out->s.n_genes, N = out->s.n_conditions, C = out->s.n_contexts;
    out->deltas = scd_calloc(N * G, sizeof *out->deltas);
    out->features = scd_calloc(N * d, sizeof *out->features);
    out->noise = scd_calloc(N, sizeof *out->noise);
    out->control_mean = scd_calloc(C * G, sizeof *out->control_mean);
    out->control_sd = scd_calloc(C * G, sizeof *out->control_sd);
    if (!out->deltas || !out->features || !out->noise || !out->control_mean || !out->control_sd)
        return no_memory(err);
    for (size_t c = 0; c < C; c++)
        for (size_t g = 0; g < G; g++) {
            double n = (double)out->contexts[c].n_controls, mean = r->sums[c * G + g] / n;
            double variance = r->squares[c * G + g] / n - mean * mean;
            out->control_mean[c * G + g] = (float)mean;
            out->control_sd[c * G + g] = (float)sqrt(fmax(variance, 0));
        }
    for (size_t i = 0; i < N; i++)
        for (size_t g = 0; g < G; g++) {
            size_t at = (C + i) * G + g;
            double n = (double)out->conditions[i].n_cells, mean = r->sums[at] / n;
            double control = r->sums[out->conditions[i].context * G + g] /
                             (double)out->contexts[out->conditions[i].context].n_controls;
            out->deltas[i * G + g] = (float)(mean - control);
            if (n > 1)
                out->noise[i] += fmax(r->squares[at] / n - mean * mean, 0) / (n - 1);
        }
    return SCD_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static scd_code read_columns(reading *r, scd_error *err)
{
    scd_perturb_study *out = r->out;
    scd_code code = scd_corpus_obs(r->corpus, r->o->condition_column, &out->condition_of, err);
    if (!code && r->o->context_column)
        code = scd_corpus_obs(r->corpus, r->o->context_column, &out->context_of, err);
    if (!code && r->o->direction_column)
        code = scd_corpus_obs(r->corpus, r->o->direction_column, &out->direction_of, err);
    return code;
}

static scd_code check_sizes(const scd_perturb_study *out, scd_error *err)
{
    for (size_t c = 0; c < out->s.n_contexts; c++) {
        size_t n = 0;
        for (size_t i = 0; i < out->s.n_conditions; i++)
            n += out->conditions[i].context == c;
        if (n > SCD_STUDY_MAX_CONDITIONS)
            return scd_fail(err, SCD_E_TOO_LARGE, "context '%.80s' has %zu conditions, at most %d",
                            out->contexts[c].name, n, SCD_STUDY_MAX_CONDITIONS);
    }
    return SCD_OK;
}

scd_code scd_perturb_study_read(scd_corpus *corpus, const scd_vocab *vocab,
                                const scd_model_config *config, const scd_study_options *options,
                                scd_perturb_study *out, scd_error *err)
{
    *out = (scd_perturb_study){0};
    reading r = {.corpus = corpus, .o = options, .out = out, .n_cells = scd_corpus_n_cells(corpus)};
    scd_code code = read_columns(&r, err);
    if (!code)
        code = find_contexts(&r, err);
    if (!code)
        code = find_conditions(&r, err);
    if (!code) {
        drop_contexts(&r);
        code = choose_stored(&r, err);
    }
    if (!code)
        code = keep_conditions(&r, vocab, err);
    if (!code)
        code = check_sizes(out, err);
    if (!code)
        code = find_genes(&r, config->vocab, err);
    if (!code)
        code = read_cells(&r, err);
    if (!code)
        code = make_tables(&r, config->d, err);
    out->s.feature_dim = config->d;
    out->s.conditions = out->conditions;
    out->s.deltas = out->deltas;
    out->s.noise = out->noise;
    out->s.features = out->features;
    out->s.group = out->group;
    free(r.condition_at);
    free(r.gene_of);
    free(r.raw_context);
    free(r.raw_code);
    free(r.raw_cells);
    free(r.number_of);
    free(r.sums);
    free(r.squares);
    if (code)
        scd_perturb_study_release(out);
    return code;
}

void scd_perturb_study_release(scd_perturb_study *s)
{
    scd_corpus_column_release(&s->condition_of);
    scd_corpus_column_release(&s->context_of);
    scd_corpus_column_release(&s->direction_of);
    for (size_t t = 0; s->targets && t < s->s.n_targets; t++)
        free(s->targets[t]);
    free(s->measured);
    free(s->tokens);
    free(s->targets);
    free(s->target_tokens);
    free(s->contexts);
    free(s->conditions);
    free(s->deltas);
    free(s->features);
    free(s->noise);
    free(s->group);
    free(s->control_mean);
    free(s->control_sd);
    free(s->stored);
    free(s->context_of_cell);
    *s = (scd_perturb_study){0};
}
