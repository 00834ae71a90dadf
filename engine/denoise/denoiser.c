/* denoiser.c - see denoiser.h.
 *
 * After the pass the wanted states are put in order: tokens whose gene is to be named first, then
 * those whose value alone is, then the [LAT] rows of plain cells. gene_pick runs over the first
 * kind, the value head over the first two. */
#include "engine/denoise/denoiser.h"

#include "engine/base/mem.h"
#include "engine/denoise/course_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sets of allowed genes on the device at once, and rows of the value head's hidden layer. */
enum { MAX_SETS = 256, VALUE_ROWS = 4096 };

/* What gene_pick says of rows. */
typedef struct lists {
    float *lse;     /* (rows) */
    int32_t *genes; /* (rows, SCD_PICK_TOP) */
    float *logits;  /* (rows, SCD_PICK_TOP) */
} lists;

struct scd_denoiser {
    const scd_backend *be;
    scd_device *device;
    scd_forward *forward;
    const scd_model *model;
    size_t max_rows, hidden_dim, vocab, words, value_rows;
    scd_matrix *gene_head, *value_w0, *value_w2;
    float *value_b0, *value_b2; /* device */

    /* device */
    float *x;                       /* (max_rows, H) states in our order */
    float *x_again;                 /* (max_rows, H) those that must be picked again */
    float *value_hidden, *d_values; /* (value_rows, 512), (max_rows) */
    uint32_t *d_index, *d_sets;     /* (max_rows), (MAX_SETS, words) */
    scd_pick_row *d_of;             /* (max_rows) */
    float *d_lse, *d_logits;        /* (max_rows), (max_rows, SCD_PICK_TOP) */
    int32_t *d_genes;               /* (max_rows, SCD_PICK_TOP) */

    /* host */
    scd_forward_cell *cells; /* (max_rows / 2 + 1) */
    scd_step *together;      /* (max_rows / 2 + 1) */
    uint32_t *index;         /* (max_rows) */
    scd_pick_row *of;        /* (max_rows) */
    uint32_t *sets;          /* (MAX_SETS, words) */
    lists first, again;      /* (max_rows) */
    float *values, *turn;
    uint8_t *option;
    float *states, *target; /* (max_rows, H), (H): of a posterior, ... */
    float *found, *sure;    /* (max_rows) ... which are value and probability */
    char *before;           /* a course as it was, should its pass fail on the way */
};

/* ---- weights and memory --------------------------------------------------------------------- */

static scd_code load_matrix(scd_denoiser *d, const char *name, size_t rows, size_t cols,
                            unsigned uses, scd_matrix **out, scd_error *err)
{
    scd_tensor t;
    const scd_safetensors *file = scd_model_tensors(d->model);
    scd_code code = scd_safetensors_get(file, name, rows, cols, &t, err);
    if (!code)
        code = d->be->matrix_pack(d->device, &t, 1, uses, out, err);
    if (!code)
        scd_safetensors_forget(file, &t);
    return code;
}

static scd_code alloc(scd_denoiser *d, size_t rows, size_t row_bytes, void *out, scd_error *err)
{
    size_t bytes;
    void *memory = NULL;
    if (!scd_size_mul(rows, row_bytes, &bytes))
        return scd_fail(err, SCD_E_NOMEM, "%zu rows of %zu bytes are too many", rows, row_bytes);
    scd_code code = d->be->alloc(d->device, bytes, &memory, err);
    memcpy(out, &memory, sizeof memory);
    return code;
}

static scd_code load_vector(scd_denoiser *d, const char *name, size_t n, float **out,
                            scd_error *err)
{
    scd_tensor t;
    float host[SCD_VALUE_HEAD_DIM];
    scd_code code = scd_safetensors_get(scd_model_tensors(d->model), name, n, 0, &t, err);
    if (!code)
        code = alloc(d, n, sizeof(float), out, err);
    if (code)
        return code;
    scd_tensor_to_f32(&t, 0, n, host);
    return d->be->upload(d->device, *out, host, n * sizeof *host, err);
}

