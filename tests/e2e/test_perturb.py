"""test_perturb.py - scdiva-train finetune perturbation and POST /v1/perturbations: pseudobulks,
additive effects and the network against numpy, what is cached, which controls answer, and what is
refused.

The screen is made here: two cell lines, genes activated in one and knocked down in the other, with
additive effects and one gene that only a pair has.
"""
import functools
import json
import os
import shutil
import subprocess

import numpy as np

import harness
import reference
from harness import SLOW, Daemon, check_problem, clean_environment, scdiva_train, scratch
from test_train import write_h5ad

N_GENES, MAX_TOKENS = 40, 25
SINGLES = [f"GENE{i}" for i in range(30, 36)]
PAIRS = ["GENE30+GENE31", "GENE32+GENE37", "GENE33+ALIEN"]
FEW = "GENE34+GENE35"
SCREEN = {"line_a": ("CRISPRa", SINGLES + PAIRS), "line_k": ("CRISPRi", SINGLES[:4])}
QUICK = ["--context-column", "line", "--direction-column", "how", "--epochs", "4", "--cells", "4",
         "--mlp", "12", "--batch", "32", "--lr", "0.01", "--folds", "3", "--dtype", "f32", "--seed",
         "3"]
BASELINES = ["no_change", "mean", "additive", "ridge", "nearest", "effects"]


# ---- data and runs -------------------------------------------------------------------------------

@functools.cache
def screen():
    """counts (cells, genes) and the obs columns"""
    rng = np.random.default_rng(5)
    effect = {g: rng.normal(0, 0.6, N_GENES) for g in SINGLES + ["GENE37", "ALIEN"]}
    x, line, condition, how = [], [], [], []
    for name, (kind, conditions) in SCREEN.items():
        base = rng.gamma(1, 4, N_GENES) + 0.3
        for c in ["non-targeting"] * 3 + conditions + ([FEW] if kind == "CRISPRa" else []):
            shift = sum((effect[g] for g in c.split("+")), np.zeros(N_GENES)) \
                if c != "non-targeting" else 0
            n = 4 if c == FEW else 20
            x.append(rng.poisson(base * np.exp(shift if kind == "CRISPRa" else -shift),
                                 (n, N_GENES)))
            line += [name] * n
            condition += [c] * n
            how += [kind] * n
    x = np.concatenate(x).astype(np.float32)
    x[:, 0] += 1
    return x, {"line": line, "condition": condition, "how": how}


@functools.cache
def data():
    x, obs = screen()
    return write_h5ad("screen.h5ad", x, obs=obs)


@functools.cache
def base():
    genes, out = scratch("perturb.genes.tsv"), scratch("perturb.base")
    with open(genes, "w", encoding="utf-8") as f:
        f.write("token_id\tsymbol\n" + "".join(f"{i + 2}\tGENE{i}\n" for i in range(N_GENES + 5)))
    run(scdiva_train() + ["init", "--out", out, "--genes", genes, "--hidden", "32", "--dim", "24",
                          "--layers", "2", "--heads", "2", "--ffn", "48", "--max-genes",
                          str(MAX_TOKENS), "--seed", "2"])
    return out


def run(args, exit=0):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=100 * SLOW, env=clean_environment(), check=False)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    assert "Sanitizer" not in p.stdout and "runtime error" not in p.stdout, p.stdout
    return p.stdout


def command(out, *flags):
    return scdiva_train() + ["finetune", "perturbation", "--model", out, "--data", data(),
                             "--control", "non-targeting", *QUICK, *flags]


@functools.cache
def trained():
    """A model with a head, whose gates are then opened by hand: a test wants to see the network."""
    out = scratch("perturb.model")
    shutil.copytree(base(), out)
    run(command(out))
    path = os.path.join(out, "heads", "perturbation", "head.json")
    with open(path, encoding="utf-8") as f:
        about = json.load(f)
    about["contexts"][names(about).index("line_a")]["gate"] = 0.5
    about["contexts"][names(about).index("line_k")]["gate"] = 0
    with open(path, "w", encoding="utf-8") as f:
        json.dump(about, f)
    return out


