/* net_fixture.h - a device, a small net and made-up micro-batches, for the tests of net.h.
 *
 * Threads: main. Owns: what net_open made, until net_close. */
#ifndef SCD_TESTS_NET_FIXTURE_H
#define SCD_TESTS_NET_FIXTURE_H

#include "engine/base/rng.h"
#include "engine/train/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NET_VOCAB = 40, NET_MAX_ROWS = 128 };

typedef struct net_fixture {
    scd_device *device;
    scd_net *net;
    scd_error err;
} net_fixture;

static inline void net_ok(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

/* H, d and F differ, so that no shape passes for another. */
static inline scd_model_config net_config(bool visible)
{
    return (scd_model_config){.d = 20,
                              .hidden_dim = 32,
                              .n_layers = 2,
                              .n_heads = 2,
                              .head_dim = 16,
                              .ffn_dim = 24,
                              .vocab = NET_VOCAB,
                              .pad_id = 0,
                              .mask_id = 1,
                              .pad_fill_id = NET_VOCAB - 3,
                              .bos_id = NET_VOCAB - 2,
                              .eos_id = NET_VOCAB - 1,
                              .max_gene_len = 30,
                              .rope_theta = 10000,
                              .rope_max_len = 31,
                              .dropout = 0.1,
                              .latent_visible = visible};
}

static inline scd_device *net_device(int threads)
{
    scd_error err;
    scd_device *device = NULL;
    const scd_device_options options = {.precision = SCD_PRECISION_FP32, .threads = threads};
    net_ok(scd_backend_cpu.open(&options, &device, &err), &err);
    return device;
}

/* A net on a device of somebody else's, who closes it. */
static inline void net_open_on(net_fixture *f, const scd_backend *be, scd_device *device,
                               bool visible, uint64_t seed, size_t max_rows)
{
    *f = (net_fixture){.device = device};
    scd_model_config config = net_config(visible);
    const scd_net_options options = {.max_rows = max_rows};
    net_ok(scd_net_new(be, be->train, device, &config, &options, &f->net, &f->err), &f->err);
    net_ok(scd_net_randomize(f->net, seed, &f->err), &f->err);
}

static inline void net_open(net_fixture *f, int threads, bool visible, uint64_t seed)
{
    net_open_on(f, &scd_backend_cpu, net_device(threads), visible, seed, NET_MAX_ROWS);
}

static inline void net_close(net_fixture *f)
{
    scd_net_free(f->net);
    scd_backend_cpu.close(f->device);
}

/* A micro-batch and its arrays. */
typedef struct made_batch {
    uint32_t cu_rows[NET_MAX_ROWS], pos[NET_MAX_ROWS], masked[NET_MAX_ROWS];
    uint32_t gene_masked[NET_MAX_ROWS];
    int32_t ids[NET_MAX_ROWS], gene_targets[NET_MAX_ROWS];
    float values[NET_MAX_ROWS], targets[NET_MAX_ROWS];
    uint8_t hidden[NET_MAX_ROWS];
    scd_net_batch b;
} made_batch;

typedef enum made_mask {
    MADE_MIXED,      /* hidden, hidden value only, in M but shown, not in M */
    MADE_VALUE_ONLY, /* M hides values alone: no gene targets */
    MADE_ALL_HIDDEN,
    MADE_NONE /* M is empty */
} made_mask;

static inline void made_token(made_batch *m, uint64_t seed, made_mask mask, uint32_t row)
{
    float u = scd_rng_uniform(seed, 1, row), kind = scd_rng_uniform(seed, 2, row);
    bool in_m = mask == MADE_ALL_HIDDEN || (mask != MADE_NONE && u < 0.6f);
    bool value_only = mask == MADE_VALUE_ONLY || (mask == MADE_MIXED && kind < 0.25f);
    bool shown = mask == MADE_MIXED && kind >= 0.25f && kind < 0.45f;
    m->values[row] = 4 * scd_rng_uniform(seed, 3, row);
    m->hidden[row] = 0;
    if (!in_m)
        return;
    m->hidden[row] = shown ? 0 : value_only ? SCD_HIDE_VALUE : SCD_HIDE_GENE | SCD_HIDE_VALUE;
    m->targets[m->b.n_masked] = 1 + 0.5f * m->values[row];
    m->masked[m->b.n_masked++] = row;
    if (value_only)
        return;
    m->gene_targets[m->b.n_gene_masked] = m->ids[row];
    m->gene_masked[m->b.n_gene_masked++] = row;
}

/* Cells of these lengths (tokens), their content fixed by the seed. */
static inline void made_cells(made_batch *m, uint64_t seed, const size_t *lengths, size_t n_cells,
                              made_mask mask)
{
    memset(m, 0, sizeof *m);
    uint32_t row = 0;
    for (size_t c = 0; c < n_cells; c++) {
        m->cu_rows[c] = row;
        m->ids[row++] = -1;
        for (size_t i = 1; i <= lengths[c]; i++, row++) {
            m->ids[row] = 2 + (int32_t)(scd_rng_uniform(seed, 0, row) * (NET_VOCAB - 5));
            m->pos[row] = (uint32_t)i;
            made_token(m, seed, mask, row);
        }
    }
    m->cu_rows[n_cells] = row;
    m->b.n_cells = n_cells;
    m->b.n_rows = row;
    m->b.cu_rows = m->cu_rows;
    m->b.ids = m->ids;
    m->b.values = m->values;
    m->b.hidden = m->hidden;
    m->b.pos = m->pos;
    m->b.masked = m->masked;
    m->b.targets = m->targets;
    m->b.gene_masked = m->gene_masked;
    m->b.gene_targets = m->gene_targets;
}

static inline scd_net_step step_of(uint64_t number)
{
    return (scd_net_step){.step = number,
                          .lr = 3e-3f,
                          .beta1 = 0.9f,
                          .beta2 = 0.95f,
                          .eps = 1e-8f,
                          .decay = 0.01f,
                          .clip = 1};
}

typedef struct net_state {
    size_t n;
    float *params, *m, *v;
} net_state;

static inline net_state export_state(net_fixture *f)
{
    net_state s = {.n = scd_net_n_params(f->net)};
    s.params = malloc(3 * s.n * sizeof *s.params);
    s.m = s.params + s.n;
    s.v = s.m + s.n;
    net_ok(scd_net_export_state(f->net, s.params, s.m, s.v, &f->err), &f->err);
    return s;
}

#endif
