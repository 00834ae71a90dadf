#!/usr/bin/env python3
"""torch_peer.py - the same model, weights and cells in PyTorch: what a user would otherwise run.

Eager, padded batches with a key mask, scaled_dot_product_attention, bf16 and fp32, on the same
cores. The weights come from the model directory through the reference's reader; the answers are
compared with the reference's, so that what is timed is the same model. Runs where torch can be
imported and says so where it cannot.
"""
import argparse
import sys
import time

import common
from common import harness, reference, row, spread

import numpy as np

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("torch_peer: PyTorch is not installed for this Python; nothing measured")


class Peer:
    """The forward pass of the specification on padded batches (B, T, ...)."""

    def __init__(self, folder, dtype, device):
        self.m, self.dtype, self.device = reference.Model(folder), dtype, device
        self.w = {name: torch.from_numpy(self.m.weights.get(name).astype(np.float32))
                  .to(device, dtype) for name in self.m.weights.header}

    def embed(self, cells):
        """[(ids, x)] -> (B, h) float32"""
        w, c = self.w, self.m.config
        length = max(len(ids) for ids, _ in cells)
        ids = torch.zeros(len(cells), length, dtype=torch.long)
        x = torch.zeros(len(cells), length)
        real = torch.zeros(len(cells), length, dtype=torch.bool)
        for i, (g, v) in enumerate(cells):
            ids[i, :len(g)], x[i, :len(g)] = torch.from_numpy(g), torch.from_numpy(v)
            real[i, :len(g)] = True
        ids, x, real = ids.to(self.device), x.to(self.device, self.dtype), real.to(self.device)
        value = F.linear(F.relu(F.linear(x[..., None], w["value_encoder.0.weight"],
                                         w["value_encoder.0.bias"])),
                         w["value_encoder.2.weight"], w["value_encoder.2.bias"])
        clean = F.embedding(ids, w["gene_embedding.weight"]) + value  # (B, L, d)
        pooled = (clean * real[..., None]).sum(1) / real.sum(1, keepdim=True).to(self.dtype)
        p = "latent_encoder.mlp."
        z = F.linear(pooled, w[p + "0.weight"], w[p + "0.bias"])
        z = F.relu(F.layer_norm(z, z.shape[-1:], w[p + "1.weight"], w[p + "1.bias"]))
        z = F.linear(z, w[p + "3.weight"], w[p + "3.bias"])
        s = torch.cat([z[:, None], F.linear(clean, w["input_proj.weight"])], 1)  # (B, T, h)
        mask = F.pad(real, (1, 0), value=True)[:, None, None]  # (B, 1, 1, T)
        if bool(real.all()):
            mask = None  # the fastest path, when nothing is padded
        cos, sin = self.angles(s.shape[1])
        for i in range(c["N_LAYERS"]):
            s = self.block(s, f"layers.{i}.", mask, cos, sin)
        return rms_norm(s[:, 0], w["final_norm.weight"]).float()

    def angles(self, n):
        half = self.m.config["HIDDEN_DIM"] // self.m.config["N_HEADS"] // 2
        frequency = float(self.m.config["ROPE_THETA"]) ** (-torch.arange(half) / half)
        angle = torch.arange(n)[:, None] * frequency
        angle = torch.cat([angle, angle], 1).to(self.device)
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)

    def block(self, s, name, mask, cos, sin):
        w, heads = self.w, self.m.config["N_HEADS"]
        n = rms_norm(s, w[name + "norm1.weight"])
        q, k, v = (F.linear(n, w[f"{name}attn.{p}_proj.weight"])
                   .unflatten(-1, (heads, -1)).transpose(1, 2) for p in "qkv")  # (B, H, T, e)
        q, k = (y * cos + rotate_half(y) * sin for y in (q, k))
        merged = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        s = s + F.linear(merged.transpose(1, 2).flatten(2), w[name + "attn.o_proj.weight"])
        n = rms_norm(s, w[name + "norm2.weight"])
        gate = F.silu(F.linear(n, w[name + "mlp.gate_proj.weight"]))
        up = F.linear(n, w[name + "mlp.up_proj.weight"])
        return s + F.linear(gate * up, w[name + "mlp.down_proj.weight"])


def rotate_half(y):
    a, b = y.chunk(2, -1)
    return torch.cat([-b, a], -1)


def rms_norm(y, weight):
    f = y.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-5)).to(y.dtype) * weight


def timed(peer, cells, batch, runs):
    """cells per second of each run, after one to warm up"""
    rates = []
    for i in range(runs + 1):
        start = time.monotonic()
        for at in range(0, len(cells), batch):
            peer.embed(cells[at:at + batch])
        if peer.device != "cpu":
            torch.cuda.synchronize()
        if i:
            rates.append(len(cells) / (time.monotonic() - start))
    return rates


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cells", type=int, default=16)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    common.head(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {a.device}, "
                f"batches of {a.batch}")
    folder = harness.official_model()
    rng = np.random.default_rng(1)
    model = reference.Model(folder)
    shapes = {"1200 genes": [1200] * a.cells,
              "200 to 1200 genes": rng.integers(200, 1201, a.cells).tolist()}
    for dtype in (torch.bfloat16, torch.float32):
        with torch.inference_mode():
            peer = Peer(folder, dtype, a.device)
            for name, lengths in shapes.items():
                cells = [model.serialize(c["genes"], c["values"])[:2]
                         for n in lengths for c in common.official_cells(1, n, seed=n)]
                rates = timed(peer, cells, a.batch, a.runs)
                row(f"{str(dtype)[6:]}, {name}", spread(rates, " cells/s", 2))
            ids, x = cells[0]
            got, want = peer.embed([(ids, x)])[0].cpu().numpy(), model.embedding(ids, x)
            cosine = got @ want / np.linalg.norm(got) / np.linalg.norm(want)
            row("", f"cosine with the float64 reference {cosine:.6f}")


if __name__ == "__main__":
    main()
