/* test_model.c - a model directory opens whole or not at all, and says what is wrong with it.
 *
 * The directory is written by the test itself: tiny sizes, weights that count up.
 *
 * Threads: main; the model's own digest thread. */
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char config_json[] =
    "{\"SCGPT_DIM\": 24, \"HIDDEN_DIM\": 32, \"N_LAYERS\": 2, \"N_HEADS\": 2, \"D_HID\": 48,"
    " \"VOCAB_SIZE\": 10, \"PAD_FILL_GENE_ID\": 7, \"BOS_GENE_ID\": 8, \"EOS_GENE_ID\": 9,"
    " \"MAX_GENE_LEN\": 5, \"ROPE_MAX_LEN\": 11, \"trained\": false}\n";
static const char genes_tsv[] = "token_id\tsymbol\n2\tA\n3\tB\n6\tC\n";

typedef struct fixture {
    char dir[32];
    char path[64];
} fixture;

static const char *path_of(fixture *f, const char *file)
{
    snprintf(f->path, sizeof f->path, "%s/%s", f->dir, file);
    return f->path;
}

/* ---- writing a model ------------------------------------------------------------------------- */

typedef struct list {
    scd_tensor_entry entries[64];
    char names[64][64];
    size_t n, n_params;
} list;

static scd_code collect(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    (void)err;
    list *l = arg;
    l->entries[l->n] = *entry;
    snprintf(l->names[l->n], sizeof l->names[0], "%s", entry->name);
    l->entries[l->n].name = l->names[l->n];
    l->n_params += entry->rows * (entry->cols ? entry->cols : 1);
    l->n++;
    return SCD_OK;
}

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    (void)arg;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(entry + first + i);
}

static void list_tensors(list *l)
{
    scd_model_config config;
    assert_int_equal(scd_model_config_parse(config_json, sizeof config_json - 1, &config, NULL),
                     SCD_OK);
    memset(l, 0, sizeof *l);
    assert_int_equal(scd_model_each_tensor(&config, collect, l, NULL), SCD_OK);
}

static void write_weights(fixture *f, const list *l)
{
    assert_int_equal(
        scd_safetensors_write(path_of(f, "model.safetensors"), l->entries, l->n, fill, NULL, NULL),
        SCD_OK);
}

