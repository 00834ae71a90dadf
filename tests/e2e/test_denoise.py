"""test_denoise.py - POST /v1/denoise and /v1/generate against the float64 reference, and what they
promise: the same bytes alone, under load and through the cache; nothing named twice; precise
refusals.

fp32: values and probabilities within 1e-3 of the largest - a dozen passes feed on each other.
"""
import functools
import json
import os
import threading

import numpy as np

import harness
import models
import reference
import reference_denoise as ref
from harness import Daemon, check_problem, demo_cells, demo_request

FP32 = ["--precision", "fp32"]
GENES = [f"GENE{i}" for i in range(90)]
MATRIX = {"genes": GENES[3:5], "matrix": {"format": "csr", "indptr": [0, 1, 3],
                                          "indices": [0, 0, 1], "data": [4, 9, 2]}}


@functools.cache
def models_made():
    """(model with value masking, the same without): odd sizes, 90 genes"""
    paths = harness.scratch("masking"), harness.scratch("plain")
    for path, masking in zip(paths, (True, False)):
        models.write_model(path, GENES, MAX_GENE_LEN=60, value_masking=masking)
    return paths


def masking_model():
    return models_made()[0]


def plain_model():
    return models_made()[1]


def daemon(make=masking_model):
    return harness.shared(make, FP32)


def cells(n=4, seed=1, length=24):
    rng = np.random.default_rng(seed)
    return [{"id": f"c{i}", "genes": [GENES[g] for g in rng.choice(90, length + i, replace=False)],
             "values": rng.integers(1, 40, length + i).tolist()} for i in range(n)]


def post(d, path, body):
    answer = d.post(path, body)
    assert answer.status == 200, answer
    return answer.json()


def denoise(body, d=None):
    return post(d or daemon(), "/v1/denoise", body)


def name(model, g):
    return next(s for s, t in model.genes.symbol.items() if t == g)


def compare(item, want, passes, model):
    assert item["passes"] == passes, (item, passes)
    assert item["genes"] == [name(model, g) for g, _, _ in want], (item, want)
    for key, column in (("values", 1), ("probabilities", 2)):
        got, expected = np.array(item[key]), np.array([w[column] for w in want])
        assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max(), (key, got, expected)


def check_sample(fields, seed=0, **kind):
    """Cells through /v1/denoise with a fraction hidden, each against the reference."""
    model = reference.Model(masking_model())
    candidates = fields.get("candidates")
    body = {"cells": cells(), "mask": {"fraction": 0.4, "seed": seed}, **fields}
    for item, cell in zip(denoise(body)["data"], body["cells"]):
        ids, x, _ = model.serialize(cell["genes"], cell["values"])
        own = ref.cell_seed(seed, 0, ids, x)
        hidden = ref.hide_fraction(own, ids, 0.4)
        want, passes = ref.sample(model, ids, x, hidden, fields.get("steps", 16), seed=own,
                                  candidates=candidates and [model.genes.symbol[g] for g in
                                                             candidates], **kind)
        compare(item, want, passes, model)


# ---- the numbers ---------------------------------------------------------------------------------

def test_hidden_tokens_are_found_in_fixed_steps():
    for steps in 1, 3, 16:
        check_sample({"steps": steps})


def test_hidden_tokens_are_found_by_confidence():
    check_sample({"steps": 16, "confidence": 0.2}, confidence=0.2)
    check_sample({"steps": 5, "confidence": 0.1, "temperature": 1}, seed=3, confidence=0.1,
                 temperature=1)


def test_temperature_draws_the_noise_of_the_reference():
    check_sample({"steps": 3, "temperature": 1.5}, seed=7, temperature=1.5)


def test_values_are_refreshed_in_one_more_pass():
    check_sample({"steps": 2, "refresh": True}, refresh=True)


def test_candidates_bound_what_is_named():
    check_sample({"steps": 4, "candidates": GENES[:80]})


def test_clean_pooling_is_computed_and_called_leaking():
    check_sample({"steps": 2, "pooling": "clean"}, pooling="clean")
    answer = denoise({"cells": cells(1), "mask": {"fraction": 0.4}, "pooling": "clean"})
    assert "leaking" in [w["code"] for w in answer["warnings"]], answer


