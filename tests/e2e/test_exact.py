"""test_exact.py - the same cell gives the same bytes, whatever happens around it."""
import gzip
import hashlib
import io
import json
import random
import threading

import numpy as np

import harness
import models
from harness import Daemon

UNCACHED = ("--cache-mb", "0")


def rows(answer):
    """{id: embedding bytes}"""
    ids = [item["id"] for item in answer.json()["data"]]
    return dict(zip(ids, (e.tobytes() for e in answer.embeddings())))


def base64_request(cells, **fields):
    return {"input": "log1p_cp10k", "encoding": "base64", "cells": cells, **fields}


def alone(d, cells):
    found = {}
    for cell in cells:
        found.update(rows(d.embed(base64_request([cell]))))
    return found


class Computed:
    """How many cells the engine computed since this was made."""

    def __init__(self, d):
        self.d, self.before = d, d.metric("scdiva_engine_cells_total")

    def cells(self):
        return self.d.metric("scdiva_engine_cells_total") - self.before


def states(answer):
    return [item["cache"] for item in answer.json()["data"]]


def at_once(n, call):
    """call(i) on n threads that start together; the results in order."""
    results, barrier = [None] * n, threading.Barrier(n)

    def work(i):
        barrier.wait()
        try:
            results[i] = call(i)
        except Exception as error:  # comes back to the thread that asserts
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for r in results:
        if isinstance(r, Exception):
            raise r
    return results


# ---- batches, threads, restarts ------------------------------------------------------------------

def test_a_cell_has_the_same_bytes_alone_and_in_random_batches():
    d = harness.shared(flags=UNCACHED)
    cells, rng = harness.demo_cells(), random.Random(1)
    want = alone(d, cells)
    for size in (2, 3, 7, 19, 40, 40):
        batch = rng.sample(cells, size)
        got = rows(d.embed(base64_request(batch)))
        assert got == {c["id"]: want[c["id"]] for c in batch}, f"batch of {size} differs"


def test_a_cell_has_the_same_bytes_while_others_are_computed_beside_it():
    d = harness.shared(flags=UNCACHED)
    cells = harness.demo_cells()
    want = alone(d, cells[:8])

    def call(i):
        rng = random.Random(i)
        return [rows(d.embed(base64_request(rng.sample(cells[:8], rng.randint(1, 8)))))
                for _ in range(5)]

    for answers in at_once(8, call):
        for got in answers:
            for id_, value in got.items():
                assert value == want[id_], f"{id_} differs under concurrency"


def test_one_thread_and_two_give_the_same_bytes():
    found = []
    for threads in ("1", "2"):
        with Daemon(harness.small_model(), flags=("--threads", threads, *UNCACHED)) as d:
            found.append(rows(d.embed(base64_request(harness.demo_cells()))))
    assert found[0] == found[1]


def test_small_batches_and_large_ones_give_the_same_bytes():
    found = []
    for tokens in ("512", "65536"):
        flags = ("--max-batch-tokens", tokens, *UNCACHED)
        with Daemon(harness.small_model(), flags=flags) as d:
            found.append(rows(d.embed(base64_request(harness.demo_cells()))))
    assert found[0] == found[1]


def test_the_official_size_gives_the_same_bytes_alone_in_a_batch_and_on_one_thread():
    cells, symbols = harness.demo_cells(6), official_symbols()
    for k, cell in enumerate(cells):  # real values on the names that this vocabulary has
        n = len(cell["values"]) if k else 3
        cell["genes"], cell["values"] = symbols[k:k + n], cell["values"][:n]
    with Daemon(harness.official_model(), flags=("--threads", "2", *UNCACHED)) as d:
        together = rows(d.embed(base64_request(cells)))
        assert alone(d, cells[:3]) == {c["id"]: together[c["id"]] for c in cells[:3]}
    with Daemon(harness.official_model(), flags=("--threads", "1", *UNCACHED)) as d:
        assert rows(d.embed(base64_request(cells[2:4]))) == \
            {c["id"]: together[c["id"]] for c in cells[2:4]}


