/* test_init.c - scdiva-train init writes models that open, to the byte the same each time.
 *
 * The trainer is a program, not a layer with an archive: the test compiles its files in.
 *
 * Threads: main. */
#include "engine/train/init.c"
#include "engine/train/init_genes.c"
#include "engine/train/init_weights.c"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define DIR_PREFIX "/tmp/scdiva-init-"

typedef struct fixture {
    char root[32], model[40], table[40];
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->root, DIR_PREFIX "XXXXXX");
    if (!mkdtemp(f->root))
        return -1;
    snprintf(f->model, sizeof f->model, "%s/m", f->root);
    snprintf(f->table, sizeof f->table, "%s/g.tsv", f->root);
    *state = f;
    return 0;
}

static void remove_model(const fixture *f)
{
    const char *const files[] = {"config.json", "model.safetensors", "genes.tsv", "card.md"};
    char path[64];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", f->model, files[i]);
        unlink(path);
    }
    rmdir(f->model);
}

static int tear_down(void **state)
{
    fixture *f = *state;
    remove_model(f);
    unlink(f->table);
    int left = rmdir(f->root);
    free(f);
    return left;
}

/* Runs the verb with the words of `line` after it; its output goes nowhere. */
static int run(const char *line)
{
    char words[512], *argv[40] = {(char[]){"init"}};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    fflush(stdout);
    int out = dup(1), err = dup(2), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 1);
    dup2(nowhere, 2);
    int rc = scd_train_init(argc, argv);
    fflush(stdout);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    close(nowhere);
    return rc;
}

static int init(const fixture *f, const char *flags)
{
    char line[512];
    snprintf(line, sizeof line, "--out %s %s", f->model, flags);
    return run(line);
}

#define TINY " --hidden 32 --dim 24 --layers 2 --heads 2 --ffn 48 --max-genes 20 "

static scd_digest digest_of_model(const fixture *f)
{
    scd_model *m = NULL;
    scd_digest digest = {{0}};
    scd_error err = {0};
    if (scd_model_open(f->model, &m, &err) || scd_model_digest(m, &digest, &err))
        fail_msg("%s", err.message);
    scd_model_close(m);
    return digest;
}

static void a_new_model_opens_and_says_that_it_is_not_trained(void **state)
{
    fixture *f = *state;
    assert_int_equal(init(f, TINY "--vocab-size 50 --latent-pooling visible --seed 3"), 0);
    scd_model *m = NULL;
    assert_int_equal(scd_model_open(f->model, &m, NULL), SCD_OK);
    const scd_model_config *c = scd_model_get_config(m);
    assert_false(c->trained);
    assert_true(c->latent_visible);
    assert_int_equal(c->vocab, 50);
    assert_int_equal(c->pad_id, 0);
    assert_int_equal(c->mask_id, 1);
    assert_int_equal(c->pad_fill_id, 47);
    assert_int_equal(c->eos_id, 49);
    assert_int_equal(c->rope_max_len, 51);
    const scd_vocab *v = scd_model_vocab(m);
    assert_int_equal(scd_vocab_n_genes(v), 45);
    assert_string_equal(scd_vocab_symbol(v, 2), "GENE00002");
    assert_string_equal(scd_vocab_ensembl(v, 46), "ENSG99000000046");
    assert_true(scd_vocab_is_human(v));
    scd_model_close(m);
}

static void the_same_seed_gives_the_same_bytes_on_every_machine(void **state)
{
    fixture *f = *state;
    char hex[SCD_DIGEST_HEX];
    scd_digest first = digest_of_model(f);
    assert_int_equal(init(f, TINY "--vocab-size 50 --latent-pooling visible --seed 3 --force"), 0);
    scd_digest again = digest_of_model(f);
    assert_true(scd_digest_equal(&first, &again));
    scd_digest_hex(&first, hex);
    assert_string_equal(hex, "d00917b3c2c099faf16e3e898ef2b99b3f5d3bb3c8f491ca954b3e0dcb3c64a4");
    assert_int_equal(init(f, TINY "--vocab-size 50 --latent-pooling visible --seed 4 --force"), 0);
    again = digest_of_model(f);
    assert_false(scd_digest_equal(&first, &again));
}

