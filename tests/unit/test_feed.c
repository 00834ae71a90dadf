/* test_feed.c - every kept cell once an epoch, in an order that the seed and the position fix.
 *
 * Threads: main. */
#include "engine/train/feed.h"
#include "tests/unit/corpus_fixture.h"

#include <stdint.h>

enum { N_CELLS = 760 }; /* many.h5ad's 700, c.h5ad's 60 */

static scd_corpus *corpus;
static scd_vocab *vocab;

static int set_up(void **state)
{
    if (corpus_set_up(state))
        return -1;
    corpus = CORPUS("many", "c");
    vocab = corpus_bound(corpus);
    return scd_corpus_n_cells(corpus) == N_CELLS ? 0 : -1;
}

static int tear_down(void **state)
{
    scd_corpus_free(corpus);
    scd_vocab_free(vocab);
    return corpus_tear_down(state);
}

/* Small blocks and windows, so that an epoch has several of both and neither ends evenly. */
static scd_feed *new_feed(uint64_t seed, const uint8_t *keep, bool shuffle)
{
    scd_feed_options options = {
        .seed = seed, .block_cells = 32, .window_blocks = 5, .keep = keep, .shuffle = shuffle};
    scd_feed *feed = NULL;
    assert_int_equal(scd_feed_new(corpus, &options, &feed, NULL), SCD_OK);
    return feed;
}

static size_t draw(scd_feed *feed, const scd_corpus_cell **cell)
{
    size_t index = SIZE_MAX;
    const scd_corpus_cell *unused;
    assert_int_equal(scd_feed_next(feed, cell ? cell : &unused, &index, NULL), SCD_OK);
    return index;
}

static void draw_epoch(scd_feed *feed, size_t *indices)
{
    for (size_t i = 0; i < scd_feed_epoch_cells(feed); i++)
        indices[i] = draw(feed, NULL);
}

static void an_epoch_draws_every_cell_once(void **state)
{
    (void)state;
    scd_feed *feed = new_feed(1, NULL, true);
    assert_int_equal(scd_feed_epoch_cells(feed), N_CELLS);
    for (int epoch = 0; epoch < 3; epoch++) {
        size_t indices[N_CELLS], n_drawn[N_CELLS] = {0};
        draw_epoch(feed, indices);
        for (size_t i = 0; i < N_CELLS; i++)
            n_drawn[indices[i]]++;
        for (size_t i = 0; i < N_CELLS; i++)
            assert_int_equal(n_drawn[i], 1);
    }
    scd_feed_free(feed);
}

static void only_kept_cells_are_drawn(void **state)
{
    (void)state;
    uint8_t keep[N_CELLS] = {0};
    size_t n_drawn[N_CELLS] = {0}, n_kept = 0;
    for (size_t i = 0; i < N_CELLS; i++)
        keep[i] = i % 7 == 0 || (i > 90 && i < 300) || i == N_CELLS - 1;
    memset(keep + 400, 0, 100); /* whole blocks without any */
    for (size_t i = 0; i < N_CELLS; i++)
        n_kept += keep[i];
    scd_feed *feed = new_feed(2, keep, true);
    assert_int_equal(scd_feed_epoch_cells(feed), n_kept);
    for (size_t i = 0; i < n_kept; i++)
        n_drawn[draw(feed, NULL)]++;
    for (size_t i = 0; i < N_CELLS; i++)
        assert_int_equal(n_drawn[i], keep[i]);
    scd_feed_free(feed);
}

static void a_drawn_cell_is_the_one_of_its_number(void **state)
{
    (void)state;
    scd_feed *feed = new_feed(3, NULL, true);
    for (size_t i = 0; i < N_CELLS; i++) {
        const scd_corpus_cell *cell;
        scd_corpus_cell same;
        scd_arena arena;
        size_t index = draw(feed, &cell);
        scd_arena_init(&arena, 1 << 20);
        assert_int_equal(scd_corpus_read(corpus, index, 1, &arena, &same, NULL), SCD_OK);
        assert_int_equal(cell->file, same.file);
        assert_int_equal(cell->row, same.row);
        assert_string_equal(cell->barcode, same.barcode);
        assert_int_equal(cell->n, same.n);
        assert_memory_equal(cell->tokens, same.tokens, same.n * sizeof *same.tokens);
        assert_memory_equal(cell->values, same.values, same.n * sizeof *same.values);
        scd_arena_release(&arena);
    }
    scd_feed_free(feed);
}

static void a_seed_means_one_order_and_another_seed_another(void **state)
{
    (void)state;
    size_t a[N_CELLS], b[N_CELLS], c[N_CELLS];
    scd_feed *first = new_feed(4, NULL, true), *again = new_feed(4, NULL, true);
    scd_feed *other = new_feed(5, NULL, true);
    draw_epoch(first, a);
    draw_epoch(again, b);
    draw_epoch(other, c);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    draw_epoch(first, b);
    assert_memory_not_equal(a, b, sizeof a); /* the next epoch has its own order */
    scd_feed_free(other);
    scd_feed_free(again);
    scd_feed_free(first);
}

