/* test_vocab.c - genes.tsv, and every rung on which a gene name becomes a token.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/model/vocab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const scd_model_config config = {
    .vocab = 100, .pad_id = 0, .mask_id = 1, .pad_fill_id = 97, .bos_id = 98, .eos_id = 99};

#define HEADER "token_id\tsymbol\tensembl_id\taliases\tentropy\n"

static const char genes[] = HEADER "2\tISG15\tENSG00000187608\tG1P2|UCRP\t0.25\n"
                                   "3\tTXNIP\tENSG00000265972\tTHIF|VDUP1\t\n"
                                   "4\tCD3D\tENSG00000167286\tT3D|OLD|ISG15\t1\n"
                                   "7\tGAPDH\tENSG00000111640.15\tOLD|GAPD|GAPD\t0\n"
                                   "8\tENSG00000290825\tENSG00000290825\t\t0.5\n"
                                   "9\tC1orf112\t\tAPOLO1\t0.5\n"
                                   "96\tHLA-DRA\tENSG00000204287\t\t0.125\n";

static scd_vocab *parse(const char *tsv)
{
    scd_vocab *vocab = NULL;
    scd_error err = {0};
    if (scd_vocab_parse(tsv, strlen(tsv), &config, &vocab, &err))
        fail_msg("%s", err.message);
    return vocab;
}

static void assert_refused(const char *tsv, const char *part, const char *other)
{
    scd_vocab *vocab = NULL;
    scd_error err = {0};
    assert_int_equal(scd_vocab_parse(tsv, strlen(tsv), &config, &vocab, &err), SCD_E_INVALID);
    assert_null(vocab);
    if (!strstr(err.message, part) || !strstr(err.message, other))
        fail_msg("'%s' does not say '%s' and '%s'", err.message, part, other);
}

static void assert_resolves(const scd_vocab *vocab, const char *name, int32_t token, scd_rung rung)
{
    scd_rung got;
    int32_t id = scd_vocab_resolve(vocab, name, strlen(name), &got);
    if (id != token || got != rung)
        fail_msg("%s is %d by %s, not %d by %s", name, id, scd_rung_name(got), token,
                 scd_rung_name(rung));
}

static void a_table_is_read_by_its_columns(void **state)
{
    (void)state;
    scd_vocab *v = parse(genes);
    assert_int_equal(scd_vocab_n_genes(v), 7);
    assert_string_equal(scd_vocab_symbol(v, 2), "ISG15");
    assert_string_equal(scd_vocab_ensembl(v, 7), "ENSG00000111640");
    assert_string_equal(scd_vocab_ensembl(v, 8), "ENSG00000290825");
    assert_null(scd_vocab_symbol(v, 5));
    assert_null(scd_vocab_ensembl(v, 9));
    assert_null(scd_vocab_symbol(v, -1));
    assert_null(scd_vocab_symbol(v, 100));
    assert_true(scd_vocab_has_entropies(v));
    assert_true(scd_vocab_entropy(v, 2) == 0.25f);
    assert_true(scd_vocab_entropy(v, 3) == 1.0f); /* empty: counts as 1 */
    assert_true(scd_vocab_entropy(v, 7) == 0.0f);
    assert_true(scd_vocab_entropy(v, 50) == 1.0f);
    assert_true(scd_vocab_is_human(v));
    scd_vocab_free(v);
}

static void columns_may_stand_in_any_order_and_be_unknown(void **state)
{
    (void)state;
    scd_vocab *v = parse("token_id\tsymbol\tnote\tentropy\taliases\n5\tA\tx\t0.5\tB|C\n");
    assert_true(scd_vocab_entropy(v, 5) == 0.5f);
    assert_resolves(v, "C", 5, SCD_RUNG_ALIAS);
    assert_resolves(v, "x", -1, SCD_RUNG_UNKNOWN);
    scd_vocab_free(v);
    v = parse("token_id\tsymbol\n5\tA\n");
    assert_false(scd_vocab_has_entropies(v));
    scd_vocab_free(v);
}

static void genes_that_are_not_used_have_a_token_all_the_same(void **state)
{
    (void)state;
    scd_vocab *v = parse("token_id\tsymbol\tused\n5\tA\t0\n6\tB\t1\n");
    assert_resolves(v, "A", 5, SCD_RUNG_SYMBOL);
    assert_true(!scd_vocab_used(v)[5] && scd_vocab_used(v)[6]);
    assert_int_equal(scd_vocab_n_used(v), 1);
    scd_vocab_free(v);
    v = parse("token_id\tsymbol\n5\tA\n");
    assert_null(scd_vocab_used(v));
    assert_int_equal(scd_vocab_n_used(v), 1);
    scd_vocab_free(v);
    assert_refused("token_id\tsymbol\tused\n5\tA\t1\n6\tB\t\n", "line 3", "0 or 1");
    assert_refused("token_id\tsymbol\tused\n5\tA\tyes\n", "line 2", "0 or 1");
    assert_refused("token_id\tsymbol\tused\n5\tA\t0\n", "used is 0", "every gene");
    assert_refused("token_id\tsymbol\tused\tused\n5\tA\t0\t0\n", "line 1", "twice");
}

