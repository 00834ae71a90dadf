/* test_model_text.c - config.json and genes.tsv as they are written are read back as they were.
 *
 * Threads: main. */
#include "engine/model/vocab.h"
#include "engine/train/model_text.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static scd_model_config some_config(size_t vocab)
{
    scd_model_config c;
    assert_int_equal(scd_model_config_parse("{}", 2, &c, NULL), SCD_OK);
    c.d = 24;
    c.hidden_dim = 32;
    c.n_heads = 2;
    c.n_layers = 3;
    c.ffn_dim = 48;
    c.max_gene_len = 700;
    c.vocab = vocab;
    scd_model_text_lay_out(&c);
    return c;
}

static void a_config_is_read_back_as_it_was(void **state)
{
    (void)state;
    for (int flags = 0; flags < 8; flags++) {
        scd_buf text;
        scd_model_config c = some_config(50), back;
        c.trained = flags & 1;
        c.value_masking = flags & 2;
        c.latent_visible = flags & 4;
        scd_buf_init(&text, 1 << 16);
        scd_model_text_config(&c, &text);
        assert_int_equal(scd_model_config_parse(text.data, text.n_bytes, &back, NULL), SCD_OK);
        assert_int_equal(scd_model_config_check(&back, NULL), SCD_OK);
        assert_true(back.trained == c.trained && back.value_masking == c.value_masking);
        assert_true(back.latent_visible == c.latent_visible);
        assert_true(back.d == 24 && back.hidden_dim == 32 && back.head_dim == 16);
        assert_true(back.n_layers == 3 && back.ffn_dim == 48 && back.vocab == 50);
        assert_true(back.max_gene_len == 700 && back.rope_max_len == 701);
        assert_true(back.pad_fill_id == 47 && back.bos_id == 48 && back.eos_id == 49);
        scd_buf_release(&text);
    }
}

static void assert_genes(const char *before, const float *entropies, const char *after)
{
    scd_buf text;
    scd_error err = {0};
    scd_buf_init(&text, 1 << 16);
    if (scd_model_text_genes(before, strlen(before), entropies, 10, &text, &err))
        fail_msg("%s", err.message);
    assert_string_equal(text.data, after);
    scd_buf_release(&text);
}

static const float entropies[10] = {[2] = 0.5f, [3] = NAN, [4] = 0.123456789f};

static void entropies_become_the_last_column(void **state)
{
    (void)state;
    assert_genes("token_id\tsymbol\tensembl_id\n2\tA\tENSG1\n3\tB\t\n4\tC\n", entropies,
                 "token_id\tsymbol\tensembl_id\tentropy\n2\tA\tENSG1\t0.5\n3\tB\t\t\n"
                 "4\tC\t\t0.123456791\n");
}

static void old_entropies_are_replaced_or_removed(void **state)
{
    (void)state;
    const char *old = "token_id\tentropy\tsymbol\r\n4\t0.9\tC\r\n2\t\tA\r\n";
    assert_genes(old, entropies, "token_id\tsymbol\tentropy\n4\tC\t0.123456791\n2\tA\t0.5\n");
    assert_genes(old, NULL, "token_id\tsymbol\n4\tC\n2\tA\n");
}

static void which_genes_are_used_becomes_the_last_column(void **state)
{
    (void)state;
    static const uint8_t used[10] = {[2] = 1, [4] = 1};
    const char *genes = "token_id\tused\tsymbol\tentropy\n4\t0\tC\t0.5\n3\t1\tB\n2\t1\tA\t\n";
    scd_buf text;
    scd_buf_init(&text, 1 << 16);
    assert_int_equal(scd_model_text_used(genes, strlen(genes), used, 10, &text, NULL), SCD_OK);
    assert_string_equal(text.data,
                        "token_id\tsymbol\tentropy\tused\n4\tC\t0.5\t1\n3\tB\t\t0\n2\tA\t\t1\n");
    scd_buf_release(&text);
}

static void an_entropy_is_read_back_to_the_bit(void **state)
{
    (void)state;
    scd_buf text;
    scd_vocab *vocab = NULL;
    scd_model_config c = some_config(10);
    const char *genes = "token_id\tsymbol\n2\tA\n3\tB\n4\tC\n";
    scd_buf_init(&text, 1 << 16);
    assert_int_equal(scd_model_text_genes(genes, strlen(genes), entropies, 10, &text, NULL),
                     SCD_OK);
    assert_int_equal(scd_vocab_parse(text.data, text.n_bytes, &c, &vocab, NULL), SCD_OK);
    assert_true(scd_vocab_entropy(vocab, 2) == entropies[2]);
    assert_true(scd_vocab_entropy(vocab, 3) == 1); /* SPEC: without one it counts as 1 */
    assert_true(scd_vocab_entropy(vocab, 4) == entropies[4]);
    scd_vocab_free(vocab);
    scd_buf_release(&text);
}

static void tables_of_no_use_are_refused(void **state)
{
    (void)state;
    const char *const wrong[] = {"", "symbol\nA\n", "token_id\tsymbol\n10\tA\n",
                                 "token_id\tsymbol\nx\tA\n"};
    for (size_t i = 0; i < 4; i++) {
        scd_buf text;
        scd_buf_init(&text, 1 << 16);
        assert_int_equal(
            scd_model_text_genes(wrong[i], strlen(wrong[i]), entropies, 10, &text, NULL),
            SCD_E_INVALID);
        scd_buf_release(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_is_read_back_as_it_was),
        cmocka_unit_test(entropies_become_the_last_column),
        cmocka_unit_test(old_entropies_are_replaced_or_removed),
        cmocka_unit_test(which_genes_are_used_becomes_the_last_column),
        cmocka_unit_test(an_entropy_is_read_back_to_the_bit),
        cmocka_unit_test(tables_of_no_use_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