def test_every_length_gives_the_same_bytes_alone_and_packed_in_both_precisions():
    lengths = [1, 2, 15, 16, 17, 63, 64, 65, 127, 200, 311, 640, 1199, 1200]
    cells = [{**harness.slow_cells(1, seed=n, length=n)[0], "id": str(n)} for n in lengths]
    order = random.Random(3).sample(cells, len(cells))
    bf16 = ["bf16"] if harness.cpu_has("avx512_bf16") else []
    for precision in ["fp32"] + bf16:
        found = []
        for threads, batches in (("1", [[c] for c in cells]), ("2", [order]),
                                 ("2", [cells[::-1][:5], cells[:9]])):
            flags = ("--precision", precision, "--threads", threads, *UNCACHED)
            with Daemon(harness.slow_model(), flags=flags) as d:
                got = {}
                for batch in batches:
                    got.update(rows(d.embed({"cells": batch, "encoding": "base64"})))
            found.append(got)
        assert found[0] == found[1] == found[2], f"{precision} differs"


def official_symbols():
    with open(harness.official_model() + "/genes.tsv", encoding="utf-8") as f:
        return [line.split("\t")[1].strip() for line in f.readlines()[1:]]


def test_cold_cached_and_after_a_restart_the_bytes_are_the_same():
    data, cells = harness.scratch(), harness.demo_cells(12)
    with Daemon(harness.small_model(), data=data) as d:
        computed = Computed(d)
        cold = d.embed(base64_request(cells))
        warm = d.embed(base64_request(cells[::-1]))
        assert states(cold) == ["miss"] * 12 and states(warm) == ["hit"] * 12
        assert cold.json()["usage"]["cached"] == 0 and warm.json()["usage"]["cached"] == 12
        assert computed.cells() == 12
    with Daemon(harness.small_model(), data=data) as d:
        computed = Computed(d)
        restarted = d.embed(base64_request(cells))
        assert states(restarted) == ["hit"] * 12, "SIGTERM must flush the cache"
        assert computed.cells() == 0
    with Daemon(harness.small_model()) as d:
        fresh = d.embed(base64_request(cells))
    assert rows(cold) == rows(warm) == rows(restarted) == rows(fresh)


def test_fp32_and_bf16_do_not_share_cache_entries():
    if not harness.cpu_has("avx512_bf16") and not harness.cpu_has("amx_bf16"):
        raise harness.Skip("this processor does not multiply bf16")
    data, found = harness.scratch(), {}
    for precision in ("fp32", "bf16", "fp32"):
        with Daemon(harness.small_model(), data=data, flags=("--precision", precision)) as d:
            answer = d.embed(base64_request(harness.demo_cells(3)))
            expected = "hit" if precision in found else "miss"
            assert states(answer) == [expected] * 3, (precision, states(answer))
            assert found.setdefault(precision, rows(answer)) == rows(answer)
    assert found["fp32"] != found["bf16"]


def test_two_models_do_not_share_cache_entries():
    other = models.write_model(harness.scratch("other"), harness.demo_body()["genes"],
                                       seed=2, MAX_GENE_LEN=300)
    with Daemon(harness.small_model(), other) as d:
        cells = harness.demo_cells(2)
        first = d.embed(base64_request(cells, model="small"))
        second = d.embed(base64_request(cells, model="other"))
        assert states(second) == ["miss"] * 2
        assert first.json()["model"]["name"] == "small"
        assert second.json()["model"]["name"] == "other"
        assert first.json()["model"]["digest"] != second.json()["model"]["digest"]
        assert rows(first) != rows(second)


def test_what_the_model_does_not_see_does_not_split_the_cache():
    """Order of genes, unknown genes, zeros, ids, names of the same gene: one cell, one entry."""
    d = harness.shared()
    cell = harness.demo_cells(1)[0]
    pairs = list(zip(cell["genes"], cell["values"]))
    random.Random(2).shuffle(pairs)
    pairs += [("NOSUCHGENE", 1.5), (next(g for g in harness.demo_body()["genes"]
                                         if g not in cell["genes"]), 0)]
    again = {"id": "other", "genes": [g for g, _ in pairs], "values": [v for _, v in pairs]}
    a = d.embed(base64_request([cell]))
    b = d.embed(base64_request([again]))
    assert states(b) == ["hit"], b
    assert a.embeddings().tobytes() == b.embeddings().tobytes()
    assert b.json()["data"][0]["genes_unknown"] == 1