def names(about):
    return [c["name"] for c in about["contexts"]]


class Head:
    """A head's files, and its formulas in float64."""

    def __init__(self, model, name="perturbation"):
        folder = os.path.join(model, "heads", name)
        with open(os.path.join(folder, "head.json"), encoding="utf-8") as f:
            self.about = json.load(f)
        w = reference.Weights(os.path.join(folder, "head.safetensors"))
        self.t = {n: w.get(n) for n in w.header}
        self.genes, self.targets = self.about["readout"], self.about["targets"]
        table = reference.Weights(os.path.join(model, "model.safetensors"))
        rows = table.get("gene_embedding.weight")
        self.unit = {f"GENE{i}": rows[i + 2] / np.linalg.norm(rows[i + 2])
                     for i in range(N_GENES + 5)}

    def feature(self, asked):
        return sum((self.unit[g] for g in asked if g in self.unit), np.zeros(24))

    def in_context(self, c):
        return [(i, [self.targets[t] for t in x["targets"]])
                for i, x in enumerate(self.about["conditions"]) if x["context"] == c]

    def baselines(self, c, asked):
        t, here = self.t, self.in_context(c)
        mean = np.mean([t["deltas"][i] for i, _ in here], 0)
        alone = {g[0]: t["deltas"][i] for i, g in here if len(g) == 1}
        known = [alone[g] for g in asked if g in alone]
        additive = sum(known) + (len(asked) - len(known)) * mean if known else mean
        phi = self.feature(asked)
        ridge = mean + sum(self.feature(g) @ phi * t["ridge.weight"][i] for i, g in here)

        def likeness(g):
            shared = len(set(g) & set(asked))
            f = self.feature(g)
            a, b = f.astype(np.float64), phi.astype(np.float64)
            size = np.sqrt((a @ a) * (b @ b))
            return shared / (len(g) + len(asked) - shared), a @ b / size if size else 0
        best = max(likeness(g) for _, g in here)
        # equally like but for the last bits of a sum: any of them may come first
        nearest = [t["deltas"][i] for i, g in here
                   if likeness(g)[0] == best[0] and likeness(g)[1] > best[1] - 1e-6]
        effects = len(asked) ** self.about["contexts"][c]["power"] * t["effects.mean"][c]
        for g in asked:
            if g in self.targets:
                effects = effects + t["effects.targets"][c * len(self.targets) +
                                                         self.targets.index(g)]
        return {"no_change": 0 * mean, "mean": mean, "additive": additive, "ridge": ridge,
                "nearest": nearest, "effects": effects}

    def residual(self, c, asked, embeddings):
        t, direction = self.t, self.about["contexts"][c]["direction"]
        p = t["pert.token"] + t["pert.direction"][int(direction == "activation")]
        p = p + self.feature(asked)
        x = np.hstack([embeddings, np.tile(p, (len(embeddings), 1))])
        hidden = np.maximum(x @ t["mlp.0.weight"].T + t["mlp.0.bias"], 0).mean(0)
        return hidden @ t["mlp.2.weight"].T + t["mlp.2.bias"]


def log1p(x):
    return np.log1p(1e4 * x / x.sum(1, keepdims=True))


def cells(line, condition="non-targeting", n=60):
    x, obs = screen()
    rows = [i for i in range(len(x)) if obs["line"][i] == line and obs["condition"][i] == condition]
    return x[rows[:n]]


def body(x, perturbations, **fields):
    """A CSR request of dense counts."""
    at = np.nonzero(x)
    return {"genes": [f"GENE{i}" for i in range(x.shape[1])],
            "matrix": {"format": "csr", "indptr": [0, *np.cumsum((x > 0).sum(1)).tolist()],
                       "indices": at[1].tolist(), "data": x[at].tolist()},
            "perturbations": perturbations, **fields}


