/* test_train_exact.c - operations of training give the same bits on any number of threads, and when
 * they run again in scratch that others have used. Sizes give every operation several tasks, and
 * every sum over rows several parts. */
#include "engine/base/mem.h"
#include "tests/ops/train_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { R = 1300, C = 6, H = 48, HEADS = 3, F = 50, V = 1100, N = 300, IN = 100, OUT = 150 };
static const uint32_t cu[C + 1] = {0, 1, 301, 600, 601, 1100, R};

/* Inputs are made once per device from the same seeds; each operation's outputs follow one another
 * in `out`. */
typedef struct run {
    fixture *f;
    array x, w, b, dy, wide, vocab;
    int32_t *ids, *targets;
    uint32_t *pos, *index;
    uint8_t *hidden;
    float *out;
    size_t used;
} run;

enum { MOST = 2 * 1000 * 1000 };

/* n outputs that begin as `like` (NULL: zeros). */
static float *put(run *r, size_t n, const float *like)
{
    assert_true(r->used + n <= MOST);
    float *here = r->out + r->used;
    r->used += n;
    if (like)
        memcpy(here, like, n * sizeof *here);
    else
        memset(here, 0, n * sizeof *here);
    return here;
}

static run inputs(fixture *f)
{
    run r = {.f = f,
             .x = fixture_random(f, 1, R * IN, 1),
             .w = fixture_random(f, 2, OUT * IN, 0.1),
             .b = fixture_random(f, 3, 2 * IN, 1),
             .dy = fixture_random(f, 4, R * OUT, 1),
             .wide = fixture_random(f, 5, R * 3 * H, 1),
             .vocab = fixture_random(f, 6, V * H, 0.3),
             .ids = fixture_block(f, R * 4),
             .targets = fixture_block(f, N * 4),
             .pos = fixture_block(f, R * 4),
             .index = fixture_block(f, N * 4),
             .hidden = fixture_block(f, R),
             .out = fixture_block(f, MOST * sizeof(float))};
    for (size_t c = 0; c < C; c++)
        for (size_t i = cu[c]; i < cu[c + 1]; i++) {
            r.pos[i] = (uint32_t)i - cu[c];
            r.ids[i] = r.pos[i] ? (int32_t)(i * 31 % V) : -1;
            r.hidden[i] = (uint8_t)(r.pos[i] % 4 == 1 ? 3 : r.pos[i] % 7 == 2 ? 2 : 0);
        }
    for (size_t i = 0; i < N; i++) {
        r.index[i] = (uint32_t)(i * 2);
        r.targets[i] = (int32_t)(i * 77 % V);
    }
    return r;
}

static void products(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    static const size_t outs[] = {1, 33, OUT};
    for (size_t i = 0; i < 3; i++) {
        size_t out = outs[i];
        scd_t_linear a = {R, IN, out, r->x.f, r->w.f, r->b.f, put(r, R * out, NULL)};
        train_ok(train_ops->linear(device, &a, &err), &err);
        scd_t_linear_back b = {R,
                               IN,
                               out,
                               r->x.f,
                               r->w.f,
                               r->dy.f,
                               put(r, R * IN, r->x.f),
                               put(r, out * IN, r->w.f),
                               put(r, out, r->b.f),
                               1};
        train_ok(train_ops->linear_back(device, &b, &err), &err);
    }
}

