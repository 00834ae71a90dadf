/* test_net.c - the net that learns: against the inference pass and against itself.
 *
 * Its gradients are held against differences in tests/ops/test_net_gradient.c; bad input is in
 * test_net_faults.c. */
#include "tests/unit/net_fixture.h"

#include "engine/model/forward.h"
#include "engine/train/train.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

static const size_t lengths[] = {5, 1, 7, 3, 10, 2};
enum { N_CELLS = 6 };

/* Forward, losses and backward of one micro-batch; gradients are added. */
static void accumulate(net_fixture *f, const scd_net_batch *b, scd_net_loss *loss)
{
    net_ok(scd_net_forward(f->net, b, 1, &f->err), &f->err);
    net_ok(scd_net_pretrain_loss(f->net, 0.05f, 0.05f, loss, &f->err), &f->err);
    net_ok(scd_net_backward(f->net, 0, &f->err), &f->err);
}

/* Steps first .. first + n - 1 on made-up batches that their numbers decide. */
static void train(net_fixture *f, uint64_t first, uint64_t n)
{
    made_batch m;
    scd_net_loss loss;
    for (uint64_t s = first; s < first + n; s++) {
        double norm;
        float scale;
        made_cells(&m, s, lengths, N_CELLS, MADE_MIXED);
        net_ok(scd_net_zero_grads(f->net, &f->err), &f->err);
        accumulate(f, &m.b, &loss);
        scd_net_step step = step_of(s);
        net_ok(scd_net_update(f->net, &step, &norm, &scale, &f->err), &f->err);
    }
}

/* ---- models on disk -------------------------------------------------------------------------- */

typedef struct model_dir {
    char dir[40], config[64], genes[64], weights[64];
} model_dir;

static void write_text(const char *path, const char *text, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
}

