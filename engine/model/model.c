/* model.c - see model.h.
 *
 * The three files are opened once each, and what is parsed, mapped and hashed is what those
 * descriptors show: a model that is replaced on disk meanwhile cannot end up with another's digest.
 * The digest thread reads the weights through read(2), so that hashing maps no page.
 *
 * Threads: any after open; `digest` runs from open until it has the digest.
 * Owns:    mapping, vocabulary, digest thread. */
#include "engine/model/model.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/model/file.h"
#include "engine/model/safetensors_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MAX_BYTES = 1 << 20, GENES_MAX_BYTES = 1 << 28 };

typedef struct source {
    char *path;
    int fd;
    size_t n_file;
    char *bytes; /* of config.json and genes.tsv, until hashed */
    size_t n;
} source;

struct scd_model {
    char *name;
    scd_model_config config;
    scd_vocab *vocab;
    scd_safetensors *tensors;
    size_t n_params;
    source config_file, weights_file, genes_file;
    scd_thread hasher;
    bool has_gate;
    scd_gate gate; /* guards what follows */
    bool digested;
    scd_digest digest;
    scd_error digest_error; /* code SCD_OK: the digest is good */
};

/* ---- the list of tensors --------------------------------------------------------------------- */

typedef enum { NONE, ONE, D, H, F, V, VALUE } dim;

typedef struct shape {
    const char *name;
    dim rows, cols;
} shape;

static const shape before_layers[] = {
    {"gene_embedding.weight", V, D},
    {"value_encoder.0.weight", D, ONE},
    {"value_encoder.0.bias", D, NONE},
    {"value_encoder.2.weight", D, D},
    {"value_encoder.2.bias", D, NONE},
    {"value_mask_emb", D, NONE},
    {"gene_mask_emb", D, NONE},
    {"input_proj.weight", H, D},
    {"latent_encoder.mlp.0.weight", H, D},
    {"latent_encoder.mlp.0.bias", H, NONE},
    {"latent_encoder.mlp.1.weight", H, NONE},
    {"latent_encoder.mlp.1.bias", H, NONE},
    {"latent_encoder.mlp.3.weight", H, H},
    {"latent_encoder.mlp.3.bias", H, NONE},
};

static const shape in_layer[] = {
    {"norm1.weight", H, NONE},      {"attn.q_proj.weight", H, H}, {"attn.k_proj.weight", H, H},
    {"attn.v_proj.weight", H, H},   {"attn.o_proj.weight", H, H}, {"norm2.weight", H, NONE},
    {"mlp.gate_proj.weight", F, H}, {"mlp.up_proj.weight", F, H}, {"mlp.down_proj.weight", H, F},
};

static const shape after_layers[] = {
    {"final_norm.weight", H, NONE},      {"gene_head.weight", V, H},
    {"value_head.0.weight", VALUE, H},   {"value_head.0.bias", VALUE, NONE},
    {"value_head.2.weight", ONE, VALUE}, {"value_head.2.bias", ONE, NONE},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static size_t size_of(const scd_model_config *config, dim which)
{
    switch (which) {
    case ONE:
        return 1;
    case D:
        return config->d;
    case H:
        return config->hidden_dim;
    case F:
        return config->ffn_dim;
    case V:
        return config->vocab;
    case VALUE:
        return SCD_VALUE_HEAD_DIM;
    case NONE:
        break;
    }
    return 0;
}

static scd_code visit(const scd_model_config *config, const shape *shapes, size_t n,
                      const char *prefix, scd_model_tensor_visit *each, void *arg, scd_error *err)
{
    char name[96];
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, shapes[i].name);
        const scd_tensor_entry entry = {.name = name,
                                        .dtype = SCD_F32,
                                        .rows = size_of(config, shapes[i].rows),
                                        .cols = size_of(config, shapes[i].cols)};
        scd_code code = each(arg, &entry, err);
        if (code)
            return code;
    }
    return SCD_OK;
}

scd_code scd_model_each_tensor(const scd_model_config *config, scd_model_tensor_visit *each,
                               void *arg, scd_error *err)
{
    scd_code code = visit(config, before_layers, COUNT(before_layers), "", each, arg, err);
    for (size_t i = 0; !code && i < config->n_layers; i++) {
        char prefix[40];
        snprintf(prefix, sizeof prefix, "layers.%zu.", i);
        code = visit(config, in_layer, COUNT(in_layer), prefix, each, arg, err);
    }
    return code ? code : visit(config, after_layers, COUNT(after_layers), "", each, arg, err);
}

/* ---- open ------------------------------------------------------------------------------------ */

static scd_code open_source(source *s, const char *dir, const char *file, scd_error *err)
{
    size_t room = strlen(dir) + strlen(file) + 2;
    s->path = scd_malloc(room, 1);
    if (!s->path)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", dir);
    snprintf(s->path, room, "%s/%s", dir, file);
    scd_error why = {0};
    scd_code code = scd_file_open(s->path, &s->fd, &s->n_file, &why);
    if (code)
        scd_fail(err, code,
                 "%s; a model directory holds config.json, model.safetensors and genes.tsv",
                 why.message);
    return code;
}

