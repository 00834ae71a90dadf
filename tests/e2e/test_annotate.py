"""test_annotate.py - POST /v1/annotations: probabilities against the float64 reference, what is
cached and what is not, which head answers, and what is refused.

fp32: probabilities within 1e-4 (logits of a few units, each within 1e-5 of its size). bf16: 0.05,
for eight bits of mantissa leave the logits about a hundredth off.
"""
import concurrent.futures
import hashlib
import json
import os

import numpy as np

import harness
import models
import reference
from harness import Daemon, check_problem

FP32 = ["--precision", "fp32"]
LABELS = [{"label": "B", "ontology_id": "CL:0000236"}, {"label": "CD4 T", "ontology_id": None},
          "CD8 T", {"label": "NK \"bright\"", "ontology_id": "CL:0000938"}, "m\u00e9gakaryocyte"]
NAMES = [label if isinstance(label, str) else label["label"] for label in LABELS]
LAST_LAYER = ["layers.2." + t for t in (
    "attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "attn.o_proj.weight",
    "norm1.weight", "norm2.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
    "mlp.down_proj.weight")]


def one_head():
    """The small model with one head. A path."""
    path = harness.scratch("one_head")
    if not os.path.exists(path):
        models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=300)
        models.write_head(path, "coarse", LABELS, seed=3)
    return path


def three_heads():
    """A plain head, one that changes the last layer, and one that changes a bit of everything."""
    path = harness.scratch("three_heads")
    if not os.path.exists(path):
        models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=300)
        models.write_head(path, "coarse", LABELS, seed=3)
        models.write_head(path, "last", ["x", "y"], seed=4, backbone=LAST_LAYER, dtype="BF16")
        models.write_head(path, "deep", LABELS + ["T2"], seed=5, mlp_dim=600, threshold=0.9,
                          backbone=[
            "gene_embedding.weight", "value_encoder.0.weight", "value_encoder.2.bias",
            "input_proj.weight", "latent_encoder.mlp.1.weight", "latent_encoder.mlp.3.weight",
            "layers.0.attn.k_proj.weight", "layers.1.mlp.up_proj.weight", "final_norm.weight"])
    return path


def annotate(d, body, headers=None):
    """POST /v1/annotations that must succeed"""
    answer = d.post("/v1/annotations", body, headers)
    assert answer.status == 200, answer
    return answer


def request(n=4, **fields):
    return harness.demo_request(n, **fields)


def probabilities(answer, names):
    """(cells, C) in the order of names; needs top_k to list them all"""
    rows = []
    for item in answer.json()["data"]:
        found = {t["label"]: t["probability"] for t in item["top"]}
        assert sorted(found) == sorted(names), item
        rows.append([found[name] for name in names])
    return np.array(rows)


def check_against_reference(answer, path, name, body, within=1e-4):
    model = reference.Model(path)
    head = reference.Head(model, os.path.join(path, "heads", name))
    expected = reference.annotate(model, head, body)
    got, want = probabilities(answer, head.labels), np.stack([p for p, _ in expected])
    assert np.abs(got - want).max() <= within, f"off by {np.abs(got - want).max():.2e}"
    for item, (_, info) in zip(answer.json()["data"], expected):
        assert {k: item[k] for k in info} == info, f"{item} is not {info}"
    return want


# ---- what is answered ----------------------------------------------------------------------------

def test_real_cells_match_the_reference():
    body = request(40, top_k=5)
    with Daemon(one_head(), flags=FP32) as d:
        want = check_against_reference(annotate(d, body), one_head(), "coarse", body)
    assert len({int(row.argmax()) for row in want}) > 1 and want.max() > 0.6, "a dull head"


