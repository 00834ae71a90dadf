/* test_corpus.c - files become one list of cells with counts, whatever each of them holds.
 *
 * Threads: main. */
#include "tests/unit/corpus_fixture.h"

#include <math.h>

static scd_arena arena;

static int arena_set_up(void **state)
{
    (void)state;
    scd_arena_init(&arena, SIZE_MAX / 2);
    return 0;
}

static int arena_tear_down(void **state)
{
    (void)state;
    scd_arena_release(&arena);
    return 0;
}

static scd_corpus_cell *read_all(scd_corpus *corpus)
{
    size_t n = scd_corpus_n_cells(corpus);
    scd_corpus_cell *cells = scd_arena_alloc(&arena, n, sizeof *cells);
    assert_int_equal(scd_corpus_read(corpus, 0, n, &arena, cells, NULL), SCD_OK);
    return cells;
}

/* The value of a gene in a cell, 0 where it has none. */
static float value_of(const scd_vocab *vocab, const scd_corpus_cell *cell, const char *gene)
{
    scd_rung rung;
    int32_t token = scd_vocab_resolve(vocab, gene, strlen(gene), &rung);
    assert_true(token >= 0);
    for (size_t i = 0; i < cell->n; i++) {
        assert_true(!i || cell->tokens[i - 1] < cell->tokens[i]);
        if (cell->tokens[i] == token)
            return cell->values[i];
    }
    return 0;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* ---- cells ----------------------------------------------------------------------------------- */

static void cells_are_counted_through_all_files_in_order(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("a", "b", "c");
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_n_files(corpus), 3);
    assert_int_equal(scd_corpus_n_cells(corpus), 5 + 3 + 60);
    assert_string_equal(scd_corpus_file_name(corpus, 1), "b.h5ad");
    assert_non_null(strstr(scd_corpus_why(corpus, 1), "counts"));
    const scd_corpus_cell *cells = read_all(corpus);
    assert_string_equal(cells[0].barcode, "a-0");
    assert_string_equal(cells[4].barcode, "a-4");
    assert_string_equal(cells[5].barcode, "b-0");
    assert_string_equal(cells[67].barcode, "c-59");
    assert_int_equal(cells[67].file, 2);
    assert_int_equal(cells[67].row, 59);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void columns_of_one_gene_are_summed_and_the_total_has_all_counts(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("a");
    scd_vocab *vocab = corpus_bound(corpus);
    const scd_corpus_cell *cells = read_all(corpus);
    assert_int_equal(cells[1].kind, SCD_INPUT_COUNTS);
    assert_int_equal(cells[1].n, 2);
    assert_float_equal(value_of(vocab, &cells[1], "LYZ"), 3, 0);
    assert_float_equal(value_of(vocab, &cells[1], "CD3D"), 1 + 2, 0);
    assert_true(cells[1].total == 6);
    assert_float_equal(value_of(vocab, &cells[2], "HES4"), 5, 0);
    assert_int_equal(cells[3].n, 0); /* a cell without counts is a cell without genes */
    assert_true(cells[3].total == 0);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void the_counts_of_a_layer_are_found_beside_scaled_values(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("b");
    scd_vocab *vocab = corpus_bound(corpus);
    const scd_corpus_cell *cells = read_all(corpus);
    assert_float_equal(value_of(vocab, &cells[0], "LYZ"), 3, 0);
    assert_float_equal(value_of(vocab, &cells[1], "ISG15"), 4, 0);
    assert_float_equal(value_of(vocab, &cells[1], "ENSG00000000005"), 9, 0);
    assert_true(cells[1].total == 13);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void counts_are_recovered_from_log1p_where_they_show(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("c");
    scd_vocab *vocab = corpus_bound(corpus);
    const scd_corpus_cell *cells = read_all(corpus);
    for (size_t i = 0; i < 59; i++) {
        double sum = 100;
        assert_int_equal(cells[i].kind, SCD_INPUT_COUNTS);
        for (size_t g = 0; g < 12; g++)
            sum += (double)(1 + (i + g) % 3 * (g % 5));
        assert_float_equal(cells[i].total, sum, 0.01); /* values were stored as float32 */
        assert_float_equal(value_of(vocab, &cells[i], "HES4"), (float)(1 + i % 3 * 3), 0);
    }
    /* Its least count is 2: halves are no counts, so it stays what it was. */
    assert_int_equal(cells[59].kind, SCD_INPUT_LOG1P_CP10K);
    assert_float_equal(value_of(vocab, &cells[59], "LYZ"), log1p(1e4 * 2 / 145), 1e-6);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void genes_unknown_to_the_vocabulary_count_in_the_total_only(void **state)
{
    (void)state;
    static const char tsv[] = "token_id\tsymbol\n2\tLYZ\n3\tISG15\n4\tHES4\n";
    const scd_model_config config = {
        .vocab = 8, .mask_id = 1, .pad_fill_id = 5, .bos_id = 6, .eos_id = 7};
    scd_vocab *vocab = NULL;
    size_t n;
    scd_corpus *corpus = CORPUS("a");
    assert_int_equal(scd_vocab_parse(tsv, sizeof tsv - 1, &config, &vocab, NULL), SCD_OK);
    assert_int_equal(scd_corpus_bind(corpus, vocab, 0.5, NULL), SCD_OK);
    const scd_corpus_cell *cells = read_all(corpus);
    assert_int_equal(cells[0].n, 2);
    assert_true(cells[0].total == 7);
    double share = -1, given = 0, mapped = 0;
    for (size_t i = 0; i < scd_corpus_n_cells(corpus); i++) {
        given += cells[i].total;
        for (size_t k = 0; k < cells[i].n; k++)
            mapped += (double)cells[i].values[k];
    }
    assert_int_equal(scd_corpus_mapped(corpus, &share, NULL), SCD_OK);
    assert_true(share == mapped / given && share < 1);
    const int32_t *panel = scd_corpus_panel(corpus, 0, &n);
    const int32_t expected[] = {2, 3, 4};
    assert_int_equal(n, 3);
    assert_memory_equal(panel, expected, sizeof expected);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void any_run_of_cells_reads_as_the_whole_does(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("a", "many", "c");
    scd_vocab *vocab = corpus_bound(corpus);
    const scd_corpus_cell *all = read_all(corpus);
    size_t n = scd_corpus_n_cells(corpus);
    for (size_t first = 0; first < n; first += 37) {
        scd_corpus_cell some[61];
        size_t m = n - first < 61 ? n - first : 61;
        assert_int_equal(scd_corpus_read(corpus, first, m, &arena, some, NULL), SCD_OK);
        for (size_t i = 0; i < m; i++) {
            const scd_corpus_cell *a = &all[first + i], *b = &some[i];
            assert_string_equal(a->barcode, b->barcode);
            assert_int_equal(a->n, b->n);
            assert_true(a->total == b->total && a->row == b->row && a->file == b->file);
            assert_memory_equal(a->tokens, b->tokens, a->n * sizeof *a->tokens);
            assert_memory_equal(a->values, b->values, a->n * sizeof *a->values);
        }
    }
    assert_float_equal(value_of(vocab, &all[5 + 600], "M03"), 4, 0); /* (600 * 7 + 9) % 5 */
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void more_files_than_may_be_open_are_read_in_any_order(void **state)
{
    (void)state;
    enum { N = 40 };
    static char texts[N][160];
    const char *paths[N];
    char command[160];
    scd_error err;
    scd_corpus *corpus = NULL;
    for (size_t i = 0; i < N; i++) { /* a: CSR, c: CSC, which stays open longer */
        snprintf(texts[i], sizeof texts[i], "%s/copy-%02zu.h5ad", corpus_dir, i);
        snprintf(command, sizeof command, "cd %s && cp %s.h5ad copy-%02zu.h5ad", corpus_dir,
                 i % 2 ? "a" : "c", i);
        assert_int_equal(system(command), 0);
        paths[i] = texts[i];
    }
    const scd_corpus_options options = {.paths = paths, .n_paths = N};
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_OK);
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_n_cells(corpus), N / 2 * (60 + 5));
    for (size_t i = 0; i < 2 * N; i++) {
        size_t file = i * 17 % N;
        scd_corpus_cell cell;
        size_t first = file / 2 * 65 + (file % 2 ? 60 : 0);
        assert_int_equal(scd_corpus_read(corpus, first, 1, &arena, &cell, &err), SCD_OK);
        assert_int_equal(cell.file, file);
        assert_string_equal(cell.barcode, file % 2 ? "a-0" : "c-0");
        assert_float_equal(value_of(vocab, &cell, "HES4"), 1, 0);
    }
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

/* ---- left out -------------------------------------------------------------------------------- */

static void excluded_barcodes_are_not_in_the_list(void **state)
{
    (void)state;
    const char *path = corpus_path("exclude.txt");
    write_text(path, "# test cells\r\na-1\r\nmany.h5ad\tmany-0\nmany-1\n\nmany-350\nmany-699");
    scd_corpus *corpus = corpus_of((const char *const[4]){"a", "many", "c"}, path);
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_n_cells(corpus), 5 + 700 + 60 - 5);
    const scd_corpus_cell *cells = read_all(corpus);
    assert_string_equal(cells[1].barcode, "a-2");
    assert_string_equal(cells[4].barcode, "many-2");
    assert_string_equal(cells[4 + 347].barcode, "many-349");
    assert_string_equal(cells[4 + 348].barcode, "many-351");
    assert_string_equal(cells[4 + 695].barcode, "many-698");
    assert_string_equal(cells[4 + 696].barcode, "c-0");
    for (size_t i = 0; i < 760; i++) {
        char barcode[32];
        const char *file = cells[i].file == 0 ? "a" : cells[i].file == 1 ? "many" : "c";
        snprintf(barcode, sizeof barcode, "%s-%u", file, cells[i].row);
        assert_string_equal(cells[i].barcode, barcode);
    }
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void a_barcode_that_no_file_has_is_an_error_that_names_it(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *corpus = NULL;
    const char *path = corpus_path("exclude.txt"), *const names[4] = {"a", "c"};
    write_text(path, "a-1\nc.h5ad\ta-2\nA-3\n");
    assert_int_equal(corpus_try(names, path, &corpus, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "2 of 3 barcodes"));
    assert_non_null(strstr(err.message, "line 2, is a-2 of c.h5ad"));
    write_text(path, "a-1\nx\ty\tz\n");
    assert_int_equal(corpus_try(names, path, &corpus, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "line 2"));
    assert_int_equal(corpus_try(names, corpus_path("absent.txt"), &corpus, &err), SCD_E_IO);
}

static void a_name_that_two_files_have_is_ambiguous_and_a_path_is_not(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *corpus = NULL;
    char other[2][200], command[600], line[300];
    snprintf(other[0], sizeof other[0], "%s/other", corpus_dir);
    snprintf(other[1], sizeof other[1], "%s/other/a.h5ad", corpus_dir);
    snprintf(command, sizeof command, "mkdir -p %s && cp %s %s", other[0], corpus_path("a"),
             other[1]);
    assert_int_equal(system(command), 0);
    const char *const paths[] = {corpus_path("a"), corpus_path("c"), other[1]};
    const char *exclude = corpus_path("exclude.txt");
    const scd_corpus_options options = {.paths = paths, .n_paths = 3, .exclude = exclude};
    write_text(exclude, "c.h5ad\tc-0\na.h5ad\ta-1\n");
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "line 2: a.h5ad may be "));
    assert_non_null(strstr(err.message, paths[0]));
    assert_non_null(strstr(err.message, other[1]));
    snprintf(line, sizeof line, "c.h5ad\tc-0\n%s\ta-1\n", other[1]);
    write_text(exclude, line);
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_OK);
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_n_cells(corpus), 5 + 59 + 4);
    const scd_corpus_cell *cells = read_all(corpus);
    assert_string_equal(cells[1].barcode, "a-1");
    assert_string_equal(cells[5 + 59 + 1].barcode, "a-2");
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
    write_text(exclude, "a-1\n"); /* of any file: both */
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_OK);
    assert_int_equal(scd_corpus_n_cells(corpus), 4 + 60 + 4);
    scd_corpus_free(corpus);
}

