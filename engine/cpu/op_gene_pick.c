/* op_gene_pick.c - which genes a row may be: softmax and the best of it, a tile of the vocabulary
 * at a time.
 *
 * Of each row there are a running maximum m, the sum of exp(logit - m) (Milakov & Gimelshein 2018)
 * and the SCD_PICK_TOP best keys so far. With temperature a key is the logit plus Gumbel noise;
 * most genes cannot get into the list whatever they draw, or only by a draw so rare that a look at
 * the uniform number tells: gumbel > a  means  1 - u < exp(-a), and the two logarithms are taken
 * only for those that pass. */
#include "engine/cpu/cpu.h"

#include "engine/base/rng.h"
#include "engine/cpu/train_kernels.h"

#include <math.h>
#include <string.h>

/* Beyond these a gumbel number of 32 bits never lies: its least is -3.13, its largest 22.9. */
static const float GUMBEL_LEAST = -4, GUMBEL_MOST = 24;
/* The filter's own rounding: what it lets through is computed exactly. */
static const float FILTER_SLACK = 1.001f;

typedef struct job {
    scd_device *device;
    const scd_gene_pick_args *a;
    const scd_train_kernels *rows;
    scd_tiles tiles;
} job;

typedef struct space {
    void *x;      /* (tile, H) act */
    float *y;     /* (tile, panel) logits */
    float *z;     /* (panel) */
    float *keys;  /* (tile, SCD_PICK_TOP) */
    float *m, *l; /* (tile) */
} space;

static size_t carve(char *base, const scd_matrix *w, space *s)
{
    size_t used = 0;
    s->x = scd_carve(base, &used, SCD_TILE_ROWS * w->cols, sizeof(float));
    s->y = scd_carve(base, &used, SCD_TILE_ROWS * w->panel, sizeof(float));
    s->z = scd_carve(base, &used, w->panel, sizeof(float));
    s->keys = scd_carve(base, &used, SCD_TILE_ROWS * SCD_PICK_TOP, sizeof(float));
    s->m = scd_carve(base, &used, SCD_TILE_ROWS, sizeof(float));
    s->l = scd_carve(base, &used, SCD_TILE_ROWS, sizeof(float));
    return used;
}

size_t scd_gene_pick_scratch(const scd_matrix *matrix)
{
    space s;
    return carve(NULL, matrix, &s);
}

/* The row's list of best keys. */
typedef struct best {
    float *keys, *logits;
    int32_t *genes;
    float least; /* the last key: what a gene must beat */
} best;

static void insert(best *b, float key, float logit, int32_t gene)
{
    size_t i = SCD_PICK_TOP - 1;
    for (; i > 0 && key > b->keys[i - 1]; i--) {
        b->keys[i] = b->keys[i - 1];
        b->logits[i] = b->logits[i - 1];
        b->genes[i] = b->genes[i - 1];
    }
    b->keys[i] = key;
    b->logits[i] = logit;
    b->genes[i] = gene;
    b->least = b->keys[SCD_PICK_TOP - 1];
}

/* What the set forbids becomes -infinity. */
static void forbid(const uint32_t *set, size_t first, size_t n, float *y)
{
    for (size_t j = 0; j < n; j++)
        if (!(set[(first + j) / 32] >> (first + j) % 32 & 1))
            y[j] = -INFINITY;
}

static void take_plain(best *b, const float *y, size_t first, size_t n)
{
    for (size_t j = 0; j < n; j++)
        if (y[j] > b->least)
            insert(b, y[j], y[j], (int32_t)(first + j));
}

/* The words of four genes, made when the first of them is asked for: most of the vocabulary may be
 * forbidden. */
typedef struct noise {
    const scd_pick_row *of;
    uint64_t group; /* gene / 4 */
    uint32_t words[4];
} noise;

static uint32_t word_of(noise *n, size_t gene)
{
    if (gene / 4 != n->group) {
        n->group = gene / 4;
        scd_rng_block(n->of->seed, n->of->stream, n->of->block + n->group, n->words);
    }
    return n->words[gene % 4];
}

static float noisy(const scd_pick_row *of, float logit, uint32_t word)
{
    return logit + of->temperature * (float)scd_rng_gumbel(word);
}

