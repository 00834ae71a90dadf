#!/usr/bin/env python3
"""make bench-gpu: one table of what a GPU does with the official model, beside its ceilings.

    tests/bench/gpu.py --build build [--seconds S] [--out FILE]
    tests/bench/gpu.py --build build --dry-run

Runs build/bench/bench_gpu (ours, then with the kernels that come next where the GPU has them) and
gpu_torch.py (ceilings, PyTorch eager and compiled) one after the other on the same GPU, within
eight minutes, prints the table and writes it. TORCH_PYTHON names a Python that has PyTorch; without
one the ceilings are those of GPU.md's prediction, and the table says so. --dry-run does the same on
a tiny model with the emulator as GPU, to see that all of it works; its figures mean nothing.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

LIMIT_S = 8 * 60
# Of each part; what is printed until then counts.
OURS_S, NEXT_S, STARTS_S, TORCH_S = 160, 50, 20, 220
# H100 SXM, dense, what GPU.md's prediction takes as reached.
ASSUMED = {"product bf16": 620e12, "product fp32": 50e12, "copy": 2.8e12}


def run(command, limit, env=None):
    """[[field, ...]] of the lines it printed, and what it had to say where it failed."""
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=env, cwd=TOP)
    try:
        out, err = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        err = f"stopped after {limit} s"
    lines = [line.split("\t") for line in out.splitlines() if "\t" in line]
    said = err.strip().splitlines()[-1] if p.returncode and err.strip() else ""
    return lines, said


def starts(daemon, model, runs, limit):
    """Seconds from exec to ready of a daemon on the GPU, least first; its last words on failure"""
    times, said = [], ""
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as data:
            begin = time.monotonic()
            p = subprocess.Popen([daemon, "--model", model, "--device", "cuda", "--data", data,
                                  "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, cwd=TOP)
            timer = threading.Timer(limit / runs, p.kill)
            timer.start()
            for line in p.stdout:
                said = line.strip()
                if " INFO ready " in line:
                    times.append(time.monotonic() - begin)
                    break
            p.terminate()
            p.communicate()
            timer.cancel()
    return sorted(times), "" if len(times) == runs else said


def of_kind(lines, kind):
    return [line[1:] for line in lines if line[0] == kind]


def ceilings(lines):
    found = {name: float(value) for name, value in of_kind(lines, "ceiling")}
    return {**ASSUMED, **found}, all(name in found for name in ASSUMED)


def operation_rows(ours, roof, bf16):
    """name, ms a call, share of a pass, best possible, fraction of it"""
    product = roof["product bf16" if bf16 else "product fp32"]
    ops = [(name, int(times), *map(float, rest)) for name, times, *rest in of_kind(ours, "op")]
    whole = sum(times * ms for _, times, ms, *_ in ops) or 1
    rows = []
    for name, times, ms, low, high, flop, size in ops:
        best = 1e3 * (flop / product + size / roof["copy"])
        rows.append((name, f"{ms:.3f} ({low:.3f} to {high:.3f})",
                     f"{100 * times * ms / whole:.0f} %", f"{flop / ms * 1e-6:.0f}", f"{best:.3f}",
                     f"{100 * best / ms:.0f} %"))
    return rows


def next_rows(ours, following):
    """What the kernels that come next (engine/cuda/README.md) change."""
    rows = []
    for kind, at, times in (("op", 2, "ms a call"), ("rate", 1, "cells/s"), ("latency", 1, "ms")):
        before = {line[0]: float(line[at]) for line in of_kind(ours, kind)}
        for line in of_kind(following, kind):
            name, now = line[0], float(line[at])
            if name in before:
                rows.append([name, times, f"{before[name]:,.3f}", f"{now:,.3f}",
                             f"{now / before[name]:.2f}"])
    return rows


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def rate_rows(ours, torch):
    rows = []
    theirs = {(n, w): (m, low, high) for n, w, m, low, high, _ in of_kind(torch, "torch")}
    for name, median, low, high, n in of_kind(ours, "rate"):
        row = [name, f"{float(median):,.1f} ({float(low):,.1f} to {float(high):,.1f}, n={n})"]
        peers = []
        for peer in ("eager", "compiled"):
            found = theirs.get((peer, name))
            row.append(f"{float(found[0]):,.1f}" if found else "not measured")
            peers += [float(found[0])] if found else []
        row.append(f"{float(median) / max(peers):.2f}" if peers else "")
        rows.append(row)
    return rows


def latency_rows(ours, torch):
    rows = [[name, f"{float(m):.3f} ({float(low):.3f} to {float(high):.3f}, n={n})"]
            for name, m, low, high, n in of_kind(ours, "latency")]
    rows += [[f"PyTorch {name}, the longest cell", f"{float(m):.3f} ({float(low):.3f} to "
              f"{float(high):.3f}, n={n})"] for name, m, low, high, n in
             of_kind(torch, "torch_latency")]
    return rows


def compose(ours, following, ready, torch, notes, took):
    roof, measured = ceilings(torch)
    device = (of_kind(ours, "device") or [["no device", ""]])[0]
    version = (of_kind(torch, "torch_version") or [["none", ""]])[0]
    text = [f"# {device[0]}", "", f"{device[1]}; PyTorch {version[0]}; {took:.0f} s in all.", "",
            f"Ceilings, {'measured in this run' if measured else 'ASSUMED, not measured'}: product "
            f"bf16 {roof['product bf16'] * 1e-12:.0f} TFLOP/s, fp32 "
            f"{roof['product fp32'] * 1e-12:.1f} TFLOP/s, copy {roof['copy'] * 1e-12:.2f} TB/s.",
            ""]
    text += table(["operation", "ms a call (least to most)", "share of a pass", "GFLOP/s",
                   "best possible, ms", "fraction of it"],
                  operation_rows(ours, roof, "/bf16/" in device[1])) + [""]
    text += table(["workload", "cells/s", "PyTorch SDPA", "torch.compile", "ours over the faster"],
                  rate_rows(ours, torch)) + [""]
    text += table(["latency", "ms (10th to 90th percentile)"], latency_rows(ours, torch)) + [""]
    if any("next/" in line[1] for line in of_kind(following, "device")):
        text += table(["kernels that come next", "", "measured ones", "next", "next over measured"],
                      next_rows(ours, following)) + [""]
    if ready:
        text += table(["exec to ready, s", "least", "most", "runs"],
                      [["the daemon, official size", f"{ready[0]:.2f}", f"{ready[-1]:.2f}",
                        str(len(ready))]]) + [""]
    text += table(["training", "tokens/s (least to most)", "rows of a micro-batch"],
                  [[name, f"{float(m):,.0f} ({float(low):,.0f} to {float(high):,.0f})", n]
                   for name, m, low, high, n in of_kind(ours, "train")])
    return "\n".join(text + [""] + [f"Note: {note}" for note in notes]) + "\n"


def make_model(train, folder, tiny):
    if os.path.exists(os.path.join(folder, "config.json")):
        return
    sizes = (["--vocab-size", "400", "--hidden", "64", "--layers", "2", "--heads", "2", "--ffn",
              "128", "--max-genes", "60"] if tiny else ["--preset", "official", "--dtype", "bf16"])
    subprocess.run([train, "init", "--out", folder, *sizes], check=True, stdout=subprocess.DEVNULL)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build")
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--out")
    p.add_argument("--dry-run", action="store_true")
    a = p.parse_args()
    start, build = time.monotonic(), os.path.abspath(a.build)
    bench = os.path.join(build, "emulated" if a.dry_run else "bench", "bench_gpu")
    model = os.path.join(build, "models", "bench-gpu-tiny" if a.dry_run else "official")
    os.makedirs(os.path.dirname(model), exist_ok=True)
    make_model(os.path.join(build, "scdiva-train"), model, a.dry_run)
    sizes = ["--rows", "300", "--seconds", "0.02"] if a.dry_run else ["--seconds", str(a.seconds)]
    if a.dry_run:
        os.environ["CUDA_EMULATOR_ISA"] = "90"
    ours, said = run([bench, model, *sizes, *(["--train", "130"] if a.dry_run else [])], OURS_S)
    notes = [f"bench_gpu: {said}"] if said else []
    following, said = run([bench, model, *sizes, "--train", "0"], NEXT_S,
                    {**os.environ, "SCDIVA_CUDA_KERNELS": "next"})
    notes += [f"bench_gpu with the kernels that come next: {said}"] if said else []
    daemon = os.path.join(build, *(["emulated"] if a.dry_run else []), "scdivad")
    ready, said = starts(daemon, model, 3, STARTS_S)
    notes += [f"scdivad --device cuda: {said}"] if said else []
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    left = min(TORCH_S, LIMIT_S - (time.monotonic() - start) - 10)
    torch, said = run([python, os.path.join(HERE, "gpu_torch.py"), model, *sizes,
                       *(["--device", "cpu"] if a.dry_run else [])], left)
    notes += [f"gpu_torch.py: {said}"] if said else []
    if a.dry_run:
        notes.append("A DRY RUN on the emulator: no figure here means anything.")
    text = compose(ours, following, ready, torch, notes, time.monotonic() - start)
    out = a.out or os.path.join(build, "bench-gpu.md")
    with open(out, "w", encoding="utf-8") as f:
        f.write(text)
    print(text + f"written to {out}")
    return 0 if ours else 1


if __name__ == "__main__":
    sys.exit(main())