static scd_code load_weights(scd_denoiser *d, scd_error *err)
{
    size_t h = d->hidden_dim, k = SCD_VALUE_HEAD_DIM;
    scd_code code = load_matrix(d, "gene_head.weight", d->vocab, h, 0, &d->gene_head, err);
    if (!code)
        code = load_matrix(d, "value_head.0.weight", k, h, SCD_FOR_BIAS_RELU, &d->value_w0, err);
    if (!code)
        code = load_matrix(d, "value_head.2.weight", 1, k, SCD_FOR_BIAS, &d->value_w2, err);
    if (!code)
        code = load_vector(d, "value_head.0.bias", k, &d->value_b0, err);
    if (!code)
        code = load_vector(d, "value_head.2.bias", 1, &d->value_b2, err);
    return code;
}

static scd_code allocate_device(scd_denoiser *d, scd_error *err)
{
    size_t rows = d->max_rows, row = d->hidden_dim * sizeof(float);
    const struct {
        size_t rows, bytes;
        void *out;
    } table[] = {
        {rows, row, &d->x},
        {rows, row, &d->x_again},
        {d->value_rows, SCD_VALUE_HEAD_DIM * sizeof(float), &d->value_hidden},
        {rows, sizeof(float), &d->d_values},
        {rows, sizeof(uint32_t), &d->d_index},
        {MAX_SETS, d->words * sizeof(uint32_t), &d->d_sets},
        {rows, sizeof(scd_pick_row), &d->d_of},
        {rows, sizeof(float), &d->d_lse},
        {rows, SCD_PICK_TOP * sizeof(float), &d->d_logits},
        {rows, SCD_PICK_TOP * sizeof(int32_t), &d->d_genes},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof table / sizeof table[0] && !code; i++)
        code = alloc(d, table[i].rows, table[i].bytes, table[i].out, err);
    return code;
}

static bool allocate_lists(lists *l, size_t rows)
{
    l->lse = scd_malloc(rows, sizeof *l->lse);
    l->genes = scd_malloc(rows, SCD_PICK_TOP * sizeof *l->genes);
    l->logits = scd_malloc(rows, SCD_PICK_TOP * sizeof *l->logits);
    return l->lse && l->genes && l->logits;
}

static void free_lists(lists *l)
{
    free(l->logits);
    free(l->genes);
    free(l->lse);
}

static scd_code allocate_host(scd_denoiser *d, scd_error *err)
{
    size_t rows = d->max_rows;
    d->cells = scd_malloc(rows / 2 + 1, sizeof *d->cells);
    d->together = scd_malloc(rows / 2 + 1, sizeof *d->together);
    d->index = scd_malloc(rows, sizeof *d->index);
    d->of = scd_malloc(rows, sizeof *d->of);
    d->sets = scd_malloc(MAX_SETS, d->words * sizeof *d->sets);
    d->values = scd_malloc(rows, sizeof *d->values);
    d->turn = scd_malloc(rows, sizeof *d->turn);
    d->option = scd_malloc(rows, sizeof *d->option);
    d->states = scd_malloc(rows, d->hidden_dim * sizeof *d->states);
    d->target = scd_malloc(d->hidden_dim, sizeof *d->target);
    d->found = scd_malloc(rows, sizeof *d->found);
    d->sure = scd_malloc(rows, sizeof *d->sure);
    d->before = scd_malloc(scd_course_sample_bytes(scd_model_get_config(d->model), rows), 1);
    bool ok = d->before && d->cells && d->together && d->index && d->of && d->sets && d->values &&
              d->turn && d->option && d->states && d->target && d->found && d->sure &&
              allocate_lists(&d->first, rows) && allocate_lists(&d->again, rows);
    return ok ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", rows);
}

scd_code scd_denoiser_open(const scd_backend *backend, scd_device *device, const scd_model *model,
                           scd_forward *forward, size_t max_rows, scd_denoiser **out,
                           scd_error *err)
{
    *out = NULL;
    if (!backend->gene_pick)
        return scd_fail(err, SCD_E_DEVICE, "this device does not denoise");
    scd_denoiser *d = scd_calloc(1, sizeof *d);
    if (!d)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    const scd_model_config *config = scd_model_get_config(model);
    d->be = backend;
    d->device = device;
    d->model = model;
    d->forward = forward;
    d->max_rows = max_rows;
    d->value_rows = max_rows < VALUE_ROWS ? max_rows : VALUE_ROWS;
    d->hidden_dim = config->hidden_dim;
    d->vocab = config->vocab;
    d->words = scd_pick_words(config->vocab);
    scd_code code = load_weights(d, err);
    if (!code)
        code = allocate_device(d, err);
    if (!code)
        code = allocate_host(d, err);
    if (code) {
        scd_denoiser_close(d);
        return code;
    }
    *out = d;
    return SCD_OK;
}

