"""reference_denoise.py - the reverse diffusion process in float64 numpy, over reference.Model.

Written from the specification and engine/denoise/README.md, the plainest way: whole rows of
logits, one cell, one pass after the other. Noise is Philox4x32-10 (Salmon et al. 2011), so that
even what is drawn can be compared.
"""
import hashlib
import math
import struct

import numpy as np

import reference

ALL = (1 << 64) - 1


# ---- noise ---------------------------------------------------------------------------------------

def philox(seed, stream, counter):
    """Four 32-bit words"""
    c = [counter & 0xffffffff, counter >> 32, stream & 0xffffffff, stream >> 32]
    k0, k1 = seed & 0xffffffff, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xffffffff]
        k0, k1 = (k0 + 0x9E3779B9) & 0xffffffff, (k1 + 0xBB67AE85) & 0xffffffff
    return c


def gumbel(word):
    return -math.log(-math.log((word + 0.5) / 2**32))


def gene_noise(seed, step, token, vocab):
    """(V) for one token of one pass"""
    words = [w for i in range((vocab + 3) // 4) for w in philox(seed, step, (token << 32) + i)]
    return np.array([gumbel(w) for w in words[:vocab]])


def turn_noise(seed, step, token):
    return gumbel(philox(seed, step, (token << 32) + 0x80000000)[0])


def cell_seed(seed, sample, ids, x):
    text = b"scdiva-seed-1"
    digest = hashlib.sha256(struct.pack("<Q", len(text)) + text +
                            struct.pack("<3Q", seed, sample, len(ids)) +
                            np.asarray(ids, "<i4").tobytes() + np.asarray(x, "<f4").tobytes())
    return int.from_bytes(digest.digest()[:8], "little")


def hide_fraction(seed, ids, fraction):
    """Positions of the tokens that a fraction hides"""
    n = len(ids)
    k = min(max(math.floor(fraction * n + 0.5), 1), n - 1)
    draws = [(philox(seed, ALL, int(g))[0], int(g)) for g in ids]
    chosen = set(sorted(draws)[:k])
    return [i for i, draw in enumerate(draws) if draw in chosen]


# ---- passes --------------------------------------------------------------------------------------

def special(config):
    return [config[k] for k in ("PAD_TOKEN_ID", "MASK_TOKEN_ID", "PAD_FILL_GENE_ID", "BOS_GENE_ID",
                                "EOS_GENE_ID")]


def sample(model, ids, x, hidden, steps, temperature=0.0, seed=0, confidence=0.0, refresh=False,
           candidates=None, pooling="visible", shown=()):
    """[(gene, value, probability)] of the hidden positions, and the number of passes. Of those in
    `shown` the gene is known and the value alone is hidden; a model without value masking sees
    nothing of them, and their value is that of their gene over all hidden positions."""
    ids, x, shown = np.array(ids, int), np.array(x, np.float64), set(shown)
    masking = model.config["value_masking"]
    vocab = model.config["VOCAB_SIZE"]
    allowed = np.zeros(vocab, bool)
    allowed[np.arange(vocab) if candidates is None else candidates] = True
    allowed[special(model.config)] = False
    allowed[[g for i, g in enumerate(ids) if i not in hidden or i in shown]] = False
    left, found, step = list(hidden), {}, 0
    while left:
        half = [t for t in left if t in shown and masking]
        states = model.forward(ids, x, hidden=[t for t in left if t not in half],
                               value_hidden=half, pooling=pooling)[1:][left]
        logits, values = model.gene_logits(states), model.values(states)
        posterior = values_at_any(logits, values, allowed, [ids[t] for t in left])
        logits[:, ~allowed] = -np.inf
        log_p = logits - np.log(np.exp(logits - logits.max()).sum(1))[:, None] - logits.max()
        keys, turn = logits.copy(), np.zeros(len(left))
        if temperature:
            for i, t in enumerate(left):
                keys[i] += temperature * gene_noise(seed, step, t, vocab)
                turn[i] = 0 if confidence else temperature * turn_noise(seed, step, t)
        last, done = step + 1 == steps, {}
        quota = math.ceil(len(left) / (steps - step))
        while len(done) < len(left):
            best = None
            for i in range(len(left)):
                if i in done:
                    continue
                given = left[i] in shown
                g = ids[left[i]] if given else int(np.argmax(np.where(allowed, keys[i], -np.inf)))
                sure = (0 if given else log_p[i, g]) + turn[i]
                if best is None or sure > best[0]:
                    best = sure, i, g
            _, i, g = best
            given = left[i] in shown
            p = 1 if given else math.exp(log_p[i, g])
            enough = p < confidence if confidence else len(done) >= quota
            if done and not last and enough:
                break
            value = posterior[i] if given and not masking else values[i]
            done[i] = g, max(value, 0), p
            allowed[g] = False
        for i, (g, value, p) in done.items():
            found[left[i]] = [g, value, p]
            ids[left[i]], x[left[i]] = g, value
        left = [t for i, t in enumerate(left) if i not in done]
        step += 1
    if refresh:
        values = model.values(model.forward(ids, x, pooling=pooling)[1:])
        for t in hidden:
            found[t][1] = max(values[t], 0)
        step += 1
    return [tuple(found[t]) for t in hidden], step


def values_at_any(logits, values, allowed, genes):
    """For each gene the mean of the positions' values, weighed by how probable it is there among
    itself and the genes that are allowed"""
    others = np.where(allowed, logits, -np.inf)
    out = []
    for g in genes:
        both = np.concatenate([logits[:, [g]], np.where(np.arange(len(allowed)) == g, -np.inf,
                                                        others)], 1)
        p = reference.softmax(both)[:, 0]
        out.append((p * np.maximum(values, 0)).sum() / p.sum())
    return out


def impute(model, ids, x, hidden, pooling="visible"):
    """Values of shown genes"""
    states = model.forward(ids, x, value_hidden=hidden, pooling=pooling)[1:][hidden]
    return np.maximum(model.values(states), 0)


def impute_posterior(model, ids, x, hidden, pooling="visible"):
    """(values, probabilities) of genes at hidden positions, for models without value masking"""
    states = model.forward(ids, x, hidden=hidden, pooling=pooling)[1:][hidden]
    logits, values = model.gene_logits(states), np.maximum(model.values(states), 0)
    logits[:, special(model.config)] = -np.inf
    logits[:, [g for i, g in enumerate(ids) if i not in hidden]] = -np.inf
    p = reference.softmax(logits)[:, np.asarray(ids)[hidden]]  # (positions, genes)
    return (p * values[:, None]).sum(0) / p.sum(0), (p * p).sum(0) / p.sum(0)


def append_targets(ids, x, targets):
    """The cell with the targets that it does not have, in the order of their ids"""
    more = sorted(set(targets) - set(ids))
    ids = np.concatenate([ids, more]).astype(int)
    x = np.concatenate([x, np.zeros(len(more), np.float32)])
    return ids, x, [i for i, g in enumerate(ids) if g in set(targets)]


# ---- associations --------------------------------------------------------------------------------

def attention(model, ids, x, layers, heads):
    """(L + 1, L + 1) weights of rows to rows, mean over these layers and heads"""
    w, n = model.weights, model.config["N_LAYERS"]
    tok = model.clean(np.asarray(ids), np.asarray(x, np.float64))
    s = np.vstack([model.latent(tok), tok @ w.get("input_proj.weight").T])
    total = np.zeros((len(s), len(s)))
    for i in range(n):
        name = f"layers.{i}."
        normed = reference.rms_norm(s, w.get(name + "norm1.weight"))
        q, k = (model.rope(model.heads(normed @ w.get(f"{name}attn.{p}_proj.weight").T))
                for p in "qk")
        weights = reference.softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2]))
        if i in layers:
            total += weights[heads].mean(0) / len(layers)
        s = model.block(s, name)
    return total


