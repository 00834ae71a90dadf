/* test_head_perturb.c - perturbation heads: what is read, and what is refused in which words. */
#include "engine/base/mem.h"
#include "engine/denoise/head.h"
#include "tests/unit/tiny_head.h"
#include "tests/unit/tiny_perturb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const scd_model_config config = {.d = 24,
                                        .hidden_dim = 32,
                                        .n_layers = 2,
                                        .n_heads = 2,
                                        .head_dim = 16,
                                        .ffn_dim = 48,
                                        .vocab = 50};

static char root[64], dir[96];

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/scdiva-head-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state)
{
    (void)state;
    return rmdir(root);
}

static int make_head(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/screen", root);
    return mkdir(dir, 0700) || pert_write_json(dir, NULL, HEAD_NO_MODEL) ||
           pert_write_tensors(dir, &config, PERT_GENES, NULL);
}

static int remove_head(void **state)
{
    (void)state;
    head_remove(dir);
    return 0;
}

static void assert_refused(scd_code code, const char *file, const char *part)
{
    scd_head *head = (scd_head *)1;
    scd_error err = {0};
    scd_code got = scd_head_open(dir, &config, &head, &err);
    if (got != code || !strstr(err.message, part) || !strstr(err.message, file))
        fail_msg("%s: \"%s\" does not name %s and \"%s\"", scd_code_name(got), err.message, file,
                 part);
    assert_null(head);
}

static void an_open_head_says_what_it_is(void **state)
{
    (void)state;
    scd_head *head = NULL;
    scd_error err = {0};
    if (scd_head_open(dir, &config, &head, &err))
        fail_msg("%s", err.message);
    const scd_head_info *i = scd_head_get_info(head);
    const scd_perturb_info *p = i->perturb;
    assert_string_equal(i->task, "perturbation");
    assert_non_null(p);
    assert_int_equal(p->n_genes, PERT_GENES);
    assert_int_equal(p->n_cells, PERT_CELLS);
    assert_string_equal(p->genes[3], "GENE00006");
    assert_string_equal(p->targets[2], "STRANGER");
    assert_string_equal(p->contexts[1].name, "k");
    assert_int_equal(p->contexts[0].direction, SCD_ACTIVATION);
    assert_int_equal(p->contexts[1].first_cell, 3);
    assert_true(p->contexts[0].gate == 0.5 && p->contexts[1].gate == 0);
    assert_int_equal(p->conditions[2].n_targets, 2);
    assert_int_equal(p->conditions[2].targets[1], 2);
    assert_true(p->contexts[1].scores[SCD_SCORE_MODEL].direction == 0.75);
    assert_int_equal(p->contexts[0].scores[SCD_BASELINE_RIDGE].n, 3);
    assert_int_equal(i->mlp_dim, PERT_MLP);
    assert_int_equal(i->n_genes, PERT_GENES);
    assert_false(i->has_backbone);
    scd_head_close(head);
}

