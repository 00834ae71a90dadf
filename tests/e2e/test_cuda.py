"""test_cuda.py - the programs with CUDA as their device, on the emulator of tests/cuda_host.

build/emulated has the same binaries beside a scdiva_cuda.so whose GPU is the emulator: the whole
way from `--device cuda` to the answer is that of a real one. CUDA_EMULATOR_GUARD ends the program
where code takes device memory for host memory.
"""
import functools
import os
import re
import subprocess

import numpy as np

import harness
import models
import reference
import test_train as train
from harness import SLOW, Daemon, Skip, clean_environment, scratch

GUARD = {"CUDA_EMULATOR_GUARD": "1"}


def emulated(command):
    """The command with its program from build/emulated."""
    path = os.path.join(os.path.dirname(command[-1]), "emulated", os.path.basename(command[-1]))
    if not os.path.exists(path):
        raise Skip("the emulated device is not built")
    return command[:-1] + [path]


def run(*args, exit=0):
    command = emulated(harness.scdiva_train()) + list(args)
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=100 * SLOW, env=clean_environment(GUARD), check=False)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}:\n{p.stdout}"
    return p.stdout


# ---- serving -------------------------------------------------------------------------------------

def test_the_daemon_computes_embeddings_there_that_match_the_reference():
    body = harness.demo_request(6)
    flags = ("--device", "cuda", "--precision", "fp32")
    with Daemon(harness.small_model(), command=emulated(harness.scdivad()), flags=flags,
                env=GUARD) as d:
        got = d.embed(body).embeddings()
        again = d.embed(harness.demo_request(1)).embeddings()
        lines = [line for line in d.log().splitlines() if " device " in line]
    assert len(lines) == 1 and "kind=cuda" in lines[0] and "emulated" in lines[0], lines
    want = reference.embed(reference.Model(harness.small_model()), body)
    for a, (b, _) in zip(got, want):
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error <= 1e-4, error
    assert again.tobytes() == got[:1].tobytes()


def test_left_to_itself_the_daemon_takes_the_gpu_and_bf16_and_says_why():
    with Daemon(harness.small_model(), command=emulated(harness.scdivad()), env=GUARD) as d:
        got = d.embed(harness.demo_request(3)).embeddings()
        line = next(line for line in d.log().splitlines() if " device " in line)
    assert "kind=cuda" in line and "precision=bf16" in line and "there is a GPU" in line, line
    want = reference.embed(reference.Model(harness.small_model()), harness.demo_request(3))
    for a, (b, _) in zip(got.astype(np.float64), want):
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.999


def test_kernels_that_come_next_match_and_share_no_cached_result_with_others():
    path, data = scratch("next"), scratch("next-data")
    names = [f"GENE{i}" for i in range(90)]
    models.write_model(path, names, seed=4, MAX_GENE_LEN=90, SCGPT_DIM=32, HIDDEN_DIM=128,
                       N_HEADS=2, N_LAYERS=2, D_HID=192)
    body = {"cells": [{"genes": names[i:i + n], "values": [1 + (i + j) % 7 for j in range(n)]}
                      for i, n in enumerate((1, 63, 64, 80))]}
    flags = ("--device", "cuda", "--data", data)
    hopper = {**GUARD, "CUDA_EMULATOR_ISA": "90", "CUDA_EMULATOR_PROCESSORS": "7"}
    got = {}
    for kernels in ("measured", "next", "next"):
        env = {**hopper, "SCDIVA_CUDA_KERNELS": kernels}
        with Daemon(path, command=emulated(harness.scdivad()), flags=flags, env=env) as d:
            answer = d.embed(body)
            cached = {item["cache"] for item in answer.json()["data"]}
            assert cached == ({"hit"} if kernels in got else {"miss"}), (kernels, cached)
            got.setdefault(kernels, answer.embeddings())
    assert got["next"].tobytes() != got["measured"].tobytes()
    want = reference.embed(reference.Model(path), body)
    for mine in got.values():
        for a, (b, _) in zip(mine.astype(np.float64), want):
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.999
    env = {**hopper, "SCDIVA_CUDA_KERNELS": "mine"}
    p = subprocess.run(emulated(harness.scdivad()) + ["--model", path, *flags],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=60 * SLOW, env=clean_environment(env), check=False)
    assert p.returncode and "measured or next" in p.stdout, p.stdout


def test_a_model_whose_sizes_are_no_multiples_of_four_matches_the_reference():
    """Its vectors start at multiples of 16 bytes all the same; biases with products and without."""
    names = [f"GENE{i}" for i in range(80)]
    path = models.write_model(scratch("odd"), names, seed=3, SCGPT_DIM=42, HIDDEN_DIM=54, D_HID=91)
    body = {"cells": [{"genes": names[i:i + n], "values": [1 + j % 7 for j in range(n)]}
                      for i, n in enumerate((1, 20, 63))]}
    want = reference.embed(reference.Model(path), body)
    for epilogues in "", "none":
        with Daemon(path, command=emulated(harness.scdivad()), env={
                **GUARD, "CUDA_EMULATOR_EPILOGUES": epilogues},
                flags=("--device", "cuda", "--precision", "fp32")) as d:
            for a, (b, _) in zip(d.embed(body).embeddings(), want):
                assert np.abs(a - b).max() / np.abs(b).max() <= 1e-4


