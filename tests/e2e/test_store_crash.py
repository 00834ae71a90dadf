"""test_store_crash.py - kill -9 and damaged files: the cache may forget, it never lies."""
import glob
import os
import random
import sqlite3
import threading
import time

import numpy as np

import harness
from harness import Daemon

ROUNDS = int(os.environ.get("SCDIVA_CRASH_ROUNDS", "10"))


def make_cells(n):
    rng, genes = np.random.default_rng(5), harness.demo_body()["genes"]
    cells = []
    for i in range(n):
        chosen = rng.choice(len(genes), rng.integers(1, 60), replace=False)
        cells.append({"id": str(i), "genes": [genes[g] for g in chosen],
                      "values": rng.integers(1, 50, len(chosen)).tolist()})
    return cells


def request(cells):
    return {"cells": cells, "encoding": "base64"}


def truth(cells):
    """{id: bytes}, from a daemon without a cache"""
    with Daemon(harness.small_model(), flags=("--cache-mb", "0")) as d:
        rows = d.embed(request(cells)).embeddings()
    return {c["id"]: row.tobytes() for c, row in zip(cells, rows)}


def check_rows(answer, want):
    """Every row is right; how many came from the cache"""
    items = answer.json()["data"]
    for item, row in zip(items, answer.embeddings()):
        assert row.tobytes() == want[item["id"]], f"wrong bytes for {item['id']} ({item['cache']})"
    return sum(item["cache"] == "hit" for item in items)


def load_until_killed(d, cells, want, rng, seconds):
    """Random batches from four clients; SIGKILL in the middle of it."""
    failures = []

    def client(seed):
        local = random.Random(seed)
        try:
            while True:
                check_rows(d.embed(request(local.sample(cells, 25))), want)
        except (OSError, harness.http.client.HTTPException):
            pass  # killed
        except Exception as error:  # comes back to the thread that asserts
            failures.append(error)

    clients = [threading.Thread(target=client, args=(rng.random(),)) for _ in range(4)]
    for c in clients:
        c.start()
    time.sleep(seconds)
    d.kill()
    for c in clients:
        c.join()
    assert not failures, failures[0]


def crash_rounds(rounds, report=None):
    cells, data, rng, hits = make_cells(1500), harness.scratch(), random.Random(6), 0
    want = truth(cells)
    for i in range(rounds):
        d = Daemon(harness.small_model(), data=data)
        try:
            found = check_rows(d.embed(request(cells)) if i % 5 == 4 else
                               d.embed(request(rng.sample(cells, 100))), want)
            hits += found
            load_until_killed(d, cells, want, rng, rng.uniform(0.0, 0.5) * harness.SLOW)
        finally:
            d.kill()
        if report:
            report(i, found)
    with Daemon(harness.small_model(), data=data) as d:
        check_rows(d.embed(request(cells)), want)
    assert hits > 0, "nothing survived any of the kills"
    return hits


def test_after_kill_9_under_load_no_byte_is_wrong():
    crash_rounds(ROUNDS)


def test_the_cache_stays_within_its_bound_and_keeps_the_recent():
    cells, data = make_cells(12_000), harness.scratch()
    with Daemon(harness.small_model(), data=data, flags=("--cache-mb", "1")) as d:
        for i in range(0, len(cells), 1000):
            d.embed(request(cells[i:i + 1000]))
        recent = d.embed(request(cells[-100:])).json()["usage"]["cached"]
    size = sum(os.path.getsize(p) for p in glob.glob(os.path.join(data, "*")))
    assert size < 4 * 1024 * 1024, f"{size} bytes where 1 MiB is allowed"
    assert recent > 50, f"{recent} of the last 100 cells were kept"


# ---- damage --------------------------------------------------------------------------------------

def damaged(change):
    """Fill a cache, stop, damage the files, start again: right answers, and it still caches."""
    cells, data = make_cells(60), harness.scratch()
    want = truth(cells)
    with Daemon(harness.small_model(), data=data) as d:
        check_rows(d.embed(request(cells)), want)
    change(data)
    with Daemon(harness.small_model(), data=data) as d:
        check_rows(d.embed(request(cells)), want)
        check_rows(d.embed(request(cells)), want)
    with Daemon(harness.small_model(), data=data) as d:
        assert check_rows(d.embed(request(cells)), want) == 60, "it does not cache any more"


def database(data):
    return max(glob.glob(os.path.join(data, "*.db")), key=os.path.getsize)


def test_flipped_bytes_anywhere_in_the_cache_are_never_served():
    rng = random.Random(7)

    def flip(data):
        with open(database(data), "r+b") as f:
            size = f.seek(0, 2)
            for _ in range(40):
                f.seek(rng.randrange(size))
                f.write(bytes([rng.randrange(256)]))
    for _ in range(3):
        damaged(flip)


def test_values_changed_behind_its_back_are_never_served():
    def change(data):
        with sqlite3.connect(database(data)) as db:
            tables = [r[0] for r in db.execute("select name from sqlite_master where type='table'")]
            for table in tables:
                columns = db.execute(f"pragma table_info({table})").fetchall()
                for _, name, kind, _, _, key in columns:
                    if kind.upper() == "BLOB" and not key:
                        db.execute(f"update {table} set {name} = randomblob(length({name})) "
                                   f"where length({name}) > 40")
        db.close()
    damaged(change)


def test_a_truncated_an_empty_and_a_foreign_cache_are_rebuilt():
    def truncate(data):
        os.truncate(database(data), os.path.getsize(database(data)) // 2)

    def empty(data):
        os.truncate(database(data), 0)

    def foreign(data):
        with open(database(data), "wb") as f:
            f.write(b"this is no database" * 1000)

    for change in (truncate, empty, foreign):
        damaged(change)


def test_a_cache_that_vanishes_while_in_use_is_only_a_miss():
    cells, data = make_cells(60), harness.scratch()
    want = truth(cells)
    with Daemon(harness.small_model(), data=data) as d:
        check_rows(d.embed(request(cells)), want)
        for path in glob.glob(os.path.join(data, "*.db*")):
            os.remove(path)
        check_rows(d.embed(request(cells)), want)
        d.check_alive()
