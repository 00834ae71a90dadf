"""test_start.py - what the daemon refuses to start with, and where its options come from."""
import json
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np

import harness
import models
from harness import Daemon, Skip, refused

LOOPBACK = ("--listen", "127.0.0.1:0")


# ---- broken models -------------------------------------------------------------------------------

def broken_copy(change=None, tensors=None):
    """A copy of small_model with its safetensors changed; a path."""
    path = os.path.join(harness.scratch(), "broken")
    shutil.copytree(harness.small_model(), path)
    if tensors is not None:
        models.write_safetensors(os.path.join(path, "model.safetensors"), tensors)
    if change:
        change(path)
    return path


def small_tensors():
    with open(os.path.join(harness.small_model(), "config.json"), encoding="utf-8") as f:
        return models.random_tensors(json.load(f), seed=1)


def refused_model(path, *patterns):
    said = refused((*LOOPBACK, "--data", harness.scratch(), "--model", path))
    for pattern in patterns:
        assert re.search(pattern, said), f"{pattern!r} is not in {said!r}"


def write(path, name, content, mode="wb"):
    with open(os.path.join(path, name), mode) as f:
        f.write(content)


def read(path, name):
    with open(os.path.join(path, name), "rb") as f:
        return f.read()


def test_a_missing_file_or_directory_is_named():
    refused_model(os.path.join(harness.scratch(), "nowhere"), "nowhere")
    for name in ("config.json", "model.safetensors", "genes.tsv"):
        refused_model(broken_copy(lambda p, n=name: os.remove(os.path.join(p, n))), re.escape(name))


def test_no_model_at_all_is_refused():
    assert "--model" in refused((*LOOPBACK, "--data", harness.scratch()))


def test_a_truncated_file_is_refused_wherever_it_ends():
    whole = read(harness.small_model(), "model.safetensors")
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for n in (0, 4, 8, 9, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        path = broken_copy(lambda p, n=n: write(p, "model.safetensors", whole[:n]))
        refused_model(path, "model.safetensors")
    path = broken_copy(lambda p: write(p, "model.safetensors", whole + b"x"))
    refused_model(path, "model.safetensors")


def test_a_missing_tensor_is_named():
    for name in ("gene_embedding.weight", "layers.1.mlp.up_proj.weight", "value_head.2.bias"):
        tensors = small_tensors()
        del tensors[name]
        refused_model(broken_copy(tensors=tensors), re.escape(name), "missing")


def test_a_tensor_of_another_shape_is_named_with_both_shapes():
    for name, shape in (("layers.0.attn.q_proj.weight", (48, 40)), ("final_norm.weight", (47,)),
                        ("gene_embedding.weight", (769, 40)), ("value_head.0.bias", (48,)),
                        ("input_proj.weight", (40, 48)), ("layers.2.norm1.weight", (1, 48))):
        tensors = small_tensors()
        wanted = tensors[name].shape
        tensors[name] = np.zeros(shape, np.float32)
        both = [r"\D*".join([""] + [str(n) for n in s] + [""]) for s in (shape, wanted)]
        refused_model(broken_copy(tensors=tensors), re.escape(name), *both)


def test_a_header_that_lies_is_refused():
    whole = read(harness.small_model(), "model.safetensors")
    n = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8:8 + n]), whole[8 + n:]
    first, second = list(header)[:2]

    def with_header(change):
        lie = json.loads(json.dumps(header))
        change(lie)
        text = json.dumps(lie).encode()
        content = struct.pack("<Q", len(text)) + text + data
        return broken_copy(lambda p: write(p, "model.safetensors", content))

    refused_model(with_header(lambda h: h[first].update(dtype="F64")), re.escape(first), "F64")
    refused_model(with_header(lambda h: h[first].update(dtype="F16")), re.escape(first))
    refused_model(with_header(lambda h: h[first].update(data_offsets=[0, 2 ** 62])),
                  re.escape(first))
    refused_model(with_header(lambda h: h[first].update(data_offsets=[8, 0])), re.escape(first))
    refused_model(with_header(lambda h: h[second].update(data_offsets=h[first]["data_offsets"])),
                  "model.safetensors")
    refused_model(with_header(lambda h: h[first].update(shape=[2 ** 62, 2 ** 62])),
                  re.escape(first))
    refused_model(with_header(lambda h: h[first].update(shape=[-1, 40])), re.escape(first))
    for size in (2 ** 63, 2 ** 64 - 1, len(whole)):
        content = struct.pack("<Q", size) + whole[8:]
        refused_model(broken_copy(lambda p, c=content: write(p, "model.safetensors", c)),
                      "model.safetensors")
    not_json = struct.pack("<Q", n) + b"{" * n + data
    refused_model(broken_copy(lambda p: write(p, "model.safetensors", not_json)),
                  "model.safetensors")


