"""make demo: the daemon on the bundled model, real blood cells in, their types and embeddings out.

The cells are forty of scanpy's pbmc68k_reduced (10x Genomics, CC BY 4.0; see tests/fixtures); the
model was not trained on them.
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
MODEL = "config/models/pbmc"
# The data set's own types, in the model's words. Its one class for monocytes holds both kinds.
SAME = {"CD4+/CD25 T Reg": ["CD4 T"], "CD4+/CD45RA+/CD25- Naive T": ["CD4 T"],
        "CD4+/CD45RO+ Memory": ["CD4 T"], "CD8+ Cytotoxic T": ["CD8 T"],
        "CD8+/CD45RA+ Naive Cytotoxic": ["CD8 T"], "CD14+ Monocyte": ["CD14 monocyte",
                                                                      "FCGR3A monocyte"],
        "CD19+ B": ["B"], "CD34+": ["progenitor"], "CD56+ NK": ["NK"], "Dendritic": ["dendritic"]}


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


def post(url, route, body):
    """(answer, milliseconds) of a POST."""
    request = urllib.request.Request(url + route, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    begin = time.monotonic()
    with urllib.request.urlopen(request) as response:
        return json.load(response), 1e3 * (time.monotonic() - begin)


def vector(item):
    return np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")


def print_annotations(data, truth):
    """One line a cell: what its authors say, what the model says, and how sure it is."""
    print("%-18s %-30s %-16s %11s %s" % ("cell", "type in the data set", "annotation",
                                         "probability", ""))
    right = covered = covered_right = 0
    for item in data:
        same = item["label"] in SAME[truth[item["id"]]]
        note = "" if same else "differs"
        right += same
        if item["unknown"]:
            note = (note + ", below the threshold").lstrip(", ")
        else:
            covered += 1
            covered_right += same
        print("%-18s %-30s %-16s %11.3f %s" % (item["id"], truth[item["id"]], item["label"],
                                               item["probability"], note))
    print("\n%d of %d agree with the data set's own labels (which are noisy: CD4 and CD8 above "
          "all);\nabove the head's threshold: %d of %d" %
          (right, len(data), covered_right, covered))


def print_embeddings(data, truth):
    """How alike the embeddings of one type are, compared with those of two."""
    vectors = np.stack([vector(item) for item in data])
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    types = [SAME[truth[item["id"]]][0] for item in data]
    same = np.array([[a == b for a in types] for b in types]) & ~np.eye(len(data), dtype=bool)
    other = ~same & ~np.eye(len(data), dtype=bool)
    nearest = np.argmax(cosine - 2 * np.eye(len(data)), axis=1)
    print("\nembeddings: %d x %d; mean cosine (centred) %.3f within a type, %.3f between types;\n"
          "the nearest other cell is of the same type for %d of %d" %
          (*vectors.shape, cosine[same].mean(), cosine[other].mean(),
           sum(types[i] == types[j] for i, j in enumerate(nearest)), len(data)))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args = args.parse_args()
    body = json.load(open(os.path.join(FIXTURES, "pbmc68k_demo.json"), encoding="utf-8"))
    rows = open(os.path.join(FIXTURES, "pbmc68k_demo_labels.tsv"), encoding="utf-8").read()
    truth = dict(line.split("\t")[:2] for line in rows.strip().split("\n")[1:])

    with tempfile.TemporaryDirectory() as scratch:
        daemon, url = start(args.build, MODEL, os.path.join(scratch, "data"))
        try:
            answer, first_ms = post(url, "/v1/annotations", body)
            again, second_ms = post(url, "/v1/annotations", body)
            embeddings, _ = post(url, "/v1/embeddings", {**body, "encoding": "base64"})
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate()

    print_annotations(answer["data"], truth)
    print_embeddings(embeddings["data"], truth)
    usage = answer["usage"]
    print("%d cells, %d gene tokens: %.1f ms computed, %.1f ms from the cache, same answer: %s" %
          (usage["cells"], usage["tokens"], first_ms, second_ms,
           [i["top"] for i in answer["data"]] == [i["top"] for i in again["data"]]))
    for warning in answer["warnings"]:
        print("warning from the server: %s" % warning["detail"])
    print("""
Go on with your own:
    {build}/scdivad --model {model}
    curl -s http://127.0.0.1:8080/v1/annotations -H 'Content-Type: application/json' \\
         -d '{{"cells": [{{"id": "c1", "genes": ["CD3D", "IL7R", "LTB"], "values": [3, 5, 4]}}]}}'
or with a file of cells in a browser: http://127.0.0.1:8080/
What the model knows and does not know: {model}/card.md
The cells: 10x Genomics, "Fresh 68k PBMCs" (CC BY 4.0), as packaged by scanpy (BSD-3).""".format(
        build=args.build, model=MODEL))


if __name__ == "__main__":
    main()
