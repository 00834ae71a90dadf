/* test_corpus_genes.c - one gene table out of many files' names, and the real training files.
 *
 * Threads: main. */
#include "tests/unit/corpus_fixture.h"

#include "engine/base/clock.h"

#include <math.h>

static char *union_of(scd_corpus *corpus, const char *const *extra, size_t n_extra,
                      const char *table, size_t *vocab)
{
    scd_error err;
    scd_corpus_genes genes;
    scd_code code = scd_corpus_union(corpus, extra, n_extra, table, &genes, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    assert_int_equal(strlen(genes.tsv), genes.n_bytes);
    *vocab = genes.vocab;
    return genes.tsv;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void files_that_write_a_gene_differently_share_it(void **state)
{
    (void)state;
    size_t vocab;
    scd_corpus *corpus = CORPUS("a", "b");
    char *tsv = union_of(corpus, NULL, 0, NULL, &vocab);
    /* a: HES4_ENSG00000188290, ISG15, LYZ, CD3D twice; b: versioned ids with their symbols. */
    assert_string_equal(tsv, "token_id\tsymbol\tensembl_id\taliases\n"
                             "2\tCD3D\t\t\n"
                             "3\tENSG00000000005\tENSG00000000005\t\n"
                             "4\tHES4\tENSG00000188290\t\n"
                             "5\tISG15\tENSG00000187608\t\n"
                             "6\tLYZ\tENSG00000090382\t\n"
                             "7\tTWICE\tENSG00000000003\t\n");
    assert_int_equal(vocab, 2 + 6 + 3);
    free(tsv);
    scd_corpus_free(corpus);
}

static void further_symbols_join_and_known_ones_do_not(void **state)
{
    (void)state;
    size_t vocab;
    const char *const extra[] = {"KLF1", "LYZ", "KLF1", "HES4_ENSG00000188290"};
    scd_corpus *corpus = CORPUS("a");
    char *tsv = union_of(corpus, extra, 4, NULL, &vocab);
    assert_int_equal(vocab, 2 + 5 + 3);
    assert_non_null(strstr(tsv, "\n5\tKLF1\t\t\n"));
    free(tsv);
    scd_corpus_free(corpus);
}

static void a_table_gives_ids_symbols_and_aliases(void **state)
{
    (void)state;
    size_t vocab;
    const char *path = corpus_path("table.csv"), *const extra[] = {"OLDHES", "NEWLYZ"};
    write_text(path, "ENSG00000000001,CD3D,1,100,lncRNA\n"
                     "ENSG00000167286.9,CD3D,2,100,protein_coding\r\n"
                     "ENSG00000000002,CD3D,2,100,protein_coding\n"
                     "\"ENSG00000000005\",TNMD,2,100,protein_coding\n" /* names an id */
                     "ENSG00000090382,NEWLYZ,2,100,protein_coding\n"   /* LYZ's id in file b */
                     "ENSG00000187608,ISG15,2,100,protein_coding\n"
                     "ENSG00000188290,HES4NEW,2,100,protein_coding\n"
                     "ENSG00000999999,ENSG00000999999,1,1,lncRNA\n");
    scd_corpus *corpus = CORPUS("a", "b");
    char *tsv = union_of(corpus, extra, 2, path, &vocab);
    assert_string_equal(tsv, "token_id\tsymbol\tensembl_id\taliases\n"
                             "2\tCD3D\tENSG00000167286\t\n"
                             "3\tHES4\tENSG00000188290\tHES4NEW\n"
                             "4\tISG15\tENSG00000187608\t\n"
                             "5\tNEWLYZ\tENSG00000090382\tLYZ\n"
                             "6\tOLDHES\t\t\n"
                             "7\tTNMD\tENSG00000000005\t\n"
                             "8\tTWICE\tENSG00000000003\t\n");
    free(tsv);
    scd_vocab *own = corpus_own_vocab(corpus, path);
    scd_rung rung;
    assert_int_equal(scd_vocab_resolve(own, "NEWLYZ", 6, &rung), 5);
    assert_int_equal(rung, SCD_RUNG_ALIAS);
    scd_vocab_free(own);
    scd_corpus_free(corpus);
}

/* As with AK6 and TAF9: the id of a composite name has gone to another gene since. */
static void an_id_that_changed_hands_joins_nothing(void **state)
{
    (void)state;
    size_t vocab;
    const char *path = corpus_path("table.csv"), *const extra[] = {"AK6"};
    write_text(path, "ENSG00000188290,AK6,1,1,x\nENSG00000000009,HES4,1,1,x\n");
    scd_corpus *corpus = CORPUS("a");
    char *tsv = union_of(corpus, extra, 1, path, &vocab);
    assert_non_null(strstr(tsv, "\tAK6\t\t\n"));
    assert_non_null(strstr(tsv, "\tHES4\tENSG00000188290\t\n"));
    free(tsv);
    tsv = union_of(corpus, NULL, 0, path, &vocab);
    assert_null(strstr(tsv, "AK6"));
    free(tsv);
    scd_corpus_free(corpus);
}

static void a_table_that_is_none_is_refused_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {{"ENSG00000000001,A,1\nLYZ,ENSG00000090382\n", "line 2"},
                 {"ENSG00000000001,A,1\nENSG00000000002\n", "line 2"},
                 {"", "no line"},
                 {"id,symbol\n", "no line"},
                 {"\x1f\x8bno gzip", "table.csv"}};
    const char *path = corpus_path("table.csv");
    scd_corpus *corpus = CORPUS("a");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scd_error err;
        scd_corpus_genes genes;
        write_text(path, cases[i].text);
        assert_int_equal(scd_corpus_union(corpus, NULL, 0, path, &genes, &err), SCD_E_INVALID);
        assert_non_null(strstr(err.message, cases[i].message));
        assert_non_null(strstr(err.message, "table.csv"));
        assert_null(genes.tsv);
    }
    scd_corpus_free(corpus);
}

