/* test_labels.c - labels from tables and columns: what they come out as, and what is refused, by
 * file, line and column.
 *
 * Threads: main. */
#include "engine/train/labels_impl.h"

#include "engine/base/buf.h"
#include "engine/denoise/head.h"
#include "engine/model/file.h"
#include "engine/train/scores.h"
#include "tests/unit/corpus_fixture.h"

#include <math.h>

/* t.h5ad: cells t-0 to t-5 of three kinds, two of each. */
static const char make_files[] =
    "import sys, numpy as np\n"
    "sys.path.insert(0, 'tests/fixtures')\n"
    "import make_corpus as m\n"
    "out = sys.argv[1]\n"
    "def write(name, n, cells=None, **obs):\n"
    "    m.write(out + '/' + name + '.h5ad', np.ones((n, 2), np.float32), ['LYZ', 'CD3D'],\n"
    "            cells=cells, obs=obs)\n"
    "kind = ['T', 'T', 'B', 'B', 'NK', 'NK']\n"
    "write('t', 6, kind=kind, donor=['x', 'y'] * 3, one=['T'] * 6, rare=['T'] * 5 + ['B'],\n"
    "      id=['1', '1', '2', '2', '3', '3'], ids=['1', '4', '2', '2', '3', '3'],\n"
    "      empty=['', '', 'B', 'B', 'B', 'B'], long=['x' * 257] * 3 + ['B'] * 3,\n"
    "      fits=['x' * 256] * 3 + ['B'] * 3, longid=['i' * 257] * 6, missing=(['T'], [-1] * 6))\n"
    "write('u', 3)\n"
    "write('twins', 6, ['c0', 'c1', 'c2', 'c1', 'c3', 'c4'])\n"
    "import os\n"
    "os.mkdir(out + '/sub')\n"
    "write('sub/t', 6)\n" /* t-0 to t-5 too */
    "write('many_labels', 65537, label=['l%d' % i for i in range(65537)])\n";

static scd_error err;
static scd_labels labels;

static int set_up(void **state)
{
    const char *python = access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "python3";
    char path[96], command[256];
    if (corpus_set_up(state))
        return -1;
    snprintf(path, sizeof path, "%s/make.py", corpus_dir);
    if (scd_file_write(path, make_files, sizeof make_files - 1, NULL))
        return -1;
    snprintf(command, sizeof command, "%s %s %s", python, path, corpus_dir);
    return system(command);
}

static const char *write_text(const char *name, const char *text)
{
    const char *path = corpus_path(name);
    assert_int_equal(scd_file_write(path, text, strlen(text), NULL), SCD_OK);
    return path;
}

static void ok(scd_code code)
{
    if (code)
        fail_msg("%s", err.message);
}

static void refused(scd_code code, const char *part)
{
    assert_int_equal(code, SCD_E_INVALID);
    if (!strstr(err.message, part))
        fail_msg("'%s' is not in: %s", part, err.message);
    assert_null(labels.names); /* nothing is left to release */
    assert_null(labels.targets);
}

static scd_code table_of(scd_corpus *corpus, const char *text, const char *ontology)
{
    const char *path = write_text("labels.tsv", text);
    return scd_labels_from_table(
        corpus, path, ontology ? write_text("ontology.tsv", ontology) : NULL, &labels, &err);
}

static scd_code column_of(scd_corpus *corpus, const char *column, const char *id)
{
    return scd_labels_from_column(corpus, column, id, NULL, &labels, &err);
}

/* Four rows for t.h5ad, under a header that the test gives. */
#define FOUR "t-0\t1\t0\nt-1\t1\t0\nt-2\t0\t1\nt-3\t0\t1\n"

/* ---- what they come out as ------------------------------------------------------------------- */