def ask(d, what, **fields):
    answer = d.post("/v1/perturbations", what if isinstance(what, dict) else
                    {"perturbations": what, **fields})
    assert answer.status == 200, answer
    return answer.json()


def values(series, genes):
    assert series["genes"] == genes
    return np.array(series["values"])


# ---- the trainer ---------------------------------------------------------------------------------

def test_a_head_holds_the_screens_pseudobulks():
    head, (x, obs) = Head(trained()), screen()
    about, y = head.about, log1p(x)
    assert about["task"] == "perturbation" and len(about["conditions"]) == 13
    assert head.genes == [f"GENE{i}" for i in range(N_GENES)]
    assert {c["name"]: c["direction"] for c in about["contexts"]} == \
        {"line_a": "activation", "line_k": "knockdown"}

    def mean(line, condition):
        return y[[i for i in range(len(x)) if obs["line"][i] == line and
                  obs["condition"][i] == condition]].mean(0)
    for c, context in enumerate(about["contexts"]):
        control = mean(context["name"], "non-targeting")
        assert np.abs(head.t["control.mean"][c] - control).max() < 1e-5
        assert context["cells"] == context["controls"] == 60
        for i, genes in head.in_context(c):
            written = [p for p in SCREEN[context["name"]][1] if set(p.split("+")) == set(genes)]
            delta = mean(context["name"], written[0]) - control
            assert np.abs(head.t["deltas"][i] - delta).max() < 1e-5, written


def test_a_run_says_what_it_left_out_and_what_each_baseline_scores():
    out = scratch("perturb.says")
    shutil.copytree(base(), out)
    text = run(command(out))
    assert "1 conditions with 4 cells together left out: fewer than 10 cells each" in text, text
    assert "ALIEN is not in the model's vocabulary" in text, text
    scores = Head(out).about["evaluation"]["contexts"]
    for context in scores:
        assert all(b in text for b in BASELINES) and set(BASELINES + ["model"]) < set(context)
        n = {"line_a": 9, "line_k": 4}[context["name"]]
        assert all(context[b]["perturbations"] == n for b in BASELINES)
        assert context["model"]["mse"] <= context["effects"]["mse"] * 1.0001
        assert context["no_change"]["pearson_delta"] == 0
    assert os.listdir(os.path.join(out, "heads")) == ["perturbation"]
    assert "no head" not in run(scdiva_train() + ["eval", "--model", out, "--data", data()])
    text = run(scdiva_train() + ["eval", "--model", out, "--data", data(), "--head",
                                 "perturbation"], exit=1)
    assert "is a perturbation head" in text, text


def test_any_number_of_threads_gives_the_same_bytes():
    digests = []
    for threads in ("1", "3"):
        out = scratch(f"perturb.threads{threads}")
        shutil.copytree(base(), out)
        run(command(out, "--threads", threads, "--name", "x"))
        digests.append([open(os.path.join(out, "heads", "x", f), "rb").read()
                        for f in ("head.json", "head.safetensors")])
    assert digests[0] == digests[1]


def test_a_head_that_is_there_is_replaced_only_by_force():
    out = scratch("perturb.force")
    shutil.copytree(base(), out)
    run(command(out, "--epochs", "1"))
    assert "is there already; --force" in run(command(out, "--epochs", "1"), exit=1)
    run(command(out, "--epochs", "2", "--force"))
    assert "--epochs 2" in Head(out).about["recipe"]


