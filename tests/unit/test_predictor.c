/* test_predictor.c - a perturbation head bound to a model: genes and contexts found, predictions
 * that are the sum of their parts, controls that move them, and what is refused. */
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "tests/unit/tiny_head.h"
#include "tests/unit/tiny_model.h"
#include "tests/unit/tiny_perturb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { A, K };

static tiny_model tiny;
static char dir[96], digest_hex[SCD_DIGEST_HEX];
static scd_model *model;
static scd_head *head;
static scd_predictor *predictor;
static scd_arena arena;

static int set_up(void **state)
{
    (void)state;
    char heads[64];
    scd_digest digest;
    if (tiny_model_make(&tiny, "tiny", "7") || scd_model_open(tiny.dir, &model, NULL) ||
        scd_model_digest(model, &digest, NULL))
        return -1;
    scd_digest_hex(&digest, digest_hex);
    snprintf(heads, sizeof heads, "%s/heads", tiny.dir);
    snprintf(dir, sizeof dir, "%s/screen", heads);
    scd_arena_init(&arena, 1 << 24);
    return mkdir(heads, 0700) || mkdir(dir, 0700) || pert_write_json(dir, NULL, digest_hex) ||
           pert_write_tensors(dir, scd_model_get_config(model), PERT_GENES, NULL) ||
           scd_head_open(dir, scd_model_get_config(model), &head, NULL) ||
           scd_predictor_open(head, model, &predictor, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    char heads[64];
    scd_predictor_close(predictor);
    scd_head_close(head);
    scd_model_close(model);
    scd_arena_release(&arena);
    head_remove(dir);
    snprintf(heads, sizeof heads, "%s/heads", tiny.dir);
    rmdir(heads);
    tiny_model_remove(&tiny);
    return 0;
}

static scd_perturb_gene find(const char *name)
{
    return scd_predictor_find(predictor, name, strlen(name));
}

static void genes_are_found_by_any_name_the_vocabulary_takes(void **state)
{
    (void)state;
    assert_int_equal(find("GENE00010").target, 0);
    assert_int_equal(find("GENE00010").token, 10);
    assert_int_equal(find("ENSG99000000010").target, 0); /* the same by its id */
    assert_int_equal(find("STRANGER").target, 2);        /* known to the study alone */
    assert_int_equal(find("STRANGER").token, -1);
    assert_int_equal(find("GENE00011").target, -1);
    assert_int_equal(find("GENE00011").token, 11);
    assert_true(find("NOBODY").token < 0 && find("NOBODY").target < 0);
    assert_int_equal(scd_predictor_gene_of(predictor, 5), 2);
    assert_int_equal(scd_predictor_gene_of(predictor, 9), -1);
    assert_int_equal(scd_predictor_gene_of(predictor, -1), -1);
    assert_true(scd_predictor_has_seen(predictor, A, find("STRANGER")));
    assert_false(scd_predictor_has_seen(predictor, K, find("STRANGER")));
    assert_false(scd_predictor_has_seen(predictor, A, find("GENE00011")));
}

static void the_context_is_the_one_whose_controls_are_like_those_given(void **state)
{
    (void)state;
    double r;
    for (uint32_t c = 0; c < PERT_CONTEXTS; c++) {
        scd_perturb_control stored = scd_predictor_control(predictor, c);
        assert_int_equal(scd_predictor_nearest(predictor, stored.mean, SCD_N_DIRECTIONS, &r), c);
        assert_true(fabs(r - 1) < 1e-9);
        assert_true(scd_predictor_anchor(predictor, c, stored.mean, stored.sd, 50) == 1);
        assert_true(scd_predictor_anchor(predictor, c, stored.mean, stored.sd, 25) == 0.5);
    }
    assert_int_equal(scd_predictor_nearest(predictor, NULL, SCD_N_DIRECTIONS, NULL), A);
    assert_int_equal(scd_predictor_nearest(predictor, NULL, SCD_KNOCKDOWN, NULL), K);
    const float others[PERT_GENES] = {90, 0, 0, 40}, sd[PERT_GENES] = {1, 1, 1, 1};
    assert_true(scd_predictor_anchor(predictor, A, others, sd, 500) == 0);
}

static scd_perturb_answer run(uint32_t context, const scd_perturb_gene *genes, size_t n,
                              const float *control, double anchor)
{
    scd_perturb_answer out;
    scd_perturb_control stored = scd_predictor_control(predictor, context);
    scd_perturb_ask ask = {.context = context,
                           .n_genes = n,
                           .genes = genes,
                           .control = control ? control : stored.mean,
                           .anchor = anchor,
                           .n_cells = stored.n_cells};
    ask.cells = scd_predictor_cells(predictor, stored.embeddings, stored.n_cells, &arena);
    assert_int_equal(scd_predictor_run(predictor, &ask, &arena, &out, NULL), SCD_OK);
    return out;
}

static void
a_measured_combination_is_the_effects_alone_and_others_get_the_networks_part(void **state)
{
    (void)state;
    const float high[PERT_GENES] = {100, 100, 100, 100}; /* nothing is clamped */
    const scd_perturb_gene seen[] = {find("GENE00010")};
    const scd_perturb_gene pair[] = {find("STRANGER"), find("GENE00010")};
    const scd_perturb_gene fresh[] = {find("GENE00010"), find("GENE00011")};
    scd_perturb_answer a = run(A, seen, 1, high, 0);
    assert_true(a.in_training && a.gate == 0);
    assert_memory_equal(a.delta, a.baselines[SCD_BASELINE_EFFECTS], PERT_GENES * sizeof(float));
    assert_true(run(A, pair, 2, high, 0).in_training); /* in whatever order */
    a = run(A, fresh, 2, high, 0);
    assert_true(!a.in_training && a.gate == 0.5f);
    float part = 0;
    for (size_t g = 0; g < PERT_GENES; g++)
        part += fabsf(a.delta[g] - a.baselines[SCD_BASELINE_EFFECTS][g]);
    assert_true(part > 1e-3f);
    a = run(K, fresh, 2, high, 0); /* its gate is closed */
    assert_true(!a.in_training && a.gate == 0);
    assert_memory_equal(a.delta, a.baselines[SCD_BASELINE_EFFECTS], PERT_GENES * sizeof(float));
}

static void genes_that_nobody_knows_leave_the_rest_of_the_answer(void **state)
{
    (void)state;
    const float high[PERT_GENES] = {100, 100, 100, 100};
    const scd_perturb_gene none[] = {find("NOBODY")};
    const scd_perturb_gene one[] = {find("NOBODY"), find("GENE00004")};
    scd_perturb_answer a = run(A, none, 1, high, 0);
    assert_false(a.in_training);
    assert_memory_equal(a.baselines[SCD_BASELINE_ADDITIVE], a.baselines[SCD_BASELINE_MEAN],
                        PERT_GENES * sizeof(float));
    assert_false(run(A, one, 2, high, 0).in_training);
}

static void controls_of_the_same_population_move_delta_and_leave_the_expression(void **state)
{
    (void)state;
    float other[PERT_GENES];
    scd_perturb_control stored = scd_predictor_control(predictor, K);
    for (size_t g = 0; g < PERT_GENES; g++)
        other[g] = stored.mean[g] + 10 + (float)g;
    const scd_perturb_gene gene[] = {find("GENE00010")};
    const float high[PERT_GENES] = {100, 100, 100, 100};
    scd_perturb_answer plain = run(K, gene, 1, high, 0), moved = run(K, gene, 1, other, 1);
    for (size_t g = 0; g < PERT_GENES; g++) {
        float expression = fmaxf(stored.mean[g] + plain.delta[g], 0);
        assert_true(fabsf(other[g] + moved.delta[g] - expression) < 1e-5f);
        assert_true(moved.baselines[SCD_BASELINE_NO_CHANGE][g] == 0);
    }
    const float zero[PERT_GENES] = {0};
    scd_perturb_answer low = run(K, gene, 1, zero, 0);
    for (size_t g = 0; g < PERT_GENES; g++)
        assert_true(low.delta[g] >= 0);
}

static void a_head_of_other_genes_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *readout, *says;
    } faults[] = {
        {"[\"GENE00003\",\"GENE00004\",\"GENE00005\",\"ALIEN\"]", "gene \"ALIEN\" is not in"},
        {"[\"GENE00003\",\"GENE00004\",\"GENE00005\",\"ENSG99000000004\"]", "are one gene"},
    };
    for (size_t i = 0; i < 2; i++) {
        char json[8000];
        scd_head *bad = NULL;
        scd_predictor *none = (scd_predictor *)1;
        scd_error err = {0};
        snprintf(json, sizeof json,
                 "{" PERT_START "\"readout\":%s,\"targets\":[\"A\",\"B\",\"C\"]," PERT_CONTEXTS_JSON
                     PERT_CONDITIONS_JSON PERT_EVALUATION_JSON "\"model_digest\":\"%s\"}",
                 faults[i].readout, digest_hex);
        pert_write_json(dir, json, NULL);
        assert_int_equal(scd_head_open(dir, scd_model_get_config(model), &bad, &err), SCD_OK);
        assert_int_equal(scd_predictor_open(bad, model, &none, &err), SCD_E_INVALID);
        if (!strstr(err.message, faults[i].says))
            fail_msg("%s", err.message);
        assert_null(none);
        scd_head_close(bad);
    }
    pert_write_json(dir, NULL, digest_hex);
}

