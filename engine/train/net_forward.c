/* net_forward.c - the forward pass of SPEC section 1, with everything kept that the way back needs
 * (net_backward.c has the same functions in the opposite order).
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

/* ---- what both directions use -------------------------------------------------------------- */

scd_code scd_net_linear(scd_net *net, const net_linear *l, size_t rows, const float *x, float *y,
                        scd_error *err)
{
    const scd_t_linear args = {.rows = rows,
                               .in_dim = l->in,
                               .out_dim = l->out,
                               .x = x,
                               .w = net->params + l->w,
                               .b = l->b == NET_NO_BIAS ? NULL : net->params + l->b,
                               .y = y};
    return net->ops->linear(net->device, &args, err);
}

scd_code scd_net_linear_back(scd_net *net, const net_linear *l, size_t rows, const float *x,
                             const float *dy, float *dx, int dx_add, scd_error *err)
{
    const scd_t_linear_back args = {.rows = rows,
                                    .in_dim = l->in,
                                    .out_dim = l->out,
                                    .x = x,
                                    .w = net->params + l->w,
                                    .dy = dy,
                                    .dx = dx,
                                    .dw = net->grads + l->w,
                                    .db = l->b == NET_NO_BIAS ? NULL : net->grads + l->b,
                                    .dx_add = dx_add};
    return net->ops->linear_back(net->device, &args, err);
}

scd_t_tokens scd_net_tokens(const scd_net *net)
{
    return (scd_t_tokens){.n_cells = net->n_cells,
                          .rows = net->n_rows,
                          .d = net->c.d,
                          .vocab = net->c.vocab,
                          .host_cu_rows = net->host.cu_rows,
                          .cu_rows = net->dev.cu_rows,
                          .ids = net->dev.ids,
                          .host_ids = net->host.ids,
                          .hidden = net->dev.hidden,
                          .visible_pooling = net->c.latent_visible};
}

static scd_code rms_norm(scd_net *net, size_t rows, const float *x, size_t weight, float *y,
                         float *rstd, scd_error *err)
{
    const scd_t_rms_norm args = {.rows = rows,
                                 .width = net->c.hidden_dim,
                                 .x = x,
                                 .w = net->params + weight,
                                 .y = y,
                                 .rstd = rstd};
    return net->ops->rms_norm(net->device, &args, err);
}

static scd_code rows_get(scd_net *net, const uint32_t *index, size_t n, const float *src,
                         float *dst, scd_error *err)
{
    const scd_t_rows args = {
        .n = n, .width = net->c.hidden_dim, .index = index, .src = src, .dst = dst};
    return net->ops->rows_get(net->device, &args, err);
}

/* ---- the blocks of the model --------------------------------------------------------------- */

/* 1.1, 1.3: clean, tok and the mean of what is pooled */
static scd_code embed(scd_net *net, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    const scd_t_value_in value = {.rows = net->n_rows,
                                  .d = net->c.d,
                                  .x = net->dev.values,
                                  .w = net->params + at->value_w0,
                                  .b = net->params + at->value_b0,
                                  .ids = net->dev.ids,
                                  .u = a->u};
    scd_code code = net->ops->value_in(net->device, &value, err);
    if (!code)
        code = scd_net_linear(net, &at->value2, net->n_rows, a->u, a->clean, err);
    const scd_t_embed tokens = {.t = scd_net_tokens(net),
                                .table = net->params + at->gene_embedding,
                                .gene_mask = net->params + at->gene_mask,
                                .value_mask = net->params + at->value_mask,
                                .clean = a->clean,
                                .tok = a->tok,
                                .pooled = a->pooled};
    return code ? code : net->ops->embed(net->device, &tokens, err);
}

/* 1.2: z (C, H) from the pooled means, added to the [LAT] rows of h (which are 0: their tok is) */
static scd_code latent(scd_net *net, float *h, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    scd_code code = scd_net_linear(net, &at->latent0, net->n_cells, a->pooled, a->lat0, err);
    const scd_t_norm_relu norm = {.rows = net->n_cells,
                                  .width = net->c.hidden_dim,
                                  .x = a->lat0,
                                  .w = net->params + at->latent_norm_w,
                                  .b = net->params + at->latent_norm_b,
                                  .y = a->lat1,
                                  .mean = a->lat_mean,
                                  .rstd = a->lat_rstd};
    if (!code)
        code = net->ops->norm_relu(net->device, &norm, err);
    if (!code)
        code = scd_net_linear(net, &at->latent3, net->n_cells, a->lat1, a->z, err);
    const scd_t_rows add = {.n = net->n_cells,
                            .width = net->c.hidden_dim,
                            .index = net->dev.cu_rows,
                            .src = a->z,
                            .dst = h};
    return code ? code : net->ops->rows_add(net->device, &add, err);
}