def test_what_a_head_cannot_be_made_of_is_refused_in_words():
    out = scratch("perturb.refused")
    shutil.copytree(base(), out)
    for flags, words, exit in (
            (["--control", "nobody"], "has perturbed cells and none of condition 'nobody'", 1),
            (["--condition-column", "no"], "no", 1),
            (["--direction-column", "line"], "direction 'line_a' of a cell", 1),
            (["--min-cells", "100"], "0 conditions have 100 cells or more", 1),
            (["--direction", "activation"], "one of --direction-column and --direction", 2),
            (["--name", "a/b"], "must be a plain folder name", 2),
            (["--dtype", "f16"], "must be f32 or bf16", 2)):
        text = run(command(out, *flags), exit=exit)
        assert words in text, text
    merged = [f for f in command(out) if f not in ("--context-column", "line")]
    assert "has cells of both directions" in run(merged, exit=1)
    assert not os.path.exists(os.path.join(out, "heads"))
    text = run(scdiva_train() + ["finetune", "sorting"], exit=2)
    assert "annotation" in text and "perturbation" in text


# ---- the route -----------------------------------------------------------------------------------

def check_item(item, head, control, embeddings, asked, line, anchor):
    c, genes = names(head.about).index(line), head.genes
    shift = anchor * (head.t["control.mean"][c] - control)
    want = head.baselines(c, asked)
    for name in BASELINES:
        got = values(item["baselines"][name], genes)
        fits = [np.abs(got - np.maximum(x + (shift if name != "no_change" else 0), -control)).max()
                for x in (want[name] if name == "nearest" else [want[name]])]
        assert min(fits) < 1e-4, (name, fits)
        assert item["baselines"][name]["evaluation"] == \
            {k: v for k, v in head.about["evaluation"]["contexts"][c][name].items()}
    measured = any(set(g) == set(asked) for _, g in head.in_context(c))
    gate = 0 if measured else head.about["contexts"][c]["gate"]
    delta = want["effects"] + shift + gate * head.residual(c, asked, embeddings)
    delta = np.maximum(delta, -control)
    got = values(item["delta"], genes)
    assert np.abs(got - delta).max() < 2e-4, np.abs(got - delta).max()
    assert np.abs(values(item["expression"], genes) - control - got).max() < 1e-5
    assert item["gate"] == gate and item["in_training"]["combination"] == measured
    assert item["direction"] == head.about["contexts"][c]["direction"]
    assert item["context"]["name"] == line
    up = [t["delta"] for t in item["top_up"]]
    assert up == sorted(up, reverse=True) and all(x > 0 for x in up)
    assert len(up) == min(20, (got > 0).sum()) and abs(up[0] - got.max()) < 1e-6


def test_predictions_are_those_of_the_formulas():
    head = Head(trained())
    asked = [["GENE30"], ["GENE31", "GENE30"], ["GENE36"], ["GENE37"], ["GENE30", "GENE41"],
             ["ALIEN", "GENE33"], ["GENE30", "NOBODY"], ["NOBODY"]]
    with Daemon(trained(), flags=["--precision", "fp32"]) as d:
        for line in SCREEN:
            x = cells(line)
            request = body(x, asked)
            embeddings = d.embed({k: v for k, v in request.items() if k != "perturbations"})
            answer = ask(d, request)
            control = log1p(x).mean(0)
            for item, genes in zip(answer["data"], asked):
                check_item(item, head, control, embeddings.embeddings(), genes, line, 1)
                assert item["controls"] == {"source": "request", "cells": 60, "anchor": 1}
                assert item["perturbation"] == genes and item["id"] == "+".join(genes)
                assert item["cache"] == "hit"  # the embeddings' own
            spread = values(answer["data"][0]["spread"], head.genes)
            assert np.abs(spread - log1p(x).std(0)).max() < 1e-4
            warned = [w["detail"] for w in answer["warnings"]
                      if w["code"] == "perturbed-gene-unknown"]
            assert len(warned) == 1 and "ALIEN" in warned[0]
            assert warned[0].count("NOBODY") == 1 and "others" not in warned[0]
            seen = answer["data"][4]["in_training"]["genes"]
            assert seen == {"GENE30": True, "GENE41": False}
            assert answer["data"][6]["genes_not_in_vocabulary"] == ["NOBODY"]
        many = ask(d, body(cells("line_a"), [["NOBODY%02d" % i] for i in range(60)]))["warnings"]
        assert any('"NOBODY00", "NOBODY01"' in w["detail"] and " and others: " in w["detail"]
                   for w in many)


