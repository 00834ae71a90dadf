#!/usr/bin/env python3
"""overload.py - the daemon at three times the load it can carry, from a generator of its own.

First the peak: CLIENTS connections that send the next request when the last was answered. Then the
same generator, paced: one request every 1 / (3 x peak) seconds whatever comes back, for --seconds.
Each request is one cell that no one sent before; the cache is off. A second process asks /livez
twenty times a second. Generator: Python asyncio over raw sockets, a process of its own; its
own ceiling against /livez is printed, so that one sees whether it or the daemon was the limit.
"""
import argparse
import asyncio
import json
import multiprocessing
import time

import common
from common import harness, percentile, row

FLAGS = ("--cache-mb", "0")


# ---- generator -----------------------------------------------------------------------------------

def http_post(cell):
    body = json.dumps({"cells": [cell], "encoding": "base64"}).encode()
    return (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)) + body


async def exchange(reader, writer, request):
    """(status, Retry-After or None) of one request on an open connection"""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    await reader.readexactly(int(fields.get(b"content-length", 0)))
    after = fields.get(b"retry-after")
    return int(head[9:12]), int(after) if after else None


class Generator:
    """Keeps idle connections; every request takes one or opens one."""

    def __init__(self, port):
        self.port, self.idle, self.results = port, [], []

    async def send(self, request, due=None):
        start = due or time.monotonic()
        try:
            reader, writer = (self.idle.pop() if self.idle else
                              await asyncio.open_connection("127.0.0.1", self.port))
            status, after = await exchange(reader, writer, request)
            self.idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError) as error:
            status, after = type(error).__name__, None
        self.results.append((start, time.monotonic() - start, status, after))

    async def closed_loop(self, requests, clients, seconds):
        end, queue = time.monotonic() + seconds, iter(requests)

        async def client():
            while time.monotonic() < end and (request := next(queue, None)):
                await self.send(request)
        await asyncio.gather(*(client() for _ in range(clients)))

    async def paced(self, requests, rate, seconds):
        start, tasks = time.monotonic(), []
        for i in range(int(rate * seconds)):
            due = start + i / rate
            await asyncio.sleep(max(0, due - time.monotonic()))
            tasks.append(asyncio.ensure_future(self.send(requests[i % len(requests)], due)))
        await asyncio.gather(*tasks)


def generate(pipe, port, kind, requests, *args):
    generator = Generator(port)
    asyncio.run(getattr(generator, kind)(requests, *args))
    pipe.send(generator.results)


def run_generator(port, kind, requests, *args):
    """Start it as a process; a function that waits for its results."""
    ours, theirs = multiprocessing.Pipe(False)
    process = multiprocessing.Process(target=generate, args=(theirs, port, kind, requests, *args))
    process.start()

    def wait():
        results = ours.recv()
        process.join()
        return results
    return wait


# ---- the run -------------------------------------------------------------------------------------

def goodput(results, start, seconds):
    """Answers of status 200 per second that came within the window"""
    return sum(s == 200 and at + took <= start + seconds for at, took, s, _ in results) / seconds


def probe_and_watch(d, seconds):
    """(/livez seconds, [(second, VmRSS kB)]) while a load runs"""
    wait = run_generator(d.port, "paced", [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], 20, seconds)
    start, memory = time.monotonic(), []
    while time.monotonic() < start + seconds:
        memory.append((time.monotonic() - start, d.status_kb("VmRSS")))
        time.sleep(min(1, seconds / 10))
    return [took for _, took, status, _ in wait() if status == 200], memory


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--genes", type=int, default=300, help="genes of a cell")
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--clients", type=int, default=32, help="connections of the closed loop")
    p.add_argument("--factor", type=float, default=3)
    p.add_argument("--max-queue-tokens", default="30000")
    a = p.parse_args()
    common.head(f"overload: one-cell requests of {a.genes} genes, official size, {a.factor} x peak")
    flags = (*FLAGS, "--max-queue-tokens", a.max_queue_tokens)
    with harness.Daemon(harness.official_model(), flags=flags) as d:
        requests = [http_post(c) for c in common.official_cells(3000, a.genes)]
        livez = [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"] * 1_000_000
        ceiling = len(run_generator(d.port, "closed_loop", livez, 4, 3)()) / 3
        row("generator alone", f"{ceiling:.0f} requests/s against /livez")
        warm = max(10, a.seconds // 3)
        start = time.monotonic()
        results = run_generator(d.port, "closed_loop", requests, a.clients, warm)()
        peak = goodput(results, start, warm)
        row("peak, closed loop", f"{peak:.1f} cells/s with {a.clients} clients over {warm} s")

        rate = a.factor * peak
        rss, start = d.status_kb("VmRSS"), time.monotonic()
        wait = run_generator(d.port, "paced", requests, rate, a.seconds)
        probes, memory = probe_and_watch(d, a.seconds)
        report(wait(), start, a.seconds, rate, peak)
        row("/livez meanwhile", f"p50 {1e3 * percentile(probes, 50):.2f} ms, p99 "
            f"{1e3 * percentile(probes, 99):.2f} ms, max {1e3 * max(probes):.2f} ms, "
            f"n={len(probes)}")
        row("VmRSS", f"{rss / 1024:.0f} MiB before; " + ", ".join(
            f"{kb / 1024:.0f} at {at:.0f} s" for at, kb in memory[::max(1, len(memory) // 6)])
            + f"; {d.status_kb('VmRSS') / 1024:.0f} MiB after")


def report(results, start, seconds, rate, peak):
    good = goodput(results, start, seconds)
    statuses = {}
    for _, _, status, _ in results:
        statuses[status] = statuses.get(status, 0) + 1
    ok = [took for _, took, s, _ in results if s == 200]
    refused = [took for _, took, s, _ in results if s == 429]
    after = [r for _, _, s, r in results if s == 429 and r is not None]
    row("offered", f"{rate:.1f} requests/s for {seconds} s, {len(results)} sent")
    row("goodput", f"{good:.1f} cells/s, {100 * good / peak:.0f} % of the peak")
    row("answers", ", ".join(f"{k}: {n} ({100 * n / len(results):.0f} %)"
                             for k, n in sorted(statuses.items(), key=str)))
    row("200 took", f"p50 {percentile(ok, 50):.2f} s, p99 {percentile(ok, 99):.2f} s")
    row("429 took", f"p50 {1e3 * percentile(refused, 50):.2f} ms, "
        f"p99 {1e3 * percentile(refused, 99):.2f} ms")
    row("Retry-After", f"{min(after, default=0)} to {max(after, default=0)} s, median "
        f"{percentile(after, 50):.0f} s, on {len(after)} of {len(refused)}")


if __name__ == "__main__":
    main()