static void an_existing_model_is_replaced_only_by_force(void **state)
{
    fixture *f = *state;
    scd_digest before = digest_of_model(f);
    assert_int_equal(init(f, TINY "--vocab-size 60"), SCD_EXIT_FAILED);
    scd_digest after = digest_of_model(f);
    assert_true(scd_digest_equal(&before, &after));
    assert_int_equal(init(f, TINY "--vocab-size 60 --force"), 0);
    after = digest_of_model(f);
    assert_false(scd_digest_equal(&before, &after));
}

static void weights_have_the_mean_and_spread_they_should(void **state)
{
    fixture *f = *state;
    assert_int_equal(init(f,
                          "--hidden 64 --dim 512 --heads 2 --layers 1 --ffn 256 --vocab-size 2000"
                          " --dtype bf16 --force"),
                     0);
    const struct {
        const char *name;
        size_t rows, cols;
        double mean, sd;
    } expected[] = {
        {"gene_embedding.weight", 2000, 512, 0, 1},
        {"value_encoder.2.weight", 512, 512, 0, 0.04419},
        {"layers.0.mlp.down_proj.weight", 64, 256, 0, 0.0625},
        {"layers.0.attn.q_proj.weight", 64, 64, 0, 0.17678},
        {"value_encoder.2.bias", 512, 0, 0, 0.1},
        {"final_norm.weight", 64, 0, 1, 0.05},
    };
    static float values[2000 * 512];
    scd_model *m = NULL;
    assert_int_equal(scd_model_open(f->model, &m, NULL), SCD_OK);
    for (size_t t = 0; t < sizeof expected / sizeof expected[0]; t++) {
        scd_tensor tensor;
        size_t n = expected[t].rows * (expected[t].cols ? expected[t].cols : 1);
        assert_int_equal(scd_safetensors_get(scd_model_tensors(m), expected[t].name,
                                             expected[t].rows, expected[t].cols, &tensor, NULL),
                         SCD_OK);
        assert_int_equal(tensor.dtype, SCD_BF16);
        scd_tensor_to_f32(&tensor, 0, n, values);
        double sum = 0, squares = 0, sd = expected[t].sd;
        for (size_t i = 0; i < n; i++) {
            sum += values[i] - expected[t].mean;
            squares += (values[i] - expected[t].mean) * (values[i] - expected[t].mean);
        }
        /* Five standard errors, and bf16's rounding of 2^-9 relative to the mean. */
        double slack = 5 / sqrt((double)n);
        assert_true(fabs(sum / (double)n) < sd * slack + expected[t].mean / 512);
        assert_true(fabs(sqrt(squares / (double)n) / sd - 1) < slack + 0.01);
    }
    scd_model_close(m);
}

static void chunks_do_not_change_what_is_drawn(void **state)
{
    (void)state;
    scd_tensor_entry entry = {"gene_embedding.weight", SCD_F32, 10, 10};
    weights w = {.entries = &entry, .n = 1, .seed = 5};
    float whole[100], parts[100];
    fill(&w, 0, 0, 100, whole);
    fill(&w, 0, 0, 7, parts);
    fill(&w, 0, 7, 1, parts + 7);
    fill(&w, 0, 8, 92, parts + 8);
    assert_memory_equal(whole, parts, sizeof whole);
}

static void write_table(const fixture *f, const char *text)
{
    assert_int_equal(scd_file_write(f->table, text, strlen(text), NULL), SCD_OK);
}

static int init_from_table(const fixture *f, const char *text)
{
    char flags[256];
    write_table(f, text);
    snprintf(flags, sizeof flags, TINY "--force --genes %s", f->table);
    return init(f, flags);
}

