/* test_train_embed.c - from ids and values to tokens: forward against float64, gradients against
 * central differences, under both poolings, with everything that a batch can hold: hidden genes,
 * hidden values, repeated ids, cells without a pooled token or without any. */
#include "tests/ops/train_check.h"
#include "tests/ops/train_ref64.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 12, CELLS = 6 };
/* A plain cell, one all hidden, one of [LAT] alone, one with a single gene many times over, a long
 * one, one whose values alone are hidden. */
static const uint32_t cu[CELLS + 1] = {0, 8, 13, 14, 34, 264, 270};
enum { ROWS = 270, GENE = SCD_HIDE_GENE | SCD_HIDE_VALUE };

typedef struct embed_case {
    scd_t_tokens t;              /* as on the host */
    scd_t_tokens dev;            /* as on the device */
    array x, w, b;               /* value_in */
    array u, table, gene, value; /* tokens */
    array dtok, dpooled, du;
    double *clean, *tok, *pooled, *out;
} embed_case;

static void fill_tokens(fixture *f, scd_t_tokens *t)
{
    int32_t *ids = fixture_block(f, ROWS * sizeof *ids);
    uint8_t *hidden = fixture_block(f, ROWS);
    for (size_t c = 0; c < CELLS; c++)
        for (size_t r = cu[c]; r < cu[c + 1]; r++) {
            size_t i = r - cu[c];
            ids[r] = i ? (int32_t)(c == 3 ? 5 : i * 7 % VOCAB) : -1;
            hidden[r] = (uint8_t)(i % 3 == 1 ? GENE : i % 3 == 2 ? SCD_HIDE_VALUE : 0);
            if (c == 1)
                hidden[r] = GENE;
            if (c == 5)
                hidden[r] = SCD_HIDE_VALUE;
            if (!i)
                hidden[r] = 0;
        }
    t->ids = t->host_ids = ids;
    t->hidden = hidden;
    t->cu_rows = t->host_cu_rows = cu;
    t->n_cells = CELLS;
    t->rows = ROWS;
    t->vocab = VOCAB;
}

static embed_case random_case(fixture *f, size_t d, int visible)
{
    embed_case c = {.x = fixture_random(f, 1, ROWS, 1),
                    .w = fixture_random(f, 2, d, 1),
                    .b = fixture_random(f, 3, d, 1),
                    .u = fixture_random(f, 4, ROWS * d, 1),
                    .table = fixture_random(f, 5, VOCAB * d, 1),
                    .gene = fixture_random(f, 6, d, 1),
                    .value = fixture_random(f, 7, d, 1),
                    .dtok = fixture_random(f, 8, ROWS * d, 1),
                    .dpooled = fixture_random(f, 9, CELLS * d, 1),
                    .du = fixture_random(f, 10, ROWS * d, 1),
                    .clean = fixture_doubles(f, ROWS * d),
                    .tok = fixture_doubles(f, ROWS * d),
                    .pooled = fixture_doubles(f, CELLS * d),
                    .out = fixture_doubles(f, ROWS * d)};
    fill_tokens(f, &c.t);
    c.t.d = d;
    c.t.visible_pooling = visible;
    c.dev = c.t;
    c.dev.ids = fixture_place(f, c.t.ids, ROWS * sizeof *c.t.ids);
    c.dev.hidden = fixture_place(f, c.t.hidden, ROWS);
    c.dev.cu_rows = fixture_place(f, cu, sizeof cu);
    return c;
}

static double value_scalar(void *ctx)
{
    embed_case *c = ctx;
    ref_value_in(ROWS, c->t.d, c->t.ids, c->x.d, c->w.d, c->b.d, c->out);
    return train_dot(c->du.d, c->out, ROWS * c->t.d);
}

