/* test_net_gradient.c - the gradient of the whole loss, against central differences.
 *
 * The twin computes forward pass and losses in float64 from the functions of ref64.h; its central
 * differences (step 1e-6, so their own error is about 1e-8 of the gradient) are held against what
 * engine/train/net.h leaves in its gradients, several elements of every tensor, on every device. */
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"
#include "tests/unit/net_fixture.h"

#include <math.h>
#include <stdio.h>

static const size_t lengths[] = {5, 1, 7, 3};
enum { N_CELLS = 4, N_ELEMENTS = 6 };

typedef struct twin {
    scd_net *net;
    const scd_model_config *c;
    const scd_net_batch *b;
    int use_latent;
    double gene_scale, value_scale;
    const double *d_latents; /* (C, H), or NULL: loss += sum d_latents * latents */
    double *params;
} twin;

static const double *get(const twin *t, const char *name)
{
    size_t first, n;
    scd_error err;
    net_ok(scd_net_tensor(t->net, name, &first, &n, &err), &err);
    return t->params + first;
}

static const double *get_in(const twin *t, size_t layer, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "layers.%zu.%s", layer, name);
    return get(t, full);
}

static void twin_embed(const twin *t, double *h)
{
    const ref_embed_args args = {.n_cells = t->b->n_cells,
                                 .d = t->c->d,
                                 .width = t->c->hidden_dim,
                                 .cu_rows = t->b->cu_rows,
                                 .ids = t->b->ids,
                                 .values = t->b->values,
                                 .hidden = t->b->hidden,
                                 .table = get(t, "gene_embedding.weight"),
                                 .value_w0 = get(t, "value_encoder.0.weight"),
                                 .value_b0 = get(t, "value_encoder.0.bias"),
                                 .value_w2 = get(t, "value_encoder.2.weight"),
                                 .value_b2 = get(t, "value_encoder.2.bias"),
                                 .value_mask = get(t, "value_mask_emb"),
                                 .gene_mask = get(t, "gene_mask_emb"),
                                 .input_proj = get(t, "input_proj.weight"),
                                 .latent_w0 = get(t, "latent_encoder.mlp.0.weight"),
                                 .latent_b0 = get(t, "latent_encoder.mlp.0.bias"),
                                 .latent_norm_w = get(t, "latent_encoder.mlp.1.weight"),
                                 .latent_norm_b = get(t, "latent_encoder.mlp.1.bias"),
                                 .latent_w3 = get(t, "latent_encoder.mlp.3.weight"),
                                 .latent_b3 = get(t, "latent_encoder.mlp.3.bias"),
                                 .visible_pooling = t->c->latent_visible};
    ref_embed(&args, h);
    for (size_t c = 0; c < t->b->n_cells && !t->use_latent; c++)
        memset(h + t->b->cu_rows[c] * t->c->hidden_dim, 0, t->c->hidden_dim * sizeof *h);
}

/* Final-norm states of every row */
static void twin_states(const twin *t, double *states)
{
    size_t width = t->c->hidden_dim, heads = t->c->n_heads, rows = t->b->n_rows;
    double theta = t->c->rope_theta;
    double *h = malloc(5 * rows * width * sizeof *h);
    double *q = h + rows * width, *k = q + rows * width, *v = k + rows * width,
           *att = v + rows * width;
    twin_embed(t, h);
    for (size_t i = 0; i < t->c->n_layers; i++) {
        const double *norm = get_in(t, i, "norm1.weight");
        ref_qkv_part(rows, width, heads, h, norm, get_in(t, i, "attn.q_proj.weight"), t->b->pos,
                     theta, 1, q);
        ref_qkv_part(rows, width, heads, h, norm, get_in(t, i, "attn.k_proj.weight"), t->b->pos,
                     theta, 1, k);
        ref_qkv_part(rows, width, heads, h, norm, get_in(t, i, "attn.v_proj.weight"), t->b->pos,
                     theta, 0, v);
        ref_attention(t->b->n_cells, width, heads, t->b->cu_rows, t->b->cu_rows, q, k, v, att);
        ref_block_out(rows, width, t->c->ffn_dim, h, att, get_in(t, i, "attn.o_proj.weight"),
                      get_in(t, i, "norm2.weight"), get_in(t, i, "mlp.gate_proj.weight"),
                      get_in(t, i, "mlp.up_proj.weight"), get_in(t, i, "mlp.down_proj.weight"));
    }
    ref_rms_norm(rows, width, h, get(t, "final_norm.weight"), states);
    free(h);
}

