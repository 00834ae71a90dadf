/* test_config.c - config.json: defaults, bounds, and messages that name key, value and bound.
 *
 * Threads: main. */
#include "engine/model/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_says(const scd_error *err, const char *part)
{
    if (!strstr(err->message, part))
        fail_msg("'%s' does not say '%s'", err->message, part);
}

static scd_code parse(const char *json, scd_model_config *config, scd_error *err)
{
    return scd_model_config_parse(json, strlen(json), config, err);
}

/* Refused by parse or by check, with these parts in the message. */
static void assert_refused(const char *json, const char *part, const char *other)
{
    scd_model_config config;
    scd_error err = {0};
    scd_code code = parse(json, &config, &err);
    if (!code)
        code = scd_model_config_check(&config, &err);
    assert_int_equal(code, SCD_E_INVALID);
    assert_says(&err, part);
    assert_says(&err, other);
}

static void an_empty_object_is_the_official_checkpoint(void **state)
{
    (void)state;
    scd_model_config c;
    assert_int_equal(parse("{}", &c, NULL), SCD_OK);
    assert_int_equal(scd_model_config_check(&c, NULL), SCD_OK);
    assert_int_equal(c.d, 512);
    assert_int_equal(c.hidden_dim, 512);
    assert_int_equal(c.n_layers, 12);
    assert_int_equal(c.n_heads, 8);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.ffn_dim, 2048);
    assert_int_equal(c.vocab, 41818);
    assert_int_equal(c.pad_id, 0);
    assert_int_equal(c.mask_id, 1);
    assert_int_equal(c.pad_fill_id, 41815);
    assert_int_equal(c.bos_id, 41816);
    assert_int_equal(c.eos_id, 41817);
    assert_int_equal(c.max_gene_len, 1200);
    assert_int_equal(c.rope_max_len, 41819);
    assert_true(c.rope_theta == 10000 && c.dropout == 0.1);
    assert_false(c.latent_visible);
    assert_false(c.value_masking);
    assert_true(c.trained);
}

static void every_key_is_read_and_unknown_ones_are_ignored(void **state)
{
    (void)state;
    scd_model_config c;
    const char *json =
        "{\"SCGPT_DIM\": 48, \"HIDDEN_DIM\": 64, \"N_LAYERS\": 2, \"N_HEADS\": 4, \"D_HID\": 96,"
        " \"VOCAB_SIZE\": 100, \"PAD_TOKEN_ID\": 3, \"MASK_TOKEN_ID\": 4, \"PAD_FILL_GENE_ID\": 97,"
        " \"BOS_GENE_ID\": 98, \"EOS_GENE_ID\": 99, \"MAX_GENE_LEN\": 50, \"ROPE_THETA\": 500.5,"
        " \"ROPE_MAX_LEN\": 51, \"DROPOUT\": 0, \"latent_pooling\": \"visible\","
        " \"value_masking\": true, \"trained\": false, \"vocab_size\": -1, \"x\": {\"y\": []}}\n";
    assert_int_equal(parse(json, &c, NULL), SCD_OK);
    assert_int_equal(scd_model_config_check(&c, NULL), SCD_OK);
    assert_int_equal(c.d, 48);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.rope_max_len, 51);
    assert_true(c.rope_theta == 500.5 && c.dropout == 0);
    assert_true(c.latent_visible && c.value_masking && !c.trained);
    const int32_t special[] = {3, 4, 97, 98, 99};
    for (size_t i = 0; i < 5; i++)
        assert_true(scd_model_is_special(&c, special[i]));
    assert_false(scd_model_is_special(&c, 0));
    assert_false(scd_model_is_special(&c, 96));
}

