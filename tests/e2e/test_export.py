"""test_export.py - scdiva-train export: the same model in another dtype, whole or not at all."""
import functools
import json
import os
import resource
import shutil
import signal
import subprocess

import numpy as np

import harness
import models
import reference
from harness import SLOW, Daemon, clean_environment, scdiva_train, scratch

GENES = [f"GENE{i}" for i in range(40)]
SIZES = {"HIDDEN_DIM": 32, "SCGPT_DIM": 32, "N_LAYERS": 2, "N_HEADS": 2, "D_HID": 48}
DTYPES = {"f32": "F32", "bf16": "BF16", "f16": "F16"}


def export(model, out, *flags, exit=0, **kwargs):
    p = subprocess.run(scdiva_train() + ["export", "--model", model, "--out", out, *flags],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=60 * SLOW, env=clean_environment(), check=False, **kwargs)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    assert "Sanitizer" not in p.stdout and "runtime error" not in p.stdout, p.stdout
    return p.stdout


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def make(name, heads=True, dtype="F32", **sizes):
    model = models.write_model(scratch(name), GENES, dtype=dtype, **{**SIZES, **sizes})
    with open(os.path.join(model, "card.md"), "w", encoding="utf-8") as f:
        f.write("# A model of tests\n\nAccuracy .99")
    if heads:
        models.write_head(model, "types", ["B", "T", "NK"])
        models.write_head(model, "states", ["rest", "active"], seed=4,
                          backbone=["final_norm.weight"])
    return model


@functools.cache
def source():
    return make("export.f32")


def tensors(model):
    return reference.Weights(os.path.join(model, "model.safetensors"))


def body():
    rng = np.random.default_rng(7)
    return {"cells": [{"genes": GENES[i:i + 20],
                       "values": [int(v) for v in rng.integers(1, 9, 20)]} for i in range(6)]}


# ---- what it writes ------------------------------------------------------------------------------

def test_every_dtype_holds_the_nearest_values():
    before = tensors(source())
    for dtype, name in DTYPES.items():
        out = scratch("export.to." + dtype)
        said = export(source(), out, "--dtype", dtype)
        assert models.digest(out) in said, said
        after = tensors(out)
        for tensor, facts in after.header.items():
            if tensor == "__metadata__":
                continue
            assert facts["dtype"] == name, (tensor, facts)
            start, end = facts["data_offsets"]
            assert end - start == len(models.encode(before.get(tensor), name))
            want = np.frombuffer(models.encode(before.get(tensor), name), np.uint8)
            got = np.frombuffer(models.encode(after.get(tensor), name), np.uint8)
            assert np.array_equal(want, got), tensor
        for same in ("config.json", "genes.tsv"):
            assert read(out, same) == read(source(), same), same
        card = read(out, "card.md").decode()
        assert card.startswith("# A model of tests\n\nAccuracy .99\n\n## Export\n"), card
        assert models.digest(source()) in card, card
        assert dtype == "f32" or f"from F32 to {name}" in card, card
        assert sorted(os.listdir(out)) == ["card.md", "config.json", "genes.tsv", "heads",
                                           "model.safetensors"], os.listdir(out)


def test_nothing_to_convert_is_a_copy():
    for flags in ([], ["--dtype", "f32"]):
        out = scratch("export.copy" + "".join(flags))
        export(source(), out, *flags)
        for name in ("config.json", "genes.tsv", "model.safetensors", "heads/types/head.json",
                     "heads/types/head.safetensors", "heads/states/head.json"):
            assert read(out, name) == read(source(), name), name
        assert "are what they were" in read(out, "card.md").decode()


def test_lengths_go_along_where_there_are_some():
    model, out = scratch("export.lengths"), scratch("export.lengths.out")
    shutil.copytree(source(), model)
    with open(os.path.join(model, "lengths.tsv"), "w", encoding="utf-8") as f:
        f.write("tokens\n7\n")
    export(model, out)
    assert read(out, "lengths.tsv") == b"tokens\n7\n"


def test_a_wider_dtype_and_back_changes_nothing():
    half, wide, back = (scratch("export.there" + n) for n in ("", ".wide", ".back"))
    export(source(), half, "--dtype", "bf16")
    export(half, wide, "--dtype", "f32")
    assert "changed no value" in read(wide, "card.md").decode()
    export(wide, back, "--dtype", "bf16")
    assert read(back, "model.safetensors") == read(half, "model.safetensors")
    assert models.digest(back) == models.digest(half)


def test_the_daemon_serves_it_with_its_heads():
    out = scratch("export.served")
    export(source(), out, "--dtype", "bf16")
    head = json.loads(read(out, "heads", "types", "head.json"))
    assert head["model_digest"] == models.digest(out), head
    assert head["trained_on"] == models.digest(source()), head
    again = scratch("export.again")
    export(out, again, "--dtype", "f32")
    head = json.loads(read(again, "heads", "types", "head.json"))
    assert head["model_digest"] == models.digest(again), head
    assert head["trained_on"] == models.digest(source()), "of the first, through all exports"
    answers = []
    for model in (source(), out):
        with Daemon(model, flags=["--precision", "fp32"]) as d:
            answers.append(d.embed(body()).embeddings())
            found = d.post("/v1/annotations", {**body(), "head": "types"})
            assert found.status == 200, found
    assert np.abs(answers[0] - answers[1]).max() < 0.05 * np.abs(answers[0]).max()