static double twin_gene_loss(const twin *t, const double *states)
{
    size_t width = t->c->hidden_dim, vocab = t->c->vocab;
    double *logits = malloc(vocab * sizeof *logits), sum = 0;
    for (size_t i = 0; i < t->b->n_gene_masked; i++) {
        double total = 0;
        ref_linear(1, width, vocab, states + t->b->gene_masked[i] * width,
                   get(t, "gene_head.weight"), NULL, 0, logits);
        for (size_t g = 0; g < vocab; g++)
            total += exp(logits[g]);
        sum += log(total) - logits[t->b->gene_targets[i]];
    }
    free(logits);
    return sum;
}

static double twin_value_loss(const twin *t, const double *states)
{
    size_t width = t->c->hidden_dim;
    double hidden[SCD_VALUE_HEAD_DIM], sum = 0;
    for (size_t i = 0; i < t->b->n_masked; i++) {
        double value;
        ref_linear(1, width, SCD_VALUE_HEAD_DIM, states + t->b->masked[i] * width,
                   get(t, "value_head.0.weight"), get(t, "value_head.0.bias"), 1, hidden);
        ref_linear(1, SCD_VALUE_HEAD_DIM, 1, hidden, get(t, "value_head.2.weight"),
                   get(t, "value_head.2.bias"), 0, &value);
        sum += (value - (double)t->b->targets[i]) * (value - (double)t->b->targets[i]);
    }
    return sum;
}

static double twin_loss(const twin *t, double *gene, double *value)
{
    size_t width = t->c->hidden_dim;
    double *states = malloc(t->b->n_rows * width * sizeof *states), sum = 0;
    twin_states(t, states);
    *gene = twin_gene_loss(t, states);
    *value = twin_value_loss(t, states);
    for (size_t c = 0; c < t->b->n_cells && t->d_latents; c++)
        for (size_t i = 0; i < width; i++)
            sum += t->d_latents[c * width + i] * states[t->b->cu_rows[c] * width + i];
    free(states);
    return sum + t->gene_scale * *gene + t->value_scale * *value;
}

static double central_difference(const twin *t, size_t element)
{
    const double step = 1e-6;
    double gene, value, before = t->params[element];
    t->params[element] = before + step;
    double up = twin_loss(t, &gene, &value);
    t->params[element] = before - step;
    double down = twin_loss(t, &gene, &value);
    t->params[element] = before;
    return (up - down) / (2 * step);
}

typedef struct checked {
    const twin *t;
    const float *grads;
    uint64_t seed;
    size_t n_nonzero; /* tensors with a gradient */
} checked;

/* The largest element and some others. fp32 sums over some hundred terms keep 1e-5 of the largest;
 * ten times that catches no rounding and every wrong formula. */
static scd_code check_tensor(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    checked *c = arg;
    size_t first, n, largest = 0;
    net_ok(scd_net_tensor(c->t->net, entry->name, &first, &n, err), err);
    assert_int_equal(n, entry->rows * (entry->cols ? entry->cols : 1));
    const float *g = c->grads + first;
    for (size_t i = 0; i < n; i++)
        if (fabsf(g[i]) > fabsf(g[largest]))
            largest = i;
    double most = fabs((double)g[largest]);
    c->n_nonzero += most > 0;
    for (size_t j = 0; j < N_ELEMENTS; j++) {
        size_t i = largest;
        if (j)
            i = (size_t)(scd_rng_uniform(c->seed, j, first) * (float)n);
        double want = central_difference(c->t, first + i), got = (double)g[i];
        if (!(fabs(want - got) <= 1e-4 * most + 1e-6))
            fail_msg("%s[%zu]: %g, differences say %g (largest %g)", entry->name, i, got, want,
                     most);
    }
    return SCD_OK;
}

typedef struct loss_case {
    made_mask mask;
    bool visible;
    int use_latent;
    float gene_scale, value_scale;
    bool with_latents;
    size_t n_nonzero; /* tensors that must get a gradient; 2 layers have 38 tensors in all */
} loss_case;

static void check_losses(net_fixture *f, twin *t, const loss_case *l)
{
    double gene, value;
    scd_net_loss loss;
    net_ok(scd_net_pretrain_loss(f->net, l->gene_scale, l->value_scale, &loss, &f->err), &f->err);
    twin_loss(t, &gene, &value);
    assert_int_equal(loss.n_gene, t->b->n_gene_masked);
    assert_int_equal(loss.n_value, t->b->n_masked);
    assert_true(fabs(loss.gene_sum - gene) <= 1e-5 * fabs(gene));
    assert_true(fabs(loss.value_sum - value) <= 1e-5 * fabs(value));
}

