"""test_parity.py - embeddings through HTTP against the float64 reference.

fp32: within 1e-4 of the largest element (single precision sums over a few hundred terms, a dozen
layers deep). bf16: cosine at least 0.999, what eight bits of mantissa leave.
"""
import functools
import json
import os
import subprocess

import numpy as np

import harness
import models
import reference
from harness import Daemon, Skip

FP32 = ["--precision", "fp32"]
BF16 = ["--precision", "bf16"]


def genes(n):
    return [f"GENE{i}" for i in range(n)]


def compare_fp32(got, want):
    for i, (a, b) in enumerate(zip(got, want)):
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error <= 1e-4, f"cell {i}: off by {error:.2e} of the largest element"


def compare_bf16(got, want):
    for i, (a, b) in enumerate(zip(got.astype(np.float64), want)):
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine >= 0.999, f"cell {i}: cosine {cosine:.5f}"


def check(path, body, flags=(*FP32,), compare=compare_fp32, expected=None):
    """One daemon, one request: embeddings and what is said about each cell match the reference."""
    with Daemon(path, flags=flags) as d:
        answer = d.embed(body)
    expected = expected or reference.embed(reference.Model(path), body)
    items = answer.json()["data"]
    assert len(items) == len(expected), answer
    for i, (item, (_, info)) in enumerate(zip(items, expected)):
        got = {k: item[k] for k in info}
        assert got == info and item["index"] == i, f"cell {i}: {item} is not {info}"
    compare(answer.embeddings(), np.stack([e for e, _ in expected]))
    return answer


def counts_body(names, lengths, seed, total=None):
    """Cells with that many genes, whole counts from 1 to 40"""
    rng = np.random.default_rng(seed)
    cells = []
    for n in lengths:
        chosen = rng.choice(len(names), n, replace=False)
        cells.append({"genes": [names[j] for j in chosen],
                      "values": rng.integers(1, 41, n).tolist()})
        if total:
            cells[-1]["total"] = total
    return {"cells": cells}


# ---- odd sizes, odd lengths ----------------------------------------------------------------------

def test_real_cells_match_with_three_heads_of_16_and_unequal_widths():
    body = harness.demo_request()
    answer = check(harness.small_model(), body)
    usage = answer.json()["usage"]
    tokens = [item["tokens"] for item in answer.json()["data"]]
    assert usage["cells"] == 40 and usage["tokens"] == sum(tokens), usage
    truncated = [item["genes_truncated"] for item in answer.json()["data"]]
    assert max(tokens) == 300 and max(truncated) > 0, "the fixture should reach MAX_GENE_LEN"


def test_the_matrix_form_of_the_same_cells_matches():
    check(harness.small_model(), harness.demo_body())


def test_counts_with_and_without_totals_match():
    names = genes(100)
    path = models.write_model(harness.scratch("counts"), names, seed=3)
    check(path, counts_body(names, [1, 2, 15, 16, 17, 33, 50], seed=1))
    check(path, counts_body(names, [1, 5, 40], seed=2, total=9000))
    check(path, {"genes": names[:4], "totals": [50, 7.0],
                 "matrix": {"format": "csr", "indptr": [0, 3, 4], "indices": [0, 3, 1, 2],
                            "data": [5, 1.0, 9, 7]}})


def test_a_cell_of_exactly_max_gene_len_is_whole_and_one_more_is_cut_at_its_lowest_score():
    names = genes(100)
    path = models.write_model(harness.scratch("cut"), names, seed=4)
    answer = check(path, counts_body(names, [63, 64, 65, 100], seed=3))
    cut = [item["genes_truncated"] for item in answer.json()["data"]]
    assert cut == [0, 0, 1, 36], cut


def test_a_model_of_one_gene_matches():
    path = models.write_model(harness.scratch("one_gene"), ["ONLY"], seed=5)
    check(path, {"cells": [{"genes": ["ONLY"], "values": [3]},
                           {"genes": ["ONLY"], "values": [3], "total": 5000}]})


def test_one_head_and_wide_heads_match():
    names = genes(150)
    body = counts_body(names, [1, 31, 64, 130], seed=6)
    for sizes in ({"HIDDEN_DIM": 64, "N_HEADS": 1, "SCGPT_DIM": 96, "N_LAYERS": 1},
                  {"HIDDEN_DIM": 256, "N_HEADS": 2, "SCGPT_DIM": 16, "D_HID": 33},
                  {"HIDDEN_DIM": 128, "N_HEADS": 2, "SCGPT_DIM": 32, "D_HID": 192},
                  {"HIDDEN_DIM": 72, "N_HEADS": 4, "SCGPT_DIM": 72, "ROPE_THETA": 500.5}):
        folder = harness.scratch(f"heads_in_{sizes['HIDDEN_DIM']}")
        path = models.write_model(folder, names, seed=6, MAX_GENE_LEN=129, **sizes)
        check(path, body)


def test_visible_pooling_without_a_mask_pools_every_token():
    names = genes(80)
    path = models.write_model(harness.scratch("visible"), names, seed=7, latent_pooling="visible")
    check(path, counts_body(names, [1, 20, 64], seed=7))


