/* test_pick.c - gene_pick against float64 on every device: the sum over the vocabulary, the best
 * genes with and without noise, and the same bits in any batch. */
#include "engine/base/rng.h"
#include "tests/ops/fixture.h"
#include "tests/ops/ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 70, H = 72, V = 1300, SETS = 3 };

typedef struct problem {
    array x, w;
    uint32_t *sets; /* everything but the first two; every third; five genes */
    uint8_t *allowed;
    scd_pick_row *of;
    scd_gene_pick_args args; /* on the device */
    float *lse, *logits;     /* on the host, after pick */
    int32_t *genes;
} problem;

static bool allows(size_t set, size_t gene)
{
    return set == 0 ? gene > 1 : set == 1 ? gene % 3 == 0 : gene >= 600 && gene < 605;
}

static void make(fixture *f, problem *p, double spread)
{
    size_t words = scd_pick_words(V);
    p->x = fixture_random(f, 1, ROWS * H, spread);
    p->w = fixture_random(f, 2, V * H, 1 / sqrt((double)H));
    p->sets = fixture_block(f, SETS * words * sizeof *p->sets);
    p->allowed = fixture_block(f, SETS * V);
    memset(p->sets, 0, SETS * words * sizeof *p->sets);
    for (size_t s = 0; s < SETS; s++)
        for (size_t j = 0; j < V; j++) {
            p->allowed[s * V + j] = allows(s, j);
            p->sets[s * words + j / 32] |= (uint32_t)allows(s, j) << j % 32;
        }
    static const float temperatures[] = {0, 1, 0.25f, 3, 0.001f};
    p->of = fixture_block(f, ROWS * sizeof *p->of);
    for (size_t r = 0; r < ROWS; r++)
        p->of[r] = (scd_pick_row){.seed = 99 + r % 2,
                                  .stream = 7,
                                  .block = (uint64_t)r << 32,
                                  .temperature = temperatures[r % 5],
                                  .set = (uint32_t)(r % SETS)};
    p->args =
        (scd_gene_pick_args){.rows = ROWS,
                             .hidden_dim = H,
                             .vocab = V,
                             .x = fixture_place_array(f, p->x),
                             .w = fixture_matrix(f, &p->w, 1, V, H),
                             .of = fixture_place(f, p->of, ROWS * sizeof *p->of),
                             .sets = fixture_place(f, p->sets, SETS * words * sizeof *p->sets),
                             .n_sets = SETS,
                             .lse = fixture_room_floats(f, ROWS),
                             .genes = fixture_room(f, ROWS * SCD_PICK_TOP * 4),
                             .logits = fixture_room(f, ROWS * SCD_PICK_TOP * 4)};
}

static void pick(fixture *f, problem *p)
{
    scd_error err;
    const scd_gene_pick_args *a = &p->args;
    if (f->be->gene_pick(f->device, a, &err))
        fail_msg("%s", err.message);
    p->lse = fixture_fetch(f, a->lse, a->rows * sizeof *p->lse);
    p->genes = fixture_fetch(f, a->genes, a->rows * SCD_PICK_TOP * sizeof *p->genes);
    p->logits = fixture_fetch(f, a->logits, a->rows * SCD_PICK_TOP * sizeof *p->logits);
}

static void noise_of(const scd_pick_row *of, double *noise)
{
    for (size_t j = 0; j < V; j++) {
        uint32_t words[4];
        scd_rng_block(of->seed, of->stream, of->block + j / 4, words);
        noise[j] = scd_rng_gumbel(words[j % 4]);
    }
}

/* Every listed gene is allowed and new, its logit is right, and it stands where a key as large as
 * the reference's stands, within the tolerance. */
static void check_row(const fixture *f, const problem *p, size_t r, const double *l, double largest)
{
    const scd_pick_row *of = &p->of[r];
    const uint8_t *allowed = p->allowed + of->set * V;
    const int32_t *genes = p->genes + r * SCD_PICK_TOP;
    int32_t want[SCD_PICK_TOP];
    double noise[V], slack = f->tolerance * largest, t = (double)of->temperature;
    noise_of(of, noise);
    double lse = ref_gene_pick(V, l, allowed, t, noise, SCD_PICK_TOP, want);
    if (!(fabs((double)p->lse[r] - lse) <= slack))
        fail_msg("%s: lse %g, not %g", f->info->isa, (double)p->lse[r], lse);
    for (size_t k = 0; k < SCD_PICK_TOP; k++) {
        assert_true((genes[k] < 0) == (want[k] < 0));
        if (genes[k] < 0)
            continue;
        assert_true(allowed[genes[k]]);
        for (size_t i = 0; i < k; i++)
            assert_true(genes[i] != genes[k]);
        double logit = (double)p->logits[r * SCD_PICK_TOP + k];
        assert_true(fabs(logit - l[genes[k]]) <= slack);
        double key = l[genes[k]] + t * noise[genes[k]], best = l[want[k]] + t * noise[want[k]];
        if (!(key >= best - 2 * slack))
            fail_msg("%s: row %zu place %zu: key %g where %g is", f->info->isa, r, k, key, best);
    }
}