static void absurd_sizes_are_refused_by_key_value_and_bound(void **state)
{
    (void)state;
    assert_refused("{\"N_LAYERS\": 0}", "N_LAYERS is 0", "from 1 to 1024");
    assert_refused("{\"HIDDEN_DIM\": -512}", "HIDDEN_DIM is -512", "from 1 to 65536");
    assert_refused("{\"VOCAB_SIZE\": 1e18}", "VOCAB_SIZE is 1e+18", "to 16777216");
    assert_refused("{\"VOCAB_SIZE\": 5}", "VOCAB_SIZE is 5", "from 6");
    assert_refused("{\"D_HID\": 2048.5}", "D_HID is 2048.5", "whole number");
    assert_refused("{\"SCGPT_DIM\": \"512\"}", "SCGPT_DIM is \"512\"", "whole number");
    assert_refused("{\"MAX_GENE_LEN\": 0}", "MAX_GENE_LEN is 0", "from 1");
    assert_refused("{\"N_HEADS\": null}", "N_HEADS is null", "whole number");
    assert_refused("{\"ROPE_THETA\": 0}", "ROPE_THETA is 0", "number from 1");
    assert_refused("{\"ROPE_THETA\": 1e999}", "ROPE_THETA", "number from 1");
    assert_refused("{\"DROPOUT\": 1}", "DROPOUT is 1", "0.99");
    assert_refused("{\"PAD_TOKEN_ID\": -1}", "PAD_TOKEN_ID is -1", "from 0");
}

static void sizes_that_contradict_one_another_are_refused(void **state)
{
    (void)state;
    assert_refused("{\"HIDDEN_DIM\": 500}", "HIDDEN_DIM 500", "N_HEADS 8");
    assert_refused("{\"N_HEADS\": 64}", "HIDDEN_DIM / N_HEADS is 8", "16 to 128");
    assert_refused("{\"N_HEADS\": 2}", "HIDDEN_DIM / N_HEADS is 256", "16 to 128");
    assert_refused("{\"HIDDEN_DIM\": 136}", "HIDDEN_DIM / N_HEADS is 17", "even");
    assert_refused("{\"VOCAB_SIZE\": 41815}", "PAD_FILL_GENE_ID is 41815", "VOCAB_SIZE 41815");
    assert_refused("{\"MASK_TOKEN_ID\": 0}", "PAD_TOKEN_ID and MASK_TOKEN_ID", "both 0");
    assert_refused("{\"ROPE_MAX_LEN\": 1200}", "ROPE_MAX_LEN is 1200", "1201");
}

static void words_other_than_the_two_poolings_are_refused(void **state)
{
    (void)state;
    assert_refused("{\"latent_pooling\": \"Visible\"}", "latent_pooling is Visible", "\"clean\"");
    assert_refused("{\"latent_pooling\": true}", "latent_pooling is not a string", "\"visible\"");
    assert_refused("{\"trained\": 0}", "trained", "true or false");
    assert_refused("{\"value_masking\": \"yes\"}", "value_masking", "true or false");
}

static void a_key_given_twice_is_refused(void **state)
{
    (void)state;
    assert_refused("{\"D_HID\": 64, \"D_HID\": 128}", "D_HID", "twice");
    assert_refused("{\"trained\": true, \"trained\": false}", "trained", "twice");
}

static void text_that_is_no_json_object_is_refused(void **state)
{
    (void)state;
    assert_refused("", "not valid JSON", "config.json");
    assert_refused("{\"D_HID\": 64", "not valid JSON", "near byte");
    assert_refused("{} {}", "not valid JSON", "near byte");
    assert_refused("[1, 2]", "must be a JSON object", "config.json");
    scd_model_config c;
    assert_int_equal(scd_model_config_parse("{}}", 2, &c, NULL), SCD_OK); /* n bytes, no more */
}

static void a_config_made_in_memory_is_held_to_the_same_bounds(void **state)
{
    (void)state;
    scd_model_config c;
    scd_error err;
    assert_int_equal(parse("{}", &c, NULL), SCD_OK);
    c.ffn_dim = SIZE_MAX;
    assert_int_equal(scd_model_config_check(&c, &err), SCD_E_INVALID);
    assert_says(&err, "D_HID is 1.844674407370955");
    assert_int_equal(parse("{}", &c, NULL), SCD_OK);
    c.head_dim = 32;
    assert_int_equal(scd_model_config_check(&c, &err), SCD_E_INVALID);
    assert_says(&err, "head_dim is 32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_object_is_the_official_checkpoint),
        cmocka_unit_test(every_key_is_read_and_unknown_ones_are_ignored),
        cmocka_unit_test(absurd_sizes_are_refused_by_key_value_and_bound),
        cmocka_unit_test(sizes_that_contradict_one_another_are_refused),
        cmocka_unit_test(words_other_than_the_two_poolings_are_refused),
        cmocka_unit_test(a_key_given_twice_is_refused),
        cmocka_unit_test(text_that_is_no_json_object_is_refused),
        cmocka_unit_test(a_config_made_in_memory_is_held_to_the_same_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
