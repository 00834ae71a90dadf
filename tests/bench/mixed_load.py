#!/usr/bin/env python3
"""Embeddings of single cells beside denoising in 16 steps: how much of the engine's rate is left to
the two together, and what the embeddings wait.

    tests/bench/mixed_load.py [--seconds 20] [--tokens 300] [--steps 16] [--model DIR]

Four measurements on one daemon without a cache, every cell new:
  denoising alone    clients that keep the queue filled: tokens a second, each pass counted
                     (scdiva_engine_tokens_total), are the engine's step rate
  embeddings alone   one client, one cell at a time, with pauses: p50 and p99
  both               the same at once: tokens a second against the step rate, p99 against idle
  leaving            a client that leaves in the middle of a request: how many tokens are computed
                     of it afterwards, in passes of its cells
Figures of a machine that others use at the same time mean nothing.
"""
import argparse
import json
import threading
import time

import common
import harness
import numpy as np
from harness import Daemon


class Load(threading.Thread):
    """Posts new bodies one after the other until told to stop; the seconds that each took."""

    def __init__(self, daemon, path, body_of, pause=0.0):
        super().__init__(daemon=True)
        self.daemon_process, self.path, self.body_of, self.pause = daemon, path, body_of, pause
        self.took, self.failed, self.stopping, self.count = [], 0, False, 0

    def run(self):
        while not self.stopping:
            start = time.monotonic()
            answer = self.daemon_process.post(self.path, self.body_of(self.count))
            self.count += 1
            if answer.status == 200:
                self.took.append(time.monotonic() - start)
            else:
                self.failed += 1
            time.sleep(self.pause)

    def finish(self):
        self.stopping = True
        self.join()


def cell(names, rng, tokens):
    return {"genes": [names[g] for g in rng.choice(len(names), tokens, replace=False)],
            "values": rng.integers(1, 40, tokens).tolist()}


def bodies(names, tokens, seed, n_cells=1, **fields):
    def body(i):
        rng = np.random.default_rng([seed, i])
        return {"cells": [cell(names, rng, tokens) for _ in range(n_cells)], **fields}
    return body


def measure(daemon, loads, seconds):
    """Tokens a second while these run"""
    for load in loads:
        load.start()
    time.sleep(min(2, seconds / 4))
    before, start = daemon.metric("scdiva_engine_tokens_total"), time.monotonic()
    time.sleep(seconds)
    rate = (daemon.metric("scdiva_engine_tokens_total") - before) / (time.monotonic() - start)
    for load in loads:
        load.finish()
    return rate


def leave(daemon, names, args):
    """Tokens computed after a client left, in passes of all its cells"""
    body = json.dumps(bodies(names, args.tokens, 7, 4, mask={"fraction": 0.5},
                             steps=500)(0)).encode()
    with daemon.socket() as s:
        s.sendall(b"POST /v1/denoise HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        started = daemon.metric("scdiva_engine_tokens_total")
        daemon.wait_metric("scdiva_engine_tokens_total",
                           lambda v: v > started + 8 * args.tokens)
    daemon.wait_metric("scdiva_queue_tokens", lambda v: v == 0)
    after = daemon.metric("scdiva_engine_tokens_total")
    time.sleep(0.5)
    return (daemon.metric("scdiva_engine_tokens_total") - after) / (4 * args.tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--model", help="default: the official size, random weights")
    args = parser.parse_args()
    common.head("embeddings beside %d-step denoising, cells of %d genes" % (args.steps,
                                                                            args.tokens))
    path = args.model or harness.official_model()
    with Daemon(path, flags=["--cache-mb", "0"]) as daemon:
        names = list(common.reference.Genes(path + "/genes.tsv").symbol)

        def denoisers(seed):
            return [Load(daemon, "/v1/denoise",
                         bodies(names, args.tokens, seed + c, 8, mask={"fraction": 0.5},
                                steps=args.steps)) for c in range(args.clients)]

        def embedder(seed):
            return Load(daemon, "/v1/embeddings", bodies(names, args.tokens, seed), 0.05)

        alone = measure(daemon, denoisers(100), args.seconds)
        idle = embedder(200)
        measure(daemon, [idle], args.seconds)
        busy, others = embedder(300), denoisers(400)
        both = measure(daemon, [busy, *others], args.seconds)
        common.row("denoising alone", "%.0f tokens/s" % alone)
        common.row("both", "%.0f tokens/s, %.1f %% of it" % (both, 100 * both / alone))
        for name, load in (("embeddings, idle", idle), ("embeddings, beside it", busy)):
            common.row(name, "p50 %.1f ms, p99 %.1f ms, n=%d" % (
                1e3 * common.percentile(load.took, 50), 1e3 * common.percentile(load.took, 99),
                len(load.took)))
        common.row("p99 beside / idle", "%.2f" % (common.percentile(busy.took, 99) /
                                                  common.percentile(idle.took, 99)))
        common.row("refused", "%d" % sum(x.failed for x in [idle, busy, *others]))
        common.row("after a client left", "%.2f passes of its cells" % leave(daemon, names, args))


if __name__ == "__main__":
    main()
