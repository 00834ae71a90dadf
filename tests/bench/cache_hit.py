#!/usr/bin/env python3
"""cache_hit.py - answers per second when the cache has them all, by wrk on the same cores.

Each request is one cell of --genes genes; wrk's script walks through --cells different ones, all
of them cached before. 16 connections for the rate, 2 for the latency.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import common
from common import harness, row, spread

SCRIPT = """
local bodies, i = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
    i = i %% #bodies + 1
    return wrk.format(nil, "/v1/embeddings", nil, bodies[i])
end
function response(status) if status ~= 200 then bad = (bad or 0) + 1 end end
"""


def wrk(port, script, connections, seconds):
    """(requests/s, {percentile: ms}, errors)"""
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script,
         f"http://127.0.0.1:{port}"], check=True, capture_output=True, text=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([0-9.]+)", out)[1])
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latency = {p: float(v) * scale[u] for p, v, u in
               re.findall(r"(50|75|90|99)%\s+([0-9.]+)(us|ms|s)", out)}
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return rate, latency, int(errors[1]) if errors else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--genes", type=int, default=300)
    p.add_argument("--cells", type=int, default=100)
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--encoding", default="base64")
    a = p.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed (apt-get install wrk)")
    common.head(f"cache hits: one cell of {a.genes} genes, 512 floats as {a.encoding}")
    bodies = [{"cells": [c], "encoding": a.encoding}
              for c in common.official_cells(a.cells, a.genes)]
    lines, script = (os.path.join(harness.scratch(), n) for n in ("bodies", "hit.lua"))
    with open(lines, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(b, separators=(",", ":")) + "\n" for b in bodies)
    with open(script, "w", encoding="utf-8") as f:
        f.write(SCRIPT % lines)
    with harness.Daemon(harness.official_model()) as d:
        for body in bodies:
            d.embed(body)
        before = d.metric("scdiva_engine_cells_total")
        for connections in (16, 2):
            runs = [wrk(d.port, script, connections, a.seconds) for _ in range(a.runs)]
            rates, latencies, errors = zip(*runs)
            row(f"{connections} connections", spread(rates, " requests/s", 0))
            row("", "; ".join(f"p{q} {spread([l[q] for l in latencies], ' ms')}"
                              for q in ("50", "99")))
            if sum(errors):
                row("", f"{sum(errors)} answers were not 200")
        computed = d.metric("scdiva_engine_cells_total") - before
        row("computed meanwhile", f"{computed:.0f} cells")


if __name__ == "__main__":
    main()
