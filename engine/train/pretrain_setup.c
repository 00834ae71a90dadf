/* pretrain_setup.c - from options to step 0: data, genes, split, entropies, model, feed.
 *
 * Only training cells shape anything that is fitted: the split comes before the entropies. Whether
 * a cell is held out is a hash of the seed and its number in the corpus, so that the split needs
 * no pass over the data. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/model/file.h"
#include "engine/train/device.h"
#include "engine/train/gene_svd.h"
#include "engine/train/model_text.h"
#include "engine/train/pretrain.h"
#include "engine/train/train.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define SPLIT_STREAM (UINT64_C(0xC3) << 56)
enum { MAX_GENES_BYTES = 1 << 28, SVD_CELLS = 32768 };

/* ---- genes ----------------------------------------------------------------------------------- */

typedef struct symbols {
    char **items; /* each its own allocation */
    size_t n, cap;
} symbols;

static void release_symbols(symbols *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->items[i]);
    free(s->items);
}

/* What a column of perturbations calls a cell that has none. */
static bool is_control(const char *text, size_t n)
{
    static const char *const names[] = {
        "control",  "ctrl",        "non-targeting", "nt", "non_targeting", "nontargeting", "neg",
        "negative", "unperturbed", "none",          "wt", "mock"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == n && !strncasecmp(names[i], text, n))
            return true;
    return false;
}

static bool add_symbol(symbols *s, const char *text, size_t n)
{
    for (size_t i = 0; i < s->n; i++)
        if (strlen(s->items[i]) == n && !memcmp(s->items[i], text, n))
            return true;
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        char **grown = scd_realloc(s->items, cap, sizeof *grown);
        if (!grown)
            return false;
        s->items = grown;
        s->cap = cap;
    }
    s->items[s->n] = scd_strndup(text, n);
    return s->items[s->n] && ++s->n;
}

/* "A+B" of every value of the column; blanks around a symbol are not part of it. */
static scd_code read_symbols(scd_corpus *corpus, const char *column, symbols *out, scd_error *err)
{
    scd_corpus_column values;
    scd_code code = scd_corpus_obs(corpus, column, &values, err);
    if (code) {
        scd_fail_within(err, "--extra-genes-column");
        return code;
    }
    for (size_t i = 0; i < values.n_values && !code; i++)
        for (const char *at = values.values[i]; *at && !code;) {
            at += strspn(at, "+ ");
            size_t n = strcspn(at, "+"), whole = n;
            while (n && at[n - 1] == ' ')
                n--;
            if (n && !is_control(at, n) && !add_symbol(out, at, n))
                code = scd_fail(err, SCD_E_NOMEM, "out of memory for gene names");
            at += whole;
        }
    scd_corpus_column_release(&values);
    return code;
}

static scd_code unite_genes(scd_pretrain *run, scd_error *err)
{
    symbols extra = {0};
    scd_corpus_genes genes = {0};
    scd_code code = SCD_OK;
    if (run->o.extra_genes_column)
        code = read_symbols(run->corpus, run->o.extra_genes_column, &extra, err);
    if (!code)
        code = scd_corpus_union(run->corpus, (const char *const *)extra.items, extra.n,
                                run->o.gene_table, &genes, err);
    if (!code) {
        scd_buf_append(&run->genes, genes.tsv, genes.n_bytes);
        run->config.vocab = genes.vocab;
    }
    free(genes.tsv);
    release_symbols(&extra);
    return code;
}

static scd_code read_genes(scd_pretrain *run, scd_error *err)
{
    scd_init_genes genes = {0};
    scd_code code = scd_init_genes_read(run->o.genes, &genes, err);
    if (!code) {
        scd_buf_append(&run->genes, genes.tsv, genes.n);
        run->config.vocab = genes.vocab;
    }
    free(genes.tsv);
    return code;
}

/* Config and genes of --init; what shapes training is as the options say, where they say it. */
static scd_code open_start(scd_pretrain *run, scd_error *err)
{
    char path[4200], *text = NULL;
    size_t n;
    int fd;
    scd_code code = scd_model_open(run->o.init, &run->start, err);
    if (code)
        return code;
    scd_model_config c = *scd_model_get_config(run->start);
    if (run->o.pooling)
        c.latent_visible = run->config.latent_visible;
    c.value_masking = c.value_masking || run->config.value_masking;
    c.dropout = 0;
    c.trained = true;
    run->config = c;
    if (strlen(run->o.init) > 4000)
        return scd_fail(err, SCD_E_INVALID, "--init: the path is too long");
    snprintf(path, sizeof path, "%s/genes.tsv", run->o.init);
    if ((code = scd_file_open(path, &fd, &n, err)))
        return code;
    code = scd_file_read(fd, path, MAX_GENES_BYTES, &text, &n, err);
    close(fd);
    if (!code)
        scd_buf_append(&run->genes, text, n);
    free(text);
    return code;
}

