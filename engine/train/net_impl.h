/* net_impl.h - what the files of net.h share; nothing else includes it.
 *
 * A place in the parameters is an offset, so that params + place and grads + place belong together.
 * Shapes as in backend.h: R rows, C cells, H, F, d, V; S "seen" rows: those of the last layer that
 * somebody looks at, the [LAT] rows of all cells first and the rows of M after them. As in
 * forward.c, o_proj and MLP of the last layer and the final norm are computed for these alone.
 *
 * Threads: as net.h. */
#ifndef SCD_TRAIN_NET_IMPL_H
#define SCD_TRAIN_NET_IMPL_H

#include "engine/train/net.h"

#include <stdbool.h>

typedef struct net_tensor {
    char *name;
    size_t rows, cols; /* cols 0: vector */
    size_t first, n;   /* its place and its elements */
} net_tensor;

#define NET_NO_BIAS SIZE_MAX

/* y = x w^T + b; places of w (out, in) and b (out) */
typedef struct net_linear {
    size_t in, out, w, b;
} net_linear;

typedef struct net_layer {
    size_t norm1, norm2; /* places, (H) */
    net_linear qkv;      /* the three projections lie one after the other: 3H x H */
    net_linear o;
    net_linear gate_up; /* likewise 2F x H */
    net_linear down;

    /* Kept for the backward pass; R is S from h_mid on in the last layer. */
    float *h;           /* (R, H) residual stream coming in */
    float *rstd1, *n1;  /* (R), (R, H) its norm */
    float *qkv_out;     /* (R, 3H) q and k rotated */
    float *att, *lse;   /* (R, H), (n_heads, R) */
    float *h_mid;       /* (R, H) residual stream after attention */
    float *rstd2, *n2;  /* (R), (R, H) */
    float *gate_up_out; /* (R, 2F) */
    float *ffn;         /* (R, F) silu(gate) * up */
} net_layer;

/* The places of what stands before and after the layers. */
typedef struct net_places {
    size_t gene_embedding, value_w0, value_b0, value_mask, gene_mask; /* (V, d), (d) x 4 */
    net_linear value2, input_proj, latent0, latent3;
    size_t latent_norm_w, latent_norm_b; /* (H) */
    size_t final_norm, gene_head;        /* (H), (V, H) */
    net_linear value_head0, value_head2;
} net_places;

/* The integers and floats of a batch, in one block on the host and one on the device. */
typedef struct net_staging {
    uint32_t *cu_rows;     /* (C + 1) */
    uint32_t *seen;        /* (S) rows */
    uint32_t *gene_seen;   /* (n_gene) index in `seen` of the rows with a gene target */
    uint32_t *pos;         /* (R) */
    int32_t *ids;          /* (R) */
    int32_t *gene_targets; /* (n_gene) */
    float *values;         /* (R) */
    float *targets;        /* (n_value) */
    uint8_t *hidden;       /* (R) */
} net_staging;

/* Activations and their gradients outside the layers. */
typedef struct net_acts {
    float *u, *clean, *tok;                /* (R, d) */
    float *pooled;                         /* (C, d) */
    float *lat0, *lat1, *z;                /* (C, H) */
    float *lat_mean, *lat_rstd;            /* (C) */
    float *att_seen;                       /* (S, H) att of the last layer */
    float *h_out, *rstd_out, *states;      /* (S, H), (S), (S, H) before and after final norm */
    float *gene_x, *d_gene_x, *gene_loss;  /* (n_gene, H) x 2, (n_gene) */
    int32_t *gene_best;                    /* (n_gene) */
    float *value_hidden, *d_value_hidden;  /* (n_value, 512) */
    float *value, *d_value;                /* (n_value) */
    float *d_states;                       /* (S, H) waits for backward */
    float *dh_seen, *d_att_seen;           /* (S, H) */
    float *dh, *d_att, *dn;                /* (R, H) */
    float *d_wide;                         /* (R, max(3H, 2F)) of qkv_out or gate_up_out */
    float *d_ffn;                          /* (R, F) */
    float *d_tok, *d_clean, *du, *dpooled; /* (R, d) x 3, (C, d) */
    float *dz, *d_lat0, *d_lat1;           /* (C, H) */
} net_acts;

/* What was asked of the batch so far. */
typedef enum { NET_EMPTY, NET_FORWARD, NET_BACKWARD } net_stage;

struct scd_net {
    const scd_backend *be;
    const scd_train_ops *ops;
    scd_device *device;
    scd_model_config c;
    size_t max_rows;

    net_tensor *tensors; /* file order */
    size_t n_tensors, cap_tensors, n_params;
    net_places at;
    net_layer *layers;
    float *params, *grads, *m, *v; /* device, (n_params) each */

    void *host_block, *device_block;
    size_t staging_bytes;
    net_staging host, dev;
    void *activations; /* device */
    net_acts a;
    float *host_value, *host_d_value, *host_gene_loss; /* (max_rows) of one host allocation */
    int32_t *host_gene;

    net_stage stage;
    bool use_latent, has_loss;
    size_t n_cells, n_rows, n_seen, n_value, n_gene;
};

/* net_memory.c: staging, activations and predictions, sized for max_rows. */
scd_code scd_net_allocate(scd_net *net, scd_error *err);
void scd_net_free_memory(scd_net *net);

/* net_batch.c: check the batch, lay it out, upload it. */
scd_code scd_net_stage(scd_net *net, const scd_net_batch *batch, scd_error *err);

/* net_forward.c: y (rows, out) = x w^T + b, and back: gradients of w and b, dx = (or += ) where
 * it is not NULL. */
scd_code scd_net_linear(scd_net *net, const net_linear *l, size_t rows, const float *x, float *y,
                        scd_error *err);
scd_code scd_net_linear_back(scd_net *net, const net_linear *l, size_t rows, const float *x,
                             const float *dy, float *dx, int dx_add, scd_error *err);
scd_t_tokens scd_net_tokens(const scd_net *net);

/* net_update.c: [*first, *end) of the parameters is what this first_layer trains. */
scd_code scd_net_trained(const scd_net *net, size_t first_layer, size_t *first, size_t *end,
                         scd_error *err);

#endif
