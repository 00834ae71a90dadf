#!/usr/bin/env python3
"""startup.py [RUNS] - exec to ready, and memory, official size, bf16 (where there is) and fp32.

Ready: /readyz answers 200. Memory: VmRSS of /proc/PID/status, mapped pages included, once ready and
after a batch of the longest cells; VmHWM is the most it ever was.
"""
import sys
import time

import common
from common import harness, row, spread


def one_start(precision, body):
    """seconds to the address, seconds to ready, kB ready, kB after work, kB at most"""
    begin = time.monotonic()
    with harness.Daemon(harness.official_model(), ready=False,
                        flags=("--precision", precision)) as d:
        address = time.monotonic() - begin
        d.wait_ready()
        ready, idle = time.monotonic() - begin, d.status_kb("VmRSS")
        d.embed(body)
        return address, ready, idle, d.status_kb("VmRSS"), d.status_kb("VmHWM")


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    common.head("start to ready, official size (page cache warm)")
    body = {"cells": common.official_cells(16, 1200), "encoding": "base64"}
    for precision in (["bf16"] if harness.cpu_has("avx512_bf16") else []) + ["fp32"]:
        results = [one_start(precision, body) for _ in range(runs)]
        address, ready, idle, busy, most = zip(*results)
        row(f"{precision}: listening", spread(address, " s"))
        row(f"{precision}: ready", spread(ready, " s"))
        for name, values in (("ready", idle), ("after 16 x 1200", busy), ("most", most)):
            row(f"{precision}: VmRSS {name}", spread([kb / 1024 for kb in values], " MiB", 0))


if __name__ == "__main__":
    main()
