/* test_cpu_device.c - opening the CPU device: what it says of itself, what it refuses, and that it
 * survives every allocation failing in turn. */
#include "engine/backend/backend.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const scd_backend *be = &scd_backend_cpu;

static scd_code open_with(const char *isa, scd_precision precision, int threads, scd_device **out,
                          scd_error *err)
{
    scd_device_options options = {.precision = precision, .threads = threads};
    if (isa)
        setenv("SCDIVA_ISA", isa, 1);
    scd_code code = be->open(&options, out, err);
    unsetenv("SCDIVA_ISA");
    return code;
}

static void the_table_names_its_version_and_size(void **state)
{
    (void)state;
    assert_int_equal(be->abi, SCD_BACKEND_ABI);
    assert_int_equal(be->size, sizeof(scd_backend));
    assert_string_equal(be->name, "cpu");
}

static void the_identity_holds_all_that_bits_depend_on(void **state)
{
    (void)state;
    scd_device *device;
    scd_error err;
    assert_int_equal(open_with("avx512", SCD_PRECISION_AUTO, 2, &device, &err), SCD_OK);
    const scd_device_info *info = be->info(device);
    assert_int_equal(info->precision, SCD_PRECISION_FP32);
    assert_int_equal(info->act_bytes, 4);
    assert_non_null(strstr(info->name, ", 2 threads"));
    assert_int_equal(strncmp(info->identity, "cpu/", 4), 0);
    assert_int_equal(strncmp(info->identity + 4, info->isa, strlen(info->isa)), 0);
    assert_non_null(strstr(info->identity, "/fp32/k"));
    if (!strcmp(info->isa, "avx512"))
        assert_non_null(strstr(info->identity, "/onednn-"));
    be->close(device);
}

static void bf16_is_refused_where_the_hardware_does_not_multiply_it(void **state)
{
    (void)state;
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    for (size_t i = 0; i < 3; i++) {
        scd_device *device = NULL;
        scd_error err;
        assert_int_equal(open_with(isas[i], SCD_PRECISION_BF16, 1, &device, &err), SCD_E_DEVICE);
        assert_null(device);
        assert_non_null(strstr(err.message, "fp32"));
    }
}

static void an_unknown_instruction_set_is_refused_by_name(void **state)
{
    (void)state;
    scd_device *device;
    scd_error err;
    assert_int_equal(open_with("sse9", SCD_PRECISION_AUTO, 1, &device, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "sse9"));
}

static void a_negative_number_of_threads_is_refused(void **state)
{
    (void)state;
    scd_device *device;
    scd_error err;
    assert_int_equal(open_with(NULL, SCD_PRECISION_AUTO, -1, &device, &err), SCD_E_INVALID);
    assert_int_equal(open_with(NULL, SCD_PRECISION_AUTO, 100000, &device, &err), SCD_E_INVALID);
}

static void parts_of_different_shapes_are_refused(void **state)
{
    (void)state;
    scd_device *device;
    scd_matrix *m;
    scd_error err;
    const float w[12] = {0};
    scd_tensor parts[2] = {{w, SCD_F32, 3, 4}, {w, SCD_F32, 4, 3}};
    assert_int_equal(open_with(NULL, SCD_PRECISION_AUTO, 1, &device, &err), SCD_OK);
    assert_int_equal(be->matrix_pack(device, parts, 2, 0, &m, &err), SCD_E_INVALID);
    assert_int_equal(be->matrix_pack(device, parts, 0, 0, &m, &err), SCD_E_INVALID);
    be->close(device);
}

static void a_borrowed_table_is_given_back_without_being_freed(void **state)
{
    (void)state;
    scd_device *device;
    scd_error err;
    static const float data[6] = {1, 2, 3, 4, 5, 6};
    scd_tensor t = {data, SCD_F32, 3, 2};
    void *table, *memory;
    assert_int_equal(open_with(NULL, SCD_PRECISION_AUTO, 1, &device, &err), SCD_OK);
    assert_int_equal(be->table_load(device, &t, &table, &err), SCD_OK);
    assert_int_equal(be->alloc(device, 8, &memory, &err), SCD_OK);
    float back[2];
    assert_int_equal(be->upload(device, memory, data + 2, 8, &err), SCD_OK);
    assert_int_equal(be->download(device, back, memory, 8, &err), SCD_OK);
    assert_memory_equal(back, data + 2, 8);
    be->free(device, table);
    be->free(device, memory);
    be->free(device, NULL);
    assert_int_equal(be->synchronize(device, &err), SCD_OK);
    be->close(device);
    be->close(NULL);
}

/* Open, pack and reserve; what failed is cleaned up. */
static scd_code build(const char *isa, scd_error *err)
{
    static float w[20 * 30];
    scd_tensor part = {w, SCD_F32, 20, 30};
    scd_device *device;
    scd_matrix *m = NULL;
    void *table = NULL;
    scd_code code = open_with(isa, SCD_PRECISION_AUTO, 2, &device, err);
    if (code)
        return code;
    code = be->matrix_pack(device, &part, 1, 0, &m, err);
    if (!code)
        code = be->table_load(device, &part, &table, err);
    if (!code)
        code = be->reserve(device, 50, 32, 64, 32, err);
    be->matrix_free(device, m);
    be->close(device);
    return code;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static const char *const isas[] = {"generic", NULL};
    for (size_t i = 0; i < 2; i++) {
        scd_code code = SCD_E_NOMEM;
        long n = 0;
        for (; code == SCD_E_NOMEM && n < 1000; n++) {
            scd_error err = {0};
            scd_mem_fail_after(n);
            code = build(isas[i], &err);
            scd_mem_fail_after(-1);
            if (code)
                assert_true(err.message[0]);
        }
        assert_int_equal(code, SCD_OK);
        assert_true(n > 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_names_its_version_and_size),
        cmocka_unit_test(the_identity_holds_all_that_bits_depend_on),
        cmocka_unit_test(bf16_is_refused_where_the_hardware_does_not_multiply_it),
        cmocka_unit_test(an_unknown_instruction_set_is_refused_by_name),
        cmocka_unit_test(a_negative_number_of_threads_is_refused),
        cmocka_unit_test(parts_of_different_shapes_are_refused),
        cmocka_unit_test(a_borrowed_table_is_given_back_without_being_freed),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
