/* net_batch.c - a micro-batch is checked, laid out for the device and copied there in one piece.
 *
 * What the batch says becomes indices on the device, and a wrong one there is a wild read; the
 * checks are one walk over the rows, nothing beside the products.
 *
 * Threads and ownership as in net.h. */
#include "engine/train/net_impl.h"

#include <string.h>

static scd_code check_cells(const scd_net *net, const scd_net_batch *b, scd_error *err)
{
    if (!b->n_cells)
        return scd_fail(err, SCD_E_INVALID, "a batch without cells");
    if (b->n_rows > net->max_rows)
        return scd_fail(err, SCD_E_TOO_LARGE, "a batch of %zu rows, at most %zu", b->n_rows,
                        net->max_rows);
    if (b->n_cells > b->n_rows / 2)
        return scd_fail(err, SCD_E_INVALID, "%zu cells in %zu rows: a cell has at least one token",
                        b->n_cells, b->n_rows);
    if (b->cu_rows[0] != 0 || b->cu_rows[b->n_cells] != b->n_rows)
        return scd_fail(err, SCD_E_INVALID, "cu_rows must go from 0 to %zu", b->n_rows);
    for (size_t c = 0; c < b->n_cells; c++) {
        size_t first = b->cu_rows[c], end = b->cu_rows[c + 1];
        if (end < first + 2 || end > b->n_rows)
            return scd_fail(err, SCD_E_INVALID, "cell %zu of the batch has no tokens", c);
        if (b->ids[first] >= 0)
            return scd_fail(err, SCD_E_INVALID, "row %zu is [LAT]'s: its id must be negative",
                            first);
        for (size_t r = first + 1; r < end; r++)
            if (b->ids[r] < 0 || (size_t)b->ids[r] >= net->c.vocab)
                return scd_fail(err, SCD_E_INVALID, "row %zu has gene id %d, must be 0 to %zu", r,
                                b->ids[r], net->c.vocab - 1);
    }
    return SCD_OK;
}

/* [LAT] rows, then the rows of M: what the last layer computes. */
static scd_code lay_out_seen(scd_net *net, const scd_net_batch *b, scd_error *err)
{
    net_staging *s = &net->host;
    memcpy(s->seen, b->cu_rows, b->n_cells * sizeof *s->seen);
    for (size_t i = 0; i < b->n_masked; i++) {
        uint32_t row = b->masked[i];
        if (row >= b->n_rows || b->ids[row] < 0 || (i && row <= b->masked[i - 1]))
            return scd_fail(err, SCD_E_INVALID,
                            "masked rows must be rows of tokens, ascending: %u is not", row);
        s->seen[b->n_cells + i] = row;
    }
    size_t at = 0;
    for (size_t i = 0; i < b->n_gene_masked; i++) {
        while (at < b->n_masked && b->masked[at] < b->gene_masked[i])
            at++;
        if (at == b->n_masked || b->masked[at] != b->gene_masked[i] ||
            (i && b->gene_masked[i] == b->gene_masked[i - 1]))
            return scd_fail(err, SCD_E_INVALID,
                            "rows with a gene target must be masked rows, ascending: %u is not",
                            b->gene_masked[i]);
        if (b->gene_targets[i] < 0 || (size_t)b->gene_targets[i] >= net->c.vocab)
            return scd_fail(err, SCD_E_INVALID, "gene target %d, must be 0 to %zu",
                            b->gene_targets[i], net->c.vocab - 1);
        s->gene_seen[i] = (uint32_t)(b->n_cells + at);
        s->gene_targets[i] = b->gene_targets[i];
    }
    return SCD_OK;
}

scd_code scd_net_stage(scd_net *net, const scd_net_batch *b, scd_error *err)
{
    net_staging *s = &net->host;
    scd_code code = check_cells(net, b, err);
    if (!code)
        code = lay_out_seen(net, b, err);
    if (code)
        return code;
    memcpy(s->cu_rows, b->cu_rows, (b->n_cells + 1) * sizeof *s->cu_rows);
    memcpy(s->pos, b->pos, b->n_rows * sizeof *s->pos);
    memcpy(s->ids, b->ids, b->n_rows * sizeof *s->ids);
    memcpy(s->values, b->values, b->n_rows * sizeof *s->values);
    memcpy(s->hidden, b->hidden, b->n_rows * sizeof *s->hidden);
    if (b->n_masked)
        memcpy(s->targets, b->targets, b->n_masked * sizeof *s->targets);
    net->n_cells = b->n_cells;
    net->n_rows = b->n_rows;
    net->n_value = b->n_masked;
    net->n_gene = b->n_gene_masked;
    net->n_seen = b->n_cells + b->n_masked;
    return net->be->upload(net->device, net->device_block, net->host_block, net->staging_bytes,
                           err);
}
