"""test_bundled.py - the bundled model has a head of each task: every route and every program finds
the one of its own, and says so where the other one is named.
"""
import functools
import json
import os
import subprocess

import numpy as np

import files
import harness
import reference
from files import BUNDLED
from harness import Daemon, check_problem, clean_environment, demo_body, demo_request, scdiva_train
from harness import SLOW, scratch
from test_train import write_h5ad

HEADS = {"annotation": "annotation", "perturbation": "perturbation"}  # name: task


@functools.cache
def cells():
    """Counts that look like the real cells'."""
    body = demo_body()
    x = np.zeros((12, len(body["genes"])), dtype=np.float32)
    column = {g: i for i, g in enumerate(body["genes"])}
    for row, (genes, values, _) in zip(x, reference.cells_of(body)):
        row[[column[g] for g in genes]] = np.maximum(1, np.round(np.expm1(values) / 5))
    return write_h5ad("bundled.h5ad", x, genes=body["genes"])


def train(*args, exit=0):
    p = subprocess.run(scdiva_train() + list(args), stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=100 * SLOW,
                       env=clean_environment(), check=False)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    return p.stdout


def heads_of(model):
    return {h["name"]: h["task"] for h in model["heads"]}


def test_each_route_finds_the_head_of_its_task():
    with Daemon(BUNDLED) as d:
        model = d.get("/v1/models").json()["data"][0]
        assert heads_of(model) == HEADS
        assert {"embed", "annotate", "perturb", "denoise", "generate", "grn"} <= set(model["tasks"])
        answer = d.post("/v1/annotations", demo_request(3))
        assert answer.status == 200 and answer.json()["head"]["name"] == "annotation", answer
        ask = {"perturbations": [["STAT1"]]}
        answer = d.post("/v1/perturbations", ask)
        assert answer.status == 200 and answer.json()["head"]["name"] == "perturbation", answer
        check_problem(d.post("/v1/annotations", demo_request(1, head="perturbation")), 404,
                      "not-found", detail='no annotation head .*perturbation.* there is')
        check_problem(d.post("/v1/perturbations", {**ask, "head": "annotation"}), 404,
                      "not-found", detail='no perturbation head .*annotation.* there is')


def test_models_say_how_their_heads_did_on_what_was_held_out():
    said = {}
    for name in HEADS:
        with open(os.path.join(BUNDLED, "heads", name, "head.json"), encoding="utf-8") as f:
            said[name] = json.load(f)["evaluation"]
    with Daemon(BUNDLED) as d:
        heads = {h["name"]: h for h in d.get("/v1/models").json()["data"][0]["heads"]}
    held_out = {k: v for k, v in said["annotation"]["held_out"].items() if k != "loss"}
    assert heads["annotation"]["evaluation"] == held_out
    for context, scores in zip(heads["perturbation"]["contexts"],
                               said["perturbation"]["contexts"], strict=True):
        assert {"name": context["name"], **context["evaluation"]} == scores


def test_controls_have_the_cache_entries_of_embeddings_by_the_heads_genes():
    with open(os.path.join(BUNDLED, "heads", "perturbation", "head.json"), encoding="utf-8") as f:
        readout = set(json.load(f)["readout"])
    body = demo_request(3)
    for cell in body["cells"]:
        kept = [i for i, gene in enumerate(cell["genes"]) if gene in readout]
        assert 0 < len(kept) < len(cell["genes"])
        cell.update({key: [cell[key][i] for i in kept] for key in ("genes", "values")})
    with Daemon(BUNDLED) as d:
        assert d.post("/v1/embeddings", body).status == 200
        body = demo_request(3)
        answer = d.post("/v1/perturbations", {**body, "perturbations": [["STAT1"]]}).json()
        assert answer["usage"]["cached"] == 3 and answer["data"][0]["cache"] == "hit"
        answer = d.post("/v1/denoise", {**body, "mask": {"fraction": 0.3}, "steps": 2}).json()
        assert answer["usage"]["cached"] == 0


def test_scdiva_finds_the_annotation_head():
    out = scratch("bundled.csv")
    files.run("annotate", cells(), "-o", out, "--model", BUNDLED, "-q", "--overwrite")
    said = json.loads(files.run("models", "--model", BUNDLED, "--json")[0])["data"][0]
    assert heads_of(said) == HEADS
    labels = {h["name"]: h for h in said["heads"]}["annotation"]["labels"]
    with open(out, encoding="utf-8") as f:
        assert any(label["label"] in f.read() for label in labels)
    files.says(files.run("models", "--model", BUNDLED)[0], "perturbation (perturbation): ",
               "perturbations)")
    files.says(files.run("annotate", cells(), "-o", scratch("no.csv"), "--model", BUNDLED,
                         "--head", "perturbation", exit=1)[1],
               'no annotation head "perturbation"', '"annotation"')


def test_eval_finds_the_annotation_head():
    out = scratch("bundled.tsv")
    train("eval", "--model", BUNDLED, "--data", cells(), "--predictions", out)
    with open(out, encoding="utf-8") as f:
        assert len(f.readlines()) == 13
    files.says(train("eval", "--model", BUNDLED, "--data", cells(), "--head", "perturbation",
                     exit=1), "perturbation head", "annotation heads")


def test_export_copies_both_heads():
    out = scratch("bundled.bf16")
    train("export", "--model", BUNDLED, "--out", out, "--dtype", "bf16")
    assert sorted(os.listdir(os.path.join(out, "heads"))) == sorted(HEADS)
    with Daemon(out) as d:
        assert heads_of(d.get("/v1/models").json()["data"][0]) == HEADS
        assert d.post("/v1/annotations", demo_request(2)).status == 200
        assert d.post("/v1/perturbations", {"perturbations": [["STAT1"]]}).status == 200
