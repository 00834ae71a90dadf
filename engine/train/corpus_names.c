/* corpus_names.c - what a file calls its genes: symbol and Ensembl id of each column.
 *
 * Names come from the column that was chosen; what they leave open (the ids of symbols, the symbols
 * of ids) from a second one, where the file has it. Composite names are taken apart, versions taken
 * off.
 *
 * Threads: one at a time. Owns: nothing; names live in the caller's arena. */
#include "engine/train/corpus_impl.h"

#include <string.h>

/* ENS, perhaps a species, G and digits. */
static bool is_id(const char *text, size_t n)
{
    size_t i = 3;
    if (n < 5 || memcmp(text, "ENS", 3) != 0)
        return false;
    while (i < n && text[i] >= 'A' && text[i] <= 'Z')
        i++;
    if (text[i - 1] != 'G' || i == n)
        return false;
    while (i < n && text[i] >= '0' && text[i] <= '9')
        i++;
    return i == n;
}

size_t scd_gene_id_stem(const char *text, size_t n)
{
    size_t stem = n;
    while (stem && text[stem - 1] >= '0' && text[stem - 1] <= '9')
        stem--;
    if (stem > 1 && stem < n && text[stem - 1] == '.' && is_id(text, stem - 1))
        return stem - 1;
    return is_id(text, n) ? n : 0;
}

/* n bytes as a string of their own; *ok becomes false without memory. */
static const char *part(scd_arena *arena, const char *text, size_t n, bool *ok)
{
    const char *copy = scd_arena_strndup(arena, text, n);
    *ok = *ok && copy;
    return copy;
}

/* "SYMBOL", "ENSG...", "ENSG....7", "SYMBOL_ENSG...", "ENSG..._SYMBOL". */
bool scd_gene_split(const char *text, scd_arena *arena, scd_gene_name *out)
{
    bool ok = true;
    size_t n = strlen(text), stem = scd_gene_id_stem(text, n);
    const char *last = strrchr(text, '_'), *first = strchr(text, '_');
    *out = (scd_gene_name){.text = text};
    if (stem) {
        out->id = part(arena, text, stem, &ok);
    } else if (last && last > text && (stem = scd_gene_id_stem(last + 1, strlen(last + 1)))) {
        out->symbol = part(arena, text, (size_t)(last - text), &ok);
        out->id = part(arena, last + 1, stem, &ok);
    } else if (first && first[1] && (stem = scd_gene_id_stem(text, (size_t)(first - text)))) {
        out->symbol = first + 1;
        out->id = part(arena, text, stem, &ok);
    } else {
        out->symbol = text;
    }
    return ok;
}

bool scd_gene_is_usable(const char *text)
{
    size_t n = text ? strlen(text) : 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || (unsigned char)text[i] > 0x7e)
            return false;
    return n && n <= SCD_MAX_GENE_NAME;
}

/* A column of the genes' frame, the index where NULL. */
static scd_code column_text(scd_corpus *corpus, size_t file, const char *column, scd_arena *arena,
                            const char *const **out, size_t *n, scd_error *err)
{
    scd_cells *handle;
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    return code ? code
                : scd_cells_column_text(handle, corpus->files[file].frame, column, arena, out, n,
                                        err);
}

/* Most of the texts are Ensembl ids (want_ids), or look like symbols: a row number is neither. */
static bool is_of_kind(const char *const *texts, size_t n, bool want_ids)
{
    size_t n_given = 0, n_fit = 0;
    for (size_t i = 0; i < n; i++) {
        const char *text = texts[i] ? texts[i] : "";
        bool id = scd_gene_id_stem(text, strlen(text)) > 0;
        n_given += *text != '\0';
        n_fit += want_ids ? id : !id && strspn(text, "0123456789.") < strlen(text);
    }
    return 2 * n_fit > n_given;
}

/* The genes' Ensembl ids (want_ids) or symbols from the first column that has them; the index comes
 * last. NULL in *out: none has. */
static scd_code other_column(scd_corpus *corpus, size_t file, bool want_ids, scd_arena *arena,
                             const char *const **out, scd_error *err)
{
    static const char *const ids[] = {"ensembl_id", "gene_ids", "ensembl", "gene_id", "id", NULL};
    static const char *const symbols[] = {"feature_name", "gene_name", "gene_symbols",
                                          "gene_symbol",  "symbol",    NULL};
    const scd_corpus_file *f = &corpus->files[file];
    const char *const *column = want_ids ? ids : symbols;
    *out = NULL;
    for (bool last = false; !last; column++) {
        const char *const *texts;
        size_t n;
        scd_error missing;
        last = !*column;
        if (*column ? f->gene_column && !strcmp(*column, f->gene_column) : !f->gene_column)
            continue; /* that is where the names came from */
        scd_code code = column_text(corpus, file, *column, arena, &texts, &n, &missing);
        if (code == SCD_E_NOT_FOUND)
            continue;
        if (code)
            return scd_fail(err, code, "%s", missing.message);
        if (is_of_kind(texts, n, want_ids)) {
            *out = texts;
            return SCD_OK;
        }
    }
    return SCD_OK;
}

const char *scd_corpus_column_label(const char *column)
{
    return column ? column : "index";
}

static scd_code no_memory(const scd_corpus_file *f, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory for the names of genes", f->path);
}

scd_code scd_corpus_gene_names(scd_corpus *corpus, size_t file, scd_arena *arena,
                               const scd_gene_name **out, size_t *n_out, scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    const char *const *texts, *const *others = NULL;
    size_t n, n_ids = 0;
    scd_code code = column_text(corpus, file, f->gene_column, arena, &texts, &n, err);
    if (code)
        return code;
    scd_gene_name *names = scd_arena_zalloc(arena, n, sizeof *names);
    if (!names)
        return no_memory(f, err);
    for (size_t i = 0; i < n; i++) {
        if (scd_gene_is_usable(texts[i]) && !scd_gene_split(texts[i], arena, &names[i]))
            return no_memory(f, err);
        n_ids += names[i].id && !names[i].symbol;
    }
    code = other_column(corpus, file, 2 * n_ids <= n, arena, &others, err);
    for (size_t i = 0; others && i < n && !code; i++) {
        scd_gene_name other = {0};
        if (!names[i].text || !scd_gene_is_usable(others[i]) || !strcmp(others[i], "nan"))
            continue;
        if (!scd_gene_split(others[i], arena, &other))
            return no_memory(f, err);
        names[i].symbol = names[i].symbol ? names[i].symbol : other.symbol;
        names[i].id = names[i].id ? names[i].id : other.id;
    }
    *out = names;
    *n_out = n;
    return code;
}