static void a_column_gives_classes_by_name_and_hard_targets(void **state)
{
    (void)state;
    const int32_t best[] = {2, 2, 0, 0, 1, 1};
    scd_corpus *corpus = CORPUS("t");
    ok(scd_labels_from_column(corpus, "kind", "id", "donor", &labels, &err));
    assert_int_equal(labels.n_classes, 3);
    assert_string_equal(labels.names[0], "B");
    assert_string_equal(labels.names[2], "T");
    assert_string_equal(labels.ontology[0], "2");
    assert_memory_equal(labels.best, best, sizeof best);
    for (size_t i = 0; i < 18; i++)
        assert_true(labels.targets[i] == (float)(best[i / 3] == (int32_t)(i % 3)));
    assert_int_equal(labels.n_groups, 2);
    assert_int_equal(labels.groups[0], labels.groups[2]);
    assert_int_equal(scd_labels_find(&labels, "NK"), 1);
    assert_true(scd_labels_find(&labels, "none") == SIZE_MAX);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void a_table_gives_soft_targets_that_sum_to_one_without_labels_nobody_has(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    ok(table_of(corpus,
                "barcode\tB\tnobody\tT\tgroup\n"
                "t-0\t0.25\t0\t0.75\tx\nt-1\t0.001\t0\t0.998\ty\nt-2\t0.6\t0.2\t0.2\tx\n"
                "t-3\t1\t0\t0\tx\n",
                "T\t3\nB\t2\n"));
    assert_int_equal(labels.n_classes, 2);
    assert_string_equal(labels.ontology[0], "2");
    assert_string_equal(labels.ontology[1], "3");
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(labels.targets[2 * i] + labels.targets[2 * i + 1] - 1) < 1e-6f);
    assert_true(fabsf(labels.targets[2 * 2] - 0.75f) < 1e-6f); /* 0.6 of 0.8 */
    assert_int_equal(labels.best[0], 1);
    assert_int_equal(labels.best[4], -1); /* not in the table */
    assert_int_equal(labels.n_groups, 2);
    assert_int_equal(labels.groups[5], -1);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

/* ---- rows and cells -------------------------------------------------------------------------- */

#define FILE_FOUR                                                                                  \
    "file\tbarcode\tB\tT\n"                                                                        \
    "t.h5ad\tt-0\t1\t0\nt.h5ad\tt-1\t1\t0\nt.h5ad\tt-2\t0\t1\nt.h5ad\tt-3\t0\t1\n"

static void rows_of_files_that_are_not_given_are_counted_and_passed_over(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t", "u");
    ok(table_of(corpus, FILE_FOUR "v.h5ad\tt-0\t1\t0\nv.h5ad\tv-0\tmuch\t0\n", NULL));
    assert_int_equal(labels.n_other_files, 2);
    assert_int_equal(labels.n_left_out, 0);
    assert_int_equal(labels.best[0], 0);
    assert_int_equal(labels.best[3], 1);
    scd_labels_release(&labels);
    refused(table_of(corpus, "file\tbarcode\tB\tT\nv.h5ad\tt-0\t1\t0\n", NULL),
            "none of its 1 cells is in the data: 1 are of files that are not given");
    scd_corpus_free(corpus);
}

static void a_barcode_that_its_file_does_not_have_is_refused_with_line_and_file(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t", "u");
    refused(table_of(corpus, FILE_FOUR "u.h5ad\tt-4\t1\t0\nt.h5ad\tq\t1\t0\n", NULL),
            "labels.tsv line 6: barcode t-4 is not in u.h5ad; 2 of the table's 6 rows");
    refused(table_of(corpus, "barcode\tB\tT\n" FOUR "t-9\t1\t0\n", NULL),
            "line 6: barcode t-9 is not in any of the files; 1 of the table's 5 rows");
    refused(table_of(corpus, "file\tbarcode\tB\tT\nt.h5ad\tu-0\t1\t0\n", NULL),
            "none of its 1 cells is in the data; line 2: barcode u-0 is not in t.h5ad");
    refused(table_of(corpus, "barcode\tB\tT\n\t1\t0\n", NULL), "line 2: the barcode is empty");
    scd_corpus_free(corpus);
    corpus = CORPUS("t");
    refused(table_of(corpus, "barcode\tB\tT\nstranger\t1\t0\n", NULL), "is not in t.h5ad");
    scd_corpus_free(corpus);
}

static void cells_that_are_left_out_may_be_in_the_table(void **state)
{
    (void)state;
    char path[160];
    strcpy(path, write_text("exclude.tsv", "t.h5ad\tt-1\nu-0\n"));
    scd_corpus *corpus = corpus_of((const char *const[4]){"u", "t"}, path);
    ok(table_of(corpus, FILE_FOUR "t.h5ad\tt-4\t1\t0\nu.h5ad\tu-0\t1\t0\n", NULL));
    assert_int_equal(labels.n_cells, 7);
    assert_int_equal(labels.n_left_out, 2);
    const int32_t best[] = {-1, -1, 0, 1, 1, 0, -1}; /* u-1 u-2 t-0 t-2 t-3 t-4 t-5 */
    assert_memory_equal(labels.best, best, sizeof best);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void a_name_that_two_files_have_cannot_be_named_by_a_table(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t", "many", "sub/t");
    refused(table_of(corpus, FILE_FOUR, NULL), "line 2: two of the data files are called t.h5ad");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t1\t0\n", NULL),
            "line 2: barcode t-0 is in t.h5ad and in t.h5ad; rename one of the files, and add");
    ok(table_of(corpus,
                "file\tbarcode\tB\tT\nmany.h5ad\tmany-0\t1\t0\nmany.h5ad\tmany-1\t1\t0\n"
                "many.h5ad\tmany-2\t0\t1\nmany.h5ad\tmany-3\t0\t1\n",
                NULL)); /* of no interest to a table that is about another file */
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void a_barcode_that_several_cells_of_a_file_have_is_refused_where_it_is_used(void **state)
{
    (void)state;
    const char *without = "barcode\tB\tT\nc0\t1\t0\nc2\t1\t0\nc3\t0\t1\nc4\t0\t1\n";
    const char *with = "barcode\tB\tT\nc0\t1\t0\nc2\t1\t0\nc3\t0\t1\nc4\t0\t1\nc1\t1\t0\n";
    scd_corpus *corpus = CORPUS("twins");
    refused(table_of(corpus, with, NULL), "line 6: 2 cells of twins.h5ad have the barcode c1");
    refused(table_of(corpus, "file\tbarcode\tB\tT\ntwins.h5ad\tc1\t1\t0\n", NULL),
            "line 2: 2 cells of twins.h5ad have the barcode c1");
    ok(table_of(corpus, without, NULL));
    assert_int_equal(labels.best[1], -1);
    assert_int_equal(labels.best[3], -1);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
    char path[160];
    strcpy(path, write_text("exclude.tsv", "c1\n"));
    corpus = corpus_of((const char *const[4]){"twins"}, path);
    ok(table_of(corpus, with, NULL));
    assert_int_equal(labels.n_left_out, 1);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void the_cells_of_long_files_are_found(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("many_labels", "t"); /* many blocks of names */
    ok(table_of(corpus,
                "barcode\tB\tT\nmany_labels-65536\t1\t0\nmany_labels-4095\t1\t0\n"
                "many_labels-4096\t0\t1\nt-5\t0\t1\n",
                NULL));
    assert_int_equal(labels.best[65536], 0);
    assert_int_equal(labels.best[4095], 0);
    assert_int_equal(labels.best[4096], 1);
    assert_int_equal(labels.best[65542], 1);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

/* ---- soft labels ----------------------------------------------------------------------------- */

static void what_is_no_probability_is_refused_with_line_and_column(void **state)
{
    (void)state;
    static const char *const bad[] = {"nan", "-nan", "inf", "-0.25", "1.01", "1e-2x", "", "one"};
    scd_corpus *corpus = CORPUS("t");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[256], part[64];
        snprintf(text, sizeof text, "barcode\tB\tT\nt-0\t1\t0\nt-1\t0\t%s\n", bad[i]);
        snprintf(part, sizeof part, "labels.tsv line 3: '%s' under T is no", bad[i]);
        refused(table_of(corpus, text, NULL), part);
    }
    scd_corpus_free(corpus);
}

static void probabilities_that_do_not_add_up_to_one_are_refused_with_the_line(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t0.5\t0.53\n", NULL),
            "line 2: probabilities add up to 1.03, not 1");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t0.5\t0.47\n", NULL), "add up to 0.97");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t0\t0\n", NULL), "add up to 0, not 1");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t1\t1\n", NULL), "add up to 2");
    ok(table_of(corpus,
                "barcode\tB\tT\nt-0\t0.51\t0.5\nt-1\t0.49\t0.5\n" /* rounded columns */
                "t-2\t1\t0\nt-3\t0\t1\n",
                NULL));
    assert_true(fabsf(labels.targets[0] + labels.targets[1] - 1) < 1e-6f);
    assert_true(fabsf(labels.targets[2] + labels.targets[3] - 1) < 1e-6f);
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void a_table_that_is_no_table_is_refused(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    refused(table_of(corpus, "", NULL), "the file is empty");
    refused(table_of(corpus, "cell\tB\tT\n" FOUR, NULL), "no column `barcode`");
    refused(table_of(corpus, "barcode\tB\tT\n", NULL), "none of its 0 cells");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t1\n", NULL), "line 2: 2 fields, the header");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t1\t0\t0\n", NULL), "line 2: 4 fields");
    refused(table_of(corpus, "barcode\tB\tT\nt-0\t1\t0\nt-0\t1\t0\n", NULL),
            "line 3: this cell was given before");
    assert_int_equal(scd_labels_from_table(corpus, "/nowhere/t.tsv", NULL, &labels, &err),
                     SCD_E_IO);
    scd_buf wide, row;
    scd_buf_init(&wide, 1u << 20);
    scd_buf_init(&row, 1u << 10);
    scd_buf_puts(&wide, "barcode");
    for (int i = 0; i < 1024; i++)
        scd_buf_printf(&wide, "\tl%d", i);
    refused(table_of(corpus, wide.data, NULL), "1025 columns, at most 1024");
    scd_buf_puts(&row, "barcode\tB\tT\n");
    for (int i = 0; i < 600; i++)
        scd_buf_putc(&row, 'x');
    scd_buf_puts(&row, "\t1\t0\n");
    refused(table_of(corpus, row.data, NULL), "line 2: a field of 600 bytes, at most 511");
    scd_buf_release(&wide);
    scd_buf_release(&row);
    scd_corpus_free(corpus);
}

