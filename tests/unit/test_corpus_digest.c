/* test_corpus_digest.c - the same data have one digest, wherever they lie; other data have others.
 *
 * Threads: main. */
#include "engine/train/corpus_impl.h"
#include "tests/unit/corpus_fixture.h"

static scd_digest digest_of(const char *const paths[2], const char *exclude, uint64_t max_entries)
{
    scd_error err = {0};
    scd_digest digest;
    scd_corpus *corpus = NULL;
    const scd_corpus_options options = {.paths = paths, .n_paths = 2, .exclude = exclude};
    scd_code code = scd_corpus_open(&options, &corpus, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    scd_vocab *vocab = corpus_bound(corpus);
    assert_int_equal(scd_corpus_digest_up_to(corpus, max_entries, &digest, &err), SCD_OK);
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
    return digest;
}

static void copies_are_the_same_data_and_another_value_is_not(void **state)
{
    (void)state;
    char folder[200], copy[256], command[800];
    const char *exclude = corpus_path("exclude.txt");
    FILE *f = fopen(exclude, "w");
    assert_non_null(f);
    assert_true(fputs("many-3\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    snprintf(folder, sizeof folder, "%s/copies", corpus_dir);
    snprintf(command, sizeof command, "mkdir -p %s && cp %s %s", folder, corpus_path("many"),
             folder);
    snprintf(copy, sizeof copy, "%s/many.h5ad", folder);
    const char *const plain[] = {corpus_path("many"), corpus_path("c")};
    const char *const copied[] = {copy, plain[1]};
    const char *const columns[] = {corpus_path("many_turned"), plain[1]};
    const char *const edited[] = {corpus_path("many_edited"), plain[1]};
    const char *const turned[] = {plain[1], plain[0]};
    assert_int_equal(system(command), 0);
    scd_digest want = digest_of(plain, NULL, SCD_DIGEST_ENTRIES),
               got = digest_of(copied, NULL, SCD_DIGEST_ENTRIES);
    assert_true(scd_digest_equal(&want, &got));
    got = digest_of(columns, NULL, SCD_DIGEST_ENTRIES);
    assert_true(scd_digest_equal(&want, &got));
    got = digest_of(edited, NULL, SCD_DIGEST_ENTRIES);
    assert_false(scd_digest_equal(&want, &got));
    got = digest_of(turned, NULL, SCD_DIGEST_ENTRIES);
    assert_false(scd_digest_equal(&want, &got));
    got = digest_of(plain, exclude, SCD_DIGEST_ENTRIES);
    assert_false(scd_digest_equal(&want, &got));
}

static void a_sample_of_a_large_file_stands_for_it(void **state)
{
    (void)state;
    const char *const names[] = {"long", "long_first", "long_late", "long_between"};
    scd_digest whole[4], sampled[4];
    for (size_t i = 0; i < 4; i++) {
        const char *const paths[] = {corpus_path("a"), corpus_path(names[i])};
        whole[i] = digest_of(paths, NULL, 10000);
        sampled[i] = digest_of(paths, NULL, 100);
        assert_true(!i || !scd_digest_equal(&whole[0], &whole[i]));
    }
    assert_false(scd_digest_equal(&sampled[0], &sampled[1]));
    assert_false(scd_digest_equal(&sampled[0], &sampled[2]));
    assert_true(scd_digest_equal(&sampled[0], &sampled[3])); /* as it says: no sample shows it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_the_same_data_and_another_value_is_not),
        cmocka_unit_test(a_sample_of_a_large_file_stands_for_it),
    };
    return cmocka_run_group_tests(tests, corpus_set_up, corpus_tear_down);
}