def test_a_dtype_that_config_names_is_the_new_one():
    for old, new in (("float32", "bfloat16"), ("F32", "BF16"), ("unheard of", "unheard of")):
        model = make("export.config." + old.replace(" ", "_"), heads=False)
        path = os.path.join(model, "config.json")
        config = {**json.loads(read(path)), "torch_dtype": old, "ours": [1, 2.5]}
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        out = scratch("export.config.to." + new.replace(" ", "_"))
        export(model, out, "--dtype", "bf16")
        assert json.loads(read(out, "config.json")) == {**config, "torch_dtype": new}


# ---- heads ---------------------------------------------------------------------------------------

def test_heads_are_chosen_by_name():
    out = scratch("export.one")
    export(source(), out, "--dtype", "bf16", "--head", "states")
    assert os.listdir(os.path.join(out, "heads")) == ["states"]
    assert read(out, "heads/states/head.safetensors") == read(source(),
                                                              "heads/states/head.safetensors")
    out = scratch("export.none")
    export(source(), out, "--no-heads")
    assert not os.path.exists(os.path.join(out, "heads"))
    out = scratch("export.wrong")
    said = export(source(), out, "--head", "colours", exit=1)
    assert "colours" in said and "states, types" in said, said
    assert not os.path.exists(out), "nothing is made for nothing"
    export(source(), out, "--head", "types", "--no-heads", exit=2)
    export(source(), out, "--dtype", "f64", exit=2)


def test_a_head_of_another_model_is_not_bound_to_this_one():
    model = make("export.foreign", heads=False)
    models.write_head(model, "stray", ["a", "b"], model_digest="0" * 64)
    out = scratch("export.foreign.out")
    said = export(model, out, exit=1)
    assert "stray" in said and "another model" in said and "--no-heads" in said, said
    assert not os.path.exists(out)
    export(model, out, "--no-heads")


# ---- whole or not at all -------------------------------------------------------------------------

def test_a_model_is_replaced_only_by_force():
    out = scratch("export.force")
    export(source(), out)
    before = models.digest(out)
    said = export(source(), out, "--dtype", "bf16", exit=1)
    assert "--force" in said and "config.json" in said, said
    assert models.digest(out) == before
    with open(os.path.join(out, "notes.txt"), "w", encoding="utf-8") as f:
        f.write("mine")
    export(source(), out, "--dtype", "bf16", "--head", "types", "--force")
    assert models.digest(out) != before
    assert os.listdir(os.path.join(out, "heads")) == ["types"], "the old heads went"
    assert read(out, "notes.txt") == b"mine"
    said = export(out, os.path.join(out, "..", "export.force"), "--force", exit=1)
    assert "is the model itself" in said, said


def test_values_that_do_not_fit_are_refused():
    config = models.config_for(len(GENES), **SIZES)
    weights = models.random_tensors(config, 1)
    weights["layers.1.mlp.up_proj.weight"][3, 2] = 70000
    model = models.write_model(scratch("export.large"), GENES, tensors=weights, **SIZES)
    out = scratch("export.large.out")
    said = export(model, out, "--dtype", "f16", exit=1)
    for word in ("layers.1.mlp.up_proj.weight", "70000", "F16", "bf16"):
        assert word in said, said
    assert not os.path.exists(out)
    export(model, out, "--dtype", "bf16")


def test_a_full_disk_is_named_and_costs_nothing():
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write(2) answers EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    out = scratch("export.full")
    said = export(source(), out, "--dtype", "bf16", exit=1, preexec_fn=small_files)
    assert "model.safetensors" in said and "File too large" in said, said
    assert not os.path.exists(out)
    export(source(), out)
    before = models.digest(out)
    export(source(), out, "--dtype", "bf16", "--force", exit=1, preexec_fn=small_files)
    assert models.digest(out) == before
    assert sorted(os.listdir(os.path.join(out, "heads"))) == ["states", "types"]
    assert ".export" not in os.listdir(out)


def test_what_a_killed_run_left_is_no_model_and_goes():
    out = scratch("export.killed")
    os.makedirs(os.path.join(out, ".export", "heads", "types"))
    for name in ("config.json", "model.safetensors"):
        with open(os.path.join(out, ".export", name), "wb") as f:
            f.write(read(source(), name))
    assert "config.json" in harness.refused(["--model", out, "--data", scratch()])
    export(source(), out)
    assert models.digest(out) == models.digest(source())
    assert ".export" not in os.listdir(out), os.listdir(out)


def test_what_is_no_model_is_refused():
    out = scratch("export.nothing")
    assert "nowhere" in export("/nowhere", out, exit=1)
    model = make("export.cut", heads=False)
    with open(os.path.join(model, "model.safetensors"), "r+b") as f:
        f.truncate(1000)
    assert "model.safetensors" in export(model, out, exit=1)
    assert not os.path.exists(out)
    assert "model.safetensors" in harness.refused(["--model", model, "--data", scratch()])