static scd_code parse_genes(scd_pretrain *run, scd_vocab **out, scd_error *err)
{
    if (run->genes.failed || !run->genes.data)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the genes");
    return scd_vocab_parse(run->genes.data, run->genes.n_bytes, &run->config, out, err);
}

static scd_code choose_genes(scd_pretrain *run, scd_error *err)
{
    scd_code code = run->o.init    ? open_start(run, err)
                    : run->o.genes ? read_genes(run, err)
                                   : unite_genes(run, err);
    if (code)
        return code;
    /* Said or not, the same run: it has one fingerprint, and its recipe names the pooling. */
    run->o.pooling = run->config.latent_visible ? "visible" : "clean";
    if (!run->o.init)
        scd_model_text_lay_out(&run->config);
    if ((code = scd_model_config_check(&run->config, err)) ||
        (code = parse_genes(run, &run->bound, err)))
        return code;
    return scd_corpus_bind(run->corpus, run->bound, run->o.min_mapped, err);
}

/* ---- split and entropies --------------------------------------------------------------------- */

static scd_code hold_out_column(scd_pretrain *run, scd_error *err)
{
    const char *equals = strchr(run->o.held_out_column, '=');
    scd_corpus_column column;
    char *name = scd_strndup(run->o.held_out_column, (size_t)(equals - run->o.held_out_column));
    if (!name)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = scd_corpus_obs(run->corpus, name, &column, err);
    free(name);
    if (code) {
        scd_fail_within(err, "--held-out-column");
        return code;
    }
    for (size_t i = 0; i < run->n_cells; i++)
        run->held_out[i] =
            column.codes[i] >= 0 && !strcmp(column.values[column.codes[i]], equals + 1);
    scd_corpus_column_release(&column);
    return SCD_OK;
}

static scd_code split(scd_pretrain *run, scd_error *err)
{
    run->n_cells = scd_corpus_n_cells(run->corpus);
    run->keep = scd_calloc(run->n_cells, 1);
    run->held_out = scd_calloc(run->n_cells, 1);
    if (!run->keep || !run->held_out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", run->n_cells);
    scd_code code = SCD_OK;
    if (run->o.held_out_column)
        code = hold_out_column(run, err);
    for (size_t i = 0; i < run->n_cells && !code; i++) {
        uint32_t words[4];
        scd_rng_block(run->o.seed, SPLIT_STREAM, i, words);
        if (!run->o.held_out_column)
            run->held_out[i] = words[0] * 0x1p-32 < run->o.held_out;
        run->keep[i] = !run->held_out[i];
        run->n_held_out += run->held_out[i];
    }
    run->n_train = run->n_cells - run->n_held_out;
    if (code)
        return code;
    if (!run->n_train)
        return scd_fail(err, SCD_E_INVALID,
                        "no cell is left to train on: %zu cells, %zu of them "
                        "held out",
                        run->n_cells, run->n_held_out);
    if (run->o.held_out_column && !run->n_held_out)
        return scd_fail(err, SCD_E_INVALID, "--held-out-column %s: no cell has this value",
                        run->o.held_out_column);
    if (!run->o.held_out_column && run->o.held_out > 0 && !run->n_held_out)
        return scd_fail(err, SCD_E_INVALID,
                        "--held-out %g: of %zu cells not one is held out; choose a larger share, "
                        "or 0 to go without evaluation",
                        run->o.held_out, run->n_cells);
    return SCD_OK;
}

/* Entropies of --init stay as they are, since its weights know the order they give. */
static scd_code fit_entropies(scd_pretrain *run, scd_error *err)
{
    scd_buf text;
    float *entropies = NULL;
    scd_code code = SCD_OK;
    bool wanted = run->order == SCD_ORDER_ENTROPY;
    if (wanted && run->o.init && scd_vocab_has_entropies(run->bound))
        return parse_genes(run, &run->vocab, err);
    scd_buf_init(&text, MAX_GENES_BYTES);
    if (wanted) {
        if (!(entropies = scd_malloc(run->config.vocab, sizeof *entropies)))
            return scd_fail(err, SCD_E_NOMEM, "out of memory");
        code = scd_corpus_entropies(run->corpus, run->keep, run->config.vocab, entropies, err);
    }
    if (!code)
        code = scd_model_text_genes(run->genes.data, run->genes.n_bytes, entropies,
                                    run->config.vocab, &text, err);
    if (!code) {
        scd_buf_release(&run->genes);
        run->genes = text;
        code = parse_genes(run, &run->vocab, err);
    } else {
        scd_buf_release(&text);
    }
    free(entropies);
    return code;
}

/* ---- what the run is ------------------------------------------------------------------------- */

/* Everything that decides the bits of the result, but not where files lie. */
static scd_code fingerprint(scd_pretrain *run, scd_error *err)
{
    scd_buf text;
    scd_digest start, data;
    scd_hasher *hasher = scd_hasher_new();
    scd_code code = hasher ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_buf_init(&text, 1 << 24);
    scd_options_recipe(run->table, run->n_table, &text);
    scd_model_text_config(&run->config, &text);
    if (!code && text.failed)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code && run->start)
        code = scd_model_digest(run->start, &start, err);
    if (!code)
        code = scd_corpus_digest(run->corpus, &data, err);
    if (!code) {
        scd_hasher_add_text(hasher, "pretrain 2");
        scd_hasher_add_field(hasher, text.data, text.n_bytes);
        scd_hasher_add_field(hasher, run->genes.data, run->genes.n_bytes);
        if (run->start)
            scd_hasher_add_field(hasher, start.bytes, sizeof start.bytes);
        const uint64_t sizes[] = {run->n_cells, run->n_train, run->n_steps};
        scd_hasher_add_field(hasher, sizes, sizeof sizes);
        scd_hasher_add_field(hasher, run->keep, run->n_cells);
        scd_hasher_add_field(hasher, data.bytes, sizeof data.bytes);
        for (size_t i = 0; i < scd_corpus_n_files(run->corpus); i++)
            scd_hasher_add_text(hasher, scd_corpus_file_name(run->corpus, i));
        run->fingerprint = scd_hasher_finish(hasher);
    }
    scd_hasher_free(hasher);
    scd_buf_release(&text);
    return code;
}

