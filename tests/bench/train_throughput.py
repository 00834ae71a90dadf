#!/usr/bin/env python3
"""train_throughput.py - a step of pre-training: tokens/s, GFLOP/s and memory, ours and PyTorch's.

Ours is the program itself on a file made here, set-up left out. PyTorch's is the same model and
objective, eager, on batches of the same cells padded to the longest, gene logits at hidden tokens
only, AdamW and clipping; it runs in a process of its own under TORCH_PYTHON (default: this Python).
What a processor could do is oneDNN's best plain float32 product (build/bench/bench_roof).
"""
import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def cell_lengths(a):
    """Genes of each cell: even between half and one and a half times the mean."""
    rng = np.random.default_rng(1)
    return rng.integers(a.genes // 2, a.genes * 3 // 2 + 1, a.cells)


def flop_per_token(a):
    """Forward and backward (three times the forward) of one token with a mean cell around it; half
    of the tokens are in M, where the heads are."""
    h, f = a.hidden, a.ffn
    layer = 2 * (4 * h * h + 3 * h * f) + 4 * h * a.genes
    ends = 2 * 2 * h * h + 0.5 * (2 * h * a.vocab + 2 * h * 512)
    return 3 * (a.layers * layer + ends)


# ---- ours ----------------------------------------------------------------------------------------

def write_h5ad(path, columns, counts, n_genes):
    """columns: the genes of each cell, ascending; counts: of all of them, one after the other."""
    import h5py  # not needed where only PyTorch's side runs
    text, lengths = h5py.string_dtype(), [len(c) for c in columns]
    with h5py.File(path, "w") as f:
        f.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = f.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0",
                        "shape": np.array([len(columns), n_genes])})
        x["data"] = counts.astype(np.float32)
        x["indices"] = np.concatenate(columns).astype(np.int32)
        x["indptr"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        for name, n in (("obs", len(columns)), ("var", n_genes)):
            g = f.create_group(name)
            g.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0",
                            "_index": "_index"})
            g.attrs["column-order"] = np.array([], dtype=text)
            g["_index"] = np.array([f"{name.upper()}{i}" for i in range(n)], dtype=text)
            g["_index"].attrs.update({"encoding-type": "string-array",
                                      "encoding-version": "0.2.0"})


def write_cells(path, a):
    rng, lengths = np.random.default_rng(2), cell_lengths(a)
    columns = [np.sort(rng.choice(a.vocab - 5, n, replace=False)) for n in lengths]
    write_h5ad(path, columns, rng.integers(1, 30, lengths.sum()), a.vocab - 5)


def ours(a, folder):
    """(tokens/s, peak bytes)"""
    import harness
    data, out = os.path.join(folder, "cells.h5ad"), os.path.join(folder, "out")
    write_cells(data, a)
    command = harness.scdiva_train() + [
        "pretrain", "--data", data, "--out", out, "--held-out", "0", "--order", "expression",
        "--hidden", a.hidden, "--layers", a.layers, "--heads", a.heads, "--ffn", a.ffn, "--batch",
        a.batch, "--micro-rows", a.micro_rows, "--steps", a.steps, "--threads", a.threads,
        "--checkpoint-every", 0]
    p = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    said = p.stderr.read()
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        sys.exit(f"scdiva-train failed:\n{said}")
    with open(os.path.join(out, "train.csv"), encoding="utf-8", newline="") as f:
        return float(list(csv.DictReader(f))[-1]["tokens_s"]), usage.ru_maxrss * 1024


# ---- PyTorch -------------------------------------------------------------------------------------

def torch_model(torch, a):
    nn, F, h, e = torch.nn, torch.nn.functional, a.hidden, a.hidden // a.heads

    def rotate(x, cos, sin):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(h, 1e-5), nn.RMSNorm(h, 1e-5)
            self.qkv, self.o = nn.Linear(h, 3 * h, bias=False), nn.Linear(h, h, bias=False)
            self.gate_up = nn.Linear(h, 2 * a.ffn, bias=False)
            self.down = nn.Linear(a.ffn, h, bias=False)

        def forward(self, s, mask, cos, sin):
            q, k, v = (y.unflatten(-1, (a.heads, e)).transpose(1, 2)
                       for y in self.qkv(self.norm1(s)).chunk(3, -1))
            y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v,
                                               attn_mask=mask)
            s = s + self.o(y.transpose(1, 2).flatten(2))
            gate, up = self.gate_up(self.norm2(s)).chunk(2, -1)
            return s + self.down(F.silu(gate) * up)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.genes = nn.Embedding(a.vocab, h)
            self.value = nn.Sequential(nn.Linear(1, h), nn.ReLU(), nn.Linear(h, h))
            self.hidden = nn.Parameter(torch.randn(h))
            self.into = nn.Linear(h, h, bias=False)
            self.latent = nn.Sequential(nn.Linear(h, h), nn.LayerNorm(h), nn.ReLU(),
                                        nn.Linear(h, h))
            self.blocks = nn.ModuleList(Block() for _ in range(a.layers))
            self.norm = nn.RMSNorm(h, 1e-5)
            self.gene_head = nn.Linear(h, a.vocab, bias=False)
            self.value_head = nn.Sequential(nn.Linear(h, 512), nn.ReLU(), nn.Linear(512, 1))

        def forward(self, ids, x, real, hidden, angles):
            """ids, x, real, hidden (B, L): summed losses over the hidden tokens"""
            clean = self.genes(ids) + self.value(x[..., None])
            seen = (real & ~hidden)[..., None]
            z = self.latent((clean * seen).sum(1) / seen.sum(1).clamp(min=1))
            tok = torch.where(hidden[..., None], self.hidden, clean)
            s = torch.cat([z[:, None], self.into(tok)], 1)
            mask = F.pad(real, (1, 0), value=True)[:, None, None]
            cos, sin = (y[:s.shape[1]] for y in angles)
            for block in self.blocks:
                s = block(s, mask, cos, sin)
            s = self.norm(s)[:, 1:][hidden]
            gene = F.cross_entropy(self.gene_head(s), ids[hidden], reduction="sum")
            value = F.mse_loss(self.value_head(s)[:, 0], x[hidden], reduction="sum")
            return gene, value

    return Model()


