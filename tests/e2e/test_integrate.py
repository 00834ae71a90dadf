"""test_integrate.py - scdiva-train finetune integration: batches that no longer lie apart, types
that still do, the same bytes, and what is refused.

Cells are made here: three types, each with its own genes, in two batches, each with genes of its
own that every cell of it expresses more.
"""
import functools
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np

from harness import SLOW, Daemon, check_problem, clean_environment, scdiva_train, scratch
from test_train import write_h5ad

TYPES = ["B", "CD4 T", "NK"]
N_CELLS, N_GENES = 180, 40
QUICK = ["--batch", "24", "--mlp", "16", "--micro-rows", "512", "--lr", "0.003", "--adversary-lr",
         "0.01", "--epochs", "8", "--seed", "4"]
LABELS = ["--label-column", "kind"]
FILES = ["card.md", "config.json", "genes.tsv", "model.safetensors", "train.csv"]


# ---- data and runs -------------------------------------------------------------------------------

def cells(seed=1, n=N_CELLS):
    """counts, types and batches; each batch has every type"""
    rng = np.random.default_rng(seed)
    kind, lab = np.arange(n) % 3, np.arange(n) // 3 % 2
    rate = np.full((n, N_GENES), 0.5)
    for i in range(n):
        rate[i, 5 * kind[i]:5 * kind[i] + 5] = 6
        rate[i, 20 + 9 * lab[i]:29 + 9 * lab[i]] = 15
    x = rng.poisson(rate).astype(np.float32)
    x[:, -1] += 1  # no cell is empty
    return x, kind, lab


@functools.cache
def data():
    x, kind, lab = cells()
    obs = {"kind": [TYPES[k] for k in kind], "lab": [f"lab {b}" for b in lab],
           "both": [f"{TYPES[k]} {b}" for k, b in zip(kind, lab)],
           "coin": [f"side {b}" for b in np.random.default_rng(3).integers(0, 2, len(x))],
           "one": ["here"] * len(x),
           "lonely": ["one" if i == 7 else "rest" for i in range(len(x))],
           "lonely_batch": ["one" if i == 7 else f"lab {b}" for i, b in enumerate(lab)]}
    return write_h5ad("batches.h5ad", x, obs=obs)


@functools.cache
def random_model():
    genes, out = scratch("integrate.genes.tsv"), scratch("integrate.random")
    with open(genes, "w", encoding="utf-8") as f:
        f.write("token_id\tsymbol\n" + "".join(f"{i + 2}\tGENE{i}\n" for i in range(N_GENES)))
    run(scdiva_train() + ["init", "--out", out, "--genes", genes, "--hidden", "32", "--dim", "32",
                          "--layers", "2", "--heads", "2", "--ffn", "48", "--seed", "2"])
    return out


@functools.cache
def base():
    """A model to which each type of each batch is a thing of its own: it was taught so."""
    out = scratch("integrate.base")
    run(command(out, "--label-column", "both", "--epochs", "25", model=random_model(),
                batches=("--batch-column", "coin")))
    return out


def run(args, exit=0):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=100 * SLOW, env=clean_environment(), check=False)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    assert "Sanitizer" not in p.stdout and "runtime error" not in p.stdout, p.stdout
    return p.stdout


def command(out, *flags, on=None, batches=("--batch-column", "lab"), model=None):
    return scdiva_train() + ["finetune", "integration", "--model", model or base(), "--out", out,
                             "--data", on or data(), *batches, *QUICK, *flags]


def hidden(out):
    """Where a run works until its model is whole."""
    return os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.partial")


def refused(said, *parts):
    for part in parts:
        assert part in said, f"'{part}' is not in: {said}"


def files(out):
    found = {}
    for name in FILES:
        with open(os.path.join(out, name), "rb") as f:
            found[name] = f.read()
    return found


def card(out):
    with open(os.path.join(out, "card.md"), encoding="utf-8") as f:
        return f.read()