def test_every_gene_of_a_truncated_control_counts():
    x = cells("line_a")
    assert ((x > 0).sum(1) > MAX_TOKENS).any()
    with Daemon(trained()) as d:
        item = ask(d, body(x, [["GENE30"]]))["data"][0]
    assert item["genes_truncated"] > 0
    control = np.array(item["expression"]["values"]) - np.array(item["delta"]["values"])
    assert np.abs(control - log1p(x).mean(0)).max() < 1e-4


def test_other_controls_keep_the_delta_and_few_ones_move_it_little():
    head = Head(trained())
    c = names(head.about).index("line_a")
    strange = cells("line_a")[:, ::-1]
    with Daemon(trained()) as d:
        item = ask(d, body(strange, [["GENE30"]], context="line_a"))
        assert "context-far" in [w["code"] for w in item["warnings"]], item["warnings"]
        assert item["data"][0]["controls"]["anchor"] == 0
        want = np.maximum(head.baselines(c, ["GENE30"])["effects"], -log1p(strange).mean(0))
        assert np.abs(np.array(item["data"][0]["delta"]["values"]) - want).max() < 1e-4
        assert ask(d, body(cells("line_a", n=5), [["GENE30"]]))["data"][0]["controls"]["anchor"] \
            <= 0.1


def test_without_cells_the_stored_controls_answer():
    head = Head(trained())
    asked = [["GENE36"], ["GENE30"]]
    with Daemon(trained()) as d:
        for fields, line in (({}, "line_a"), ({"direction": "knockdown"}, "line_k"),
                             ({"context": "line_k"}, "line_k")):
            answer = ask(d, asked, **fields)
            c = names(head.about).index(line)
            first = head.about["contexts"][0]["cells"] if c else 0
            embeddings = head.t["control.embeddings"][first:first + 60]
            for item, genes in zip(answer["data"], asked):
                check_item(item, head, head.t["control.mean"][c], embeddings, genes, line, 0)
                assert item["controls"]["source"] == "stored"
                assert item["context"]["correlation"] is None
            assert answer["usage"] == {"cells": 0, "tokens": 0, "cached": 0}


def test_a_direction_that_the_nearest_context_lacks_is_answered_from_another_and_said():
    with Daemon(trained()) as d:
        answer = ask(d, body(cells("line_a"), [["GENE30"]], direction="knockdown"))
        assert answer["data"][0]["context"]["name"] == "line_k"
        assert "context-direction" in [w["code"] for w in answer["warnings"]]
        assert answer["data"][0]["direction"] == "knockdown"


def test_top_genes_are_as_many_as_asked_for():
    with Daemon(trained()) as d:
        for n in (0, 3, 1000):
            item = ask(d, [["GENE30"]], top_genes=n)["data"][0]
            delta = np.array(item["delta"]["values"])
            assert len(item["top_up"]) == min(n, (delta > 0).sum())
            assert len(item["top_down"]) == min(n, (delta < 0).sum())


def test_the_same_bytes_cold_cached_and_after_a_restart():
    request = body(cells("line_a"), [["GENE36"], ["GENE30", "GENE31"]])
    folder = scratch()

    def answer(d):
        got = d.post("/v1/perturbations", request)
        assert got.status == 200, got
        sources = {i["cache"] for i in got.json()["data"]}
        return sources, got.body.replace(b'"cache":"miss"', b'"cache":"hit"').replace(
            b'"cached":0', b'"cached":60')
    with Daemon(trained(), data=folder) as d:
        cold, hot, memo = answer(d), answer(d), answer(d)
        assert (cold[0], hot[0], memo[0]) == ({"miss"}, {"hit"}, {"hit"})
        assert d.metric("scdiva_engine_cells_total") == 60
    with Daemon(trained(), data=folder) as d:
        again = answer(d)
        assert d.metric("scdiva_engine_cells_total") == 0
    with Daemon(trained(), flags=["--cache-mb", "0"]) as d:
        uncached = answer(d)
    assert cold[1] == hot[1] == memo[1] == again[1] == uncached[1]


