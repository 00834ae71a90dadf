/* vocab.c - genes.tsv becomes tables by token id, and the name table of resolve.c.
 *
 * The text is walked twice: symbols and Ensembl ids first, aliases second, because an alias counts
 * only where it is no gene's current name and where a single gene has it. Whatever could send a
 * count to the wrong gene (a name twice, a reserved id) is refused with its line.
 *
 * Threads: any after parse. Owns: one vocabulary, until free. */
#include "engine/base/mem.h"
#include "engine/model/tsv.h"
#include "engine/model/vocab_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 64, MAX_BYTES = 1 << 28, NO_COLUMN = -1 };

typedef struct parser {
    scd_vocab *vocab;
    const scd_model_config *config;
    scd_tsv tsv;
    size_t n_columns;
    int ensembl, aliases, entropy, used; /* columns, or NO_COLUMN */
    size_t n_ensembl, n_human_ids, n_capital;
    scd_error *err;
} parser;

#define REFUSE(p, fmt, ...)                                                                        \
    scd_fail((p)->err, SCD_E_INVALID, "genes.tsv line %zu: " fmt, (p)->tsv.line, __VA_ARGS__)

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "genes.tsv: out of memory");
}

/* Lengths for "%.*s": names in messages are cut, never overflow an int. */
static int shown(size_t n)
{
    return n < 80 ? (int)n : 80;
}

static scd_code set_column(parser *p, scd_tsv_field name, int column)
{
    int *known = scd_tsv_is(name, "ensembl_id") ? &p->ensembl
                 : scd_tsv_is(name, "aliases")  ? &p->aliases
                 : scd_tsv_is(name, "entropy")  ? &p->entropy
                 : scd_tsv_is(name, "used")     ? &p->used
                                                : NULL;
    if (!known)
        return SCD_OK;
    if (*known != NO_COLUMN)
        return REFUSE(p, "column %.*s is given twice", shown(name.n), name.text);
    *known = column;
    return SCD_OK;
}

static scd_code read_header(parser *p)
{
    scd_tsv_field names[MAX_COLUMNS];
    if (!scd_tsv_next(&p->tsv, names, MAX_COLUMNS, &p->n_columns))
        return scd_fail(p->err, SCD_E_INVALID,
                        "genes.tsv: empty, must start with a header line: token_id, symbol, ...");
    if (p->n_columns < 2 || !scd_tsv_is(names[0], "token_id") || !scd_tsv_is(names[1], "symbol"))
        return REFUSE(p,
                      "starts with column %.*s, the first two tab-separated columns must be "
                      "token_id and symbol",
                      shown(names[0].n), names[0].text);
    if (p->n_columns > MAX_COLUMNS)
        return REFUSE(p, "%zu columns, at most %d", p->n_columns, MAX_COLUMNS);
    for (size_t i = 2; i < p->n_columns; i++)
        if (set_column(p, names[i], (int)i))
            return SCD_E_INVALID;
    return SCD_OK;
}

/* Names go into JSON answers and messages: printable ASCII, as symbols and Ensembl ids are. Only
 * aliases, which are never printed, may hold other bytes. */
static scd_code check_name(parser *p, const char *column, scd_tsv_field name, bool ascii)
{
    if (name.n > SCD_NAME_MAX)
        return REFUSE(p, "%s is %zu bytes long, at most %d", column, name.n, SCD_NAME_MAX);
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.text[i];
        if (c < 0x20 || c == 0x7f || (ascii && c > 0x7f))
            return REFUSE(p, "%s has byte 0x%02x at position %zu, must be printable ASCII", column,
                          c, i + 1);
    }
    return SCD_OK;
}

static scd_code read_id(parser *p, scd_tsv_field field, int32_t *id)
{
    int32_t last = (int32_t)p->config->vocab - 1;
    if (!scd_tsv_whole(field, last, id))
        return REFUSE(p, "token_id is '%.*s', must be a whole number from 0 to VOCAB_SIZE - 1 = %d",
                      shown(field.n), field.text, last);
    if (scd_model_is_special(p->config, *id))
        return REFUSE(p, "token_id %d is reserved (PAD, MASK, PAD_FILL, BOS or EOS in config.json)",
                      *id);
    if (p->vocab->symbol_at[*id])
        return REFUSE(p, "token_id %d is given twice, the first time for %s", *id,
                      scd_vocab_symbol(p->vocab, *id));
    return SCD_OK;
}

