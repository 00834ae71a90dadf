"""test_overload.py - too much is answered at once and honestly; small work passes large work."""
import threading
import time

import harness
from harness import Daemon, check_problem

LENGTH = 1200                  # genes of a slow cell
ROOM = ("--max-queue-tokens", str(6 * LENGTH + LENGTH // 2))  # six cells and a half
ONE_SLOW_CORE = ("--precision", "fp32", "--threads", "1", "--max-batch-tokens", str(LENGTH + 1))


def slow_daemon(*flags):
    return Daemon(harness.slow_model(), flags=(*ONE_SLOW_CORE, *flags))


def body(cells, **fields):
    return {"cells": cells, "encoding": "base64", **fields}


class InBackground(threading.Thread):
    """A POST /v1/embeddings of its own; answer and seconds after join()."""

    def __init__(self, d, request):
        super().__init__()
        self.d, self.request, self.answer, self.seconds = d, request, None, None
        self.start()

    def run(self):
        start = time.monotonic()
        self.answer = self.d.post("/v1/embeddings", self.request)
        self.seconds = time.monotonic() - start


def fill(d, n=5):
    """n cells in the queue; the request that waits for them"""
    waiting = InBackground(d, body(harness.slow_cells(n, seed=100)))
    d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens >= (n - 1) * LENGTH)
    return waiting


def test_a_full_queue_answers_429_at_once_with_an_honest_retry_after():
    with slow_daemon(*ROOM) as d:
        d.embed(body(harness.slow_cells(3, seed=50)))  # so that it knows its speed
        waiting = fill(d, 6)
        more = body(harness.slow_cells(5, seed=3))
        start = time.monotonic()
        answer = d.post("/v1/embeddings", more)
        took = time.monotonic() - start
        check_problem(answer, 429, "overloaded")
        assert took < 0.5 * harness.SLOW, f"{took:.2f} s"
        wait = int(answer.headers["Retry-After"])
        assert 1 <= wait <= 60 * harness.SLOW, wait
        assert d.metric("scdiva_rejected_total", reason="queue_full") == 1
        time.sleep(1.5 * wait)  # half as long again, for a busy machine
        again = d.post("/v1/embeddings", more)
        assert again.status == 200, f"Retry-After said {wait} s, then {again}"
        waiting.join()
        assert waiting.answer.status == 200, waiting.answer


def test_admission_is_all_or_nothing():
    with slow_daemon(*ROOM) as d:
        before = d.metric("scdiva_engine_cells_total")
        waiting = fill(d, 5)
        check_problem(d.post("/v1/embeddings", body(harness.slow_cells(6, seed=4))), 429,
                      "overloaded")
        waiting.join()
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens == 0)
        assert d.metric("scdiva_engine_cells_total") - before == 5


def test_more_than_the_queue_can_ever_hold_is_413():
    with slow_daemon(*ROOM) as d:
        answer = d.post("/v1/embeddings", body(harness.slow_cells(8, seed=5)))
        check_problem(answer, 413, "too-large", detail=ROOM[1])
        assert "Retry-After" not in answer.headers, "trying again would not help"


def test_what_the_cache_has_is_answered_though_the_queue_is_full():
    with slow_daemon(*ROOM) as d:
        known = harness.slow_cells(1, seed=6)
        first = d.embed(body(known)).embeddings().tobytes()
        waiting = fill(d, 6)
        answer = d.post("/v1/embeddings", body(known * 1))
        assert answer.status == 200 and answer.embeddings().tobytes() == first, answer
        waiting.join()


def test_a_deadline_is_504_and_the_work_is_dropped():
    with slow_daemon() as d:
        before = d.metric("scdiva_engine_cells_total")
        start = time.monotonic()
        answer = d.post("/v1/embeddings", body(harness.slow_cells(100, seed=7), timeout_ms=400))
        took = time.monotonic() - start
        check_problem(answer, 504, "deadline-exceeded")
        assert 0.4 <= took < 2 * harness.SLOW, f"{took:.2f} s"
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens == 0, timeout=4 * harness.SLOW)
        assert d.metric("scdiva_engine_cells_total") - before < 100
        assert d.metric("scdiva_rejected_total", reason="deadline") == 1


