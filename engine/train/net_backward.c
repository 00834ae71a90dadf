/* net_backward.c - net_forward.c read from its end to its beginning.
 *
 * dX is the gradient of X. Gradients of parameters are added to; dh, the residual stream's, is
 * updated in place as it walks down: each half of a layer adds what flows through its branch.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

static scd_code rms_norm_back(scd_net *net, size_t rows, const float *x, size_t weight,
                              const float *rstd, const float *dy, float *dx, scd_error *err)
{
    const scd_t_rms_norm_back args = {.rows = rows,
                                      .width = net->c.hidden_dim,
                                      .x = x,
                                      .w = net->params + weight,
                                      .rstd = rstd,
                                      .dy = dy,
                                      .dx = dx,
                                      .dw = net->grads + weight};
    return net->ops->rms_norm_back(net->device, &args, err);
}

/* dst (R, H) = src (S, H) in the seen rows, 0 in the others */
static scd_code spread(scd_net *net, const float *src, float *dst, scd_error *err)
{
    size_t h = net->c.hidden_dim;
    const scd_t_rows args = {
        .n = net->n_seen, .width = h, .index = net->dev.seen, .src = src, .dst = dst};
    scd_code code = net->ops->zero(net->device, dst, net->n_rows * h, err);
    return code ? code : net->ops->rows_add(net->device, &args, err);
}

/* dh of the layer's output becomes that of its h but for attention's part, which is d_att. */
static scd_code o_and_mlp_back(scd_net *net, net_layer *l, size_t rows, const float *att, float *dh,
                               float *d_att, scd_error *err)
{
    net_acts *a = &net->a;
    scd_code code = scd_net_linear_back(net, &l->down, rows, l->ffn, dh, a->d_ffn, 0, err);
    const scd_t_swiglu_back swiglu = {.rows = rows,
                                      .ffn_dim = net->c.ffn_dim,
                                      .gate_up = l->gate_up_out,
                                      .dy = a->d_ffn,
                                      .dgate_up = a->d_wide};
    if (!code)
        code = net->ops->swiglu_back(net->device, &swiglu, err);
    if (!code)
        code = scd_net_linear_back(net, &l->gate_up, rows, l->n2, a->d_wide, a->dn, 0, err);
    if (!code)
        code = rms_norm_back(net, rows, l->h_mid, l->norm2, l->rstd2, a->dn, dh, err);
    return code ? code : scd_net_linear_back(net, &l->o, rows, att, dh, d_att, 0, err);
}

/* Adds to dh what flows back from d_att through attention and its norm. */
static scd_code attention_back(scd_net *net, net_layer *l, const float *d_att, float *dh,
                               scd_error *err)
{
    net_acts *a = &net->a;
    size_t h = net->c.hidden_dim, heads = net->c.n_heads;
    const scd_t_attention_back att = {.n_cells = net->n_cells,
                                      .hidden_dim = h,
                                      .n_heads = heads,
                                      .host_cu_rows = net->host.cu_rows,
                                      .cu_rows = net->dev.cu_rows,
                                      .qkv = l->qkv_out,
                                      .out = l->att,
                                      .lse = l->lse,
                                      .dout = d_att,
                                      .dqkv = a->d_wide};
    scd_code code = net->ops->attention_back(net->device, &att, err);
    const scd_t_rope rope = {.rows = net->n_rows,
                             .hidden_dim = 2 * h,
                             .n_heads = 2 * heads,
                             .stride = 3 * h,
                             .theta = net->c.rope_theta,
                             .pos = net->dev.pos,
                             .x = a->d_wide,
                             .inverse = 1};
    if (!code)
        code = net->ops->rope(net->device, &rope, err);
    if (!code)
        code = scd_net_linear_back(net, &l->qkv, net->n_rows, l->n1, a->d_wide, a->dn, 0, err);
    return code ? code : rms_norm_back(net, net->n_rows, l->h, l->norm1, l->rstd1, a->dn, dh, err);
}