static void a_gene_without_a_name_is_refused(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus_genes genes;
    scd_corpus *corpus = CORPUS("no_name");
    assert_int_equal(scd_corpus_union(corpus, NULL, 0, NULL, &genes, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "no_name.h5ad: var/index: the name of gene 1"));
    scd_corpus_free(corpus);
}

static void a_union_is_one_of_names_not_of_numbers(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus_genes genes;
    scd_corpus *corpus = CORPUS("entrez");
    assert_int_equal(scd_corpus_union(corpus, NULL, 0, NULL, &genes, &err), SCD_OK);
    assert_non_null(strstr(genes.tsv, "\tLYZ\t"));
    assert_null(strstr(genes.tsv, "4069"));
    free(genes.tsv);
    scd_corpus_free(corpus);
}

static void the_column_that_the_vocabulary_knows_best_is_bound(void **state)
{
    (void)state;
    scd_error err;
    size_t n;
    scd_corpus *known = CORPUS("c"), *corpus = CORPUS("probes", "entrez");
    scd_vocab *vocab = corpus_own_vocab(known, NULL);
    assert_non_null(strstr(scd_corpus_why(corpus, 0), "genes from var[feature_name]"));
    assert_int_equal(scd_corpus_bind(corpus, vocab, 1, &err), SCD_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(strstr(scd_corpus_why(corpus, i), "genes from var[index], 3 of 3 known"));
        assert_non_null(strstr(scd_corpus_why(corpus, i), "X holds counts"));
        scd_corpus_panel(corpus, i, &n);
        assert_int_equal(n, 3);
    }
    scd_corpus_free(corpus);
    scd_corpus_free(known);
    scd_vocab_free(vocab);
}

static void a_named_column_is_bound_whatever_the_vocabulary_knows(void **state)
{
    (void)state;
    scd_error err;
    const char *path = corpus_path("probes");
    scd_corpus *corpus = NULL;
    const scd_corpus_options options = {
        .paths = &path, .n_paths = 1, .gene_column = "feature_name"};
    scd_corpus *known = CORPUS("c");
    scd_vocab *vocab = corpus_own_vocab(known, NULL);
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_OK);
    assert_int_equal(scd_corpus_bind(corpus, vocab, 0.5, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "knows 1 of the 3 genes in var/feature_name"));
    scd_corpus_free(corpus);
    scd_corpus_free(known);
    scd_vocab_free(vocab);
}

