/* net.c - see net.h: parameters, where they lie, and how they come and go.
 *
 * The tensors stand in one array in file order without gaps. That puts q, k and v of a layer side
 * by side, and gate and up, so that each group is one matrix to the products.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

#include "engine/base/mem.h"
#include "engine/train/init_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- places -------------------------------------------------------------------------------- */

static scd_code add_tensor(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    scd_net *net = arg;
    if (net->n_tensors == net->cap_tensors) {
        size_t cap = net->cap_tensors ? 2 * net->cap_tensors : 64;
        net_tensor *grown = scd_realloc(net->tensors, cap, sizeof *grown);
        if (!grown)
            return scd_fail(err, SCD_E_NOMEM, "out of memory");
        net->tensors = grown;
        net->cap_tensors = cap;
    }
    net_tensor t = {.rows = entry->rows, .cols = entry->cols, .first = net->n_params};
    if (!scd_size_mul(t.rows, t.cols ? t.cols : 1, &t.n) ||
        t.n > SIZE_MAX / sizeof(float) - net->n_params)
        return scd_fail(err, SCD_E_INVALID, "%s is too large", entry->name);
    if (!(t.name = scd_strdup(entry->name)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    net->n_params += t.n;
    net->tensors[net->n_tensors++] = t;
    return SCD_OK;
}

scd_code scd_net_tensor(const scd_net *net, const char *name, size_t *first, size_t *n,
                        scd_error *err)
{
    for (size_t i = 0; i < net->n_tensors; i++)
        if (!strcmp(net->tensors[i].name, name)) {
            *first = net->tensors[i].first;
            *n = net->tensors[i].n;
            return SCD_OK;
        }
    return scd_fail(err, SCD_E_NOT_FOUND, "the model has no tensor %s", name);
}

/* `names` (n of them, to be found side by side) together have `size` elements; *place is the
 * first's. */
static scd_code place(const scd_net *net, const char *prefix, const char *const *names, size_t n,
                      size_t size, size_t *out, scd_error *err)
{
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        char name[96];
        size_t first, length;
        snprintf(name, sizeof name, "%s%s", prefix, names[i]);
        scd_code code = scd_net_tensor(net, name, &first, &length, err);
        if (code)
            return code;
        if (i && first != end)
            return scd_fail(err, SCD_E_INTERNAL, "%s does not follow its neighbour", name);
        if (!i)
            *out = first;
        end = first + length;
    }
    if (end - *out != size)
        return scd_fail(err, SCD_E_INTERNAL, "%s%s has an unexpected size", prefix, names[0]);
    return SCD_OK;
}

static scd_code place_linear(const scd_net *net, const char *name, size_t in, size_t out, bool bias,
                             net_linear *l, scd_error *err)
{
    *l = (net_linear){.in = in, .out = out, .b = NET_NO_BIAS};
    scd_code code = place(net, name, (const char *[]){".weight"}, 1, in * out, &l->w, err);
    if (!code && bias)
        code = place(net, name, (const char *[]){".bias"}, 1, out, &l->b, err);
    return code;
}

static scd_code place_layer(scd_net *net, size_t i, scd_error *err)
{
    net_layer *l = &net->layers[i];
    size_t h = net->c.hidden_dim, ffn = net->c.ffn_dim;
    l->qkv = (net_linear){.in = h, .out = 3 * h, .b = NET_NO_BIAS};
    l->o = (net_linear){.in = h, .out = h, .b = NET_NO_BIAS};
    l->gate_up = (net_linear){.in = h, .out = 2 * ffn, .b = NET_NO_BIAS};
    l->down = (net_linear){.in = ffn, .out = h, .b = NET_NO_BIAS};
    const struct {
        const char *names[3];
        size_t n, size, *out;
    } table[] = {
        {{"norm1.weight"}, 1, h, &l->norm1},
        {{"attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"},
         3,
         3 * h * h,
         &l->qkv.w},
        {{"attn.o_proj.weight"}, 1, h * h, &l->o.w},
        {{"norm2.weight"}, 1, h, &l->norm2},
        {{"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 2, 2 * ffn * h, &l->gate_up.w},
        {{"mlp.down_proj.weight"}, 1, h * ffn, &l->down.w},
    };
    char prefix[40];
    snprintf(prefix, sizeof prefix, "layers.%zu.", i);
    scd_code code = SCD_OK;
    for (size_t j = 0; j < sizeof table / sizeof table[0] && !code; j++)
        code = place(net, prefix, table[j].names, table[j].n, table[j].size, table[j].out, err);
    return code;
}

static scd_code place_linears(scd_net *net, scd_error *err)
{
    net_places *at = &net->at;
    size_t d = net->c.d, h = net->c.hidden_dim;
    const struct {
        const char *name;
        size_t in, out;
        bool bias;
        net_linear *l;
    } table[] = {
        {"value_encoder.2", d, d, true, &at->value2},
        {"input_proj", d, h, false, &at->input_proj},
        {"latent_encoder.mlp.0", d, h, true, &at->latent0},
        {"latent_encoder.mlp.3", h, h, true, &at->latent3},
        {"value_head.0", h, SCD_VALUE_HEAD_DIM, true, &at->value_head0},
        {"value_head.2", SCD_VALUE_HEAD_DIM, 1, true, &at->value_head2},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof table / sizeof table[0] && !code; i++)
        code = place_linear(net, table[i].name, table[i].in, table[i].out, table[i].bias,
                            table[i].l, err);
    return code;
}

static scd_code place_all(scd_net *net, scd_error *err)
{
    net_places *at = &net->at;
    size_t d = net->c.d, h = net->c.hidden_dim;
    const struct {
        const char *name;
        size_t n, *out;
    } table[] = {
        {"gene_embedding.weight", net->c.vocab * d, &at->gene_embedding},
        {"value_encoder.0.weight", d, &at->value_w0},
        {"value_encoder.0.bias", d, &at->value_b0},
        {"value_mask_emb", d, &at->value_mask},
        {"gene_mask_emb", d, &at->gene_mask},
        {"latent_encoder.mlp.1.weight", h, &at->latent_norm_w},
        {"latent_encoder.mlp.1.bias", h, &at->latent_norm_b},
        {"final_norm.weight", h, &at->final_norm},
        {"gene_head.weight", net->c.vocab * h, &at->gene_head},
    };
    scd_code code = scd_model_each_tensor(&net->c, add_tensor, net, err);
    for (size_t i = 0; i < sizeof table / sizeof table[0] && !code; i++)
        code = place(net, "", &table[i].name, 1, table[i].n, table[i].out, err);
    if (!code)
        code = place_linears(net, err);
    for (size_t i = 0; i < net->c.n_layers && !code; i++)
        code = place_layer(net, i, err);
    return code;
}

/* ---- new and free -------------------------------------------------------------------------- */

static scd_code zeros(scd_net *net, float **out, scd_error *err)
{
    void *memory = NULL;
    scd_code code = net->be->alloc(net->device, net->n_params * sizeof(float), &memory, err);
    *out = memory;
    return code ? code : net->ops->zero(net->device, *out, net->n_params, err);
}

static scd_code build(scd_net *net, scd_error *err)
{
    scd_code code = scd_model_config_check(&net->c, err);
    if (code)
        return code;
    if (net->max_rows < 2 || net->max_rows > INT32_MAX)
        return scd_fail(err, SCD_E_INVALID, "a micro-batch of %zu rows: at least 2, at most %d",
                        net->max_rows, INT32_MAX);
    if (!(net->layers = scd_calloc(net->c.n_layers, sizeof *net->layers)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    float **const arrays[] = {&net->params, &net->grads, &net->m, &net->v};
    code = place_all(net, err);
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0] && !code; i++)
        code = zeros(net, arrays[i], err);
    return code ? code : scd_net_allocate(net, err);
}

scd_code scd_net_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                     const scd_model_config *config, const scd_net_options *options, scd_net **out,
                     scd_error *err)
{
    *out = NULL;
    if (ops->abi != SCD_BACKEND_ABI || ops->size != sizeof *ops)
        return scd_fail(err, SCD_E_DEVICE, "the %s backend trains by another version of its table",
                        backend->name);
    scd_net *net = scd_calloc(1, sizeof *net);
    if (!net)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    net->be = backend;
    net->ops = ops;
    net->device = device;
    net->c = *config;
    net->max_rows = options->max_rows;
    scd_code code = build(net, err);
    if (code) {
        scd_net_free(net);
        return code;
    }
    *out = net;
    return SCD_OK;
}

void scd_net_free(scd_net *net)
{
    if (!net)
        return;
    scd_net_free_memory(net);
    net->be->free(net->device, net->v);
    net->be->free(net->device, net->m);
    net->be->free(net->device, net->grads);
    net->be->free(net->device, net->params);
    for (size_t i = 0; i < net->n_tensors; i++)
        free(net->tensors[i].name);
    free(net->tensors);
    free(net->layers);
    free(net);
}

const scd_model_config *scd_net_config(const scd_net *net)
{
    return &net->c;
}

size_t scd_net_n_params(const scd_net *net)
{
    return net->n_params;
}

float *scd_net_params(scd_net *net)
{
    return net->params;
}

float *scd_net_grads(scd_net *net)
{
    return net->grads;
}

/* ---- parameters in and out ----------------------------------------------------------------- */

/* Room on the host for the largest tensor. */
static float *tensor_room(const scd_net *net)
{
    size_t most = 0;
    for (size_t i = 0; i < net->n_tensors; i++)
        most = net->tensors[i].n > most ? net->tensors[i].n : most;
    return scd_malloc(most, sizeof(float));
}

scd_code scd_net_load(scd_net *net, const scd_safetensors *tensors, scd_error *err)
{
    float *room = tensor_room(net);
    scd_code code = room ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory loading weights");
    for (size_t i = 0; i < net->n_tensors && !code; i++) {
        const net_tensor *t = &net->tensors[i];
        scd_tensor found;
        code = scd_safetensors_get(tensors, t->name, t->rows, t->cols, &found, err);
        if (code)
            break;
        scd_tensor_to_f32(&found, 0, t->n, room);
        scd_safetensors_forget(tensors, &found);
        code = net->be->upload(net->device, net->params + t->first, room, t->n * sizeof *room, err);
    }
    free(room);
    return code;
}

static scd_tensor_entry entry_of(const net_tensor *t, scd_dtype dtype)
{
    return (scd_tensor_entry){.name = t->name, .dtype = dtype, .rows = t->rows, .cols = t->cols};
}

scd_code scd_net_randomize(scd_net *net, uint64_t seed, scd_error *err)
{
    float *room = tensor_room(net);
    scd_code code = room ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory for weights");
    for (size_t i = 0; i < net->n_tensors && !code; i++) {
        const net_tensor *t = &net->tensors[i];
        scd_tensor_entry entry = entry_of(t, SCD_F32);
        scd_init_weights_fill(&entry, i, seed, 0, t->n, room);
        code = net->be->upload(net->device, net->params + t->first, room, t->n * sizeof *room, err);
    }
    free(room);
    return code;
}

typedef struct source {
    const scd_net *net;
    const float *params; /* host */
} source;

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    const source *s = arg;
    memcpy(out, s->params + s->net->tensors[entry].first + first, n * sizeof *out);
}

scd_code scd_net_save(scd_net *net, const char *path, scd_dtype dtype, scd_error *err)
{
    scd_code code = SCD_OK;
    /* All of it first: a device that fails half-way must not leave a file that looks whole. */
    float *host = scd_malloc(net->n_params, sizeof *host);
    scd_tensor_entry *entries = scd_malloc(net->n_tensors, sizeof *entries);
    if (!host || !entries) {
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
        goto done;
    }
    code = net->be->download(net->device, host, net->params, net->n_params * sizeof *host, err);
    if (code)
        goto done;
    for (size_t i = 0; i < net->n_tensors; i++)
        entries[i] = entry_of(&net->tensors[i], dtype);
    source s = {net, host};
    code = scd_safetensors_write(path, entries, net->n_tensors, fill, &s, err);
done:
    free(entries);
    free(host);
    return code;
}

scd_code scd_net_export_state(scd_net *net, float *params, float *m, float *v, scd_error *err)
{
    float *to[] = {params, m, v}, *from[] = {net->params, net->m, net->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (to[i])
            code =
                net->be->download(net->device, to[i], from[i], net->n_params * sizeof *params, err);
    return code;
}

scd_code scd_net_import_state(scd_net *net, const float *params, const float *m, const float *v,
                              scd_error *err)
{
    const float *from[] = {params, m, v};
    float *to[] = {net->params, net->m, net->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (from[i])
            code =
                net->be->upload(net->device, to[i], from[i], net->n_params * sizeof *params, err);
    return code;
}