static void write_text(fixture *f, const char *file, const char *text)
{
    assert_int_equal(scd_file_write(path_of(f, file), text, strlen(text), NULL), SCD_OK);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    static list l;
    strcpy(f->dir, "/tmp/scdiva-model-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    list_tensors(&l);
    write_weights(f, &l);
    write_text(f, "config.json", config_json);
    write_text(f, "genes.tsv", genes_tsv);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    unlink(path_of(f, "model.safetensors"));
    unlink(path_of(f, "config.json"));
    unlink(path_of(f, "genes.tsv"));
    rmdir(f->dir);
    free(f);
    return 0;
}

static scd_model *open_model(const char *dir)
{
    scd_model *model = NULL;
    scd_error err = {0};
    if (scd_model_open(dir, &model, &err))
        fail_msg("%s", err.message);
    return model;
}

static void assert_refused(fixture *f, scd_code code, const char *part, const char *other)
{
    scd_model *model = NULL;
    scd_error err = {0};
    assert_int_equal(scd_model_open(f->dir, &model, &err), code);
    assert_null(model);
    if (!strstr(err.message, f->dir) || !strstr(err.message, part) || !strstr(err.message, other))
        fail_msg("'%s' does not name the directory, '%s' and '%s'", err.message, part, other);
}

/* ---- tests ----------------------------------------------------------------------------------- */

typedef struct tally {
    size_t n, n_params;
    char last[64];
} tally;

static scd_code count(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    (void)err;
    tally *t = arg;
    t->n++;
    t->n_params += entry->rows * (entry->cols ? entry->cols : 1);
    snprintf(t->last, sizeof t->last, "%s", entry->name);
    return SCD_OK;
}

static void the_official_sizes_have_128_tensors_and_94482433_parameters(void **state)
{
    (void)state;
    scd_model_config config;
    tally t = {0};
    assert_int_equal(scd_model_config_parse("{}", 2, &config, NULL), SCD_OK);
    assert_int_equal(scd_model_each_tensor(&config, count, &t, NULL), SCD_OK);
    assert_int_equal(t.n, 128);
    assert_int_equal(t.n_params, 94482433);
    assert_string_equal(t.last, "value_head.2.bias");
}

static scd_code stop_at_third(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    size_t *n = arg;
    return ++*n == 3 ? scd_fail(err, SCD_E_CANCELED, "%s", entry->name) : SCD_OK;
}

static void the_walk_over_tensors_stops_at_an_error(void **state)
{
    (void)state;
    scd_model_config config;
    scd_error err;
    size_t n = 0;
    assert_int_equal(scd_model_config_parse("{}", 2, &config, NULL), SCD_OK);
    assert_int_equal(scd_model_each_tensor(&config, stop_at_third, &n, &err), SCD_E_CANCELED);
    assert_int_equal(n, 3);
    assert_string_equal(err.message, "value_encoder.0.bias");
}

static void a_whole_directory_opens(void **state)
{
    fixture *f = *state;
    list l;
    list_tensors(&l);
    scd_model *m = open_model(f->dir);
    assert_string_equal(scd_model_name(m), strrchr(f->dir, '/') + 1);
    assert_int_equal(scd_model_get_config(m)->hidden_dim, 32);
    assert_false(scd_model_get_config(m)->trained);
    assert_int_equal(scd_vocab_n_genes(scd_model_vocab(m)), 3);
    assert_int_equal(scd_safetensors_count(scd_model_tensors(m)), l.n);
    assert_int_equal(scd_model_n_params(m), l.n_params);
    scd_model_close(m);
}

static void the_name_is_the_last_component_however_the_path_is_written(void **state)
{
    fixture *f = *state;
    char path[64], before[4096];
    const char *name = strrchr(f->dir, '/') + 1;
    snprintf(path, sizeof path, "%s///", f->dir);
    scd_model *m = open_model(path);
    assert_string_equal(scd_model_name(m), name);
    scd_model_close(m);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(f->dir), 0);
    m = open_model(".");
    assert_string_equal(scd_model_name(m), name);
    scd_model_close(m);
    m = open_model("./");
    assert_string_equal(scd_model_name(m), name);
    scd_model_close(m);
    assert_int_equal(chdir(before), 0);
}

static void the_digest_is_that_of_the_three_files_one_after_the_other(void **state)
{
    fixture *f = *state;
    const char *const files[] = {"config.json", "model.safetensors", "genes.tsv"};
    scd_hasher *hasher = scd_hasher_new();
    for (size_t i = 0; i < 3; i++) {
        int fd;
        size_t n;
        assert_int_equal(scd_file_open(path_of(f, files[i]), &fd, &n, NULL), SCD_OK);
        assert_int_equal(scd_hasher_add_file(hasher, fd, files[i], NULL), SCD_OK);
        close(fd);
    }
    scd_digest expected = scd_hasher_finish(hasher), got;
    scd_hasher_free(hasher);
    scd_model *m = open_model(f->dir);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(scd_model_digest(m, &got, NULL), SCD_OK);
        assert_true(scd_digest_equal(&got, &expected));
    }
    scd_model_close(m);
}

static void the_digest_is_of_the_opened_files_even_when_they_are_replaced(void **state)
{
    fixture *f = *state;
    scd_digest first, second, third;
    scd_model *m = open_model(f->dir);
    write_text(f, "genes.tsv", "token_id\tsymbol\n2\tOTHER\n");
    assert_int_equal(scd_model_digest(m, &first, NULL), SCD_OK);
    assert_string_equal(scd_vocab_symbol(scd_model_vocab(m), 2), "A");
    scd_model_close(m);
    m = open_model(f->dir);
    assert_int_equal(scd_model_digest(m, &second, NULL), SCD_OK);
    assert_false(scd_digest_equal(&first, &second));
    scd_model_close(m);
    write_text(f, "genes.tsv", genes_tsv);
    m = open_model(f->dir);
    assert_int_equal(scd_model_digest(m, &third, NULL), SCD_OK);
    assert_true(scd_digest_equal(&first, &third));
    scd_model_close(m);
}

static void a_missing_file_is_named_with_what_a_model_holds(void **state)
{
    fixture *f = *state;
    const char *const files[] = {"config.json", "model.safetensors", "genes.tsv"};
    for (size_t i = 0; i < 3; i++) {
        char moved[80];
        snprintf(moved, sizeof moved, "%s/moved", f->dir);
        assert_int_equal(rename(path_of(f, files[i]), moved), 0);
        assert_refused(f, SCD_E_IO, files[i], "a model directory holds config.json");
        assert_int_equal(rename(moved, path_of(f, files[i])), 0);
    }
}

