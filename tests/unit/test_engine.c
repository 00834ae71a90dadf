/* test_engine.c - models on a device: opening them, choosing it, and bits that depend on the cell
 * alone. What the numbers should be is checked against float64 in tests/e2e/test_parity.py.
 *
 * Threads: main; the engine's own. */
#include "engine/engine.h"
#include "engine/model/forward.h"
#include "engine/model/model.h"
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static tiny_model first, second;

static int make_models(void **state)
{
    (void)state;
    return tiny_model_make(&first, "first", "1") || tiny_model_make(&second, "second", "2");
}

static int remove_models(void **state)
{
    (void)state;
    tiny_model_remove(&first);
    tiny_model_remove(&second);
    return 0;
}

static scd_engine *open_engine(size_t n_models, int threads, size_t max_rows)
{
    const char *dirs[] = {first.dir, second.dir};
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .threads = threads,
                            .max_batch_tokens = max_rows,
                            .model_dirs = dirs,
                            .n_models = n_models};
    scd_engine *engine = NULL;
    scd_error err = {0};
    if (scd_engine_open(&o, &engine, &err))
        fail_msg("%s", err.message);
    return engine;
}

enum { MAX_CELLS = 12 };

/* Cells of 1 to TINY_MAX_GENES tokens whose content follows from their number. */
typedef struct cells {
    int32_t ids[MAX_CELLS][TINY_MAX_GENES];
    float values[MAX_CELLS][TINY_MAX_GENES];
    scd_cell cell[MAX_CELLS];
    const scd_cell *at[MAX_CELLS];
} cells;

static void make_cells(cells *c)
{
    for (size_t i = 0; i < MAX_CELLS; i++) {
        size_t n = 1 + i * 7 % TINY_MAX_GENES;
        for (size_t k = 0; k < n; k++) {
            c->ids[i][k] = (int32_t)(TINY_FIRST_GENE + (i * 5 + k) % (TINY_VOCAB - 5));
            c->values[i][k] = 0.5f + (float)((i + k * 3) % 11);
        }
        c->cell[i] = (scd_cell){.n_tokens = n, .ids = c->ids[i], .values = c->values[i]};
        c->at[i] = &c->cell[i];
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static void an_open_engine_says_what_it_serves_and_on_what(void **state)
{
    (void)state;
    scd_engine *e = open_engine(2, 1, 0);
    assert_int_equal(scd_engine_n_models(e), 2);
    const scd_served_model *m = scd_engine_model(e, 1);
    assert_string_equal(m->name, "second");
    assert_int_equal(m->config->hidden_dim, TINY_DIM);
    assert_int_equal(strlen(m->digest_hex), 64);
    assert_string_not_equal(m->digest_hex, scd_engine_model(e, 0)->digest_hex);
    assert_true(m->n_params > 1000);
    assert_int_equal(scd_vocab_n_genes(m->vocab), TINY_VOCAB - 5);
    assert_string_equal(scd_engine_device_kind(e), "cpu");
    assert_string_equal(scd_engine_why(e), "asked for");
    const scd_device_info *d = scd_engine_device(e);
    assert_non_null(strstr(d->identity, d->isa));
    assert_int_not_equal(d->precision, SCD_PRECISION_AUTO);
    assert_true(scd_engine_max_rows(e) >= 2048);
    scd_engine_close(e);
    scd_engine_close(NULL);
}

static void a_whole_cell_of_the_longest_model_always_fits(void **state)
{
    (void)state;
    scd_engine *e = open_engine(1, 1, 3);
    assert_int_equal(scd_engine_max_rows(e), TINY_MAX_GENES + 1);
    scd_engine_close(e);
}

static void assert_refused(const scd_engine_options *o, scd_code code, const char *part)
{
    scd_engine *e = (scd_engine *)1;
    scd_error err = {0};
    assert_int_equal(scd_engine_open(o, &e, &err), code);
    assert_null(e);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" does not say \"%s\"", err.message, part);
    assert_int_equal(scd_engine_open(o, &e, NULL), code);
}

static void two_models_of_one_name_are_refused(void **state)
{
    (void)state;
    const char *dirs[] = {first.dir, first.dir};
    scd_engine_options o = {.device = SCD_DEVICE_CPU, .model_dirs = dirs, .n_models = 2};
    assert_refused(&o, SCD_E_INVALID, "two models are called \"first\": rename one directory");
}

static void a_model_that_is_not_there_is_named(void **state)
{
    (void)state;
    const char *dirs[] = {first.dir, "/nonexistent/model"};
    scd_engine_options o = {.device = SCD_DEVICE_CPU, .model_dirs = dirs, .n_models = 2};
    assert_refused(&o, SCD_E_IO, "/nonexistent/model");
}

static void a_cuda_that_is_not_there_is_refused_by_name(void **state)
{
    (void)state;
    const char *dirs[] = {first.dir};
    scd_engine_options o = {.device = SCD_DEVICE_CUDA, .model_dirs = dirs, .n_models = 1};
    assert_refused(&o, SCD_E_DEVICE, "--device cuda: no CUDA backend");
}

static void from_the_cpu_there_is_nowhere_to_move(void **state)
{
    (void)state;
    scd_error err = {0};
    scd_engine *e = open_engine(1, 1, 0);
    assert_int_equal(scd_engine_n_devices(e), 1);
    assert_string_equal(scd_engine_device_name(e, 0), "cpu");
    assert_ptr_equal(scd_engine_device_at(e, 0), scd_engine_device(e));
    assert_int_equal(scd_engine_max_rows_at(e, 0), scd_engine_max_rows(e));
    assert_int_equal(scd_engine_move_to_cpu(e, &err), SCD_E_DEVICE);
    assert_string_equal(err.message, "it is the CPU that computes");
    assert_int_equal(scd_engine_n_devices(e), 1);
    scd_engine_close(e);
}

static void left_to_itself_it_takes_the_cpu_and_says_why(void **state)
{
    (void)state;
    const scd_backend *backend = NULL;
    scd_device *device = NULL;
    const scd_device_options one_thread = {.threads = 1};
    char why[256];
    assert_int_equal(
        scd_backend_open(SCD_DEVICE_AUTO, &one_thread, &backend, &device, why, sizeof why, NULL),
        SCD_OK);
    assert_ptr_equal(backend, &scd_backend_cpu);
    assert_string_equal(why,
                        "no CUDA backend: there is no scdiva_cuda.so beside this program (make "
                        "builds it where nvcc is)");
    backend->close(device);
}

static void a_backend_of_another_release_is_refused_with_both_versions(void **state)
{
    (void)state;
    scd_backend other = scd_backend_cpu;
    scd_error err = {0};
    assert_int_equal(scd_backend_check(&other, &err), SCD_OK);
    other.abi = 1007;
    assert_int_equal(scd_backend_check(&other, &err), SCD_E_DEVICE);
    assert_non_null(strstr(err.message, "table version 1007"));
    other = scd_backend_cpu;
    other.size -= 8;
    assert_int_equal(scd_backend_check(&other, &err), SCD_E_DEVICE);
    assert_non_null(strstr(err.message, "install both from one release"));
}

/* Every allocation of open fails once; whatever was open by then is closed again. */
static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    const char *dirs[] = {first.dir, second.dir};
    scd_engine_options o = {
        .device = SCD_DEVICE_CPU, .threads = 1, .model_dirs = dirs, .n_models = 2};
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    for (; code && n < 2000; n++) {
        scd_engine *e = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        code = scd_engine_open(&o, &e, &err);
        scd_mem_fail_after(-1);
        if (code && (code != SCD_E_NOMEM || e || !err.message[0]))
            fail_msg("allocation %ld: %s: %s", n, scd_code_name(code), err.message);
        scd_engine_close(e);
        scd_mem_fail_after(n);
        assert_int_equal(scd_engine_open(&o, &e, NULL), code); /* also where only the code counts */
        scd_mem_fail_after(-1);
        scd_engine_close(e);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 50);
}

