/* net_update.c - one step of AdamW over what is trained, the gradient's norm clipped before.
 *
 * Decay pulls matrices towards 0 and nothing else: not norms and biases, and not the embeddings
 * (genes and masks), whose rows get a gradient only where their gene occurs and would fade in
 * between.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

#include <math.h>
#include <string.h>

scd_code scd_net_trained(const scd_net *net, size_t first_layer, size_t *first, size_t *end,
                         scd_error *err)
{
    *first = 0;
    *end = net->n_params;
    if (first_layer > net->c.n_layers)
        return scd_fail(err, SCD_E_INVALID, "train from layer %zu on: there are %zu", first_layer,
                        net->c.n_layers);
    if (!first_layer)
        return SCD_OK;
    bool some = first_layer < net->c.n_layers;
    *first = some ? net->layers[first_layer].norm1 : net->at.final_norm;
    *end = net->at.final_norm + net->c.hidden_dim;
    return SCD_OK;
}

scd_code scd_net_zero_grads(scd_net *net, scd_error *err)
{
    return net->ops->zero(net->device, net->grads, net->n_params, err);
}

static bool decays(const net_tensor *t)
{
    return t->cols && strcmp(t->name, "gene_embedding.weight");
}

static scd_code move(scd_net *net, const scd_net_step *s, size_t first, size_t end, float scale,
                     scd_error *err)
{
    double steps = (double)s->step;
    scd_t_adamw args = {.lr = s->lr,
                        .beta1 = s->beta1,
                        .beta2 = s->beta2,
                        .eps = s->eps,
                        .grad_scale = scale,
                        .bias1 = (float)(1 - pow((double)s->beta1, steps)),
                        .bias2 = (float)(1 - pow((double)s->beta2, steps))};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < net->n_tensors && !code; i++) {
        const net_tensor *t = &net->tensors[i];
        if (t->first < first || t->first >= end)
            continue;
        args.n = t->n;
        args.w = net->params + t->first;
        args.g = net->grads + t->first;
        args.m = net->m + t->first;
        args.v = net->v + t->first;
        args.decay = decays(t) ? s->decay : 0;
        code = net->ops->adamw(net->device, &args, err);
    }
    return code;
}

scd_code scd_net_update(scd_net *net, const scd_net_step *s, double *norm, float *scale,
                        scd_error *err)
{
    size_t first, end;
    double squares = 0;
    *norm = 0;
    *scale = 1;
    scd_code code = scd_net_trained(net, s->first_layer, &first, &end, err);
    if (!code && !s->step)
        code = scd_fail(err, SCD_E_INVALID, "steps are counted from 1");
    if (!code)
        code = net->ops->sum_squares(net->device, net->grads + first, end - first, &squares, err);
    if (code)
        return code;
    *norm = sqrt(squares + s->extra_squares);
    if (!isfinite(*norm))
        return scd_fail(err, SCD_E_INVALID,
                        "the gradient of step %llu is not finite: use a smaller learning rate",
                        (unsigned long long)s->step);
    if (s->clip > 0 && *norm > (double)s->clip)
        *scale = (float)((double)s->clip / *norm);
    return move(net, s, first, end, *scale, err);
}