# ---- file forms ----------------------------------------------------------------------------------

def test_f16_weights_match():
    names = genes(80)
    path = models.write_model(harness.scratch("f16"), names, seed=8, dtype="F16")
    check(path, counts_body(names, [1, 20, 64], seed=8))


def test_bf16_weights_match():
    names = genes(80)
    path = models.write_model(harness.scratch("bf16"), names, seed=9, dtype="BF16")
    check(path, counts_body(names, [1, 20, 64], seed=9))


def test_a_file_that_mixes_types_matches():
    def dtype(name):
        return {0: "F32", 1: "F16", 2: "BF16"}[len(name) % 3]
    names = genes(80)
    path = models.write_model(harness.scratch("mixed"), names, seed=10, dtype=dtype)
    check(path, counts_body(names, [1, 20, 64], seed=10))


def test_models_that_init_made_match():
    """Its sizes, types and pooling; the genes of the real cells. Random weights at init's scale."""
    for i, flags in enumerate((["--dtype", "f32", "--latent-pooling", "visible"],
                               ["--dtype", "f16"], ["--dtype", "bf16"])):
        path = harness.scratch(f"init{i}")
        genes_tsv = os.path.join(harness.FIXTURES, "pbmc68k_genes.tsv")
        subprocess.run(harness.scdiva_train() + [
            "init", "--out", path, "--genes", genes_tsv, "--hidden", "96", "--dim", "80",
            "--heads", "3", "--layers", "2", "--ffn", "200", "--max-genes", "250", "--seed", "5",
            *flags], check=True, stdout=subprocess.DEVNULL, env=harness.clean_environment())
        shapes = {k: tuple(v["shape"]) for k, v in reference.Model(path).weights.header.items()}
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            assert shapes == models.tensor_shapes(json.load(f))
        check(path, harness.demo_request(8))


# ---- serialization -------------------------------------------------------------------------------

def test_entropies_reorder_genes_and_decide_which_are_cut():
    rng = np.random.default_rng(12)
    rows = [{"symbol": g, "entropy": f"{rng.uniform(0.05, 1):.6f}"} for g in genes(100)]
    for row in rows[::7]:
        row["entropy"] = ""  # counts as 1
    rows[3]["entropy"] = "0"
    path = models.write_model(harness.scratch("entropies"), rows, seed=12)
    check(path, counts_body(genes(100), [1, 50, 64, 90, 100], seed=12))


def test_ties_in_the_score_go_by_token_id():
    names = genes(100)
    path = models.write_model(harness.scratch("ties"), names, seed=13)
    ones = {"genes": names[::-1], "values": [1] * 100}
    shuffled = {"genes": names[50:] + names[:50], "values": [1] * 100}
    answer = check(path, {"cells": [ones, shuffled]})
    a, b = answer.embeddings()
    assert a.tobytes() == b.tobytes(), "the order of the input must not show"


def test_a_gene_given_twice_is_summed_and_zeros_are_no_tokens():
    names = genes(20)
    rows = [{"symbol": g, "ensembl_id": f"ENSG{i:011d}", "aliases": f"OLD{i}|SHARED"}
            for i, g in enumerate(names)]
    path = models.write_model(harness.scratch("sums"), rows, seed=14)
    same_gene = ["GENE5", "ENSG00000000005", "ENSG00000000005.7", "OLD5", "GENE5_ENSG00000000005"]
    cell = {"genes": same_gene + ["GENE1", "GENE2", "NOSUCH"], "values": [1, 2, 3, 4, 5, 6, 0, 9]}
    check(path, {"cells": [cell]})
    cell["values"] = [0.5, 1.25, 0.125, 2, 0.75, 3.5, 0, 1]
    check(path, {"cells": [cell], "input": "log1p_cp10k"})


# ---- precision -----------------------------------------------------------------------------------

@functools.lru_cache(None)
def official_truth():
    """(body, what the reference says); seconds of work, so only once"""
    path = harness.official_model()
    symbols = list(reference.Genes(path + "/genes.tsv").symbol)
    body = counts_body(symbols, [1200, 300, 20], seed=20)
    return body, reference.embed(reference.Model(path), body)


def check_official(flags, compare):
    body, expected = official_truth()
    check(harness.official_model(), body, flags, compare, expected)


def test_the_official_size_matches_in_fp32():
    check_official(FP32, compare_fp32)


def test_the_official_size_matches_in_bf16():
    if not harness.cpu_has("avx512_bf16") and not harness.cpu_has("amx_bf16"):
        raise Skip("this processor does not multiply bf16")
    check_official(BF16, compare_bf16)


def test_odd_sizes_match_in_bf16():
    if not harness.cpu_has("avx512_bf16") and not harness.cpu_has("amx_bf16"):
        raise Skip("this processor does not multiply bf16")
    check(harness.small_model(), harness.demo_request(), BF16, compare_bf16)


def test_auto_precision_matches_whatever_it_chose():
    check(harness.small_model(), harness.demo_request(10), (), compare_bf16)