def test_heads_that_change_the_backbone_match_and_leave_the_embeddings_alone():
    path = three_heads()
    with Daemon(path, flags=FP32) as d:
        before = d.embed(request(10)).embeddings()
        for name, k in (("last", 2), ("deep", 6), ("coarse", 5)):
            body = request(10, head=name, top_k=k)
            check_against_reference(annotate(d, body), path, name, body)
    with Daemon(path, flags=FP32) as d:
        assert d.embed(request(10)).embeddings().tobytes() == before.tobytes()
    with Daemon(harness.small_model(), flags=FP32) as d:
        assert d.embed(request(10)).embeddings().tobytes() == before.tobytes()


def test_a_head_with_a_linear_half_matches_the_reference():
    path = harness.scratch("linear_heads")
    models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=120)
    models.write_head(path, "linear", LABELS, seed=3, linear=True)
    models.write_head(path, "short", LABELS, seed=3, linear=True, dtype="BF16")
    models.write_head(path, "plain", LABELS, seed=3)
    with Daemon(path, flags=FP32) as d:
        for name in ("linear", "short"):
            body = request(40, head=name, top_k=5)
            want = check_against_reference(annotate(d, body), path, name, body)
            plain = annotate(d, {**body, "head": "plain"})
            assert np.abs(want - probabilities(plain, NAMES)).max() > 0.1, "a dull half"


