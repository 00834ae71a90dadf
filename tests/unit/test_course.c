/* test_course.c - plans and what they refuse, the schedules, and who takes which gene. The passes
 * are made up here: what the model says is the business of test_denoise.c. */
#include "engine/base/mem.h"
#include "engine/denoise/course_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 6, VOCAB = 60 };

static const scd_model_config config = {
    .vocab = VOCAB, .pad_id = 0, .mask_id = 1, .pad_fill_id = 57, .bos_id = 58, .eos_id = 59};

static int32_t ids[N] = {10, 11, 12, 13, 14, 15};
static float values[N] = {3, 2.5f, 2, 1.5f, 1, 0.5f};
static const scd_cell cell = {.n_tokens = N, .ids = ids, .values = values};
static const uint8_t hide_four[N] = {0, 1, 1, 0, 1, 1};

static scd_plan sample(size_t steps)
{
    return (scd_plan){.kind = SCD_PLAN_SAMPLE, .hidden = hide_four, .steps = steps};
}

static scd_course *make(const scd_plan *plan)
{
    scd_course *c = NULL;
    scd_error err = {0};
    if (scd_course_new(plan, &config, &cell, &c, &err))
        fail_msg("%s", err.message);
    return c;
}

static void refused(const scd_plan *plan, const char *word)
{
    scd_course *c = NULL;
    scd_error err = {0};
    assert_int_equal(scd_course_new(plan, &config, &cell, &c, &err), SCD_E_INVALID);
    assert_null(c);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" does not say \"%s\"", err.message, word);
}

/* A pass in which token i of those left likes genes 20 + first[i], + 1, ... with falling logits. */
typedef struct pass {
    float lse[N], logits[N * SCD_PICK_TOP], values[N], turn[N];
    int32_t genes[N * SCD_PICK_TOP];
    uint8_t option[N];
    scd_pass_view view;
    scd_unmasking u;
} pass;

static void make_pass(pass *p, const scd_course *c, const int *first, const float *top)
{
    for (size_t i = 0; i < c->n_left; i++) {
        p->lse[i] = 0;
        p->values[i] = (float)i - 1;
        for (int k = 0; k < SCD_PICK_TOP; k++) {
            p->genes[i * SCD_PICK_TOP + (size_t)k] = 20 + first[i] + k;
            p->logits[i * SCD_PICK_TOP + (size_t)k] = logf(top[i]) - (float)k;
        }
    }
    p->view = (scd_pass_view){p->lse, p->genes, p->logits, p->values};
    p->u = (scd_unmasking){.option = p->option, .turn = p->turn};
    scd_course_begin_pass(c, &p->u);
}

static void run_pass(pass *p, scd_course *c)
{
    assert_true(scd_course_unmask(c, &p->view, &p->u));
    scd_course_end_pass(c, &p->u);
}

static void a_fixed_schedule_finds_as_many_in_each_pass_and_ends_with_the_last(void **state)
{
    (void)state;
    for (size_t n = 1; n < 40; n++)
        for (size_t steps = 1; steps < 45; steps++) {
            size_t left = n, least = n, passes = 0;
            for (size_t s = steps; s && left; s--, passes++) {
                size_t k = scd_fixed_count(left, s);
                assert_true(k >= 1 && k <= least);
                least = k;
                left -= k;
            }
            assert_int_equal(left, 0);
            assert_true(passes <= steps && (n < steps || passes == steps || n % steps));
        }
}

static void what_a_plan_may_not_be_is_refused_and_named(void **state)
{
    (void)state;
    static const uint8_t nothing[N];
    scd_plan p = sample(0);
    refused(&p, "steps");
    p.steps = SCD_MAX_STEPS + 1;
    refused(&p, "steps");
    p = sample(2);
    p.temperature = -1;
    refused(&p, "temperature");
    p.temperature = NAN;
    refused(&p, "temperature");
    p.temperature = SCD_MIN_TEMPERATURE / 2;
    refused(&p, "temperature");
    p = sample(2);
    p.confidence = 1.5f;
    refused(&p, "confidence");
    p = sample(2);
    p.hidden = nothing;
    refused(&p, "hidden");
    const int32_t few[] = {20, 21, 10, 13, 20}, special[] = {20, 21, 22, 23, 58};
    p = sample(2);
    p.candidates = few; /* two of them are seen, one is there twice */
    p.n_candidates = 5;
    refused(&p, "candidates");
    p.candidates = special;
    refused(&p, "58");
}