static void each_failed_allocation_is_reported_and_leaves_nothing(void **state)
{
    (void)state;
    const char *path = corpus_path("table.csv"), *const extra[] = {"KLF1"};
    write_text(path, "ENSG00000167286,CD3D,1,1,x\nENSG00000090382,NEWLYZ,1,1,x\n");
    scd_corpus *corpus = CORPUS("a", "b");
    for (long n = 0;; n++) {
        scd_corpus_genes genes;
        scd_error err;
        scd_mem_fail_after(n);
        scd_code code = scd_corpus_union(corpus, extra, 1, path, &genes, &err);
        scd_mem_fail_after(-1);
        if (!code) {
            free(genes.tsv);
            break;
        }
        assert_null(genes.tsv);
        assert_true(strlen(err.message) > 0);
    }
    scd_corpus_free(corpus);
}

/* ---- the real files -------------------------------------------------------------------------- */

static const char *const real[] = {"kang_ifnb.h5ad", "pbmc_ifnb_9k.h5ad", "pbmc68k_reduced.h5ad",
                                   "perturbseq_k562_gbm.h5ad"};

static const char *data_path(const char *name, char out[512])
{
    const char *folder = getenv("SCDIVA_DATA");
    snprintf(out, 512, "%s/%s", folder && *folder ? folder : "../shared/data", name);
    return out;
}