def test_a_deadline_that_is_met_changes_nothing():
    with slow_daemon() as d:
        cells = harness.slow_cells(1, seed=8, length=50)
        answer = d.embed(body(cells, timeout_ms=60_000 * harness.SLOW))
        assert answer.status == 200


def test_one_cell_passes_a_request_of_hundreds():
    with slow_daemon() as d:
        bulk = InBackground(d, body(harness.slow_cells(400, seed=9, length=150)))
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens > 0)
        seconds = []
        for i in range(5):
            start = time.monotonic()
            d.embed(body(harness.slow_cells(1, seed=1000 + i, length=150)))
            seconds.append(time.monotonic() - start)
            assert bulk.is_alive(), "the bulk request was over too soon for this test"
        bulk.join()
        assert bulk.answer.status == 200, bulk.answer
        assert max(seconds) < bulk.seconds / 5, f"{max(seconds):.2f} s of {bulk.seconds:.2f} s"


def test_a_large_request_is_finished_while_small_ones_keep_coming():
    with slow_daemon() as d:
        bulk = InBackground(d, body(harness.slow_cells(60, seed=10, length=150)))
        done = threading.Event()

        def small(first):
            seed = first
            while not done.is_set():
                d.embed(body(harness.slow_cells(1, seed=seed, length=150)))
                seed += 1

        clients = [threading.Thread(target=small, args=(10_000 * (i + 1),)) for i in range(4)]
        for c in clients:
            c.start()
        bulk.join(60 * harness.SLOW)
        starved = bulk.is_alive()
        done.set()
        for c in clients:
            c.join()
        assert not starved, "the large request starved"
        assert bulk.answer.status == 200, bulk.answer


def test_probes_stay_fast_under_load_and_every_request_is_answered():
    with slow_daemon(*ROOM) as d:
        done, statuses, lock = threading.Event(), [], threading.Lock()

        def client(i):
            k = 0
            while not done.is_set():
                k += 1
                request = body(harness.slow_cells(2, seed=1000 * i + k, length=600))
                answer = d.post("/v1/embeddings", request)
                with lock:
                    statuses.append(answer.status)

        clients = [threading.Thread(target=client, args=(i,)) for i in range(24)]
        for c in clients:
            c.start()
        slowest = 0.0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            start = time.monotonic()
            assert d.get("/livez").status == 200
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        done.set()
        for c in clients:
            c.join()
        assert set(statuses) == {200, 429}, sorted(set(statuses))
        assert slowest < 2 * harness.SLOW, f"/livez took {slowest:.2f} s"
        assert d.metric("scdiva_queue_tokens") == 0


def hold(d, n):
    """n connections that have sent half a request"""
    held = [d.socket(5 * harness.SLOW) for _ in range(n)]
    for s in held:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    return held


def test_more_connections_than_allowed_wait_and_are_served_when_there_is_room():
    with Daemon(harness.small_model(), flags=("--max-connections", "8")) as d:
        held = hold(d, 8)
        time.sleep(0.3)
        waiting = []
        late = threading.Thread(target=lambda: waiting.append(d.get("/livez").status))
        late.start()
        time.sleep(0.3)
        for s in held:
            s.close()
        late.join(10 * harness.SLOW)
        assert waiting in ([200], [503]), "it still waits though there is room"
        harness.check_good(d)


def test_clients_that_leave_in_the_middle_of_a_request_free_their_connection_at_once():
    """The end of the stream may arrive together with the last bytes."""
    with Daemon(harness.small_model(), flags=("--max-connections", "8")) as d:
        for _ in range(20):
            for s in hold(d, 30):
                s.close()
            assert d.request("GET", "/livez", timeout=10 * harness.SLOW).status == 200