def test_bad_requests_are_refused_where_they_are_wrong():
    good = body(cells("line_a", n=3), [["GENE30"]])
    with Daemon(trained(), harness.small_model()) as d:
        def check(changes, status, kind, pointer=None, detail=None):
            check_problem(d.post("/v1/perturbations", {**good, **changes}), status, kind, pointer,
                          detail)
        check({"perturbations": []}, 422, "invalid", "/perturbations")
        check({"perturbations": [["GENE30"], ["GENE30", "GENE30"]]}, 422, "invalid",
              "/perturbations/1/1", "named twice")
        check({"perturbations": [["G"] * 17]}, 422, "invalid", "/perturbations/0")
        check({"perturbations": [["A"]] * 257}, 422, "invalid", "/perturbations")
        check({"direction": "up"}, 422, "invalid", "/direction")
        check({"top_genes": -1}, 422, "invalid", "/top_genes")
        check({"context": "line_z"}, 422, "invalid", "/context", "line_a.*line_k")
        check({"context": "line_k", "direction": "activation"}, 422, "invalid", "/direction")
        check({"head": "nobody"}, 404, "not-found", None, "perturbation")
        check({"model": "small"}, 422, "invalid", "/model", "has no perturbation head")
        check({"matrix": {**good["matrix"], "data": [-1.0] + good["matrix"]["data"][1:]}}, 422,
              "invalid", "/matrix/data/0")
        bad = {"genes": ["GENE30"], "perturbations": [["GENE30"]]}
        check_problem(d.post("/v1/perturbations", bad), 422, "invalid", "/matrix")
        check_problem(d.post("/v1/perturbations", {"cells": [{"genes": ["X"], "values": [1]}],
                                                   "perturbations": [["A"]], "on_error": "skip"}),
                      422, "invalid", None, "none of the 1 control cells can be used")
        blank = {"cells": [{"genes": ["GENE1"], "values": [3]}, {"genes": [], "values": []}],
                 "perturbations": [["GENE30"]]}
        check_problem(d.post("/v1/perturbations", blank), 422, "invalid", "/cells/1.*")
        skipped = d.post("/v1/perturbations", {
            "cells": [{"genes": ["X"], "values": [1]}, {"genes": ["GENE1"], "values": [3]}],
            "perturbations": [["GENE30"]], "on_error": "skip", "odd": 1}).json()
        codes = [w["code"] for w in skipped["warnings"]]
        assert "cells-skipped" in codes and "unknown-field" in codes
        assert skipped["data"][0]["controls"]["cells"] == 1
        d.check_alive()


def test_models_say_what_the_head_was_trained_on():
    with Daemon(trained()) as d:
        model = d.get("/v1/models").json()["data"][0]
        assert "perturb" in model["tasks"] and "annotate" not in model["tasks"]
        head = model["heads"][0]
        assert head["task"] == "perturbation" and head["readout_genes"] == N_GENES
        contexts = {c["name"]: c for c in head["contexts"]}
        assert contexts["line_k"]["direction"] == "knockdown"
        assert ["GENE30"] in contexts["line_a"]["perturbations"]
        assert len(contexts["line_a"]["perturbations"]) == 9
        answer = d.post("/v1/annotations", {"cells": [{"genes": ["GENE1"], "values": [1]}]})
        check_problem(answer, 422, "invalid", "/model", "no annotation head")


def test_a_head_of_another_model_is_refused_at_start():
    out = scratch("perturb.other")
    shutil.copytree(trained(), out)
    with open(os.path.join(out, "config.json"), "a", encoding="utf-8") as f:
        f.write("\n")
    harness.refused(["--model", out])