def check_impute(make, reference_of):
    model = reference.Model(make())
    body = {"cells": cells(), "impute": [GENES[i] for i in (3, 77, 5, 40, 41)]}
    targets = [model.genes.symbol[g] for g in body["impute"]]
    answer = denoise(body, daemon(make))
    for item, cell in zip(answer["data"], body["cells"]):
        ids, x, _ = model.serialize(cell["genes"], cell["values"])
        ids, x, hidden = ref.append_targets(ids, x, targets)
        values, p = reference_of(model, ids, x, hidden)
        compare(item, list(zip(ids[hidden], values, p)), 1, model)
    return answer


def test_imputed_values_match():
    answer = check_impute(masking_model, lambda *a: (ref.impute(*a), np.ones(5)))
    assert answer["warnings"] == [w for w in answer["warnings"] if w["code"] == "pooling"], answer


def test_a_model_without_value_masking_answers_through_the_posterior_and_says_so():
    answer = check_impute(plain_model, ref.impute_posterior)
    assert "posterior" in [w["code"] for w in answer["warnings"]], answer


def test_masked_genes_are_hidden_in_place():
    model = reference.Model(masking_model())
    cell = cells(1)[0]
    chosen = [cell["genes"][i] for i in (2, 9, 20)]
    answer = denoise({"cells": [cell], "mask": {"genes": chosen + ["GENE0"]}, "steps": 2})
    ids, x, _ = model.serialize(cell["genes"], cell["values"])
    hidden = [i for i, g in enumerate(ids) if name(model, g) in chosen + ["GENE0"]]
    want, passes = ref.sample(model, ids, x, hidden, 2)
    compare(answer["data"][0], want, passes, model)


def test_cells_are_generated_from_nothing_and_from_visible_genes():
    model = reference.Model(masking_model())
    body = {"n": 2, "length": 20, "steps": 4, "temperature": 1, "seed": 5}
    for i, item in enumerate(post(daemon(), "/v1/generate", body)["data"]):
        seed = ref.cell_seed(5, i, [], [])
        want, passes = ref.sample(model, [0] * 20, [0] * 20, list(range(20)), 4, 1, seed)
        compare(item, want, passes, model)
    body.update(genes=GENES[3:6], values=[4, 9, 2], temperature=0)
    ids, x, _ = model.serialize(body["genes"], body["values"])
    want, passes = ref.sample(model, list(ids) + [0] * 17, list(x) + [0] * 17,
                              list(range(3, 20)), 4)
    seen = [(g, v, 1) for g, v in zip(ids, x)]
    for item in post(daemon(), "/v1/generate", body)["data"]:
        compare(item, seen + want, passes, model)


def check_generated(make, prompt, length, fields, seed=0, **kind):
    """A prompt whose values are partly or not known, against the reference"""
    model = reference.Model(make())
    values = prompt.get("values", [None] * len(prompt["genes"]))
    known = [(g, v) for g, v in zip(prompt["genes"], values) if v is not None]
    ids, x = np.zeros(0, int), np.zeros(0, np.float32)
    if any(v for _, v in known):
        ids, x, _ = model.serialize([g for g, _ in known], [v for _, v in known])
    open_ones = sorted(model.genes.symbol[g] for g, v in zip(prompt["genes"], values) if v is None)
    n, n_seen = len(ids) + len(open_ones), len(ids)
    ids = np.concatenate([ids, open_ones]).astype(int)
    x = np.concatenate([x, np.zeros(len(open_ones), np.float32)])
    own = ref.cell_seed(seed, 0, ids, x)
    want, passes = ref.sample(model, list(ids) + [0] * (length - n), list(x) + [0] * (length - n),
                              list(range(n_seen, length)), fields["steps"], seed=own,
                              shown=range(n_seen, n), **kind)
    answer = post(daemon(make), "/v1/generate",
                  {**prompt, "length": length, "seed": seed, **fields})
    item = answer["data"][0]
    compare(item, [(g, v, 1) for g, v in zip(ids[:n_seen], x)] + want, passes, model)
    assert item["tokens"] == length and item["genes_known"] == len(prompt["genes"])
    assert item["probabilities"][:n] == [1] * n
    return answer


