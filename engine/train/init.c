/* init.c - scdiva-train init: a model directory with random weights.
 *
 * For tests, for benchmarks at the official size, and as the start of pre-training. The directory
 * says "trained": false, so that nobody takes its answers for biology. config.json is taken away
 * first and written last: a directory that was left half-way is not a model.
 *
 * Threads: main. Owns: the gene table while it writes. */
#include "engine/base/buf.h"
#include "engine/model/file.h"
#include "engine/model/model.h"
#include "engine/train/model_text.h"
#include "engine/train/train.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct options {
    const char *out, *genes, *preset;
    const char *vocab, *hidden, *dim, *layers, *heads, *ffn, *max_genes; /* as given, NULL: not */
    const char *dtype, *pooling, *seed;
    bool force;
} options;

/* What the options come to. */
typedef struct plan {
    const char *dir, *genes_name; /* genes_name: NULL where the genes are made up */
    scd_model_config config;
    scd_init_genes genes;
    scd_dtype dtype;
    const char *dtype_name;
    unsigned long long seed;
    bool force;
} plan;

static const char help[] =
    "usage: scdiva-train init --out DIR (--genes FILE | --vocab-size N | --preset official)\n"
    "                         [OPTIONS]\n"
    "\n"
    "Make a model directory with random weights: config.json, model.safetensors, genes.tsv and\n"
    "card.md. The same options give the same bytes on every machine.\n"
    "\n"
    "  --out DIR            where to; made if it is not there\n"
    "  --genes FILE         tab-separated table with a header: symbol, and if you like token_id\n"
    "                       (else counted from 2), ensembl_id, aliases (a|b), entropy\n"
    "  --vocab-size N       made-up genes instead; N ids, five of them special\n"
    "  --preset official    the sizes of the official checkpoint: vocabulary 41818, and the\n"
    "                       defaults below\n"
    "  --hidden N           width of the transformer (512)\n"
    "  --dim N              width of the gene embedding (512)\n"
    "  --layers N           (12)\n"
    "  --heads N            (8)\n"
    "  --ffn N              inner width of the feed-forward part (2048)\n"
    "  --max-genes N        gene tokens per cell at most (1200)\n"
    "  --dtype T            f32 (default), bf16 or f16\n"
    "  --latent-pooling P   clean (default) or visible\n"
    "  --seed S             (0)\n"
    "  --force              replace a model that is already there\n"
    "  --help\n";

static int usage(const char *fmt, const char *a, const char *b)
{
    fputs("scdiva-train init: ", stderr);
    fprintf(stderr, fmt, a, b);
    fputs("\nscdiva-train init --help lists the options\n", stderr);
    return SCD_EXIT_USAGE;
}

/* ---- options --------------------------------------------------------------------------------- */

static int read_options(int argc, char **argv, options *o)
{
    static const struct option names[] = {
        {"out", required_argument, NULL, 'o'},    {"genes", required_argument, NULL, 'g'},
        {"preset", required_argument, NULL, 'p'}, {"vocab-size", required_argument, NULL, 'v'},
        {"hidden", required_argument, NULL, 'h'}, {"dim", required_argument, NULL, 'd'},
        {"layers", required_argument, NULL, 'l'}, {"heads", required_argument, NULL, 'n'},
        {"ffn", required_argument, NULL, 'f'},    {"max-genes", required_argument, NULL, 'm'},
        {"dtype", required_argument, NULL, 't'},  {"latent-pooling", required_argument, NULL, 'c'},
        {"seed", required_argument, NULL, 's'},   {"force", no_argument, NULL, 'F'},
        {"help", no_argument, NULL, 'H'},         {NULL, 0, NULL, 0},
    };
    const char **slots[128] = {
        ['o'] = &o->out,    ['g'] = &o->genes, ['p'] = &o->preset,    ['v'] = &o->vocab,
        ['h'] = &o->hidden, ['d'] = &o->dim,   ['l'] = &o->layers,    ['n'] = &o->heads,
        ['f'] = &o->ffn,    ['t'] = &o->dtype, ['m'] = &o->max_genes, ['c'] = &o->pooling,
        ['s'] = &o->seed,
    };
    optind = 0; /* start anew, whoever used getopt before */
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == '?')
            return usage("unknown option or missing value%s%s", "", "");
        if (c == 'H') {
            fputs(help, stdout);
            return -1;
        }
        if (c == 'F')
            o->force = true;
        else
            *slots[c] = optarg;
    }
    if (optind < argc)
        return usage("'%s' is not an option%s", argv[optind], "");
    if (!o->out)
        return usage("--out DIR is missing%s%s", "", "");
    if (o->genes && o->vocab)
        return usage("--genes and --vocab-size exclude one another%s%s", "", "");
    if (!o->genes && !o->vocab && !o->preset)
        return usage("one of --genes, --vocab-size and --preset must be given%s%s", "", "");
    if (o->preset && strcmp(o->preset, "official"))
        return usage("--preset %s: must be official%s", o->preset, "");
    return SCD_EXIT_OK;
}

