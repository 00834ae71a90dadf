"""make demo: the daemon on the bundled model, real blood cells in, their embeddings out.

The cells are forty of scanpy's pbmc68k_reduced (10x Genomics, CC BY 4.0; see tests/fixtures). Until
a trained model is bundled, the model is made here from a seed: its weights are random.
"""
import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np

FIXTURES = "tests/fixtures"
MODEL = ["--hidden", "128", "--dim", "128", "--layers", "4", "--heads", "4", "--ffn", "512",
         "--seed", "1"]


def start(build, model, data):
    """The running daemon and its URL, once it is ready. It sees no SCDIVA_ variables: those of the
    tests would be options of its own (SCDIVA_DATA), or unknown ones, which it refuses."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SCDIVA_")}
    daemon = subprocess.Popen([os.path.join(build, "scdivad"), "--model", model, "--data", data,
                               "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True,
                              env=env)
    for line in daemon.stderr:
        ready = re.search(r" ready .*url=(\S+)", line)
        if ready:
            return daemon, ready.group(1)
        if " ERROR " in line:
            sys.exit("the daemon did not start: " + line)
    sys.exit("the daemon ended at once")


def embed(url, body):
    """(answer, milliseconds) of POST /v1/embeddings."""
    request = urllib.request.Request(url + "/v1/embeddings", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    begin = time.monotonic()
    with urllib.request.urlopen(request) as response:
        return json.load(response), 1e3 * (time.monotonic() - begin)


def vector(item):
    return np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")


def summarise(data, labels):
    """One line a cell, then how alike cells of one type are compared with cells of two."""
    vectors = np.stack([vector(item) for item in data])
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    print("%-18s %-30s %6s %7s  %s" % ("cell", "type in the data set", "genes", "norm",
                                       "nearest other cell"))
    truth = [labels[item["id"]] for item in data]
    nearest = np.argmax(cosine - 2 * np.eye(len(data)), axis=1)
    for i, item in enumerate(data):
        print("%-18s %-30s %6d %7.2f  %s" % (item["id"], truth[i], item["tokens"],
                                             np.linalg.norm(vectors[i]), truth[nearest[i]]))
    same = np.array([[a == b for a in truth] for b in truth]) & ~np.eye(len(data), dtype=bool)
    other = ~same & ~np.eye(len(data), dtype=bool)
    print("\nmean cosine of centred embeddings: %.3f within a type, %.3f between types" %
          (cosine[same].mean(), cosine[other].mean()))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args = args.parse_args()
    body = json.load(open(os.path.join(FIXTURES, "pbmc68k_demo.json"), encoding="utf-8"))
    body["encoding"] = "base64"
    rows = open(os.path.join(FIXTURES, "pbmc68k_demo_labels.tsv"), encoding="utf-8").read()
    labels = dict(line.split("\t")[:2] for line in rows.strip().split("\n")[1:])

    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(args.build, "models", "demo")
        os.makedirs(os.path.dirname(model), exist_ok=True)
        subprocess.run([os.path.join(args.build, "scdiva-train"), "init", "--force", "--out", model,
                        "--genes", os.path.join(FIXTURES, "pbmc68k_genes.tsv"), *MODEL],
                       check=True, stdout=subprocess.DEVNULL)
        daemon, url = start(args.build, model, os.path.join(scratch, "data"))
        try:
            answer, first_ms = embed(url, body)
            again, second_ms = embed(url, body)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate()

    summarise(answer["data"], labels)
    usage = answer["usage"]
    print("\n%d cells, %d gene tokens: %.1f ms computed, %.1f ms from the cache, same bytes: %s" %
          (usage["cells"], usage["tokens"], first_ms, second_ms,
           [i["embedding"] for i in answer["data"]] == [i["embedding"] for i in again["data"]]))
    for warning in answer["warnings"]:
        print("warning from the server: %s" % warning["detail"])
    print("""
THE WEIGHTS ARE RANDOM: no trained model is bundled yet. What you saw is the whole way through the
server with real cells; the embeddings themselves mean nothing.

Go on with your own:
    {build}/scdivad --model {model}
    curl -s http://127.0.0.1:8080/v1/embeddings -H 'Content-Type: application/json' \\
         -d '{{"cells": [{{"id": "c1", "genes": ["CD3D", "LYZ"], "values": [2, 5]}}]}}'
The cells: 10x Genomics, "Fresh 68k PBMCs" (CC BY 4.0), as packaged by scanpy (BSD-3).""".format(
        build=args.build, model=model))


if __name__ == "__main__":
    main()