/* ---- ontology ids ---------------------------------------------------------------------------- */

static void a_file_of_ontology_ids_is_about_the_labels_once_each(void **state)
{
    (void)state;
    char text[SCD_HEAD_MAX_LABEL_BYTES + 8];
    const char *table = "barcode\tB\tT\tnobody\nt-0\t1\t0\t0\nt-1\t1\t0\t0\nt-2\t0\t1\t0\n"
                        "t-3\t0\t1\t0\n";
    scd_corpus *corpus = CORPUS("t");
    refused(table_of(corpus, table, "B\tCL:1\nb cell\tCL:2\n"),
            "ontology.tsv line 2: 'b cell' is no label, 'B' is one");
    refused(table_of(corpus, table, "B\tCL:1\nT\tCL:2\n\nB\tCL:3\n"),
            "ontology.tsv line 4: label 'B' was given before, as CL:1");
    refused(table_of(corpus, table, "B\n"), "ontology.tsv line 1: 1 fields");
    refused(table_of(corpus, table, "B\t\n"), "line 1: the ontology id of 'B' is empty");
    strcpy(text, "B\t");
    memset(text + 2, 'x', SCD_HEAD_MAX_LABEL_BYTES + 1);
    text[SCD_HEAD_MAX_LABEL_BYTES + 3] = 0;
    refused(table_of(corpus, table, text), "line 1: the ontology id of 'B' is longer");
    ok(table_of(corpus, table, "T\tCL:2\nnobody\tCL:3\n")); /* a column that nobody has counts */
    assert_null(labels.ontology[0]);
    assert_string_equal(labels.ontology[1], "CL:2");
    scd_labels_release(&labels);
    assert_int_equal(
        scd_labels_from_table(corpus, corpus_path("labels.tsv"), "/nowhere/ids.tsv", &labels, &err),
        SCD_E_IO);
    scd_corpus_free(corpus);
}