static bool read_number(const char *text, unsigned long long *out)
{
    char *end;
    errno = 0;
    if (!*text || strspn(text, "0123456789") != strlen(text))
        return false;
    *out = strtoull(text, &end, 10);
    return !errno;
}

static int read_size(const char *flag, const char *text, size_t *out)
{
    unsigned long long value;
    if (!text)
        return SCD_EXIT_OK;
    if (!read_number(text, &value))
        return usage("%s %s: must be a whole number", flag, text);
    *out = (size_t)value;
    return SCD_EXIT_OK;
}

static int read_sizes(const options *o, scd_model_config *c)
{
    int rc = read_size("--hidden", o->hidden, &c->hidden_dim);
    rc = rc ? rc : read_size("--dim", o->dim, &c->d);
    rc = rc ? rc : read_size("--layers", o->layers, &c->n_layers);
    rc = rc ? rc : read_size("--heads", o->heads, &c->n_heads);
    rc = rc ? rc : read_size("--ffn", o->ffn, &c->ffn_dim);
    rc = rc ? rc : read_size("--max-genes", o->max_genes, &c->max_gene_len);
    return rc ? rc : read_size("--vocab-size", o->vocab, &c->vocab);
}

static int read_choices(const options *o, plan *p)
{
    static const struct {
        const char *name;
        scd_dtype dtype;
    } dtypes[] = {{"f32", SCD_F32}, {"bf16", SCD_BF16}, {"f16", SCD_F16}};
    const char *dtype = o->dtype ? o->dtype : "f32", *pooling = o->pooling ? o->pooling : "clean";
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (!strcmp(dtype, dtypes[i].name)) {
            p->dtype = dtypes[i].dtype;
            p->dtype_name = dtypes[i].name;
        }
    if (!p->dtype_name)
        return usage("--dtype %s: must be f32, bf16 or f16%s", dtype, "");
    p->config.latent_visible = !strcmp(pooling, "visible");
    if (!p->config.latent_visible && strcmp(pooling, "clean"))
        return usage("--latent-pooling %s: must be clean or visible%s", pooling, "");
    if (o->seed && !read_number(o->seed, &p->seed))
        return usage("--seed %s: must be a whole number below 2^64%s", o->seed, "");
    return SCD_EXIT_OK;
}