static void the_most_confident_token_takes_the_gene_that_two_want(void **state)
{
    (void)state;
    const int same[] = {0, 0, 0, 5};
    const float top[] = {0.3f, 0.6f, 0.2f, 0.1f};
    scd_plan plan = sample(1);
    scd_course *c = make(&plan);
    pass p;
    make_pass(&p, c, same, top);
    run_pass(&p, c);
    assert_true(c->done);
    /* the second takes 20, the first 21, the third 22; places are those of the cell */
    size_t width;
    const float *r = scd_course_result(c, &width);
    assert_int_equal(width, scd_plan_width(SCD_PLAN_SAMPLE, N, 4));
    const float genes[] = {21, 20, 22, 25};
    assert_true(r[0] == 1);
    for (size_t i = 0; i < 4; i++)
        assert_true(r[1 + 3 * i] == genes[i]);
    assert_true(fabsf(r[3 + 3] - 0.6f) < 1e-6f);
    assert_true(fabsf(r[3] - 0.3f * expf(-1)) < 1e-6f);
    scd_course_free(c);
}

static void a_token_whose_gene_was_given_keeps_it_and_comes_first(void **state)
{
    (void)state;
    static const uint8_t hide[N] = {0, SCD_HIDE_VALUE, 1, 0, 1, SCD_HIDE_VALUE};
    const int apart[] = {0, 1, 2, 3};
    const float top[] = {0.1f, 0.9f, 0.8f, 0.1f};
    for (int masking = 0; masking < 2; masking++) {
        scd_model_config own = config;
        own.value_masking = masking != 0;
        scd_plan plan = sample(2);
        plan.hidden = hide;
        scd_course *c = NULL;
        assert_int_equal(scd_course_new(&plan, &own, &cell, &c, NULL), SCD_OK);
        const uint8_t both = SCD_HIDE_GENE | SCD_HIDE_VALUE;
        assert_int_equal(c->hidden[1], masking ? SCD_HIDE_VALUE : both);
        assert_int_equal(c->hidden[2], both);
        assert_false(c->allowed[11 / 32] >> 11 % 32 & 1);
        pass p;
        make_pass(&p, c, apart, top);
        run_pass(&p, c);
        assert_int_equal(c->n_left, 2); /* the two that were sure of their genes are found */
        assert_true(!c->hidden[1] && c->hidden[2] && c->hidden[4] && !c->hidden[5]);
        assert_true(c->ids[1] == 11 && c->ids[5] == 15 && c->values[5] == 2);
        size_t width;
        const float *r = scd_course_result(c, &width);
        assert_true(r[1] == 11 && r[3] == 1 && r[1 + 9] == 15 && r[3 + 9] == 1);
        scd_course_free(c);
    }
}

static void genes_that_were_given_need_no_candidates(void **state)
{
    (void)state;
    static const uint8_t hide[N] = {0, SCD_HIDE_VALUE, 1, 0, 0, SCD_HIDE_VALUE};
    const int32_t only_given[] = {11, 15}, one_more[] = {11, 15, 30};
    scd_plan plan = sample(1);
    plan.hidden = hide;
    plan.candidates = only_given;
    plan.n_candidates = 2;
    refused(&plan, "1 tokens are hidden and only 0");
    plan.candidates = one_more;
    plan.n_candidates = 3;
    scd_course_free(make(&plan));
}