static void leaving_out_every_cell_is_an_error(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *corpus = NULL;
    const char *path = corpus_path("exclude.txt");
    write_text(path, "a-0\na-1\na-2\na-3\na-4\n");
    assert_int_equal(corpus_try((const char *const[4]){"a"}, path, &corpus, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "leaves out every cell"));
    corpus = corpus_of((const char *const[4]){"a", "c"}, path); /* of one file: fine */
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_n_cells(corpus), 60);
    assert_string_equal(read_all(corpus)[0].barcode, "c-0");
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

/* ---- columns of obs -------------------------------------------------------------------------- */

static void a_column_has_the_values_of_all_files_and_gaps_where_one_lacks_it(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus_column column;
    const int32_t types[] = {0, 1, 0, -1, 2, 1, 0, 0}, batches[] = {0, 0, 1, 1, 1, -1, -1, -1};
    scd_corpus *corpus = CORPUS("a", "b");
    assert_int_equal(scd_corpus_obs(corpus, "cell_type", &column, &err), SCD_OK);
    assert_int_equal(column.n, 8);
    assert_int_equal(column.n_values, 3); /* one category has no cell */
    assert_string_equal(column.values[0], "T");
    assert_string_equal(column.values[1], "B");
    assert_string_equal(column.values[2], "NK");
    assert_memory_equal(column.codes, types, sizeof types);
    scd_corpus_column_release(&column);
    assert_int_equal(scd_corpus_obs(corpus, "batch", &column, &err), SCD_OK);
    assert_int_equal(column.n_values, 2);
    assert_memory_equal(column.codes, batches, sizeof batches);
    scd_corpus_column_release(&column);
    assert_int_equal(scd_corpus_obs(corpus, "donor", &column, &err), SCD_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "donor"));
    assert_null(column.codes);
    scd_corpus_free(corpus);
}