def effects(model, ids, x, r):
    """What the token at r adds to the values of the others: hidden half by half, with it and
    without."""
    ids, x, keep = np.asarray(ids), np.asarray(x), np.arange(len(ids)) != r
    out = np.zeros(len(ids))
    for half in 0, 1:
        asked = [i for i in range(len(ids)) if i != r and i % 2 == half]
        for sign, shown in ((1, np.arange(len(ids))), (-1, np.flatnonzero(keep))):
            hidden = [p for p, i in enumerate(shown) if i in asked]
            if not hidden:
                continue
            how = "value_hidden" if model.config["value_masking"] else "hidden"
            states = model.forward(ids[shown], x[shown], pooling="visible", **{how: hidden})[1:]
            out[asked] += sign * np.maximum(model.values(states[hidden]), 0)
    return out


def associate(model, cells, regulators, layers, heads):
    """{(regulator, target): (weight, effect, coexpression, cells)} over [(ids, x)]"""
    vocab = model.config["VOCAB_SIZE"]
    table = np.zeros((len(cells), vocab))
    for row, (ids, x) in zip(table, cells):
        row[ids] = x
    out = {}
    for r in regulators:
        weight, effect, both, n = np.zeros(vocab), np.zeros(vocab), np.zeros(vocab, int), 0
        for ids, x in cells:
            if r not in ids:
                continue
            at = list(ids).index(r)
            weight[ids] += attention(model, ids, x, layers, heads)[1:, at + 1] * (len(ids) + 1)
            effect[ids] += effects(model, ids, x, at)
            both[ids] += 1
            n += 1
        for g in np.flatnonzero(both):
            if g != r:
                a, b = table[:, r], table[:, g]
                spread = a.std() > 1e-5 and b.std() > 1e-5 and len(cells) > 2
                out[r, g] = (weight[g] / n, effect[g] / both[g],
                             np.corrcoef(a, b)[0, 1] if spread else None, both[g])
    return out
