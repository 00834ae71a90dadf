/* test_engine_heads.c - heads on a device: their numbers, what is shared with the model, and what
 * an engine refuses to open. */
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "tests/unit/tiny_head.h"
#include "tests/unit/tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static tiny_model first, second;
static char first_digest[SCD_DIGEST_HEX], second_digest[SCD_DIGEST_HEX];

static void find_digest(const tiny_model *m, char out[SCD_DIGEST_HEX])
{
    scd_model *model = NULL;
    scd_digest digest;
    assert_int_equal(scd_model_open(m->dir, &model, NULL), SCD_OK);
    assert_int_equal(scd_model_digest(model, &digest, NULL), SCD_OK);
    scd_digest_hex(&digest, out);
    scd_model_close(model);
}

static int make_models(void **state)
{
    (void)state;
    if (tiny_model_make(&first, "first", "1") || tiny_model_make(&second, "second", "2"))
        return -1;
    find_digest(&first, first_digest);
    find_digest(&second, second_digest);
    return 0;
}

static int remove_models(void **state)
{
    (void)state;
    tiny_model_remove(&first);
    tiny_model_remove(&second);
    return 0;
}

/* The path of a head of the model; its folder exists. */
static const char *head_dir(const tiny_model *m, const char *name)
{
    static char path[96];
    snprintf(path, sizeof path, "%s/heads", m->dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/heads/%s", m->dir, name);
    mkdir(path, 0700);
    return path;
}

static void add_head(const tiny_model *m, const char *name, const char *digest)
{
    const char *dir = head_dir(m, name);
    assert_int_equal(head_write_good_json(dir, digest), 0);
    assert_int_equal(head_write_tensors(dir, TINY_DIM, NULL, 0, 0), 0);
}

static void remove_heads(const tiny_model *m)
{
    static const char *const names[] = {"a", "b", "whole"};
    char path[96];
    for (size_t i = 0; i < 3; i++)
        head_remove(head_dir(m, names[i]));
    snprintf(path, sizeof path, "%s/heads", m->dir);
    rmdir(path);
}

static int no_heads(void **state)
{
    (void)state;
    remove_heads(&first);
    remove_heads(&second);
    return 0;
}

static scd_code open_engine(int threads, scd_engine **out, scd_error *err)
{
    const char *dirs[] = {first.dir, second.dir};
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .precision = SCD_PRECISION_FP32,
                            .threads = threads,
                            .model_dirs = dirs,
                            .n_models = 2};
    return scd_engine_open(&o, out, err);
}

static scd_engine *open_good(int threads)
{
    scd_engine *e = NULL;
    scd_error err = {0};
    if (open_engine(threads, &e, &err))
        fail_msg("%s", err.message);
    return e;
}

enum { N_CELLS = 9 };

typedef struct cells {
    int32_t ids[N_CELLS][TINY_MAX_GENES];
    float values[N_CELLS][TINY_MAX_GENES];
    scd_cell cell[N_CELLS];
    const scd_cell *at[N_CELLS];
} cells;

static void make_cells(cells *c)
{
    for (size_t i = 0; i < N_CELLS; i++) {
        size_t n = 1 + i * 7 % TINY_MAX_GENES;
        for (size_t k = 0; k < n; k++) {
            c->ids[i][k] = (int32_t)(TINY_FIRST_GENE + (i * 5 + k) % (TINY_VOCAB - 5));
            c->values[i][k] = 0.5f + (float)((i + k * 3) % 11);
        }
        c->cell[i] = (scd_cell){.n_tokens = n, .ids = c->ids[i], .values = c->values[i]};
        c->at[i] = &c->cell[i];
    }
}

static void compute(scd_engine *e, size_t model, const char *head, const scd_cell *const *at,
                    size_t n, float *out)
{
    const scd_served_model *m = scd_engine_model(e, model);
    scd_work work = {.model = model};
    scd_error err = {0};
    for (size_t i = 0; head && i < m->n_heads; i++)
        if (!strcmp(m->heads[i]->name, head))
            work.head = m->heads[i];
    assert_true(!head || work.head);
    if (scd_engine_compute(e, work, at, n, out, &err))
        fail_msg("%s", err.message);
}

/* softmax(W2 relu(W0 e + b0) + b2 over 1.5) in float64, weights as head_fill makes them. */
static void reference(const float *embedding, double out[HEAD_LABELS])
{
    double sum = 0;
    for (size_t l = 0; l < HEAD_LABELS; l++) {
        out[l] = (double)sinf((float)(7 * 3 + l + 1));
        for (size_t k = 0; k < HEAD_MLP; k++) {
            double y = (double)sinf((float)(7 * 1 + k + 1));
            for (size_t i = 0; i < TINY_DIM; i++)
                y += (double)sinf((float)(k * TINY_DIM + i + 1)) * (double)embedding[i];
            double w = (double)sinf((float)(7 * 2 + l * HEAD_MLP + k + 1));
            out[l] += y > 0 ? w * y : 0;
        }
    }
    for (size_t l = 0; l < HEAD_LABELS; l++)
        sum += out[l] = exp(out[l] / 1.5);
    for (size_t l = 0; l < HEAD_LABELS; l++)
        out[l] /= sum;
}

