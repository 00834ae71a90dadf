"""test_train.py - scdiva-train pretrain: what it leaves behind, to the bit, and what it refuses.

Small models on cells made here: a few programs of genes, each cell a mixture of two, so that there
is something to learn.
"""
import csv
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np

import harness
import models
import reference
from harness import SLOW, Daemon, Skip, clean_environment, scdiva_train, scratch

N_CELLS, N_GENES = 160, 60
SIZES = ["--hidden", "32", "--layers", "2", "--heads", "2", "--ffn", "48", "--batch", "8",
         "--micro-rows", "256", "--max-genes", "100"]
FILES = ["card.md", "config.json", "genes.tsv", "lengths.tsv", "model.safetensors", "train.csv"]


# ---- data ----------------------------------------------------------------------------------------

def counts(seed=1, n_cells=N_CELLS, n_genes=N_GENES, mixed=True):
    rng = np.random.default_rng(seed)
    programs = rng.gamma(0.3, 1, (5, n_genes))
    kinds = rng.integers(0, 5, (n_cells, 2))
    rate = programs[kinds[:, 0]] + (0.5 * programs[kinds[:, 1]] if mixed else 0)
    x = rng.poisson(60 * rate / rate.sum(1, keepdims=True))
    x[np.arange(n_cells), rng.integers(0, n_genes, n_cells)] += 1  # no cell is empty
    return x.astype(np.float32)


def write_frame(group, index, columns):
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0",
                        "_index": "_index"})
    group.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())
    for name, values in {"_index": index, **columns}.items():
        values = [str(v) for v in values]
        d = group.create_dataset(name, data=np.array(values, dtype=h5py.string_dtype()))
        d.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def write_h5ad(name, x, genes=None, obs=None, var=None):
    """A path; x dense. genes: names; obs, var: {column: values}."""
    path = scratch(name)
    with h5py.File(path, "w") as f:
        f.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        d = f.create_dataset("X", data=x)
        d.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        write_frame(f.create_group("obs"), [f"{name}-{i}" for i in range(len(x))], obs or {})
        write_frame(f.create_group("var"), genes or [f"GENE{i}" for i in range(x.shape[1])],
                    var or {})
    return path


@functools.cache
def data():
    obs = {"donor": [f"d{i % 4}" for i in range(N_CELLS)],
           "perturbation": [["control", "GENE3", "KLF1+GENE3", "BAK1"][i % 4]
                            for i in range(N_CELLS)]}
    return write_h5ad("train.h5ad", counts(), obs=obs)


# ---- runs ----------------------------------------------------------------------------------------

def command(out, *flags, file=None, sizes=SIZES):
    return scdiva_train() + ["pretrain", "--data", file or data(), "--out", out, "--seed", "3",
                             *sizes, *flags]