static void rows(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *y = put(r, R * IN, NULL), *mean = put(r, R, NULL), *rstd = put(r, R, NULL);
    scd_t_rms_norm a = {R, IN, r->x.f, r->b.f, y, rstd};
    train_ok(train_ops->rms_norm(device, &a, &err), &err);
    scd_t_rms_norm_back b = {
        R, IN, r->x.f, r->b.f, rstd, r->dy.f, put(r, R * IN, r->dy.f), put(r, IN, r->b.f)};
    train_ok(train_ops->rms_norm_back(device, &b, &err), &err);
    y = put(r, R * IN, NULL), rstd = put(r, R, NULL);
    scd_t_norm_relu c = {R, IN, r->x.f, r->b.f, r->b.f + IN, y, mean, rstd};
    train_ok(train_ops->norm_relu(device, &c, &err), &err);
    scd_t_norm_relu_back d = {R,
                              IN,
                              r->x.f,
                              r->b.f,
                              r->b.f + IN,
                              y,
                              mean,
                              rstd,
                              r->dy.f,
                              put(r, R * IN, NULL),
                              put(r, IN, r->b.f),
                              put(r, IN, r->b.f)};
    train_ok(train_ops->norm_relu_back(device, &d, &err), &err);
    scd_t_swiglu e = {R, F, r->x.f, put(r, R * F, NULL)};
    train_ok(train_ops->swiglu(device, &e, &err), &err);
    scd_t_swiglu_back g = {R, F, r->x.f, r->dy.f, put(r, R * 2 * F, NULL)};
    train_ok(train_ops->swiglu_back(device, &g, &err), &err);
    scd_t_rows h = {N, IN, r->index, r->x.f, put(r, N * IN, NULL)};
    train_ok(train_ops->rows_get(device, &h, &err), &err);
    scd_t_rows i = {N, IN, r->index, r->x.f, put(r, R * IN, r->dy.f)};
    train_ok(train_ops->rows_add(device, &i, &err), &err);
}

static void attention(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *qkv = put(r, R * 3 * H, r->wide.f), *out = put(r, R * H, NULL);
    float *lse = put(r, HEADS * R, NULL);
    scd_t_rope a = {R, 2 * H, 2 * HEADS, 3 * H, 10000, r->pos, qkv, 0};
    train_ok(train_ops->rope(device, &a, &err), &err);
    scd_t_attention b = {C, H, HEADS, cu, cu, qkv, out, lse};
    train_ok(train_ops->attention(device, &b, &err), &err);
    scd_t_attention_back c = {C, H, HEADS, cu, cu, qkv, out, lse, r->dy.f, put(r, R * 3 * H, NULL)};
    train_ok(train_ops->attention_back(device, &c, &err), &err);
}

static void tokens(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *u = put(r, R * H, NULL);
    scd_t_value_in a = {R, H, r->x.f, r->b.f, r->b.f + H, r->ids, u};
    train_ok(train_ops->value_in(device, &a, &err), &err);
    scd_t_value_in_back b = {
        R, H, r->x.f, u, r->dy.f, r->ids, put(r, H, r->b.f), put(r, H, r->b.f)};
    train_ok(train_ops->value_in_back(device, &b, &err), &err);
    scd_t_tokens t = {C, R, H, V, cu, cu, r->ids, r->ids, r->hidden, 0};
    scd_t_embed c = {t,
                     r->vocab.f,
                     r->b.f,
                     r->b.f + H,
                     put(r, R * H, u),
                     put(r, R * H, NULL),
                     put(r, C * H, NULL)};
    train_ok(train_ops->embed(device, &c, &err), &err);
    scd_t_embed_back d = {t,
                          r->dy.f,
                          r->x.f,
                          put(r, R * H, NULL),
                          put(r, V * H, r->vocab.f),
                          put(r, H, r->b.f),
                          put(r, H, r->b.f)};
    train_ok(train_ops->embed_back(device, &d, &err), &err);
}