static void take_noisy(best *b, const scd_pick_row *of, const job *j, const float *y, float *z,
                       size_t first, size_t n)
{
    noise draws = {.of = of, .group = UINT64_MAX};
    size_t i = 0;
    for (; i < n && b->least == -INFINITY; i++)
        if (y[i] > -INFINITY)
            insert(b, noisy(of, y[i], word_of(&draws, first + i)), y[i], (int32_t)(first + i));
    float scale = 1.0f / of->temperature, least = b->least;
    for (size_t k = i; k < n; k++) {
        float a = (y[k] - least) * scale;
        a = a > -GUMBEL_MOST ? a : -GUMBEL_MOST;
        z[k] = (a < -GUMBEL_LEAST ? a : -GUMBEL_LEAST) * SCD_LOG2_E;
    }
    if (i < n)
        j->rows->exp2_sum(z + i, 0, n - i);
    for (; i < n; i++) {
        if (y[i] == -INFINITY)
            continue;
        uint32_t word = word_of(&draws, first + i);
        if ((float)~word * 0x1p-32f > z[i] * FILTER_SLACK)
            continue;
        float key = noisy(of, y[i], word);
        if (key > b->least)
            insert(b, key, y[i], (int32_t)(first + i));
    }
}

/* Row r of the tile takes in the n genes from `first` on. */
static void take_in(const job *j, const space *s, size_t row, size_t r, float *y, size_t first,
                    size_t n)
{
    const scd_gene_pick_args *a = j->a;
    const scd_pick_row *of = &a->of[row];
    best b = {s->keys + r * SCD_PICK_TOP, a->logits + row * SCD_PICK_TOP,
              a->genes + row * SCD_PICK_TOP, s->keys[(r + 1) * SCD_PICK_TOP - 1]};
    forbid(a->sets + of->set * scd_pick_words(a->vocab), first, n, y);
    float top = j->rows->top(y, n);
    if (top == -INFINITY)
        return;
    if (of->temperature > 0)
        take_noisy(&b, of, j, y, s->z, first, n);
    else if (top > b.least)
        take_plain(&b, y, first, n);
    if (top > s->m[r]) {
        s->l[r] *= s->m[r] > -INFINITY ? expf(s->m[r] - top) : 0;
        s->m[r] = top;
    }
    j->rows->scale(y, SCD_LOG2_E, n);
    s->l[r] += j->rows->exp2_sum(y, s->m[r] * SCD_LOG2_E, n);
}

static scd_code tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_gene_pick_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    for (size_t r = 0; r < n; r++) {
        kernels->store(a->x + (first + r) * a->hidden_dim, a->hidden_dim,
                       (char *)s->x + r * a->hidden_dim * kernels->act_bytes);
        s->m[r] = -INFINITY;
        s->l[r] = 0;
        for (size_t k = 0; k < SCD_PICK_TOP; k++) {
            s->keys[r * SCD_PICK_TOP + k] = -INFINITY;
            a->genes[(first + r) * SCD_PICK_TOP + k] = -1;
            a->logits[(first + r) * SCD_PICK_TOP + k] = -INFINITY;
        }
    }
    for (size_t p = 0; p < a->w->n_panels; p++) {
        scd_code code = scd_product_panel(j->device, thread, a->w, 0, p, s->x, n, s->y);
        if (code)
            return code;
        size_t at = p * a->w->panel, wide = scd_matrix_panel(a->w, 0, p)->n;
        size_t cols = a->vocab - at < wide ? a->vocab - at : wide;
        for (size_t r = 0; r < n; r++)
            take_in(j, s, first + r, r, s->y + r * wide, at, cols);
    }
    for (size_t r = 0; r < n; r++)
        a->lse[first + r] = s->m[r] + logf(s->l[r]);
    return SCD_OK;
}

static void body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->w, &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

scd_code scd_cpu_gene_pick(scd_device *device, const scd_gene_pick_args *args, scd_error *err)
{
    const scd_matrix *w = args->w;
    if (w->n_parts != 1 || w->cols != args->hidden_dim || w->part_rows != args->vocab)
        return scd_fail(err, SCD_E_INVALID, "gene_pick: the matrix is %zu x %zu, not %zu x %zu",
                        w->n_parts * w->part_rows, w->cols, args->vocab, args->hidden_dim);
    for (size_t r = 0; r < args->rows; r++)
        if (args->of[r].set >= args->n_sets)
            return scd_fail(err, SCD_E_INVALID, "gene_pick: set %u of %zu", args->of[r].set,
                            args->n_sets);
    job j = {.device = device, .a = args, .rows = scd_train_kernels_of(device->kernels)};
    scd_tiles_init(&j.tiles, args->rows, device->threads);
    scd_pool_run(device->pool, body, &j);
    return scd_tiles_end(&j.tiles, err);
}