/* A directory with everything but the weights. */
static void model_dir_make(model_dir *d, const scd_model_config *c)
{
    strcpy(d->dir, "/tmp/scdiva-net-XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    snprintf(d->config, sizeof d->config, "%s/config.json", d->dir);
    snprintf(d->genes, sizeof d->genes, "%s/genes.tsv", d->dir);
    snprintf(d->weights, sizeof d->weights, "%s/model.safetensors", d->dir);
    char text[640];
    int n = snprintf(text, sizeof text,
                     "{\"SCGPT_DIM\": %zu, \"HIDDEN_DIM\": %zu, \"N_LAYERS\": %zu, \"N_HEADS\": "
                     "%zu, \"D_HID\": %zu, \"VOCAB_SIZE\": %zu, \"PAD_FILL_GENE_ID\": %d, "
                     "\"BOS_GENE_ID\": %d, \"EOS_GENE_ID\": %d, \"MAX_GENE_LEN\": %zu, "
                     "\"ROPE_MAX_LEN\": %zu}",
                     c->d, c->hidden_dim, c->n_layers, c->n_heads, c->ffn_dim, c->vocab,
                     c->pad_fill_id, c->bos_id, c->eos_id, c->max_gene_len, c->rope_max_len);
    write_text(d->config, text, (size_t)n);
    scd_init_genes genes;
    assert_int_equal(scd_init_genes_make(c->vocab, &genes, NULL), SCD_OK);
    write_text(d->genes, genes.tsv, genes.n);
    free(genes.tsv);
}

static void model_dir_remove(const model_dir *d)
{
    unlink(d->config);
    unlink(d->genes);
    unlink(d->weights);
    assert_int_equal(rmdir(d->dir), 0); /* no temporary file is left */
}

static scd_model *open_model(const model_dir *d)
{
    scd_model *model = NULL;
    scd_error err;
    net_ok(scd_model_open(d->dir, &model, &err), &err);
    return model;
}

/* Embeddings of the batch's cells by the inference pass. */
static void infer(net_fixture *f, const scd_model *model, made_batch *m, float *out)
{
    scd_cell cells[N_CELLS];
    const scd_cell *pointers[N_CELLS];
    for (size_t c = 0; c < N_CELLS; c++) {
        size_t first = m->cu_rows[c] + 1;
        cells[c] = (scd_cell){.n_tokens = m->cu_rows[c + 1] - first,
                              .ids = m->ids + first,
                              .values = m->values + first};
        pointers[c] = &cells[c];
    }
    scd_forward *forward = NULL;
    net_ok(scd_forward_open(&scd_backend_cpu, f->device, model, NET_MAX_ROWS, &forward, &f->err),
           &f->err);
    net_ok(scd_forward_embed(forward, pointers, N_CELLS, out, &f->err), &f->err);
    scd_forward_close(forward);
}

/* Both are fp32 and sum in different orders: 1e-5 of the largest is some ten roundings. */
static void check_against_inference(net_fixture *f, const scd_model *model)
{
    enum { N = N_CELLS * 32 };
    made_batch m;
    float got[N], want[N], most = 0;
    assert_int_equal(scd_net_config(f->net)->hidden_dim, 32);
    made_cells(&m, 8, lengths, N_CELLS, MADE_NONE);
    infer(f, model, &m, want);
    net_ok(scd_net_forward(f->net, &m.b, 1, &f->err), &f->err);
    net_ok(scd_net_latents(f->net, got, &f->err), &f->err);
    assert_memory_equal(got, scd_net_device_latents(f->net), sizeof got);
    for (size_t i = 0; i < N; i++)
        most = fmaxf(most, fabsf(want[i]));
    for (size_t i = 0; i < N; i++)
        if (!(fabsf(want[i] - got[i]) <= 1e-5f * most))
            fail_msg("element %zu: %g, inference says %g", i, (double)got[i], (double)want[i]);
}

static void latents_are_the_embeddings_of_the_inference_pass(void **state)
{
    (void)state;
    net_fixture f;
    model_dir d;
    size_t n;
    net_open(&f, 2, false, 1);
    model_dir_make(&d, scd_net_config(f.net));
    net_ok(scd_init_weights(d.weights, scd_net_config(f.net), SCD_BF16, 77, &n, &f.err), &f.err);
    assert_int_equal(n, scd_net_n_params(f.net));
    scd_model *model = open_model(&d);
    net_ok(scd_net_load(f.net, scd_model_tensors(model), &f.err), &f.err);
    check_against_inference(&f, model);
    scd_model_close(model);
    model_dir_remove(&d);
    net_close(&f);
}

static void what_is_saved_opens_as_a_model_of_the_same_answers(void **state)
{
    (void)state;
    static const scd_dtype dtypes[] = {SCD_F32, SCD_BF16, SCD_F16};
    net_fixture f;
    model_dir d;
    net_open(&f, 2, false, 1);
    model_dir_make(&d, scd_net_config(f.net));
    train(&f, 1, 2);
    for (size_t i = 0; i < 3; i++) {
        net_ok(scd_net_save(f.net, d.weights, dtypes[i], &f.err), &f.err);
        scd_model *model = open_model(&d);
        scd_tensor t;
        net_ok(scd_safetensors_get(scd_model_tensors(model), "layers.1.mlp.down_proj.weight", 32,
                                   24, &t, &f.err),
               &f.err);
        assert_int_equal(t.dtype, dtypes[i]);
        net_ok(scd_net_load(f.net, scd_model_tensors(model), &f.err), &f.err);
        check_against_inference(&f, model);
        scd_model_close(model);
    }
    model_dir_remove(&d);
    net_close(&f);
}

static char *read_all(const char *path, size_t *n)
{
    char *bytes = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    *n = fread(bytes, 1, 1 << 20, file);
    assert_true(*n < 1 << 20);
    fclose(file);
    return bytes;
}

static void random_weights_are_those_of_init(void **state)
{
    (void)state;
    net_fixture f;
    model_dir d;
    size_t n, n_init, n_net;
    net_open(&f, 1, false, 123);
    model_dir_make(&d, scd_net_config(f.net));
    net_ok(scd_init_weights(d.weights, scd_net_config(f.net), SCD_F32, 123, &n, &f.err), &f.err);
    char *init = read_all(d.weights, &n_init);
    net_ok(scd_net_save(f.net, d.weights, SCD_F32, &f.err), &f.err);
    char *net = read_all(d.weights, &n_net);
    assert_int_equal(n_init, n_net);
    assert_memory_equal(init, net, n_net);
    free(net);
    free(init);
    model_dir_remove(&d);
    net_close(&f);
}

static void weights_of_another_model_are_refused_by_name_and_shapes(void **state)
{
    (void)state;
    net_fixture f;
    model_dir d;
    size_t n;
    scd_safetensors *file = NULL;
    net_open(&f, 1, false, 1);
    model_dir_make(&d, scd_net_config(f.net));
    scd_model_config other = *scd_net_config(f.net);
    other.ffn_dim = 28;
    net_ok(scd_init_weights(d.weights, &other, SCD_F32, 1, &n, &f.err), &f.err);
    net_ok(scd_safetensors_open(d.weights, &file, &f.err), &f.err);
    assert_int_equal(scd_net_load(f.net, file, &f.err), SCD_E_CORRUPT);
    assert_non_null(strstr(f.err.message, "layers.0.mlp.gate_proj.weight"));
    scd_safetensors_close(file);
    model_dir_remove(&d);
    net_close(&f);
}

static void a_path_that_cannot_be_written_is_named(void **state)
{
    (void)state;
    net_fixture f;
    net_open(&f, 1, false, 1);
    assert_int_equal(scd_net_save(f.net, "/nowhere/m.safetensors", SCD_F32, &f.err), SCD_E_IO);
    assert_non_null(strstr(f.err.message, "/nowhere/m.safetensors"));
    net_close(&f);
}

/* ---- training -------------------------------------------------------------------------------- */

static void a_run_has_the_same_bits_on_any_number_of_threads(void **state)
{
    (void)state;
    net_state want = {0};
    for (int threads = 1; threads <= 3; threads++) {
        net_fixture f;
        net_open(&f, threads, true, 4);
        train(&f, 1, 5);
        net_state got = export_state(&f);
        if (threads == 1) {
            want = got;
        } else {
            assert_memory_equal(got.params, want.params, 3 * want.n * sizeof(float));
            free(got.params);
        }
        net_close(&f);
    }
    free(want.params);
}

static void a_run_that_resumes_has_the_bits_of_one_that_was_not_interrupted(void **state)
{
    (void)state;
    net_fixture f;
    net_open(&f, 2, false, 4);
    train(&f, 1, 3);
    net_state middle = export_state(&f);
    train(&f, 4, 3);
    net_state want = export_state(&f);
    net_close(&f);

    net_open(&f, 2, false, 99);
    net_ok(scd_net_import_state(f.net, middle.params, middle.m, middle.v, &f.err), &f.err);
    train(&f, 4, 3);
    net_state got = export_state(&f);
    assert_memory_equal(got.params, want.params, 3 * want.n * sizeof(float));
    net_close(&f);
    free(got.params);
    free(want.params);
    free(middle.params);
}

/* The batch's cells [first, end) as a batch of its own; arrays are borrowed but for `at`'s. */
static scd_net_batch part_of(const made_batch *m, made_batch *at, size_t first, size_t end)
{
    uint32_t row = m->cu_rows[first], rows = m->cu_rows[end] - row;
    *at = *m;
    at->b.n_masked = at->b.n_gene_masked = 0;
    for (size_t c = first; c <= end; c++)
        at->cu_rows[c - first] = m->cu_rows[c] - row;
    for (size_t i = 0; i < m->b.n_masked; i++)
        if (m->masked[i] - row < rows) { /* unsigned: earlier rows are far beyond */
            at->targets[at->b.n_masked] = m->targets[i];
            at->masked[at->b.n_masked++] = m->masked[i] - row;
        }
    for (size_t i = 0; i < m->b.n_gene_masked; i++)
        if (m->gene_masked[i] - row < rows) {
            at->gene_targets[at->b.n_gene_masked] = m->gene_targets[i];
            at->gene_masked[at->b.n_gene_masked++] = m->gene_masked[i] - row;
        }
    return (scd_net_batch){.n_cells = end - first,
                           .n_rows = rows,
                           .cu_rows = at->cu_rows,
                           .ids = m->ids + row,
                           .values = m->values + row,
                           .hidden = m->hidden + row,
                           .pos = m->pos + row,
                           .n_masked = at->b.n_masked,
                           .masked = at->masked,
                           .targets = at->targets,
                           .n_gene_masked = at->b.n_gene_masked,
                           .gene_masked = at->gene_masked,
                           .gene_targets = at->gene_targets};
}

/* fp32 sums in another order: 1e-5 of the largest gradient. */
static void two_micro_batches_add_up_to_the_batch_of_both(void **state)
{
    (void)state;
    net_fixture f;
    made_batch m, at;
    scd_net_loss whole, half[2];
    net_open(&f, 2, false, 4);
    size_t n = scd_net_n_params(f.net);
    float *want = malloc(n * sizeof *want), most = 0;
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    accumulate(&f, &m.b, &whole);
    memcpy(want, scd_net_grads(f.net), n * sizeof *want);

    net_ok(scd_net_zero_grads(f.net, &f.err), &f.err);
    for (size_t i = 0; i < 2; i++) {
        scd_net_batch part = part_of(&m, &at, i ? 2 : 0, i ? N_CELLS : 2);
        accumulate(&f, &part, &half[i]);
    }
    const float *got = scd_net_grads(f.net);
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(want[i]));
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(got[i] - want[i]) <= 1e-5f * most);
    assert_int_equal(whole.n_value, half[0].n_value + half[1].n_value);
    assert_int_equal(whole.n_gene, half[0].n_gene + half[1].n_gene);
    assert_int_equal(whole.n_right, half[0].n_right + half[1].n_right);
    assert_true(fabs(whole.gene_sum - half[0].gene_sum - half[1].gene_sum) < 1e-4);
    free(want);
    net_close(&f);
}