static void a_missing_directory_is_named(void **state)
{
    (void)state;
    scd_model *model;
    scd_error err;
    assert_int_equal(scd_model_open("/nowhere/model", &model, &err), SCD_E_IO);
    assert_non_null(strstr(err.message, "/nowhere/model: no such model directory"));
}

static void a_damaged_part_is_refused_with_its_directory(void **state)
{
    fixture *f = *state;
    write_text(f, "config.json", "{\"N_HEADS\": 3}");
    assert_refused(f, SCD_E_INVALID, "config.json: HIDDEN_DIM", "N_HEADS 3");
    write_text(f, "config.json", config_json);
    write_text(f, "genes.tsv", "token_id\tsymbol\n2\tA\n9\tB\n");
    assert_refused(f, SCD_E_INVALID, "genes.tsv line 3", "reserved");
    write_text(f, "genes.tsv", genes_tsv);
    write_text(f, "model.safetensors", "");
    assert_refused(f, SCD_E_CORRUPT, "model.safetensors", "empty");
    write_text(f, "model.safetensors", "0123456789");
    assert_refused(f, SCD_E_CORRUPT, "model.safetensors", "not a safetensors file");
    static list l;
    list_tensors(&l);
    write_weights(f, &l);
    assert_int_equal(truncate(path_of(f, "model.safetensors"), 8000), 0);
    assert_refused(f, SCD_E_CORRUPT, "model.safetensors", "truncated");
    write_weights(f, &l);
    scd_model_close(open_model(f->dir));
}

static void any_tensor_that_is_missing_or_misshapen_is_named(void **state)
{
    fixture *f = *state;
    static list whole, changed;
    list_tensors(&whole);
    for (size_t i = 0; i < whole.n; i++) {
        changed = whole;
        changed.entries[i].rows++;
        write_weights(f, &changed);
        assert_refused(f, SCD_E_CORRUPT, whole.names[i], "must have shape");
        changed.entries[i] = changed.entries[--changed.n];
        write_weights(f, &changed);
        assert_refused(f, SCD_E_CORRUPT, whole.names[i], "is missing");
    }
    write_weights(f, &whole);
}

static void tensors_that_nobody_asks_for_are_ignored(void **state)
{
    fixture *f = *state;
    static list l;
    list_tensors(&l);
    size_t n_params = l.n_params;
    const scd_tensor_entry extra = {"rope.inv_freq", SCD_BF16, 3, 0};
    collect(&l, &extra, NULL);
    write_weights(f, &l);
    scd_model *m = open_model(f->dir);
    assert_int_equal(scd_model_n_params(m), n_params);
    scd_model_close(m);
    list_tensors(&l);
    write_weights(f, &l);
}

static void a_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    fixture *f = *state;
    scd_model *m = NULL;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code && n < 200; n++) {
        scd_mem_fail_after(n);
        code = scd_model_open(f->dir, &m, NULL);
        if (!code) {
            /* The failure may have hit the digest thread: then the digest says so. */
            scd_digest digest;
            code = scd_model_digest(m, &digest, NULL);
            if (code)
                scd_model_close(m);
        }
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    assert_int_equal(code, SCD_OK);
    scd_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_official_sizes_have_128_tensors_and_94482433_parameters),
        cmocka_unit_test(the_walk_over_tensors_stops_at_an_error),
        cmocka_unit_test(a_whole_directory_opens),
        cmocka_unit_test(the_name_is_the_last_component_however_the_path_is_written),
        cmocka_unit_test(the_digest_is_that_of_the_three_files_one_after_the_other),
        cmocka_unit_test(the_digest_is_of_the_opened_files_even_when_they_are_replaced),
        cmocka_unit_test(a_missing_file_is_named_with_what_a_model_holds),
        cmocka_unit_test(a_missing_directory_is_named),
        cmocka_unit_test(a_damaged_part_is_refused_with_its_directory),
        cmocka_unit_test(any_tensor_that_is_missing_or_misshapen_is_named),
        cmocka_unit_test(tensors_that_nobody_asks_for_are_ignored),
        cmocka_unit_test(a_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