/* ---- what no head could be opened with ------------------------------------------------------- */

static void columns_of_a_table_need_names_of_their_own_that_a_head_takes(void **state)
{
    (void)state;
    char text[1024], name[SCD_HEAD_MAX_LABEL_BYTES + 2];
    scd_corpus *corpus = CORPUS("t");
    refused(table_of(corpus, "barcode\tB\t\n" FOUR, NULL), "column 3 is empty");
    refused(table_of(corpus, "barcode\tB\tB\n" FOUR, NULL), "columns 2 and 3 have one name, 'B'");
    refused(table_of(corpus, "barcode\tbarcode\tB\n" FOUR, NULL), "columns 1 and 2 have one name");
    refused(table_of(corpus, "barcode\tB\tcaf\xE9\n" FOUR, NULL), "column 3 is no valid UTF-8");
    refused(table_of(corpus, "barcode\tfile\nt-0\tt.h5ad\n", NULL), "no column of a label");
    memset(name, 'x', sizeof name);
    snprintf(text, sizeof text, "barcode\tB\t%.*s\n" FOUR, (int)sizeof name - 1, name);
    refused(table_of(corpus, text, NULL), "column 3 is longer than the 256 bytes");
    snprintf(text, sizeof text, "barcode\tB\t%.*s\n" FOUR, (int)sizeof name - 2, name);
    ok(table_of(corpus, text, NULL));
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void labels_of_a_column_are_those_that_a_head_takes(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    refused(column_of(corpus, "empty", NULL), "empty: the label '' of some cells is empty");
    refused(column_of(corpus, "long", NULL), "is longer than the 256 bytes");
    refused(column_of(corpus, "kind", "longid"), "is longer than the 256 bytes");
    ok(column_of(corpus, "fits", NULL));
    scd_labels_release(&labels);
    scd_corpus_free(corpus);
}

static void more_labels_than_a_head_takes_are_refused(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("many_labels");
    assert_int_equal(SCD_SCORES_MAX_CLASSES, 65536);
    refused(column_of(corpus, "label", NULL), "column label: 65537 distinct values");
    scd_corpus_free(corpus);
}

static void labels_that_make_head_json_too_large_are_refused(void **state)
{
    (void)state;
    enum { N = SCD_SCORES_MAX_CLASSES };
    char name[SCD_HEAD_MAX_LABEL_BYTES + 1];
    scd_labels l = {.n_cells = (size_t)2 * N,
                    .n_classes = N,
                    .names = scd_calloc(N, sizeof *l.names),
                    .ontology = scd_calloc(N, sizeof *l.ontology),
                    .best = scd_calloc((size_t)2 * N, sizeof *l.best)};
    assert_true(l.names && l.ontology && l.best);
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    for (size_t i = 0; i < l.n_cells; i++)
        l.best[i] = (int32_t)(i % N);
    for (size_t k = 0; k < N; k++)
        l.names[k] = name; /* that they differ is not asked here */
    refused(scd_labels_check(&l, "column label", &err), "65536 labels take 21");
    name[100] = 0;
    ok(scd_labels_check(&l, "column label", &err));
    free(l.names);
    free(l.ontology);
    free(l.best);
}

static void fewer_labels_or_cells_than_a_split_needs_are_refused(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    refused(column_of(corpus, "one", NULL), "1 label, at least two");
    refused(column_of(corpus, "rare", NULL), "'B' has 1 cell;");
    refused(column_of(corpus, "kind", "ids"), "'T' has two ontology ids, 1 and 4");
    assert_int_equal(column_of(corpus, "nothing", NULL), SCD_E_NOT_FOUND);
    scd_corpus_free(corpus);
}

/* ---- the truth of a test set ----------------------------------------------------------------- */

static void truth_may_be_one_label_and_have_rare_ones(void **state)
{
    (void)state;
    scd_corpus *corpus = CORPUS("t");
    ok(scd_labels_truth_from_column(corpus, "one", &labels, &err));
    assert_int_equal(labels.n_classes, 1);
    scd_labels_release(&labels);
    ok(scd_labels_truth_from_column(corpus, "rare", &labels, &err));
    assert_int_equal(labels.n_classes, 2);
    assert_int_equal(labels.best[5], 0);
    scd_labels_release(&labels);
    refused(scd_labels_truth_from_column(corpus, "missing", &labels, &err),
            "column missing: no cell has a value");
    const char *path = write_text("labels.tsv", "barcode\tT\tB\nt-4\t0\t1\n");
    ok(scd_labels_truth_from_table(corpus, path, &labels, &err));
    assert_int_equal(labels.n_classes, 1);
    assert_string_equal(labels.names[0], "B");
    scd_labels_release(&labels);
    path = write_text("labels.tsv", "barcode\tT\tB\nt-9\t0\t1\n");
    refused(scd_labels_truth_from_table(corpus, path, &labels, &err), "t-9 is not in t.h5ad");
    scd_corpus_free(corpus);
}

/* ---- faults ---------------------------------------------------------------------------------- */

static const char *ids_path, *table_path;

static scd_code with_table(scd_corpus *corpus)
{
    return scd_labels_from_table(corpus, table_path, ids_path, &labels, &err);
}

static scd_code with_truth_table(scd_corpus *corpus)
{
    return scd_labels_truth_from_table(corpus, table_path, &labels, &err);
}

static scd_code with_column(scd_corpus *corpus)
{
    return scd_labels_from_column(corpus, "kind", "id", "donor", &labels, &err);
}

static scd_code with_truth_column(scd_corpus *corpus)
{
    return scd_labels_truth_from_column(corpus, "kind", &labels, &err);
}

static void each_failed_allocation_is_reported_and_leaves_nothing(void **state)
{
    (void)state;
    static scd_code (*const readers[])(scd_corpus *) = {with_table, with_truth_table, with_column,
                                                        with_truth_column};
    scd_corpus *corpus = CORPUS("t");
    table_path = write_text("labels.tsv", "barcode\tB\tnobody\tT\tgroup\nt-0\t1\t0\t0\tx\n"
                                          "t-1\t1\t0\t0\ty\nt-2\t0\t0\t1\tx\n"
                                          "t-3\t0\t0\t1\tz\n");
    ids_path = write_text("ontology.tsv", "B\tCL:1\nnobody\tCL:2\nT\tCL:3\n");
    for (size_t r = 0; r < sizeof readers / sizeof readers[0]; r++) {
        long n = 0;
        for (;; n++) {
            err = (scd_error){0};
            scd_mem_fail_after(n);
            scd_code code = readers[r](corpus);
            scd_mem_fail_after(-1);
            if (!code)
                break;
            assert_true(strlen(err.message) > 0); /* some in the words of libhdf5 */
            assert_null(labels.names);
            assert_null(labels.targets);
            assert_null(labels.group_names);
        }
        assert_true(n > 10);
        scd_labels_release(&labels);
    }
    scd_corpus_free(corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_column_gives_classes_by_name_and_hard_targets),
        cmocka_unit_test(a_table_gives_soft_targets_that_sum_to_one_without_labels_nobody_has),
        cmocka_unit_test(rows_of_files_that_are_not_given_are_counted_and_passed_over),
        cmocka_unit_test(a_barcode_that_its_file_does_not_have_is_refused_with_line_and_file),
        cmocka_unit_test(cells_that_are_left_out_may_be_in_the_table),
        cmocka_unit_test(a_name_that_two_files_have_cannot_be_named_by_a_table),
        cmocka_unit_test(a_barcode_that_several_cells_of_a_file_have_is_refused_where_it_is_used),
        cmocka_unit_test(the_cells_of_long_files_are_found),
        cmocka_unit_test(what_is_no_probability_is_refused_with_line_and_column),
        cmocka_unit_test(probabilities_that_do_not_add_up_to_one_are_refused_with_the_line),
        cmocka_unit_test(a_table_that_is_no_table_is_refused),
        cmocka_unit_test(a_file_of_ontology_ids_is_about_the_labels_once_each),
        cmocka_unit_test(columns_of_a_table_need_names_of_their_own_that_a_head_takes),
        cmocka_unit_test(labels_of_a_column_are_those_that_a_head_takes),
        cmocka_unit_test(more_labels_than_a_head_takes_are_refused),
        cmocka_unit_test(labels_that_make_head_json_too_large_are_refused),
        cmocka_unit_test(fewer_labels_or_cells_than_a_split_needs_are_refused),
        cmocka_unit_test(truth_may_be_one_label_and_have_rare_ones),
        cmocka_unit_test(each_failed_allocation_is_reported_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, corpus_tear_down);
}
