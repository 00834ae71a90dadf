/* model_text.c - see model_text.h. */
#include "engine/train/model_text.h"

#include "engine/model/tsv.h"

#include <math.h>
#include <string.h>

enum { MAX_COLUMNS = 64 };

void scd_model_text_config(const scd_model_config *c, scd_buf *out)
{
    scd_buf_printf(out,
                   "{\n  \"SCGPT_DIM\": %zu,\n  \"HIDDEN_DIM\": %zu,\n  \"N_LAYERS\": %zu,\n"
                   "  \"N_HEADS\": %zu,\n  \"DROPOUT\": %.10g,\n  \"D_HID\": %zu,\n"
                   "  \"VOCAB_SIZE\": %zu,\n",
                   c->d, c->hidden_dim, c->n_layers, c->n_heads, c->dropout, c->ffn_dim, c->vocab);
    scd_buf_printf(out,
                   "  \"PAD_TOKEN_ID\": %d,\n  \"MASK_TOKEN_ID\": %d,\n"
                   "  \"PAD_FILL_GENE_ID\": %d,\n  \"BOS_GENE_ID\": %d,\n  \"EOS_GENE_ID\": %d,\n"
                   "  \"MAX_GENE_LEN\": %zu,\n  \"ROPE_THETA\": %.10g,\n  \"ROPE_MAX_LEN\": %zu,\n",
                   c->pad_id, c->mask_id, c->pad_fill_id, c->bos_id, c->eos_id, c->max_gene_len,
                   c->rope_theta, c->rope_max_len);
    scd_buf_printf(out, "  \"latent_pooling\": \"%s\"%s%s\n}\n",
                   c->latent_visible ? "visible" : "clean",
                   c->value_masking ? ",\n  \"value_masking\": true" : "",
                   c->trained ? "" : ",\n  \"trained\": false");
}

void scd_model_text_lay_out(scd_model_config *c)
{
    int32_t vocab = c->vocab < (size_t)INT32_MAX ? (int32_t)c->vocab : INT32_MAX;
    c->pad_id = 0;
    c->mask_id = 1;
    c->pad_fill_id = vocab - 3;
    c->bos_id = vocab - 2;
    c->eos_id = vocab - 1;
    size_t longest = c->vocab > c->max_gene_len ? c->vocab : c->max_gene_len;
    c->rope_max_len = longest + 1;
    c->head_dim = c->n_heads ? c->hidden_dim / c->n_heads : 0;
}

/* ---- genes.tsv ------------------------------------------------------------------------------- */

/* The fields of a row but number `left_out`, without the line's end. */
static void put_fields(const scd_tsv_field *fields, size_t n, size_t left_out, scd_buf *out)
{
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (i == left_out)
            continue;
        if (!first)
            scd_buf_putc(out, '\t');
        scd_buf_append(out, fields[i].text, fields[i].n);
        first = false;
    }
}

/* The last column, in place of one of its name. */
typedef struct column {
    const char *name;
    const void *values; /* (vocab) what put writes; NULL: the column only goes */
    void (*put)(const void *values, int32_t id, scd_buf *out);
} column;

static scd_code replace_column(const char *text, size_t n, const column *last, size_t vocab,
                               scd_buf *out, scd_error *err)
{
    scd_tsv tsv;
    scd_tsv_field fields[MAX_COLUMNS];
    size_t n_fields = 0, n_columns, ids = SIZE_MAX, old = SIZE_MAX;
    scd_tsv_init(&tsv, text, n);
    if (!scd_tsv_next(&tsv, fields, MAX_COLUMNS, &n_fields) || n_fields > MAX_COLUMNS)
        return scd_fail(err, SCD_E_INVALID, "genes: no header of at most %d columns", MAX_COLUMNS);
    for (size_t i = 0; i < n_fields; i++) {
        ids = scd_tsv_is(fields[i], "token_id") ? i : ids;
        old = scd_tsv_is(fields[i], last->name) ? i : old;
    }
    if (ids == SIZE_MAX)
        return scd_fail(err, SCD_E_INVALID, "genes: no column token_id");
    n_columns = n_fields;
    put_fields(fields, n_columns, old, out);
    scd_buf_printf(out, last->values ? "\t%s\n" : "\n", last->name);
    while (scd_tsv_next(&tsv, fields, MAX_COLUMNS, &n_fields)) {
        int32_t id;
        size_t given = n_fields < n_columns ? n_fields : n_columns;
        if (ids >= given || !scd_tsv_whole(fields[ids], INT32_MAX, &id) || (size_t)id >= vocab)
            return scd_fail(err, SCD_E_INVALID, "genes, line %zu: token_id must be below %zu",
                            tsv.line, vocab);
        for (size_t i = given; i < n_columns; i++)
            fields[i] = (scd_tsv_field){"", 0}; /* every row gets as many fields as the header */
        put_fields(fields, n_columns, old, out);
        if (last->values) {
            scd_buf_putc(out, '\t');
            last->put(last->values, id, out);
        }
        scd_buf_putc(out, '\n');
    }
    return out->failed ? scd_fail(err, SCD_E_NOMEM, "genes: out of memory") : SCD_OK;
}

static void put_entropy(const void *values, int32_t id, scd_buf *out)
{
    const float *entropies = values;
    if (!isnan(entropies[id]))
        scd_buf_printf(out, "%.9g", (double)entropies[id]);
}

scd_code scd_model_text_genes(const char *text, size_t n, const float *entropies, size_t vocab,
                              scd_buf *out, scd_error *err)
{
    const column last = {"entropy", entropies, put_entropy};
    return replace_column(text, n, &last, vocab, out, err);
}

static void put_used(const void *values, int32_t id, scd_buf *out)
{
    const uint8_t *used = values;
    scd_buf_putc(out, used[id] ? '1' : '0');
}

scd_code scd_model_text_used(const char *text, size_t n, const uint8_t *used, size_t vocab,
                             scd_buf *out, scd_error *err)
{
    const column last = {"used", used, put_used};
    return replace_column(text, n, &last, vocab, out, err);
}
