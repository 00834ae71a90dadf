"""test_finetune.py - scdiva-train finetune annotation and eval: heads that learn, to the bit, that
the daemon serves as eval sees them, and what is refused.

Cells are made here: three types, each with its own genes, over a background.
"""
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import numpy as np

import harness
from harness import Daemon, SLOW, clean_environment, scdiva_train, scratch
from test_train import write_h5ad

TYPES = ["B", "CD4 T", "NK"]
N_CELLS, N_GENES = 150, 40
QUICK = ["--batch", "16", "--mlp", "16", "--micro-rows", "512", "--lr", "0.01", "--backbone-lr",
         "0.003", "--epochs", "6", "--calibrate-copies", "1", "--seed", "4"]


# ---- data and runs -------------------------------------------------------------------------------

def cells(seed=1, n=N_CELLS):
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(n) % len(TYPES))
    rate = np.full((n, N_GENES), 0.5)
    for i, k in enumerate(kind):
        rate[i, 5 * k:5 * k + 5] = 8
    x = rng.poisson(rate).astype(np.float32)
    x[:, -1] += 1  # no cell is empty
    return x, [TYPES[k] for k in kind]


@functools.cache
def data():
    x, kinds = cells()
    ids = {"B": "CL:0000236", "CD4 T": "CL:0000624", "NK": "CL:0000623"}
    obs = {"kind": kinds, "id": [ids[k] for k in kinds],
           "donor": [f"d{i % 5}" for i in range(len(kinds))],
           "lonely": ["one" if i == 7 else "rest" for i in range(len(kinds))]}
    return write_h5ad("labelled.h5ad", x, obs=obs)


@functools.cache
def base():
    """A random model with the cells' genes."""
    genes = scratch("finetune.genes.tsv")
    with open(genes, "w", encoding="utf-8") as f:
        f.write("token_id\tsymbol\n" + "".join(f"{i + 2}\tGENE{i}\n" for i in range(N_GENES)))
    out = scratch("finetune.base")
    subprocess.run(scdiva_train() + ["init", "--out", out, "--genes", genes, "--hidden", "32",
                                     "--dim", "32", "--layers", "2", "--heads", "2", "--ffn", "48",
                                     "--seed", "2"],
                   check=True, stdout=subprocess.DEVNULL, env=clean_environment())
    return out


def model(name):
    """A copy of the base to train a head in."""
    out = scratch(name)
    shutil.copytree(base(), out)
    return out


def command(out, *flags, labels=("--label-column", "kind"), on=None):
    return scdiva_train() + ["finetune", "annotation", "--model", out, "--data", on or data(),
                             *labels, *QUICK, *flags]


def run(args, exit=0, **more):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=100 * SLOW, env=clean_environment(), check=False, **more)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    assert "Sanitizer" not in p.stdout and "runtime error" not in p.stdout, p.stdout
    return p.stdout


def refused(said, *parts):
    for part in parts:
        assert part in said, f"'{part}' is not in: {said}"


def head(out, name="annotation"):
    with open(os.path.join(out, "heads", name, "head.json"), encoding="utf-8") as f:
        return json.load(f)


def files(out, name="annotation"):
    found = {}
    for f in ("head.json", "head.safetensors"):
        with open(os.path.join(out, "heads", name, f), "rb") as stream:
            found[f] = stream.read()
    return found


@functools.cache
def trained():
    out = model("finetune.trained")
    run(command(out, "--ontology-column", "id"))
    return out


# ---- learning ------------------------------------------------------------------------------------

def test_a_head_learns_types_that_have_their_own_genes():
    h = head(trained())
    assert [x["label"] for x in h["labels"]] == TYPES
    assert [x["ontology_id"] for x in h["labels"]] == ["CL:0000236", "CL:0000624", "CL:0000623"]
    # eight counts against a half in five genes: hardly a cell can be mistaken
    assert h["evaluation"]["held_out"]["accuracy"] > 0.9, h["evaluation"]
    assert 0.25 <= h["temperature"] <= 8 and 0 <= h["threshold"] <= 1
    assert os.listdir(os.path.join(trained(), "heads")) == ["annotation"]


