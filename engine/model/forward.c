/* forward.c - see forward.h.
 *
 * Weight matrices are packed by the backend; vectors (norms, biases, mask embeddings) lie in one
 * device buffer; activations in another, carved by the table in carve(). Batches are staged in one
 * host block and uploaded in one copy. */
#include "engine/model/forward_impl.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- weights ------------------------------------------------------------------------------- */

/* Where the tensor comes from. */
static const scd_safetensors *file_of(const scd_forward *f, const char *name)
{
    bool changed = f->overlay && scd_safetensors_has(f->overlay, name, NULL);
    return changed ? f->overlay : scd_model_tensors(f->model);
}

/* Floats that a vector of n takes: the next one starts at a multiple of 16 bytes (backend.h). */
static size_t room_of(size_t n)
{
    return (n + 3) & ~(size_t)3;
}

/* cols is 1 for value_encoder.0.weight, which the format writes as d x 1, and 0 for vectors. */
static scd_code load_column(scd_forward *f, const char *name, size_t n, size_t cols, float **out,
                            scd_error *err)
{
    scd_tensor t;
    scd_code code = scd_safetensors_get(file_of(f, name), name, n, cols, &t, err);
    if (code)
        return code;
    if (f->vectors_cap - f->vectors_used < room_of(n))
        return scd_fail(err, SCD_E_INTERNAL, "no room for vector %s", name);
    float *host = scd_malloc(n, sizeof *host);
    if (!host)
        return scd_fail(err, SCD_E_NOMEM, "out of memory loading %s", name);
    scd_tensor_to_f32(&t, 0, n, host);
    *out = f->vectors + f->vectors_used;
    f->vectors_used += room_of(n);
    code = f->be->upload(f->device, *out, host, n * sizeof *host, err);
    free(host);
    return code;
}

static scd_code load_vector(scd_forward *f, const char *name, size_t n, float **out, scd_error *err)
{
    return load_column(f, name, n, 0, out, err);
}

typedef struct part {
    const char *name;
    size_t rows;
} part;

/* Stack the parts (each rows x cols), pack them and give their file pages back. Where no part is
 * changed the matrix of the base is in *out already. */
static scd_code load_matrix(scd_forward *f, const part *parts, size_t n_parts, size_t cols,
                            unsigned uses, scd_matrix **out, scd_error *err)
{
    scd_tensor t[3];
    bool changed = !f->base;
    for (size_t i = 0; i < n_parts; i++)
        changed = changed || file_of(f, parts[i].name) == f->overlay;
    if (!changed)
        return SCD_OK;
    *out = NULL;
    for (size_t i = 0; i < n_parts; i++) {
        scd_code code = scd_safetensors_get(file_of(f, parts[i].name), parts[i].name, parts[i].rows,
                                            cols, &t[i], err);
        if (code)
            return code;
    }
    scd_code code = f->be->matrix_pack(f->device, t, n_parts, uses, out, err);
    for (size_t i = 0; i < n_parts; i++)
        scd_safetensors_forget(file_of(f, parts[i].name), &t[i]);
    return code;
}

/* "layers.3.attn.q_proj.weight" */
static const char *layer_name(char buf[64], size_t i, const char *suffix)
{
    snprintf(buf, 64, "layers.%zu.%s", i, suffix);
    return buf;
}

static scd_code load_layer(scd_forward *f, size_t i, scd_error *err)
{
    layer *l = &f->layers[i];
    size_t h = f->c.hidden_dim, ffn = f->c.ffn_dim;
    char n[4][64];
    part qkv[3] = {{layer_name(n[0], i, "attn.q_proj.weight"), h},
                   {layer_name(n[1], i, "attn.k_proj.weight"), h},
                   {layer_name(n[2], i, "attn.v_proj.weight"), h}};
    scd_code code = load_matrix(f, qkv, 3, h, 0, &l->qkv, err);
    if (!code)
        code = load_matrix(f, &(part){layer_name(n[0], i, "attn.o_proj.weight"), h}, 1, h, 0, &l->o,
                           err);
    part gate_up[2] = {{layer_name(n[1], i, "mlp.gate_proj.weight"), ffn},
                       {layer_name(n[2], i, "mlp.up_proj.weight"), ffn}};
    if (!code)
        code = load_matrix(f, gate_up, 2, h, 0, &l->gate_up, err);
    if (!code)
        code = load_matrix(f, &(part){layer_name(n[3], i, "mlp.down_proj.weight"), h}, 1, ffn, 0,
                           &l->down, err);
    if (!code)
        code = load_vector(f, layer_name(n[0], i, "norm1.weight"), h, &l->norm1, err);
    if (!code)
        code = load_vector(f, layer_name(n[0], i, "norm2.weight"), h, &l->norm2, err);
    return code;
}

