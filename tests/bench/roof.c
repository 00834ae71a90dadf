/* roof.c - see roof.h. Medians of several runs on random data. */
#include "tests/bench/roof.h"

#include "engine/base/clock.h"
#include "tests/bench/spread.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern void omp_set_num_threads(int n); /* libgomp */

enum { RUNS = 31, ARGS = 3 };

static void must(bool failed, const char *what)
{
    if (!failed)
        return;
    fprintf(stderr, "roof: %s\n", what);
    exit(1);
}

/* Small numbers that are no zeros, in either type. */
static void *filled(size_t bytes, bool bf16)
{
    unsigned short *words = malloc(bytes ? bytes : 2);
    must(!words, "out of memory");
    for (size_t i = 0; i < bytes / 2; i++)
        words[i] = bf16 || i % 2 ? (unsigned short)(0x3d00 + rand() % 512) : (unsigned short)rand();
    return words;
}

static double median_seconds(dnnl_primitive_t primitive, dnnl_stream_t stream,
                             const dnnl_exec_arg_t *args)
{
    double seconds[RUNS];
    for (int i = 0; i < RUNS; i++) {
        int64_t start = scd_now_ns();
        must(dnnl_primitive_execute(primitive, stream, ARGS, args) || dnnl_stream_wait(stream),
             "a product failed");
        seconds[i] = (double)(scd_now_ns() - start) * 1e-9;
    }
    scd_bench_sort(seconds, RUNS);
    return seconds[RUNS / 2];
}

static double product_rate(dnnl_engine_t engine, dnnl_stream_t stream, bool bf16, dnnl_dim_t m,
                           dnnl_dim_t n, dnnl_dim_t k)
{
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t xd = {m, k}, wd = {k, n}, yd = {m, n};
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t op;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    must(dnnl_memory_desc_init_by_tag(&x, 2, xd, type, dnnl_ab) ||
             dnnl_memory_desc_init_by_tag(&w, 2, wd, type, dnnl_format_tag_any) ||
             dnnl_memory_desc_init_by_tag(&y, 2, yd, type, dnnl_ab) ||
             dnnl_matmul_desc_init(&op, &x, &w, NULL, &y) ||
             dnnl_primitive_desc_create(&desc, &op, NULL, engine, NULL) ||
             dnnl_primitive_create(&primitive, desc),
         "oneDNN cannot build a product");
    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *shapes[ARGS] = {&x, packed, &y};
    const int names[ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    dnnl_exec_arg_t args[ARGS];
    void *memory[ARGS];
    for (int i = 0; i < ARGS; i++) {
        memory[i] = filled(dnnl_memory_desc_get_size(shapes[i]), bf16);
        args[i].arg = names[i];
        must(dnnl_memory_create(&args[i].memory, shapes[i], engine, memory[i]), "no memory object");
    }
    double rate = 2.0 * (double)(m * n * k) / median_seconds(primitive, stream, args);
    for (int i = 0; i < ARGS; i++) {
        dnnl_memory_destroy(args[i].memory);
        free(memory[i]);
    }
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
    return rate;
}

double scd_bench_roof(bool bf16, int threads)
{
    static const dnnl_dim_t rows[] = {64, 300, 1201}, outputs[] = {512, 2048};
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    omp_set_num_threads(threads ? threads : (int)sysconf(_SC_NPROCESSORS_ONLN));
    must(dnnl_engine_create(&engine, dnnl_cpu, 0) ||
             dnnl_stream_create(&stream, engine, dnnl_stream_in_order),
         "oneDNN does not start");
    double best = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof outputs / sizeof *outputs; j++) {
            double rate = product_rate(engine, stream, bf16, rows[i], outputs[j], 512);
            best = rate > best ? rate : best;
        }
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}