def test_visible_genes_may_come_without_values():
    none = {"genes": [GENES[i] for i in (40, 3, 77, 5)]}
    some = {"genes": [GENES[i] for i in (40, 3, 77, 5, 9)], "values": [None, 4, 9, None, 0]}
    for make in masking_model, plain_model:
        for prompt in none, some:
            check_generated(make, prompt, 20, {"steps": 4, "temperature": 0})
            check_generated(make, prompt, 20, {"steps": 4, "temperature": 1.5}, seed=3,
                            temperature=1.5)
        answer = check_generated(make, none, 20, {"steps": 5, "temperature": 0, "confidence": 0.2},
                                 confidence=0.2)
        said = [w["code"] for w in answer["warnings"]]
        assert ("posterior" in said) == (make is plain_model), answer
        check_generated(make, none, 4, {"steps": 2, "temperature": 0})  # values alone
        check_generated(make, some, 12, {"steps": 3, "temperature": 0, "refresh": True},
                        refresh=True)


def test_prompts_without_values_may_come_in_every_form_and_any_order():
    body = {"n": 2, "length": 12, "steps": 3, "seed": 5}
    genes = GENES[3:7]
    lone = post(daemon(), "/v1/generate", {**body, "genes": genes})["data"]
    turned = post(daemon(), "/v1/generate", {**body, "genes": genes[::-1], "values": [None] * 4})
    cell = post(daemon(), "/v1/generate", {**body, "cells": [{"genes": genes}]})["data"]
    rows = {"genes": genes, "matrix": {"format": "csr", "indptr": [0, 4], "indices": [2, 0, 1, 3],
                                       "data": [None] * 4}}
    matrix = post(daemon(), "/v1/generate", {**body, **rows})["data"]
    for other in turned["data"], cell, matrix:
        assert [{**i, "cache": 0} for i in other] == [{**i, "cache": 0} for i in lone]
    assert lone[0]["genes"][:4] == genes and lone[0]["genes"] != lone[1]["genes"]
    check_problem(daemon().post("/v1/denoise", {"cells": [{"genes": genes}], "steps": 2,
                                                "mask": {"fraction": 0.5}}),
                  422, "invalid", "/cells/0", "values.*missing")
    check_problem(daemon().post("/v1/embeddings", {"cells": [{"genes": genes[:1],
                                                              "values": [None]}]}),
                  422, "invalid", "/cells/0/values/0", "must be a number, not null")


def test_answers_name_the_parameters_that_make_them_again():
    body = {"length": 8, "steps": 3, "temperature": 0.7, "seed": 2**53 - 1, "refresh": True}
    said = post(daemon(), "/v1/generate", body)["parameters"]
    assert said == {**{k: v for k, v in body.items() if k != "length"}, "confidence": None,
                    "pooling": "visible"}
    masked = denoise({"cells": cells(1), "mask": {"fraction": 0.5, "seed": 4}, "confidence": 0.3})
    assert masked["parameters"] == {"pooling": "visible", "steps": 16, "seed": 4, "temperature": 0,
                                    "confidence": 0.3, "refresh": False}
    imputed = denoise({"cells": cells(1), "impute": [GENES[0]], "pooling": "clean"})
    assert imputed["parameters"] == {"pooling": "clean", "steps": 1}


def test_prompts_may_be_the_rows_of_a_matrix():
    body = {"n": 2, "length": 12, "steps": 3, "seed": 5}
    rows = [{"id": "a", "genes": GENES[3:4], "values": [4]},
            {"id": "b", "genes": GENES[3:5], "values": [9, 2]}]
    one = post(daemon(), "/v1/generate", {**body, "cells": rows})["data"]
    other = post(daemon(), "/v1/generate", {**body, **MATRIX, "ids": ["a", "b"]})["data"]
    assert [{**item, "cache": "hit"} for item in one] == other


# ---- scores --------------------------------------------------------------------------------------

def ranks(x):
    return np.array([np.mean([np.sum(x < v), np.sum(x <= v) - 1]) for v in x])


def close(got, want):
    if np.isnan(want):
        assert got is None, got
    else:
        assert abs(got - want) < 1e-4, (got, want)