def test_eval_scores_a_file_it_has_not_seen_and_writes_predictions_and_embeddings():
    x, kinds = cells(seed=9, n=40)
    path = write_h5ad("unseen.h5ad", x, obs={"kind": kinds})
    table, array = scratch("unseen.tsv"), scratch("unseen.npy")
    said = json.loads(run(scdiva_train() + ["eval", "--model", trained(), "--data", path,
                                            "--label-column", "kind", "--predictions", table,
                                            "--embeddings", array]))
    assert said["cells"] == said["scored"] == 40 and said["accuracy"] > 0.9, said
    lines = open(table, encoding="utf-8").read().split("\n")
    assert lines[0].split("\t") == ["file", "barcode", "truth", *TYPES]
    first = lines[1].split("\t")
    assert first[:3] == ["unseen.h5ad", "unseen.h5ad-0", kinds[0]]
    assert abs(sum(map(float, first[3:])) - 1) < 1e-5
    embeddings = np.load(array)
    assert embeddings.shape == (40, 32) and np.isfinite(embeddings).all()


def test_the_daemon_answers_what_eval_wrote():
    check_served(trained(), seed=9)


def test_a_head_is_asked_about_the_genes_of_its_training_data_alone():
    x, kinds = cells()
    x[:, 0] += 1
    panel = write_h5ad("panel.h5ad", x[:, :25], obs={"kind": kinds},
                       genes=[f"GENE{g}" for g in range(25)])
    out = model("finetune.panel")
    run(command(out, on=panel))
    assert head(out)["genes"] == [[2, 27]]
    check_served(out, seed=9)


def check_served(out, seed):
    x, kinds = cells(seed, n=40)
    path = write_h5ad("served.h5ad", x, obs={"kind": kinds})
    table = scratch("served.tsv")
    run(scdiva_train() + ["eval", "--model", out, "--data", path, "--predictions", table])
    rows = [line.split("\t") for line in open(table, encoding="utf-8").read().split("\n")[1:-1]]
    d = Daemon(out, flags=("--precision", "fp32"))
    try:
        body = {"cells": [{"genes": [f"GENE{g}" for g in np.nonzero(c)[0]],
                           "values": [float(v) for v in c[c > 0]]} for c in x], "top_k": 3}
        items = d.post("/v1/annotations", body).json()["data"]
        assert len(items) == len(rows)
        for item, row in zip(items, rows):
            p = {t["label"]: t["probability"] for t in item["top"]}
            for label, want in zip(TYPES, row[3:]):
                # both are fp32; the head's tensors are bf16 in the file for both
                assert abs(p[label] - float(want)) < 1e-4, (item, row)
    finally:
        d.stop()