# ---- identical work ------------------------------------------------------------------------------

def test_64_identical_requests_at_once_compute_one_cell():
    with Daemon(harness.official_model(), flags=("--threads", "2")) as d:
        cell = {"genes": official_symbols()[:300], "values": list(range(1, 301))}
        body, computed = {"cells": [cell], "encoding": "base64"}, Computed(d)
        answers = at_once(64, lambda i: d.embed(body))
        assert len({a.embeddings().tobytes() for a in answers}) == 1
        found = [states(a)[0] for a in answers]
        assert found.count("miss") == 1, found
        assert set(found) <= {"miss", "coalesced", "hit"}, found
        assert computed.cells() == 1
        assert d.metric("scdiva_cache_misses_total") == 1
        assert d.metric("scdiva_cache_coalesced_total") == found.count("coalesced")
        assert d.metric("scdiva_cache_hits_total") == found.count("hit")


def test_one_request_with_the_same_cell_many_times_computes_it_once():
    with Daemon(harness.small_model()) as d:
        cell, computed = harness.demo_cells(1)[0], Computed(d)
        cells = [{**cell, "id": str(i)} for i in range(20)]
        answer = d.embed(base64_request(cells))
        assert len(set(rows(answer).values())) == 1
        assert computed.cells() == 1
        assert states(answer).count("miss") == 1, states(answer)


def test_without_a_cache_every_answer_is_a_miss():
    with Daemon(harness.small_model(), flags=UNCACHED) as d:
        computed = Computed(d)
        for _ in range(3):
            assert states(d.embed(base64_request(harness.demo_cells(5)))) == ["miss"] * 5
        assert computed.cells() == 15
        assert d.metric("scdiva_cache_hits_total") == 0


# ---- encodings -----------------------------------------------------------------------------------

def test_float_base64_and_npy_carry_the_same_bits():
    d = harness.shared()
    plain = d.embed(harness.demo_request())
    coded = d.embed(harness.demo_request(encoding="base64"))
    matrix = d.post("/v1/embeddings", harness.demo_request(), {"Accept": "application/x-npy"})
    assert matrix.status == 200 and matrix.headers["Content-Type"] == "application/x-npy", matrix
    loaded = np.load(io.BytesIO(matrix.body), allow_pickle=False)
    assert loaded.dtype == np.dtype("<f4") and loaded.shape == (40, 48), loaded.dtype
    assert plain.embeddings().tobytes() == coded.embeddings().tobytes() == loaded.tobytes()


def test_json_floats_are_the_shortest_that_read_back():
    d = harness.shared()
    answer = d.embed(harness.demo_request(4))
    texts = answer.body.decode().split('"embedding":')[1:]
    for chunk, row in zip(texts, answer.embeddings()):
        written = chunk[chunk.index("[") + 1:chunk.index("]")].split(",")
        assert len(written) == len(row)
        for text, value in zip(written, row):
            shortest = np.format_float_scientific(value, unique=True, trim="-")
            digits = shortest.split("e")[0].replace(".", "").replace("-", "")
            got = text.strip().lower().split("e")[0].replace(".", "").replace("-", "").strip("0")
            assert np.float32(float(text)) == value
            assert len(got) <= len(digits.strip("0")), f"{text} for {shortest}"


def test_a_gzipped_request_and_a_plain_one_get_the_same_answer():
    d = harness.shared()
    plain = d.embed(harness.demo_request(5, encoding="base64"))
    packed = d.embed(gzip.compress(json.dumps(harness.demo_request(5, encoding="base64")).encode()),
                     {"Content-Encoding": "gzip"})
    assert rows(plain) == rows(packed)


def test_the_answer_names_the_digest_of_the_three_files():
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "genes.tsv"):
        with open(f"{harness.small_model()}/{name}", "rb") as f:
            digest.update(f.read())
    d = harness.shared()
    model = d.embed(harness.demo_request(1)).json()["model"]
    assert model["name"] == "small" and digest.hexdigest() in model["digest"], model