static void a_heads_probabilities_are_those_of_its_formula(void **state)
{
    (void)state;
    static cells c;
    float embeddings[N_CELLS][TINY_DIM], p[N_CELLS][HEAD_LABELS];
    add_head(&first, "b", first_digest);
    add_head(&first, "a", first_digest);
    make_cells(&c);
    scd_engine *e = open_good(1);
    const scd_served_model *m = scd_engine_model(e, 0);
    assert_int_equal(m->n_heads, 2);
    assert_int_equal(scd_engine_model(e, 1)->n_heads, 0);
    assert_string_equal(m->heads[0]->name, "a");
    assert_int_equal(scd_engine_width(e, (scd_work){.head = m->heads[0]}), HEAD_LABELS);
    assert_int_equal(scd_engine_width(e, (scd_work){0}), TINY_DIM);
    compute(e, 0, NULL, c.at, N_CELLS, embeddings[0]);
    compute(e, 0, "b", c.at, N_CELLS, p[0]);
    for (size_t i = 0; i < N_CELLS; i++) {
        double want[HEAD_LABELS];
        reference(embeddings[i], want);
        for (size_t l = 0; l < HEAD_LABELS; l++) /* fp32 sums of 32 products of about 1 */
            assert_true(fabs((double)p[i][l] - want[l]) < 1e-5);
    }
    scd_engine_close(e);
}

static void the_bits_of_a_cell_do_not_depend_on_its_company_or_the_threads(void **state)
{
    (void)state;
    static cells c;
    float alone[N_CELLS][HEAD_LABELS], together[N_CELLS][HEAD_LABELS];
    add_head(&first, "a", first_digest);
    make_cells(&c);
    for (int threads = 1; threads <= 2; threads++) {
        scd_engine *e = open_good(threads);
        for (size_t i = 0; i < N_CELLS && threads == 1; i++)
            compute(e, 0, "a", &c.at[i], 1, alone[i]);
        for (size_t shift = 0; shift < N_CELLS; shift += 4) {
            const scd_cell *order[N_CELLS];
            for (size_t i = 0; i < N_CELLS; i++)
                order[i] = c.at[(i + shift) % N_CELLS];
            compute(e, 0, "a", order, N_CELLS, together[0]);
            for (size_t i = 0; i < N_CELLS; i++)
                assert_memory_equal(together[i], alone[(i + shift) % N_CELLS], sizeof alone[0]);
        }
        scd_engine_close(e);
    }
}

/* ---- backbone tensors ------------------------------------------------------------------------ */

/* Every tensor of a model, which a head is to carry beside its own four. */
typedef struct whole {
    scd_model *model;
    scd_tensor_entry entries[64];
    char names[64][64];
    size_t n;
} whole;

static scd_code collect(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    whole *w = arg;
    (void)err;
    snprintf(w->names[w->n], sizeof w->names[0], "%s", entry->name);
    w->entries[w->n] = *entry;
    w->entries[w->n].name = w->names[w->n];
    w->n++;
    return SCD_OK;
}

static void fill_whole(void *arg, size_t entry, size_t at, size_t n, float *out)
{
    const whole *w = arg;
    const float none = 0;
    scd_tensor t;
    if (entry < 4) {
        head_fill((void *)(uintptr_t)&none, entry, at, n, out);
        return;
    }
    const scd_tensor_entry *e = &w->entries[entry];
    scd_safetensors_get(scd_model_tensors(w->model), e->name, e->rows, e->cols, &t, NULL);
    scd_tensor_to_f32(&t, at, n, out);
}

static void add_whole_head(const tiny_model *m, const char *digest, const tiny_model *of)
{
    const char *dir = head_dir(m, "whole");
    char path[128];
    whole w = {.entries = {{"mlp.0.weight", SCD_F32, HEAD_MLP, TINY_DIM},
                           {"mlp.0.bias", SCD_F32, HEAD_MLP, 0},
                           {"mlp.2.weight", SCD_F32, HEAD_LABELS, HEAD_MLP},
                           {"mlp.2.bias", SCD_F32, HEAD_LABELS, 0}},
               .n = 4};
    assert_int_equal(scd_model_open(of->dir, &w.model, NULL), SCD_OK);
    scd_model_each_tensor(scd_model_get_config(w.model), collect, &w, NULL);
    snprintf(path, sizeof path, "%s/head.safetensors", dir);
    assert_int_equal(scd_safetensors_write(path, w.entries, w.n, fill_whole, &w, NULL), SCD_OK);
    scd_model_close(w.model);
    assert_int_equal(head_write_good_json(dir, digest), 0);
}

