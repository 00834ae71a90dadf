/* bench_json.c - reading and writing JSON against the libraries one would otherwise take.
 *
 * A 1,200-gene cell is decoded (scd_request_decode against cJSON's tree alone, which is not a cell
 * yet), 512 floats are written (scd_json_floats against printf with 9 digits). Median of the runs,
 * and the 10th and 90th percentile, in microseconds. At the end the float writer is checked on
 * random bit patterns: `bench_json 50000000` checks that many. */
#include "api/json_write.h"
#include "api/request.h"
#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "tests/bench/spread.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_GENES = 1200, N_FLOATS = 512, N_RUNS = 301, BATCH = 8 };

static scd_buf body, out;
static float floats[N_FLOATS];
static volatile size_t sink;

static void make_body(bool log1p_values)
{
    scd_buf_clear(&body);
    scd_buf_puts(&body, "{\"model\":\"m\",\"cells\":[{\"id\":\"c1\",\"genes\":[");
    for (uint32_t i = 0; i < N_GENES; i++) { /* symbols are 3 to 10 characters long */
        uint32_t words[4];
        scd_rng_block(1, 1, i, words);
        scd_buf_printf(&body, "%s\"%.*s%u\"", i ? "," : "", (int)(1 + words[0] % 6), "RPLMTX",
                       words[1] % 10000);
    }
    scd_buf_puts(&body, "],\"values\":[");
    for (uint32_t i = 0; i < N_GENES; i++) {
        float u = scd_rng_uniform(2, 1, i);
        if (log1p_values) /* what Python prints for a float32 */
            scd_buf_printf(&body, "%s%.17g", i ? ", " : "", (double)(u * 6));
        else
            scd_buf_printf(&body, "%s%d", i ? "," : "", (int)(1 + 20 * u * u * u));
    }
    scd_buf_puts(&body, "]}]}");
}

static void run_decode(void)
{
    static const scd_request_limits limits = {4096, 100000, 32, 128};
    scd_arena arena;
    scd_problem problem;
    scd_request request = {.cells_required = true};
    scd_arena_init(&arena, 1 << 24);
    if (scd_request_decode(body.data, body.n_bytes, &limits, &arena, &request, &problem))
        abort();
    sink += request.cells[0].n;
    scd_request_release(&request);
    scd_arena_release(&arena);
}

static void run_cjson(void)
{
    cJSON *json = cJSON_ParseWithLength(body.data, body.n_bytes);
    sink += json != NULL;
    cJSON_Delete(json);
}

static void run_floats(void)
{
    scd_buf_clear(&out);
    scd_json_floats(&out, floats, N_FLOATS);
    sink += out.n_bytes;
}

static void run_printf(void)
{
    scd_buf_clear(&out);
    char text[32];
    for (size_t i = 0; i < N_FLOATS; i++)
        scd_buf_append(&out, text, (size_t)snprintf(text, sizeof text, "%.9g,", (double)floats[i]));
    sink += out.n_bytes;
}

static void run_base64(void)
{
    scd_buf_clear(&out);
    scd_base64(&out, floats, sizeof floats);
    sink += out.n_bytes;
}

static double measure(const char *name, void (*run)(void))
{
    double times[N_RUNS];
    for (int i = 0; i < N_RUNS; i++) {
        int64_t start = scd_now_ns();
        for (int k = 0; k < BATCH; k++)
            run();
        times[i] = (double)(scd_now_ns() - start) / (1e3 * BATCH);
    }
    return scd_bench_print_us(name, times, N_RUNS);
}

static void check_floats(uint64_t n)
{
    uint64_t wrong = 0, checked = 0;
    for (uint64_t i = 0; i < n; i += 4) {
        uint32_t words[4];
        scd_rng_block(3, 1, i, words);
        for (int k = 0; k < 4; k++) {
            float value, back;
            memcpy(&value, &words[k], sizeof value);
            if (!isfinite(value))
                continue;
            char text[SCD_FLOAT_TEXT_BYTES + 1];
            text[scd_float_text(value, text)] = '\0';
            back = strtof(text, NULL);
            wrong += memcmp(&back, &value, sizeof back) != 0;
            checked++;
        }
    }
    printf("%llu random float32 written and read back by strtof: %llu differ\n",
           (unsigned long long)checked, (unsigned long long)wrong);
}

int main(int argc, char **argv)
{
    scd_buf_init(&body, 1 << 20);
    scd_buf_init(&out, 1 << 20);
    for (uint32_t i = 0; i < N_FLOATS; i++)
        floats[i] = scd_rng_normal(4, 1, i);
    scd_bench_print_machine();
    for (int log1p_values = 0; log1p_values < 2; log1p_values++) {
        make_body(log1p_values);
        printf("a cell of %d genes, %s, %zu bytes\n", N_GENES,
               log1p_values ? "log1p values of 17 digits" : "counts", body.n_bytes);
        double ours = measure("scd_request_decode", run_decode);
        double peer = measure("cJSON_ParseWithLength", run_cjson);
        printf("  %-34s %8.2f x\n", "ratio", peer / ours);
    }
    printf("an embedding of %d floats\n", N_FLOATS);
    double ours = measure("scd_json_floats", run_floats);
    double peer = measure("printf %.9g", run_printf);
    printf("  %-34s %8.2f x\n", "ratio", peer / ours);
    measure("scd_base64", run_base64);
    check_floats(argc > 1 ? strtoull(argv[1], NULL, 10) : 20000000);
    scd_buf_release(&out);
    scd_buf_release(&body);
    return 0;
}