def test_the_same_command_gives_the_same_bytes_with_any_number_of_threads():
    one, two = model("finetune.t1"), model("finetune.t2")
    augment = ("--thin-share", "0.5", "--panel-share", "0.5", "--sum-share", "0.3",
               "--subset-share", "0.3", "--gene-sigma", "0.2", "--epochs", "2")
    run(command(one, "--threads", "1", *augment))
    run(command(two, "--threads", "2", *augment))
    assert files(one) == files(two)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes():
    whole, halves = model("finetune.whole"), model("finetune.halves")
    flags = ("--epochs", "12", "--patience", "0", "--sum-share", "0.3", "--average", "0.8")
    run(command(whole, *flags))
    log = os.path.join(halves, "heads", ".annotation", "train.csv")
    p = subprocess.Popen(command(halves, *flags), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    while time.monotonic() < end and p.poll() is None:
        if os.path.exists(log) and open(log, encoding="utf-8").read().count("\n") > 3:
            p.send_signal(signal.SIGINT)
            break
        time.sleep(0.002)
    said = p.communicate()[0]
    assert p.returncode in (0, 1), said
    if p.returncode:
        refused(said, "the same command goes on")
        assert not os.path.exists(os.path.join(halves, "heads", "annotation", "head.json"))
        refused(run(command(halves, *flags)), "going on from step")
    assert files(whole) == files(halves)


def test_without_early_stopping_the_last_epoch_is_kept():
    out = model("finetune.patience")
    run(command(out, "--patience", "0", "--epochs", "9"))  # perfect long before, by these cells
    assert head(out)["evaluation"]["epoch"] == 9


def test_the_linear_half_can_be_left_out():
    out = model("finetune.plain")
    run(command(out, "--epochs", "1", "--gene-lr", "0"))
    assert b"genes.weight" in files(trained())["head.safetensors"][:4000]
    assert b"genes." not in files(out)["head.safetensors"][:4000]


def test_a_frozen_backbone_stays_out_of_the_head():
    out = model("finetune.frozen")
    run(command(out, "--train-layers", "0"))
    header = files(out)["head.safetensors"]
    n = int.from_bytes(header[:8], "little")
    names = set(json.loads(header[8:8 + n])) - {"__metadata__"}
    assert names == {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias",
                     "genes.weight", "genes.bias"}


def test_only_the_last_layers_are_in_the_head_where_only_they_were_trained():
    out = model("finetune.last")
    run(command(out, "--train-layers", "1", "--epochs", "1"))
    header = files(out)["head.safetensors"]
    n = int.from_bytes(header[:8], "little")
    names = set(json.loads(header[8:8 + n])) - {"__metadata__"}
    assert "layers.1.attn.q_proj.weight" in names and "final_norm.weight" in names
    assert not any(x.startswith(("layers.0.", "gene_", "value_")) for x in names), names


def test_a_donor_is_on_one_side_of_the_split():
    out = model("finetune.donor")
    said = run(command(out, "--group-column", "donor", "--held-out-group", "d2", "--epochs", "1"))
    refused(said, "120 to train on, 30 held out")


def test_groups_are_held_out_as_near_to_the_share_as_they_allow():
    x, kinds = cells()
    obs = {"kind": kinds, "donor": ["big" if i % 10 else "small" for i in range(len(kinds))],
           "one": ["all"] * len(kinds)}
    path = write_h5ad("groups.h5ad", x, obs=obs)
    for seed in "0", "1", "2":
        out = model(f"finetune.groups{seed}")
        said = run(command(out, "--group-column", "donor", "--epochs", "1", "--seed", seed,
                           on=path))
        refused(said, "135 to train on, 15 held out (whole groups)")
    out = model("finetune.onegroup")
    said = run(command(out, "--group-column", "one", "--epochs", "1", on=path))
    refused(said, "(cell by cell)")


def test_a_table_of_soft_labels_is_as_good_as_a_column():
    _, kinds = cells()
    table = scratch("soft.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("file\tbarcode\t" + "\t".join(TYPES) + "\tnobody\n")
        for i, k in enumerate(kinds):
            p = [0.9 if t == k else 0.05 for t in TYPES]
            f.write(f"labelled.h5ad\tlabelled.h5ad-{i}\t" + "\t".join(map(str, p)) + "\t0\n")
        f.write("another.h5ad\tcell\t1\t0\t0\t0\n")  # of a file that is not here
    out = model("finetune.soft")
    run(command(out, labels=("--labels", table)))
    assert head(out)["evaluation"]["held_out"]["accuracy"] > 0.9
    assert [x["label"] for x in head(out)["labels"]] == TYPES  # what nobody is, is no label


def test_killed_at_any_moment_it_leaves_no_head_that_opens():
    out = model("finetune.killed")
    p = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         env=clean_environment())
    time.sleep(0.4 * SLOW)
    p.kill()
    p.wait()
    if not os.path.exists(os.path.join(out, "heads", "annotation", "head.json")):
        said = run(scdiva_train() + ["eval", "--model", out, "--data", data()])
        assert json.loads(said)["head"] == ""  # half a head is none
    run(command(out, "--force"))
    assert head(out)["task"] == "annotation"


def test_cells_without_a_known_gene_are_left_out_and_counted():
    x, kinds = cells()
    x = np.concatenate([x, np.zeros((len(x), 1), np.float32)], axis=1)  # a gene of no model
    x[:4, :-1], x[:4, -1] = 0, 7
    path = write_h5ad("unknown.h5ad", x, genes=[f"GENE{i}" for i in range(N_GENES)] + ["NOBODY"],
                      obs={"kind": kinds})
    said = run(command(model("finetune.unknown"), "--epochs", "1", on=path))
    refused(said, "4 labelled cells have no gene that the model knows: left out")


def test_counts_of_unknown_genes_are_warned_of_and_refused_under_half():
    x, kinds = cells()
    known = x.sum()
    genes = [f"GENE{i}" for i in range(N_GENES)] + ["NOBODY"]

    def file(name, share):
        """Of whose counts this share is of known genes."""
        other = np.zeros((len(x), 1), np.float32)
        other[0] = round(known / share - known)
        return write_h5ad(name, np.concatenate([x, other], axis=1), genes=genes,
                          obs={"kind": kinds})

    ok, few, fewer = file("m85.h5ad", 0.85), file("m70.h5ad", 0.7), file("m45.h5ad", 0.45)
    out = model("finetune.mapped")
    assert "warning" not in run(command(out, "--epochs", "1", on=ok))
    refused(run(command(out, "--epochs", "1", "--force", on=few)),
            "m70.h5ad: only 70.0 % of the counts are of genes that the model knows")
    refused(run(command(out, "--epochs", "1", "--force", on=fewer), exit=1),
            "m45.h5ad: only 45.0 % of the counts", "at least 50 % must be", "--min-mapped")
    run(command(out, "--epochs", "1", "--force", "--min-mapped", "0.4", on=fewer))
    evaluate = scdiva_train() + ["eval", "--model", out, "--label-column", "kind", "--data"]
    refused(run([*evaluate, few]), "only 70.0 %")
    refused(run([*evaluate, fewer], exit=1), "m45.h5ad: only 45.0 %", "gene column: index")
    run([*evaluate, fewer, "--min-mapped", "0"])


def test_two_runs_of_one_head_do_not_mix():
    out = model("finetune.twice")
    first = subprocess.Popen(command(out, "--epochs", "500", "--patience", "0"),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    while not os.path.exists(os.path.join(out, "heads", ".annotation", "train.csv")):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.01)
    refused(run(command(out), exit=1), "another run is training this head")
    run(command(out, "--name", "other", "--epochs", "1"))
    first.kill()
    first.wait()


# ---- bad input -----------------------------------------------------------------------------------

def test_a_refusal_leaves_no_folder_in_the_model():
    out = model("finetune.untouched")
    refused(run(command(out, "--held-out", "0.001"), exit=1), "no cell is held out", "--held-out")
    refused(run(command(out, "--group-column", "donor", *[f for d in range(5) for f in
                                                          ("--held-out-group", f"d{d}")]),
                exit=1), "is left to train on")
    x, kinds = cells()
    obs = {"kind": kinds}
    strangers = write_h5ad("strangers.h5ad", x, [f"X{i}" for i in range(N_GENES)], obs)
    refused(run(command(out, on=strangers), exit=1), "strangers.h5ad", "of the")
    scaled = write_h5ad("scaled.h5ad", x - x.mean(0), None, obs)
    refused(run(command(out, on=scaled), exit=1), "scaled.h5ad", "X is scaled")
    zero = write_h5ad("zero.h5ad", x * 0, None, obs)
    refused(run(command(out, on=zero), exit=1), "zero.h5ad")
    cut = scratch("cut.h5ad")
    with open(data(), "rb") as whole, open(cut, "wb") as part:
        part.write(whole.read()[:3000])
    refused(run(command(out, on=cut), exit=1), "cut.h5ad")
    assert not os.path.exists(os.path.join(out, "heads"))


def test_a_full_disk_is_named_and_leaves_no_head():
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write(2) answers EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    out = model("finetune.full")
    refused(run(command(out), exit=1, preexec_fn=small_files), "checkpoint.bin", "File too large")
    assert not os.path.exists(os.path.join(out, "heads", "annotation"))
    run(command(out))  # goes on, or starts again: the folder is in nobody's way
    assert head(out)["task"] == "annotation"


def test_labels_that_cannot_be_learned_are_refused_by_name():
    out = model("finetune.bad")
    refused(run(command(out, labels=("--label-column", "lonely")), exit=1), "'one' has 1 cell")
    refused(run(command(out, labels=("--label-column", "cluster")), exit=1), "cluster")
    refused(run(command(out, labels=()), exit=2), "--label-column")
    refused(run(command(out, labels=("--labels", "x", "--label-column", "kind")), exit=2),
            "one of")
    refused(run(command(out, "--group-column", "donor", "--held-out-group", "d9"), exit=1), "d9")
    refused(run(command(out, "--ontology", "ids.tsv"), exit=2), "--ontology-column")
    refused(run(command(out, "--average", "0.5"), exit=2), "--patience 0")
    refused(run(command(out, "--name", "../x"), exit=2), "--name")
    refused(run(command(out, "--lr", "fast"), exit=2), "--lr fast")
    refused(run(command(out, "--no-such"), exit=2), "--no-such")


def test_a_bad_table_is_refused_with_its_line():
    out = model("finetune.table")
    cases = {"barcode\tB\tNK\nlabelled.h5ad-0\t0.5\t0.6\n": "line 2: probabilities add up to 1.1",
             "barcode\tB\tNK\nlabelled.h5ad-0\tmuch\t0\n": "'much' under B",
             "barcode\tB\tNK\nlabelled.h5ad-0\t1\n": "line 2: 2 fields",
             "cell\tB\tNK\nlabelled.h5ad-0\t1\t0\n": "no column `barcode`",
             "barcode\tB\tNK\nlabelled.h5ad-0\t1\t0\nlabelled.h5ad-0\t1\t0\n": "given before",
             "barcode\tB\tNK\nstranger\t1\t0\n": "none of its 1 cells",
             "": "empty"}
    for text, message in cases.items():
        table = scratch("bad.tsv")
        with open(table, "w", encoding="utf-8") as f:
            f.write(text)
        refused(run(command(out, labels=("--labels", table)), exit=1), message)


def test_an_existing_head_is_replaced_only_when_asked():
    out = model("finetune.again")
    run(command(out, "--epochs", "1"))
    refused(run(command(out, "--epochs", "1"), exit=1), "--force")
    run(command(out, "--epochs", "1", "--force", "--seed", "5"))
    assert "--seed 5" in head(out)["recipe"]
    assert os.listdir(os.path.join(out, "heads")) == ["annotation"]


def test_a_checkpoint_of_another_run_is_refused():
    out = model("finetune.other")
    p = subprocess.Popen(command(out, "--epochs", "500", "--patience", "0"),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env=clean_environment())
    checkpoint = os.path.join(out, "heads", ".annotation", "checkpoint.bin")
    end = time.monotonic() + 60 * SLOW
    while not os.path.exists(checkpoint) and time.monotonic() < end:
        time.sleep(0.01)
    p.send_signal(signal.SIGTERM)
    p.communicate()
    refused(run(command(out, "--epochs", "3"), exit=1), "checkpoint.bin")


def test_a_checkpoint_does_not_go_on_over_other_values_of_the_same_name():
    x, kinds = cells()
    path = write_h5ad("replaced.h5ad", x, obs={"kind": kinds})
    out = model("finetune.replaced")
    flags = ("--epochs", "500", "--patience", "0")
    p = subprocess.Popen(command(out, *flags, on=path), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env=clean_environment())
    checkpoint = os.path.join(out, "heads", ".annotation", "checkpoint.bin")
    end = time.monotonic() + 60 * SLOW
    while not os.path.exists(checkpoint) and time.monotonic() < end:
        time.sleep(0.01)
    p.send_signal(signal.SIGTERM)
    p.communicate()
    x[3, 5] += 1
    write_h5ad("replaced.h5ad", x, obs={"kind": kinds})
    refused(run(command(out, *flags, on=path), exit=1), "checkpoint.bin")


def test_what_is_no_h5ad_is_named():
    path = scratch("no.h5ad")
    with open(path, "w", encoding="utf-8") as f:
        f.write("hello")
    said = run(scdiva_train() + ["eval", "--model", trained(), "--data", path], exit=1)
    refused(said, "no.h5ad")


def test_eval_without_a_head_gives_embeddings_alone():
    array = scratch("base.npy")
    said = json.loads(run(scdiva_train() + ["eval", "--model", base(), "--data", data(),
                                            "--embeddings", array]))
    assert said["cells"] == N_CELLS and said["scored"] == 0 and said["head"] == ""
    assert np.load(array).shape == (N_CELLS, 32)
    refused(run(scdiva_train() + ["eval", "--model", base(), "--data", data(), "--predictions",
                                  scratch("none.tsv")], exit=1), "no head")


def test_eval_tells_the_losses_of_the_objective():
    said = json.loads(run(scdiva_train() + ["eval", "--model", base(), "--data", data(),
                                            "--losses"]))
    assert [h["share"] for h in said["hidden"]] == [0.15, 0.5, 0.9]
    for h in said["hidden"]:
        # random weights know nothing: about log(vocabulary) and hardly a gene right
        assert h["tokens"] > 100 and h["gene_loss"] > 2 and h["gene_accuracy"] < 0.3, h
        assert h["value_mse"] > 0


def test_of_several_heads_one_must_be_chosen():
    out = model("finetune.two")
    run(command(out, "--epochs", "1", "--name", "a"))
    run(command(out, "--epochs", "1", "--name", "b"))
    refused(run(scdiva_train() + ["eval", "--model", out, "--data", data()], exit=1), "--head")
    run(scdiva_train() + ["eval", "--model", out, "--data", data(), "--head", "b"])
