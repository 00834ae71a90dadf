/* test_train_exact.c - operations of training give the same bits on any number of the CPU's
 * threads, and on every device when they run again in scratch that others have used. Sizes give
 * every operation several tasks, and every sum over rows several parts. */
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
    array host_x, host_w, host_b, host_dy, host_vocab; /* what outputs begin as */
    const float *x, *w, *b, *dy, *wide, *vocab;        /* on the device, as all below */
    const int32_t *ids, *host_ids, *targets;
    const uint32_t *pos, *index, *cu;
    const uint8_t *hidden;
    float *out;
    size_t used;
} run;

enum { MOST = 2 * 1000 * 1000 };

/* n outputs that begin as `like`, on the host (NULL: zeros). */
static float *put(run *r, size_t n, const array *like)
{
    static const float zeros[MOST];
    scd_error err;
    assert_true(r->used + n <= MOST && (!like || n <= like->n));
    float *here = r->out + r->used;
    r->used += n;
    train_ok(r->f->be->upload(r->f->device, here, like ? like->f : zeros, n * sizeof *here, &err),
             &err);
    return here;
}

static void describe_rows(fixture *f, run *r)
{
    int32_t *ids = fixture_block(f, R * 4), *targets = fixture_block(f, N * 4);
    uint32_t *pos = fixture_block(f, R * 4), *index = fixture_block(f, N * 4);
    uint8_t *hidden = fixture_block(f, R);
    for (size_t c = 0; c < C; c++)
        for (size_t i = cu[c]; i < cu[c + 1]; i++) {
            pos[i] = (uint32_t)i - cu[c];
            ids[i] = pos[i] ? (int32_t)(i * 31 % V) : -1;
            hidden[i] = (uint8_t)(pos[i] % 4 == 1 ? 3 : pos[i] % 7 == 2 ? 2 : 0);
        }
    for (size_t i = 0; i < N; i++) {
        index[i] = (uint32_t)(i * 2);
        targets[i] = (int32_t)(i * 77 % V);
    }
    r->host_ids = ids;
    r->ids = fixture_place(f, ids, R * 4);
    r->targets = fixture_place(f, targets, N * 4);
    r->pos = fixture_place(f, pos, R * 4);
    r->index = fixture_place(f, index, N * 4);
    r->hidden = fixture_place(f, hidden, R);
    r->cu = fixture_place(f, cu, sizeof cu);
}

static run inputs(fixture *f)
{
    run r = {.f = f,
             .host_x = fixture_random(f, 1, R * IN, 1),
             .host_w = fixture_random(f, 2, OUT * IN, 0.1),
             .host_b = fixture_random(f, 3, 2 * IN, 1),
             .host_dy = fixture_random(f, 4, R * OUT, 1),
             .host_vocab = fixture_random(f, 6, V * H, 0.3),
             .wide = fixture_place_array(f, fixture_random(f, 5, R * 3 * H, 1)),
             .out = fixture_room_floats(f, MOST)};
    r.x = fixture_place_array(f, r.host_x);
    r.w = fixture_place_array(f, r.host_w);
    r.b = fixture_place_array(f, r.host_b);
    r.dy = fixture_place_array(f, r.host_dy);
    r.vocab = fixture_place_array(f, r.host_vocab);
    describe_rows(f, &r);
    return r;
}

static void products(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    static const size_t outs[] = {1, 33, OUT};
    for (size_t i = 0; i < 3; i++) {
        size_t out = outs[i];
        scd_t_linear a = {R, IN, out, r->x, r->w, r->b, put(r, R * out, NULL)};
        train_ok(r->f->be->train->linear(device, &a, &err), &err);
        scd_t_linear_back b = {R,
                               IN,
                               out,
                               r->x,
                               r->w,
                               r->dy,
                               put(r, R * IN, &r->host_x),
                               put(r, out * IN, &r->host_w),
                               put(r, out, &r->host_b),
                               1};
        train_ok(r->f->be->train->linear_back(device, &b, &err), &err);
    }
}

static void rows(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *y = put(r, R * IN, NULL), *mean = put(r, R, NULL), *rstd = put(r, R, NULL);
    scd_t_rms_norm a = {R, IN, r->x, r->b, y, rstd};
    train_ok(r->f->be->train->rms_norm(device, &a, &err), &err);
    scd_t_rms_norm_back b = {
        R, IN, r->x, r->b, rstd, r->dy, put(r, R * IN, &r->host_dy), put(r, IN, &r->host_b)};
    train_ok(r->f->be->train->rms_norm_back(device, &b, &err), &err);
    y = put(r, R * IN, NULL), rstd = put(r, R, NULL);
    scd_t_norm_relu c = {R, IN, r->x, r->b, r->b + IN, y, mean, rstd};
    train_ok(r->f->be->train->norm_relu(device, &c, &err), &err);
    scd_t_norm_relu_back d = {R,
                              IN,
                              r->x,
                              r->b,
                              r->b + IN,
                              y,
                              mean,
                              rstd,
                              r->dy,
                              put(r, R * IN, NULL),
                              put(r, IN, &r->host_b),
                              put(r, IN, &r->host_b)};
    train_ok(r->f->be->train->norm_relu_back(device, &d, &err), &err);
    scd_t_swiglu e = {R, F, r->x, put(r, R * F, NULL)};
    train_ok(r->f->be->train->swiglu(device, &e, &err), &err);
    scd_t_swiglu_back g = {R, F, r->x, r->dy, put(r, R * 2 * F, NULL)};
    train_ok(r->f->be->train->swiglu_back(device, &g, &err), &err);
    scd_t_rows h = {N, IN, r->index, r->x, put(r, N * IN, NULL)};
    train_ok(r->f->be->train->rows_get(device, &h, &err), &err);
    scd_t_rows i = {N, IN, r->index, r->x, put(r, R * IN, &r->host_dy)};
    train_ok(r->f->be->train->rows_add(device, &i, &err), &err);
}