def torch_step(torch, a, model, optimizer, cells, angles, rng):
    """One global batch in micro-batches of padded cells; the number of tokens."""
    share = rng.random(len(cells))
    hidden = [rng.random(n) < t for n, t in zip(cells, share)]
    total = sum(int(m.sum()) for m in hidden)
    optimizer.zero_grad(set_to_none=True)
    at = 0
    while at < len(cells):
        end, longest = at, 0
        while end < len(cells):
            longest = max(longest, cells[end] + 1)
            if end > at and longest * (end + 1 - at) > a.micro_rows:
                break
            end += 1
        part = range(at, end)
        width = max(cells[i] for i in part)
        ids = torch.from_numpy(rng.integers(2, a.vocab - 3, (len(part), width)))
        x = torch.from_numpy(rng.random((len(part), width), np.float32) * 6)
        real, hide = (torch.zeros(len(part), width, dtype=torch.bool) for _ in range(2))
        for row, i in enumerate(part):
            real[row, :cells[i]] = True
            hide[row, :cells[i]] = torch.from_numpy(hidden[i])
        if hide.any():
            gene, value = model(ids, x, real, hide, angles)
            ((gene + 10 * value) / total).backward()
        at = end
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return int(sum(cells))


def torch_side(a):
    try:
        import torch
    except ImportError:
        print("none: PyTorch is not installed for this Python (TORCH_PYTHON names another)")
        return
    import resource
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model, lengths, rng = torch_model(torch, a), cell_lengths(a).tolist(), np.random.default_rng(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    half = a.hidden // a.heads // 2
    angle = torch.arange(max(lengths) + 1)[:, None] * 1e4 ** (-torch.arange(half) / half)
    angle = torch.cat([angle, angle], 1)
    tokens, start = 0, 0.0
    for step in range(a.steps + 2):
        if step == 2:  # two to warm up
            tokens, start = 0, time.monotonic()
        cells = [lengths[(step * a.batch + i) % len(lengths)] for i in range(a.batch)]
        tokens += torch_step(torch, a, model, optimizer, cells, (angle.cos(), angle.sin()), rng)
    rate = tokens / (time.monotonic() - start)
    print(f"{rate} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024} "
          f"{torch.__version__}")


# ---- both ----------------------------------------------------------------------------------------

def roof_gflops(threads):
    program = os.environ.get("BENCH_ROOF", os.path.join(HERE, "../../build/bench/bench_roof"))
    if not os.path.exists(program):
        sys.exit("build/bench/bench_roof is not there: make build/bench/bench_roof")
    return float(subprocess.run([program, "fp32", str(threads)], check=True, capture_output=True,
                                text=True).stdout)


def main():
    p = argparse.ArgumentParser()
    for name, value in (("hidden", 128), ("layers", 4), ("heads", 4), ("ffn", 512),
                        ("vocab", 9600), ("cells", 512), ("genes", 400), ("batch", 64),
                        ("micro-rows", 4096), ("steps", 10), ("threads", os.cpu_count())):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch_side:
        torch_side(a)
        return
    sys.path.insert(0, HERE)
    import common
    common.head(f"a step of pre-training: {a.layers} x {a.hidden}, {a.vocab} ids, {a.batch} cells "
                f"of about {a.genes} genes, {a.threads} threads")
    roof = roof_gflops(a.threads)
    common.row("roof, fp32", f"{roof:.0f} GFLOP/s (oneDNN's best plain product)")

    def show(name, rate, peak, note=""):
        gflops = rate * flop_per_token(a) / 1e9
        common.row(name, f"{rate:,.0f} tokens/s, {gflops:.0f} GFLOP/s ({100 * gflops / roof:.0f} % "
                         f"of the roof), peak {peak / 2**20:.0f} MiB{note}")

    with tempfile.TemporaryDirectory() as folder:
        show("scdiva-train", *ours(a, folder))
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    said = subprocess.run([python, os.path.abspath(__file__), "--torch-side"] + sys.argv[1:],
                          check=True, capture_output=True, text=True).stdout.split()
    if said[0] == "none:":
        common.row("PyTorch", " ".join(said))
    else:
        show("PyTorch", float(said[0]), float(said[1]), f", version {said[2]}")


if __name__ == "__main__":
    main()