static scd_corpus *open_real(void)
{
    char paths[4][512];
    const char *at[4];
    scd_error err;
    scd_corpus *corpus = NULL;
    for (size_t i = 0; i < 4; i++) {
        at[i] = data_path(real[i], paths[i]);
        if (access(at[i], R_OK) != 0)
            skip();
    }
    scd_code code =
        scd_corpus_open(&(scd_corpus_options){.paths = at, .n_paths = 4}, &corpus, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    return corpus;
}

/* The symbols of a column like "control", "A", "A+B": free() them. */
static char **perturbed(scd_corpus *corpus, size_t *n)
{
    scd_corpus_column column;
    char **symbols = calloc(256, sizeof *symbols);
    *n = 0;
    assert_int_equal(scd_corpus_obs(corpus, "perturbation", &column, NULL), SCD_OK);
    for (size_t i = 0; i < column.n_values; i++)
        for (char *at = strtok(column.values[i], "+"); at; at = strtok(NULL, "+"))
            if (strcmp(at, "control") != 0 && *n < 256)
                symbols[(*n)++] = strdup(at);
    scd_corpus_column_release(&column);
    return symbols;
}

static void the_training_files_have_some_9500_genes_together(void **state)
{
    (void)state;
    char path[512];
    size_t n, vocab, n_ids = 0;
    scd_corpus *corpus = open_real();
    char **symbols = perturbed(corpus, &n);
    char *tsv = union_of(corpus, (const char *const *)symbols, n,
                         data_path("genes/gencode_v48_human.csv.gz", path), &vocab);
    for (const char *at = tsv; (at = strstr(at, "\tENSG")); at++)
        n_ids++;
    print_message("union: %zu genes, %zu with an Ensembl id\n", vocab - 5, n_ids);
    assert_in_range(vocab - 5, 9400, 9600);
    assert_non_null(strstr(tsv, "\tKLF1\tENSG00000105610\t"));
    assert_non_null(strstr(tsv, "\tPTPRC\tENSG00000081237\t")); /* composite in kang_ifnb */
    for (size_t i = 0; i < n; i++)
        free(symbols[i]);
    free(symbols);
    free(tsv);
    scd_corpus_free(corpus);
}

static void the_training_files_read_as_counts(void **state)
{
    (void)state;
    static const size_t n_cells[] = {1556, 2000, 700, 4944};
    char path[512];
    size_t cells_of[4] = {0}, tokens_of[4] = {0}, counts_of[4] = {0}, empty_of[4] = {0};
    scd_error err;
    scd_corpus *corpus = open_real();
    scd_vocab *vocab = corpus_own_vocab(corpus, data_path("genes/gencode_v48_human.csv.gz", path));
    assert_int_equal(scd_corpus_bind(corpus, vocab, 0.99, &err), SCD_OK);
    int64_t start = scd_now_ns();
    for (size_t first = 0; first < scd_corpus_n_cells(corpus); first += 256) {
        scd_corpus_cell cells[256];
        size_t left = scd_corpus_n_cells(corpus) - first, n = left < 256 ? left : 256;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        assert_int_equal(scd_corpus_read(corpus, first, n, &arena, cells, &err), SCD_OK);
        for (size_t i = 0; i < n; i++) {
            cells_of[cells[i].file]++;
            tokens_of[cells[i].file] += cells[i].n;
            counts_of[cells[i].file] += cells[i].kind == SCD_INPUT_COUNTS;
            empty_of[cells[i].file] += !cells[i].n;
        }
        scd_arena_release(&arena);
    }
    double ms = (double)(scd_now_ns() - start) / 1e6;
    for (size_t f = 0; f < 4; f++) {
        print_message("%s: %zu cells, %zu tokens, %zu as counts, %zu empty (%s)\n", real[f],
                      cells_of[f], tokens_of[f], counts_of[f], empty_of[f],
                      scd_corpus_why(corpus, f));
        assert_int_equal(cells_of[f], n_cells[f]);
        assert_true(counts_of[f] > n_cells[f] - 5); /* the last two by recovery */
    }
    print_message("one pass: %.0f ms\n", ms);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

/* pbmc68k_reduced names the counts of each cell over all its genes (from values rounded to three
 * decimals, hence 0.1 %); perturbseq_k562_gbm those before genes were filtered, in float64. */
static void recovered_totals_are_those_of_the_cells(void **state)
{
    (void)state;
    static const char *const columns[] = {"n_counts", "ncounts"};
    char path[512];
    scd_error err;
    scd_corpus *corpus = open_real();
    scd_vocab *vocab = corpus_own_vocab(corpus, data_path("genes/gencode_v48_human.csv.gz", path));
    assert_int_equal(scd_corpus_bind(corpus, vocab, 0.99, &err), SCD_OK);
    for (size_t c = 0; c < 2; c++) {
        scd_corpus_column column;
        assert_int_equal(scd_corpus_obs(corpus, columns[c], &column, &err), SCD_OK);
        for (size_t i = 0; i < column.n; i++) {
            scd_corpus_cell cell;
            scd_arena arena;
            scd_arena_init(&arena, SIZE_MAX / 2);
            assert_int_equal(scd_corpus_read(corpus, i, 1, &arena, &cell, &err), SCD_OK);
            scd_arena_release(&arena);
            if (column.codes[i] < 0 || cell.kind != SCD_INPUT_COUNTS)
                continue;
            double named = strtod(column.values[column.codes[i]], NULL);
            if (c == 0)
                assert_true(fabs(cell.total / named - 1) < 1e-3);
            else
                assert_true(cell.total < named && fabs(cell.total - round(cell.total)) < 1e-6);
        }
        scd_corpus_column_release(&column);
    }
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void a_real_mouse_file_is_refused_by_the_training_genes(void **state)
{
    (void)state;
    char path[512];
    scd_error err;
    scd_corpus *mouse = NULL, *corpus = open_real();
    const char *at = data_path("mouse_brain_1k.h5ad", path);
    scd_vocab *vocab = corpus_own_vocab(corpus, NULL);
    assert_int_equal(
        scd_corpus_open(&(scd_corpus_options){.paths = &at, .n_paths = 1}, &mouse, &err), SCD_OK);
    assert_int_equal(scd_corpus_bind(mouse, vocab, 0.5, &err), SCD_E_INVALID);
    print_message("%s\n", err.message);
    assert_non_null(strstr(err.message, "mouse_brain_1k.h5ad"));
    assert_non_null(strstr(err.message, "mouse genes"));
    scd_corpus_free(mouse);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_write_a_gene_differently_share_it),
        cmocka_unit_test(further_symbols_join_and_known_ones_do_not),
        cmocka_unit_test(a_table_gives_ids_symbols_and_aliases),
        cmocka_unit_test(an_id_that_changed_hands_joins_nothing),
        cmocka_unit_test(a_table_that_is_none_is_refused_with_its_line),
        cmocka_unit_test(a_gene_without_a_name_is_refused),
        cmocka_unit_test(a_union_is_one_of_names_not_of_numbers),
        cmocka_unit_test(the_column_that_the_vocabulary_knows_best_is_bound),
        cmocka_unit_test(a_named_column_is_bound_whatever_the_vocabulary_knows),
        cmocka_unit_test(each_failed_allocation_is_reported_and_leaves_nothing),
        cmocka_unit_test(the_training_files_have_some_9500_genes_together),
        cmocka_unit_test(the_training_files_read_as_counts),
        cmocka_unit_test(recovered_totals_are_those_of_the_cells),
        cmocka_unit_test(a_real_mouse_file_is_refused_by_the_training_genes),
    };
    return cmocka_run_group_tests(tests, corpus_set_up, corpus_tear_down);
}