def test_scores_are_those_of_what_was_hidden_and_baselines_stand_beside_them():
    body = demo_request(20, impute=["CD3D", "LYZ", "NKG7", "MS4A1", "HLA-DRA"])
    path = harness.scratch("wide")
    models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=765)
    with Daemon(path, flags=FP32) as d:
        answer = denoise(body, d)
    model = reference.Model(path)
    table = np.zeros((20, model.config["VOCAB_SIZE"]))
    for row, cell in zip(table, body["cells"]):
        ids, x, _ = model.serialize(cell["genes"], cell["values"], "log1p_cp10k")
        row[ids] = x
    for c, item in enumerate(answer["data"]):
        known = [g for g in item["genes"] if g in body["cells"][c]["genes"]]
        assert (item["scores"] or {"n": 0})["n"] == len(known)
        if not known:
            continue
        ids = [model.genes.symbol[g] for g in known]
        found = np.array([item["values"][item["genes"].index(g)] for g in known])
        means = np.delete(table, c, 0)[:, ids].mean(0)
        for scores, value in ((item["scores"], found),
                              (item["scores"]["baselines"]["gene_mean"], means)):
            truth = table[c, ids]
            close(scores["mae_nonzero"], np.abs(truth - value)[truth > 0].mean())
            if len(known) > 1 and truth.std() > 0 and value.std() > 0:
                close(scores["pearson"], np.corrcoef(truth, value)[0, 1])
                close(scores["spearman"], np.corrcoef(ranks(truth), ranks(value))[0, 1])
        seen = table[c].copy()
        seen[[model.genes.symbol[g] for g in item["genes"]]] = 0
        others = [o for o in range(20) if o != c]
        likeness = [table[o] @ seen / np.linalg.norm(table[o]) for o in others]
        near = [others[i] for i in np.argsort(likeness)[::-1][:10]]
        close(item["scores"]["baselines"]["knn"]["mae_nonzero"],
              np.abs(truth - table[near][:, ids].mean(0))[truth > 0].mean())
    genes = {g["gene"]: g for g in answer["gene_scores"]}
    lyz = [(item["values"][item["genes"].index("LYZ")], table[c, model.genes.symbol["LYZ"]])
           for c, item in enumerate(answer["data"]) if "LYZ" in body["cells"][c]["genes"]]
    assert genes["LYZ"]["n"] == len(lyz)
    close(genes["LYZ"]["mae_nonzero"], np.mean([abs(a - b) for a, b in lyz]))


def test_a_zero_that_was_given_is_a_truth_and_a_gene_that_was_not_is_none():
    cell = {"genes": ["GENE1", "GENE2", "GENE3", "GENE4"], "values": [5, 0, 2, 7]}
    item = denoise({"cells": [cell], "impute": ["GENE2", "GENE3", "GENE50"]})["data"][0]
    assert item["scores"]["n"] == 2 and item["scores"]["mae_zero"] is not None
    close(item["scores"]["mae_zero"], item["values"][item["genes"].index("GENE2")])


# ---- the same bytes ------------------------------------------------------------------------------

def without_cache_words(answer):
    text = json.dumps([{k: v for k, v in item.items() if k != "cache"} for item in answer["data"]])
    return text


def test_the_same_request_gives_the_same_bytes_alone_under_load_and_from_the_cache():
    body = {"cells": cells(6, seed=3), "mask": {"fraction": 0.5, "seed": 3}, "temperature": 1,
            "steps": 8}
    with Daemon(masking_model(), flags=["--cache-mb", "0"]) as d:
        alone = denoise(body, d)
        others = [threading.Thread(target=denoise, args=(
            {"cells": cells(8, seed=s), "mask": {"fraction": 0.7}, "steps": 16}, d))
            for s in range(20, 26)]
        for t in others:
            t.start()
        loaded = denoise(body, d)
        embedded = d.embed({"cells": cells(3, seed=9)}).embeddings()
        for t in others:
            t.join()
        quiet = d.embed({"cells": cells(3, seed=9)}).embeddings()
    assert without_cache_words(alone) == without_cache_words(loaded)
    assert (embedded == quiet).all()
    data = harness.scratch()
    with Daemon(masking_model(), data=data) as d:
        first = denoise(body, d)
        again = denoise(body, d)
    with Daemon(masking_model(), data=data) as d:
        later = denoise(body, d)
    for answer in first, again, later:
        assert without_cache_words(answer) == without_cache_words(alone)
    for answer in again, later:
        assert all(item["cache"] == "hit" for item in answer["data"]), answer
    assert later["usage"]["cached"] == 6


def test_parameters_split_the_cache_and_what_changes_nothing_does_not():
    with Daemon(masking_model()) as d:
        base = {"cells": cells(1, seed=11), "mask": {"genes": [cells(1, seed=11)[0]["genes"][0]]}}
        denoise(base, d)
        for same in {"steps": 16}, {"temperature": 0}, {"mask": {**base["mask"], "seed": 9}}:
            assert denoise({**base, **same}, d)["usage"]["cached"] == 1, same
        for other in ({"steps": 15}, {"temperature": 1}, {"confidence": 0.5}, {"refresh": True},
                      {"candidates": GENES}, {"pooling": "clean"}):
            assert denoise({**base, **other}, d)["usage"]["cached"] == 0, other
        assert denoise({**base, "temperature": 1, "mask": {**base["mask"], "seed": 9}},
                       d)["usage"]["cached"] == 0