static void count_steps(scd_pretrain *run)
{
    double steps = run->o.epochs * (double)run->n_train / (double)run->o.batch;
    run->n_steps = run->o.steps ? run->o.steps : (uint64_t)steps;
    if (run->n_steps < 1 || (!run->o.steps && (double)run->n_steps < steps))
        run->n_steps++;
    run->warmup_steps = (uint64_t)(run->o.warmup * (double)run->n_steps);
    if (!run->o.eval_every)
        run->o.eval_every = run->n_steps / 20 ? run->n_steps / 20 : 1;
}

static void describe(const scd_pretrain *run)
{
    for (size_t i = 0; i < scd_corpus_n_files(run->corpus); i++)
        fprintf(stderr, "%s: %s\n", scd_corpus_file_name(run->corpus, i),
                scd_corpus_why(run->corpus, i));
    fprintf(stderr, "%zu training cells, %zu held out; %zu genes; %llu steps of %zu cells\n",
            run->n_train, run->n_held_out, scd_vocab_n_genes(run->vocab),
            (unsigned long long)run->n_steps, run->o.batch);
}

/* ---- the model ------------------------------------------------------------------------------- */

/* z = 0: what the ablation trains is also what serving computes. Nothing flows into these two. */
static scd_code silence_latent(scd_pretrain *run, scd_error *err)
{
    static const char *const names[] = {"latent_encoder.mlp.3.weight", "latent_encoder.mlp.3.bias"};
    for (size_t i = 0; i < 2; i++) {
        size_t first, n;
        scd_code code = scd_net_tensor(run->net, names[i], &first, &n, err);
        if (!code)
            code = run->be->train->zero(run->device, scd_net_params(run->net) + first, n, err);
        if (code)
            return code;
    }
    return SCD_OK;
}

static scd_code embed_genes(scd_pretrain *run, scd_error *err)
{
    const scd_gene_svd_input input = {.corpus = run->corpus,
                                      .keep = run->keep,
                                      .max_cells = SVD_CELLS,
                                      .vocab = run->config.vocab,
                                      .d = run->config.d,
                                      .seed = run->o.seed};
    size_t first, n;
    scd_code code = scd_net_tensor(run->net, "gene_embedding.weight", &first, &n, err);
    if (code)
        return code;
    float *host = scd_malloc(n, sizeof *host), *device = scd_net_params(run->net) + first;
    if (!host)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the gene embedding");
    code = run->be->download(run->device, host, device, n * sizeof *host, err);
    if (!code)
        code = scd_gene_svd(&input, host, err);
    if (!code)
        code = run->be->upload(run->device, device, host, n * sizeof *host, err);
    free(host);
    return code;
}