static void windows_line_ends_byte_order_mark_and_empty_lines_are_tolerated(void **state)
{
    (void)state;
    scd_vocab *v = parse("\xEF\xBB\xBFtoken_id\tsymbol\r\n\r\n5\tA\r\n\n6\tB");
    assert_int_equal(scd_vocab_n_genes(v), 2);
    assert_string_equal(scd_vocab_symbol(v, 5), "A");
    assert_string_equal(scd_vocab_symbol(v, 6), "B");
    scd_vocab_free(v);
}

static void a_wrong_header_is_refused(void **state)
{
    (void)state;
    assert_refused("", "empty", "token_id");
    assert_refused("symbol\ttoken_id\nA\t5\n", "line 1", "token_id and symbol");
    assert_refused("token_id\n5\n", "line 1", "token_id and symbol");
    assert_refused("token_id symbol\n5 A\n", "line 1", "tab-separated");
    assert_refused("token_id\tsymbol\tentropy\tentropy\n5\tA\t1\t1\n", "line 1", "twice");
    assert_refused("token_id\tsymbol\n", "no gene", "header");
}

static void bad_ids_are_refused_with_their_line(void **state)
{
    (void)state;
    assert_refused("token_id\tsymbol\n5\tA\n100\tB\n", "line 3", "'100'");
    assert_refused("token_id\tsymbol\n-5\tA\n", "line 2", "'-5'");
    assert_refused("token_id\tsymbol\n5.0\tA\n", "line 2", "'5.0'");
    assert_refused("token_id\tsymbol\n\tA\n", "line 2", "''");
    assert_refused("token_id\tsymbol\n99999999999999999999\tA\n", "line 2", "VOCAB_SIZE");
    assert_refused("token_id\tsymbol\n5\tA\n5\tB\n", "line 3", "twice, the first time for A");
    assert_refused("token_id\tsymbol\n1\tA\n", "line 2", "reserved");
    assert_refused("token_id\tsymbol\n98\tA\n", "line 2", "reserved");
}

static void names_that_two_genes_claim_are_refused(void **state)
{
    (void)state;
    assert_refused("token_id\tsymbol\n5\tA\n6\tA\n", "line 3", "symbol A is already");
    assert_refused(HEADER "5\tA\tENSG01\t\t\n6\tB\tENSG01\t\t\n", "line 3", "ensembl_id ENSG01");
    assert_refused(HEADER "5\tA\tENSG01.1\t\t\n6\tB\tENSG01.2\t\t\n", "line 3", "token 5");
    assert_refused(HEADER "5\tA\tB\t\t\n6\tB\t\t\t\n", "line 3", "symbol B is already");
    assert_refused("token_id\tsymbol\n5\t\n", "line 2", "empty");
}

static void malformed_rows_are_refused_with_their_line(void **state)
{
    (void)state;
    assert_refused("token_id\tsymbol\n5\tA\n\n6\n", "line 4", "1 columns, the header has 2");
    assert_refused("token_id\tsymbol\n5\tA\t\n", "line 2", "3 columns");
    assert_refused(HEADER "5\tA\t\t\tx\n", "line 2", "entropy is 'x'");
    assert_refused(HEADER "5\tA\t\t\t-0.5\n", "line 2", "entropy is '-0.5'");
    assert_refused(HEADER "5\tA\t\t\tnan\n", "line 2", "entropy is 'nan'");
    assert_refused(HEADER "5\tA\t\t\t7.3\n", "line 2", "log N");
    assert_refused(HEADER "5\tA\t\t\t0.5 \n", "line 2", "entropy");
    assert_refused("token_id\tsymbol\n5\tA\x01\n", "line 2", "0x01 at position 2");
    assert_refused("token_id\tsymbol\n5\tN\xCE\xB2\n", "line 2", "ASCII");
    char tsv[400] = "token_id\tsymbol\n5\t";
    memset(tsv + strlen(tsv), 'A', 256);
    assert_refused(tsv, "line 2", "256 bytes long, at most 255");
    scd_vocab *vocab;
    const char nul[] = "token_id\tsymbol\n5\tA\0B\n";
    assert_int_equal(scd_vocab_parse(nul, sizeof nul - 1, &config, &vocab, NULL), SCD_E_INVALID);
}