def test_without_room_for_its_batches_the_device_gets_smaller_ones():
    env = {**GUARD, "CUDA_EMULATOR_LARGEST": str(8 << 20)}
    with Daemon(harness.small_model(), command=emulated(harness.scdivad()), env=env) as d:
        d.embed(harness.demo_request(1))
        line = next(line for line in d.log().splitlines() if " device " in line)
        found = re.search(r"batches of (\d+) tokens, since it has no room for 65536", line)
        assert found and 2048 <= int(found[1]) < 65536, line
    env["CUDA_EMULATOR_LARGEST"] = "1000"  # there even a weight does not fit
    said = harness.refused(("--model", harness.small_model(), "--listen", "127.0.0.1:0", "--data",
                            scratch(), "--device", "cuda"), env=env,
                           command=emulated(harness.scdivad()))
    assert "the GPU has no room for" in said, said


def test_a_device_that_dies_ends_readiness_and_not_the_server():
    env = {"CUDA_EMULATOR_DIES_AFTER": "4000"}  # calls: more than loading and warming up take
    genes = harness.demo_body()["genes"][:4]
    with Daemon(harness.small_model(), command=emulated(harness.scdivad()), env=env) as d:
        kept = {"cells": [{"genes": genes, "values": [1, 2, 3, 4]}]}
        first = d.embed(kept).embeddings()
        for i in range(2000):
            body = {"cells": [{"genes": genes, "values": [i + 5, 2, 3, 4]}]}
            answer = d.post("/v1/embeddings", body)
            if answer.status != 200:
                break
        assert answer.status == 500, answer
        harness.check_problem(d.get("/readyz"), 503, "unavailable", detail="device")
        assert d.get("/livez").status == 200
        assert d.embed(kept).embeddings().tobytes() == first.tobytes()  # from the cache
        assert len(re.findall("device_lost", d.log())) == 1


# ---- training ------------------------------------------------------------------------------------

@functools.cache
def trained(device):
    """(model directory, what was said) after 12 steps"""
    out = scratch(f"on-{device}")
    said = run("pretrain", "--data", train.data(), "--out", out, "--seed", "3", "--steps", "12",
               *train.SIZES, "--device", device)
    return out, said


def weights(path):
    file = reference.Weights(os.path.join(path, "model.safetensors"))
    return {name: file.get(name) for name in file.header}


def test_a_model_learns_on_it_what_it_learns_on_the_cpu():
    (cpu, on_cpu), (cuda, on_cuda) = trained("cpu"), trained("cuda")
    assert re.search(r"computing on .* thread", on_cpu), on_cpu
    assert "computing on emulated, GPU 0" in on_cuda, on_cuda
    a, b = weights(cpu), weights(cuda)
    assert a.keys() == b.keys()
    for name in a:
        # AdamW moves by the sign of what is nearly nothing: a step of lr is what may differ
        assert np.abs(a[name] - b[name]).max() <= 3e-3, name
        assert np.linalg.norm(a[name] - b[name]) <= 0.02 * np.linalg.norm(a[name]) + 1e-4, name


def test_the_same_command_gives_the_same_bytes_there():
    out, _ = trained("cuda")
    again = scratch("on-cuda-again")
    run("pretrain", "--data", train.data(), "--out", again, "--seed", "3", "--steps", "12",
        *train.SIZES, "--device", "cuda:0")
    assert train.read(out, "model.safetensors") == train.read(again, "model.safetensors")
    assert "cuda/sm_80/fp32" in train.read(out, "card.md").decode()


def test_losses_and_a_head_are_the_same_but_for_rounding():
    model, _ = trained("cpu")
    said = {d: run("eval", "--model", model, "--data", train.data(), "--losses", "--device", d)
            for d in ("cpu", "cuda")}
    numbers = {d: [float(x) for x in re.findall(r"\d+\.\d+", text.split("computing on")[1])]
               for d, text in said.items()}
    np.testing.assert_allclose(numbers["cuda"][-9:], numbers["cpu"][-9:], rtol=2e-3)
    for device in ("cpu", "cuda"):
        run("finetune", "annotation", "--model", model, "--data", train.data(), "--label-column",
            "donor", "--split", "cell", "--epochs", "2", "--name", device, "--device", device)
        assert os.path.exists(os.path.join(model, "heads", device, "head.safetensors"))


def test_a_device_that_is_none_or_not_there_is_refused():
    out = scratch()
    must = "must be auto, cpu or cuda"
    for name, words in (("gpu", must), ("cuda:", must), ("cuda:1x", must),
                        ("cuda:7", "there is no GPU 7")):
        said = run("pretrain", "--data", train.data(), "--out", out, *train.SIZES, "--device", name,
                   exit=1)
        assert words in said and "--device" in said, said