void scd_denoiser_close(scd_denoiser *d)
{
    if (!d)
        return;
    void *const on_device[] = {d->d_genes, d->d_logits, d->d_lse,    d->d_of,
                               d->d_sets,  d->d_index,  d->d_values, d->value_hidden,
                               d->x_again, d->x,        d->value_b2, d->value_b0};
    void *const on_host[] = {d->before, d->sure,  d->found,   d->target, d->states,
                             d->option, d->turn,  d->values,  d->sets,   d->of,
                             d->index,  d->cells, d->together};
    free_lists(&d->again);
    free_lists(&d->first);
    for (size_t i = 0; i < sizeof on_host / sizeof on_host[0]; i++)
        free(on_host[i]);
    for (size_t i = 0; i < sizeof on_device / sizeof on_device[0]; i++)
        d->be->free(d->device, on_device[i]);
    d->be->matrix_free(d->device, d->value_w2);
    d->be->matrix_free(d->device, d->value_w0);
    d->be->matrix_free(d->device, d->gene_head);
    free(d);
}

/* ---- rows in our order ---------------------------------------------------------------------- */

/* What is wanted of a cell's rows. */
typedef enum row_kind { NAME_ROWS, VALUE_ROWS_ALONE, PLAIN_ROWS, N_ROW_KINDS } row_kind;

static bool associates(const scd_course *c)
{
    return c && c->plan.kind == SCD_PLAN_ASSOCIATE;
}

static row_kind kind_of(const scd_step *s)
{
    if (!s->course)
        return PLAIN_ROWS;
    bool value =
        s->course->refreshing || s->course->plan.kind == SCD_PLAN_VALUES || associates(s->course);
    return value ? VALUE_ROWS_ALONE : NAME_ROWS;
}

static size_t rows_of(const scd_step *s)
{
    const scd_course *c = s->course;
    if (!c)
        return 1;
    size_t n = 0;
    for (size_t i = 0; associates(c) && i < c->n_shown; i++)
        n += c->shown_hidden[i] != 0;
    if (associates(c))
        return n;
    return c->refreshing ? c->n_hidden : c->n_left;
}

/* Fills d->index; n[kind] rows of each kind. */
static void order_rows(scd_denoiser *d, const scd_step *steps, size_t n_steps,
                       size_t n[N_ROW_KINDS])
{
    size_t at = 0;
    for (row_kind kind = 0; kind < N_ROW_KINDS; kind++) {
        size_t row = 0, before = at;
        for (size_t i = 0; i < n_steps; i++) {
            size_t rows = rows_of(&steps[i]);
            for (size_t r = 0; r < rows && kind_of(&steps[i]) == kind; r++)
                d->index[at++] = (uint32_t)(row + r);
            row += rows;
        }
        n[kind] = at - before;
    }
}

static scd_forward_cell cell_of(const scd_step *s)
{
    const scd_course *c = s->course;
    if (!c)
        return (scd_forward_cell){
            .n_tokens = s->cell->n_tokens, .ids = s->cell->ids, .values = s->cell->values};
    if (associates(c)) /* what is hidden is what is wanted */
        return (scd_forward_cell){.n_tokens = c->n_shown,
                                  .ids = c->shown_ids,
                                  .values = c->shown_values,
                                  .hidden = c->shown_hidden,
                                  .wanted = c->shown_hidden};
    return (scd_forward_cell){.n_tokens = c->n_tokens,
                              .ids = c->ids,
                              .values = c->values,
                              .hidden = c->hidden,
                              .wanted = c->wanted};
}

/* ---- the heads ------------------------------------------------------------------------------ */

