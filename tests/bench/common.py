"""common.py - what every benchmark here prints and shares: machine, daemon, cells, medians.

Benchmarks print; they never pass or fail. Binaries, scratch folders and models come from the
end-to-end harness (SCDIVAD names another daemon).
"""
import os
import platform
import re
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

import numpy as np  # noqa: E402  (the path comes first)

import harness  # noqa: E402
import reference  # noqa: E402


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        name = re.search(r"model name\s*: (.*)", f.read())
    bf16 = "bf16 in hardware" if harness.cpu_has("avx512_bf16") else "no bf16"
    return (f"{name[1] if name else platform.machine()}, {os.cpu_count()} cores, {bf16}, "
            f"Linux {platform.release()}, Python {platform.python_version()}")


def head(title):
    print(f"{title}\n  machine  {machine()}\n  load     {os.getloadavg()[0]:.2f} before the run",
          flush=True)


def row(name, text):
    print(f"  {name:<24} {text}", flush=True)


def spread(values, unit="", digits=3):
    """median (lowest to highest, of n)"""
    if not values:
        return "none"
    return (f"{statistics.median(values):.{digits}f}{unit} "
            f"({min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)})")


def percentile(values, q):
    return float(np.percentile(values, q)) if len(values) else float("nan")


def official_symbols():
    genes = reference.Genes(os.path.join(harness.official_model(), "genes.tsv"))
    return list(genes.symbol)


def official_cells(n, length, seed=1):
    """n different cells of `length` genes each, whole counts"""
    names, rng = official_symbols(), np.random.default_rng(seed)
    return [{"genes": [names[g] for g in rng.choice(len(names), length, replace=False)],
             "values": rng.integers(1, 40, length).tolist()} for _ in range(n)]