static void a_column_passes_over_excluded_cells(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus_column column;
    const char *path = corpus_path("exclude.txt");
    const int32_t types[] = {0, 0, -1, 1};
    write_text(path, "a-1\n");
    scd_corpus *corpus = corpus_of((const char *const[4]){"a"}, path);
    assert_int_equal(scd_corpus_obs(corpus, "cell_type", &column, &err), SCD_OK);
    assert_int_equal(column.n_values, 2);
    assert_string_equal(column.values[1], "NK");
    assert_memory_equal(column.codes, types, sizeof types);
    scd_corpus_column_release(&column);
    scd_corpus_free(corpus);
}

/* ---- entropies ------------------------------------------------------------------------------- */

/* H of one gene as SPEC section 1 writes it, from the cells themselves. */
static double entropy(const scd_vocab *vocab, const scd_corpus_cell *cells, size_t n,
                      const uint8_t *keep, const char *gene, unsigned files)
{
    double total = 0, h = 0;
    size_t n_measured = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < n; i++) {
            if (keep && !keep[i])
                continue;
            double x = (double)value_of(vocab, &cells[i], gene);
            if (cells[i].kind == SCD_INPUT_COUNTS && x > 0)
                x = (double)(float)log1p(1e4 * x / cells[i].total);
            if (pass)
                h -= x > 0 ? x / total * log(x / total) : 0;
            else
                total += x;
            n_measured += pass && files >> cells[i].file & 1;
        }
    return h / log((double)n_measured);
}

