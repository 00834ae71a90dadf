"""test_eval.py - scdiva-train eval: truth that is rare or strange, heads of other models or with
more labels than anybody trains, and output that cannot be written.

The model is random and so is its head: what it answers does not matter here.
"""
import functools
import json
import os
import resource
import shutil
import signal
import struct
import subprocess

import numpy as np

from harness import SLOW, clean_environment, scdiva_train, scratch
from test_train import write_h5ad

N_CELLS, N_GENES, HIDDEN, MLP = 24, 30, 32, 8
TYPES = ["B", "NK", "T"]


# ---- a model, heads, cells -----------------------------------------------------------------------

def init(name, seed):
    genes = scratch("eval.genes.tsv")
    with open(genes, "w", encoding="utf-8") as f:
        f.write("token_id\tsymbol\n" + "".join(f"{i + 2}\tGENE{i}\n" for i in range(N_GENES)))
    out = scratch(name)
    subprocess.run(scdiva_train() + ["init", "--out", out, "--genes", genes, "--hidden",
                                     str(HIDDEN), "--dim", "32", "--layers", "1", "--heads", "2",
                                     "--ffn", "48", "--seed", str(seed)],
                   check=True, stdout=subprocess.DEVNULL, env=clean_environment())
    return out


@functools.cache
def base():
    return init("eval.base", 3)


@functools.cache
def digest():
    """As a head of the model says it: finetune's own words for a tiny head."""
    out = model("eval.digest")
    subprocess.run(scdiva_train() + ["finetune", "annotation", "--model", out, "--data", data(),
                                     "--label-column", "kind", "--epochs", "1", "--mlp", "4",
                                     "--train-layers", "0", "--calibrate-copies", "0",
                                     "--split", "cell", "--micro-rows", "512"],
                   check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                   env=clean_environment())
    with open(os.path.join(out, "heads", "annotation", "head.json"), encoding="utf-8") as f:
        return json.load(f)["model_digest"]


def model(name):
    out = scratch(name)
    shutil.copytree(base(), out)
    return out


def add_head(out, labels, model_digest=None):
    """A random head of these labels in the model's folder."""
    rng = np.random.default_rng(1)
    folder = os.path.join(out, "heads", "made")
    os.makedirs(folder)
    tensors = {"mlp.0.weight": (MLP, HIDDEN), "mlp.0.bias": (MLP,),
               "mlp.2.weight": (len(labels), MLP), "mlp.2.bias": (len(labels),)}
    header, body = {}, b""
    for name, shape in tensors.items():
        part = rng.normal(size=shape).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape),
                        "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "head.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)
    with open(os.path.join(folder, "head.json"), "w", encoding="utf-8") as f:
        json.dump({"task": "annotation", "format": 1, "labels": [{"label": x} for x in labels],
                   "temperature": 1.5, "threshold": 0.1,
                   "model_digest": model_digest or digest()}, f)
    return out


@functools.cache
def small():
    return add_head(model("eval.small"), TYPES)


@functools.cache
def data():
    x = np.random.default_rng(5).poisson(2, (N_CELLS, N_GENES)).astype(np.float32)
    x[:, 0] += 1
    kind = [TYPES[i % 3] for i in range(N_CELLS)]
    return write_h5ad("eval.h5ad", x, obs={
        "kind": kind, "one": ["T"] * N_CELLS, "rare": ["B"] + ["T"] * (N_CELLS - 1),
        "other": ["t cell", "b cell"] * (N_CELLS // 2),
        "mixed": ["T", "b cell"] * (N_CELLS // 2), "last": ["L65535"] * N_CELLS})


def evaluate(out, *flags, exit=0, stdout=subprocess.PIPE, preexec_fn=None):
    """What it said: the report, or why not."""
    p = subprocess.run(scdiva_train() + ["eval", "--model", out, "--data", data(), *flags],
                       stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=100 * SLOW,
                       env=clean_environment(), check=False, preexec_fn=preexec_fn)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}{p.stderr}"
    assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
    return p.stderr if exit else json.loads(p.stdout)


def refused(said, *parts):
    for part in parts:
        assert part in said, f"'{part}' is not in: {said}"


# ---- truth ---------------------------------------------------------------------------------------

def test_truth_may_be_one_label_or_have_one_cell():
    for column in ("one", "rare"):
        said = evaluate(small(), "--label-column", column)
        assert said["scored"] == N_CELLS and said["labels_unknown_to_head"] == 0, said


def test_labels_that_the_head_does_not_know_are_counted_beside_those_it_knows():
    said = evaluate(small(), "--label-column", "mixed")
    assert said["scored"] == said["labels_unknown_to_head"] == N_CELLS // 2, said


def test_truth_without_any_label_of_the_head_is_refused_with_both_sides():
    refused(evaluate(small(), "--label-column", "other", exit=1), "none of the 2 labels of other",
            "'b cell', 't cell'", "3 of head made ('B', 'NK', 'T')")


def test_a_table_may_be_about_one_cell_and_other_files():
    table = scratch("eval.one.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("file\tbarcode\tT\nelse.h5ad\tx\t1\neval.h5ad\teval.h5ad-3\t1\n")
    said = evaluate(small(), "--labels", table)
    assert said["scored"] == 1 and said["rows_of_other_files"] == 1, said
    with open(table, "a", encoding="utf-8") as f:
        f.write("eval.h5ad\tstranger\t1\n")
    refused(evaluate(small(), "--labels", table, exit=1), "eval.one.tsv line 4", "stranger",
            "eval.h5ad")


# ---- heads ---------------------------------------------------------------------------------------

def test_a_head_may_have_as_many_labels_as_the_daemon_opens():
    labels = [f"L{i}" for i in range(65536)]
    out, table = add_head(model("eval.large"), labels), scratch("eval.large.tsv")
    said = evaluate(out, "--label-column", "last", "--predictions", table)
    assert said["scored"] == N_CELLS and 0 <= said["coverage"] <= 1 and said["ece"] >= 0, said
    with open(table, encoding="utf-8") as f:
        lines = f.read().split("\n")
    assert lines[0].split("\t")[3:] == labels
    p = np.array(lines[1].split("\t")[3:], float)
    assert p.shape == (65536,) and abs(p.sum() - 1) < 0.04  # six decimals each


def test_a_head_of_another_model_is_refused_with_both_digests():
    strange = "ab" * 32
    out = add_head(model("eval.strange"), TYPES, strange)
    refused(evaluate(out, exit=1), "heads/made/head.json", strange, digest(), "train it again")
    # the same shapes, other weights: a head that was copied over opens, but means nothing
    out = init("eval.second", 4)
    shutil.copytree(os.path.join(small(), "heads"), os.path.join(out, "heads"))
    refused(evaluate(out, "--label-column", "kind", exit=1), digest(), "this one has")


# ---- output --------------------------------------------------------------------------------------

def test_a_report_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w", encoding="utf-8") as full:
        refused(evaluate(small(), "--label-column", "kind", exit=1, stdout=full),
                "standard output", "No space left")


def test_files_that_cannot_be_written_leave_nothing_and_are_named():
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (800, 800))  # bytes; barcodes take 300

    for option, path in (("--predictions", scratch("eval.full.tsv")),
                         ("--embeddings", scratch("eval.full.npy"))):
        refused(evaluate(small(), option, path, exit=1, preexec_fn=limit), path)
        refused(evaluate(small(), option, "/nowhere/x", exit=1), "/nowhere/x")
        folder, name = os.path.split(path)
        assert not [f for f in os.listdir(folder) if f.startswith(name)]