def test_more_cells_begin_with_the_same_ones_and_no_gene_comes_twice():
    few = post(daemon(), "/v1/generate", {"n": 2, "length": [12, 30, 17], "seed": 4})["data"]
    many = post(daemon(), "/v1/generate", {"n": 9, "length": [12, 30, 17], "seed": 4})["data"]
    for a, b in zip(few, many):
        assert a["genes"] == b["genes"] and a["values"] == b["values"]
    assert {item["tokens"] for item in many} <= {12, 17, 30} and len(many) == 9
    for item in many:
        assert len(set(item["genes"])) == len(item["genes"]) == item["tokens"]
        assert min(item["values"]) >= 0 and set(item["genes"]) <= set(GENES)
    other = post(daemon(), "/v1/generate", {"n": 2, "length": [12, 30, 17], "seed": 5})["data"]
    assert [i["genes"] for i in other] != [i["genes"] for i in few]


def test_without_a_length_those_of_the_training_cells_are_drawn():
    path = harness.scratch("lengths")
    models.write_model(path, GENES, MAX_GENE_LEN=60)
    with open(os.path.join(path, "lengths.tsv"), "w", encoding="utf-8") as f:
        f.write("tokens\n7\n19\n")
    with Daemon(path) as d:
        items = post(d, "/v1/generate", {"n": 12, "seed": 1})["data"]
        assert {item["tokens"] for item in items} == {7, 19}
        items = post(d, "/v1/generate", {"n": 2, "length": 5})["data"]
        assert {item["tokens"] for item in items} == {5}
    with open(os.path.join(path, "lengths.tsv"), "w", encoding="utf-8") as f:
        f.write("tokens\n61\n")
    said = harness.refused(["--model", path])
    assert "line 2: must be a number from 1 to 60" in said, said


