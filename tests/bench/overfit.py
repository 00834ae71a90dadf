#!/usr/bin/env python3
"""overfit.py - 200 cells learned by heart: the losses of pre-training must come near zero.

Genes and counts are random, so there is nothing to learn but the cells themselves. Latent pooling
is `clean`: with everything hidden, z alone says which cell it is. About two minutes on two idle
cores.
"""
import argparse
import csv
import os
import subprocess
import tempfile
import time

import numpy as np

import common
import train_throughput


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=2500)
    a = p.parse_args()
    rng = np.random.default_rng(7)
    columns = [np.sort(rng.choice(60, 12, replace=False)) for _ in range(200)]
    common.head("200 cells of 12 genes by heart: 2 x 128, visited 50 at a time")
    with tempfile.TemporaryDirectory() as folder:
        data, out = os.path.join(folder, "cells.h5ad"), os.path.join(folder, "out")
        train_throughput.write_h5ad(data, columns, rng.integers(1, 20, 2400), 60)
        start = time.monotonic()
        subprocess.run(common.harness.scdiva_train() + [
            "pretrain", "--data", data, "--out", out, "--held-out", "0", "--pooling", "clean",
            "--depth-min", "1", "--hidden", "128", "--layers", "2", "--heads", "4", "--ffn", "256",
            "--batch", "50", "--micro-rows", "2048", "--lr", "0.002", "--decay", "0", "--beta2",
            "0.95", "--steps", str(a.steps)], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        took = time.monotonic() - start
        with open(os.path.join(out, "train.csv"), encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
    for row in rows[:-1:max(1, len(rows) // 8)] + rows[-1:]:
        common.row(f"step {row['step']}", f"cross-entropy {float(row['gene_loss']):.5f}, value MSE "
                   f"{float(row['value_loss']):.6f}, genes named {float(row['accuracy']):.4f}")
    common.row("took", f"{took:.0f} s")


if __name__ == "__main__":
    main()
