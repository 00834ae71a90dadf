/* net_loss.c - the two losses of the pre-training objective over the rows of M (SPEC section 1).
 *
 * States of the rows of M are rows C, C + 1, ... of the seen ones: the value head reads them where
 * they lie. Sums are float64 on the host, in row order.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

static scd_code gene_loss(scd_net *net, float scale, scd_net_loss *out, scd_error *err)
{
    net_acts *a = &net->a;
    size_t n = net->n_gene, h = net->c.hidden_dim;
    const scd_t_rows get = {
        .n = n, .width = h, .index = net->dev.gene_seen, .src = a->states, .dst = a->gene_x};
    scd_code code = net->ops->rows_get(net->device, &get, err);
    bool wanted = scale != 0.0f;
    const scd_t_gene_loss args = {.n = n,
                                  .hidden_dim = h,
                                  .vocab = net->c.vocab,
                                  .x = a->gene_x,
                                  .w = net->params + net->at.gene_head,
                                  .targets = net->dev.gene_targets,
                                  .scale = scale,
                                  .loss = a->gene_loss,
                                  .best = a->gene_best,
                                  .dx = wanted ? a->d_gene_x : NULL,
                                  .dw = wanted ? net->grads + net->at.gene_head : NULL};
    if (!code)
        code = net->ops->gene_loss(net->device, &args, err);
    const scd_t_rows add = {
        .n = n, .width = h, .index = net->dev.gene_seen, .src = a->d_gene_x, .dst = a->d_states};
    if (!code && wanted)
        code = net->ops->rows_add(net->device, &add, err);
    if (!code)
        code = net->be->synchronize(net->device, err);
    if (!code)
        code = net->be->download(net->device, net->host_gene_loss, a->gene_loss,
                                 n * sizeof *net->host_gene_loss, err);
    if (!code)
        code = net->be->download(net->device, net->host_gene, a->gene_best,
                                 n * sizeof *net->host_gene, err);
    for (size_t i = 0; i < n && !code; i++) {
        out->gene_sum += (double)net->host_gene_loss[i];
        out->n_right += net->host_gene[i] == net->host.gene_targets[i];
    }
    return code;
}

/* value_head's gradients from d_value, which is scale d/dv (v - target)^2 */
static scd_code value_back(scd_net *net, const float *x, float *dx, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    size_t n = net->n_value;
    scd_code code =
        net->be->upload(net->device, a->d_value, net->host_d_value, n * sizeof *a->d_value, err);
    if (!code)
        code = scd_net_linear_back(net, &at->value_head2, n, a->value_hidden, a->d_value,
                                   a->d_value_hidden, 0, err);
    if (!code)
        code = net->ops->relu_back(net->device, a->value_hidden, n * SCD_VALUE_HEAD_DIM,
                                   a->d_value_hidden, err);
    return code ? code
                : scd_net_linear_back(net, &at->value_head0, n, x, a->d_value_hidden, dx, 1, err);
}

static scd_code value_loss(scd_net *net, float scale, scd_net_loss *out, scd_error *err)
{
    const net_places *at = &net->at;
    net_acts *a = &net->a;
    size_t n = net->n_value, first = net->n_cells * net->c.hidden_dim;
    const float *x = a->states + first;
    scd_code code = scd_net_linear(net, &at->value_head0, n, x, a->value_hidden, err);
    if (!code)
        code = net->ops->relu(net->device, a->value_hidden, n * SCD_VALUE_HEAD_DIM, err);
    if (!code)
        code = scd_net_linear(net, &at->value_head2, n, a->value_hidden, a->value, err);
    if (!code)
        code = net->be->synchronize(net->device, err);
    if (!code)
        code = net->be->download(net->device, net->host_value, a->value,
                                 n * sizeof *net->host_value, err);
    if (code)
        return code;
    for (size_t i = 0; i < n; i++) {
        double off = (double)net->host_value[i] - (double)net->host.targets[i];
        out->value_sum += off * off;
        net->host_d_value[i] = (float)(2 * (double)scale * off);
    }
    return scale != 0.0f ? value_back(net, x, a->d_states + first, err) : SCD_OK;
}

scd_code scd_net_pretrain_loss(scd_net *net, float gene_scale, float value_scale, scd_net_loss *out,
                               scd_error *err)
{
    *out = (scd_net_loss){.n_gene = net->n_gene, .n_value = net->n_value};
    if (net->stage != NET_FORWARD)
        return scd_fail(err, SCD_E_INVALID, "no forward pass that a loss could belong to");
    scd_code code = net->n_gene ? gene_loss(net, gene_scale, out, err) : SCD_OK;
    if (!code && net->n_value)
        code = value_loss(net, value_scale, out, err);
    net->has_loss = !code;
    return code;
}

scd_code scd_net_get_predictions(scd_net *net, scd_net_predictions *out, scd_error *err)
{
    if (!net->has_loss)
        return scd_fail(err, SCD_E_INVALID, "no predictions before a loss");
    *out = (scd_net_predictions){
        .value = net->host_value, .gene = net->host_gene, .gene_loss = net->host_gene_loss};
    return SCD_OK;
}