static void a_value_comes_with_its_gene_and_is_never_negative(void **state)
{
    (void)state;
    const int apart[] = {0, 1, 2, 3};
    const float top[] = {0.5f, 0.5f, 0.5f, 0.5f};
    scd_plan plan = sample(1);
    scd_course *c = make(&plan);
    pass p;
    make_pass(&p, c, apart, top);
    run_pass(&p, c);
    const float want[] = {0, 0, 1, 2}; /* -1, 0, 1, 2 */
    size_t width;
    const float *r = scd_course_result(c, &width);
    for (size_t i = 0; i < 4; i++)
        assert_true(r[2 + 3 * i] == want[i]);
    assert_true(c->ids[1] == 20 && c->values[5] == 2 && !c->hidden[5]);
    scd_course_free(c);
}

static void fixed_passes_take_the_most_confident_first(void **state)
{
    (void)state;
    const int apart[] = {0, 1, 2, 3};
    const float top[] = {0.1f, 0.4f, 0.2f, 0.3f};
    scd_plan plan = sample(2);
    scd_course *c = make(&plan);
    assert_int_equal(scd_course_passes_left(c), 2);
    pass p;
    make_pass(&p, c, apart, top);
    run_pass(&p, c);
    assert_int_equal(c->n_left, 2);
    assert_true(c->hidden[1] && !c->hidden[2] && c->hidden[4] && !c->hidden[5]);
    assert_true(c->wanted[1] && !c->wanted[2]);
    assert_int_equal(scd_course_passes_left(c), 1);
    scd_course_free(c);
}

static void confidence_takes_all_above_the_threshold_and_one_at_least(void **state)
{
    (void)state;
    const int apart[] = {0, 1, 2, 3};
    const float top[] = {0.1f, 0.9f, 0.85f, 0.3f}, low[] = {0.2f, 0.1f};
    scd_plan plan = sample(9);
    plan.confidence = 0.8f;
    scd_course *c = make(&plan);
    pass p;
    make_pass(&p, c, apart, top);
    run_pass(&p, c);
    assert_int_equal(c->n_left, 2);
    make_pass(&p, c, apart, low); /* 20 is still there, 21 is not */
    run_pass(&p, c);
    assert_int_equal(c->n_left, 1);
    make_pass(&p, c, apart + 3, low + 1);
    run_pass(&p, c);
    assert_true(c->done && scd_course_passes_left(c) == 0);
    scd_course_free(c);
}

static void the_last_pass_takes_all_that_is_left_whatever_the_confidence(void **state)
{
    (void)state;
    const int apart[] = {0, 1, 2, 3};
    const float low[] = {0.1f, 0.1f, 0.1f, 0.1f};
    scd_plan plan = sample(1);
    plan.confidence = 1;
    scd_course *c = make(&plan);
    pass p;
    make_pass(&p, c, apart, low);
    run_pass(&p, c);
    assert_true(c->done);
    scd_course_free(c);
}

static void a_token_whose_list_is_used_up_is_picked_again(void **state)
{
    (void)state;
    const int same[] = {0, 0, 0, 0};
    const float top[] = {0.4f, 0.3f, 0.2f, 0.1f};
    scd_plan plan = sample(1);
    scd_course *c = make(&plan);
    pass p;
    make_pass(&p, c, same, top);
    for (size_t i = 0; i < 4; i++) /* two genes in each list */
        for (size_t k = 2; k < SCD_PICK_TOP; k++)
            p.genes[i * SCD_PICK_TOP + k] = -1;
    assert_false(scd_course_unmask(c, &p.view, &p.u));
    assert_int_equal(p.u.n_committed, 2);
    for (size_t i = 0; i < 4; i++) {
        assert_true(p.option[i] == (i < 2 ? SCD_COMMITTED : SCD_DRY));
        p.genes[i * SCD_PICK_TOP] = 30 + (int32_t)i;
        p.option[i] = i < 2 ? SCD_COMMITTED : 0;
    }
    run_pass(&p, c);
    assert_true(c->done && c->ids[4] == 32 && c->ids[5] == 33);
    scd_course_free(c);
}