static void entropies_are_those_of_the_formula(void **state)
{
    (void)state;
    static const struct {
        const char *gene;
        unsigned files; /* bits: those that measure it */
    } genes[] = {{"LYZ", 7}, {"ISG15", 7}, {"CD3D", 5}, {"HES4", 5}, {"KLF1", 4}, {"G3", 4}};
    float h[64];
    uint8_t keep[68];
    scd_corpus *corpus = CORPUS("a", "b", "c");
    scd_vocab *vocab = corpus_bound(corpus);
    const scd_corpus_cell *cells = read_all(corpus);
    for (size_t i = 0; i < 68; i++)
        keep[i] = i % 3 != 1;
    for (int kept = 0; kept < 2; kept++) {
        const uint8_t *k = kept ? keep : NULL;
        assert_int_equal(scd_corpus_entropies(corpus, k, 64, h, NULL), SCD_OK);
        for (size_t g = 0; g < sizeof genes / sizeof *genes; g++) {
            scd_rung rung;
            const char *gene = genes[g].gene;
            int32_t token = scd_vocab_resolve(vocab, gene, strlen(gene), &rung);
            /* Both in float64; H is rounded to float32. */
            assert_float_equal(h[token], entropy(vocab, cells, 68, k, gene, genes[g].files), 2e-7);
        }
        assert_true(isnan(h[0]) && isnan(h[1]) && isnan(h[63]));
    }
    memset(keep, 0, sizeof keep);
    keep[0] = keep[2] = 1; /* LYZ is in neither */
    assert_int_equal(scd_corpus_entropies(corpus, keep, 64, h, NULL), SCD_OK);
    scd_rung rung;
    assert_true(isnan(h[scd_vocab_resolve(vocab, "LYZ", 3, &rung)]));
    assert_true(isnan(h[scd_vocab_resolve(vocab, "G3", 2, &rung)]));
    assert_float_equal(h[scd_vocab_resolve(vocab, "ISG15", 5, &rung)], 0, 0);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

/* ---- bad input ------------------------------------------------------------------------------- */

static void files_of_no_use_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *file, *message;
    } cases[] = {{"text", ""},      {"scaled", "X"},          {"fraction", "X"},
                 {"no_counts", ""}, {"no_cells", "no cells"}, {"absent", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scd_error err;
        char name[64];
        scd_corpus *corpus = NULL;
        assert_int_not_equal(
            corpus_try((const char *const[4]){"a", cases[i].file}, NULL, &corpus, &err), SCD_OK);
        assert_null(corpus);
        snprintf(name, sizeof name, "%s.h5ad", cases[i].file);
        assert_non_null(strstr(err.message, name));
        assert_non_null(strstr(err.message, cases[i].message));
    }
}