@functools.cache
def trained(labelled):
    out = scratch(f"integrate.{'with' if labelled else 'without'}")
    run(command(out, *(LABELS if labelled else [])))
    return out


def embeddings(model, path):
    out = scratch("integrate.npy")
    run(scdiva_train() + ["eval", "--model", model, "--data", path, "--embeddings", out])
    return np.load(out)


def own(x, group, within=None, k=10):
    """Mean share of the nearest neighbours (cosine) of a cell's own group, among `within`."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = x @ x.T
    np.fill_diagonal(s, -np.inf)
    if within is not None:
        s[within[:, None] != within[None, :]] = -np.inf
    near = np.argsort(-s, axis=1)[:, :k]
    return (group[near] == group[:, None]).mean()


# ---- learning ------------------------------------------------------------------------------------

def check_integrated(model, kept):
    """On cells that training has not seen. By chance .49 of the neighbours are of one's batch."""
    x, kind, lab = cells(seed=9)
    path = write_h5ad("unseen.batches.h5ad", x)
    before, after = embeddings(base(), path), embeddings(model, path)
    assert own(before, lab, kind) > 0.95 and own(before, kind) > 0.95
    assert own(after, lab, kind) < 0.7, own(after, lab, kind)
    assert own(after, kind) > kept, own(after, kind)


def test_batches_mix_and_types_stay_apart_with_labels():
    check_integrated(trained(True), 0.95)
    text = card(trained(True))
    refused(text, "Trained with labels", "3 labels, on 180 of 180 cells", "| lab 0 | 90 |",
            "finetune integration", "| this model |")


def test_and_without_labels():
    check_integrated(trained(False), 0.8)
    refused(card(trained(False)), "Trained without labels")


def test_what_comes_out_is_a_whole_model():
    out = trained(True)
    assert sorted(os.listdir(out)) == FILES
    with open(os.path.join(base(), "genes.tsv"), "rb") as f:
        assert files(out)["genes.tsv"] == f.read()
    about = json.loads(files(out)["config.json"])
    assert about["latent_pooling"] == "visible" and about.get("trained", True)
    log = files(out)["train.csv"].decode().splitlines()
    assert log[0] == "step,epoch,gene_loss,value_loss,batch_loss,batch_named,contrast"
    assert len(log) == 1 + 8
    half = scratch("integrate.bf16")
    run(command(half, "--epochs", "1", "--dtype", "bf16"))
    assert len(files(half)["model.safetensors"]) < 0.6 * len(files(out)["model.safetensors"])


def test_files_are_batches_where_no_column_is_named():
    x, _, lab = cells()
    paths = [write_h5ad(f"lab{b}.h5ad", x[lab == b]) for b in range(2)]
    out = scratch("integrate.files")
    run(command(out, "--data", paths[1], "--epochs", "1", on=paths[0], batches=()))
    refused(card(out), "| lab0.h5ad | 90 |", "| lab1.h5ad | 90 |")


@functools.cache
def panels():
    """Two files of which each lacks genes that the other has: GENE37 and on, GENE35 and GENE36"""
    x, _, lab = cells()
    kept = [range(37), [*range(35), *range(37, N_GENES)]]
    return [write_h5ad(f"panel{b}.h5ad", x[lab == b][:, kept[b]],
                       genes=[f"GENE{g}" for g in kept[b]]) for b in range(2)]