static void a_refresh_is_one_more_pass_over_what_was_found_and_nothing_is_hidden_in_it(void **state)
{
    (void)state;
    const int apart[] = {0, 1, 2, 3};
    const float top[] = {0.5f, 0.5f, 0.5f, 0.5f}, fresh[] = {4, 5, 6, -7};
    scd_plan plan = sample(1);
    plan.refresh = true;
    scd_course *c = make(&plan);
    assert_int_equal(scd_course_passes_left(c), 2);
    pass p;
    make_pass(&p, c, apart, top);
    run_pass(&p, c);
    assert_int_equal(scd_course_passes_left(c), 1);
    static const uint8_t none[N];
    assert_memory_equal(c->hidden, none, N);
    assert_memory_equal(c->wanted, hide_four, N);
    scd_course_take_values(c, fresh);
    size_t width;
    const float *r = scd_course_result(c, &width);
    assert_true(r[0] == 2 && r[1] == 20 && r[2] == 4 && r[11] == 0);
    assert_int_equal(scd_course_passes_left(c), 0);
    scd_course_free(c);
}

static void values_alone_keep_the_genes_and_take_one_pass(void **state)
{
    (void)state;
    const float found[] = {1, 2, -3, 4};
    scd_plan plan = {.kind = SCD_PLAN_VALUES, .hidden = hide_four};
    scd_course *c = make(&plan);
    assert_int_equal(scd_course_passes_left(c), 1);
    assert_true(c->hidden[1] == SCD_HIDE_VALUE && c->hidden[0] == 0);
    scd_course_take_values(c, found);
    size_t width;
    const float *r = scd_course_result(c, &width);
    const float want[] = {1, 11, 1, 1, 12, 2, 1, 14, 0, 1, 15, 4, 1};
    assert_memory_equal(r, want, sizeof want);
    scd_course_free(c);
}

static void noise_depends_on_seed_pass_and_token_alone(void **state)
{
    (void)state;
    scd_plan plan = sample(4), other = sample(4);
    plan.seed = other.seed = 5;
    plan.temperature = other.temperature = 1;
    other.refresh = true;
    scd_course *a = make(&plan), *b = make(&other);
    float turn_a[N], turn_b[N];
    uint8_t option[N];
    scd_unmasking u = {.option = option, .turn = turn_a}, v = {.option = option, .turn = turn_b};
    b->left[0] = b->left[1]; /* as if the first were found already */
    b->n_left = 1;
    scd_course_begin_pass(a, &u);
    scd_course_begin_pass(b, &v);
    assert_true(turn_a[1] == turn_b[0] && turn_a[0] != turn_a[1]);
    b->pass = 1;
    scd_course_begin_pass(b, &v);
    assert_true(turn_a[1] != turn_b[0]);
    scd_pick_row row = scd_course_pick_row(a, 1, 3);
    assert_true(row.seed == 5 && row.stream == 0 && row.set == 3 && row.block == 2ull << 32);
    scd_course_free(a);
    scd_course_free(b);
}

static size_t n_asked(const scd_course *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_shown; i++)
        n += c->shown_hidden[i] != 0;
    return n;
}

/* Values 1 with the regulator in the cell, 0.25 without. */
static void a_regulator_is_there_and_is_not_while_the_others_are_asked_half_by_half(void **state)
{
    (void)state;
    static const uint8_t third[N] = {0, 0, 1, 0, 0, 0}, layers[] = {1, 0}, heads[] = {1};
    static const float with[N] = {1, 1, 1, 1, 1, 1}, without[N] = {.25f, .25f, .25f, .25f, .25f};
    scd_model_config sizes = config;
    sizes.n_layers = 2;
    sizes.n_heads = 1;
    sizes.value_masking = true;
    scd_plan plan = {.kind = SCD_PLAN_ASSOCIATE, .hidden = third, .layers = layers, .heads = heads};
    scd_course *c = NULL;
    assert_int_equal(scd_course_new(&plan, &sizes, &cell, &c, NULL), SCD_OK);
    assert_int_equal(scd_course_passes_left(c), 5);
    float weights[N + 1];
    for (int i = 0; i <= N; i++)
        weights[i] = (float)i;
    scd_associate_take_attention(c, weights);
    const size_t shown[] = {6, 5, 6, 5}, asked[] = {2, 2, 3, 3};
    for (size_t p = 0; p < 4; p++) {
        assert_int_equal(c->n_shown, shown[p]);
        assert_int_equal(n_asked(c), asked[p]);
        assert_true(c->shown_ids[2] == (p % 2 ? 13 : 12));
        scd_associate_take_values(c, p % 2 ? without : with);
    }
    assert_int_equal(scd_course_passes_left(c), 0);
    size_t width;
    const float *r = scd_course_result(c, &width);
    assert_int_equal(width, 1 + 2 * N);
    for (size_t i = 0; i < N; i++) {
        assert_true(r[1 + i] == (float)i + 1); /* row 0 is [LAT]'s */
        assert_true(r[1 + N + i] == (i == 2 ? 0 : 0.75f));
    }
    scd_course_free(c);
}