static void losses(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    int32_t best[N];
    scd_t_gene_loss a = {N,
                         H,
                         V,
                         r->x.f,
                         r->vocab.f,
                         r->targets,
                         0.01f,
                         put(r, N, NULL),
                         best,
                         put(r, N * H, NULL),
                         put(r, V * H, r->vocab.f)};
    train_ok(train_ops->gene_loss(device, &a, &err), &err);
    float *found = put(r, N, NULL);
    for (size_t i = 0; i < N; i++)
        found[i] = (float)best[i];
    scd_t_class_loss b = {N, 10, r->x.f, r->dy.f, r->w.f, 1, put(r, N, NULL), put(r, N * 10, NULL)};
    train_ok(train_ops->class_loss(device, &b, &err), &err);
    double squares;
    train_ok(train_ops->sum_squares(device, r->x.f, R * IN, &squares, &err), &err);
    memcpy(put(r, 2, NULL), &squares, sizeof squares);
    scd_t_adamw c = {R * IN,
                     put(r, R * IN, r->x.f),
                     put(r, R * IN, NULL),
                     put(r, R * IN, NULL),
                     r->dy.f,
                     1e-3f,
                     0.9f,
                     0.999f,
                     1e-8f,
                     0.1f,
                     1,
                     0.1f,
                     0.001f};
    train_ok(train_ops->adamw(device, &c, &err), &err);
}

static const struct {
    const char *name;
    void (*go)(run *r);
} families[] = {{"products", products},
                {"rows", rows},
                {"attention", attention},
                {"tokens", tokens},
                {"losses", losses}};

static void same_bits(const run *r, const run *first, const char *what)
{
    assert_int_equal(r->used, first->used);
    for (size_t i = 0; i < r->used; i++)
        if (memcmp(&r->out[i], &first->out[i], sizeof(float)))
            fail_msg("%s on %s: element %zu is %.9g and %.9g", what, r->f->info->isa, i,
                     (double)r->out[i], (double)first->out[i]);
}

static void the_bits_of_every_operation_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 5};
    fixture f[4];
    for (size_t i = 0; i < N_CONFIGS; i++) {
        if (!fixture_open(&f[0], i, threads[0]))
            continue;
        for (size_t t = 1; t < 4; t++)
            assert_true(fixture_open(&f[t], i, threads[t]));
        run runs[4];
        for (size_t t = 0; t < 4; t++)
            runs[t] = inputs(&f[t]);
        for (size_t k = 0; k < sizeof families / sizeof families[0]; k++)
            for (size_t t = 0; t < 4; t++) {
                runs[t].used = 0;
                families[k].go(&runs[t]);
                same_bits(&runs[t], &runs[0], families[k].name);
            }
        for (size_t t = 0; t < 4; t++)
            fixture_release(&f[t]);
    }
}

static void check_again(fixture *f)
{
    run first = inputs(f), again = inputs(f);
    for (size_t k = 0; k < sizeof families / sizeof families[0]; k++) {
        first.used = again.used = 0;
        families[k].go(&first);
        products(&again);
        losses(&again);
        again.used = 0;
        families[k].go(&again);
        same_bits(&again, &first, families[k].name);
    }
}

static void an_operation_gives_the_same_bits_again_after_others(void **state)
{
    (void)state;
    train_on_every_isa(check_again);
}

/* Scratch is there after the first round: the second one takes no memory, and where the first one
 * gets none it says so and leaves nothing behind. */
static void check_memory(fixture *f)
{
    scd_error err;
    run r = inputs(f);
    scd_t_gene_loss a = {N,    H,    V,   r.x.f, r.vocab.f, r.targets, 1, put(&r, N, NULL),
                         NULL, NULL, NULL};
    static const long granted[] = {0, 1, 1}; /* shared, then each thread's; what came stays */
    for (size_t i = 0; i < 3; i++) {
        scd_mem_fail_after(granted[i]);
        scd_code code = train_ops->gene_loss(f->device, &a, &err);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
    }
    for (size_t round = 0; round < 2; round++) {
        if (round)
            scd_mem_fail_after(0);
        for (size_t k = 0; k < sizeof families / sizeof families[0]; k++) {
            r.used = 0;
            families[k].go(&r);
        }
        scd_mem_fail_after(-1);
    }
}

static void nothing_is_allocated_after_the_first_round(void **state)
{
    (void)state;
    train_on_every_isa(check_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bits_of_every_operation_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(an_operation_gives_the_same_bits_again_after_others),
        cmocka_unit_test(nothing_is_allocated_after_the_first_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
