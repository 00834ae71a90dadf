#!/usr/bin/env python3
"""memory.py - what large bodies at once cost in resident memory, while they are there and after.

--bodies bodies of about --mb MiB are sent at once, in the form that is densest in names and values,
on a small model whose cells take no time. Their own bytes are the yardstick.
"""
import argparse
import threading
import time

import common
from common import harness, row


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bodies", type=int, default=4)
    p.add_argument("--mb", type=int, default=59)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    common.head(f"{a.bodies} bodies of {a.mb} MiB at once")
    gene = harness.demo_body()["genes"][0]
    one = b'{"genes":[' + b",".join([b'"%s"' % gene.encode()] * 1000) + \
          b'],"values":[' + b",".join([b"1"] * 1000) + b"]}"
    body = b'{"cells":[' + b",".join([one] * ((a.mb << 20) // (len(one) + 1))) + b"]}"
    with harness.Daemon(harness.small_model(), flags=("--cache-mb", "0")) as d:
        row("before", f"VmRSS {d.status_kb('VmRSS') / 1024:.0f} MiB")
        for _ in range(a.rounds):
            statuses = []
            clients = [threading.Thread(
                target=lambda: statuses.append(d.post("/v1/embeddings", body).status))
                for _ in range(a.bodies)]
            for c in clients:
                c.start()
            for c in clients:
                c.join()
            time.sleep(0.2)
            row("bodies and peak", f"{a.bodies * len(body) / 2**20:.0f} MiB, VmHWM "
                                   f"{d.status_kb('VmHWM') / 1024:.0f} MiB, answers {statuses}")
            row("after", f"VmRSS {d.status_kb('VmRSS') / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