static scd_code add_symbol(parser *p, scd_tsv_field symbol, int32_t id)
{
    if (!symbol.n)
        return REFUSE(p, "symbol of token %d is empty; use the Ensembl id of a gene without one",
                      id);
    if (check_name(p, "symbol", symbol, true))
        return SCD_E_INVALID;
    const scd_name *other = scd_names_find(p->vocab, symbol.text, symbol.n);
    if (other)
        return REFUSE(p, "symbol %.*s is already a name of token %d", shown(symbol.n), symbol.text,
                      other->token);
    p->vocab->symbol_at[id] = scd_names_add(p->vocab, symbol.text, symbol.n, id, SCD_RUNG_SYMBOL);
    if (scd_ensembl_stem(symbol.text, symbol.n) < symbol.n)
        p->vocab->versioned_symbols = true;
    bool capital = true;
    for (size_t i = 0; i < symbol.n; i++)
        capital = capital && !(symbol.text[i] >= 'a' && symbol.text[i] <= 'z');
    p->n_capital += capital;
    return SCD_OK;
}

/* The id is kept without its version: whichever version a request names is the same gene. */
static scd_code add_ensembl(parser *p, scd_tsv_field name, int32_t id)
{
    if (!name.n)
        return SCD_OK;
    if (check_name(p, "ensembl_id", name, true))
        return SCD_E_INVALID;
    scd_vocab *v = p->vocab;
    size_t n = scd_ensembl_stem(name.text, name.n);
    const scd_name *other = scd_names_find(v, name.text, n);
    if (other && other->token != id)
        return REFUSE(p, "ensembl_id %.*s is already a name of token %d", shown(n), name.text,
                      other->token);
    /* A gene without a symbol of its own carries its Ensembl id as symbol. */
    v->ensembl_at[id] =
        other ? v->symbol_at[id] : scd_names_add(v, name.text, n, id, SCD_RUNG_ENSEMBL);
    p->n_ensembl++;
    p->n_human_ids += n > 4 && !memcmp(name.text, "ENSG", 4) && scd_is_ensembl(name.text, n);
    return SCD_OK;
}

static scd_code read_entropy(parser *p, scd_tsv_field field, int32_t id)
{
    char text[64], *end;
    if (!field.n)
        return SCD_OK;
    size_t n = field.n < sizeof text ? field.n : 0;
    memcpy(text, field.text, n);
    text[n] = '\0';
    double h = strtod(text, &end);
    /* Normalised by log N it lies in 0..1; the margin is for tables rounded upwards. */
    bool plain = strspn(text, "0123456789.eE+-") == n; /* no hexadecimal, nan or spaces */
    if (!n || !plain || end != text + n || !(h >= 0 && h <= 1 + 1e-6))
        return REFUSE(p,
                      "entropy is '%.*s', must be a number from 0 to 1 (divided by log N) or "
                      "empty",
                      shown(field.n), field.text);
    p->vocab->entropy[id] = (float)h;
    p->vocab->has_entropies = true;
    return SCD_OK;
}

static scd_code read_used(parser *p, scd_tsv_field field, int32_t id)
{
    bool yes = scd_tsv_is(field, "1");
    if (!yes && !scd_tsv_is(field, "0"))
        return REFUSE(p, "used is '%.*s', must be 0 or 1", shown(field.n), field.text);
    p->vocab->used[id] = yes;
    p->vocab->n_used += yes;
    return SCD_OK;
}

static scd_code read_genes(parser *p)
{
    scd_tsv_field row[MAX_COLUMNS];
    size_t n_fields;
    while (scd_tsv_next(&p->tsv, row, MAX_COLUMNS, &n_fields)) {
        int32_t id;
        if (n_fields != p->n_columns)
            return REFUSE(p, "%zu columns, the header has %zu", n_fields, p->n_columns);
        if (read_id(p, row[0], &id) || add_symbol(p, row[1], id) ||
            (p->ensembl != NO_COLUMN && add_ensembl(p, row[p->ensembl], id)) ||
            (p->entropy != NO_COLUMN && read_entropy(p, row[p->entropy], id)) ||
            (p->used != NO_COLUMN && read_used(p, row[p->used], id)))
            return SCD_E_INVALID;
        p->vocab->n_genes++;
    }
    if (!p->vocab->n_genes)
        return scd_fail(p->err, SCD_E_INVALID, "genes.tsv: has a header but no gene");
    if (p->used != NO_COLUMN && !p->vocab->n_used)
        return scd_fail(p->err, SCD_E_INVALID, "genes.tsv: used is 0 for every gene");
    return SCD_OK;
}

static scd_code add_alias(parser *p, scd_tsv_field alias, int32_t id)
{
    if (!alias.n)
        return SCD_OK;
    if (check_name(p, "aliases", alias, false))
        return SCD_E_INVALID;
    scd_name *other = scd_names_find(p->vocab, alias.text, alias.n);
    if (!other) {
        scd_names_add(p->vocab, alias.text, alias.n, id, SCD_RUNG_ALIAS);
    } else if (other->rung == SCD_RUNG_ALIAS && other->token != id) {
        other->token = -1;
        other->rung = SCD_RUNG_AMBIGUOUS;
    }
    return SCD_OK;
}