static void check_spread(fixture *f, double spread)
{
    problem p;
    make(f, &p, spread);
    pick(f, &p);
    double *l = fixture_doubles(f, ROWS * V), largest = 0;
    ref_linear(ROWS, H, V, p.x.d, p.w.d, NULL, 0, l);
    for (size_t i = 0; i < ROWS * V; i++)
        largest = fmax(largest, fabs(l[i]));
    for (size_t r = 0; r < ROWS; r++)
        check_row(f, &p, r, l + r * V, largest);
}

static void check_flat_and_steep(fixture *f)
{
    check_spread(f, 0.1);
    check_spread(f, 2);
    check_spread(f, 40);
}

static void the_best_genes_and_the_sum_are_those_of_the_whole_row(void **state)
{
    (void)state;
    fixture_on_every_device(check_flat_and_steep);
}

static void check_alone(fixture *f)
{
    problem p;
    make(f, &p, 2);
    pick(f, &p);
    for (size_t r = 0; r < ROWS; r += 7) {
        problem one = p;
        one.args.rows = 1;
        one.args.x = p.args.x + r * H;
        one.args.of = p.args.of + r;
        pick(f, &one);
        size_t n = SCD_PICK_TOP * sizeof *p.genes;
        assert_memory_equal(one.lse, p.lse + r, sizeof *p.lse);
        assert_memory_equal(one.genes, p.genes + r * SCD_PICK_TOP, n);
        assert_memory_equal(one.logits, p.logits + r * SCD_PICK_TOP, n);
    }
}

static void a_row_has_the_same_bits_alone_and_among_others(void **state)
{
    (void)state;
    fixture_on_every_device(check_alone);
}

/* The first place of 4,000 rows with one logit row: frequencies follow the softmax. */
static void check_frequencies(fixture *f)
{
    enum { DRAWS = 4000, FEW = 5 };
    problem p;
    make(f, &p, 0.5);
    float *x = fixture_block(f, DRAWS * H * sizeof *x);
    scd_pick_row *of = fixture_block(f, DRAWS * sizeof *of);
    for (size_t r = 0; r < DRAWS; r++) {
        memcpy(x + r * H, p.x.f, H * sizeof *x);
        of[r] = (scd_pick_row){.seed = 3, .block = (uint64_t)r << 32, .temperature = 1, .set = 2};
    }
    p.args.rows = f->be == &scd_backend_cpu ? DRAWS : DRAWS / 16; /* the emulator is slow */
    p.args.x = fixture_place(f, x, DRAWS * H * sizeof *x);
    p.args.of = fixture_place(f, of, DRAWS * sizeof *of);
    p.args.lse = fixture_room_floats(f, DRAWS);
    p.args.genes = fixture_room(f, DRAWS * SCD_PICK_TOP * sizeof(int32_t));
    p.args.logits = fixture_room_floats(f, DRAWS * SCD_PICK_TOP);
    pick(f, &p);
    size_t draws = p.args.rows;
    double l[V];
    ref_linear(1, H, V, p.x.d, p.w.d, NULL, 0, l);
    for (int32_t g = 600; g < 600 + FEW; g++) {
        double n = 0, want = exp(l[g] - (double)p.lse[0]);
        for (size_t r = 0; r < draws; r++)
            n += p.genes[r * SCD_PICK_TOP] == g;
        /* four standard deviations of a binomial share */
        double share = n / (double)draws, deviation = sqrt(want * (1 - want) / (double)draws);
        assert_true(fabs(share - want) < 4 * deviation + 0.01);
    }
}

static void at_temperature_one_genes_come_as_often_as_the_softmax_says(void **state)
{
    (void)state;
    fixture_on_every_device(check_frequencies);
}

static void check_refusals(fixture *f)
{
    problem p;
    scd_error err;
    make(f, &p, 1);
    p.of[3].set = SETS;
    p.args.of = fixture_place(f, p.of, ROWS * sizeof *p.of);
    scd_code code = f->be->gene_pick(f->device, &p.args, &err);
    if (!code) /* a GPU says so when it is waited for */
        code = f->be->synchronize(f->device, &err);
    assert_int_equal(code, SCD_E_INVALID);
    p.args.vocab = V + 1;
    assert_int_equal(f->be->gene_pick(f->device, &p.args, &err), SCD_E_INVALID);
}

static void a_set_that_is_not_there_and_a_matrix_of_another_size_are_refused(void **state)
{
    (void)state;
    fixture_on_every_device(check_refusals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_genes_and_the_sum_are_those_of_the_whole_row),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_among_others),
        cmocka_unit_test(at_temperature_one_genes_come_as_often_as_the_softmax_says),
        cmocka_unit_test(a_set_that_is_not_there_and_a_matrix_of_another_size_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