static void a_regulator_with_one_other_gene_is_asked_about_that_alone(void **state)
{
    (void)state;
    static const uint8_t first[] = {1, 0}, one[] = {1};
    scd_model_config sizes = config;
    sizes.n_layers = sizes.n_heads = 1;
    scd_cell two = cell;
    two.n_tokens = 2;
    scd_plan plan = {.kind = SCD_PLAN_ASSOCIATE, .hidden = first, .layers = one, .heads = one};
    scd_course *c = NULL;
    assert_int_equal(scd_course_new(&plan, &sizes, &two, &c, NULL), SCD_OK);
    const float weights[3] = {0}, value = 2;
    scd_associate_take_attention(c, weights);
    assert_true(c->n_shown == 2 && n_asked(c) == 1);
    scd_associate_take_values(c, &value);
    assert_true(c->n_shown == 1 && n_asked(c) == 1);
    scd_associate_take_values(c, &value);
    assert_int_equal(scd_course_passes_left(c), 0);
    scd_course_free(c);
    two.n_tokens = 1;
    assert_int_equal(scd_course_new(&plan, &sizes, &two, &c, NULL), SCD_E_INVALID);
}

static void a_failing_allocation_leaves_nothing(void **state)
{
    (void)state;
    scd_plan plan = sample(1);
    scd_course *c = NULL;
    scd_mem_fail_after(0);
    scd_code code = scd_course_new(&plan, &config, &cell, &c, NULL);
    scd_mem_fail_after(-1);
    assert_int_equal(code, SCD_E_NOMEM);
    assert_null(c);
    scd_course_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fixed_schedule_finds_as_many_in_each_pass_and_ends_with_the_last),
        cmocka_unit_test(what_a_plan_may_not_be_is_refused_and_named),
        cmocka_unit_test(the_most_confident_token_takes_the_gene_that_two_want),
        cmocka_unit_test(a_token_whose_gene_was_given_keeps_it_and_comes_first),
        cmocka_unit_test(genes_that_were_given_need_no_candidates),
        cmocka_unit_test(a_value_comes_with_its_gene_and_is_never_negative),
        cmocka_unit_test(fixed_passes_take_the_most_confident_first),
        cmocka_unit_test(confidence_takes_all_above_the_threshold_and_one_at_least),
        cmocka_unit_test(the_last_pass_takes_all_that_is_left_whatever_the_confidence),
        cmocka_unit_test(a_token_whose_list_is_used_up_is_picked_again),
        cmocka_unit_test(
            a_refresh_is_one_more_pass_over_what_was_found_and_nothing_is_hidden_in_it),
        cmocka_unit_test(values_alone_keep_the_genes_and_take_one_pass),
        cmocka_unit_test(noise_depends_on_seed_pass_and_token_alone),
        cmocka_unit_test(a_regulator_is_there_and_is_not_while_the_others_are_asked_half_by_half),
        cmocka_unit_test(a_regulator_with_one_other_gene_is_asked_about_that_alone),
        cmocka_unit_test(a_failing_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