/* 1.5, first half, up to o_proj: att from the layer's h */
static scd_code attention(scd_net *net, net_layer *l, scd_error *err)
{
    size_t h = net->c.hidden_dim, heads = net->c.n_heads;
    scd_code code = rms_norm(net, net->n_rows, l->h, l->norm1, l->n1, l->rstd1, err);
    if (!code)
        code = scd_net_linear(net, &l->qkv, net->n_rows, l->n1, l->qkv_out, err);
    /* q and k lie side by side: twice the heads. */
    const scd_t_rope rope = {.rows = net->n_rows,
                             .hidden_dim = 2 * h,
                             .n_heads = 2 * heads,
                             .stride = 3 * h,
                             .theta = net->c.rope_theta,
                             .pos = net->dev.pos,
                             .x = l->qkv_out};
    if (!code)
        code = net->ops->rope(net->device, &rope, err);
    const scd_t_attention att = {.n_cells = net->n_cells,
                                 .hidden_dim = h,
                                 .n_heads = heads,
                                 .host_cu_rows = net->host.cu_rows,
                                 .cu_rows = net->dev.cu_rows,
                                 .qkv = l->qkv_out,
                                 .out = l->att,
                                 .lse = l->lse};
    return code ? code : net->ops->attention(net->device, &att, err);
}

/* 1.5, the rest, over `rows` rows: h_mid = h + o_proj(att); out = h_mid + MLP(h_mid). `out` may be
 * h: it is written last. */
static scd_code o_and_mlp(scd_net *net, net_layer *l, size_t rows, const float *h, const float *att,
                          float *out, scd_error *err)
{
    size_t n = rows * net->c.hidden_dim;
    scd_code code = scd_net_linear(net, &l->o, rows, att, l->h_mid, err);
    if (!code)
        code = net->ops->add(net->device, h, n, l->h_mid, err);
    if (!code)
        code = rms_norm(net, rows, l->h_mid, l->norm2, l->n2, l->rstd2, err);
    if (!code)
        code = scd_net_linear(net, &l->gate_up, rows, l->n2, l->gate_up_out, err);
    const scd_t_swiglu swiglu = {
        .rows = rows, .ffn_dim = net->c.ffn_dim, .gate_up = l->gate_up_out, .y = l->ffn};
    if (!code)
        code = net->ops->swiglu(net->device, &swiglu, err);
    if (!code)
        code = scd_net_linear(net, &l->down, rows, l->ffn, out, err);
    return code ? code : net->ops->add(net->device, l->h_mid, n, out, err);
}

static scd_code layers(scd_net *net, scd_error *err)
{
    net_acts *a = &net->a;
    scd_code code = SCD_OK;
    for (size_t i = 0; i < net->c.n_layers && !code; i++) {
        net_layer *l = &net->layers[i];
        code = attention(net, l, err);
        if (!code && i + 1 < net->c.n_layers)
            code = o_and_mlp(net, l, net->n_rows, l->h, l->att, l[1].h, err);
    }
    net_layer *last = &net->layers[net->c.n_layers - 1];
    if (!code)
        code = rows_get(net, net->dev.seen, net->n_seen, last->att, a->att_seen, err);
    if (!code)
        code = rows_get(net, net->dev.seen, net->n_seen, last->h, a->h_out, err);
    if (!code)
        code = o_and_mlp(net, last, net->n_seen, a->h_out, a->att_seen, a->h_out, err);
    if (!code)
        code =
            rms_norm(net, net->n_seen, a->h_out, net->at.final_norm, a->states, a->rstd_out, err);
    return code;
}

scd_code scd_net_forward(scd_net *net, const scd_net_batch *batch, int use_latent, scd_error *err)
{
    net->stage = NET_EMPTY;
    net->has_loss = false;
    net->use_latent = use_latent;
    scd_code code = scd_net_stage(net, batch, err);
    if (!code)
        code = embed(net, err);
    float *h = net->layers[0].h;
    if (!code)
        code = scd_net_linear(net, &net->at.input_proj, net->n_rows, net->a.tok, h, err);
    if (!code && use_latent)
        code = latent(net, h, err);
    if (!code)
        code = layers(net, err);
    if (!code)
        code = net->ops->zero(net->device, net->a.d_states, net->n_seen * net->c.hidden_dim, err);
    if (!code)
        net->stage = NET_FORWARD;
    return code;
}

scd_code scd_net_latents(scd_net *net, float *host_out, scd_error *err)
{
    if (net->stage == NET_EMPTY)
        return scd_fail(err, SCD_E_INVALID, "no forward pass to take [LAT] states from");
    scd_code code = net->be->synchronize(net->device, err);
    if (code)
        return code;
    return net->be->download(net->device, host_out, net->a.states,
                             net->n_cells * net->c.hidden_dim * sizeof *host_out, err);
}

const float *scd_net_device_latents(const scd_net *net)
{
    return net->stage == NET_EMPTY ? NULL : net->a.states;
}