/* ---- memory of the device -------------------------------------------------------------------- */

static scd_backend counted;
static long n_held;

static scd_code counted_alloc(scd_device *d, size_t bytes, void **out, scd_error *err)
{
    n_held++;
    return scd_backend_cpu.alloc(d, bytes, out, err);
}

static scd_code counted_table(scd_device *d, const scd_tensor *t, void **out, scd_error *err)
{
    n_held++;
    return scd_backend_cpu.table_load(d, t, out, err);
}

static scd_code counted_pack(scd_device *d, const scd_tensor *parts, size_t n, unsigned uses,
                             scd_matrix **out, scd_error *err)
{
    n_held++;
    return scd_backend_cpu.matrix_pack(d, parts, n, uses, out, err);
}

static void counted_free(scd_device *d, void *memory)
{
    n_held -= memory != NULL;
    scd_backend_cpu.free(d, memory);
}

static void counted_matrix_free(scd_device *d, scd_matrix *m)
{
    n_held -= m != NULL;
    scd_backend_cpu.matrix_free(d, m);
}

static void a_closed_pass_has_given_back_all_that_it_held_on_the_device(void **state)
{
    (void)state;
    scd_device_options o = {.threads = 1};
    scd_device *device = NULL;
    scd_model *model = NULL;
    scd_forward *forward = NULL;
    counted = scd_backend_cpu;
    counted.alloc = counted_alloc;
    counted.table_load = counted_table;
    counted.matrix_pack = counted_pack;
    counted.free = counted_free;
    counted.matrix_free = counted_matrix_free;
    assert_int_equal(scd_backend_cpu.open(&o, &device, NULL), SCD_OK);
    assert_int_equal(scd_model_open(first.dir, &model, NULL), SCD_OK);
    assert_int_equal(scd_forward_open(&counted, device, model, 64, &forward, NULL), SCD_OK);
    assert_true(n_held > 10);
    scd_forward_close(forward);
    scd_forward_close(NULL);
    scd_model_close(model);
    scd_backend_cpu.close(device);
    assert_int_equal(n_held, 0);
}

