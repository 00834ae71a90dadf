/* test_head.c - annotation heads: what is read, what is refused and in which words, and softmax. */
#include "engine/denoise/head.h"
#include "engine/base/mem.h"
#include "tests/unit/tiny_head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

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

/* A good head in `dir`, which each test damages in its way. */
static int make_head(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "%s/coarse", root);
    return mkdir(dir, 0700) || head_write_good_json(dir, HEAD_NO_MODEL) ||
           head_write_tensors(dir, config.hidden_dim, NULL, 0, 0);
}

static int remove_head(void **state)
{
    (void)state;
    head_remove(dir);
    return 0;
}

static scd_head *open_good(void)
{
    scd_head *head = NULL;
    scd_error err = {0};
    if (scd_head_open(dir, &config, &head, &err))
        fail_msg("%s", err.message);
    return head;
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
    assert_int_equal(scd_head_open(dir, &config, &head, NULL), code);
}

static void an_open_head_says_what_it_is(void **state)
{
    (void)state;
    scd_head *head = open_good();
    const scd_head_info *i = scd_head_get_info(head);
    assert_string_equal(i->name, "coarse");
    assert_string_equal(i->task, "annotation");
    assert_int_equal(i->n_labels, HEAD_LABELS);
    assert_int_equal(i->mlp_dim, HEAD_MLP);
    assert_string_equal(i->labels[0].label, "B");
    assert_string_equal(i->labels[0].ontology_id, "CL:0000236");
    assert_string_equal(i->labels[1].label, "NK");
    assert_null(i->labels[1].ontology_id);
    assert_null(i->labels[2].ontology_id);
    assert_true(i->temperature == 1.5 && i->threshold == 0.45);
    assert_false(i->has_backbone);
    assert_string_equal(i->model_digest_hex, HEAD_NO_MODEL);
    assert_int_equal(scd_safetensors_count(scd_head_tensors(head)), 4);
    scd_head_close(head);
    scd_head_close(NULL);
}

static void scores_of_cells_held_out_are_read_where_they_are_given(void **state)
{
    (void)state;
    scd_head *head = open_good();
    assert_true(isnan(scd_head_get_info(head)->held_out.cells));
    assert_true(isnan(scd_head_get_info(head)->held_out.accuracy));
    scd_head_close(head);
    head_write_json(dir, "{\"task\":\"annotation\",\"format\":1,\"labels\":" HEAD_THREE_LABELS
                         ",\"temperature\":1.5,\"threshold\":0.45,\"model_digest\":\"" HEAD_NO_MODEL
                         "\",\"evaluation\":{\"held_out\":{\"cells\":417,\"accuracy\":0.75,"
                         "\"macro_f1\":null,\"loss\":3}}}");
    head = open_good();
    const scd_head_scores *s = &scd_head_get_info(head)->held_out;
    assert_true(s->cells == 417 && s->accuracy == 0.75);
    assert_true(isnan(s->macro_f1) && isnan(s->ece) && isnan(s->balanced_accuracy));
    scd_head_close(head);
}

static void its_digest_is_that_of_both_files_one_after_the_other(void **state)
{
    (void)state;
    char command[300], printed[SCD_DIGEST_HEX] = "";
    snprintf(command, sizeof command, "cat %s/head.json %s/head.safetensors | sha256sum", dir, dir);
    FILE *p = popen(command, "r");
    assert_non_null(fgets(printed, sizeof printed, p));
    pclose(p);
    scd_head *head = open_good();
    assert_string_equal(scd_head_get_info(head)->digest_hex, printed);
    scd_head_close(head);
}

static void tensors_of_the_model_make_a_head_with_a_backbone(void **state)
{
    (void)state;
    const scd_tensor_entry more[] = {{"layers.1.attn.q_proj.weight", SCD_BF16, 32, 32},
                                     {"final_norm.weight", SCD_F32, 32, 0}};
    assert_int_equal(head_write_tensors(dir, config.hidden_dim, more, 2, 0), 0);
    scd_head *head = open_good();
    assert_true(scd_head_get_info(head)->has_backbone);
    scd_head_close(head);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    unlink(path);
    assert_refused(SCD_E_IO, "head.safetensors", "cannot open");
    snprintf(path, sizeof path, "%s/head.json", dir);
    unlink(path);
    assert_refused(SCD_E_IO, "head.json", "cannot open");
}