/* float64 copies of n floats of the device; free() them. */
static double *widened(fixture *on, const float *device, size_t n)
{
    const float *host = fixture_fetch(on, device, n * sizeof *host);
    double *wide = malloc(n * sizeof *wide);
    for (size_t i = 0; i < n; i++)
        wide[i] = (double)host[i];
    return wide;
}

static void check_on(fixture *on, const loss_case *l)
{
    net_fixture f;
    made_batch m;
    made_cells(&m, 5, lengths, N_CELLS, l->mask);
    /* full: no array may be too small */
    net_open_on(&f, on->be, on->device, l->visible, 11, m.b.n_rows);
    const scd_model_config *c = scd_net_config(f.net);
    size_t n = scd_net_n_params(f.net), n_lat = N_CELLS * c->hidden_dim;
    array d_latents = fixture_random(on, 21, n_lat, 1);
    double *wide = widened(on, scd_net_params(f.net), n);
    twin t = {.net = f.net,
              .c = c,
              .b = &m.b,
              .use_latent = l->use_latent,
              .gene_scale = (double)l->gene_scale,
              .value_scale = (double)l->value_scale,
              .d_latents = l->with_latents ? d_latents.d : NULL,
              .params = wide};

    net_ok(scd_net_zero_grads(f.net, &f.err), &f.err);
    net_ok(scd_net_forward(f.net, &m.b, l->use_latent, &f.err), &f.err);
    check_losses(&f, &t, l);
    if (l->with_latents)
        net_ok(scd_net_latent_gradient(f.net, fixture_place_array(on, d_latents), &f.err), &f.err);
    net_ok(scd_net_backward(f.net, 0, &f.err), &f.err);
    const float *grads = fixture_fetch(on, scd_net_grads(f.net), n * sizeof *grads);
    checked check = {.t = &t, .grads = grads, .seed = 3};
    net_ok(scd_model_each_tensor(c, check_tensor, &check, &f.err), &f.err);
    assert_int_equal(check.n_nonzero, l->n_nonzero);
    free(wide);
    scd_net_free(f.net);
}

static const loss_case *current;

static void check_current(fixture *on)
{
    if (!on->bf16 || on->be == &scd_backend_cpu) /* training is fp32 on every device */
        check_on(on, current);
}

static void check_gradient(const loss_case *l)
{
    current = l;
    fixture_on_every_device(check_current);
}

static void the_whole_loss_has_the_gradient_that_differences_say(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_MIXED, false, 1, 0.13f, 0.7f, false, 38});
}

static void so_it_has_when_only_visible_tokens_are_pooled(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_MIXED, true, 1, 0.13f, 0.7f, false, 38});
}

/* gene_head and gene_mask_emb are not used. */
static void so_it_has_when_values_alone_are_hidden(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_VALUE_ONLY, false, 1, 0.13f, 0.7f, false, 36});
}

/* Nothing is pooled: genes and values reach nothing, z is the encoder of the zero vector; its first
 * matrix multiplies zeros. The value encoder (4), the table and that matrix are not used. */
static void so_it_has_when_everything_is_hidden(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_ALL_HIDDEN, true, 1, 0.13f, 0.7f, false, 32});
}

/* The six tensors of the latent encoder are not used. */
static void without_latent_its_encoder_has_no_gradient(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_MIXED, false, 0, 0.13f, 0.7f, false, 32});
}

/* Mask embeddings (2), gene head (1) and value head (4) are not used. */
static void a_head_on_the_latents_has_the_gradient_that_differences_say(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_NONE, false, 1, 0.13f, 0.7f, true, 31});
}

static void both_kinds_of_loss_add_up(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_MIXED, true, 1, 0.13f, 0.7f, true, 38});
}

/* A scale of 0 computes the loss and no gradient of it. */
static void a_scale_of_zero_leaves_that_head_alone(void **state)
{
    (void)state;
    check_gradient(&(loss_case){MADE_MIXED, false, 1, 0, 0.7f, false, 37});
    check_gradient(&(loss_case){MADE_MIXED, false, 1, 0.13f, 0, false, 34});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_loss_has_the_gradient_that_differences_say),
        cmocka_unit_test(so_it_has_when_only_visible_tokens_are_pooled),
        cmocka_unit_test(so_it_has_when_values_alone_are_hidden),
        cmocka_unit_test(so_it_has_when_everything_is_hidden),
        cmocka_unit_test(without_latent_its_encoder_has_no_gradient),
        cmocka_unit_test(a_head_on_the_latents_has_the_gradient_that_differences_say),
        cmocka_unit_test(both_kinds_of_loss_add_up),
        cmocka_unit_test(a_scale_of_zero_leaves_that_head_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