def pretrain(out, *flags, exit=0, **kwargs):
    """Runs to the end; what it said. Sanitizers have nothing to say."""
    limits = {k: kwargs.pop(k) for k in ("preexec_fn",) if k in kwargs}
    p = subprocess.run(command(out, *flags, **kwargs), stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=100 * SLOW,
                       env=clean_environment(), check=False, **limits)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    assert "Sanitizer" not in p.stdout and "runtime error" not in p.stdout, p.stdout
    return p.stdout


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def rows(out):
    with open(os.path.join(out, "train.csv"), encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def start_and_reach(out, step, *flags, **kwargs):
    """A running process whose checkpoint is at least of `step`."""
    p = subprocess.Popen(command(out, *flags, **kwargs), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    checkpoint = os.path.join(out, "checkpoint.bin")
    while time.monotonic() < end and p.poll() is None:
        if os.path.exists(checkpoint) and int(rows(out)[-1]["step"]) >= step:
            return p
        time.sleep(0.002)
    p.kill()
    raise AssertionError(f"no checkpoint of step {step}:\n{p.communicate()[0]}")


RUN = ["--steps", "40", "--eval-every", "10"]


@functools.cache
def whole():
    """An uninterrupted run of RUN on one thread; its folder and what it printed."""
    out = scratch("train.whole")
    return out, pretrain(out, *RUN, "--threads", "1")


# ---- what it leaves ------------------------------------------------------------------------------

def test_a_run_leaves_a_model_a_card_and_a_log():
    out, said = whole()
    assert sorted(os.listdir(out)) == FILES, os.listdir(out)
    assert "held out" in said and "gene named" in said, said
    config = json.loads(read(out, "config.json"))
    assert config["HIDDEN_DIM"] == 32 and config["VOCAB_SIZE"] == N_GENES + 5, config
    assert config["latent_pooling"] == "visible" and "trained" not in config, config
    card = read(out, "card.md").decode()
    for text in ("--steps 40", "train.h5ad", "| 15 % |", "most frequent gene", "Limits"):
        assert text in card, f"{text} is not in {card}"
    steps = [int(r["step"]) for r in rows(out)]
    assert steps == [0, 10, 20, 30, 40], steps
    for r in rows(out):
        assert all(r[c] for c in ("accuracy_15", "mse_50", "gene_mean_90", "frequent_15")), r


def test_the_daemon_serves_it_as_the_reference_computes_it():
    out, _ = whole()
    x = counts()[:5]
    body = {"cells": [{"genes": [f"GENE{g}" for g in np.flatnonzero(c)],
                       "values": [int(v) for v in c[c > 0]]} for c in x]}
    with Daemon(out, flags=["--precision", "fp32"]) as d:
        got = d.embed(body).embeddings()
    for a, (b, _) in zip(got, reference.embed(reference.Model(out), body)):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def test_entropies_are_those_of_the_training_cells():
    # Held out by a column, so that it is known here who trains.
    out = scratch("train.entropies")
    pretrain(out, "--steps", "1", "--held-out-column", "donor=d1")
    x = counts()[[i % 4 != 1 for i in range(N_CELLS)]].astype(np.float64)
    x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    p = x / np.maximum(x.sum(0), 1e-300)
    h = -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(0) / np.log(len(x))
    lines = read(out, "genes.tsv").decode().splitlines()
    names = lines[0].split("\t")
    for line in lines[1:]:
        row = dict(zip(names, line.split("\t")))
        gene = int(row["symbol"][4:])
        if x[:, gene].any():
            assert abs(float(row["entropy"]) - h[gene]) < 1e-6, (row, h[gene])
        else:
            assert row["entropy"] == "", row


def test_training_beats_guessing():
    # Five kinds of cells with twelve genes each: who sees a few of them knows the others. Values
    # weigh 1 here: at 10, so few and so small batches say too little about genes.
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 5, 300)
    x = np.zeros((300, N_GENES), np.float32)
    for cell, kind in zip(x, kinds):
        cell[12 * kind:12 * kind + 12] = rng.poisson(np.linspace(1, 12, 12))
    out = scratch("train.learns")
    pretrain(out, "--steps", "250", "--lr", "0.005", "--eval-every", "250", "--held-out", "0.2",
             "--value-weight", "1", file=write_h5ad("kinds.h5ad", x))
    first, last = rows(out)[1], rows(out)[-1]
    assert float(last["gene_loss"]) < float(first["gene_loss"]) - 1, (first, last)
    assert float(last["accuracy_15"]) > 4 * float(last["frequent_15"]), last
    assert float(last["mse_50"]) < float(last["gene_mean_50"]), last


# ---- the same bits -------------------------------------------------------------------------------

def test_any_number_of_threads_gives_the_same_bytes():
    want = read(whole()[0], "model.safetensors")
    for threads in ("2", "3"):
        out = scratch(f"train.threads{threads}")
        pretrain(out, *RUN, "--threads", threads)
        assert read(out, "model.safetensors") == want, f"{threads} threads differ"


def test_other_seeds_and_evaluations_do_what_they_should():
    want = read(whole()[0], "model.safetensors")
    out = scratch("train.unwatched")
    pretrain(out, "--steps", "40", "--eval-every", "7", "--eval-cells", "2")
    assert read(out, "model.safetensors") == want, "evaluation must not move the model"
    out = scratch("train.seed4")
    pretrain(out, *RUN, "--seed", "4")
    assert read(out, "model.safetensors") != want


def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_bytes():
    out = scratch("train.stopped")
    flags = (*RUN, "--checkpoint-steps", "1")
    p = start_and_reach(out, 10, *flags)
    p.send_signal(signal.SIGINT)
    said = p.communicate()[0]
    assert p.returncode == 1 and "the same command goes on" in said, (p.returncode, said)
    assert sorted(os.listdir(out)) == ["checkpoint.bin", "train.csv"], os.listdir(out)
    said = pretrain(out, *flags)
    assert "resumed at step" in said, said
    assert read(out, "model.safetensors") == read(whole()[0], "model.safetensors")
    assert sorted(os.listdir(out)) == FILES, os.listdir(out)
    fixed = [{k: v for k, v in r.items() if k != "tokens_s"} for r in rows(out)]
    want = [{k: v for k, v in r.items() if k != "tokens_s"} for r in rows(whole()[0])]
    assert fixed == want, "the log of a resumed run is that of an uninterrupted one"


def test_a_killed_run_leaves_nothing_whole_and_goes_on():
    out = scratch("train.killed")
    flags = (*RUN, "--checkpoint-steps", "1")
    for step in (5, 15, 25):
        p = start_and_reach(out, step, *flags)
        p.kill()
        p.communicate()
        assert not os.path.exists(os.path.join(out, "model.safetensors"))
        assert "model.safetensors" in harness.refused(["--model", out, "--data", scratch()])
    pretrain(out, *flags)
    assert read(out, "model.safetensors") == read(whole()[0], "model.safetensors")
    assert sorted(os.listdir(out)) == FILES, "temporary files of killed runs go"


def test_how_the_batch_is_cut_changes_only_the_last_bits():
    out = scratch("train.cut")
    pretrain(out, "--steps", "1", "--micro-rows", "101")
    other = scratch("train.uncut")
    pretrain(other, "--steps", "1", "--micro-rows", "4096")
    a, b = rows(out)[-1], rows(other)[-1]
    for column in ("gene_loss", "value_loss", "gradient"):
        assert abs(float(a[column]) / float(b[column]) - 1) < 1e-5, (column, a, b)


# ---- options -------------------------------------------------------------------------------------

def test_extra_genes_of_a_column_join_the_vocabulary():
    out = scratch("train.extra")
    pretrain(out, "--steps", "1", "--extra-genes-column", "perturbation")
    symbols = [line.split("\t")[1] for line in read(out, "genes.tsv").decode().splitlines()[1:]]
    assert "KLF1" in symbols and "BAK1" in symbols and "control" not in symbols, symbols
    assert len(symbols) == N_GENES + 2, symbols


def test_ablations_and_variants_say_so_in_the_model():
    def config(name, *flags):
        out = scratch("train." + name)
        pretrain(out, "--steps", "2", *flags)
        return out, json.loads(read(out, "config.json"))
    out, c = config("values", "--value-only-share", "0.3", "--pooling", "clean")
    assert c["value_masking"] is True and c["latent_pooling"] == "clean", c
    for order in ("expression", "random"):
        out, c = config(order, "--order", order)
        assert b"entropy" not in read(out, "genes.tsv")
        assert order in read(out, "card.md").decode()
    out, c = config("blind", "--no-latent", "--dtype", "bf16")
    weights = reference.Weights(os.path.join(out, "model.safetensors"))
    assert not np.any(weights.get("latent_encoder.mlp.3.weight"))
    assert weights.header["gene_head.weight"]["dtype"] == "BF16"
    config("panels", "--panel-share", "0.5", "--subset-share", "0.5", "--thin-share", "0.5")


def test_a_model_can_be_the_start_of_another():
    out = scratch("train.further")
    start = whole()[0]
    x = write_h5ad("more.h5ad", counts(2))
    pretrain(out, "--init", start, "--steps", "5", "--batch", "8", file=x, sizes=[])
    assert read(out, "genes.tsv") == read(start, "genes.tsv")
    assert read(out, "model.safetensors") != read(start, "model.safetensors")
    assert len(read(out, "model.safetensors")) == len(read(start, "model.safetensors"))


def test_genes_come_from_the_column_that_the_start_knows():
    numbered = write_h5ad("numbered.h5ad", counts(2), var={
        "gene_ids": [str(1000 + g) for g in range(N_GENES)],
        "feature_name": [f"probe_{g}" for g in range(N_GENES)]})
    said = pretrain(scratch("train.column"), "--init", whole()[0], "--steps", "1", "--batch", "8",
                    file=numbered, sizes=[])
    assert f"genes from var[index], {N_GENES} of {N_GENES} known" in said, said
    out = scratch("train.named")
    pretrain(out, "--steps", "1", file=write_h5ad("entrez.h5ad", counts(2), var={
        "gene_ids": [str(1000 + g) for g in range(N_GENES)]}))
    assert b"\tGENE1\t" in read(out, "genes.tsv"), "numbers are no names of genes"


def test_the_pooling_is_that_of_the_start_unless_it_is_given():
    def pooling(name, *flags, sizes=SIZES):
        out = scratch("train.pooling." + name)
        pretrain(out, "--steps", "1", *flags, sizes=sizes)
        said = json.loads(read(out, "config.json"))["latent_pooling"]
        assert f"--pooling {said}" in read(out, "card.md").decode()
        return said
    clean = scratch("train.pooling.clean")
    assert pooling("new") == "visible"
    assert pooling("clean", "--pooling", "clean") == "clean"
    start = ["--init", clean, "--batch", "8"]
    assert pooling("as_it_was", *start, sizes=[]) == "clean"
    assert pooling("changed", *start, "--pooling", "visible", sizes=[]) == "visible"
    said, as_said = scratch("train.pooling.as_it_was"), scratch("train.pooling.said")
    pooling("said", *start, "--pooling", "clean", sizes=[])
    assert read(said, "model.safetensors") == read(as_said, "model.safetensors")


# ---- bad input -----------------------------------------------------------------------------------

def check_refused(out, words, *flags, exit=1, **kwargs):
    said = pretrain(out, *flags, exit=exit, **kwargs)
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    left = os.listdir(out) if os.path.isdir(out) else []
    assert not set(left) & {"model.safetensors", "config.json"}, left


def test_files_of_no_use_are_named():
    text = scratch("train.no.h5ad")
    with open(text, "w", encoding="utf-8") as f:
        f.write("barcode,gene\n")
    out = scratch("train.bad")
    check_refused(out, ["no.h5ad"], "--steps", "1", file=text)
    check_refused(out, ["nowhere.h5ad"], "--steps", "1", file="/nowhere.h5ad")
    scaled = write_h5ad("scaled.h5ad", counts() - counts().mean(0))
    check_refused(out, ["scaled.h5ad", "X"], "--steps", "1", file=scaled)
    genes = scratch("train.other.tsv")
    with open(genes, "w", encoding="utf-8") as f:
        f.write("symbol\n" + "".join(f"OTHER{i}\n" for i in range(20)))
    check_refused(out, ["train.h5ad", "GENE"], "--steps", "1", "--genes", genes)
    check_refused(out, ["nothing"], "--steps", "1", "--extra-genes-column", "nothing")


def test_an_empty_split_is_refused():
    out = scratch("train.split")
    check_refused(out, ["--held-out", "1e-09"], "--steps", "1", "--held-out", "1e-9")
    check_refused(out, ["donor=d9"], "--steps", "1", "--held-out-column", "donor=d9")
    check_refused(out, ["nothing"], "--steps", "1", "--held-out-column", "nothing=1")
    one = write_h5ad("one.h5ad", counts(), obs={"donor": ["d"] * N_CELLS})
    check_refused(out, ["no cell is left"], "--steps", "1", "--held-out-column", "donor=d",
                  file=one)


def test_wrong_use_is_exit_2():
    out = scratch("train.usage")
    for flags in (["--order", "alphabet"], ["--dtype", "f64"], ["--pooling", "both"],
                  ["--lr", "fast"], ["--batch", "0"], ["--held-out", "1.5"], ["--colour", "blue"],
                  ["--held-out-column", "donor"], ["--init", "m", "--genes", "g"]):
        pretrain(out, *flags, exit=2)
    pretrain(out, "--hidden", "30", "--heads", "4", exit=1)  # 7.5 is no width of a head
    check_refused(out, ["--micro-rows 50"], "--micro-rows", "50")


def test_a_checkpoint_of_another_run_is_refused():
    out = scratch("train.another")
    p = start_and_reach(out, 1, *RUN, "--checkpoint-steps", "1")
    p.send_signal(signal.SIGINT)
    p.communicate()
    before = read(out, "checkpoint.bin")
    check_refused(out, ["checkpoint.bin", "another run"], *RUN, "--lr", "0.01")
    check_refused(out, ["checkpoint.bin", "another run"], *RUN, "--hidden", "64")
    assert read(out, "checkpoint.bin") == before
    with open(os.path.join(out, "checkpoint.bin"), "r+b") as f:
        f.truncate(len(before) - 5)
    check_refused(out, ["checkpoint.bin", "damaged"], *RUN)


def test_a_checkpoint_goes_on_over_the_same_data_only():
    # Neither names nor numbers of cells tell these files apart, and no entropy is fitted.
    out, flags = scratch("train.data"), (*RUN, "--order", "expression", "--checkpoint-steps", "1")
    x = counts()
    path = write_h5ad("same.h5ad", x)
    p = start_and_reach(out, 1, *flags, file=path)
    p.send_signal(signal.SIGINT)
    p.communicate()
    os.rename(path, path + ".kept")
    x[7, 3] += 1
    write_h5ad("same.h5ad", x)
    check_refused(out, ["checkpoint.bin", "data"], *flags, file=path)
    os.makedirs(scratch("elsewhere"))
    copy = scratch("elsewhere/same.h5ad")
    shutil.copyfile(path + ".kept", copy)
    assert "resumed at step" in pretrain(out, *flags, file=copy)


def test_a_finished_model_is_replaced_only_by_force():
    out = scratch("train.finished")
    pretrain(out, "--steps", "2")
    before = read(out, "model.safetensors")
    said = pretrain(out, "--steps", "3", exit=1)
    assert "--force" in said and "model.safetensors" in said, said
    assert read(out, "model.safetensors") == before
    pretrain(out, "--steps", "3", "--force")
    assert read(out, "model.safetensors") != before


def test_the_heads_of_a_replaced_model_go_with_it():
    out = scratch("train.heads")
    pretrain(out, "--steps", "2")
    models.write_head(out, "old", ["B", "T"])
    said = pretrain(out, "--steps", "3", exit=1)
    assert os.listdir(os.path.join(out, "heads")) == ["old"], said
    pretrain(out, "--steps", "3", "--hidden", "30", "--force", exit=1)
    assert os.listdir(os.path.join(out, "heads")) == ["old"], "a run that fails removes nothing"
    said = pretrain(out, "--steps", "3", "--force")
    assert "heads" in said and "old" in said, said
    assert sorted(os.listdir(out)) == FILES, os.listdir(out)
    with Daemon(out):
        pass  # a head of another model would keep it from starting


def test_heads_without_their_model_are_not_taken_over():
    out = scratch("train.orphans")
    os.makedirs(os.path.join(out, "heads", "old"))
    said = pretrain(out, "--steps", "2", exit=1)
    assert "old" in said and "--force" in said, said
    pretrain(out, "--steps", "2", "--force")
    assert sorted(os.listdir(out)) == FILES, os.listdir(out)


def test_two_runs_do_not_share_a_folder():
    out = scratch("train.shared")
    p = start_and_reach(out, 1, "--steps", "100000", "--checkpoint-steps", "1")
    try:
        said = pretrain(out, "--steps", "100000", "--checkpoint-steps", "1", exit=1)
        assert "another run" in said, said
    finally:
        p.kill()
        p.communicate()


def test_a_full_disk_is_named_and_leaves_nothing_whole():
    out = scratch("train.full")

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write(2) answers EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))

    said = pretrain(out, *RUN, exit=1, preexec_fn=small_files)
    assert "checkpoint.bin" in said and "File too large" in said, said
    assert os.listdir(out) == ["train.csv"], os.listdir(out)
    pretrain(out, *RUN)
    assert read(out, "model.safetensors") == read(whole()[0], "model.safetensors")


# ---- real cells ----------------------------------------------------------------------------------

def test_real_files_of_three_kinds_train_together():
    folder = os.environ.get("SCDIVA_DATA", os.path.join(harness.TOP, "..", "shared", "data"))
    names = ["kang_ifnb.h5ad", "pbmc68k_reduced.h5ad", "perturbseq_k562_gbm.h5ad"]
    files = [os.path.join(folder, n) for n in names]
    if not all(os.path.exists(f) for f in files):
        raise Skip("../shared/data is not there")
    out = scratch("train.real")
    flags = [a for f in files[1:] for a in ("--data", f)]
    pretrain(out, *flags, "--steps", "2", "--eval-cells", "4", "--extra-genes-column", "condition",
             file=files[0], sizes=["--hidden", "32", "--layers", "1", "--heads", "2", "--ffn", "32",
                                   "--batch", "4"])
    card = read(out, "card.md").decode()
    for name in names:
        assert name in card, card