static void a_tensor_of_another_shape_is_refused_with_both_shapes(void **state)
{
    (void)state;
    head_write_tensors(dir, 40, NULL, 0, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor mlp.0.weight must have shape [5, 32], has [5, 40]");
    const scd_tensor_entry more = {"layers.0.mlp.down_proj.weight", SCD_F32, 32, 32};
    head_write_tensors(dir, config.hidden_dim, &more, 1, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "layers.0.mlp.down_proj.weight must have shape [32, 48], has [32, 32]");
}

static void more_labels_than_the_last_layer_has_rows_are_refused(void **state)
{
    (void)state;
    head_write_json(dir,
                    "{\"task\":\"annotation\",\"format\":1,\"labels\":[{\"label\":\"a\"},"
                    "{\"label\":\"b\"},{\"label\":\"c\"},{\"label\":\"d\"}],"
                    "\"temperature\":1,\"threshold\":0,\"model_digest\":\"" HEAD_NO_MODEL "\"}");
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor mlp.2.weight must have shape [4, 5], has [3, 5]");
}

static void a_tensor_that_nobody_knows_is_refused_by_name(void **state)
{
    (void)state;
    const scd_tensor_entry more[] = {{"layers.1.norm1.weight", SCD_F32, 32, 0},
                                     {"layers.2.norm1.weight", SCD_F32, 32, 0}};
    head_write_tensors(dir, config.hidden_dim, more, 2, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor layers.2.norm1.weight is neither the head's nor one of the model's");
}

static void a_linear_half_has_both_its_tensors_or_none(void **state)
{
    (void)state;
    const scd_tensor_entry both[] = {{"genes.weight", SCD_F32, 50, 3},
                                     {"genes.bias", SCD_F32, 3, 0}};
    const scd_tensor_entry small = {"genes.weight", SCD_F32, 49, 3};
    scd_head *head = open_good();
    assert_false(scd_head_get_info(head)->has_gene_term);
    scd_head_close(head);
    head_write_tensors(dir, config.hidden_dim, both, 2, 0);
    head = open_good();
    assert_true(scd_head_get_info(head)->has_gene_term);
    assert_false(scd_head_get_info(head)->has_backbone);
    scd_head_close(head);
    head_write_tensors(dir, config.hidden_dim, both, 1, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "tensor genes.bias of shape [3] is missing");
    head_write_tensors(dir, config.hidden_dim, both + 1, 1, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor genes.weight of shape [50, 3] is missing");
    head_write_tensors(dir, config.hidden_dim, &small, 1, 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "genes.weight must have shape [50, 3], has [49, 3]");
}

static void a_missing_tensor_is_named(void **state)
{
    (void)state;
    char path[128];
    float bad = 0;
    const scd_tensor_entry some[] = {{"mlp.0.weight", SCD_F32, 5, 32},
                                     {"mlp.0.bias", SCD_F32, 5, 0}};
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    scd_safetensors_write(path, some, 2, head_fill, &bad, NULL);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor mlp.2.weight of shape [3, 5] is missing");
    scd_safetensors_write(path, some + 1, 1, head_fill, &bad, NULL);
    assert_refused(SCD_E_CORRUPT, "head.safetensors",
                   "tensor mlp.0.weight of shape [K, 32] is missing");
}

static void a_weight_that_is_no_number_is_refused(void **state)
{
    (void)state;
    head_write_tensors(dir, config.hidden_dim, NULL, 0, (float)INFINITY);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "tensor mlp.0.bias holds inf at element 0");
    head_write_tensors(dir, config.hidden_dim, NULL, 0, (float)NAN);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "tensor mlp.0.bias holds");
}

static void a_truncated_weights_file_is_refused(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    assert_int_equal(truncate(path, 500), 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "truncated or damaged");
    assert_int_equal(truncate(path, 0), 0);
    assert_refused(SCD_E_CORRUPT, "head.safetensors", "empty");
}

static void a_json_with_a_fault_is_refused_by_key(void **state)
{
    (void)state;
    static const struct {
        const char *members, *says;
    } faults[] = {
        {"", "task is no string"},
        {"\"task\":\"sorting\"", "task is sorting, must be \"annotation\" or \"perturbation\""},
        {"\"task\":\"annotation\",\"format\":2", "format must be 1"},
        {"\"task\":\"annotation\",\"task\":\"annotation\"", "task is given twice"},
#define START "\"task\":\"annotation\",\"format\":1,"
        {START "\"temperature\":0", "temperature must be a number from 0.001 to 1000"},
        {START "\"temperature\":\"1\"", "temperature must be a number"},
        {START "\"temperature\":1,\"threshold\":1.5", "threshold must be a number from 0 to 1"},
#define UP_TO_DIGEST START "\"temperature\":1,\"threshold\":0.5,"
        {UP_TO_DIGEST "\"model_digest\":\"12ab\"", "model_digest must be the 64 hex digits"},
        {UP_TO_DIGEST "\"model_digest\":7", "model_digest must be the 64 hex digits"},
#define UP_TO_LABELS UP_TO_DIGEST "\"model_digest\":\"" HEAD_NO_MODEL "\","
        {UP_TO_DIGEST "\"evaluation\":{\"held_out\":{\"cells\":9,\"accuracy\":1.2}}",
         "evaluation.held_out.accuracy must be a number from 0 to 1"},
        {UP_TO_DIGEST "\"evaluation\":{\"held_out\":{\"ece\":\"low\"}}",
         "evaluation.held_out.ece must be a number"},
        {UP_TO_DIGEST "\"evaluation\":{\"held_out\":{\"ece\":0,\"ece\":1}}", "ece is given twice"},
        {UP_TO_LABELS "\"label\":[]", "labels must be an array of 2"},
        {UP_TO_LABELS "\"labels\":[{\"label\":\"B\"}]", "labels must be an array of 2"},
        {UP_TO_LABELS "\"labels\":[{\"label\":\"B\"},[\"label\"]]", "labels[1] must be an object"},
        {UP_TO_LABELS "\"labels\":[{\"label\":\"\"},{\"label\":\"B\"}]", "labels[0] must be"},
        {UP_TO_LABELS "\"labels\":[{\"label\":\"B\"},{\"label\":\"B\"},{\"label\":\"A\"}]",
         "label \"B\" is given twice"},
        {UP_TO_LABELS "\"labels\":[{\"label\":\"B\",\"ontology_id\":5},{\"label\":\"A\"}]",
         "ontology_id of label \"B\" must be a string"},
    };
    char text[1000];
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        snprintf(text, sizeof text, "{%s}", faults[i].members);
        head_write_json(dir, text);
        assert_refused(SCD_E_INVALID, "head.json", faults[i].says);
    }
    head_write_json(dir, "{\"task\":\"annotation\"");
    assert_refused(SCD_E_INVALID, "head.json", "not valid JSON near byte");
    head_write_json(dir, "{} {}");
    assert_refused(SCD_E_INVALID, "head.json", "not valid JSON near byte 3");
    head_write_json(dir, "[1]");
    assert_refused(SCD_E_INVALID, "head.json", "must be a JSON object");
}