static scd_code run_value_head(scd_denoiser *d, size_t rows, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t at = 0, n; at < rows && !code; at += n) {
        n = rows - at < d->value_rows ? rows - at : d->value_rows;
        scd_linear_args first = {.rows = n,
                                 .in_dim = d->hidden_dim,
                                 .out_dim = SCD_VALUE_HEAD_DIM,
                                 .x = d->x + at * d->hidden_dim,
                                 .w = d->value_w0,
                                 .bias = d->value_b0,
                                 .relu = 1,
                                 .y = d->value_hidden};
        scd_linear_args second = {.rows = n,
                                  .in_dim = SCD_VALUE_HEAD_DIM,
                                  .out_dim = 1,
                                  .x = d->value_hidden,
                                  .w = d->value_w2,
                                  .bias = d->value_b2,
                                  .y = d->d_values + at};
        code = d->be->linear(d->device, &first, err);
        if (!code)
            code = d->be->linear(d->device, &second, err);
    }
    if (!code && rows)
        code = d->be->download(d->device, d->values, d->d_values, rows * sizeof *d->values, err);
    return code;
}

/* gene_pick on `rows` rows of x, whose d->of and n_sets of d->sets are filled. */
static scd_code pick(scd_denoiser *d, const float *x, size_t rows, size_t n_sets, const lists *to,
                     scd_error *err)
{
    scd_gene_pick_args a = {.rows = rows,
                            .hidden_dim = d->hidden_dim,
                            .vocab = d->vocab,
                            .x = x,
                            .w = d->gene_head,
                            .of = d->d_of,
                            .sets = d->d_sets,
                            .n_sets = n_sets,
                            .lse = d->d_lse,
                            .genes = d->d_genes,
                            .logits = d->d_logits};
    const scd_backend *be = d->be;
    size_t listed = rows * SCD_PICK_TOP;
    scd_code code = be->upload(d->device, d->d_of, d->of, rows * sizeof *d->of, err);
    if (!code)
        code = be->upload(d->device, d->d_sets, d->sets, n_sets * d->words * sizeof *d->sets, err);
    if (!code)
        code = be->gene_pick(d->device, &a, err);
    if (!code)
        code = be->download(d->device, to->lse, d->d_lse, rows * sizeof *to->lse, err);
    if (!code)
        code = be->download(d->device, to->genes, d->d_genes, listed * sizeof *to->genes, err);
    if (!code)
        code = be->download(d->device, to->logits, d->d_logits, listed * sizeof *to->logits, err);
    return code;
}

static lists lists_from(const lists *l, size_t row)
{
    return (lists){l->lse + row, l->genes + row * SCD_PICK_TOP, l->logits + row * SCD_PICK_TOP};
}

/* Every row that is to be named, MAX_SETS courses at a time. */
static scd_code pick_all(scd_denoiser *d, const scd_step *steps, size_t n, scd_error *err)
{
    size_t first = 0, rows = 0, n_sets = 0;
    scd_code code = SCD_OK;
    for (size_t i = 0; i <= n && !code; i++) {
        if (rows && (i == n || n_sets == MAX_SETS)) {
            lists to = lists_from(&d->first, first);
            code = pick(d, d->x + first * d->hidden_dim, rows, n_sets, &to, err);
            first += rows;
            rows = n_sets = 0;
        }
        if (i == n || kind_of(&steps[i]) != NAME_ROWS)
            continue;
        const scd_course *c = steps[i].course;
        for (size_t r = 0; r < c->n_left; r++)
            d->of[rows++] = scd_course_pick_row(c, r, (uint32_t)n_sets);
        memcpy(d->sets + n_sets++ * d->words, c->allowed, d->words * sizeof *d->sets);
    }
    return code;
}

/* ---- what becomes of it --------------------------------------------------------------------- */

/* The tokens that ran dry get a new list, of what is allowed now; how probable a gene is stays what
 * it was over all. Their states are rows of d->x from `first` on. */
static scd_code pick_again(scd_denoiser *d, const scd_course *c, size_t first,
                           const lists *of_course, scd_unmasking *u, scd_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_left; i++)
        if (u->option[i] == SCD_DRY) {
            d->index[n] = (uint32_t)(first + i);
            d->of[n++] = scd_course_pick_row(c, i, 0);
        }
    memcpy(d->sets, c->allowed, d->words * sizeof *d->sets);
    scd_code code = d->be->upload(d->device, d->d_index, d->index, n * sizeof *d->index, err);
    if (!code)
        code = d->be->gather_rows(d->device, d->x, d->d_index, n, d->hidden_dim, d->x_again, err);
    if (!code)
        code = pick(d, d->x_again, n, 1, &d->again, err);
    for (size_t j = 0; j < n && !code; j++) {
        size_t i = d->index[j] - first;
        lists to = lists_from(of_course, i), from = lists_from(&d->again, j);
        memcpy(to.genes, from.genes, SCD_PICK_TOP * sizeof *to.genes);
        memcpy(to.logits, from.logits, SCD_PICK_TOP * sizeof *to.logits);
        if (from.genes[0] < 0) /* a course has as many candidates as tokens: our own mistake */
            code = scd_fail(err, SCD_E_INTERNAL, "a hidden token has no candidate left");
        u->option[i] = 0;
    }
    return code;
}

