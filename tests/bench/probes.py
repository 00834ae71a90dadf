#!/usr/bin/env python3
"""probes.py - how long /livez takes while bodies that are much work are sent.

Four connections send one kind of body after another as fast as they are answered; /livez is asked
on one connection of its own. The kinds are those whose size says little about their work: gzip of
much JSON, thousands of cells in a few kB, names to resolve, and one of plain many cells.
"""
import argparse
import gzip
import http.client
import json
import multiprocessing
import time

import common
from common import harness, percentile, row


def cells_as_matrix(gene, n):
    """n equal cells of one gene, in about 9 bytes each"""
    return {"genes": [gene], "encoding": "float",
            "matrix": {"format": "csr", "indptr": list(range(n + 1)), "indices": [0] * n,
                       "data": [1] * n}}


def kinds():
    """{name: (path, body, headers)}"""
    names = common.official_symbols()
    compact = {"separators": (",", ":")}
    many = json.dumps({"cells": common.official_cells(40, 1200), "encoding": "base64"})
    tiny = json.dumps(cells_as_matrix(names[0], 4800), **compact)
    padded = json.dumps({"cells": [{"genes": names[:1], "values": [1]}]}) + " " * (30 << 20)
    genes = json.dumps({"genes": [names[i % len(names)] for i in range(200000)]}, **compact)
    few = json.dumps({"genes": names[:1500]}, **compact)
    packed = {"Content-Encoding": "gzip"}
    return {
        "nothing else": None,
        "40 cells, cached": ("/v1/embeddings", many.encode(), {}),
        "4,800 tiny cells": ("/v1/embeddings", tiny.encode(), {}),
        "gzip of 30 MiB": ("/v1/embeddings", gzip.compress(padded.encode(), 9), packed),
        "gzip of 40 cells": ("/v1/embeddings", gzip.compress(many.encode(), 6), packed),
        "200,000 genes": ("/v1/genes", genes.encode(), {}),
        "1,500 genes": ("/v1/genes", few.encode(), {}),
    }


def sender(port, path, body, headers, until, answers):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    n = bad = 0
    while time.monotonic() < until:
        c.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = c.getresponse()
        answer.read()
        n += 1
        bad += answer.status != 200
    answers.put((n, bad))


def measure(d, kind, seconds, senders):
    """(milliseconds of each /livez, answers, those that were not 200)"""
    until = time.monotonic() + seconds
    answers = multiprocessing.Queue()
    procs = [multiprocessing.Process(target=sender, args=(d.port, *kind, until, answers))
             for _ in range(senders if kind else 0)]
    for p in procs:
        p.start()
    took = []
    c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=60)
    while time.monotonic() < until:
        start = time.perf_counter()
        c.request("GET", "/livez")
        c.getresponse().read()
        took.append(1e3 * (time.perf_counter() - start))
        time.sleep(0.01)
    sums = [sum(x) for x in zip(*(answers.get() for _ in procs))] or [0, 0]
    for p in procs:
        p.join()
    return took, *sums


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("--senders", type=int, default=4)
    a = p.parse_args()
    common.head(f"/livez beside {a.senders} connections that send much work, {a.seconds} s each")
    with harness.Daemon(harness.official_model()) as d:
        for name, kind in kinds().items():
            if kind:  # once before, so that its cells are in the cache
                d.request("POST", kind[0], kind[1],
                          {"Content-Type": "application/json", **kind[2]})
            took, n, bad = measure(d, kind, a.seconds, a.senders)
            row(name, f"p50 {percentile(took, 50):6.2f}  p99 {percentile(took, 99):7.2f}  "
                      f"max {max(took):7.2f} ms of {len(took)}; {n} answers, {bad} not 200")


if __name__ == "__main__":
    main()