static void the_same_file_twice_is_refused(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *corpus = NULL;
    char other[192];
    snprintf(other, sizeof other, "%s/../%s/a.h5ad", corpus_dir, strrchr(corpus_dir, '/') + 1);
    const char *const paths[] = {corpus_path("a"), corpus_path("c"), other};
    const scd_corpus_options options = {.paths = paths, .n_paths = 3};
    assert_int_equal(scd_corpus_open(&options, &corpus, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "given twice"));
}

static void mouse_genes_are_refused_by_a_human_vocabulary(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *human = CORPUS("b"), *mouse = CORPUS("mouse");
    scd_vocab *vocab = corpus_own_vocab(human, NULL);
    assert_int_equal(scd_corpus_bind(mouse, vocab, 0, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "mouse.h5ad"));
    assert_non_null(strstr(err.message, "0 of the 2 genes in var/"));
    assert_non_null(strstr(err.message, "ENSMUSG00000069516"));
    assert_non_null(strstr(err.message, "mouse genes"));
    scd_corpus_free(mouse);
    scd_corpus_free(human);
    scd_vocab_free(vocab);
}

static void too_few_known_genes_are_refused_with_examples(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *few = CORPUS("a"), *both = CORPUS("a", "c");
    scd_vocab *vocab = corpus_own_vocab(few, NULL);
    assert_int_equal(scd_corpus_bind(both, vocab, 0.5, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "c.h5ad: the vocabulary knows 4 of the 12 genes"));
    assert_non_null(strstr(err.message, "KLF1, G0"));
    assert_int_equal(scd_corpus_bind(both, vocab, 0.3, &err), SCD_OK);
    scd_corpus_free(both);
    scd_corpus_free(few);
    scd_vocab_free(vocab);
}

static void a_wrong_value_deep_in_a_file_is_found_when_it_is_read(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus_cell cells[2];
    scd_corpus *corpus = NULL;
    if (corpus_try((const char *const[4]){"nan"}, NULL, &corpus, &err))
        return; /* the look at some of the rows met it: refused as well */
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_read(corpus, 3331, 2, &arena, cells, &err), SCD_OK);
    assert_int_equal(scd_corpus_read(corpus, 3332, 2, &arena, cells, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "nan.h5ad"));
    assert_non_null(strstr(err.message, "nan-3333"));
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
}