/* d->target's gene in a cell: sum over hidden tokens i of w_i value_i, w_i in proportion to the
 * gene's probability there. A gene that was given is nobody's candidate, so that it is not among
 * those that lse is over: its probability is that of it or one of them. */
static void posterior_of(const scd_denoiser *d, const scd_course *c, size_t first, float *out_value,
                         float *out_probability)
{
    double weight = 0, value = 0, probability = 0;
    for (size_t i = 0; i < c->n_left; i++) {
        double logit = 0;
        for (size_t k = 0; k < d->hidden_dim; k++)
            logit += (double)d->target[k] * (double)d->states[i * d->hidden_dim + k];
        double ratio = exp((double)d->first.lse[first + i] - logit);
        double p = c->plan.kind == SCD_PLAN_SAMPLE ? 1 / (1 + ratio) : fmin(1, 1 / ratio);
        weight += p;
        value += p * fmax(0, (double)d->values[first + i]);
        probability += p * p;
    }
    *out_value = weight > 0 ? (float)(value / weight) : 0;
    *out_probability = weight > 0 ? (float)(probability / weight) : 0;
}

/* Whether the gene of the i-th token left is known and its value is found by way of others. */
static bool by_posterior(const scd_course *c, size_t i)
{
    return c->plan.kind == SCD_PLAN_POSTERIOR || (scd_course_is_given(c, i) && !c->shows);
}

/* Fills d->found and d->sure for the tokens left that want it. */
static scd_code find_posteriors(scd_denoiser *d, const scd_course *c, size_t first, scd_error *err)
{
    scd_tensor head;
    size_t h = d->hidden_dim, n = 0;
    for (size_t i = 0; i < c->n_left; i++)
        n += by_posterior(c, i);
    if (!n)
        return SCD_OK;
    scd_code code = scd_safetensors_get(scd_model_tensors(d->model), "gene_head.weight", d->vocab,
                                        h, &head, err);
    if (!code)
        code = d->be->download(d->device, d->states, d->x + first * h,
                               c->n_left * h * sizeof *d->states, err);
    for (size_t i = 0; i < c->n_left && !code; i++) {
        if (!by_posterior(c, i))
            continue;
        scd_tensor_to_f32(&head, (size_t)c->ids[c->left[i]] * h, h, d->target);
        posterior_of(d, c, first, &d->found[i], &d->sure[i]);
    }
    return code;
}

static scd_code take_sample(scd_denoiser *d, scd_course *c, size_t first, scd_error *err)
{
    lists l = lists_from(&d->first, first);
    scd_pass_view view = {l.lse, l.genes, l.logits, d->values + first};
    scd_unmasking u = {.option = d->option, .turn = d->turn};
    memcpy(d->before, c, c->bytes);
    scd_code code = find_posteriors(d, c, first, err);
    for (size_t i = 0; i < c->n_left && !code; i++)
        if (by_posterior(c, i))
            d->values[first + i] = d->found[i];
    scd_course_begin_pass(c, &u);
    while (!code && !scd_course_unmask(c, &view, &u))
        code = pick_again(d, c, first, &l, &u, err);
    if (code)
        memcpy(c, d->before, c->bytes); /* another device may take it from here */
    else
        scd_course_end_pass(c, &u);
    return code;
}

static scd_code take_posterior(scd_denoiser *d, scd_course *c, size_t first, scd_error *err)
{
    scd_code code = find_posteriors(d, c, first, err);
    for (size_t i = 0; i < c->n_left && !code; i++)
        scd_course_set(c, c->left[i], c->ids[c->left[i]], d->found[i], d->sure[i]);
    if (!code)
        scd_course_finish(c);
    return code;
}