static scd_code load_vectors(scd_forward *f, scd_error *err)
{
    size_t d = f->c.d, h = f->c.hidden_dim;
    const struct {
        const char *name;
        size_t n;
        float **out;
    } table[] = {
        {"value_encoder.0.bias", d, &f->value_b0},
        {"value_encoder.2.bias", d, &f->value_b2},
        {"value_mask_emb", d, &f->value_mask},
        {"gene_mask_emb", d, &f->gene_mask},
        {"latent_encoder.mlp.0.bias", h, &f->latent_b0},
        {"latent_encoder.mlp.1.weight", h, &f->latent_norm_w},
        {"latent_encoder.mlp.1.bias", h, &f->latent_norm_b},
        {"latent_encoder.mlp.3.bias", h, &f->latent_b3},
        {"final_norm.weight", h, &f->final_norm},
    };
    f->vectors_cap = 5 * room_of(d) + (5 + 2 * f->c.n_layers) * room_of(h);
    void *memory = NULL;
    scd_code code = f->be->alloc(f->device, f->vectors_cap * sizeof(float), &memory, err);
    f->vectors = memory;
    if (!code)
        code = load_column(f, "value_encoder.0.weight", d, 1, &f->value_w0, err);
    for (size_t i = 0; i < sizeof table / sizeof table[0] && !code; i++)
        code = load_vector(f, table[i].name, table[i].n, table[i].out, err);
    return code;
}

static scd_code load_gene_embedding(scd_forward *f, scd_error *err)
{
    static const char name[] = "gene_embedding.weight";
    const scd_safetensors *file = file_of(f, name);
    scd_tensor table;
    if (f->base && file != f->overlay)
        return SCD_OK;
    f->gene_embedding = NULL;
    scd_code code = scd_safetensors_get(file, name, f->c.vocab, f->c.d, &table, err);
    if (!code)
        code = f->be->table_load(f->device, &table, &f->gene_embedding, err);
    f->gene_embedding_dtype = table.dtype;
    return code;
}

static scd_code load_weights(scd_forward *f, scd_error *err)
{
    size_t d = f->c.d, h = f->c.hidden_dim;
    scd_code code = load_gene_embedding(f, err);
    if (!code)
        code = load_vectors(f, err);
    if (!code)
        code = load_matrix(f, &(part){"value_encoder.2.weight", d}, 1, d, SCD_FOR_BIAS,
                           &f->value_w2, err);
    if (!code)
        code = load_matrix(f, &(part){"input_proj.weight", h}, 1, d, 0, &f->input_proj, err);
    if (!code)
        code = load_matrix(f, &(part){"latent_encoder.mlp.0.weight", h}, 1, d, SCD_FOR_BIAS,
                           &f->latent_w0, err);
    if (!code)
        code = load_matrix(f, &(part){"latent_encoder.mlp.3.weight", h}, 1, h, SCD_FOR_BIAS,
                           &f->latent_w3, err);
    for (size_t i = 0; i < f->c.n_layers && !code; i++)
        code = load_layer(f, i, err);
    return code;
}

/* ---- memory -------------------------------------------------------------------------------- */

/* A block being carved; base NULL: only its size is wanted. */
typedef struct knife {
    char *base;
    size_t at;
} knife;

/* The next `bytes` of the block, on a cache line of their own. */
static void *carve(knife *k, size_t bytes)
{
    void *here = k->base ? k->base + k->at : NULL;
    k->at += (bytes + 63) & ~(size_t)63;
    return here;
}

size_t scd_forward_carve_staging(char *base, size_t rows, staging *s)
{
    knife k = {base, 0};
    s->cu_rows = carve(&k, (rows + 1) * sizeof *s->cu_rows);
    s->cu_want = carve(&k, (rows + 1) * sizeof *s->cu_want);
    s->want = carve(&k, rows * sizeof *s->want);
    s->wpos = carve(&k, rows * sizeof *s->wpos);
    s->pos = carve(&k, rows * sizeof *s->pos);
    s->ids = carve(&k, rows * sizeof *s->ids);
    s->values = carve(&k, rows * sizeof *s->values);
    s->hidden = carve(&k, rows * sizeof *s->hidden);
    return k.at;
}

/* One table of names and shapes; called with base NULL to learn the size. */
static size_t carve_activations(scd_forward *f, char *base, size_t act_bytes)
{
    size_t rows = f->max_rows, d = f->c.d, h = f->c.hidden_dim;
    knife k = {base, 0};
    f->clean = carve(&k, rows * d * sizeof(float));
    f->h = carve(&k, rows * h * sizeof(float));
    f->h_want = carve(&k, rows * h * sizeof(float));
    f->states = carve(&k, rows * h * sizeof(float));
    f->q = carve(&k, rows * h * act_bytes);
    f->k = carve(&k, rows * h * act_bytes);
    f->v = carve(&k, rows * h * act_bytes);
    f->att = carve(&k, rows * h * act_bytes);
    return k.at;
}