def test_genes_that_a_file_lacks_are_left_out_where_the_model_is_trained_and_where_it_is_served():
    a, b = panels()
    out = scratch("integrate.shared")
    said = run(command(out, "--data", b, "--epochs", "1", on=a, batches=()))
    refused(said, "35 genes are measured by all files and used")
    refused(card(out), "**35 genes are used**", "(panel0.h5ad)")
    rows = [line.split("\t") for line in files(out)["genes.tsv"].decode().splitlines()]
    assert rows[0][-1] == "used"
    assert [r[1] for r in rows[1:] if r[-1] == "0"] == [f"GENE{g}" for g in range(35, 40)]
    with Daemon(out) as d:
        some = {"genes": ["GENE1", "GENE2", "GENE7"], "values": [4, 1, 2], "total": 30}
        more = {"genes": [*some["genes"], "GENE36", "GENE39"], "values": [4, 1, 2, 9, 3],
                "total": 30}
        answer = d.post("/v1/embeddings", {"cells": [some, more]}).json()
        first, second = answer["data"]
        assert first["embedding"] == second["embedding"]
        assert (first["genes_unused"], second["genes_unused"]) == (0, 2), answer
        assert (second["tokens"], second["genes_known"]) == (3, 5), answer
        refused([w["detail"] for w in answer["warnings"] if w["code"] == "genes-unused"][0],
                "25.0 %", "model", "35 genes")
        check_problem(d.post("/v1/embeddings", {"cells": [{"genes": ["GENE36"], "values": [2]}]}),
                      422, "invalid", "/cells/0", "none of its 1 expressed genes")
    for path in a, b:
        assert np.isfinite(embeddings(out, path)).all()


def test_all_genes_may_be_used_and_none_in_common_is_refused():
    a, b = panels()
    out = scratch("integrate.all")
    run(command(out, "--data", b, "--epochs", "1", "--genes", "all", on=a, batches=()))
    with open(os.path.join(base(), "genes.tsv"), "rb") as f:
        assert files(out)["genes.tsv"] == f.read()
    refused(card(out), "**All genes are used**")
    x, _, lab = cells()
    apart = [write_h5ad(f"apart{i}.h5ad", x[lab == i][:, 20 * i:20 * i + 20],
                        genes=[f"GENE{g}" for g in range(20 * i, 20 * i + 20)]) for i in range(2)]
    said = run(command(scratch("integrate.none"), "--data", apart[1], on=apart[0], batches=()),
               exit=1)
    refused(said, "no gene that the model uses is measured by all files", "--genes all")
    refused(run(command(scratch("integrate.which"), "--genes", "some"), exit=2),
            "--genes some: must be shared or all")


def test_the_contrast_is_over_the_step_however_it_is_cut():
    rows = []
    for micro in ("128", "8192"):  # one cell or two at a time; all at once
        out = scratch(f"integrate.micro{micro}")
        run(command(out, *LABELS, "--epochs", "2", "--micro-rows", micro))
        rows.append(files(out)["train.csv"].decode().splitlines()[1].split(","))
    for a, b in zip(*rows):
        assert abs(float(a) - float(b)) < 2e-3 * abs(float(b)), rows