#define GOOD_BUT_FOR_GENES                                                                         \
    "{\"task\":\"annotation\",\"format\":1,\"labels\":" HEAD_THREE_LABELS                          \
    ",\"temperature\":1,\"threshold\":0,\"model_digest\":\"" HEAD_NO_MODEL "\",\"genes\":"

static void genes_are_ranges_of_tokens(void **state)
{
    (void)state;
    scd_head *head = open_good();
    assert_null(scd_head_get_info(head)->genes);
    scd_head_close(head);
    head_write_json(dir, GOOD_BUT_FOR_GENES "[[2,5],[5,6],[40,47]]}");
    head = open_good();
    const scd_head_info *i = scd_head_get_info(head);
    assert_int_equal(i->n_genes, 11);
    for (size_t t = 0; t < config.vocab; t++)
        assert_int_equal(i->genes[t], (t >= 2 && t < 6) || (t >= 40 && t < 47));
    scd_head_close(head);
}

static void genes_that_are_no_ranges_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"5", "[]", "{}"};
    static const char *const ranges[] = {
        "[[1,5]]",   "[[2,2]]", "[[2,48]]",          "[[2,5],[4,9]]", "[[2,5,6]]", "[[2]]",
        "[[2.5,4]]", "[7]",     "[[2,5],[\"6\",9]]", "[[2,1e300]]",   "[[-1,3]]"};
    char text[1000];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, GOOD_BUT_FOR_GENES "%s}", bad[i]);
        head_write_json(dir, text);
        assert_refused(SCD_E_INVALID, "head.json", "genes must be an array of ranges");
    }
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        snprintf(text, sizeof text, GOOD_BUT_FOR_GENES "%s}", ranges[i]);
        head_write_json(dir, text);
        assert_refused(SCD_E_INVALID, "head.json", "must be [first, past] with");
    }
}