/* From the final states to the h of first_layer (its gradient ends in a->dh). */
static scd_code layers_back(scd_net *net, size_t first_layer, scd_error *err)
{
    net_acts *a = &net->a;
    scd_code code = net->ops->zero(net->device, a->dh_seen, net->n_seen * net->c.hidden_dim, err);
    if (!code)
        code = rms_norm_back(net, net->n_seen, a->h_out, net->at.final_norm, a->rstd_out,
                             a->d_states, a->dh_seen, err);
    for (size_t i = net->c.n_layers; i-- > first_layer && !code;) {
        net_layer *l = &net->layers[i];
        if (i + 1 < net->c.n_layers) {
            code = o_and_mlp_back(net, l, net->n_rows, l->att, a->dh, a->d_att, err);
        } else {
            code = o_and_mlp_back(net, l, net->n_seen, a->att_seen, a->dh_seen, a->d_att_seen, err);
            if (!code)
                code = spread(net, a->dh_seen, a->dh, err);
            if (!code)
                code = spread(net, a->d_att_seen, a->d_att, err);
        }
        if (!code)
            code = attention_back(net, l, a->d_att, a->dh, err);
    }
    return code;
}

/* dpooled from the [LAT] rows of dh */
static scd_code latent_back(scd_net *net, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    const scd_t_rows get = {.n = net->n_cells,
                            .width = net->c.hidden_dim,
                            .index = net->dev.cu_rows,
                            .src = a->dh,
                            .dst = a->dz};
    scd_code code = net->ops->rows_get(net->device, &get, err);
    if (!code)
        code =
            scd_net_linear_back(net, &at->latent3, net->n_cells, a->lat1, a->dz, a->d_lat1, 0, err);
    const scd_t_norm_relu_back norm = {.rows = net->n_cells,
                                       .width = net->c.hidden_dim,
                                       .x = a->lat0,
                                       .w = net->params + at->latent_norm_w,
                                       .b = net->params + at->latent_norm_b,
                                       .y = a->lat1,
                                       .mean = a->lat_mean,
                                       .rstd = a->lat_rstd,
                                       .dy = a->d_lat1,
                                       .dx = a->d_lat0,
                                       .dw = net->grads + at->latent_norm_w,
                                       .db = net->grads + at->latent_norm_b};
    if (!code)
        code = net->ops->norm_relu_back(net->device, &norm, err);
    return code ? code
                : scd_net_linear_back(net, &at->latent0, net->n_cells, a->pooled, a->d_lat0,
                                      a->dpooled, 0, err);
}

static scd_code embed_back(scd_net *net, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    float *grads = net->grads;
    const scd_t_embed_back tokens = {.t = scd_net_tokens(net),
                                     .dtok = a->d_tok,
                                     .dpooled = a->dpooled,
                                     .dclean = a->d_clean,
                                     .dtable = grads + at->gene_embedding,
                                     .dgene_mask = grads + at->gene_mask,
                                     .dvalue_mask = grads + at->value_mask};
    scd_code code = net->ops->embed_back(net->device, &tokens, err);
    if (!code)
        code = scd_net_linear_back(net, &at->value2, net->n_rows, a->u, a->d_clean, a->du, 0, err);
    const scd_t_value_in_back value = {.rows = net->n_rows,
                                       .d = net->c.d,
                                       .x = net->dev.values,
                                       .u = a->u,
                                       .du = a->du,
                                       .ids = net->dev.ids,
                                       .dw = grads + at->value_w0,
                                       .db = grads + at->value_b0};
    return code ? code : net->ops->value_in_back(net->device, &value, err);
}

scd_code scd_net_latent_gradient(scd_net *net, const float *d_latents, scd_error *err)
{
    if (net->stage != NET_FORWARD)
        return scd_fail(err, SCD_E_INVALID, "no forward pass that a gradient could belong to");
    size_t n = net->n_cells * net->c.hidden_dim;
    return net->ops->add(net->device, d_latents, n, net->a.d_states, err);
}

scd_code scd_net_backward(scd_net *net, size_t first_layer, scd_error *err)
{
    size_t first, end;
    scd_code code = scd_net_trained(net, first_layer, &first, &end, err);
    if (code)
        return code;
    if (net->stage != NET_FORWARD)
        return scd_fail(err, SCD_E_INVALID, "one backward pass for each forward pass");
    net->stage = NET_BACKWARD;
    code = layers_back(net, first_layer, err);
    if (code || first_layer)
        return code;
    net_acts *a = &net->a;
    /* tok is 0 in [LAT] rows: z gives input_proj no gradient. */
    code =
        scd_net_linear_back(net, &net->at.input_proj, net->n_rows, a->tok, a->dh, a->d_tok, 0, err);
    if (!code && net->use_latent)
        code = latent_back(net, err);
    else if (!code)
        code = net->ops->zero(net->device, a->dpooled, net->n_cells * net->c.d, err);
    return code ? code : embed_back(net, err);
}