static void a_head_that_carries_another_models_tensors_computes_as_that_model_does(void **state)
{
    (void)state;
    static cells c;
    float whole_p[N_CELLS][HEAD_LABELS], second_p[N_CELLS][HEAD_LABELS];
    float before[N_CELLS][TINY_DIM], after[N_CELLS][TINY_DIM];
    add_whole_head(&first, first_digest, &second);
    add_head(&second, "a", second_digest);
    make_cells(&c);
    scd_engine *e = open_good(2);
    assert_true(scd_engine_model(e, 0)->heads[0]->has_backbone);
    compute(e, 0, NULL, c.at, N_CELLS, before[0]);
    compute(e, 0, "whole", c.at, N_CELLS, whole_p[0]);
    compute(e, 1, "a", c.at, N_CELLS, second_p[0]);
    compute(e, 0, NULL, c.at, N_CELLS, after[0]);
    assert_memory_equal(whole_p, second_p, sizeof whole_p);
    assert_memory_equal(before, after, sizeof before); /* the model's own stay as they are */
    scd_engine_close(e);
}

static void one_changed_tensor_changes_the_heads_answer_alone(void **state)
{
    (void)state;
    static cells c;
    float plain[N_CELLS][HEAD_LABELS], changed[N_CELLS][HEAD_LABELS];
    const scd_tensor_entry one = {"layers.1.attn.k_proj.weight", SCD_F32, TINY_DIM, TINY_DIM};
    add_head(&first, "a", first_digest);
    add_head(&first, "b", first_digest);
    head_write_tensors(head_dir(&first, "b"), TINY_DIM, &one, 1, 0);
    make_cells(&c);
    scd_engine *e = open_good(1);
    compute(e, 0, "b", c.at, N_CELLS, changed[0]);
    compute(e, 0, "a", c.at, N_CELLS, plain[0]);
    assert_memory_not_equal(changed[5], plain[5], sizeof plain[5]);
    scd_engine_close(e);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void assert_refused(scd_code code, const char *part)
{
    scd_engine *e = (scd_engine *)1;
    scd_error err = {0};
    assert_int_equal(open_engine(1, &e, &err), code);
    assert_null(e);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" does not say \"%s\"", err.message, part);
}

static void a_head_of_another_model_is_refused_with_both_digests(void **state)
{
    (void)state;
    char says[200];
    add_head(&first, "a", second_digest);
    snprintf(says, sizeof says, "with digest %s, this one has %s", second_digest, first_digest);
    assert_refused(SCD_E_INVALID, says);
    assert_refused(SCD_E_INVALID, "model \"first\": head \"a\"");
}

static void a_damaged_head_is_refused_by_file_and_tensor(void **state)
{
    (void)state;
    add_head(&second, "a", second_digest);
    head_write_tensors(head_dir(&second, "a"), TINY_DIM - 8, NULL, 0, 0);
    assert_refused(SCD_E_CORRUPT, "heads/a/head.safetensors: tensor mlp.0.weight must have shape "
                                  "[5, 32], has [5, 24]");
    unlink(strcat(strcpy((char[160]){0}, head_dir(&second, "a")), "/head.json"));
    assert_refused(SCD_E_IO, "heads/a/head.json: cannot open");
}

static void work_for_a_head_of_another_model_is_an_error(void **state)
{
    (void)state;
    static cells c;
    float out[HEAD_LABELS];
    add_head(&first, "a", first_digest);
    make_cells(&c);
    scd_engine *e = open_good(1);
    scd_work wrong = {.model = 1, .head = scd_engine_model(e, 0)->heads[0]};
    assert_int_equal(scd_engine_compute(e, wrong, c.at, 1, out, NULL), SCD_E_INTERNAL);
    scd_engine_close(e);
}

static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    add_head(&first, "a", first_digest);
    add_whole_head(&first, first_digest, &second);
    for (; code && n < 3000; n++) {
        scd_engine *e = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = open_engine(1, &e, &err);
        scd_mem_fail_after(-1);
        if (code && (code != SCD_E_NOMEM || e || !err.message[0]))
            fail_msg("allocation %ld: %s: %s", n, scd_code_name(code), err.message);
        scd_engine_close(e);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 100);
}

#define CLEAN(test) cmocka_unit_test_setup_teardown(test, no_heads, no_heads)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLEAN(a_heads_probabilities_are_those_of_its_formula),
        CLEAN(the_bits_of_a_cell_do_not_depend_on_its_company_or_the_threads),
        CLEAN(a_head_that_carries_another_models_tensors_computes_as_that_model_does),
        CLEAN(one_changed_tensor_changes_the_heads_answer_alone),
        CLEAN(a_head_of_another_model_is_refused_with_both_digests),
        CLEAN(a_damaged_head_is_refused_by_file_and_tensor),
        CLEAN(work_for_a_head_of_another_model_is_an_error),
        CLEAN(every_allocation_that_fails_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
