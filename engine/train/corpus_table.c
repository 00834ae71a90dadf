/* corpus_table.c - a table of Ensembl ids and symbols (GENCODE's, as CSV, gzip or not) completes
 * the union of genes.
 *
 * Columns: Ensembl id, symbol, version, length, biotype; without a header, further ones are passed
 * over. Where a symbol has several ids, the first that is protein_coding counts, else the first.
 *
 * Threads: one at a time. Owns: the text of the table during the call. */
#include "engine/train/corpus_genes_impl.h"

#include "api/gunzip.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 28, ID = 0, SYMBOL = 1, BIOTYPE = 4, N_FIELDS = 5 };

typedef struct row {
    const char *id, *symbol;
    bool is_coding;
} row;

typedef struct table {
    char *text;
    row *rows;
    size_t n;
    scd_map by_symbol, by_id; /* -> row */
} table;

static scd_code no_memory(const char *path, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
}

static scd_code read_text(const char *path, char **out, size_t *n, scd_error *err)
{
    int fd = -1;
    scd_buf plain;
    scd_buf_init(&plain, MAX_BYTES);
    scd_code code = scd_file_open(path, &fd, n, err);
    if (!code)
        code = scd_file_read(fd, path, MAX_BYTES, out, n, err);
    if (fd >= 0)
        close(fd);
    if (code || *n < 2 || memcmp(*out, "\x1f\x8b", 2) != 0)
        return code;
    code = scd_gunzip(*out, *n, &plain, err);
    if (code) {
        if (err)
            scd_fail_within(err, "%s", path);
        scd_buf_release(&plain);
        return code;
    }
    free(*out);
    *n = plain.n_bytes;
    *out = scd_buf_take(&plain);
    return *out ? SCD_OK : no_memory(path, err);
}

/* The first N_FIELDS of a line, in place; quotes around a field are taken off. */
static size_t split(char *line, char *fields[N_FIELDS])
{
    size_t n = 0;
    for (char *at = line; at && n < N_FIELDS; n++) {
        char *comma = strchr(at, ',');
        if (comma)
            *comma = '\0';
        size_t length = strlen(at);
        if (length > 1 && at[0] == '"' && at[length - 1] == '"') {
            at[length - 1] = '\0';
            at++;
        }
        fields[n] = at;
        at = comma ? comma + 1 : NULL;
    }
    return n;
}

static bool add_row(table *t, row r)
{
    uint32_t old = scd_map_get(&t->by_symbol, r.symbol);
    t->rows[t->n] = r;
    if (!scd_map_put(&t->by_id, r.id, (uint32_t)t->n))
        return false;
    if ((old == SCD_NO_VALUE || (r.is_coding && !t->rows[old].is_coding)) &&
        !scd_map_put(&t->by_symbol, r.symbol, (uint32_t)t->n))
        return false;
    t->n++;
    return true;
}

static scd_code parse(table *t, size_t n_bytes, const char *path, scd_error *err)
{
    size_t lines = 1;
    for (size_t i = 0; i < n_bytes; i++)
        lines += t->text[i] == '\n';
    t->rows = scd_calloc(lines, sizeof *t->rows);
    if (!t->rows)
        return no_memory(path, err);
    char *next = t->text;
    for (size_t number = 1; next; number++) {
        char *line = next, *fields[N_FIELDS];
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (!*line)
            continue;
        size_t n = split(line, fields), stem = scd_gene_id_stem(fields[ID], strlen(fields[ID]));
        if (!stem && number == 1)
            continue; /* a header after all */
        if (!stem || n < 2)
            return scd_fail(err, SCD_E_INVALID,
                            "%s line %zu: must be an Ensembl id, a comma and a symbol", path,
                            number);
        fields[ID][stem] = '\0';
        const char *symbol = fields[SYMBOL];
        if (!*symbol || scd_gene_id_stem(symbol, strlen(symbol)))
            continue; /* a gene without a symbol */
        row r = {fields[ID], symbol, n > BIOTYPE && !strcmp(fields[BIOTYPE], "protein_coding")};
        if (scd_map_get(&t->by_id, r.id) == SCD_NO_VALUE && !add_row(t, r))
            return no_memory(path, err);
    }
    if (!t->n)
        return scd_fail(err, SCD_E_INVALID, "%s: has no line with an Ensembl id and a symbol",
                        path);
    return SCD_OK;
}

/* Does the table's symbol for this gene's id name the same gene? Not where the gene's own symbol is
 * another id's in the table: TAF9_ENSG00000085231 of older releases is TAF9, and AK6 now has that
 * id. */
static bool agrees(const table *t, const scd_gene *gene)
{
    uint32_t at = gene->symbol ? scd_map_get(&t->by_symbol, gene->symbol) : SCD_NO_VALUE;
    return at == SCD_NO_VALUE || !strcmp(t->rows[at].id, gene->id);
}

/* A gene known by symbol only gets its id; where another gene has that id, the two are one, and
 * the symbol that the table uses is its name. */
static bool give_id(scd_union *u, const table *t, scd_gene *gene)
{
    uint32_t at = scd_map_get(&t->by_symbol, gene->symbol);
    if (at == SCD_NO_VALUE)
        return true;
    scd_gene *other = scd_union_find(u, &u->by_id, t->rows[at].id);
    if (!other)
        return scd_union_identify(u, gene, t->rows[at].id);
    if (!agrees(t, other))
        return true;
    const char *old = other->symbol;
    other->symbol = NULL;
    return scd_union_merge(u, other, gene) && (!old || scd_union_name(u, other, old));
}

/* A gene known by id gets the table's symbol, as an alias where it has another one. A symbol that
 * is another gene's stays there. */
static bool give_symbol(scd_union *u, const table *t, scd_gene *gene)
{
    uint32_t at = scd_map_get(&t->by_id, gene->id);
    if (at == SCD_NO_VALUE || !agrees(t, gene) ||
        scd_map_get(&u->by_symbol, t->rows[at].symbol) != SCD_NO_VALUE)
        return true;
    return scd_union_name(u, gene, t->rows[at].symbol);
}

scd_code scd_union_fill(scd_union *u, const char *path, scd_error *err)
{
    size_t n_bytes = 0;
    table t = {0};
    scd_code code = read_text(path, &t.text, &n_bytes, err);
    if (!code)
        code = parse(&t, n_bytes, path, err);
    for (size_t i = 0; i < u->n && !code; i++)
        if (!u->genes[i].is_merged && !u->genes[i].id && !give_id(u, &t, &u->genes[i]))
            code = no_memory(path, err);
    for (size_t i = 0; i < u->n && !code; i++)
        if (!u->genes[i].is_merged && u->genes[i].id && !give_symbol(u, &t, &u->genes[i]))
            code = no_memory(path, err);
    scd_map_release(&t.by_id);
    scd_map_release(&t.by_symbol);
    free(t.rows);
    free(t.text);
    return code;
}
