#!/usr/bin/env python3
"""reference.py - the scDiVa model in float64 numpy, the yardstick of every parity test.

Written from the specification and the paper's formulas, not from the C code: where the two
disagree, one of them is wrong. The simplest right version: one cell at a time, no batching, no
cleverness. Reads config.json, model.safetensors and genes.tsv itself.

    reference.py MODEL_DIR REQUEST.json     prints one embedding per cell as a JSON array

Names of sizes: L tokens of a cell, d SCGPT_DIM, h HIDDEN_DIM, f D_HID, V VOCAB_SIZE, H heads,
e = h / H.
"""
import copy
import json
import math
import os
import re
import sys

import numpy as np

CONFIG_DEFAULTS = {
    "SCGPT_DIM": 512, "HIDDEN_DIM": 512, "N_LAYERS": 12, "N_HEADS": 8, "DROPOUT": 0.1,
    "D_HID": 2048, "VOCAB_SIZE": 41818, "PAD_TOKEN_ID": 0, "MASK_TOKEN_ID": 1,
    "PAD_FILL_GENE_ID": 41815, "BOS_GENE_ID": 41816, "EOS_GENE_ID": 41817, "MAX_GENE_LEN": 1200,
    "ROPE_THETA": 10000, "ROPE_MAX_LEN": 41819, "latent_pooling": "clean", "value_masking": False,
}


# ---- files ---------------------------------------------------------------------------------------

class Weights:
    """model.safetensors: a u64 header length, a JSON header, then raw little-endian data."""

    def __init__(self, path):
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            self.header = json.loads(f.read(n))
        self.header.pop("__metadata__", None)
        self.bytes = np.memmap(path, np.uint8, "r")
        self.start = 8 + n

    def get(self, name, rows=None):
        """The tensor in float64, or only some of its rows."""
        entry = self.header[name]
        first, last = (self.start + offset for offset in entry["data_offsets"])
        raw = self.bytes[first:last]
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[entry["dtype"]]
        tensor = np.frombuffer(raw, kind).reshape(entry["shape"])
        if rows is not None:
            tensor = tensor[rows]
        if entry["dtype"] == "BF16":  # the upper half of a float32
            tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
        return tensor.astype(np.float64)