/* Gradient of a head on the latents from `first_layer` on; a copy of all gradients. */
static float *head_gradient(net_fixture *f, size_t first_layer)
{
    made_batch m;
    size_t n = scd_net_n_params(f->net), n_lat = N_CELLS * scd_net_config(f->net)->hidden_dim;
    float *d_latents = malloc(n_lat * sizeof *d_latents), *grads = malloc(n * sizeof *grads);
    for (size_t i = 0; i < n_lat; i++)
        d_latents[i] = scd_rng_normal(2, 0, i);
    made_cells(&m, 1, lengths, N_CELLS, MADE_NONE);
    net_ok(scd_net_zero_grads(f->net, &f->err), &f->err);
    net_ok(scd_net_forward(f->net, &m.b, 1, &f->err), &f->err);
    net_ok(scd_net_latent_gradient(f->net, d_latents, &f->err), &f->err);
    net_ok(scd_net_backward(f->net, first_layer, &f->err), &f->err);
    memcpy(grads, scd_net_grads(f->net), n * sizeof *grads);
    free(d_latents);
    return grads;
}

static void frozen_layers_get_no_gradient_and_do_not_move(void **state)
{
    (void)state;
    net_fixture f;
    double norm, squares = 0;
    float scale;
    size_t first, end, n;
    net_open(&f, 2, false, 4);
    net_ok(scd_net_tensor(f.net, "layers.1.norm1.weight", &first, &n, &f.err), &f.err);
    net_ok(scd_net_tensor(f.net, "gene_head.weight", &end, &n, &f.err), &f.err);
    n = scd_net_n_params(f.net);
    float *all = head_gradient(&f, 0), *some = head_gradient(&f, 1);
    assert_memory_equal(some + first, all + first, (end - first) * sizeof *all);
    for (size_t i = 0; i < n; i++) {
        if (i < first || i >= end)
            assert_true(some[i] == 0);
        squares += (double)some[i] * (double)some[i];
    }
    net_state before = export_state(&f);
    scd_net_step step = step_of(1);
    step.first_layer = 1;
    net_ok(scd_net_update(f.net, &step, &norm, &scale, &f.err), &f.err);
    net_state after = export_state(&f);
    assert_true(fabs(norm - sqrt(squares)) < 1e-6 * norm);
    assert_memory_equal(after.params, before.params, first * sizeof(float));
    assert_memory_equal(after.params + end, before.params + end, (n - end) * sizeof(float));
    for (size_t i = first; i < end; i++)
        assert_true(after.params[i] != before.params[i]);
    free(after.params);
    free(before.params);
    free(some);
    free(all);
    net_close(&f);
}