static void probabilities_are_softmax_at_the_heads_temperature(void **state)
{
    (void)state;
    scd_head *head = open_good();
    const float logits[HEAD_LABELS] = {1.0f, 3.0f, -2.0f};
    double p[HEAD_LABELS], sum = 0, want = 0;
    scd_head_probabilities(head, logits, p);
    for (size_t i = 0; i < HEAD_LABELS; i++)
        want += exp(logits[i] / 1.5);
    for (size_t i = 0; i < HEAD_LABELS; i++) {
        assert_true(fabs(p[i] - exp(logits[i] / 1.5) / want) < 1e-15); /* a few roundings */
        sum += p[i];
    }
    assert_true(fabs(sum - 1) < 1e-15);
    const float far_apart[HEAD_LABELS] = {3e38f, -3e38f, 3e38f}; /* exp would overflow */
    scd_head_probabilities(head, far_apart, p);
    assert_true(p[0] == 0.5 && p[1] == 0 && p[2] == 0.5);
    scd_head_close(head);
}

static void heads_are_found_by_name_and_hidden_folders_and_files_are_not(void **state)
{
    (void)state;
    char model[96], path[160];
    const char *const names[] = {"heads", "heads/b", "heads/a", "heads/.new"};
    char **dirs;
    size_t n;
    snprintf(model, sizeof model, "%s/model", root);
    mkdir(model, 0700);
    assert_int_equal(scd_heads_find(model, &dirs, &n, NULL), SCD_OK);
    assert_int_equal(n, 0);
    scd_heads_forget(dirs, n);
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", model, names[i]);
        mkdir(path, 0700);
    }
    snprintf(path, sizeof path, "%s/heads/README.md", model);
    scd_file_write(path, "x", 1, NULL);
    assert_int_equal(scd_heads_find(model, &dirs, &n, NULL), SCD_OK);
    assert_int_equal(n, 2);
    assert_string_equal(strrchr(dirs[0], '/'), "/a");
    assert_string_equal(strrchr(dirs[1], '/'), "/b");
    scd_heads_forget(dirs, n);
    unlink(path);
    for (size_t i = 4; i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", model, names[i]);
        rmdir(path);
    }
    snprintf(path, sizeof path, "%s/heads", model);
    scd_file_write(path, "x", 1, NULL);
    scd_error err = {0};
    assert_int_equal(scd_heads_find(model, &dirs, &n, &err), SCD_E_IO);
    assert_non_null(strstr(err.message, "model/heads: cannot read the folder"));
    unlink(path);
    rmdir(model);
}

static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    for (; code && n < 200; n++) {
        scd_head *head = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = scd_head_open(dir, &config, &head, &err);
        scd_mem_fail_after(-1);
        if (code && (code != SCD_E_NOMEM || head || !err.message[0]))
            fail_msg("allocation %ld: %s: %s", n, scd_code_name(code), err.message);
        scd_head_close(head);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 8);
}

#define WITH_HEAD(test) cmocka_unit_test_setup_teardown(test, make_head, remove_head)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_HEAD(an_open_head_says_what_it_is),
        WITH_HEAD(scores_of_cells_held_out_are_read_where_they_are_given),
        WITH_HEAD(its_digest_is_that_of_both_files_one_after_the_other),
        WITH_HEAD(tensors_of_the_model_make_a_head_with_a_backbone),
        WITH_HEAD(a_missing_file_is_named),
        WITH_HEAD(a_tensor_of_another_shape_is_refused_with_both_shapes),
        WITH_HEAD(more_labels_than_the_last_layer_has_rows_are_refused),
        WITH_HEAD(a_tensor_that_nobody_knows_is_refused_by_name),
        WITH_HEAD(a_linear_half_has_both_its_tensors_or_none),
        WITH_HEAD(a_missing_tensor_is_named),
        WITH_HEAD(a_weight_that_is_no_number_is_refused),
        WITH_HEAD(a_truncated_weights_file_is_refused),
        WITH_HEAD(a_json_with_a_fault_is_refused_by_key),
        WITH_HEAD(genes_are_ranges_of_tokens),
        WITH_HEAD(genes_that_are_no_ranges_are_refused),
        WITH_HEAD(probabilities_are_softmax_at_the_heads_temperature),
        WITH_HEAD(heads_are_found_by_name_and_hidden_folders_and_files_are_not),
        WITH_HEAD(every_allocation_that_fails_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