def test_a_config_that_contradicts_itself_or_the_weights_is_refused_by_key():
    config = json.loads(read(harness.small_model(), "config.json"))
    for key, value in (("N_HEADS", 5), ("N_HEADS", 0), ("HIDDEN_DIM", -48), ("HIDDEN_DIM", "48"),
                       ("HIDDEN_DIM", 48.5), ("PAD_TOKEN_ID", 999_999), ("N_LAYERS", 10 ** 9),
                       ("MAX_GENE_LEN", 0), ("ROPE_THETA", 0), ("latent_pooling", "mean")):
        changed = json.dumps({**config, key: value}).encode()
        refused_model(broken_copy(lambda p, c=changed: write(p, "config.json", c)), key)
    for key in ("VOCAB_SIZE", "N_LAYERS", "D_HID"):
        changed = json.dumps({**config, key: config[key] + 1}).encode()
        refused_model(broken_copy(lambda p, c=changed: write(p, "config.json", c)))
    refused_model(broken_copy(lambda p: write(p, "config.json", b"{")), "config.json")


def test_unknown_keys_in_config_json_are_ignored():
    config = json.loads(read(harness.small_model(), "config.json"))
    extended = json.dumps({**config, "ANYTHING": [1, {"x": None}], "_note": "hello"}).encode()
    with Daemon(broken_copy(lambda p: write(p, "config.json", extended))) as d:
        harness.check_good(d)


def test_a_broken_genes_tsv_is_refused_with_its_line():
    good = read(harness.small_model(), "genes.tsv").decode()
    lines = good.split("\n")
    a, b = lines[5], lines[6]
    for changed in (good.replace(a, "x" + a), good.replace(b, a.split("\t")[0] + "\tOTHER"),
                    good.replace(b, b.split("\t")[0] + "\t" + a.split("\t")[1]),
                    good.replace(b, "999999\tOTHER"), good.replace(b, "-3\tOTHER"),
                    good.replace(b, "0\tOTHER"), good.replace(b, b.split("\t")[0])):
        assert changed != good
        path = broken_copy(lambda p, c=changed: write(p, "genes.tsv", c, "w"))
        refused_model(path, "genes.tsv", r"\b[67]\b")
    for changed in ("", "token_id\tsymbol\n", good.replace("token_id", "id", 1)):
        refused_model(broken_copy(lambda p, c=changed: write(p, "genes.tsv", c, "w")), "genes.tsv")


# ---- options -------------------------------------------------------------------------------------

def test_bad_flags_are_named():
    model = ("--model", harness.small_model(), *LOOPBACK, "--data", harness.scratch())
    for flags, pattern in (
            (("--no-such-flag",), "no-such-flag"), (("--threads", "two"), "threads"),
            (("--threads", "-1"), "threads"), (("--threads", "99999999999999999999"), "threads"),
            (("--threads", "1x"), "threads"), (("--threads",), "threads"),
            (("--precision", "fp8"), "precision"), (("--device", "tpu"), "device"),
            (("--log-level", "loud"), "log-level"), (("--log-format", "xml"), "log-format"),
            (("--cache-mb", "-1"), "cache-mb"), (("--max-queue-tokens", "0"), "max-queue-tokens"),
            (("--listen", "127.0.0.1"), "listen"), (("--listen", "127.0.0.1:99999"), "listen"),
            (("--listen", "nonsense"), "listen"), (("stray",), "stray"),
            (("--config", "/nonexistent.conf"), "nonexistent")):
        said = refused(model + flags)
        assert pattern in said, f"{flags}: {said!r}"