class Genes:
    """genes.tsv, and the ladder by which a name becomes a token."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            lines = f.read().split("\n")
        columns = lines[0].split("\t")
        self.symbol, self.ensembl, self.entropy, self.unused = {}, {}, {}, set()
        aliases = {}  # name -> set of tokens
        for line in lines[1:]:
            if not line:
                continue
            row = dict(zip(columns, line.split("\t")))
            token = int(row["token_id"])
            self.symbol[row["symbol"]] = token
            if row.get("ensembl_id"):
                self.ensembl[row["ensembl_id"]] = token
            for alias in filter(None, row.get("aliases", "").split("|")):
                aliases.setdefault(alias, set()).add(token)
            if row.get("used") == "0":
                self.unused.add(token)
            if row.get("entropy"):
                self.entropy[token] = float(row["entropy"])
        self.aliases = aliases

    def resolve(self, name):
        """(token or None, rung). The first rung that knows the name wins."""
        if name in self.symbol:
            return self.symbol[name], "symbol"
        if name in self.ensembl:
            return self.ensembl[name], "ensembl_id"
        unversioned = re.fullmatch(r"(ENS[A-Z]*G\d+)\.\d+", name)
        if unversioned and unversioned[1] in self.ensembl:
            return self.ensembl[unversioned[1]], "versioned"
        composite = re.fullmatch(r"(.+)_(ENSG\d+)(\.\d+)?", name)
        if composite:
            if composite[2] in self.ensembl:
                return self.ensembl[composite[2]], "composite"
            if composite[1] in self.symbol:
                return self.symbol[composite[1]], "composite"
        tokens = self.aliases.get(name, ())
        if len(tokens) == 1:
            return next(iter(tokens)), "alias"
        return None, "ambiguous" if tokens else "unknown"


# ---- the model -----------------------------------------------------------------------------------

class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.config = {**CONFIG_DEFAULTS, **json.load(f)}
        self.weights = Weights(os.path.join(folder, "model.safetensors"))
        self.genes = Genes(os.path.join(folder, "genes.tsv"))

    # -- values and order --

    def serialize(self, names, values, kind="counts", total=None):
        """One cell's inputs -> (ids (L) int, x (L) float32, what the answer reports)."""
        resolved = [self.genes.resolve(name)[0] for name in names]
        sums = {}  # token -> sum in count space
        for token, value in zip(resolved, values):
            if token is not None:
                if kind == "log1p_cp10k":
                    value = np.expm1(np.float64(np.float32(value)))
                sums[token] = sums.get(token, 0.0) + value
        if kind == "counts":
            total = total or math.fsum(values)
            sums = {t: 1e4 * s / total for t, s in sums.items()}
        pairs = [(t, np.float32(np.log1p(s))) for t, s in sums.items()]
        pairs = [(t, x) for t, x in pairs if x > 0 and t not in self.genes.unused]

        def score(token, x):
            if not self.genes.entropy:
                return x
            entropy = np.float32(self.genes.entropy.get(token, 1.0))
            return x / (entropy + np.float32(1e-6))  # all float32

        pairs.sort(key=lambda pair: (-score(*pair), pair[0]))
        kept = pairs[:self.config["MAX_GENE_LEN"]]
        known = sum(token is not None for token in resolved)
        info = {"tokens": len(kept), "genes_known": known,
                "genes_unknown": len(resolved) - known, "genes_truncated": len(pairs) - len(kept)}
        ids = np.array([t for t, _ in kept], int)
        return ids, np.array([x for _, x in kept], np.float32), info

    # -- forward --

    def clean(self, ids, x):
        """(L), (L) -> (L, d)"""
        w = self.weights
        hidden = x[:, None] * w.get("value_encoder.0.weight")[:, 0] + w.get("value_encoder.0.bias")
        value = relu(hidden) @ w.get("value_encoder.2.weight").T + w.get("value_encoder.2.bias")
        return w.get("gene_embedding.weight", ids) + value

    def latent(self, pooled):
        """(P, d) -> z (h)"""
        w = self.weights
        mean = pooled.mean(axis=0) if len(pooled) else np.zeros(self.config["SCGPT_DIM"])
        y = w.get("latent_encoder.mlp.0.weight") @ mean + w.get("latent_encoder.mlp.0.bias")
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-5)  # biased variance
        y = y * w.get("latent_encoder.mlp.1.weight") + w.get("latent_encoder.mlp.1.bias")
        return w.get("latent_encoder.mlp.3.weight") @ relu(y) + w.get("latent_encoder.mlp.3.bias")

    def forward(self, ids, x, hidden=(), value_hidden=(), pooling=None):
        """States after the final norm, (L + 1, h); row 0 is [LAT].

        hidden: positions whose gene and value are masked; value_hidden: only the value is."""
        w = self.weights
        x = np.asarray(x, np.float64)
        masked = np.isin(np.arange(len(ids)), list(hidden))
        half = np.isin(np.arange(len(ids)), list(value_hidden))
        clean = self.clean(ids, x)  # (L, d)
        visible = ~(masked | half)
        pooling = pooling or self.config["latent_pooling"]
        z = self.latent(clean if pooling == "clean" else clean[visible])  # (h)
        tok = clean.copy()
        tok[masked] = w.get("gene_mask_emb") + w.get("value_mask_emb")
        tok[half] = w.get("gene_embedding.weight", ids[half]) + w.get("value_mask_emb")
        s = np.vstack([z, tok @ w.get("input_proj.weight").T])  # (L + 1, h)
        for i in range(self.config["N_LAYERS"]):
            s = self.block(s, f"layers.{i}.")
        return rms_norm(s, w.get("final_norm.weight"))

    def block(self, s, name):
        w = self.weights
        n = rms_norm(s, w.get(name + "norm1.weight"))
        q, k, v = (self.heads(n @ w.get(f"{name}attn.{p}_proj.weight").T) for p in "qkv")
        q, k = self.rope(q), self.rope(k)  # (H, T, e)
        weights = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2]))  # (H, T, T)
        merged = (weights @ v).transpose(1, 0, 2).reshape(s.shape)  # (T, h)
        s = s + merged @ w.get(name + "attn.o_proj.weight").T
        n = rms_norm(s, w.get(name + "norm2.weight"))
        gate = n @ w.get(name + "mlp.gate_proj.weight").T  # (T, f)
        up = n @ w.get(name + "mlp.up_proj.weight").T
        return s + (gate / (1 + np.exp(-gate)) * up) @ w.get(name + "mlp.down_proj.weight").T

    def heads(self, y):
        """(T, h) -> (H, T, e)"""
        return y.reshape(len(y), self.config["N_HEADS"], -1).transpose(1, 0, 2)

    def rope(self, y):
        """Rotate-half: element i of the first half is paired with element i of the second."""
        half = y.shape[2] // 2
        frequency = float(self.config["ROPE_THETA"]) ** (-np.arange(half) / half)
        angle = np.arange(y.shape[1])[:, None] * frequency  # (T, e / 2); [LAT] stands at 0
        cos, sin = np.cos(angle), np.sin(angle)
        a, b = y[:, :, :half], y[:, :, half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)

    # -- what is read from the states --

    def embedding(self, ids, x):
        return self.forward(ids, x)[0]

    def gene_logits(self, states):
        """(n, h) -> (n, V)"""
        return states @ self.weights.get("gene_head.weight").T

    def values(self, states):
        """(n, h) -> (n)"""
        w = self.weights
        y = relu(states @ w.get("value_head.0.weight").T + w.get("value_head.0.bias"))
        return (y @ w.get("value_head.2.weight").T + w.get("value_head.2.bias"))[:, 0]