static void release_source(source *s)
{
    free(s->bytes);
    if (s->fd >= 0)
        close(s->fd);
    free(s->path);
}

static scd_code check_tensor(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    scd_model *model = arg;
    scd_tensor tensor;
    model->n_params += entry->rows * (entry->cols ? entry->cols : 1);
    return scd_safetensors_get(model->tensors, entry->name, entry->rows, entry->cols, &tensor, err);
}

/* What the parsers say begins with the file's name; the directory goes before it. */
static scd_code within(scd_code code, const char *dir, scd_error *err)
{
    if (code)
        scd_fail_within(err, "%s", dir);
    return code;
}

static scd_code read_small(source *s, size_t max, scd_error *err)
{
    return scd_file_read(s->fd, s->path, max, &s->bytes, &s->n, err);
}

static scd_code read_files(scd_model *m, const char *dir, scd_error *err)
{
    source *config = &m->config_file, *genes = &m->genes_file, *weights = &m->weights_file;
    scd_code code;
    if ((code = open_source(config, dir, "config.json", err)) ||
        (code = open_source(weights, dir, "model.safetensors", err)) ||
        (code = open_source(genes, dir, "genes.tsv", err)) ||
        (code = read_small(config, CONFIG_MAX_BYTES, err)) ||
        (code = read_small(genes, GENES_MAX_BYTES, err)))
        return code;
    code = scd_model_config_parse(config->bytes, config->n, &m->config, err);
    if (!code)
        code = scd_model_config_check(&m->config, err);
    if (!code)
        code = scd_vocab_parse(genes->bytes, genes->n, &m->config, &m->vocab, err);
    if (code)
        return within(code, dir, err);
    code = scd_safetensors_map(weights->fd, weights->n_file, weights->path, &m->tensors, err);
    return code ? code : scd_model_each_tensor(&m->config, check_tensor, m, err);
}

static void *digest_body(void *arg)
{
    scd_model *m = arg;
    scd_error failed = {0};
    scd_digest digest = {{0}};
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher) {
        scd_fail(&failed, SCD_E_NOMEM, "%s: out of memory while hashing", m->name);
    } else {
        scd_hasher_add(hasher, m->config_file.bytes, m->config_file.n);
        if (!scd_hasher_add_file(hasher, m->weights_file.fd, m->weights_file.path, &failed)) {
            scd_hasher_add(hasher, m->genes_file.bytes, m->genes_file.n);
            digest = scd_hasher_finish(hasher);
        }
    }
    scd_hasher_free(hasher);
    free(m->config_file.bytes);
    free(m->genes_file.bytes);
    m->config_file.bytes = m->genes_file.bytes = NULL;
    scd_gate_lock(&m->gate);
    m->digest = digest;
    m->digest_error = failed;
    m->digested = true;
    scd_gate_wake(&m->gate);
    scd_gate_unlock(&m->gate);
    return NULL;
}

scd_code scd_model_open(const char *dir, scd_model **out, scd_error *err)
{
    struct stat info;
    *out = NULL;
    if (stat(dir, &info) < 0 || !S_ISDIR(info.st_mode))
        return scd_fail(err, SCD_E_IO, "%s: no such model directory", dir);
    scd_model *m = scd_calloc(1, sizeof *m);
    if (!m)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", dir);
    m->config_file.fd = m->weights_file.fd = m->genes_file.fd = -1;
    scd_code code;
    if ((code = scd_file_dir_name(dir, "model", &m->name, err)) ||
        (code = read_files(m, dir, err)) || (code = scd_gate_init(&m->gate, err)))
        goto done;
    m->has_gate = true;
    if ((code = scd_thread_start(&m->hasher, "digest", digest_body, m, err)))
        goto done;
    *out = m;
    m = NULL;
done:
    scd_model_close(m);
    return code;
}

void scd_model_close(scd_model *model)
{
    if (!model)
        return;
    scd_thread_join(&model->hasher);
    if (model->has_gate)
        scd_gate_release(&model->gate);
    scd_safetensors_close(model->tensors);
    scd_vocab_free(model->vocab);
    release_source(&model->genes_file);
    release_source(&model->weights_file);
    release_source(&model->config_file);
    free(model->name);
    free(model);
}

/* ---- what is in it --------------------------------------------------------------------------- */

const char *scd_model_name(const scd_model *model)
{
    return model->name;
}

const scd_model_config *scd_model_get_config(const scd_model *model)
{
    return &model->config;
}

const scd_vocab *scd_model_vocab(const scd_model *model)
{
    return model->vocab;
}

const scd_safetensors *scd_model_tensors(const scd_model *model)
{
    return model->tensors;
}

size_t scd_model_n_params(const scd_model *model)
{
    return model->n_params;
}

scd_code scd_model_digest(scd_model *model, scd_digest *out, scd_error *err)
{
    scd_gate_lock(&model->gate);
    while (!model->digested)
        scd_gate_wait(&model->gate, SCD_NEVER); /* the digest thread always ends in a wake */
    *out = model->digest;
    scd_error failed = model->digest_error;
    scd_gate_unlock(&model->gate);
    return failed.code ? scd_fail(err, failed.code, "%s", failed.message) : SCD_OK;
}