static void seeking_gives_what_drawing_would_have_given(void **state)
{
    (void)state;
    enum { N = 3 * N_CELLS };
    static size_t all[N];
    scd_feed *feed = new_feed(6, NULL, true);
    for (size_t i = 0; i < N; i++)
        all[i] = draw(feed, NULL);
    const size_t places[] = {0,       1,           159,         160, N_CELLS - 1, N_CELLS,
                             N - 200, N_CELLS + 5, N_CELLS + 6, 17,  2 * N_CELLS};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        scd_feed *fresh = new_feed(6, NULL, true);
        assert_int_equal(scd_feed_seek(fresh, places[p], NULL), SCD_OK);
        assert_int_equal(scd_feed_seek(feed, places[p], NULL), SCD_OK);
        for (size_t i = places[p]; i < places[p] + 200; i++) {
            assert_int_equal(draw(fresh, NULL), all[i]);
            assert_int_equal(draw(feed, NULL), all[i]);
        }
        scd_feed_free(fresh);
    }
    scd_feed_free(feed);
}

static void without_shuffling_cells_come_in_file_order(void **state)
{
    (void)state;
    scd_feed *feed = new_feed(7, NULL, false);
    for (size_t i = 0; i < 2 * N_CELLS; i++)
        assert_int_equal(draw(feed, NULL), i % N_CELLS);
    scd_feed_free(feed);
}

/* Neighbours in a file should not be neighbours in a batch: of 64 drawn cells from windows of 160
 * out of 760 there should be several blocks, and few pairs in sequence. */
static void neighbours_are_separated(void **state)
{
    (void)state;
    size_t a[N_CELLS], in_sequence = 0, n_blocks = 0;
    bool met[N_CELLS / 32 + 1] = {false};
    scd_feed *feed = new_feed(8, NULL, true);
    draw_epoch(feed, a);
    for (size_t i = 1; i < N_CELLS; i++)
        in_sequence += a[i] == a[i - 1] + 1;
    for (size_t i = 0; i < 64; i++) {
        n_blocks += !met[a[i] / 32];
        met[a[i] / 32] = true;
    }
    assert_true(in_sequence < 20); /* expected: 1 in 160 */
    assert_int_equal(n_blocks, 5); /* all of the window's */
    scd_feed_free(feed);
}

static void the_window_holds_the_cells_being_drawn(void **state)
{
    (void)state;
    const scd_corpus_cell *cells, *cell;
    const size_t *indices;
    scd_feed *feed = new_feed(9, NULL, true);
    assert_int_equal(scd_feed_window(feed, &cells, &indices), 0);
    size_t index = draw(feed, &cell), n = scd_feed_window(feed, &cells, &indices);
    assert_true(n == 160 || n == 152); /* the list's last block has 24 cells */
    assert_ptr_equal(cell, cells);
    assert_int_equal(index, indices[0]);
    for (size_t i = 1; i < n; i++)
        assert_int_equal(draw(feed, NULL), indices[i]);
    scd_feed_free(feed);
}

static void nothing_to_keep_is_refused(void **state)
{
    (void)state;
    uint8_t keep[N_CELLS] = {0};
    scd_feed_options options = {.keep = keep};
    scd_feed *feed = NULL;
    scd_error err;
    assert_int_equal(scd_feed_new(corpus, &options, &feed, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "none of the 760 cells"));
    assert_null(feed);
}

static void each_failed_allocation_is_reported_and_drawing_goes_on_after_it(void **state)
{
    (void)state;
    scd_feed_options options = {.seed = 10, .block_cells = 32, .window_blocks = 5, .shuffle = true};
    for (long n = 0;; n++) {
        scd_feed *feed = NULL;
        const scd_corpus_cell *cell;
        size_t index = 0;
        scd_mem_fail_after(n);
        scd_code code = scd_feed_new(corpus, &options, &feed, NULL);
        if (!code && (code = scd_feed_next(feed, &cell, &index, NULL))) {
            scd_mem_fail_after(-1);
            assert_int_equal(scd_feed_next(feed, &cell, &index, NULL), SCD_OK);
        }
        scd_mem_fail_after(-1);
        scd_feed_free(feed);
        if (!code)
            break;
        assert_int_equal(code, SCD_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_draws_every_cell_once),
        cmocka_unit_test(only_kept_cells_are_drawn),
        cmocka_unit_test(a_drawn_cell_is_the_one_of_its_number),
        cmocka_unit_test(a_seed_means_one_order_and_another_seed_another),
        cmocka_unit_test(seeking_gives_what_drawing_would_have_given),
        cmocka_unit_test(without_shuffling_cells_come_in_file_order),
        cmocka_unit_test(neighbours_are_separated),
        cmocka_unit_test(the_window_holds_the_cells_being_drawn),
        cmocka_unit_test(nothing_to_keep_is_refused),
        cmocka_unit_test(each_failed_allocation_is_reported_and_drawing_goes_on_after_it),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