def relu(y):
    return np.maximum(y, 0)


def rms_norm(y, weight):
    return y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + 1e-5) * weight


def softmax(y):
    y = np.exp(y - y.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


class Head:
    """heads/NAME of a model: softmax(logits / temperature), logits = MLP([LAT]), or its mean with
    the linear half's where the head has one; and the tensors it changed."""

    def __init__(self, model, folder):
        with open(os.path.join(folder, "head.json"), encoding="utf-8") as f:
            self.json = json.load(f)
        self.labels = [label["label"] for label in self.json["labels"]]
        self.weights = Weights(os.path.join(folder, "head.safetensors"))
        self.model = copy.copy(model)
        self.model.weights = Overlaid(model.weights, self.weights)

    def probabilities(self, ids, x):
        """(C)"""
        w = self.weights
        y = w.get("mlp.0.weight") @ self.model.embedding(ids, x) + w.get("mlp.0.bias")
        logits = w.get("mlp.2.weight") @ relu(y) + w.get("mlp.2.bias")
        if "genes.weight" in w.header:
            x = np.asarray(x, np.float64)
            genes = (x / np.linalg.norm(x)) @ w.get("genes.weight", ids) + w.get("genes.bias")
            logits = (logits + genes) / 2
        return softmax(logits / self.json["temperature"])


class Overlaid:
    """Weights of a model where a head's own go first."""

    def __init__(self, weights, over):
        self.weights, self.over = weights, over

    def get(self, name, rows=None):
        return (self.over if name in self.over.header else self.weights).get(name, rows)


# ---- a request body ------------------------------------------------------------------------------

def cells_of(body):
    """Either form of a request body -> [(names, values, total or None)]"""
    if "cells" in body:
        return [(c["genes"], c["values"], c.get("total")) for c in body["cells"]]
    m, genes, cells = body["matrix"], body["genes"], []
    for i in range(len(m["indptr"]) - 1):
        row = slice(m["indptr"][i], m["indptr"][i + 1])
        total = body["totals"][i] if "totals" in body else None
        cells.append(([genes[j] for j in m["indices"][row]], m["data"][row], total))
    return cells


def embed(model, body):
    """[(embedding (h), info)] of every cell of the request."""
    out = []
    for names, values, total in cells_of(body):
        ids, x, info = model.serialize(names, values, body.get("input", "counts"), total)
        out.append((model.embedding(ids, x), info))
    return out


def annotate(model, head, body):
    """[(probabilities (C), info)] of every cell of the request."""
    out = []
    for names, values, total in cells_of(body):
        ids, x, info = model.serialize(names, values, body.get("input", "counts"), total)
        out.append((head.probabilities(ids, x), info))
    return out


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], encoding="utf-8") as request:
        for embedding, _ in embed(Model(sys.argv[1]), json.load(request)):
            print(json.dumps(embedding.tolist()))