static void check_value_in(fixture *f)
{
    scd_error err;
    static const size_t widths[] = {1, 26, 96, 128};
    for (size_t i = 0; i < 4; i++) {
        size_t d = widths[i];
        embed_case c = random_case(f, d, 0);
        const float *x = fixture_place_array(f, c.x), *w = fixture_place_array(f, c.w);
        float *u = fixture_room_floats(f, ROWS * d);
        scd_t_value_in a = {ROWS, d, x, w, fixture_place_array(f, c.b), c.dev.ids, u};
        train_ok(f->be->train->value_in(f->device, &a, &err), &err);
        value_scalar(&c);
        train_same(f, "value_in", c.out, u, ROWS * d);
        array dw0 = fixture_random(f, 11, d, 1), db0 = fixture_random(f, 12, d, 1);
        float *dw = fixture_place_array(f, dw0), *db = fixture_place_array(f, db0);
        scd_t_value_in_back b = {ROWS, d, x, u, fixture_place_array(f, c.du), c.dev.ids, dw, db};
        train_ok(f->be->train->value_in_back(f->device, &b, &err), &err);
        train_gradient(f, "value_in dw", value_scalar, &c, &c.w, dw0.f, dw);
        train_gradient(f, "value_in db", value_scalar, &c, &c.b, db0.f, db);
    }
}

static void the_value_encoders_first_layer_and_its_gradients_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_value_in);
}

static double token_scalar(void *ctx)
{
    embed_case *c = ctx;
    ref_tokens(&c->t, c->u.d, c->table.d, c->gene.d, c->value.d, c->clean, c->tok, c->pooled);
    return train_dot(c->dtok.d, c->tok, ROWS * c->t.d) +
           train_dot(c->dpooled.d, c->pooled, CELLS * c->t.d);
}

static void check_tokens(fixture *f, size_t d, int visible)
{
    scd_error err;
    embed_case c = random_case(f, d, visible);
    float *clean = fixture_place_array(f, c.u), *tok = fixture_room_floats(f, ROWS * d);
    float *mean = fixture_room_floats(f, CELLS * d);
    scd_t_embed a = {c.dev,
                     fixture_place_array(f, c.table),
                     fixture_place_array(f, c.gene),
                     fixture_place_array(f, c.value),
                     clean,
                     tok,
                     mean};
    train_ok(f->be->train->embed(f->device, &a, &err), &err);
    token_scalar(&c);
    train_same(f, "clean", c.clean, clean, ROWS * d);
    train_same(f, "tok", c.tok, tok, ROWS * d);
    train_same(f, "pooled", c.pooled, mean, CELLS * d);
    const float *pooled = fixture_fetch(f, mean, CELLS * d * sizeof *pooled);
    for (size_t i = 0; i < d; i++) {
        assert_true(pooled[2 * d + i] == 0); /* no tokens */
        assert_true(!visible || pooled[d + i] == 0);
    }

    array dtable0 = fixture_random(f, 20, VOCAB * d, 1), dgene0 = fixture_random(f, 21, d, 1);
    array dvalue0 = fixture_random(f, 22, d, 1);
    float *dclean = fixture_room_floats(f, ROWS * d), *dtable = fixture_place_array(f, dtable0);
    float *dgene = fixture_place_array(f, dgene0), *dvalue = fixture_place_array(f, dvalue0);
    scd_t_embed_back b = {c.dev,
                          fixture_place_array(f, c.dtok),
                          fixture_place_array(f, c.dpooled),
                          dclean,
                          dtable,
                          dgene,
                          dvalue};
    train_ok(f->be->train->embed_back(f->device, &b, &err), &err);
    train_gradient(f, "embed dclean", token_scalar, &c, &c.u, NULL, dclean);
    train_gradient(f, "embed dtable", token_scalar, &c, &c.table, dtable0.f, dtable);
    train_gradient(f, "embed dgene_mask", token_scalar, &c, &c.gene, dgene0.f, dgene);
    train_gradient(f, "embed dvalue_mask", token_scalar, &c, &c.value, dvalue0.f, dvalue);
    const float *host = fixture_fetch(f, dclean, ROWS * d * sizeof *host);
    for (size_t k = 0; k < CELLS; k++)
        for (size_t i = 0; i < d; i++)
            assert_true(host[cu[k] * d + i] == 0);
    float *again = fixture_room_floats(f, ROWS * d);
    b.dtable = NULL;
    b.dclean = again;
    train_ok(f->be->train->embed_back(f->device, &b, &err), &err);
    train_equal(f, again, dclean, ROWS * d);
}

static void check_all_tokens(fixture *f)
{
    static const size_t widths[] = {1, 26, 96, 128};
    for (size_t i = 0; i < 4; i++)
        for (int visible = 0; visible < 2; visible++)
            check_tokens(f, widths[i], visible);
}

static void tokens_and_pooling_and_all_their_gradients_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_all_tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_value_encoders_first_layer_and_its_gradients_agree),
        cmocka_unit_test(tokens_and_pooling_and_all_their_gradients_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