def test_cells_without_a_label_take_part():
    x, kind, lab = cells()
    path = write_h5ad("partly.h5ad", x, obs={"lab": [str(b) for b in lab]})
    table = scratch("partly.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("barcode\t" + "\t".join(TYPES) + "\n")
        for i, k in enumerate(kind):
            if i // 6 % 2:
                f.write(f"partly.h5ad-{i}\t" + "\t".join(str(int(k == t)) for t in range(3)) +
                        "\n")
    out = scratch("integrate.partly")
    run(command(out, "--labels", table, on=path))
    refused(card(out), "3 labels, on 90 of 180 cells")
    check_integrated(out, 0.9)


# ---- the same bytes ------------------------------------------------------------------------------

def test_any_number_of_threads_gives_the_same_bytes():
    found = []
    for threads in ("1", "3"):
        out = scratch(f"integrate.threads{threads}")
        run(command(out, *LABELS, "--epochs", "2", "--threads", threads))
        found.append(files(out))
    assert found[0] == found[1]


def test_a_stopped_run_goes_on_to_the_same_bytes():
    whole, halves = scratch("integrate.whole"), scratch("integrate.halves")
    flags = ("--epochs", "6", "--thin-share", "0.3", "--subset-share", "0.3")
    run(command(whole, *flags))
    log = os.path.join(hidden(halves), "train.csv")
    p = subprocess.Popen(command(halves, *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    while time.monotonic() < end and p.poll() is None:
        if os.path.exists(log) and open(log, encoding="utf-8").read().count("\n") > 2:
            p.send_signal(signal.SIGINT)
            break
        time.sleep(0.002)
    said = p.communicate()[0]
    assert p.returncode in (0, 1), said
    if p.returncode:
        refused(said, "the same command goes on")
        assert not os.path.exists(halves)
        refused(run(command(halves, *flags, "--lr", "0.004"), exit=1), "belongs to another run")
        refused(run(command(halves, *flags)), "going on from step")
    assert files(whole) == files(halves) and not os.path.exists(hidden(halves))


def test_killed_at_any_moment_it_leaves_no_model_that_opens():
    out = scratch("integrate.killed")
    p = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         env=clean_environment())
    time.sleep(0.3 * SLOW)
    p.kill()
    p.wait()
    if not os.path.exists(out):
        run(command(out))
    assert files(out) == files(trained(False))


# ---- what is refused -----------------------------------------------------------------------------

def test_what_cannot_be_integrated_is_refused_in_words():
    out = scratch("integrate.refused")
    for batches, flags, words, exit in (
            (("--batch-column", "one"), (), "all cells are of one batch ('here')", 1),
            ((), (), "all cells are of one batch ('batches.h5ad')", 1),
            (("--batch-column", "no"), (), "--batch-column: ", 1),
            (("--batch-column", "lonely_batch"), (), "batch 'one' has 1 cells to train on", 1),
            (("--batch-column", "lab"), ("--label-column", "lonely"), "'one'", 1),
            (("--batch-column", "lab"), ("--label-column", "no"), "no", 1),
            (("--batch-column", "lab"), ("--label-column", "lab"), "every label is in one", 1),
            (("--batch-column", "lab"), (*LABELS, "--labels", "x"), "give one of them", 2),
            (("--batch-column", "lab"), ("--dtype", "f16"), "must be f32 or bf16", 2),
            (("--batch-column", "lab"), ("--batch", "1"), "--batch", 2)):
        said = run(command(out, *flags, batches=batches), exit=exit)
        refused(said, words)
    assert not os.path.exists(out)
    assert not os.path.exists(hidden(out))
    refused(run(command(os.path.join(scratch("nowhere"), "deep")), exit=1), "No such file")
    refused(run(command("/"), exit=1), "must name a new folder")


def test_a_folder_that_is_there_is_left_alone():
    out = scratch("integrate.there")
    shutil.copytree(base(), out)
    refused(run(command(out), exit=1), "is there already")
    assert sorted(os.listdir(out)) == sorted(os.listdir(base()))
    empty = scratch("integrate.empty")
    os.mkdir(empty)
    run(command(empty + "/", "--epochs", "1"))
    assert "model.safetensors" in os.listdir(empty)


def test_what_a_killed_run_left_goes_and_what_is_not_a_runs_stays():
    out = scratch("integrate.left")
    os.mkdir(hidden(out))
    half = os.path.join(hidden(out), "checkpoint.bin.4711.tmp")
    with open(half, "wb") as f:
        f.write(b"half")
    mine = os.path.join(hidden(out), "letters.txt")
    with open(mine, "wb") as f:
        f.write(b"mine")
    refused(run(command(out, "--epochs", "1"), exit=1), "holds letters.txt")
    os.remove(mine)
    run(command(out, "--epochs", "1"))
    assert sorted(os.listdir(out)) == FILES


def test_a_file_without_the_column_is_named():
    x, _, _ = cells(n=20)
    other = write_h5ad("nobatch.h5ad", x)
    said = run(command(scratch("integrate.column"), "--data", other), exit=1)
    refused(said, "nobatch.h5ad: no cell has a batch", "'lab'")


def test_two_runs_of_one_model_do_not_mix():
    out = scratch("integrate.twice")
    first = subprocess.Popen(command(out, "--epochs", "500"), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    while not os.path.exists(os.path.join(hidden(out), "train.csv")):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.01)
    refused(run(command(out), exit=1), "another run is making this model")
    first.kill()
    first.wait()