static scd_code allocate_slots(scd_forward *f, size_t staging_bytes, scd_error *err)
{
    size_t bytes = scd_forward_slot_cells(f->max_rows) * f->c.hidden_dim * sizeof(float);
    scd_code code = SCD_OK;
    for (int i = 0; i < SCD_SLOTS && !code; i++) {
        void *states = NULL;
        code = f->be->alloc(f->device, staging_bytes, &f->slot_block[i], err);
        if (!code)
            code = f->be->alloc(f->device, bytes, &states, err);
        f->slot_states[i] = states;
    }
    return code;
}

static scd_code allocate(scd_forward *f, scd_error *err)
{
    size_t staging_bytes = scd_forward_carve_staging(NULL, f->max_rows, &f->host);
    f->host_block = scd_calloc(staging_bytes, 1);
    f->cells = scd_calloc(f->max_rows / 2 + 1, sizeof *f->cells); /* a cell has at least two rows */
    if (!f->host_block || !f->cells)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", f->max_rows);
    scd_code code = f->be->alloc(f->device, staging_bytes, &f->device_block, err);
    if (code)
        return code;
    size_t act_bytes = f->be->info(f->device)->act_bytes;
    size_t bytes = carve_activations(f, NULL, act_bytes);
    code = f->be->alloc(f->device, bytes, &f->activations, err);
    if (code)
        return code;
    carve_activations(f, f->activations, act_bytes);
    code = f->be->slot_begin ? allocate_slots(f, staging_bytes, err) : SCD_OK;
    if (code)
        return code;
    return f->be->reserve(f->device, f->max_rows, f->c.hidden_dim, f->c.ffn_dim, f->c.d, err);
}

scd_code scd_forward_open(const scd_backend *backend, scd_device *device, const scd_model *model,
                          size_t max_rows, scd_forward **out, scd_error *err)
{
    *out = NULL;
    scd_forward *f = scd_calloc(1, sizeof *f);
    if (!f)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    f->be = backend;
    f->device = device;
    f->model = model;
    f->c = *scd_model_get_config(model);
    f->max_rows = max_rows;
    f->layers = scd_calloc(f->c.n_layers, sizeof *f->layers);
    scd_code code = f->layers ? load_weights(f, err) : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = allocate(f, err);
    if (code) {
        scd_forward_close(f);
        return code;
    }
    *out = f;
    return SCD_OK;
}

scd_code scd_forward_open_over(const scd_forward *base, const scd_safetensors *overlay,
                               scd_forward **out, scd_error *err)
{
    *out = NULL;
    size_t n_layers = base->c.n_layers;
    scd_forward *f = scd_malloc(1, sizeof *f);
    if (!f)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    *f = *base;
    f->base = base;
    f->overlay = overlay;
    f->recorded = (scd_recorded){0}; /* those of the base name the base's weights */
    f->vectors = NULL;
    f->vectors_used = 0;
    f->layers = scd_malloc(n_layers, sizeof *f->layers);
    scd_code code = f->layers ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code) {
        memcpy(f->layers, base->layers, n_layers * sizeof *f->layers);
        code = load_weights(f, err);
    }
    if (code) {
        scd_forward_close(f);
        return code;
    }
    *out = f;
    return SCD_OK;
}

/* Free a matrix unless it is the base's. */
static void drop_matrix(scd_forward *f, scd_matrix *mine, const scd_matrix *of_base)
{
    if (!f->base || mine != of_base)
        f->be->matrix_free(f->device, mine);
}

void scd_forward_close(scd_forward *f)
{
    if (!f)
        return;
    const scd_forward *b = f->base ? f->base : f;
    scd_recorded_release(&f->recorded, f->be, f->device);
    if (!f->base) {
        for (int i = 0; i < SCD_SLOTS; i++) {
            f->be->free(f->device, f->slot_states[i]);
            f->be->free(f->device, f->slot_block[i]);
        }
        f->be->free(f->device, f->activations);
        f->be->free(f->device, f->device_block);
        free(f->host_block);
        free(f->cells);
    }
    for (size_t i = 0; f->layers && i < f->c.n_layers; i++) {
        drop_matrix(f, f->layers[i].qkv, b->layers[i].qkv);
        drop_matrix(f, f->layers[i].o, b->layers[i].o);
        drop_matrix(f, f->layers[i].gate_up, b->layers[i].gate_up);
        drop_matrix(f, f->layers[i].down, b->layers[i].down);
    }
    drop_matrix(f, f->value_w2, b->value_w2);
    drop_matrix(f, f->input_proj, b->input_proj);
    drop_matrix(f, f->latent_w0, b->latent_w0);
    drop_matrix(f, f->latent_w3, b->latent_w3);
    f->be->free(f->device, f->vectors);
    if (!f->base || f->gene_embedding != b->gene_embedding)
        f->be->free(f->device, f->gene_embedding);
    free(f->layers);
    free(f);
}
