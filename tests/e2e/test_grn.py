"""test_grn.py - POST /v1/grn against the float64 reference, its promises and its refusals."""
import json
import os

import numpy as np

import harness
import reference
import reference_denoise as ref
from harness import Daemon, check_problem, demo_request
from test_denoise import FP32, GENES, cells, daemon, masking_model, plain_model, post


def pairs(items):
    """Items without their place and where they come from"""
    return [{k: v for k, v in item.items() if k not in ("index", "cache")} for item in items]


def check(make, fields, layers, heads):
    """Every item of an answer with all targets is the reference's, the heaviest first."""
    model = reference.Model(make())
    body = {"cells": cells(6, seed=8), "regulators": ["GENE3", "GENE40", "GENE41"], **fields}
    answer = post(daemon(make), "/v1/grn", {**body, "top_k": 90})
    serialized = [model.serialize(c["genes"], c["values"])[:2] for c in body["cells"]]
    token = model.genes.symbol
    want = ref.associate(model, serialized, [token[r] for r in body["regulators"]], layers, heads)
    seen = {}
    for item in answer["data"]:
        seen[token[item["regulator"]], token[item["target"]]] = item
    assert seen.keys() == want.keys() and len(want) > 50, (len(seen), len(want))
    for pair, (weight, effect, coexpression, n) in want.items():
        item = seen[pair]
        assert abs(item["weight"] - weight) < 1e-3 * max(1, weight), (pair, item, weight)
        assert abs(item["effect"] - effect) < 1e-3, (pair, item, effect)
        assert item["sign"] == np.sign(item["effect"]) and item["cells"] == n, (pair, item)
        if coexpression is None:
            assert item["coexpression"] is None, (pair, item)
        else:
            assert abs(item["coexpression"] - coexpression) < 1e-4, (pair, item, coexpression)
    for r in body["regulators"]:
        weights = [i["weight"] for i in answer["data"] if i["regulator"] == r]
        assert weights == sorted(weights, reverse=True)
    few = post(daemon(make), "/v1/grn", {**body, "top_k": 4})["data"]
    assert [i["index"] for i in few] == list(range(len(few)))
    for r in body["regulators"]:
        assert pairs(i for i in few if i["regulator"] == r) == \
            pairs(i for i in answer["data"] if i["regulator"] == r)[:4]


def test_associations_match_over_all_layers_and_heads():
    check(masking_model, {}, [0, 1, 2], [0, 1, 2])


def test_chosen_layers_and_heads_alone_count():
    check(masking_model, {"layers": [1], "heads": [0, 2]}, [1], [0, 2])


def test_a_model_without_value_masking_answers_too():
    check(plain_model, {"layers": [2, 0]}, [0, 2], [0, 1, 2])


def test_the_same_request_is_answered_from_the_cache_with_the_same_items():
    body = {"cells": cells(3, seed=2), "regulators": cells(3, seed=2)[0]["genes"][:2]}
    with Daemon(masking_model()) as d:
        first, again = post(d, "/v1/grn", body), post(d, "/v1/grn", body)
        other = post(d, "/v1/grn", {**body, "layers": [0]})
    assert pairs(first["data"]) == pairs(again["data"]) and again["usage"]["cached"] > 0
    assert [{i["cache"] for i in a["data"]} for a in (first, again)] == [{"miss"}, {"hit"}]
    assert {i["tokens"] for i in again["data"]} == {again["usage"]["tokens"]}
    assert other["usage"]["cached"] == 0 and other["data"] != first["data"]


def test_a_cell_of_two_genes_and_one_of_one():
    body = {"cells": [{"genes": ["GENE1", "GENE2"], "values": [3, 1]},
                      {"genes": ["GENE1"], "values": [3]}], "regulators": ["GENE1"]}
    items = post(daemon(), "/v1/grn", body)["data"]
    assert [(i["target"], i["cells"], i["coexpression"]) for i in items] == [("GENE2", 1, None)]
    lone = {**body, "cells": body["cells"][1:]}
    check_problem(daemon().post("/v1/grn", lone), 422, "invalid", "/regulators", "another gene")


def test_what_cannot_be_asked_is_refused_with_its_place():
    one = {"cells": cells(1)}
    absent = next(g for g in GENES if g not in one["cells"][0]["genes"])
    present = one["cells"][0]["genes"][0]
    for fields, pointer, detail in (
            ({}, "", "regulators"),
            ({"regulators": []}, "/regulators", "at least one"),
            ({"regulators": GENES[:33]}, "/regulators", "at most 32"),
            ({"regulators": ["NOSUCH"]}, "/regulators/0", "no gene"),
            ({"regulators": [present, present]}, "/regulators/1", "twice"),
            ({"regulators": [absent]}, "/regulators", "none of them"),
            ({"regulators": [present], "layers": [3]}, "/layers/0", "0 to 2"),
            ({"regulators": [present], "layers": []}, "/layers", "at least one"),
            ({"regulators": [present], "heads": [0, 7]}, "/heads/1", "0 to 2"),
            ({"regulators": [present], "top_k": 0}, "/top_k", "whole number")):
        check_problem(daemon().post("/v1/grn", {**one, **fields}), 422, "invalid", pointer, detail)
    answer = post(daemon(), "/v1/grn", {**one, "regulators": [absent, present]})
    assert "not-expressed" in [w["code"] for w in answer["warnings"]], answer


def test_the_real_model_answers_real_cells():
    path = os.path.join(harness.TOP, "config", "models", "pbmc")
    with Daemon(path) as d:
        answer = post(d, "/v1/grn", demo_request(10, regulators=["CD74", "LYZ"], top_k=5))
    assert len(answer["data"]) == 10 and answer["warnings"] == [], json.dumps(answer)[:2000]