/* ---- embedding ------------------------------------------------------------------------------- */

static void embed(scd_engine *e, size_t model, const scd_cell *const *at, size_t n, float *out)
{
    scd_error err = {0};
    if (scd_engine_compute(e, (scd_work){.model = model}, at, n, out, &err))
        fail_msg("%s", err.message);
}

static void the_bits_of_a_cell_do_not_depend_on_its_company_its_place_or_the_threads(void **state)
{
    (void)state;
    static cells c;
    static float alone[MAX_CELLS][TINY_DIM], together[MAX_CELLS][TINY_DIM];
    make_cells(&c);
    for (int threads = 1; threads <= 2; threads++) {
        scd_engine *e = open_engine(1, threads, 0);
        for (size_t i = 0; i < MAX_CELLS && threads == 1; i++)
            embed(e, 0, &c.at[i], 1, alone[i]);
        for (size_t shift = 0; shift < MAX_CELLS; shift += 5) {
            const scd_cell *order[MAX_CELLS];
            for (size_t i = 0; i < MAX_CELLS; i++)
                order[i] = c.at[(i + shift) % MAX_CELLS];
            embed(e, 0, order, MAX_CELLS - shift % 2, together[0]);
            for (size_t i = 0; i < MAX_CELLS - shift % 2; i++)
                assert_memory_equal(together[i], alone[(i + shift) % MAX_CELLS], sizeof alone[0]);
        }
        scd_engine_close(e);
    }
    for (size_t i = 0; i < TINY_DIM; i++)
        assert_true(isfinite(alone[3][i]));
    assert_memory_not_equal(alone[0], alone[1], sizeof alone[0]);
}

static void each_model_computes_with_its_own_weights(void **state)
{
    (void)state;
    static cells c;
    float one[TINY_DIM], two[TINY_DIM], again[TINY_DIM];
    make_cells(&c);
    scd_engine *e = open_engine(2, 1, 0);
    embed(e, 0, &c.at[4], 1, one);
    embed(e, 1, &c.at[4], 1, two);
    embed(e, 0, &c.at[4], 1, again);
    assert_memory_not_equal(one, two, sizeof one);
    assert_memory_equal(one, again, sizeof one);
    scd_engine_close(e);
}

static void more_rows_than_a_batch_holds_are_refused_and_as_many_are_not(void **state)
{
    (void)state;
    static cells c;
    static float out[MAX_CELLS][TINY_DIM];
    make_cells(&c);
    c.cell[0].n_tokens = c.cell[1].n_tokens = TINY_MAX_GENES;
    for (size_t k = 0; k < TINY_MAX_GENES; k++)
        c.ids[0][k] = c.ids[1][k] = (int32_t)(TINY_FIRST_GENE + k);
    scd_engine *e = open_engine(1, 1, 2 * (TINY_MAX_GENES + 1));
    scd_error err = {0};
    embed(e, 0, c.at, 2, out[0]);
    assert_int_equal(scd_engine_compute(e, (scd_work){0}, c.at, 3, out[0], &err), SCD_E_TOO_LARGE);
    assert_non_null(strstr(err.message, "at most 42 rows"));
    embed(e, 0, c.at, 1, out[0]); /* and goes on */
    scd_engine_close(e);
}

static void a_cell_without_tokens_is_refused(void **state)
{
    (void)state;
    static cells c;
    static float out[MAX_CELLS][TINY_DIM];
    make_cells(&c);
    c.cell[1].n_tokens = 0;
    scd_engine *e = open_engine(1, 1, 0);
    assert_int_equal(scd_engine_compute(e, (scd_work){0}, c.at, 2, out[0], NULL), SCD_E_INVALID);
    scd_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_open_engine_says_what_it_serves_and_on_what),
        cmocka_unit_test(a_whole_cell_of_the_longest_model_always_fits),
        cmocka_unit_test(two_models_of_one_name_are_refused),
        cmocka_unit_test(a_model_that_is_not_there_is_named),
        cmocka_unit_test(a_cuda_that_is_not_there_is_refused_by_name),
        cmocka_unit_test(from_the_cpu_there_is_nowhere_to_move),
        cmocka_unit_test(left_to_itself_it_takes_the_cpu_and_says_why),
        cmocka_unit_test(a_backend_of_another_release_is_refused_with_both_versions),
        cmocka_unit_test(every_allocation_that_fails_is_reported_and_leaks_nothing),
        cmocka_unit_test(a_closed_pass_has_given_back_all_that_it_held_on_the_device),
        cmocka_unit_test(the_bits_of_a_cell_do_not_depend_on_its_company_its_place_or_the_threads),
        cmocka_unit_test(each_model_computes_with_its_own_weights),
        cmocka_unit_test(more_rows_than_a_batch_holds_are_refused_and_as_many_are_not),
        cmocka_unit_test(a_cell_without_tokens_is_refused),
    };
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
