/* net_memory.c - the activations of a net: one allocation carved by a table of names and shapes.
 *
 * Every block is sized for max_rows rows, so that nothing is allocated for a batch. A cell has at
 * least two rows: there are at most max_rows / 2 cells.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>

/* A block being carved; base NULL: only its size is wanted. */
typedef struct knife {
    char *base;
    size_t at;
    bool overflow;
} knife;

/* rows * width elements of four bytes or one, on a cache line of their own. */
static void *carve(knife *k, size_t rows, size_t width, size_t element)
{
    void *here = k->base ? k->base + k->at : NULL;
    size_t bytes;
    if (!scd_size_mul(rows, width, &bytes) || !scd_size_mul(bytes, element, &bytes) ||
        bytes > SIZE_MAX / 4 - k->at)
        k->overflow = true;
    else
        k->at += (bytes + 63) & ~(size_t)63;
    return here;
}

static void carve_staging(knife *k, size_t rows, net_staging *s)
{
    s->cu_rows = carve(k, rows / 2 + 1, 1, sizeof *s->cu_rows);
    s->seen = carve(k, rows, 1, sizeof *s->seen);
    s->gene_seen = carve(k, rows, 1, sizeof *s->gene_seen);
    s->pos = carve(k, rows, 1, sizeof *s->pos);
    s->ids = carve(k, rows, 1, sizeof *s->ids);
    s->gene_targets = carve(k, rows, 1, sizeof *s->gene_targets);
    s->values = carve(k, rows, 1, sizeof *s->values);
    s->targets = carve(k, rows, 1, sizeof *s->targets);
    s->hidden = carve(k, rows, 1, sizeof *s->hidden);
}

static void carve_layer(knife *k, const scd_net *net, net_layer *l)
{
    size_t rows = net->max_rows, h = net->c.hidden_dim, ffn = net->c.ffn_dim;
    const struct {
        float **out;
        size_t width;
    } table[] = {
        {&l->h, h},     {&l->rstd1, 1},
        {&l->n1, h},    {&l->qkv_out, 3 * h},
        {&l->att, h},   {&l->lse, net->c.n_heads},
        {&l->h_mid, h}, {&l->rstd2, 1},
        {&l->n2, h},    {&l->gate_up_out, 2 * ffn},
        {&l->ffn, ffn},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        *table[i].out = carve(k, rows, table[i].width, sizeof(float));
}

static void carve_acts(knife *k, scd_net *net)
{
    net_acts *a = &net->a;
    size_t rows = net->max_rows, cells = rows / 2;
    size_t d = net->c.d, h = net->c.hidden_dim, ffn = net->c.ffn_dim;
    size_t wide = 3 * h > 2 * ffn ? 3 * h : 2 * ffn;
    const struct {
        float **out;
        size_t rows, width;
    } table[] = {
        {&a->u, rows, d},
        {&a->clean, rows, d},
        {&a->tok, rows, d},
        {&a->pooled, cells, d},
        {&a->lat0, cells, h},
        {&a->lat1, cells, h},
        {&a->z, cells, h},
        {&a->lat_mean, cells, 1},
        {&a->lat_rstd, cells, 1},
        {&a->att_seen, rows, h},
        {&a->h_out, rows, h},
        {&a->rstd_out, rows, 1},
        {&a->states, rows, h},
        {&a->gene_x, rows, h},
        {&a->d_gene_x, rows, h},
        {&a->gene_loss, rows, 1},
        {&a->value_hidden, rows, SCD_VALUE_HEAD_DIM},
        {&a->d_value_hidden, rows, SCD_VALUE_HEAD_DIM},
        {&a->value, rows, 1},
        {&a->d_value, rows, 1},
        {&a->d_states, rows, h},
        {&a->dh_seen, rows, h},
        {&a->d_att_seen, rows, h},
        {&a->dh, rows, h},
        {&a->d_att, rows, h},
        {&a->dn, rows, h},
        {&a->d_wide, rows, wide},
        {&a->d_ffn, rows, ffn},
        {&a->d_tok, rows, d},
        {&a->d_clean, rows, d},
        {&a->du, rows, d},
        {&a->dpooled, cells, d},
        {&a->dz, cells, h},
        {&a->d_lat0, cells, h},
        {&a->d_lat1, cells, h},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        *table[i].out = carve(k, table[i].rows, table[i].width, sizeof(float));
    a->gene_best = carve(k, rows, 1, sizeof *a->gene_best);
    for (size_t i = 0; i < net->c.n_layers; i++)
        carve_layer(k, net, &net->layers[i]);
}

static scd_code allocate_staging(scd_net *net, scd_error *err)
{
    knife k = {0};
    carve_staging(&k, net->max_rows, &net->host);
    net->staging_bytes = k.at;
    net->host_block = k.overflow ? NULL : scd_calloc(k.at, 1);
    if (!net->host_block)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", net->max_rows);
    carve_staging(&(knife){.base = net->host_block}, net->max_rows, &net->host);
    scd_code code = net->be->alloc(net->device, net->staging_bytes, &net->device_block, err);
    if (!code)
        carve_staging(&(knife){.base = net->device_block}, net->max_rows, &net->dev);
    return code;
}

scd_code scd_net_allocate(scd_net *net, scd_error *err)
{
    size_t rows = net->max_rows;
    scd_code code = allocate_staging(net, err);
    if (code)
        return code;
    knife k = {0};
    carve_acts(&k, net);
    if (k.overflow)
        return scd_fail(err, SCD_E_NOMEM, "a batch of %zu rows is too large", rows);
    code = net->be->alloc(net->device, k.at, &net->activations, err);
    if (code)
        return code;
    carve_acts(&(knife){.base = net->activations}, net);
    if (!(net->host_value = scd_malloc(3 * rows, sizeof *net->host_value)) ||
        !(net->host_gene = scd_malloc(rows, sizeof *net->host_gene)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", rows);
    net->host_d_value = net->host_value + rows;
    net->host_gene_loss = net->host_d_value + rows;
    return SCD_OK;
}

void scd_net_free_memory(scd_net *net)
{
    free(net->host_gene);
    free(net->host_value);
    net->be->free(net->device, net->activations);
    net->be->free(net->device, net->device_block);
    free(net->host_block);
}
