"""models.py - model directories for the tests: odd sizes with lively weights, written by numpy.

A second writer of the format, so that the C writer and the C reader cannot share a mistake. Weights
are scaled so that attention is peaked and every part of the model moves the answer: biases, norms
and mask embeddings are all far from their neutral values.
"""
import hashlib
import json
import os
import struct

import numpy as np

# Three heads of 16, d != h, nothing a multiple of 32 but by accident.
ODD = {"SCGPT_DIM": 40, "HIDDEN_DIM": 48, "N_LAYERS": 3, "N_HEADS": 3, "D_HID": 92}


def config_for(n_genes, **sizes):
    """config.json of a vocabulary with n_genes genes: 0 pad, 1 mask, genes, then three specials."""
    vocab = 2 + n_genes + 3
    rope_len = max(vocab, sizes.get("MAX_GENE_LEN", 64)) + 1  # a position for every token
    return {**ODD, "DROPOUT": 0.1, "VOCAB_SIZE": vocab, "PAD_TOKEN_ID": 0, "MASK_TOKEN_ID": 1,
            "PAD_FILL_GENE_ID": vocab - 3, "BOS_GENE_ID": vocab - 2, "EOS_GENE_ID": vocab - 1,
            "MAX_GENE_LEN": 64, "ROPE_THETA": 10000, "ROPE_MAX_LEN": rope_len, **sizes}


def tensor_shapes(c):
    d, h, f, vocab = c["SCGPT_DIM"], c["HIDDEN_DIM"], c["D_HID"], c["VOCAB_SIZE"]
    shapes = {
        "gene_embedding.weight": (vocab, d),
        "value_encoder.0.weight": (d, 1), "value_encoder.0.bias": (d,),
        "value_encoder.2.weight": (d, d), "value_encoder.2.bias": (d,),
        "value_mask_emb": (d,), "gene_mask_emb": (d,), "input_proj.weight": (h, d),
        "latent_encoder.mlp.0.weight": (h, d), "latent_encoder.mlp.0.bias": (h,),
        "latent_encoder.mlp.1.weight": (h,), "latent_encoder.mlp.1.bias": (h,),
        "latent_encoder.mlp.3.weight": (h, h), "latent_encoder.mlp.3.bias": (h,),
    }
    for i in range(c["N_LAYERS"]):
        name = f"layers.{i}."
        shapes[name + "norm1.weight"] = shapes[name + "norm2.weight"] = (h,)
        for p in "qkvo":
            shapes[f"{name}attn.{p}_proj.weight"] = (h, h)
        shapes[name + "mlp.gate_proj.weight"] = shapes[name + "mlp.up_proj.weight"] = (f, h)
        shapes[name + "mlp.down_proj.weight"] = (h, f)
    shapes.update({
        "final_norm.weight": (h,), "gene_head.weight": (vocab, h),
        "value_head.0.weight": (512, h), "value_head.0.bias": (512,),
        "value_head.2.weight": (1, 512), "value_head.2.bias": (1,),
    })
    return shapes


def random_tensors(config, seed):
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        if "norm" in name or name == "latent_encoder.mlp.1.weight":
            t = 1 + 0.3 * rng.standard_normal(shape)
        elif len(shape) == 1:
            t = 0.3 * rng.standard_normal(shape)
        elif name == "gene_embedding.weight":
            t = rng.standard_normal(shape)
        else:
            gain = 2.0 if ".q_proj" in name or ".k_proj" in name else 1.0  # peaked attention
            t = gain * rng.standard_normal(shape) / np.sqrt(shape[1])
        tensors[name] = t.astype(np.float32)
    return tensors


def encode(tensor, dtype):
    """float32 -> bytes of F32, F16 or BF16 (to nearest, ties to even)."""
    if dtype == "F16":
        return tensor.astype("<f2").tobytes()
    if dtype == "BF16":
        bits = tensor.astype("<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return tensor.astype("<f4").tobytes()


def write_safetensors(path, tensors, dtype="F32"):
    """dtype: one for all, or a function of the tensor's name."""
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        kind = dtype(name) if callable(dtype) else dtype
        blob = encode(tensor, kind)
        header[name] = {"dtype": kind, "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_genes(path, genes):
    """genes: [{"symbol": ..., optional ensembl_id, aliases, entropy}], tokens from 2."""
    columns = ["symbol"] + [c for c in ("ensembl_id", "aliases", "entropy")
                            if any(c in g for g in genes)]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\t".join(["token_id"] + columns) + "\n")
        for token, gene in enumerate(genes, 2):
            f.write("\t".join([str(token)] + [str(gene.get(c, "")) for c in columns]) + "\n")


def write_model(folder, genes, seed=1, dtype="F32", tensors=None, **sizes):
    """A whole model directory; returns its path. genes: rows, or symbols."""
    genes = [{"symbol": g} if isinstance(g, str) else g for g in genes]
    config = config_for(len(genes), **sizes)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    write_safetensors(os.path.join(folder, "model.safetensors"),
                      tensors or random_tensors(config, seed), dtype)
    write_genes(os.path.join(folder, "genes.tsv"), genes)
    return folder


def digest(folder):
    """SHA-256 as the daemon names a model: over config.json, model.safetensors, genes.tsv."""
    hasher = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "genes.tsv"):
        with open(os.path.join(folder, name), "rb") as f:
            hasher.update(f.read())
    return hasher.hexdigest()


def head_tensors(config, n_labels, mlp_dim, seed):
    """A lively MLP: its probabilities are far from even, and differ from cell to cell."""
    rng = np.random.default_rng(seed)
    h = config["HIDDEN_DIM"]
    shapes = {"mlp.0.weight": (mlp_dim, h), "mlp.0.bias": (mlp_dim,),
              "mlp.2.weight": (n_labels, mlp_dim), "mlp.2.bias": (n_labels,)}
    return {name: ((3 / np.sqrt(shape[1]) if len(shape) == 2 else 0.3) *
                   rng.standard_normal(shape)).astype(np.float32)
            for name, shape in shapes.items()}


def gene_tensors(config, n_labels, seed):
    """The linear half of a head, as lively as its MLP."""
    rng = np.random.default_rng(seed + 500)
    return {"genes.weight": 4 * rng.standard_normal((config["VOCAB_SIZE"], n_labels)),
            "genes.bias": rng.standard_normal(n_labels)}


def write_head(model, name, labels, seed=1, mlp_dim=37, backbone=(), tensors=None, dtype="F32",
               linear=False, **json_fields):
    """heads/NAME in the model's folder; returns its path. labels: texts, or {"label", ...}.

    backbone: names of the model's tensors that the head carries, with values of its own.
    linear: with a half over the genes themselves."""
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    folder = os.path.join(model, "heads", name)
    os.makedirs(folder, exist_ok=True)
    labels = [{"label": label} if isinstance(label, str) else label for label in labels]
    about = {"task": "annotation", "format": 1, "labels": labels, "temperature": 1.25,
             "threshold": 0.4, "model_digest": digest(model), **json_fields}
    with open(os.path.join(folder, "head.json"), "w", encoding="utf-8") as f:
        json.dump(about, f, indent=1)
    own = random_tensors(config, seed + 1000)
    tensors = tensors or {**head_tensors(config, len(labels), mlp_dim, seed),
                          **(gene_tensors(config, len(labels), seed) if linear else {}),
                          **{t: own[t] for t in backbone}}
    write_safetensors(os.path.join(folder, "head.safetensors"), tensors, dtype)
    return folder