static void without_room_for_temporary_files_it_says_where(void **state)
{
    (void)state;
    scd_error err;
    scd_corpus *corpus = NULL;
    const char *old = getenv("TMPDIR");
    char *kept = old ? strdup(old) : NULL;
    setenv("TMPDIR", "/nowhere", 1);
    scd_code code = corpus_try((const char *const[4]){"a"}, NULL, &corpus, &err);
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    free(kept);
    assert_int_equal(code, SCD_E_IO);
    assert_non_null(strstr(err.message, "/nowhere"));
}

static void no_file_is_refused(void **state)
{
    (void)state;
    scd_corpus *corpus = NULL;
    assert_int_equal(scd_corpus_open(&(scd_corpus_options){0}, &corpus, NULL), SCD_E_INVALID);
    assert_null(corpus);
}

static void each_failed_allocation_is_reported_and_leaves_nothing(void **state)
{
    (void)state;
    const char *const names[4] = {"a", "b", "c"};
    char path[160];
    strcpy(path, corpus_path("exclude.txt"));
    write_text(path, "a-1\n");
    scd_corpus *whole = corpus_of(names, NULL);
    scd_vocab *vocab = corpus_own_vocab(whole, NULL);
    scd_corpus_free(whole);
    for (long n = 0;; n++) {
        scd_error err;
        scd_corpus *corpus = NULL;
        scd_corpus_column column = {0};
        scd_digest digest;
        float h[64];
        scd_mem_fail_after(n);
        scd_code code = corpus_try(names, path, &corpus, &err);
        if (!code)
            code = scd_corpus_bind(corpus, vocab, 0.5, &err);
        if (!code)
            code = scd_corpus_entropies(corpus, NULL, 64, h, &err);
        if (!code)
            code = scd_corpus_obs(corpus, "cell_type", &column, &err);
        if (!code)
            code = scd_corpus_digest(corpus, &digest, &err);
        scd_mem_fail_after(-1);
        scd_corpus_column_release(&column);
        scd_corpus_free(corpus);
        if (!code)
            break;
        assert_true(strlen(err.message) > 0); /* some in the words of libhdf5 */
    }
    scd_vocab_free(vocab);
}

#define WITH_ARENA(test) cmocka_unit_test_setup_teardown(test, arena_set_up, arena_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ARENA(cells_are_counted_through_all_files_in_order),
        WITH_ARENA(columns_of_one_gene_are_summed_and_the_total_has_all_counts),
        WITH_ARENA(the_counts_of_a_layer_are_found_beside_scaled_values),
        WITH_ARENA(counts_are_recovered_from_log1p_where_they_show),
        WITH_ARENA(genes_unknown_to_the_vocabulary_count_in_the_total_only),
        WITH_ARENA(any_run_of_cells_reads_as_the_whole_does),
        WITH_ARENA(more_files_than_may_be_open_are_read_in_any_order),
        WITH_ARENA(excluded_barcodes_are_not_in_the_list),
        cmocka_unit_test(a_barcode_that_no_file_has_is_an_error_that_names_it),
        WITH_ARENA(a_name_that_two_files_have_is_ambiguous_and_a_path_is_not),
        WITH_ARENA(leaving_out_every_cell_is_an_error),
        cmocka_unit_test(a_column_has_the_values_of_all_files_and_gaps_where_one_lacks_it),
        cmocka_unit_test(a_column_passes_over_excluded_cells),
        WITH_ARENA(entropies_are_those_of_the_formula),
        cmocka_unit_test(files_of_no_use_are_refused_by_name),
        cmocka_unit_test(the_same_file_twice_is_refused),
        cmocka_unit_test(mouse_genes_are_refused_by_a_human_vocabulary),
        cmocka_unit_test(too_few_known_genes_are_refused_with_examples),
        WITH_ARENA(a_wrong_value_deep_in_a_file_is_found_when_it_is_read),
        cmocka_unit_test(without_room_for_temporary_files_it_says_where),
        cmocka_unit_test(no_file_is_refused),
        cmocka_unit_test(each_failed_allocation_is_reported_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, corpus_set_up, corpus_tear_down);
}