static void a_json_with_a_fault_is_refused_by_key(void **state)
{
    (void)state;
    static const struct {
        const char *members, *says;
    } faults[] = {
#define DIGEST ",\"model_digest\":\"" HEAD_NO_MODEL "\""
        {PERT_START "\"x\":1" DIGEST, "readout must be an array of 1 to"},
        {PERT_START "\"readout\":[\"A\",\"\"],\"targets\":[\"B\"]" DIGEST,
         "readout[1] must be a name"},
        {PERT_START "\"readout\":[\"A\",\"B\",\"A\"],\"targets\":[\"B\"]" DIGEST,
         "readout has \"A\" twice"},
        {PERT_START "\"readout\":[\"A\"],\"targets\":[]" DIGEST, "targets must be an array"},
#define UP_TO_CONTEXTS PERT_START "\"readout\":[\"A\"],\"targets\":[\"B\",\"C\"],"
        {UP_TO_CONTEXTS "\"contexts\":[7]" DIGEST, "name of contexts[0] must have"},
        {UP_TO_CONTEXTS "\"contexts\":[{\"name\":\"a\",\"direction\":\"up\"}]" DIGEST,
         "direction of contexts[0] must be \"knockdown\" or \"activation\""},
#define CONTEXT(cells, power, gate)                                                                \
    "{\"name\":\"a\",\"direction\":\"activation\",\"cells\":" cells ",\"power\":" power            \
    ",\"gate\":" gate "}"
        {UP_TO_CONTEXTS "\"contexts\":[" CONTEXT("0", "1", "1") "]" DIGEST,
         "cells of contexts[0] must be a whole number from 1"},
        {UP_TO_CONTEXTS "\"contexts\":[" CONTEXT("1.5", "1", "1") "]" DIGEST,
         "cells of contexts[0] must be a whole number from 1"},
        {UP_TO_CONTEXTS "\"contexts\":[" CONTEXT("1", "2", "1") "]" DIGEST,
         "power of contexts[0] must be a number from 0 to 1"},
        {UP_TO_CONTEXTS "\"contexts\":[" CONTEXT("1", "1", "\"1\"") "]" DIGEST,
         "gate of contexts[0] must be a number from 0 to 1"},
        {UP_TO_CONTEXTS
         "\"contexts\":[" CONTEXT("1", "1", "1") "," CONTEXT("1", "1", "1") "]" DIGEST,
         "context \"a\" is given twice"},
#define UP_TO_CONDITIONS UP_TO_CONTEXTS "\"contexts\":[" CONTEXT("1", "1", "1") "],"
        {UP_TO_CONDITIONS "\"conditions\":{}" DIGEST, "conditions must be an array"},
        {UP_TO_CONDITIONS "\"conditions\":[{\"context\":1}]" DIGEST,
         "context of conditions[0] must be a whole number from 0 to 0"},
#define CONDITION(targets) "\"conditions\":[{\"context\":0,\"cells\":5,\"targets\":" targets "}]"
        {UP_TO_CONDITIONS CONDITION("[]") DIGEST, "targets of conditions[0] must be 1 to 16"},
        {UP_TO_CONDITIONS CONDITION("[2]") DIGEST, "must be rising numbers under 2"},
        {UP_TO_CONDITIONS CONDITION("[1,0]") DIGEST, "must be rising numbers under 2"},
        {UP_TO_CONDITIONS CONDITION("[0.5]") DIGEST, "must be rising numbers under 2"},
#define UP_TO_EVALUATION UP_TO_CONDITIONS CONDITION("[0]") ","
        {UP_TO_EVALUATION "\"x\":1" DIGEST, "evaluation.contexts must be an array of 1"},
        {UP_TO_EVALUATION "\"evaluation\":{\"contexts\":[{}]}" DIGEST,
         "evaluation.contexts[0] must have an object no_change"},
        {UP_TO_EVALUATION
         "\"evaluation\":{\"contexts\":[{\"no_change\":{\"perturbations\":1}}]}" DIGEST,
         "pearson_delta of no_change[0] must be a number from -1 to 1"},
        {UP_TO_EVALUATION "\"evaluation\":{\"contexts\":[" PERT_SCORES "]}",
         "model_digest must be the 64 hex digits"},
    };
    char text[4000];
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        snprintf(text, sizeof text, "{%s}", faults[i].members);
        pert_write_json(dir, text, NULL);
        assert_refused(SCD_E_INVALID, "head.json", faults[i].says);
    }
}

static void tensors_of_other_shapes_and_strangers_are_refused(void **state)
{
    (void)state;
    const scd_tensor_entry known = {"final_norm.weight", SCD_F32, 32, 0},
                           stranger = {"final_norm.bias", SCD_F32, 32, 0};
    scd_head *head = NULL;
    pert_write_tensors(dir, &config, PERT_GENES + 1, NULL);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "must have shape [4, 6], has [5, 6]");
    pert_write_tensors(dir, &config, PERT_GENES, &stranger);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "final_norm.bias is neither the head's nor");
    pert_write_tensors(dir, &config, PERT_GENES, &known);
    assert_int_equal(scd_head_open(dir, &config, &head, NULL), SCD_OK);
    assert_true(scd_head_get_info(head)->has_backbone);
    scd_head_close(head);
    head_write_tensors(dir, 56, NULL, 0, 0); /* an annotation head's four tensors */
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "mlp.2.weight must have shape");
}

static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        scd_head *head = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        scd_code code = scd_head_open(dir, &config, &head, &err);
        scd_mem_fail_after(-1);
        if (!code) {
            scd_head_close(head);
            assert_true(n > 5);
            return;
        }
        assert_int_equal(code, SCD_E_NOMEM);
        assert_null(head);
    }
}

int main(void)
{
#define WITH_HEAD(test) cmocka_unit_test_setup_teardown(test, make_head, remove_head)
    const struct CMUnitTest tests[] = {
        WITH_HEAD(an_open_head_says_what_it_is),
        WITH_HEAD(a_json_with_a_fault_is_refused_by_key),
        WITH_HEAD(tensors_of_other_shapes_and_strangers_are_refused),
        WITH_HEAD(every_allocation_that_fails_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