static void names_resolve_rung_by_rung(void **state)
{
    (void)state;
    scd_vocab *v = parse(genes);
    assert_resolves(v, "ISG15", 2, SCD_RUNG_SYMBOL); /* also an alias of CD3D: the symbol wins */
    assert_resolves(v, "HLA-DRA", 96, SCD_RUNG_SYMBOL);
    assert_resolves(v, "ENSG00000187608", 2, SCD_RUNG_ENSEMBL);
    assert_resolves(v, "ENSG00000290825", 8, SCD_RUNG_SYMBOL);
    assert_resolves(v, "ENSG00000187608.11", 2, SCD_RUNG_VERSIONED);
    assert_resolves(v, "ENSG00000111640.1", 7, SCD_RUNG_VERSIONED);
    assert_resolves(v, "UCRP", 2, SCD_RUNG_ALIAS);
    assert_resolves(v, "GAPD", 7, SCD_RUNG_ALIAS); /* twice in one row is still one gene */
    assert_resolves(v, "OLD", -1, SCD_RUNG_AMBIGUOUS);
    assert_resolves(v, "isg15", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "ISG1", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "ISG15.1", -1, SCD_RUNG_UNKNOWN); /* only Ensembl ids have versions */
    assert_resolves(v, "ENSG00000187608.", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "ENSG00000187608.x", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "ENSG00000187608.15_PAR_Y", 2, SCD_RUNG_COMPOSITE); /* same gene, on Y */
    scd_vocab_free(v);
}

static void a_symbol_that_looks_like_a_versioned_id_is_exact(void **state)
{
    (void)state;
    scd_vocab *v = parse(HEADER "5\tENSG00000000009.2\t\t\t\n6\tB\tENSG00000000009\t\t\n");
    assert_resolves(v, "ENSG00000000009.2", 5, SCD_RUNG_SYMBOL);
    assert_resolves(v, "ENSG00000000009.3", 6, SCD_RUNG_VERSIONED);
    assert_resolves(v, "ENSG00000000009.333", 6, SCD_RUNG_VERSIONED);
    scd_vocab_free(v);
}

static void composite_names_follow_the_ensembl_id_then_the_symbol(void **state)
{
    (void)state;
    scd_vocab *v = parse(genes);
    assert_resolves(v, "ISG15_ENSG00000187608", 2, SCD_RUNG_COMPOSITE);
    assert_resolves(v, "ISG15_ENSG00000187608.4", 2, SCD_RUNG_COMPOSITE);
    assert_resolves(v, "ENSG00000187608_ISG15", 2, SCD_RUNG_COMPOSITE);
    assert_resolves(v, "TXNIP_ENSG00000117289", 3, SCD_RUNG_COMPOSITE); /* a retired id */
    assert_resolves(v, "CD3D_ENSG00000187608", 2, SCD_RUNG_COMPOSITE);  /* the id decides */
    assert_resolves(v, "NOPE_ENSG00000187608", 2, SCD_RUNG_COMPOSITE);
    assert_resolves(v, "NOPE_ENSG00000000001", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "OLD_ENSG00000000001", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "ISG15_CD3D", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "_", -1, SCD_RUNG_UNKNOWN);
    assert_resolves(v, "_ENSG00000187608", 2, SCD_RUNG_COMPOSITE);
    scd_vocab_free(v);
}

static void a_large_vocabulary_finds_every_one_of_its_names(void **state)
{
    (void)state;
    enum { N = 60000 };
    scd_model_config large = config;
    large.vocab = N + 5;
    large.pad_fill_id = N + 2;
    large.bos_id = N + 3;
    large.eos_id = N + 4;
    char *tsv = malloc((size_t)N * 80);
    size_t at = (size_t)sprintf(tsv, "token_id\tsymbol\tensembl_id\taliases\n");
    for (int i = 2; i < N; i++)
        at += (size_t)sprintf(tsv + at, "%d\tG%d\tENSG%011d\tOLD%d|SHARED%d\n", i, i, i, i, i / 2);
    scd_vocab *v = NULL;
    assert_int_equal(scd_vocab_parse(tsv, at, &large, &v, NULL), SCD_OK);
    char name[40];
    for (int i = 2; i < N; i++) {
        sprintf(name, "G%d", i);
        assert_resolves(v, name, i, SCD_RUNG_SYMBOL);
        sprintf(name, "ENSG%011d.3", i);
        assert_resolves(v, name, i, SCD_RUNG_VERSIONED);
        sprintf(name, "OLD%d", i);
        assert_resolves(v, name, i, SCD_RUNG_ALIAS);
        sprintf(name, "SHARED%d", i / 2);
        assert_resolves(v, name, -1, SCD_RUNG_AMBIGUOUS);
        sprintf(name, "X%d", i);
        assert_resolves(v, name, -1, SCD_RUNG_UNKNOWN);
    }
    scd_vocab_free(v);
    free(tsv);
}