/* Courses take what the heads said; plain cells their embeddings. */
static scd_code hand_out(scd_denoiser *d, const scd_step *steps, size_t n,
                         const size_t n_rows[N_ROW_KINDS], scd_error *err)
{
    size_t h = d->hidden_dim, plain = n_rows[NAME_ROWS] + n_rows[VALUE_ROWS_ALONE];
    size_t at[N_ROW_KINDS] = {0, n_rows[NAME_ROWS], 0};
    scd_code code = SCD_OK;
    if (n_rows[PLAIN_ROWS])
        code = d->be->download(d->device, d->states, d->x + plain * h,
                               n_rows[PLAIN_ROWS] * h * sizeof *d->states, err);
    for (size_t i = 0; i < n && !code; i++)
        if (!steps[i].course)
            memcpy(steps[i].out, d->states + at[PLAIN_ROWS]++ * h, h * sizeof *d->states);
    for (size_t i = 0; i < n && !code; i++) {
        scd_course *c = steps[i].course;
        row_kind kind = kind_of(&steps[i]);
        size_t rows = rows_of(&steps[i]);
        if (associates(c))
            scd_associate_take_values(c, d->values + at[kind]);
        else if (kind == VALUE_ROWS_ALONE)
            scd_course_take_values(c, d->values + at[kind]);
        else if (kind == NAME_ROWS && c->plan.kind == SCD_PLAN_POSTERIOR)
            code = take_posterior(d, c, at[kind], err);
        else if (kind == NAME_ROWS)
            code = take_sample(d, c, at[kind], err);
        if (kind != PLAIN_ROWS)
            at[kind] += rows;
    }
    return code;
}

/* The first pass of an ASSOCIATE course: one cell, all rows of all watched layers. */
static scd_code watch(scd_denoiser *d, scd_course *c, scd_error *err)
{
    for (size_t r = 0; r < c->n_hidden; r++)
        d->index[r] = c->left[r] + 1;
    size_t floats = (c->n_tokens + 1) * c->n_hidden;
    if (floats > d->max_rows * d->hidden_dim)
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu regulators in a cell of %zu tokens", c->n_hidden,
                        c->n_tokens);
    memset(d->states, 0, floats * sizeof *d->states);
    scd_forward_cell cell = {.n_tokens = c->n_tokens, .ids = c->ids, .values = c->values};
    scd_watch_keys w = {.layers = c->layers,
                        .heads = c->heads,
                        .keys = d->index,
                        .n_keys = c->n_hidden,
                        .out = d->states};
    scd_code code = scd_forward_watch(d->forward, &cell, &w, err);
    if (!code)
        scd_associate_take_attention(c, d->states);
    return code;
}

/* One pass of the model for all of them. */
static scd_code run_together(scd_denoiser *d, const scd_step *steps, size_t n, scd_pooling pooling,
                             scd_error *err)
{
    size_t n_rows[N_ROW_KINDS];
    const float *states = NULL;
    for (size_t i = 0; i < n; i++)
        d->cells[i] = cell_of(&steps[i]);
    scd_code code = scd_forward_pass(d->forward, d->cells, n, pooling, &states, err);
    if (code)
        return code;
    order_rows(d, steps, n, n_rows);
    size_t tokens = n_rows[NAME_ROWS] + n_rows[VALUE_ROWS_ALONE], all = tokens + n_rows[PLAIN_ROWS];
    code = d->be->upload(d->device, d->d_index, d->index, all * sizeof *d->index, err);
    if (!code)
        code = d->be->gather_rows(d->device, states, d->d_index, all, d->hidden_dim, d->x, err);
    if (!code)
        code = pick_all(d, steps, n, err);
    if (!code)
        code = run_value_head(d, tokens, err);
    return code ? code : hand_out(d, steps, n, n_rows, err);
}

scd_code scd_denoiser_run(scd_denoiser *d, const scd_step *steps, size_t n, scd_pooling pooling,
                          scd_error *err)
{
    size_t n_together = 0;
    scd_code code = SCD_OK;
    if (n > d->max_rows / 2 + 1)
        return scd_fail(err, SCD_E_TOO_LARGE, "a batch holds at most %zu rows", d->max_rows);
    for (size_t i = 0; i < n && !code; i++) {
        bool watches = associates(steps[i].course) && !steps[i].course->pass;
        if (watches)
            code = watch(d, steps[i].course, err);
        else
            d->together[n_together++] = steps[i];
    }
    return code || !n_together ? code : run_together(d, d->together, n_together, pooling, err);
}