static void a_gene_table_without_ids_is_numbered_from_2(void **state)
{
    fixture *f = *state;
    assert_int_equal(init_from_table(f, "entropy\tnote\tsymbol\taliases\r\n"
                                        "0.5\tx\tCD3D\tT3D|LEU4\r\n\t\tLYZ\t\r\n"),
                     0);
    scd_model *m = NULL;
    scd_rung rung;
    assert_int_equal(scd_model_open(f->model, &m, NULL), SCD_OK);
    assert_int_equal(scd_model_get_config(m)->vocab, 7);
    const scd_vocab *v = scd_model_vocab(m);
    assert_string_equal(scd_vocab_symbol(v, 2), "CD3D");
    assert_string_equal(scd_vocab_symbol(v, 3), "LYZ");
    assert_true(scd_vocab_entropy(v, 2) == 0.5f);
    assert_int_equal(scd_vocab_resolve(v, "LEU4", 4, &rung), 2);
    assert_int_equal(scd_vocab_resolve(v, "x", 1, &rung), -1);
    scd_model_close(m);
}

static void a_gene_table_with_ids_keeps_them(void **state)
{
    fixture *f = *state;
    assert_int_equal(init_from_table(f, "symbol\ttoken_id\tensembl_id\nA\t9\tENSG01\nB\t4\t\n"), 0);
    scd_model *m = NULL;
    assert_int_equal(scd_model_open(f->model, &m, NULL), SCD_OK);
    assert_int_equal(scd_model_get_config(m)->vocab, 13); /* 0 to 9, and three special ids */
    assert_string_equal(scd_vocab_symbol(scd_model_vocab(m), 4), "B");
    assert_string_equal(scd_vocab_ensembl(scd_model_vocab(m), 9), "ENSG01");
    scd_model_close(m);
}

static void gene_tables_of_no_use_are_refused_and_change_nothing(void **state)
{
    fixture *f = *state;
    scd_digest before = digest_of_model(f);
    assert_int_equal(init_from_table(f, ""), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "gene\nA\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\tsymbol\nA\tB\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\nA\nA\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\tx\nA\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\ttoken_id\nA\t1\n"), SCD_EXIT_FAILED);
    assert_int_equal(init_from_table(f, "symbol\ttoken_id\nA\t99999999\n"), SCD_EXIT_FAILED);
    scd_digest after = digest_of_model(f);
    assert_true(scd_digest_equal(&before, &after));
}

static void wrong_use_is_told_apart_from_failure(void **state)
{
    fixture *f = *state;
    const char *const wrong[] = {
        "",
        "--vocab-size",
        "--vocab-size ten",
        "--vocab-size 5",
        "--vocab-size 50 --heads 7",
        "--vocab-size 50 --dtype f64",
        "--vocab-size 50 --latent-pooling both",
        "--vocab-size 50 --seed -1",
        "--vocab-size 50 --genes x",
        "--preset tiny",
        "--vocab-size 50 --colour blue",
        "--vocab-size 50 more",
        "--vocab-size 99999999999999999999",
        "--vocab-size 50 --seed 18446744073709551616",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (init(f, wrong[i]) != SCD_EXIT_USAGE)
            fail_msg("'%s' must be refused as wrong use", wrong[i]);
    assert_int_equal(run("--vocab-size 50"), SCD_EXIT_USAGE);
    assert_int_equal(run("--help"), SCD_EXIT_OK);
    assert_int_equal(init(f, "--genes /nowhere/genes.tsv --force"), SCD_EXIT_FAILED);
    assert_int_equal(run("--vocab-size 50 --out /nowhere/deep/model"), SCD_EXIT_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_model_opens_and_says_that_it_is_not_trained),
        cmocka_unit_test(the_same_seed_gives_the_same_bytes_on_every_machine),
        cmocka_unit_test(an_existing_model_is_replaced_only_by_force),
        cmocka_unit_test(weights_have_the_mean_and_spread_they_should),
        cmocka_unit_test(chunks_do_not_change_what_is_drawn),
        cmocka_unit_test(a_gene_table_without_ids_is_numbered_from_2),
        cmocka_unit_test(a_gene_table_with_ids_keeps_them),
        cmocka_unit_test(gene_tables_of_no_use_are_refused_and_change_nothing),
        cmocka_unit_test(wrong_use_is_told_apart_from_failure),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
