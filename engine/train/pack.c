/* pack.c - see pack.h. */
#include "engine/train/pack.h"

#include "engine/base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct scd_pack {
    scd_net_batch batch; /* points into the arrays below */
    size_t max_rows;
    uint32_t *cu_rows; /* (max_rows + 1) */
    int32_t *ids;      /* from here on: (max_rows) */
    float *values;
    uint8_t *hidden;
    uint32_t *pos, *masked, *gene_masked;
    float *targets;
    int32_t *gene_targets;
};

scd_code scd_pack_new(size_t max_rows, scd_pack **out, scd_error *err)
{
    *out = NULL;
    scd_pack *p = scd_calloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    p->max_rows = max_rows;
    p->cu_rows = scd_malloc(max_rows + 1, sizeof *p->cu_rows);
    p->ids = scd_malloc(max_rows, sizeof *p->ids);
    p->values = scd_malloc(max_rows, sizeof *p->values);
    p->hidden = scd_malloc(max_rows, sizeof *p->hidden);
    p->pos = scd_malloc(max_rows, sizeof *p->pos);
    p->masked = scd_malloc(max_rows, sizeof *p->masked);
    p->gene_masked = scd_malloc(max_rows, sizeof *p->gene_masked);
    p->targets = scd_malloc(max_rows, sizeof *p->targets);
    p->gene_targets = scd_malloc(max_rows, sizeof *p->gene_targets);
    if (!p->cu_rows || !p->ids || !p->values || !p->hidden || !p->pos || !p->masked ||
        !p->gene_masked || !p->targets || !p->gene_targets) {
        scd_pack_free(p);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", max_rows);
    }
    p->batch = (scd_net_batch){.cu_rows = p->cu_rows,
                               .ids = p->ids,
                               .values = p->values,
                               .hidden = p->hidden,
                               .pos = p->pos,
                               .masked = p->masked,
                               .targets = p->targets,
                               .gene_masked = p->gene_masked,
                               .gene_targets = p->gene_targets};
    scd_pack_clear(p);
    *out = p;
    return SCD_OK;
}

void scd_pack_free(scd_pack *pack)
{
    if (!pack)
        return;
    free(pack->gene_targets);
    free(pack->targets);
    free(pack->gene_masked);
    free(pack->masked);
    free(pack->pos);
    free(pack->hidden);
    free(pack->values);
    free(pack->ids);
    free(pack->cu_rows);
    free(pack);
}

void scd_pack_clear(scd_pack *pack)
{
    scd_net_batch *b = &pack->batch;
    b->n_cells = b->n_rows = b->n_masked = b->n_gene_masked = 0;
    pack->cu_rows[0] = 0;
}

bool scd_pack_add(scd_pack *pack, const scd_sequence *s)
{
    scd_net_batch *b = &pack->batch;
    size_t first = b->n_rows;
    if (s->n >= pack->max_rows - first) /* the row of [LAT] besides */
        return false;
    pack->ids[first] = -1;
    pack->values[first] = 0;
    pack->hidden[first] = 0;
    pack->pos[first] = 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t row = first + 1 + i;
        uint8_t target = s->target ? s->target[i] : 0;
        pack->ids[row] = s->ids[i];
        pack->values[row] = s->values[i];
        pack->hidden[row] = s->hidden ? s->hidden[i] : 0;
        pack->pos[row] = (uint32_t)i + 1;
        if (target & SCD_TARGET_VALUE) {
            pack->masked[b->n_masked] = (uint32_t)row;
            pack->targets[b->n_masked++] = s->clean[i];
        }
        if (target & SCD_TARGET_GENE) {
            assert(target &
                   SCD_TARGET_VALUE); /* scd_net_batch: gene targets are among the others */
            pack->gene_masked[b->n_gene_masked] = (uint32_t)row;
            pack->gene_targets[b->n_gene_masked++] = s->ids[i];
        }
    }
    b->n_rows += s->n + 1;
    b->n_cells++;
    pack->cu_rows[b->n_cells] = (uint32_t)b->n_rows;
    return true;
}

const scd_net_batch *scd_pack_batch(const scd_pack *pack)
{
    return &pack->batch;
}
