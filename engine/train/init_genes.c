/* init_genes.c - the gene table of a new model: made up, or read from a table of the user's.
 *
 * The layout of a new vocabulary is fixed (SPEC section 3): PAD 0, MASK 1, genes from 2, and the
 * last three ids for PAD_FILL, BOS and EOS. What is read is only rearranged here; scd_vocab_parse
 * judges the result.
 *
 * Threads: main. Owns: nothing; the text goes to the caller. */
#include "engine/base/buf.h"
#include "engine/model/file.h"
#include "engine/model/tsv.h"
#include "engine/train/train.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 28, MAX_COLUMNS = 64, MAX_GENES = (1 << 24) - 5, FIRST_GENE = 2 };
enum { TOKEN_ID, SYMBOL, ENSEMBL_ID, ALIASES, ENTROPY, N_COLUMNS };

static const char *const column_names[N_COLUMNS] = {"token_id", "symbol", "ensembl_id", "aliases",
                                                    "entropy"};

static scd_code take(scd_buf *text, size_t vocab, scd_init_genes *out, scd_error *err)
{
    if (text->failed)
        return scd_fail(err, SCD_E_NOMEM, "no room for a gene table of %zu ids", vocab);
    out->n = text->n_bytes;
    out->tsv = scd_buf_take(text);
    out->vocab = vocab;
    return SCD_OK;
}

scd_code scd_init_genes_make(size_t vocab, scd_init_genes *out, scd_error *err)
{
    *out = (scd_init_genes){0};
    if (vocab < 6 || vocab > MAX_GENES + 5)
        return scd_fail(err, SCD_E_INVALID,
                        "a vocabulary of %zu ids: must be from 6 (one gene, five special ids) to "
                        "%d",
                        vocab, MAX_GENES + 5);
    scd_buf text;
    scd_buf_init(&text, SIZE_MAX / 2);
    scd_buf_puts(&text, "token_id\tsymbol\tensembl_id\n");
    for (size_t id = FIRST_GENE; id < vocab - 3; id++)
        scd_buf_printf(&text, "%zu\tGENE%05zu\tENSG99%09zu\n", id, id, id);
    scd_code code = take(&text, vocab, out, err);
    scd_buf_release(&text);
    return code;
}

/* at[c]: where our column c stands in the user's table, -1 where it does not. */
static scd_code read_header(scd_tsv *tsv, int at[N_COLUMNS], size_t *n_columns, scd_error *err)
{
    scd_tsv_field names[MAX_COLUMNS];
    for (size_t c = 0; c < N_COLUMNS; c++)
        at[c] = -1;
    if (!scd_tsv_next(tsv, names, MAX_COLUMNS, n_columns) || *n_columns > MAX_COLUMNS)
        return scd_fail(err, SCD_E_INVALID, "must start with a header of at most %d columns",
                        MAX_COLUMNS);
    for (size_t i = 0; i < *n_columns; i++)
        for (size_t c = 0; c < N_COLUMNS; c++) {
            if (!scd_tsv_is(names[i], column_names[c]))
                continue;
            if (at[c] >= 0)
                return scd_fail(err, SCD_E_INVALID, "line %zu: column %s is given twice", tsv->line,
                                column_names[c]);
            at[c] = (int)i;
        }
    if (at[SYMBOL] < 0)
        return scd_fail(err, SCD_E_INVALID,
                        "line %zu: no tab-separated column 'symbol' in the header", tsv->line);
    return SCD_OK;
}

static scd_code copy_rows(scd_tsv *tsv, const int at[N_COLUMNS], size_t n_columns, scd_buf *text,
                          size_t *vocab, scd_error *err)
{
    scd_tsv_field row[MAX_COLUMNS];
    size_t n_fields;
    int32_t next = FIRST_GENE, last = FIRST_GENE;
    while (scd_tsv_next(tsv, row, MAX_COLUMNS, &n_fields)) {
        int32_t id = next++;
        if (n_fields != n_columns)
            return scd_fail(err, SCD_E_INVALID, "line %zu: %zu columns, the header has %zu",
                            tsv->line, n_fields, n_columns);
        if (at[TOKEN_ID] >= 0 &&
            (!scd_tsv_whole(row[at[TOKEN_ID]], MAX_GENES + 1, &id) || id < FIRST_GENE))
            return scd_fail(err, SCD_E_INVALID,
                            "line %zu: token_id must be a whole number from %d to %d (0 is for "
                            "padding, 1 for the mask)",
                            tsv->line, FIRST_GENE, MAX_GENES + 1);
        if (id > MAX_GENES + 1)
            return scd_fail(err, SCD_E_INVALID, "more than %d genes", MAX_GENES);
        last = id > last ? id : last;
        scd_buf_printf(text, "%d", id);
        for (size_t c = SYMBOL; c < N_COLUMNS; c++) {
            if (at[c] < 0)
                continue;
            scd_buf_putc(text, '\t');
            scd_buf_append(text, row[at[c]].text, row[at[c]].n);
        }
        scd_buf_putc(text, '\n');
    }
    *vocab = (size_t)last + 1 + 3;
    return SCD_OK;
}

scd_code scd_init_genes_read(const char *path, scd_init_genes *out, scd_error *err)
{
    int fd = -1, at[N_COLUMNS];
    char *bytes = NULL;
    size_t n, n_columns, vocab = 0;
    scd_tsv tsv;
    scd_buf text;
    *out = (scd_init_genes){0};
    scd_buf_init(&text, 2 * (size_t)MAX_BYTES);
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (!code)
        code = scd_file_read(fd, path, MAX_BYTES, &bytes, &n, err);
    if (code)
        goto done;
    scd_tsv_init(&tsv, bytes, n);
    code = read_header(&tsv, at, &n_columns, err);
    if (!code) {
        scd_buf_puts(&text, column_names[TOKEN_ID]);
        for (size_t c = SYMBOL; c < N_COLUMNS; c++)
            if (at[c] >= 0)
                scd_buf_printf(&text, "\t%s", column_names[c]);
        scd_buf_putc(&text, '\n');
        code = copy_rows(&tsv, at, n_columns, &text, &vocab, err);
    }
    if (code)
        scd_fail_within(err, "%s", path);
    else
        code = take(&text, vocab, out, err);
done:
    scd_buf_release(&text);
    free(bytes);
    if (fd >= 0)
        close(fd);
    return code;
}
