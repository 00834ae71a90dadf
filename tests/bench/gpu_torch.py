#!/usr/bin/env python3
"""gpu_torch.py - what bench-gpu holds our figures against, measured by PyTorch in the same run.

    gpu_torch.py MODEL_DIR [--rows N] [--seconds S] [--device cuda|cpu]

Ceilings first: the best bf16 and fp32 product of the model's own shapes, and of a large square
one; a copy of memory, read and written. Then the model of torch_peer.py with the same weights -
eager with scaled_dot_product_attention, and by torch.compile - on batches padded to the longest
cell, filled to the rows that our engine takes at once. Tab-separated lines as of bench_gpu.c:

    ceiling  product bf16 | product fp32 | copy   FLOP/s or bytes/s
    torch    eager | compiled   workload   cells/s (median)  least  most  runs
    torch_latency  eager | compiled   milliseconds (median)  10th  90th percentile  runs
"""
import argparse
import statistics
import sys
import time

import numpy as np
import torch

import torch_peer


def line(*fields):
    print("\t".join(str(f) for f in fields), flush=True)


class Clock:
    def __init__(self, device, seconds):
        self.device, self.seconds = device, seconds

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def best(self, body):
        """Seconds of one call, the best of several rounds of many."""
        body()
        self.wait()
        best, end, n = float("inf"), time.monotonic() + self.seconds / 4, 1
        while True:
            start = time.monotonic()
            for _ in range(n):
                body()
            self.wait()
            took = time.monotonic() - start
            best = min(best, took / n)
            if time.monotonic() > end:
                return best
            n = min(max(1, int(n * 0.02 / max(took, 1e-6))) + 1, 1000)

    def several(self, body, least=4, most=200):
        """Seconds of each call, after two to warm up."""
        times, end = [], None
        for i in range(most + 2):
            start = time.monotonic()
            body()
            self.wait()
            if i >= 2:
                end = end or time.monotonic() + self.seconds
                times.append(time.monotonic() - start)
                if len(times) >= least and time.monotonic() > end:
                    break
        return times


def ceilings(clock, c, rows, device):
    h, f = c["HIDDEN_DIM"], c["D_HID"]
    shapes = {(rows, 3 * h, h), (rows, h, h), (rows, 2 * f, h), (rows, h, f)}
    if device != "cpu":
        shapes.add((8192, 8192, 8192))
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        best = 0
        for m, n, k in shapes:
            a = torch.randn(m, k, device=device, dtype=dtype)
            b = torch.randn(n, k, device=device, dtype=dtype)
            best = max(best, 2 * m * n * k / clock.best(lambda: torch.nn.functional.linear(a, b)))
        line("ceiling", f"product {name}", f"{best:.4e}")
    x = torch.randn((1 << 28) if device != "cpu" else (1 << 20), device=device)
    y = torch.empty_like(x)
    line("ceiling", "copy", f"{2 * x.numel() * 4 / clock.best(lambda: y.copy_(x)):.4e}")


def make_cells(model, lengths, seed):
    rng = np.random.default_rng(seed)
    genes = model.config["VOCAB_SIZE"] - 5
    return [(2 + rng.choice(genes, n, replace=False), rng.uniform(0.2, 4, n).astype(np.float32))
            for n in lengths]


def workload(model, shortest, longest, rows):
    """Cells that fill a batch of so many rows of ours; PyTorch gets them padded."""
    most = model.config["MAX_GENE_LEN"]
    shortest, longest = min(shortest, most), min(longest, most)
    rng, lengths = np.random.default_rng(3), []
    while True:
        n = int(rng.integers(shortest, longest + 1))
        if sum(lengths) + len(lengths) + n + 1 > rows and lengths:
            return make_cells(model, lengths, 4)
        lengths.append(n)


WORKLOADS = (("200 genes", 200, 200), ("512 genes", 512, 512), ("1,200 genes", 1200, 1200),
             ("mixed 200 to 1,200", 200, 1200))


def measure(peer, name, clock, rows):
    for title, shortest, longest in WORKLOADS:
        cells = workload(peer.m, shortest, longest, rows)
        longest_cell = max(len(g) for g, _ in cells)
        fit = max(1, rows // (longest_cell + 1))  # a padded batch has as many rows as ours
        parts = [cells[at:at + fit] for at in range(0, len(cells), fit)]
        times = clock.several(lambda: [peer.embed(p) for p in parts])
        rates = [len(cells) / t for t in times]
        line("torch", name, title, f"{statistics.median(rates):.3f}", f"{min(rates):.3f}",
             f"{max(rates):.3f}", len(rates))
    cell = make_cells(peer.m, [min(1200, peer.m.config["MAX_GENE_LEN"])], 5)
    ms = sorted(1e3 * t for t in clock.several(lambda: peer.embed(cell), 10))
    line("torch_latency", name, f"{statistics.median(ms):.4f}", f"{ms[len(ms) // 10]:.4f}",
         f"{ms[len(ms) * 9 // 10]:.4f}", len(ms))


class Layer:
    """What Peer.block reads of its Peer: the weights of one layer, under one name for all."""

    def __init__(self, config, weights):
        self.m = type("", (), {"config": config})
        self.w = weights


class Compiled(torch_peer.Peer):
    """The same model, its blocks - where the time goes - by torch.compile: one graph a shape, since
    weights come in as arguments and not as constants."""

    def __init__(self, folder, dtype, device):
        super().__init__(folder, dtype, device)
        torch._dynamo.config.cache_size_limit = 64
        config = {"N_HEADS": self.m.config["N_HEADS"]}
        self.names = sorted(n[len("layers.0."):] for n in self.w if n.startswith("layers.0."))
        self.layer = torch.compile(
            lambda s, mask, cos, sin, *w: torch_peer.Peer.block(
                Layer(config, dict(zip(self.names, w))), s, "", mask, cos, sin), dynamic=False)

    def block(self, s, name, mask, cos, sin):
        return self.layer(s, mask, cos, sin, *(self.w[name + n] for n in self.names))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--rows", type=int, default=65536)
    p.add_argument("--seconds", type=float, default=3)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_torch: PyTorch sees no GPU")
    clock = Clock(a.device, a.seconds)
    name = torch.cuda.get_device_name() if a.device == "cuda" else "cpu"
    line("torch_version", torch.__version__, name)
    with torch.inference_mode():
        peer = torch_peer.Peer(a.model, torch.bfloat16, a.device)
        ceilings(clock, peer.m.config, a.rows, a.device)
        measure(peer, "eager", clock, a.rows)
        del peer
        measure(Compiled(a.model, torch.bfloat16, a.device), "compiled", clock, a.rows)


if __name__ == "__main__":
    main()