/* The second walk: every row was found well-formed by the first. */
static scd_code read_aliases(parser *p, const char *text, size_t n)
{
    scd_tsv_field row[MAX_COLUMNS];
    size_t n_fields;
    scd_tsv_init(&p->tsv, text, n);
    scd_tsv_next(&p->tsv, row, MAX_COLUMNS, &n_fields);
    while (scd_tsv_next(&p->tsv, row, MAX_COLUMNS, &n_fields)) {
        int32_t id = 0;
        scd_tsv_whole(row[0], INT32_MAX, &id);
        const char *at = row[p->aliases].text, *end = at + row[p->aliases].n;
        while (at < end) {
            const char *bar = memchr(at, '|', (size_t)(end - at));
            const char *stop = bar ? bar : end;
            if (add_alias(p, (scd_tsv_field){at, (size_t)(stop - at)}, id))
                return SCD_E_INVALID;
            at = stop + 1;
        }
    }
    return SCD_OK;
}

/* An upper bound of the names in the table: a name ends at a tab, a bar, a line end or the end. */
static size_t count_names(const char *text, size_t n)
{
    size_t names = 1;
    for (size_t i = 0; i < n; i++)
        names += text[i] == '\t' || text[i] == '\n' || text[i] == '|';
    return names;
}

static bool allocate(scd_vocab *v, const char *tsv, size_t n, size_t n_ids)
{
    v->n_ids = n_ids;
    v->symbol_at = scd_calloc(n_ids, sizeof *v->symbol_at);
    v->ensembl_at = scd_calloc(n_ids, sizeof *v->ensembl_at);
    v->entropy = scd_malloc(n_ids, sizeof *v->entropy);
    if (!v->symbol_at || !v->ensembl_at || !v->entropy)
        return false;
    for (size_t i = 0; i < n_ids; i++)
        v->entropy[i] = 1;
    return scd_names_reserve(v, count_names(tsv, n), n);
}

scd_code scd_vocab_parse(const char *tsv, size_t n, const scd_model_config *config, scd_vocab **out,
                         scd_error *err)
{
    *out = NULL;
    if (n > MAX_BYTES)
        return scd_fail(err, SCD_E_TOO_LARGE, "genes.tsv: %zu bytes, at most %d", n, MAX_BYTES);
    scd_vocab *v = scd_calloc(1, sizeof *v);
    if (!v || !allocate(v, tsv, n, config->vocab)) {
        scd_vocab_free(v);
        return no_memory(err);
    }
    parser p = {.vocab = v, .config = config, .err = err};
    p.ensembl = p.aliases = p.entropy = p.used = NO_COLUMN;
    scd_tsv_init(&p.tsv, tsv, n);
    scd_code code = read_header(&p);
    if (!code && p.used != NO_COLUMN && !(v->used = scd_calloc(v->n_ids, sizeof *v->used)))
        code = no_memory(err);
    if (!code)
        code = read_genes(&p);
    if (!code && p.aliases != NO_COLUMN)
        code = read_aliases(&p, tsv, n);
    if (code) {
        scd_vocab_free(v);
        return code;
    }
    v->human = p.n_ensembl ? 2 * p.n_human_ids > p.n_ensembl : 2 * p.n_capital > v->n_genes;
    *out = v;
    return SCD_OK;
}

void scd_vocab_free(scd_vocab *vocab)
{
    if (!vocab)
        return;
    free(vocab->slots);
    free(vocab->pool);
    free(vocab->used);
    free(vocab->entropy);
    free(vocab->ensembl_at);
    free(vocab->symbol_at);
    free(vocab);
}

static const char *name_at(const scd_vocab *vocab, const uint32_t *table, int32_t id)
{
    if (id < 0 || (size_t)id >= vocab->n_ids || !table[id])
        return NULL;
    return ((const scd_name *)(const void *)(vocab->pool + table[id]))->text;
}

size_t scd_vocab_n_genes(const scd_vocab *vocab)
{
    return vocab->n_genes;
}

const char *scd_vocab_symbol(const scd_vocab *vocab, int32_t id)
{
    return name_at(vocab, vocab->symbol_at, id);
}

const char *scd_vocab_ensembl(const scd_vocab *vocab, int32_t id)
{
    return name_at(vocab, vocab->ensembl_at, id);
}

float scd_vocab_entropy(const scd_vocab *vocab, int32_t id)
{
    return id < 0 || (size_t)id >= vocab->n_ids ? 1.0f : vocab->entropy[id];
}

const uint8_t *scd_vocab_used(const scd_vocab *vocab)
{
    return vocab->used;
}

size_t scd_vocab_n_used(const scd_vocab *vocab)
{
    return vocab->used ? vocab->n_used : vocab->n_genes;
}

bool scd_vocab_has_entropies(const scd_vocab *vocab)
{
    return vocab->has_entropies;
}

bool scd_vocab_is_human(const scd_vocab *vocab)
{
    return vocab->human;
}