def test_a_file_with_an_unknown_key_is_refused_with_its_line():
    path = os.path.join(harness.scratch(), "scdivad.conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write("# a comment\nthreads = 1\nno-such-key = 3\n")
    said = refused(("--config", path, "--model", harness.small_model(), *LOOPBACK))
    assert "no-such-key" in said and re.search(r"scdivad\.conf\D*3\b", said), said


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file():
    path = os.path.join(harness.scratch(), "scdivad.conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write("max-queue-tokens = 1111\nmax-cells = 11\nmax-body-mb = 3\n")
    env = {"SCDIVA_MAX_QUEUE_TOKENS": "2222", "SCDIVA_MAX_CELLS": "22"}
    flags = ("--config", path, "--max-queue-tokens", "3333")
    with Daemon(harness.small_model(), env=env, flags=flags) as d:
        limits = json.dumps(d.get("/v1/models").json())
        for figure in (r"3333\b", r"\b22\b", r"\b(3145728|3)\b"):
            assert re.search(figure, limits), f"{figure} is not in {limits}"
        assert not re.search(r"\b(1111|2222|11)\b", limits), limits


def test_everything_can_come_from_the_environment():
    env = {"SCDIVA_MODEL": harness.small_model(), "SCDIVA_LISTEN": "127.0.0.1:0",
           "SCDIVA_DATA": harness.scratch(), "SCDIVA_LOG_FORMAT": "json"}
    process = subprocess.Popen(harness.scdivad(), stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, env=harness.clean_environment(env))
    try:
        for line in process.stdout:
            if re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise AssertionError("no address printed")
    finally:
        process.terminate()
        code = process.wait(harness.STOP_S)
        process.stdout.close()
    assert code == 0, code


def test_the_data_of_the_tests_is_no_place_for_the_cache_of_their_daemons():
    command = harness.scdivad()
    build, data = os.path.dirname(command[-1]), harness.scratch()
    theirs = {"SCDIVA_DATA": data, "SCDIVA_TEST_SLOW": "1", "SCDIVA_KEYS": "/nonexistent"}
    before = dict(os.environ)
    os.environ.update(theirs)
    try:
        with Daemon(harness.small_model()) as d:
            harness.check_good(d)
        done = subprocess.run([sys.executable, os.path.join(harness.HERE, "demo.py"), "--build",
                               build], cwd=harness.TOP, text=True, timeout=120 * harness.SLOW,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert done.returncode == 0 and re.search("from the cache, same .*: True", done.stdout), \
        done.stdout
    assert os.listdir(data) == []


def test_a_bad_value_in_the_environment_is_named():
    said = refused((*LOOPBACK, "--model", harness.small_model()), {"SCDIVA_THREADS": "many"})
    assert "SCDIVA_THREADS" in said, said


def test_help_and_version_exit_0_and_say_what_they_should():
    for flag, patterns in (("--help", [f"--{k}" for k in (
            "config", "model", "listen", "data", "device", "precision", "threads",
            "max-batch-tokens", "max-queue-tokens", "cache-mb", "log-level", "log-format", "help",
            "version")] + ["auto|cpu", "8080"]), ("--version", ["scdivad"])):
        done = subprocess.run(harness.scdivad() + [flag], capture_output=True, text=True,
                              env=harness.clean_environment(), timeout=harness.START_S)
        assert done.returncode == 0 and not done.stderr, done
        for p in patterns:
            assert p in done.stdout, f"{p} is not in {done.stdout}"
    assert re.search(r"\d+\.\d+\.\d+", done.stdout), done.stdout


# ---- doors and devices ---------------------------------------------------------------------------

def test_a_bind_outside_loopback_without_keys_is_refused_unless_insecure():
    model = ("--model", harness.small_model(), "--data", harness.scratch())
    for address in ("0.0.0.0:0", "[::]:0"):
        said = refused((*model, "--listen", address))
        assert "--keys" in said and "--insecure" in said, said
    with Daemon(harness.small_model(), flags=("--listen", "0.0.0.0:0", "--insecure")) as d:
        harness.check_good(d)


def compile_object(source, path, *flags):
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise Skip("there is no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-I", harness.TOP, "-x", "c", "-", "-o", path,
                    *flags], input=source, text=True, check=True)


FICKLE_NAMES = '''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **out)
{
    static int asked;
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))
            dlsym(RTLD_NEXT, "getaddrinfo");
    return real(asked++ ? "0.0.0.0" : "127.0.0.1", port, hints, out);
}
'''


def test_the_address_that_was_judged_is_the_one_that_is_bound():
    if harness.SLOW != 1:
        raise Skip("a sanitizer must be loaded first")
    shim = os.path.join(harness.scratch(), "fickle.so")
    compile_object(FICKLE_NAMES, shim, "-ldl")
    with Daemon(harness.small_model(), env={"LD_PRELOAD": shim},
                flags=("--listen", "fickle.test:0")) as d:
        assert "http://127.0.0.1:" in d.log(), d.log()
        harness.check_good(d)


def test_port_0_prints_the_address_whatever_the_log_level_and_format():
    for flags in (("--log-level", "error"), ("--log-format", "json"), ("--log-level", "debug")):
        with Daemon(harness.small_model(), flags=flags) as d:
            assert d.port > 0
    line = next(line for line in d.log().splitlines() if "http://" in line)
    assert f"http://127.0.0.1:{d.port}" in line, line


def test_a_log_in_json_is_json_line_by_line():
    with Daemon(harness.small_model(), flags=("--log-format", "json")) as d:
        d.post("/v1/embeddings", b"{", {"X-Request-Id": "id-\"quoted\""})
        harness.check_good(d)
    for line in d.log().splitlines():
        assert isinstance(json.loads(line), dict), line


def test_a_port_in_use_is_refused():
    with Daemon(harness.small_model()) as d:
        said = refused(("--model", harness.small_model(), "--listen", f"127.0.0.1:{d.port}",
                        "--data", harness.scratch()))
        assert str(d.port) in said, said


def test_explicit_bf16_is_refused_where_the_processor_has_none():
    if harness.cpu_has("avx512_bf16") or harness.cpu_has("amx_bf16"):
        raise Skip("this processor multiplies bf16")
    said = refused(("--model", harness.small_model(), *LOOPBACK, "--precision", "bf16"))
    assert "bf16" in said and "fp32" in said, said


def test_cuda_is_refused_where_there_is_none():
    if os.path.exists("/dev/nvidiactl"):
        raise Skip("there is a GPU here")
    said = refused(("--model", harness.small_model(), *LOOPBACK, "--device", "cuda",
                    "--data", harness.scratch()))
    assert re.search("cuda", said, re.I), said


CUDA_OBJECT = """
#include "engine/backend/backend.h"
#include <stdio.h>
static scd_code no_gpu(const scd_device_options *options, scd_device **out, scd_error *err)
{
    (void)out;
    err->code = SCD_E_DEVICE;
    snprintf(err->message, sizeof err->message, "no GPU answers to number %d", options->index);
    return SCD_E_DEVICE;
}
const scd_backend NAME = {.abi = ABI, .size = sizeof(scd_backend), .name = "cuda", .open = no_gpu};
"""


def alone():
    """A copy of the daemon in a folder of its own, with nothing beside it"""
    command = harness.scdivad()
    copy = os.path.join(harness.scratch(), "scdivad")
    shutil.copy(shutil.which(command[-1]), copy)
    return command[:-1] + [copy]


def beside_a_cuda_object(content=None, **macros):
    """Such a copy with a scdiva_cuda.so beside it: these bytes, or CUDA_OBJECT compiled"""
    command = alone()
    shared = os.path.join(os.path.dirname(command[-1]), "scdiva_cuda.so")
    if content is not None:
        with open(shared, "wb") as f:
            f.write(content)
    else:
        macros = {"NAME": "scd_backend_cuda", "ABI": "SCD_BACKEND_ABI", **macros}
        compile_object(CUDA_OBJECT, shared, *[f"-D{k}={v}" for k, v in macros.items()])
    return command


def test_a_cuda_backend_that_cannot_be_used_leaves_the_cpu_unless_it_is_asked_for():
    if os.path.exists("/dev/nvidiactl"):
        raise Skip("there is a GPU here")
    no_gpu = beside_a_cuda_object()
    cases = ((alone(), "no scdiva_cuda.so beside this program"),
             (no_gpu, "no GPU answers to number 0"),
             (beside_a_cuda_object(ABI="77"), "table version 77"),
             (beside_a_cuda_object(NAME="something_else"), "undefined symbol: scd_backend_cuda"),
             (beside_a_cuda_object(b"this is no object\n" * 10), "cannot be loaded"))
    for command, reason in cases:
        with Daemon(harness.small_model(), command=command) as d:
            harness.check_good(d)
            line = next(line for line in d.log().splitlines() if " device " in line)
        assert "kind=cpu" in line and reason in line, line
        said = refused(("--model", harness.small_model(), *LOOPBACK, "--device", "cuda",
                        "--data", harness.scratch()), command=command)
        assert "--device cuda: " in said and reason in said, said
    said = refused(("--model", harness.small_model(), *LOOPBACK, "--device", "cuda:5",
                    "--data", harness.scratch()), command=no_gpu)
    assert "--device cuda: no GPU answers to number 5" in said, said
    with Daemon(harness.small_model(), command=no_gpu, flags=("--device", "cpu")) as d:
        harness.check_good(d)
        assert "asked for" in d.log() and "GPU" not in d.log(), d.log()


def test_the_cuda_backend_that_was_built_fails_softly_without_a_driver():
    if os.path.exists("/dev/nvidiactl"):
        raise Skip("there is a GPU here")
    built = os.path.join(os.path.dirname(harness.scdivad()[-1]), "scdiva_cuda.so")
    if not os.path.exists(built):
        raise Skip("no CUDA backend was built: there is no nvcc here")
    with Daemon(harness.small_model()) as d:
        harness.check_good(d)
        lines = [line for line in d.log().splitlines() if " device " in line]
    assert len(lines) == 1 and "kind=cpu" in lines[0] and "no NVIDIA driver" in lines[0], lines
    for name in ("cuda", "cuda:0", "cuda:7"):
        said = refused(("--model", harness.small_model(), *LOOPBACK, "--device", name,
                        "--data", harness.scratch()))
        assert "--device cuda: there is no NVIDIA driver" in said, said


def test_a_data_directory_that_cannot_be_used_is_refused():
    path = os.path.join(harness.scratch(), "file")
    with open(path, "w", encoding="utf-8") as f:
        f.write("not a directory")
    said = refused(("--model", harness.small_model(), *LOOPBACK, "--data", path))
    assert path in said, said


def test_two_models_of_the_same_name_are_refused():
    said = refused(("--model", harness.small_model(), "--model", harness.small_model(), *LOOPBACK,
                    "--data", harness.scratch()))
    assert "small" in said, said


def test_two_daemons_on_one_data_directory_do_not_harm_each_other():
    data = harness.scratch()
    with Daemon(harness.small_model(), data=data) as d:
        first = d.embed(harness.demo_request(5)).embeddings().tobytes()
        try:
            other = Daemon(harness.small_model(), data=data)
        except AssertionError as refusal:
            assert data in str(refusal), refusal  # refusing is fine when it says why
        else:
            with other:
                assert other.embed(harness.demo_request(5)).embeddings().tobytes() == first
        assert d.embed(harness.demo_request(5)).embeddings().tobytes() == first