/* The value head begins with the mean of all values and no opinion besides: from a random one, ten
 * times the squared distance to values of 2 to 7 would drown what the genes' loss has to say for
 * hundreds of steps. */
static scd_code calm_value_head(scd_pretrain *run, scd_error *err)
{
    size_t weight, bias, n;
    float mean = (float)run->mean_value;
    scd_code code = scd_net_tensor(run->net, "value_head.2.weight", &weight, &n, err);
    if (!code)
        code = run->be->train->zero(run->device, scd_net_params(run->net) + weight, n, err);
    if (!code)
        code = scd_net_tensor(run->net, "value_head.2.bias", &bias, &n, err);
    if (!code)
        code =
            run->be->upload(run->device, scd_net_params(run->net) + bias, &mean, sizeof mean, err);
    return code;
}

static scd_code make_net(scd_pretrain *run, scd_error *err)
{
    const scd_net_options net = {.max_rows = run->o.micro_rows};
    scd_code code;
    if (run->o.micro_rows < run->config.max_gene_len + 1)
        return scd_fail(err, SCD_E_INVALID,
                        "--micro-rows %zu: must be at least %zu, the longest cell and [LAT]",
                        run->o.micro_rows, run->config.max_gene_len + 1);
    if ((code = scd_net_new(run->be, run->be->train, run->device, &run->config, &net, &run->net,
                            err)) ||
        (code = scd_pack_new(run->o.micro_rows, &run->pack, err)))
        return code;
    code = run->start ? scd_net_load(run->net, scd_model_tensors(run->start), err)
                      : scd_net_randomize(run->net, run->o.seed, err);
    if (!code && !run->start)
        code = calm_value_head(run, err);
    if (!code && !strcmp(run->o.init_embedding, "svd"))
        code = embed_genes(run, err);
    if (!code && run->o.no_latent)
        code = silence_latent(run, err);
    return code;
}

static scd_code make_feed(scd_pretrain *run, scd_error *err)
{
    const scd_feed_options options = {.seed = run->o.seed, .keep = run->keep, .shuffle = true};
    return scd_feed_new(run->corpus, &options, &run->feed, err);
}

scd_code scd_pretrain_set_up(scd_pretrain *run, scd_error *err)
{
    const scd_corpus_options corpus = {.paths = run->o.data.items,
                                       .n_paths = run->o.data.n,
                                       .matrix = run->o.matrix,
                                       .gene_column = run->o.gene_column,
                                       .exclude = run->o.exclude};
    scd_code code;
    scd_buf_init(&run->genes, MAX_GENES_BYTES);
    scd_arena_init(&run->eval_arena, SIZE_MAX / 2);
    run->dir_lock = -1;
    if ((code = scd_augment_check(&run->o.augment, err)) ||
        (code =
             scd_train_device_open(run->o.device, run->o.threads, &run->be, &run->device, err)) ||
        (code = scd_pretrain_open_dir(run, err)) ||
        (code = scd_corpus_open(&corpus, &run->corpus, err)) || (code = choose_genes(run, err)) ||
        (code = split(run, err)) || (code = fit_entropies(run, err)))
        return code;
    count_steps(run);
    describe(run);
    if ((code = fingerprint(run, err)) || (code = scd_pretrain_fit_baselines(run, err)) ||
        (code = make_net(run, err)) || (code = make_feed(run, err)) ||
        (code = scd_pretrain_choose_cells(run, err)))
        return code;
    return scd_pretrain_load(run, err);
}

void scd_pretrain_release(scd_pretrain *run)
{
    scd_progress_free(run->progress);
    scd_feed_free(run->feed);
    scd_pack_free(run->pack);
    scd_net_free(run->net);
    if (run->device)
        run->be->close(run->device);
    scd_arena_release(&run->eval_arena);
    free(run->eval_cells);
    free(run->eval_draws);
    free(run->gene_means);
    free(run->held_out);
    free(run->keep);
    scd_model_close(run->start);
    scd_corpus_free(run->corpus);
    scd_vocab_free(run->vocab);
    scd_vocab_free(run->bound);
    scd_buf_release(&run->genes);
    if (run->dir_lock >= 0)
        close(run->dir_lock);
    free(run->o.data.items);
}