static void an_engine_embeds_for_the_head_and_hands_it_out(void **state)
{
    (void)state;
    const char *dirs[] = {tiny.dir};
    const scd_tensor_entry backbone = {"final_norm.weight", SCD_F32, TINY_DIM, 0};
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .precision = SCD_PRECISION_FP32,
                            .threads = 1,
                            .model_dirs = dirs,
                            .n_models = 1};
    int32_t ids[3] = {4, 3, 6};
    float values[3] = {2, 1, 0.5f}, own[TINY_DIM], plain[TINY_DIM];
    const scd_cell cell = {.n_tokens = 3, .ids = ids, .values = values};
    const scd_cell *cells[] = {&cell};
    for (int changed = 0; changed < 2; changed++) {
        scd_engine *e = NULL;
        scd_error err = {0};
        pert_write_tensors(dir, scd_model_get_config(model), PERT_GENES,
                           changed ? &backbone : NULL);
        if (scd_engine_open(&o, &e, &err))
            fail_msg("%s", err.message);
        const scd_head_info *info = scd_engine_model(e, 0)->heads[0];
        scd_work work = {.head = info}, embed = {.head = NULL};
        assert_non_null(scd_engine_predictor(e, 0, info));
        assert_null(scd_engine_predictor(e, 0, NULL));
        assert_int_equal(scd_engine_width(e, work), TINY_DIM);
        assert_int_equal(scd_engine_compute(e, work, cells, 1, own, NULL), SCD_OK);
        assert_int_equal(scd_engine_compute(e, embed, cells, 1, plain, NULL), SCD_OK);
        assert_int_equal(memcmp(own, plain, sizeof own) != 0, changed);
        scd_engine_close(e);
    }
    pert_write_tensors(dir, scd_model_get_config(model), PERT_GENES, NULL);
}

static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    for (long n = 0;; n++) {
        scd_predictor *p = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        scd_code code = scd_predictor_open(head, model, &p, &err);
        scd_mem_fail_after(-1);
        if (!code) {
            scd_predictor_close(p);
            assert_true(n > 3);
            return;
        }
        assert_int_equal(code, SCD_E_NOMEM);
        assert_null(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(genes_are_found_by_any_name_the_vocabulary_takes),
        cmocka_unit_test(the_context_is_the_one_whose_controls_are_like_those_given),
        cmocka_unit_test(
            a_measured_combination_is_the_effects_alone_and_others_get_the_networks_part),
        cmocka_unit_test(genes_that_nobody_knows_leave_the_rest_of_the_answer),
        cmocka_unit_test(controls_of_the_same_population_move_delta_and_leave_the_expression),
        cmocka_unit_test(a_head_of_other_genes_is_refused_by_name),
        cmocka_unit_test(an_engine_embeds_for_the_head_and_hands_it_out),
        cmocka_unit_test(every_allocation_that_fails_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