static void the_norm_counts_what_others_hold_and_clips_all_alike(void **state)
{
    (void)state;
    net_fixture f;
    double alone, together;
    float scale;
    net_open(&f, 1, false, 4);
    free(head_gradient(&f, 0));
    scd_net_step step = step_of(1);
    step.clip = 0;
    net_ok(scd_net_update(f.net, &step, &alone, &scale, &f.err), &f.err);
    assert_true(scale == 1);
    step.clip = 2;
    step.extra_squares = 9 * alone * alone;
    net_ok(scd_net_update(f.net, &step, &together, &scale, &f.err), &f.err);
    assert_true(fabs(together - sqrt(10.0) * alone) < 1e-9 * together);
    assert_true(fabs((double)scale - 2 / together) < 1e-6);
    net_close(&f);
}

/* Without a gradient AdamW moves what decays and nothing else, by lr * decay of itself. */
static void matrices_decay_and_norms_biases_and_embeddings_do_not(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool decays;
    } table[] = {
        {"gene_embedding.weight", false},
        {"value_mask_emb", false},
        {"gene_mask_emb", false},
        {"layers.0.norm2.weight", false},
        {"final_norm.weight", false},
        {"value_head.0.bias", false},
        {"latent_encoder.mlp.1.weight", false},
        {"layers.1.attn.k_proj.weight", true},
        {"layers.0.mlp.up_proj.weight", true},
        {"gene_head.weight", true},
        {"value_encoder.0.weight", true},
    };
    net_fixture f;
    double norm;
    float scale;
    net_open(&f, 1, false, 4);
    net_state before = export_state(&f);
    scd_net_step step = step_of(1);
    net_ok(scd_net_update(f.net, &step, &norm, &scale, &f.err), &f.err);
    assert_true(norm == 0);
    const float *params = scd_net_params(f.net);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        size_t first, n;
        net_ok(scd_net_tensor(f.net, table[i].name, &first, &n, &f.err), &f.err);
        for (size_t j = first; j < first + n; j++) {
            float want = before.params[j];
            want -= table[i].decays ? step.lr * step.decay * want : 0;
            if (!(fabsf(params[j] - want) <= 1e-6f * fabsf(want)))
                fail_msg("%s: %g became %g", table[i].name, (double)before.params[j],
                         (double)params[j]);
        }
    }
    free(before.params);
    net_close(&f);
}