static int make_plan(const options *o, plan *p)
{
    scd_error err;
    if (scd_model_config_parse("{}", 2, &p->config, &err)) {
        fprintf(stderr, "scdiva-train init: %s\n", err.message);
        return SCD_EXIT_FAILED;
    }
    int rc = read_sizes(o, &p->config);
    rc = rc ? rc : read_choices(o, p);
    if (rc)
        return rc;
    p->dir = o->out;
    p->force = o->force;
    if (o->genes) {
        const char *slash = strrchr(o->genes, '/');
        p->genes_name = slash ? slash + 1 : o->genes;
        if (scd_init_genes_read(o->genes, &p->genes, &err)) {
            fprintf(stderr, "scdiva-train init: %s\n", err.message);
            return SCD_EXIT_FAILED;
        }
        p->config.vocab = p->genes.vocab;
    }
    scd_model_text_lay_out(&p->config);
    p->config.trained = false;
    if (scd_model_config_check(&p->config, &err))
        return usage("%s%s", err.message, "");
    return SCD_EXIT_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void join(char *out, size_t n, const char *dir, const char *file)
{
    snprintf(out, n, "%s/%s", dir, file);
}

static scd_code prepare_directory(const plan *p, scd_error *err)
{
    static const char *const files[] = {"config.json", "model.safetensors", "genes.tsv"};
    char path[4200];
    struct stat info;
    if (strlen(p->dir) > 4000)
        return scd_fail(err, SCD_E_INVALID, "--out: the path is too long");
    if (mkdir(p->dir, 0777) < 0 && errno != EEXIST)
        return scd_fail(err, SCD_E_IO, "%s: cannot make the directory: %s", p->dir,
                        strerror(errno));
    for (size_t i = 0; i < 3 && !p->force; i++) {
        join(path, sizeof path, p->dir, files[i]);
        if (!stat(path, &info))
            return scd_fail(err, SCD_E_INVALID, "%s is already there; --force replaces the model",
                            path);
    }
    join(path, sizeof path, p->dir, files[0]);
    if (unlink(path) < 0 && errno != ENOENT)
        return scd_fail(err, SCD_E_IO, "%s: cannot replace: %s", path, strerror(errno));
    return SCD_OK;
}

static scd_code write_text(const char *dir, const char *file, const scd_buf *text, scd_error *err)
{
    char path[4200];
    join(path, sizeof path, dir, file);
    if (text->failed)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    return scd_file_write(path, text->data, text->n_bytes, err);
}

static scd_code write_config(const plan *p, scd_error *err)
{
    scd_buf text;
    scd_buf_init(&text, 1 << 16);
    scd_model_text_config(&p->config, &text);
    scd_code code = write_text(p->dir, "config.json", &text, err);
    scd_buf_release(&text);
    return code;
}

static scd_code write_card(const plan *p, size_t n_params, scd_error *err)
{
    const scd_model_config *c = &p->config;
    scd_buf text;
    scd_buf_init(&text, 1 << 16);
    scd_buf_printf(&text,
                   "# An untrained scDiVa model\n\n"
                   "**The weights are random numbers.** Embeddings, labels and predictions from\n"
                   "this model mean nothing. It is for tests and measurements, and the start of\n"
                   "pre-training.\n\n"
                   "| | |\n|---|---|\n| parameters | %zu (%s) |\n| layers x hidden | %zu x %zu, "
                   "%zu heads, feed-forward %zu |\n| gene embedding | %zu |\n| vocabulary | %zu "
                   "ids, 5 of them special |\n| genes per cell | at most %zu |\n| seed | %llu |\n"
                   "| genes | %s |\n| trained on | nothing |\n| measured quality | none |\n"
                   "| licence | Apache-2.0%s |\n\nMade with scdiva-train init %s.\n",
                   n_params, p->dtype_name, c->n_layers, c->hidden_dim, c->n_heads, c->ffn_dim,
                   c->d, c->vocab, c->max_gene_len, p->seed,
                   p->genes_name ? p->genes_name : "made up",
                   p->genes_name ? "; the gene table's own for the genes" : "", SCD_VERSION);
    scd_code code = write_text(p->dir, "card.md", &text, err);
    scd_buf_release(&text);
    return code;
}

static scd_code write_model(plan *p, size_t *n_params, scd_error *err)
{
    char path[4200];
    scd_vocab *vocab = NULL;
    scd_code code = SCD_OK;
    if (!p->genes.tsv && (code = scd_init_genes_make(p->config.vocab, &p->genes, err)))
        return code;
    if ((code = scd_vocab_parse(p->genes.tsv, p->genes.n, &p->config, &vocab, err))) {
        scd_fail_within(err, "%s, as the model's", p->genes_name ? p->genes_name : "genes");
        return code;
    }
    scd_vocab_free(vocab);
    if ((code = prepare_directory(p, err)))
        return code;
    join(path, sizeof path, p->dir, "model.safetensors");
    if ((code = scd_init_weights(path, &p->config, p->dtype, p->seed, n_params, err)))
        return code;
    join(path, sizeof path, p->dir, "genes.tsv");
    if ((code = scd_file_write(path, p->genes.tsv, p->genes.n, err)) ||
        (code = write_card(p, *n_params, err)))
        return code;
    return write_config(p, err);
}

int scd_train_init(int argc, char **argv)
{
    options o = {0};
    plan p = {0};
    scd_error err;
    size_t n_params = 0;
    int rc = read_options(argc, argv, &o);
    if (rc)
        return rc < 0 ? SCD_EXIT_OK : rc;
    rc = make_plan(&o, &p);
    if (!rc && write_model(&p, &n_params, &err)) {
        fprintf(stderr, "scdiva-train init: %s\n", err.message);
        rc = SCD_EXIT_FAILED;
    }
    if (!rc)
        printf("%s: %zu parameters (%s), vocabulary %zu, seed %llu; random weights, not trained\n",
               p.dir, n_params, p.dtype_name, p.config.vocab, p.seed);
    free(p.genes.tsv);
    return rc;
}