static void attention(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *qkv = put(r, R * 3 * H, NULL), *out = put(r, R * H, NULL);
    float *lse = put(r, HEADS * R, NULL);
    train_ok(r->f->be->train->copy(device, r->wide, R * 3 * H, qkv, &err), &err);
    scd_t_rope a = {R, 2 * H, 2 * HEADS, 3 * H, 10000, r->pos, qkv, 0};
    train_ok(r->f->be->train->rope(device, &a, &err), &err);
    scd_t_attention b = {C, H, HEADS, cu, r->cu, qkv, out, lse};
    train_ok(r->f->be->train->attention(device, &b, &err), &err);
    scd_t_attention_back c = {C,   H,   HEADS, cu,    r->cu,
                              qkv, out, lse,   r->dy, put(r, R * 3 * H, NULL)};
    train_ok(r->f->be->train->attention_back(device, &c, &err), &err);
}

static void tokens(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    float *u = put(r, R * H, NULL);
    scd_t_value_in a = {R, H, r->x, r->b, r->b + H, r->ids, u};
    train_ok(r->f->be->train->value_in(device, &a, &err), &err);
    scd_t_value_in_back b = {
        R, H, r->x, u, r->dy, r->ids, put(r, H, &r->host_b), put(r, H, &r->host_b)};
    train_ok(r->f->be->train->value_in_back(device, &b, &err), &err);
    scd_t_tokens t = {C, R, H, V, cu, r->cu, r->ids, r->host_ids, r->hidden, 0};
    float *clean = put(r, R * H, NULL);
    train_ok(r->f->be->train->copy(device, u, R * H, clean, &err), &err);
    scd_t_embed c = {t, r->vocab, r->b, r->b + H, clean, put(r, R * H, NULL), put(r, C * H, NULL)};
    train_ok(r->f->be->train->embed(device, &c, &err), &err);
    scd_t_embed_back d = {t,
                          r->dy,
                          r->x,
                          put(r, R * H, NULL),
                          put(r, V * H, &r->host_vocab),
                          put(r, H, &r->host_b),
                          put(r, H, &r->host_b)};
    train_ok(r->f->be->train->embed_back(device, &d, &err), &err);
}

static void losses(run *r)
{
    scd_error err;
    scd_device *device = r->f->device;
    scd_t_gene_loss a = {N,
                         H,
                         V,
                         r->x,
                         r->vocab,
                         r->targets,
                         0.01f,
                         put(r, N, NULL),
                         (int32_t *)(void *)put(r, N, NULL),
                         put(r, N * H, NULL),
                         put(r, V * H, &r->host_vocab)};
    train_ok(r->f->be->train->gene_loss(device, &a, &err), &err);
    scd_t_class_loss b = {N, 10, r->x, r->dy, r->w, 1, put(r, N, NULL), put(r, N * 10, NULL)};
    train_ok(r->f->be->train->class_loss(device, &b, &err), &err);
    double squares;
    train_ok(r->f->be->train->sum_squares(device, r->x, R * IN, &squares, &err), &err);
    train_ok(r->f->be->upload(device, put(r, 2, NULL), &squares, sizeof squares, &err), &err);
    scd_t_adamw c = {R * IN,
                     put(r, R * IN, &r->host_x),
                     put(r, R * IN, NULL),
                     put(r, R * IN, NULL),
                     r->dy,
                     1e-3f,
                     0.9f,
                     0.999f,
                     1e-8f,
                     0.1f,
                     1,
                     0.1f,
                     0.001f};
    train_ok(r->f->be->train->adamw(device, &c, &err), &err);
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
    size_t n = r->used;
    assert_int_equal(n, first->used);
    const float *got = fixture_fetch(r->f, r->out, n * sizeof *got);
    const float *want = fixture_fetch(first->f, first->out, n * sizeof *want);
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof(float)) != 0)
            fail_msg("%s on %s: element %zu is %.9g and %.9g", what, r->f->info->isa, i,
                     (double)got[i], (double)want[i]);
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
    fixture_on_every_device(check_again);
}

/* Scratch is there after the first round: the second one takes no memory, and where the first one
 * gets none it says so and leaves nothing behind. */
static void check_memory(fixture *f)
{
    scd_error err;
    run r = inputs(f);
    scd_t_gene_loss a = {.n = N,
                         .hidden_dim = H,
                         .vocab = V,
                         .x = r.x,
                         .w = r.vocab,
                         .targets = r.targets,
                         .scale = 1,
                         .loss = put(&r, N, NULL)};
    static const long granted[] = {0, 1, 1}; /* shared, then each thread's; what came stays */
    for (size_t i = 0; i < 3 && f->be == &scd_backend_cpu; i++) {
        scd_mem_fail_after(granted[i]);
        scd_code code = f->be->train->gene_loss(f->device, &a, &err);
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
    fixture_on_every_device(check_memory);
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