/* A net that learns anything learns 28 tokens by heart: 0.69 would be a coin toss a gene. */
static void a_handful_of_cells_is_learnt_by_heart(void **state)
{
    (void)state;
    net_fixture f;
    made_batch m;
    scd_net_loss loss = {0};
    scd_net_predictions said;
    net_open(&f, 2, true, 4);
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    for (uint64_t s = 1; s <= 300; s++) {
        double norm;
        float scale;
        scd_net_step step = step_of(s);
        step.decay = 0;
        net_ok(scd_net_zero_grads(f.net, &f.err), &f.err);
        accumulate(&f, &m.b, &loss);
        net_ok(scd_net_update(f.net, &step, &norm, &scale, &f.err), &f.err);
    }
    assert_int_equal(loss.n_right, loss.n_gene);
    assert_true(loss.n_gene > 8 && loss.n_value > loss.n_gene);
    assert_true(loss.gene_sum < 0.01 * (double)loss.n_gene);
    assert_true(loss.value_sum < 0.01 * (double)loss.n_value);
    net_ok(scd_net_get_predictions(f.net, &said, &f.err), &f.err);
    double gene_sum = 0;
    for (size_t i = 0; i < loss.n_gene; i++) {
        assert_int_equal(said.gene[i], m.gene_targets[i]);
        gene_sum += (double)said.gene_loss[i];
    }
    assert_true(gene_sum == loss.gene_sum);
    for (size_t i = 0; i < loss.n_value; i++)
        assert_true(fabsf(said.value[i] - m.targets[i]) < 0.5f);
    net_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latents_are_the_embeddings_of_the_inference_pass),
        cmocka_unit_test(what_is_saved_opens_as_a_model_of_the_same_answers),
        cmocka_unit_test(random_weights_are_those_of_init),
        cmocka_unit_test(weights_of_another_model_are_refused_by_name_and_shapes),
        cmocka_unit_test(a_path_that_cannot_be_written_is_named),
        cmocka_unit_test(a_run_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(a_run_that_resumes_has_the_bits_of_one_that_was_not_interrupted),
        cmocka_unit_test(two_micro_batches_add_up_to_the_batch_of_both),
        cmocka_unit_test(frozen_layers_get_no_gradient_and_do_not_move),
        cmocka_unit_test(the_norm_counts_what_others_hold_and_clips_all_alike),
        cmocka_unit_test(matrices_decay_and_norms_biases_and_embeddings_do_not),
        cmocka_unit_test(a_handful_of_cells_is_learnt_by_heart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