def test_a_head_sees_the_genes_of_its_training_data_alone():
    path = harness.scratch("half_taught")
    genes = harness.demo_body()["genes"]
    models.write_model(path, genes, MAX_GENE_LEN=300)
    models.write_head(path, "half", LABELS, seed=3, genes=[[2, 2 + len(genes) // 2]])
    models.write_head(path, "whole", LABELS, seed=3)
    half = set(genes[:len(genes) // 2])
    body = request(10, top_k=5, head="half")
    with Daemon(path, flags=FP32) as d:
        assert [h["genes"] for h in d.get("/v1/models").json()["data"][0]["heads"]] == [
            len(genes) // 2, None]
        answer = annotate(d, body)
        items = answer.json()["data"]
        for item, cell in zip(items, body["cells"]):
            left_out = sum(g not in half for g in cell["genes"])
            assert item["genes_unused"] == left_out > 0, item
            assert item["genes_known"] == len(cell["genes"]) == left_out + item["tokens"], item
        warning, = answer.json()["warnings"]
        assert warning["code"] == "genes-unused" and f"{len(genes) // 2} genes" in warning["detail"]
        cells = [{**c, "total": sum(c["values"]),
                  "genes": [g for g in c["genes"] if g in half],
                  "values": [v for g, v in zip(c["genes"], c["values"]) if g in half]}
                 for c in body["cells"]]
        same = annotate(d, {**body, "cells": cells, "head": "whole"}).json()["data"]
        assert [i["top"] for i in items] == [i["top"] for i in same]
        nothing = {**body["cells"][0], "genes": [genes[-1]], "values": [3]}
        answer = d.post("/v1/annotations", {"cells": [nothing], "head": "half"})
        check_problem(answer, 422, "invalid", "/cells/0", "none of its 1 expressed genes")


def test_whatever_precision_was_chosen_is_near_the_reference():
    body = request(20, top_k=5)
    answer = annotate(harness.shared(one_head), body)
    check_against_reference(answer, one_head(), "coarse", body, within=0.05)


def test_the_matrix_form_answers_the_same_bytes_as_the_cells():
    with Daemon(one_head(), flags=["--cache-mb", "0"]) as d:
        items = [annotate(d, body).json()["data"]
                 for body in (request(), {**request(), "cells": request()["cells"]}, matrix(4))]
    assert items[0] == items[1] == items[2]


def matrix(n):
    body = harness.demo_body()
    end = body["matrix"]["indptr"][n]
    csr = {**body["matrix"], "indptr": body["matrix"]["indptr"][:n + 1],
           "indices": body["matrix"]["indices"][:end], "data": body["matrix"]["data"][:end]}
    return {**body, "matrix": csr, "ids": body["ids"][:n]}


def test_an_item_has_the_members_of_the_specification():
    d = harness.shared(one_head)
    answer = annotate(d, request(3, sample_id="s7", external_ids=[1, 2, 3])).json()
    model = d.get("/v1/models").json()["data"][0]
    assert list(answer) == ["object", "model", "head", "data", "usage", "warnings", "sample_id",
                            "external_ids"], answer
    assert answer["model"] == {"name": model["name"], "digest": model["digest"]}
    assert answer["head"] == {"name": "coarse", "digest": model["heads"][0]["digest"],
                              "threshold": 0.4}
    assert answer["sample_id"] == "s7" and answer["usage"]["cells"] == 3
    ontology = {"B": "CL:0000236", "NK \"bright\"": "CL:0000938"}
    for i, item in enumerate(answer["data"]):
        assert list(item) == ["index", "id", "tokens", "genes_known", "genes_unknown",
                              "genes_truncated", "cache", "genes_unused", "label", "ontology_id",
                              "probability", "unknown", "top"], item
        assert item["index"] == i and item["id"] == harness.demo_cells()[i]["id"]
        assert item["ontology_id"] == ontology.get(item["label"])
        assert item["top"][0] == {"label": item["label"], "probability": item["probability"]}
        listed = [t["probability"] for t in item["top"]]
        assert len(listed) == 3 and listed == sorted(listed, reverse=True), item
        assert item["unknown"] == (item["probability"] < 0.4), item


def test_top_k_lists_from_the_best_one_to_all_and_two_labels_are_all_by_default():
    d = harness.shared(one_head)
    everything = annotate(d, request(top_k=5)).json()["data"]
    assert all(abs(sum(t["probability"] for t in i["top"]) - 1) < 1e-6 for i in everything)
    for k in range(1, 6):
        for item, whole in zip(annotate(d, request(top_k=k)).json()["data"], everything):
            assert item["top"] == whole["top"][:k], item
    with Daemon(three_heads()) as d2:
        assert all(len(i["top"]) == 2 for i in annotate(d2, request(head="last")).json()["data"])


def test_equal_probabilities_stand_in_the_order_of_the_labels():
    path = models.write_model(harness.scratch("even"), ["A", "B"])
    config = models.config_for(2)
    flat = {k: 0 * t for k, t in models.head_tensors(config, 4, 3, 1).items()}
    models.write_head(path, "even", ["z", "y", "x", "w"], tensors=flat)
    with Daemon(path) as d:
        item = annotate(d, {"cells": [{"genes": ["A"], "values": [1]}], "top_k": 4,
                            "threshold": 0.25}).json()["data"][0]
    assert [t["label"] for t in item["top"]] == ["z", "y", "x", "w"], item
    assert item["label"] == "z" and item["probability"] == 0.25 and not item["unknown"], item


def test_the_threshold_is_the_requests_or_else_the_heads_and_0_never_abstains():
    d = harness.shared(one_head)
    best = [i["probability"] for i in annotate(d, request(40)).json()["data"]]
    for threshold in (0, 0.3, best[0], 0.7, 1):
        answer = annotate(d, request(40, threshold=threshold)).json()
        assert answer["head"]["threshold"] == threshold, answer["head"]
        assert [i["unknown"] for i in answer["data"]] == [p < threshold for p in best], threshold
    with Daemon(three_heads()) as d2:
        answer = annotate(d2, request(40, head="deep")).json()
    assert answer["head"]["threshold"] == 0.9
    assert all(i["unknown"] == (i["probability"] < 0.9) and i["label"] for i in answer["data"])


def test_an_untrained_model_and_an_unknown_field_are_warned_about():
    path = models.write_model(harness.scratch("untrained_head"), ["A", "B"], trained=False)
    models.write_head(path, "h", ["x", "y"])
    with Daemon(path) as d:
        answer = annotate(d, {"cells": [{"genes": ["A"], "values": [1]}], "topk": 2}).json()
    assert [w["code"] for w in answer["warnings"]] == ["untrained", "unknown-field"], answer
    assert "topk" in answer["warnings"][1]["detail"]


# ---- the cache -----------------------------------------------------------------------------------

def without_cache(answer):
    items = answer.json()["data"]
    said = [{k: v for k, v in item.items() if k != "cache"} for item in items]
    return said, [item["cache"] for item in items]


def test_hit_and_miss_answer_the_same_and_top_k_and_threshold_do_not_split_the_cache():
    with Daemon(one_head()) as d:
        first, how = without_cache(annotate(d, request(8)))
        assert how == ["miss"] * 8, how
        second, how = without_cache(annotate(d, request(8)))
        assert how == ["hit"] * 8 and first == second, how
        for fields in ({"top_k": 5}, {"threshold": 0.99}, {"top_k": 1, "threshold": 0}):
            assert without_cache(annotate(d, request(8, **fields)))[1] == ["hit"] * 8
        assert d.metric("scdiva_engine_cells_total") == 8
        again = [annotate(d, request(8)).body for _ in range(3)]  # now whole bodies are known
        assert again[0] == again[1] == again[2]
        assert json.loads(again[0])["usage"]["cached"] == 8


def test_embeddings_and_heads_have_cache_entries_of_their_own():
    with Daemon(three_heads()) as d:
        assert without_cache(annotate(d, request(head="coarse")))[1] == ["miss"] * 4
        assert without_cache(annotate(d, request(head="deep")))[1] == ["miss"] * 4
        for _ in range(2):  # the same body on two routes
            assert "embedding" in d.embed(request(head="coarse")).json()["data"][0]
            item = annotate(d, request(head="coarse")).json()["data"][0]
            assert item["cache"] == "hit" and "label" in item
        assert d.metric("scdiva_engine_cells_total") == 12


def test_the_same_body_answered_from_memory_on_one_route_is_not_on_the_other():
    with Daemon(one_head()) as d:
        body = json.dumps(request(2)).encode()
        for _ in range(3):
            embedded, annotated = d.embed(body).json(), annotate(d, body).json()
        assert "embedding" in embedded["data"][0] and "label" in annotated["data"][0]


def test_the_cache_survives_a_restart_and_a_changed_head_does_not_use_it():
    path = models.write_model(harness.scratch("restart_head"), harness.demo_body()["genes"])
    models.write_head(path, "h", LABELS, seed=3)
    data = harness.scratch()
    with Daemon(path, data=data) as d:
        first, _ = without_cache(annotate(d, request()))
        embedded = d.embed(request()).embeddings()
        digest = d.get("/v1/models").json()["data"][0]["heads"][0]["digest"]
    with Daemon(path, data=data) as d:
        second, how = without_cache(annotate(d, request()))
        assert how == ["hit"] * 4 and first == second
    models.write_head(path, "h", LABELS, seed=4)
    with Daemon(path, data=data) as d:
        third, how = without_cache(annotate(d, request()))
        assert how == ["miss"] * 4 and third != first
        assert d.get("/v1/models").json()["data"][0]["heads"][0]["digest"] != digest
        answer = d.embed(request())
        assert {i["cache"] for i in answer.json()["data"]} == {"hit"}, "embeddings stay cached"
        assert answer.embeddings().tobytes() == embedded.tobytes()


def test_a_cell_has_the_same_bytes_alone_in_any_batch_and_uncached():
    with Daemon(one_head(), flags=["--cache-mb", "0"]) as d:
        together, how = without_cache(annotate(d, request(40)))
        assert how == ["miss"] * 40
        alone = [without_cache(annotate(d, {**request(), "cells": [cell]}))[0][0]
                 for cell in harness.demo_cells(40)]
    for i, item in enumerate(alone):
        assert {**item, "index": i} == together[i], i


def test_64_clients_at_once_share_work_and_get_the_same_bytes():
    with Daemon(three_heads()) as d:
        def ask(i):
            name = ("coarse", "deep", None)[i % 3]
            if name is None:
                return name, d.embed(request(6)).json()["data"]
            return name, annotate(d, request(6, head=name)).json()["data"]
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(64)))
        for name in ("coarse", "deep", None):
            same = [[{k: v for k, v in item.items() if k != "cache"} for item in items]
                    for n, items in answers if n == name]
            assert all(s == same[0] for s in same), name
            assert {"miss"} < {i["cache"] for _, items in answers for i in items}
        assert d.metric("scdiva_engine_cells_total") == 18, "each cell once for each kind of work"
        assert d.metric("scdiva_requests_total", route="annotations", code="200") == 43


# ---- what is refused -----------------------------------------------------------------------------

def test_bad_fields_are_refused_with_their_pointers():
    d = harness.shared(one_head)
    for fields, pointer, detail in (
            ({"top_k": 0}, "/top_k", "whole number from 1"),
            ({"top_k": -3}, "/top_k", "whole number"),
            ({"top_k": 2.5}, "/top_k", "whole number"),
            ({"top_k": "3"}, "/top_k", "whole number"),
            ({"top_k": 6}, "/top_k", "is 6, head .*coarse.* has 5 labels"),
            ({"threshold": 1.5}, "/threshold", "from 0"),
            ({"threshold": -0.1}, "/threshold", "from 0"),
            ({"threshold": "high"}, "/threshold", "from 0"),
            ({"threshold": None}, "/threshold", "from 0"),
            ({"head": 3}, "/head", "name of a head"),
            ({"head": ""}, "/head", "name of a head")):
        check_problem(d.post("/v1/annotations", request(1, **fields)), 422, "invalid", pointer,
                      detail)
    both = check_problem(d.post("/v1/annotations", request(1, top_k=0, threshold=2)), 422,
                         "invalid")
    assert len(both["errors"]) == 2, both
    check_problem(d.post("/v1/annotations", {"cells": []}), 422, "invalid")
    check_problem(d.post("/v1/annotations", b"{"), 400, "malformed-json")
    assert d.get("/v1/annotations").status == 405


def test_a_head_must_be_chosen_among_several_and_they_are_named():
    with Daemon(three_heads()) as d:
        check_problem(d.post("/v1/annotations", request(1)), 422, "invalid", "/head",
                      'coarse.*deep.*last')
        check_problem(d.post("/v1/annotations", request(1, head="fine")), 404, "not-found",
                      detail='no annotation head .*fine.*coarse.*deep.*last')


def test_a_model_without_heads_says_so():
    d = harness.shared()
    for fields in ({}, {"head": "coarse"}):
        check_problem(d.post("/v1/annotations", request(1, **fields)), 422, "invalid", "/model",
                      "has no annotation head")
    d.embed(request(1))


def test_the_head_is_looked_for_in_the_model_that_was_asked():
    with Daemon(harness.small_model(), one_head()) as d:
        check_problem(d.post("/v1/annotations", request(1)), 422, "invalid", "/model")
        answer = annotate(d, request(1, model="one_head")).json()
        assert answer["model"]["name"] == "one_head" and answer["head"]["name"] == "coarse"
        check_problem(d.post("/v1/annotations", request(1, model="x")), 404, "not-found")


def test_bad_cells_are_skipped_when_asked_and_their_place_is_kept():
    d = harness.shared(one_head)
    cells = request(2)["cells"]
    cells.insert(1, {"id": "bad", "genes": ["NOSUCH"], "values": [1]})
    body = {"cells": cells, "input": "log1p_cp10k"}
    check_problem(d.post("/v1/annotations", body), 422, "invalid", "/cells/1.*")
    answer = annotate(d, {**body, "on_error": "skip"}).json()
    assert [("error" in i, i["id"]) for i in answer["data"]] == [
        (False, cells[0]["id"]), (True, "bad"), (False, cells[2]["id"])], answer
    assert answer["usage"]["cells"] == 2


def test_accept_npy_is_for_embeddings_alone():
    answer = annotate(harness.shared(one_head), request(1), {"Accept": "application/x-npy, */*"})
    assert answer.headers["Content-Type"] == "application/json"


# ---- start ---------------------------------------------------------------------------------------

def fresh_model(name):
    return models.write_model(harness.scratch(name), ["A", "B", "C"])


def test_a_head_of_another_model_is_refused_at_start_with_both_digests():
    path = fresh_model("wrong_digest")
    models.write_head(path, "h", ["x", "y"], model_digest="ab" * 32)
    said = harness.refused(["--model", path])
    assert "ab" * 32 in said and models.digest(path) in said and 'head' in said, said


def test_a_damaged_head_is_refused_at_start_by_file_tensor_and_shapes():
    path = fresh_model("damaged_head")
    folder = models.write_head(path, "h", ["x", "y"])
    weights = os.path.join(folder, "head.safetensors")
    tensors = models.head_tensors({"HIDDEN_DIM": 48}, 2, 37, 1)
    tensors["mlp.2.weight"] = tensors["mlp.2.weight"][:, :36]
    models.write_safetensors(weights, tensors)
    said = harness.refused(["--model", path])
    for part in ("h/head.safetensors", "mlp.2.weight", "[2, 37]", "[2, 36]"):
        assert part in said, said
    with open(weights, "r+b") as f:
        f.truncate(1000)
    assert "truncated" in harness.refused(["--model", path])
    os.unlink(weights)
    assert "h/head.safetensors" in harness.refused(["--model", path])
    models.write_head(path, "h", ["x", "x"])
    assert "given twice" in harness.refused(["--model", path])
    with open(os.path.join(folder, "head.json"), "w", encoding="utf-8") as f:
        f.write("{")
    assert "h/head.json" in harness.refused(["--model", path])


def test_hidden_folders_and_files_beside_the_heads_are_not_looked_at():
    path = fresh_model("hidden_head")
    models.write_head(path, "h", ["x", "y"])
    os.makedirs(os.path.join(path, "heads", ".h.new"))
    with open(os.path.join(path, "heads", "README.md"), "w", encoding="utf-8") as f:
        f.write("notes")
    with Daemon(path) as d:
        assert [h["name"] for h in d.get("/v1/models").json()["data"][0]["heads"]] == ["h"]


# ---- what is told about it -----------------------------------------------------------------------

def test_models_list_their_heads():
    path = three_heads()
    with Daemon(path, harness.small_model()) as d:
        first, second = d.get("/v1/models").json()["data"]
        assert d.get("/v1/models/three_heads").json()["heads"] == first["heads"]
    assert second["heads"] == [] and "annotate" not in second["tasks"]
    assert "embed" in first["tasks"] and "annotate" in first["tasks"]
    assert [h["name"] for h in first["heads"]] == ["coarse", "deep", "last"]
    head = first["heads"][0]
    hasher = hashlib.sha256()
    for name in ("head.json", "head.safetensors"):
        with open(os.path.join(path, "heads", "coarse", name), "rb") as f:
            hasher.update(f.read())
    assert head["digest"] == hasher.hexdigest()
    assert head["task"] == "annotation"
    assert (head["temperature"], head["threshold"], head["backbone"]) == (1.25, 0.4, False)
    assert first["heads"][1]["backbone"] and first["heads"][1]["threshold"] == 0.9
    assert [label["label"] for label in head["labels"]] == NAMES
    assert head["labels"][0]["ontology_id"] == "CL:0000236"
    assert head["labels"][1]["ontology_id"] is None and head["labels"][2]["ontology_id"] is None