static void many_names_at_once_resolve_as_they_do_one_by_one(void **state)
{
    (void)state;
    static const char *const some[] = {"ISG15",   "ENSG00000187608.11",   "OLD", "", "UCRP",
                                       "ENSG1.2", "NOPE_ENSG00000187608", "x"};
    enum { N = 101, N_SOME = sizeof some / sizeof some[0] };
    const char *names[N];
    size_t lengths[N];
    int32_t tokens[N];
    scd_rung rungs[N];
    scd_vocab *v = parse(genes);
    for (size_t i = 0; i < N; i++) {
        names[i] = some[i * 5 % N_SOME];
        lengths[i] = strlen(names[i]);
    }
    for (size_t n = 0; n <= N; n++) {
        memset(tokens, 0x7f, sizeof tokens);
        scd_vocab_resolve_all(v, names, lengths, n, tokens, rungs);
        for (size_t i = 0; i < n; i++)
            assert_resolves(v, names[i], tokens[i], rungs[i]);
        assert_true(n == N || tokens[n] == 0x7f7f7f7f);
    }
    scd_vocab_free(v);
}

static bool looks_mouse(const scd_vocab *v, const char *name)
{
    return scd_vocab_looks_mouse(v, name, strlen(name));
}

static void mouse_names_are_told_from_human_ones(void **state)
{
    (void)state;
    scd_vocab *v = parse(genes);
    assert_true(looks_mouse(v, "ENSMUSG00000057666"));
    assert_true(looks_mouse(v, "ENSMUSG00000057666.4"));
    assert_true(looks_mouse(v, "Gapdh"));
    assert_true(looks_mouse(v, "Cd3d"));
    assert_false(looks_mouse(v, "GAPDH"));
    assert_false(looks_mouse(v, "gapdh"));
    assert_false(looks_mouse(v, "C1orf112")); /* a human symbol with small letters */
    assert_false(looks_mouse(v, "Xyz1"));     /* would not be known in capitals either */
    assert_false(looks_mouse(v, "ENSMUSG"));
    assert_false(looks_mouse(v, ""));
    scd_vocab_free(v);
}

static void a_mouse_vocabulary_is_not_human(void **state)
{
    (void)state;
    scd_vocab *v = parse(HEADER "5\tGapdh\tENSMUSG00000057666\t\t\n6\tA\t\t\t\n");
    assert_false(scd_vocab_is_human(v));
    assert_false(looks_mouse(v, "Gapdh"));
    assert_false(looks_mouse(v, "ENSMUSG00000057666"));
    scd_vocab_free(v);
    v = parse("token_id\tsymbol\n5\tGapdh\n6\tCd3d\n7\tA\n");
    assert_false(scd_vocab_is_human(v));
    scd_vocab_free(v);
}

static void a_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    scd_vocab *v = NULL;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code && n < 100; n++) {
        scd_mem_fail_after(n);
        code = scd_vocab_parse(genes, strlen(genes), &config, &v, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_E_NOMEM ? v == NULL : code == SCD_OK);
    }
    assert_int_equal(code, SCD_OK);
    scd_vocab_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_is_read_by_its_columns),
        cmocka_unit_test(columns_may_stand_in_any_order_and_be_unknown),
        cmocka_unit_test(genes_that_are_not_used_have_a_token_all_the_same),
        cmocka_unit_test(windows_line_ends_byte_order_mark_and_empty_lines_are_tolerated),
        cmocka_unit_test(a_wrong_header_is_refused),
        cmocka_unit_test(bad_ids_are_refused_with_their_line),
        cmocka_unit_test(names_that_two_genes_claim_are_refused),
        cmocka_unit_test(malformed_rows_are_refused_with_their_line),
        cmocka_unit_test(names_resolve_rung_by_rung),
        cmocka_unit_test(a_symbol_that_looks_like_a_versioned_id_is_exact),
        cmocka_unit_test(composite_names_follow_the_ensembl_id_then_the_symbol),
        cmocka_unit_test(a_large_vocabulary_finds_every_one_of_its_names),
        cmocka_unit_test(many_names_at_once_resolve_as_they_do_one_by_one),
        cmocka_unit_test(mouse_names_are_told_from_human_ones),
        cmocka_unit_test(a_mouse_vocabulary_is_not_human),
        cmocka_unit_test(a_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