def test_a_client_that_leaves_stops_its_cells_within_a_step():
    body = {"cells": harness.slow_cells(2), "mask": {"fraction": 0.9}, "steps": 500}
    with Daemon(harness.slow_model()) as d:
        with d.socket() as s:
            data = json.dumps(body).encode()
            s.sendall(b"POST /v1/denoise HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(data) + data)
            d.wait_metric("scdiva_engine_tokens_total", lambda v: v > 3000)
        d.wait_metric("scdiva_queue_tokens", lambda v: v == 0)
        tokens = d.metric("scdiva_engine_tokens_total")
        assert tokens < 500 * 1200
        d.embed({"cells": harness.slow_cells(1, seed=5)})
        assert d.metric("scdiva_engine_tokens_total") - tokens <= 1200 * 3


def test_an_embedding_passes_by_a_long_denoising_and_neither_starves():
    body = {"cells": harness.slow_cells(3, length=150), "mask": {"fraction": 0.9}, "steps": 30}
    with Daemon(harness.slow_model()) as d:
        done = []
        long = threading.Thread(target=lambda: done.append(denoise(body, d)))
        long.start()
        d.wait_metric("scdiva_engine_tokens_total", lambda v: v > 900)
        n = 0
        while not done:
            d.embed({"cells": harness.slow_cells(1, seed=100 + n, length=150)})
            n += 1
        long.join()
        assert n >= 3, n
        assert all(item["passes"] == 30 for item in done[0]["data"])


def test_a_deadline_ends_a_long_course():
    body = {"cells": harness.slow_cells(1), "mask": {"fraction": 0.9}, "steps": 1000,
            "timeout_ms": 300}
    with Daemon(harness.slow_model()) as d:
        check_problem(d.post("/v1/denoise", body), 504, "deadline-exceeded")
        d.wait_metric("scdiva_queue_tokens", lambda v: v == 0)


# ---- bad input -----------------------------------------------------------------------------------

def test_what_cannot_be_denoised_is_refused_with_its_place():
    one = {"cells": cells(1)}
    gene = one["cells"][0]["genes"][0]
    for fields, pointer, detail in (
            ({}, "", "mask.*impute"),
            ({"mask": {"fraction": 0.2}, "impute": [gene]}, "/impute", "not both"),
            ({"mask": {"fraction": 0.2, "genes": [gene]}}, "/mask", "both"),
            ({"mask": {}}, "/mask", "fraction"),
            ({"mask": 3}, "/mask", "object"),
            ({"mask": {"fraction": 0}}, "/mask/fraction", "above 0"),
            ({"mask": {"fraction": 1}}, "/mask/fraction", "below 1"),
            ({"mask": {"fraction": "x"}}, "/mask/fraction", "above 0"),
            ({"mask": {"fraction": 0.5, "sed": 1}}, "/mask/sed", "known are"),
            ({"mask": {"fraction": 0.5, "a/b~": 1}}, "/mask/a~1b~0", "unknown"),
            ({"mask": {"fraction": 0.5, "seed": -1}}, "/mask/seed", "whole number"),
            ({"mask": {"genes": []}}, "/mask/genes", "at least one"),
            ({"mask": {"genes": [gene, 7]}}, "/mask/genes/1", "name"),
            ({"mask": {"genes": [gene, "NOSUCH"]}}, "/mask/genes/1", "NOSUCH.*no gene"),
            ({"impute": ["NOSUCH"]}, "/impute/0", "NOSUCH.*no gene"),
            ({"impute": [gene, gene]}, "/impute/1", "twice"),
            ({"impute": "GENE1"}, "/impute", "array"),
            ({"impute": [gene], "temperature": 1}, "/temperature", "mask"),
            ({"impute": [gene], "candidates": [gene]}, "/candidates", "mask"),
            ({"mask": {"fraction": 0.5}, "steps": 0}, "/steps", "1 to 1000"),
            ({"mask": {"fraction": 0.5}, "steps": 1001}, "/steps", "1 to 1000"),
            ({"mask": {"fraction": 0.5}, "steps": 1.5}, "/steps", "whole"),
            ({"mask": {"fraction": 0.5}, "temperature": -1}, "/temperature", "0"),
            ({"mask": {"fraction": 0.5}, "temperature": 1e9}, "/temperature", "100"),
            ({"mask": {"fraction": 0.5}, "confidence": 0}, "/confidence", "above 0"),
            ({"mask": {"fraction": 0.5}, "refresh": 1}, "/refresh", "true or false"),
            ({"mask": {"fraction": 0.5}, "pooling": "mean"}, "/pooling", "visible"),
            ({"mask": {"fraction": 0.5}, "candidates": ["NOSUCH"]}, "/candidates/0", "no gene"),
            ({"mask": {"fraction": 0.5}, "candidates": GENES[:2]}, "/cells/0", "candidates"),
            ({"mask": {"genes": one["cells"][0]["genes"]}}, "/cells/0", "nothing to go by"),
            ({"impute": one["cells"][0]["genes"]}, "/cells/0", "nothing to go by"),
            ({"impute": GENES}, "/cells/0", "nothing|at most 60")):
        check_problem(daemon().post("/v1/denoise", {**one, **fields}), 422, "invalid", pointer,
                      detail)
    check_problem(daemon().post("/v1/denoise", {"mask": {"fraction": 0.5}}), 422, "invalid")
    lone = {"cells": [{"genes": ["GENE1"], "values": [3]}], "mask": {"fraction": 0.5}}
    check_problem(daemon().post("/v1/denoise", lone), 422, "invalid", "/cells/0", "one token")
    assert daemon().metric("scdiva_engine_cells_total") >= 0  # and it is still there


def test_a_bad_cell_can_be_skipped():
    body = {"cells": [{"genes": ["GENE1"], "values": [3]}, cells(1)[0]], "on_error": "skip",
            "mask": {"fraction": 0.5}}
    items = denoise(body)["data"]
    assert items[0]["error"]["pointer"] == "/cells/0" and items[1]["genes"]


def test_a_cell_without_the_genes_to_hide_has_nothing_found_and_it_is_said():
    body = {"cells": [{"genes": ["GENE1", "GENE2"], "values": [3, 1]},
                      {"genes": ["GENE2", "GENE7"], "values": [3, 1]}],
            "mask": {"genes": ["GENE1"]}}
    answer = denoise(body)
    assert answer["data"][1]["genes"] == [] and answer["data"][1]["scores"] is None
    assert len(answer["data"][0]["genes"]) == 1
    assert [w["code"] for w in answer["warnings"] if w["code"] != "pooling"] == ["nothing-hidden"]


def test_what_cannot_be_generated_is_refused_with_its_place():
    for body, pointer, detail in (
            ({"n": 2}, "/length", "missing"),
            ({"n": 0, "length": 5}, "/n", "at least 1"),
            ({"n": 1.5, "length": 5}, "/n", "whole"),
            ({"length": 0}, "/length", "tokens"),
            ({"length": 61}, "/length", "at most 60"),
            ({"length": [5, 61]}, "/length/1", "at most 60"),
            ({"length": []}, "/length", "draw"),
            ({"length": 5, "seed": "x"}, "/seed", "whole"),
            ({"length": 5, "pooling": "clean"}, "/pooling", "nothing behind"),
            ({"length": 5, "steps": 2000}, "/steps", "1000"),
            ({"length": 5, "genes": ["GENE1", "GENE2"], "values": [1]}, "/values", "exactly one"),
            ({"length": 5, "genes": ["GENE1"], "values": ["x"]}, "/values/0", "number, or null"),
            ({"length": 5, "genes": ["GENE1"], "values": []}, "/values", "array of numbers"),
            ({"length": 5, "values": [1]}, "/values", "exactly one"),
            ({"length": 1, "genes": ["GENE1", "GENE2"]}, "/genes", "as many"),
            ({"length": 5, "genes": ["GENE1", "NOSUCH"]}, "/genes/1", "no gene of the model"),
            ({"length": 5, "genes": ["GENE1", "GENE1"]}, "/genes/1", "twice without"),
            ({"length": 5, "genes": ["GENE1", "GENE1"], "values": [None, 3]}, "/genes/0",
             "with a value too"),
            ({"length": 5, "genes": ["GENE1", "GENE1"], "values": [0, None]}, "/genes/1",
             "with a value too"),
            ({"length": 5, "genes": ["GENE1", "GENE2"], "values": [None, -2]}, "/values/1",
             "value 1 is -2.*scaled"),
            ({"length": 5, "cells": [{"genes": ["GENE1", "X"], "values": [3, None]}]},
             "/cells/0/genes/1", "no gene"),
            ({"length": 5, "genes": ["GENE1", "X"], "matrix": {
                "format": "csr", "indptr": [0, 2], "indices": [0, 1], "data": [3, None]}},
             "/matrix/data/1", "no gene"),
            ({"length": 5, "genes": GENES[:4], "candidates": GENES[:4]}, "/genes", "candidates"),
            ({"length": 2, "genes": ["GENE1", "GENE2"], "values": [1, 2]}, "/genes", "nothing"),
            ({"length": 5, "genes": ["GENE1", "GENE2"], "values": [1, -2]}, "/values/1", "scaled"),
            ({"length": 5, "n": 2, "genes": ["X"], "values": [1]}, "/genes", "no known gene"),
            ({"length": 5, "cells": cells(1), "values": [1]}, "/values", "beside .*cells"),
            ({"length": 5, **MATRIX, "values": [1]}, "/values", "beside .*matrix"),
            ({"length": 2, "n": 3, **MATRIX}, "/matrix/indptr/1", "nothing to find"),
            ({"length": 5, "cells": cells(1)}, "/cells/0", "nothing to find"),
            ({"length": 5, "candidates": GENES[:4]}, "/cells/0", "candidates")):
        check_problem(daemon().post("/v1/generate", body), 422, "invalid", pointer, detail)
    check_problem(daemon().post("/v1/generate", {"n": 10**8, "length": 5}), 413, "too-large")


def test_the_real_model_answers_real_cells():
    path = os.path.join(harness.TOP, "config", "models", "pbmc")
    with Daemon(path) as d:
        answer = denoise(demo_request(6, impute=["CD3D", "LYZ"]), d)
        assert answer["warnings"] == [] and len(answer["data"]) == 6, answer
        answer = denoise(demo_request(6, mask={"fraction": 0.3}, steps=4), d)
        for item, cell in zip(answer["data"], demo_cells(6)):
            assert 0 <= item["scores"]["gene_recall"] <= 1 and item["passes"] == 4
            assert abs(len(item["genes"]) - 0.3 * len(cell["genes"])) <= 1
        answer = post(d, "/v1/generate", {"n": 2, "length": 60, "genes": ["MS4A1", "CD79A"],
                                          "values": [None, 3], "steps": 4})
        for item in answer["data"]:
            assert item["genes"][:2] == ["CD79A", "MS4A1"] and item["values"][1] > 0.5, item
