/* test_gene_head.c - the linear half of a head: its formula, its gradient against differences, what
 * training moves, and what a file holds.
 *
 * Threads: main and the device's. */
#include "engine/base/mem.h"
#include "engine/train/gene_head.h"
#include "tests/unit/net_fixture.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { CLASSES = 3, CELLS = 4, ROWS = CELLS + 11, PARAMS = (NET_VOCAB + 1) * CLASSES };

static const uint32_t cu_rows[CELLS + 1] = {0, 5, 7, 10, ROWS}; /* [LAT], then the tokens */
static int32_t ids[ROWS];
static float values[ROWS], targets[CELLS * CLASSES], weights[CELLS] = {1, 0.5f, 2, 1.25f};
static const scd_net_batch batch = {
    .n_cells = CELLS, .n_rows = ROWS, .cu_rows = cu_rows, .ids = ids, .values = values};

typedef struct fixture {
    scd_device *device;
    scd_gene_head *head;
    float params[PARAMS];
} fixture;

static scd_code new_head(scd_device *device, scd_gene_head **out, scd_error *err)
{
    return scd_gene_head_new(&scd_backend_cpu, &scd_train_ops_cpu, device, NET_VOCAB, CLASSES, out,
                             err);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    scd_error err = {0};
    f->device = net_device(1);
    net_ok(new_head(f->device, &f->head, &err), &err);
    for (size_t i = 0; i < PARAMS; i++)
        f->params[i] = 2 * scd_rng_uniform(3, 1, i) - 1;
    net_ok(scd_gene_head_import(f->head, f->params, NULL, NULL, &err), &err);
    for (size_t c = 0; c < CELLS; c++) {
        ids[cu_rows[c]] = -1;
        for (uint32_t r = cu_rows[c] + 1; r < cu_rows[c + 1]; r++) {
            ids[r] = (int32_t)(2 + 7 * r % (NET_VOCAB - 5));
            values[r] = 0.1f + 5 * scd_rng_uniform(3, 2, r);
        }
        for (size_t k = 0; k < CLASSES; k++)
            targets[c * CLASSES + k] = k == c % CLASSES ? 0.8f : 0.1f;
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    scd_gene_head_free(f->head);
    scd_backend_cpu.close(f->device);
    free(f);
    return 0;
}

/* ---- the formula ----------------------------------------------------------------------------- */

static void plain_logits(const double *params, size_t c, double out[CLASSES])
{
    double squares = 0;
    for (uint32_t r = cu_rows[c] + 1; r < cu_rows[c + 1]; r++)
        squares += (double)values[r] * (double)values[r];
    for (size_t k = 0; k < CLASSES; k++) {
        out[k] = params[NET_VOCAB * CLASSES + k];
        for (uint32_t r = cu_rows[c] + 1; r < cu_rows[c + 1]; r++)
            out[k] += (double)values[r] / sqrt(squares) * params[(size_t)ids[r] * CLASSES + k];
    }
}

static double plain_loss(const double *params)
{
    double loss = 0, logits[CLASSES];
    for (size_t c = 0; c < CELLS; c++) {
        double sum = 0;
        plain_logits(params, c, logits);
        for (size_t k = 0; k < CLASSES; k++)
            sum += exp(logits[k]);
        for (size_t k = 0; k < CLASSES; k++)
            loss -= (double)weights[c] * (double)targets[c * CLASSES + k] * (logits[k] - log(sum));
    }
    return loss;
}

static void to_double(const fixture *f, double *out)
{
    for (size_t i = 0; i < PARAMS; i++)
        out[i] = (double)f->params[i];
}

static void both_halves_are_averaged_by_the_formula(void **state)
{
    fixture *f = *state;
    double params[PARAMS], want[CLASSES];
    float logits[CELLS * CLASSES];
    to_double(f, params);
    for (size_t i = 0; i < CELLS * CLASSES; i++)
        logits[i] = (float)i - 4;
    scd_gene_head_join(f->head, &batch, logits);
    for (size_t c = 0; c < CELLS; c++) {
        plain_logits(params, c, want);
        for (size_t k = 0; k < CLASSES; k++) { /* one rounding to float32 */
            double mean = ((double)(c * CLASSES + k) - 4 + want[k]) / 2;
            assert_true(fabs((double)logits[c * CLASSES + k] - mean) < 1e-6);
        }
    }
}

static void a_cells_depth_does_not_matter(void **state)
{
    fixture *f = *state;
    scd_gene_term term = {NET_VOCAB, CLASSES, f->params, f->params + NET_VOCAB * CLASSES};
    double once[CLASSES], twice[CLASSES];
    float doubled[4];
    for (size_t i = 0; i < 4; i++)
        doubled[i] = 2 * values[1 + i];
    scd_gene_term_logits(&term, ids + 1, values + 1, 4, once);
    scd_gene_term_logits(&term, ids + 1, doubled, 4, twice);
    for (size_t k = 0; k < CLASSES; k++)
        assert_true(fabs(once[k] - twice[k]) < 1e-14);
    scd_gene_term_logits(&term, ids, values, 0, once); /* no tokens: the bias */
    for (size_t k = 0; k < CLASSES; k++)
        assert_true(once[k] == (double)term.bias[k]);
}

/* ---- learning -------------------------------------------------------------------------------- */

/* The gradient shows in AdamW's first moment: m = (1 - beta1) g. */
static void the_gradient_is_what_differences_say(void **state)
{
    fixture *f = *state;
    static float m[PARAMS];
    double params[PARAMS];
    const float scale = 0.5f;
    const scd_net_step step = {.step = 1, .lr = 0, .beta1 = 0.5f, .beta2 = 0.9f, .eps = 1e-8f};
    scd_error err = {0};
    to_double(f, params);
    double loss = scd_gene_head_loss(f->head, &batch, targets, weights, scale);
    assert_true(fabs(loss - plain_loss(params)) < 1e-12);
    net_ok(scd_gene_head_update(f->head, &step, &err), &err);
    net_ok(scd_gene_head_export(f->head, NULL, m, NULL, &err), &err);
    for (size_t i = 0; i < PARAMS; i++) {
        double h = 1e-5, at = params[i];
        params[i] = at + h;
        double up = plain_loss(params);
        params[i] = at - h;
        double down = plain_loss(params);
        params[i] = at;
        /* float32 gradient of about 1, differences good to 1e-9 */
        assert_true(fabs((double)m[i] / 0.5 - (double)scale * (up - down) / (2 * h)) < 1e-6);
    }
}

static void steps_fit_the_cells_and_leave_other_genes_alone(void **state)
{
    fixture *f = *state;
    static float params[PARAMS];
    scd_error err = {0};
    double first = 0, loss = 0;
    memset(params, 0, sizeof params);
    net_ok(scd_gene_head_import(f->head, params, NULL, NULL, &err), &err);
    for (uint64_t s = 1; s <= 300; s++) {
        scd_net_step step = {.step = s, .lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f};
        loss = scd_gene_head_loss(f->head, &batch, targets, weights, 1);
        first = s == 1 ? loss : first;
        net_ok(scd_gene_head_update(f->head, &step, &err), &err);
    }
    net_ok(scd_gene_head_export(f->head, params, NULL, NULL, &err), &err);
    double entropy = -0.8 * log(0.8) - 0.2 * log(0.1), weight = 1 + 0.5 + 2 + 1.25;
    assert_true(fabs(first - weight * log(CLASSES)) < 1e-6);
    assert_true(loss < 1.02 * weight * entropy); /* four cells and more genes than that */
    bool seen[NET_VOCAB] = {false};
    for (size_t r = 0; r < ROWS; r++)
        if (ids[r] >= 0)
            seen[ids[r]] = true;
    for (size_t g = 0; g < NET_VOCAB; g++)
        for (size_t k = 0; k < CLASSES; k++)
            assert_true(seen[g] || params[g * CLASSES + k] == 0);
}

static void a_state_goes_out_and_in_again(void **state)
{
    fixture *f = *state;
    static float a[3][PARAMS], b[3][PARAMS];
    const scd_net_step step = {.step = 1, .lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f};
    scd_error err = {0};
    scd_gene_head *other = NULL;
    scd_gene_head_loss(f->head, &batch, targets, weights, 1);
    net_ok(scd_gene_head_update(f->head, &step, &err), &err);
    net_ok(scd_gene_head_export(f->head, a[0], a[1], a[2], &err), &err);
    net_ok(new_head(f->device, &other, &err), &err);
    assert_int_equal(scd_gene_head_n_params(other), PARAMS);
    net_ok(scd_gene_head_import(other, a[0], a[1], a[2], &err), &err);
    double one = scd_gene_head_loss(f->head, &batch, targets, weights, 1);
    assert_true(one == scd_gene_head_loss(other, &batch, targets, weights, 1));
    net_ok(scd_gene_head_update(f->head, &step, &err), &err);
    net_ok(scd_gene_head_update(other, &step, &err), &err);
    net_ok(scd_gene_head_export(f->head, a[0], a[1], a[2], &err), &err);
    net_ok(scd_gene_head_export(other, b[0], b[1], b[2], &err), &err);
    assert_memory_equal(a, b, sizeof a);
    scd_gene_head_free(other);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    const float *params = arg;
    memcpy(out, params + (entry ? NET_VOCAB * CLASSES : 0) + first, n * sizeof *out);
}

static void what_was_written_is_loaded(void **state)
{
    fixture *f = *state;
    static float again[PARAMS];
    scd_tensor_entry entries[SCD_GENE_HEAD_TENSORS];
    char path[] = "/tmp/scdiva-gene-head-XXXXXX";
    scd_safetensors *file = NULL;
    scd_gene_head *other = NULL;
    scd_gene_term term;
    scd_error err = {0};
    close(mkstemp(path));
    scd_gene_head_entries(f->head, entries);
    net_ok(scd_safetensors_write(path, entries, SCD_GENE_HEAD_TENSORS, fill, f->params, &err),
           &err);
    net_ok(scd_safetensors_open(path, &file, &err), &err);
    net_ok(new_head(f->device, &other, &err), &err);
    net_ok(scd_gene_head_load(other, file, &err), &err);
    net_ok(scd_gene_head_export(other, again, NULL, NULL, &err), &err);
    assert_memory_equal(again, f->params, sizeof again);
    assert_int_equal(scd_gene_term_load(file, NET_VOCAB + 1, CLASSES, &term, &err), SCD_E_CORRUPT);
    assert_non_null(strstr(err.message, "genes.weight must have shape [41, 3], has [40, 3]"));
    scd_gene_head_free(other);
    scd_safetensors_close(file);
    unlink(path);
}

static void a_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    fixture *f = *state;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    for (; code && n < 50; n++) {
        scd_gene_head *head = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = new_head(f->device, &head, &err);
        scd_mem_fail_after(-1);
        if (code && (code != SCD_E_NOMEM || head || !err.message[0]))
            fail_msg("allocation %ld: %s: %s", n, scd_code_name(code), err.message);
        scd_gene_head_free(head);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 5);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(both_halves_are_averaged_by_the_formula),
        WITH(a_cells_depth_does_not_matter),
        WITH(the_gradient_is_what_differences_say),
        WITH(steps_fit_the_cells_and_leave_other_genes_alone),
        WITH(a_state_goes_out_and_in_again),
        WITH(what_was_written_is_loaded),
        WITH(a_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
