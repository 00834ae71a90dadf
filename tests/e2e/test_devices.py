"""test_devices.py - a daemon with several GPUs, and GPUs that die, on the emulator of
tests/cuda_host (test_cuda.py).

CUDA_EMULATOR_GUARD ends the program where a GPU's work touches the memory of another one.
"""
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import harness
import jobs
import models
from harness import SLOW, Daemon, Skip, scratch
from test_cuda import GUARD, emulated

GENES = [f"GENE{i}" for i in range(12)]
MOVES = ("--max-batch-tokens", "512", "--on-device-loss", "cpu")
HANGS = 1200  # waits of one GPU: more than loading and warming up take
HANGS_SOON = 800  # likewise, of one in two, which has half of the batches
ENOUGH = 2700  # calls of one GPU: more than loading and warming up take


def model():
    """A very small one: the emulator is slow, and there are several."""
    path = scratch("tiny")
    if not os.path.exists(path):
        models.write_model(path, [f"GENE{i}" for i in range(40)], MAX_GENE_LEN=40, SCGPT_DIM=16,
                           HIDDEN_DIM=32, N_HEADS=2, N_LAYERS=2, D_HID=32)
    return path


def daemon(devices, gpus=2, flags=("--max-batch-tokens", "512"), env=None, data=None):
    env = {"CUDA_EMULATOR_GPUS": str(gpus), **(env or {})}
    flags = (*(("--device", devices) if devices else ()), "--precision", "fp32", *flags)
    return Daemon(model(), command=emulated(harness.scdivad()), flags=flags, env=env,
                  data=data)


def refused(devices, gpus=2, env=None):
    return harness.refused(("--model", model(), "--listen", "127.0.0.1:0", "--data",
                            scratch(), "--device", devices),
                           env={"CUDA_EMULATOR_GPUS": str(gpus), **(env or {})},
                           command=emulated(harness.scdivad()))


def cell(i):
    return {"genes": GENES, "values": [i % 97 + 1, i // 97 + 1, *range(3, 13)]}


def ask(d, first, n=3):
    return d.post("/v1/embeddings", {"cells": [cell(i) for i in range(first, first + n)]})


def together(d, n, each=3, first=0):
    """n requests of `each` cells, several at a time; the rows of all of them, in order"""
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda i: ask(d, first + i * each, each), range(n)))
    assert all(a.status == 200 for a in got), [a for a in got if a.status != 200]
    return b"".join(a.embeddings().tobytes() for a in got)


def by_device(d, metric):
    return {dict(labels)["device"]: value for (name, labels), value in d.metrics().items()
            if name == metric}


def batches(d):
    return by_device(d, "scdiva_device_batches_total")


def up(d):
    return by_device(d, "scdiva_device_up")


def devices_of(d):
    model = d.get("/v1/models").json()["data"][0]
    return model["device"], {x["device"]: x["state"] for x in model["devices"]}


# ---- several at once -----------------------------------------------------------------------------

def test_several_gpus_share_the_work_and_give_one_gpus_bytes():
    with daemon("cuda:0") as d:
        want = together(d, 16)
        assert up(d) == {"cuda:0": 1}
    with daemon("cuda:1,0", env=GUARD) as d:
        assert together(d, 16) == want
        done = batches(d)
        assert set(done) == {"cuda:0", "cuda:1"} and all(done.values()), done
        assert devices_of(d) == ("cuda", {"cuda:1": "serving", "cuda:0": "serving"})
        lines = [line for line in d.log().splitlines() if " device " in line]
        assert len(lines) == 2, lines
        assert "device=cuda:1" in lines[0] and "device=cuda:0" in lines[1], lines
        tokens = d.metric("scdiva_device_tokens_total")
        assert tokens == d.metric("scdiva_engine_tokens_total") == 16 * 3 * 12
        assert d.metric("scdiva_device_busy_seconds_total", device="cuda:0") > 0
        assert d.metric("scdiva_model_info", device="cuda") == 1


def test_courses_move_between_gpus_from_pass_to_pass():
    body = {"cells": [cell(i) for i in range(6)], "mask": {"fraction": 0.6}, "steps": 6,
            "temperature": 1}
    with daemon("cuda") as d:
        want = d.post("/v1/denoise", body).json()["data"]
    with daemon("cuda:all") as d, ThreadPoolExecutor(2) as pool:
        other = pool.submit(together, d, 40)
        assert d.post("/v1/denoise", body).json()["data"] == want
        other.result()
        assert all(batches(d).values()) and len(batches(d)) == 2, batches(d)


def test_all_gpus_are_those_there_are():
    with daemon("cuda:all", gpus=3) as d:
        assert list(up(d)) == ["cuda:0", "cuda:1", "cuda:2"]
        assert ask(d, 0).status == 200
    with daemon(None, gpus=3) as d:
        assert list(up(d)) == ["cuda:0"]
        assert "there is a GPU, the first of 3" in d.log(), d.log()


def test_what_is_wrong_with_one_of_them_is_said_with_its_name():
    said = refused("cuda:0,5")
    assert "cuda:5" in said and "there is no GPU 5: this machine has 2" in said, said
    said = refused("cuda:0,1", env={"CUDA_EMULATOR_LARGEST": "1:1000"})
    assert "cuda:1: " in said and "the GPU has no room for" in said, said
    said = refused("cuda:1,1")
    assert "must be auto|cpu|cuda[:N[,N]]" in said, said


def test_gpus_whose_bits_may_differ_are_refused_together():
    for env in {"CUDA_EMULATOR_ISA": "1:90"}, {"CUDA_EMULATOR_PROCESSORS": "132,1:114"}:
        said = refused("cuda:0,1", env=env)
        assert "cuda:0" in said and "cuda:1" in said and "differ" in said, said
        with daemon("cuda:0,2", gpus=3, env=env) as d:
            assert ask(d, 0).status == 200


def test_all_get_the_batches_that_the_smallest_has_room_for():
    with daemon("cuda:0,1", flags=(), env={"CUDA_EMULATOR_LARGEST": f"1:{4 << 20}"}) as d:
        assert ask(d, 0).status == 200
        lines = [line for line in d.log().splitlines() if " device " in line]
        assert all("since it has no room for 65536" in line for line in lines), lines


# ---- one batch behind the other ------------------------------------------------------------------

def test_batches_put_one_behind_the_other_give_what_a_cell_gives_alone():
    path = scratch("tiny-heads")
    models.write_model(path, [f"GENE{i}" for i in range(40)], MAX_GENE_LEN=40, SCGPT_DIM=16,
                       HIDDEN_DIM=32, N_HEADS=2, N_LAYERS=2, D_HID=32)
    models.write_head(path, "linear", ["a", "b", "c"], seed=3, mlp_dim=8, linear=True)
    models.write_head(path, "last", ["x", "y"], seed=4, mlp_dim=8,
                      backbone=["layers.1.mlp.down_proj.weight"])
    cells = [{"genes": GENES[:i % 9 + 3], "values": [i + 1, *range(1, i % 9 + 3)]}
             for i in range(60)]

    def answers(d, body):
        answer = d.post("/v1/embeddings", body)
        assert answer.status == 200, answer
        items = [answer.json()["data"]]
        for head in "linear", "last":
            answer = d.post("/v1/annotations", {**body, "head": head})
            assert answer.status == 200, answer
            items.append(answer.json()["data"])
        return [[{k: v for k, v in item.items() if k not in ("index", "id")} for item in of_cell]
                for of_cell in zip(*items)]

    def run(max_tokens, each):
        flags = ("--device", "cuda:0", "--precision", "fp32", "--cache-mb", "0",
                 "--max-batch-tokens", str(max_tokens))
        with Daemon(path, command=emulated(harness.scdivad()), flags=flags, env=GUARD) as d:
            got = []
            for i in range(0, len(cells), each):
                got += answers(d, {"cells": cells[i:i + each]})
            return got, d.metric("scdiva_device_batches_behind_total")

    (many, behind), (few, alone) = run(50, 60), run(512, 9)
    assert behind > 5 and not alone and many == few


# ---- one that does not answer --------------------------------------------------------------------

SILENT = ("--device-timeout-s", "1", "--max-batch-tokens", "512")


def hangs(n=HANGS, gpu=None, seconds=None):
    env = {"CUDA_EMULATOR_HANGS_AFTER": f"{gpu}:{n}" if gpu is not None else str(n)}
    return {**env, **({"CUDA_EMULATOR_HANG_S": str(seconds)} if seconds else {})}


def eventually(true):
    end = time.monotonic() + 20 * SLOW
    while not true():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.1)


def until_silent(d, i=0):
    """Ask for cells that are not cached until one is not answered in time; its number"""
    for i in range(i, 3000):
        body = {"cells": [cell(i)], "timeout_ms": 1500 * SLOW}
        if d.post("/v1/embeddings", body).status == 504:
            return i
    raise AssertionError("the device answers all the time")


def test_a_gpu_that_hangs_ends_readiness_and_the_daemon_can_still_be_ended():
    data = scratch("silent-data")
    d = daemon("cuda:0", flags=SILENT, env=hangs(), data=data)
    try:
        want = ask(d, 1)
        until_silent(d, 10)
        eventually(lambda: d.get("/readyz").status == 503)
        assert "does not answer" in d.get("/readyz").json()["detail"]
        assert d.get("/livez").status == 200
        assert up(d) == {"cuda:0": 0} and devices_of(d) == ("cuda", {"cuda:0": "silent"})
        again = ask(d, 1)  # from the cache
        assert again.embeddings().tobytes() == want.embeddings().tobytes()
        assert len(re.findall("device_silent", d.log())) == 1, d.log()
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(harness.STOP_S) == 1 and "was left behind" in d.log(), d.log()
    finally:
        d.kill()
    with daemon("cuda:0", data=data) as d:
        answer = ask(d, 1)
        assert {item["cache"] for item in answer.json()["data"]} == {"hit"}
        assert answer.embeddings().tobytes() == want.embeddings().tobytes()


def test_a_gpu_that_comes_back_serves_again_and_what_it_had_is_right():
    with daemon("cuda:0") as d:
        want = [ask(d, i, 1).embeddings().tobytes() for i in range(3000, 3004)]
    with daemon("cuda:0", flags=SILENT, env=hangs(seconds=4 * SLOW)) as d:
        until_silent(d)
        eventually(lambda: d.get("/readyz").status == 503)
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda i: ask(d, i, 1), range(3000, 3004)))
        assert [a.embeddings().tobytes() for a in got] == want
        eventually(lambda: d.get("/readyz").status == 200)
        assert up(d) == {"cuda:0": 1} and "device_answers" in d.log(), d.log()


def test_others_go_on_beside_a_gpu_that_hangs_and_take_over_what_it_had():
    with daemon("cuda:0") as d:
        want = [ask(d, i, 1).embeddings().tobytes() for i in range(1500)]
    flags = (*SILENT[:2], "--max-batch-tokens", "50")
    d = daemon("cuda:0,1", flags=flags, env=hangs(n=HANGS_SOON, gpu=1))
    try:
        with ThreadPoolExecutor(6) as pool:  # nobody hears of it
            assert [a.embeddings().tobytes()
                    for a in pool.map(lambda i: ask(d, i, 1), range(1500))] == want
        eventually(lambda: up(d) == {"cuda:0": 1, "cuda:1": 0})
        assert d.get("/readyz").status == 200
        assert d.metric("scdiva_queue_tokens") == 0
        together(d, 20, first=5000)
        assert devices_of(d)[1] == {"cuda:0": "serving", "cuda:1": "silent"}
        assert len(re.findall("device_silent.*cuda:1", d.log())) == 1, d.log()
        d.process.send_signal(signal.SIGTERM)
        assert d.process.wait(harness.STOP_S) == 1
    finally:
        d.kill()


def test_a_job_ends_beside_a_gpu_that_hangs():
    table = jobs.table(3000, genes=[f"GENE{i}" for i in range(40)], length=12)
    with daemon("cuda:0") as d:
        job = jobs.wait(d, jobs.start(d, table))
        want = d.get(f"/v1/jobs/{job['id']}/result").body
    flags = (*SILENT[:2], "--max-batch-tokens", "50")
    with daemon("cuda:0,1", flags=flags, env=hangs(n=HANGS_SOON, gpu=1, seconds=6 * SLOW)) as d:
        job = jobs.wait(d, jobs.start(d, table), timeout=100 * SLOW)
        assert d.get(f"/v1/jobs/{job['id']}/result").body == want
        assert "device_silent" in d.log()
        eventually(lambda: up(d) == {"cuda:0": 1, "cuda:1": 1})  # what it brings nobody wants
        assert d.metric("scdiva_queue_tokens") == 0
        together(d, 20, first=5000)


def test_a_gpu_that_hangs_and_then_dies_leaves_a_cpu_that_is_ready():
    """Though nobody waits any more for what it had, or comes with something else."""
    env = {**hangs(seconds=4 * SLOW), "CUDA_EMULATOR_HANG_KILLS": "1"}
    flags = (*SILENT[:2], *MOVES[2:], "--max-batch-tokens", "50")  # so that one stands behind
    with daemon("cuda:0", flags=flags, env=env) as d:
        body = {"timeout_ms": 2000 * SLOW}
        for i in range(300):
            if d.post("/v1/embeddings", {**body, "cells": [cell(60 * i + k) for k in range(60)]}
                      ).status == 504:
                break
        assert d.metric("scdiva_device_batches_behind_total") > 1
        eventually(lambda: devices_of(d)[0] == "cpu")
        time.sleep(1.5)  # more than --device-timeout-s
        assert d.get("/readyz").status == 200, d.log()
        assert devices_of(d)[1] == {"cuda:0": "lost", "cpu": "serving"}
        assert ask(d, 100000).status == 200


def test_a_cpu_that_is_slow_is_not_silent():
    cells = harness.slow_cells(50)
    flags = ("--device", "cpu", "--precision", "fp32", "--device-timeout-s", "1",
             "--max-batch-tokens", "65536")
    with Daemon(harness.slow_model(), flags=flags) as d, ThreadPoolExecutor(1) as pool:
        answer, probes = pool.submit(d.post, "/v1/embeddings", {"cells": cells}), []
        while not answer.done():
            probes.append(d.get("/readyz").status)
            time.sleep(0.05)
        assert answer.result().status == 200 and set(probes) == {200}, probes
        if d.metric("scdiva_device_busy_seconds_total") < 2:
            raise Skip("the batch took less than --device-timeout-s here")


# ---- one that dies -------------------------------------------------------------------------------

def test_what_a_dead_gpu_had_is_computed_by_the_others():
    with daemon("cuda:0") as d:
        want = together(d, 90)
    for dies in "0", "1":
        env = {"CUDA_EMULATOR_DIES_AFTER": f"{dies}:{ENOUGH}"}
        with daemon("cuda:0,1", env=env) as d:
            assert together(d, 90) == want  # nobody hears of it
            dead, other = f"cuda:{dies}", f"cuda:{1 - int(dies)}"
            assert up(d) == {dead: 0, other: 1}, d.log()
            assert devices_of(d) == ("cuda", {dead: "lost", other: "serving"})
            assert d.get("/readyz").status == 200
            lost = [line for line in d.log().splitlines() if "device_lost" in line]
            assert len(lost) == 1 and dead in lost[0] and "left=1" in lost[0], lost
            assert len(re.findall("batch_failed", d.log())) == 1
            before = batches(d)[dead]
            together(d, 5, first=1000)
            assert batches(d)[dead] == before


def test_courses_of_a_dead_gpu_go_on_elsewhere_with_the_same_bytes():
    def sampled(d, seed):
        body = {"cells": [cell(i) for i in range(8)], "steps": 6, "temperature": 1,
                "mask": {"fraction": 0.7, "seed": seed}}
        answer = d.post("/v1/denoise", body)
        assert answer.status == 200, answer
        return answer.json()["data"]

    with daemon("cuda:0") as d:
        want = [sampled(d, seed) for seed in range(6)]
    with daemon("cuda:0,1", env={"CUDA_EMULATOR_DIES_AFTER": f"0:{ENOUGH},1:100000000"}) as d:
        assert [sampled(d, seed) for seed in range(6)] == want
        assert up(d) == {"cuda:0": 0, "cuda:1": 1}, d.log()


def test_readiness_ends_with_the_last_of_them():
    env = {"CUDA_EMULATOR_DIES_AFTER": f"0:{ENOUGH},1:{ENOUGH + 300}"}
    with daemon("cuda:0,1", env=env) as d:
        answers = [ask(d, 3 * i) for i in range(400)]
        assert answers[-1].status == 500, answers[-1]
        assert up(d) == {"cuda:0": 0, "cuda:1": 0}
        harness.check_problem(d.get("/readyz"), 503, "unavailable", detail="device")
        assert d.get("/livez").status == 200
        assert ask(d, 0).embeddings().tobytes() == answers[0].embeddings().tobytes()  # cached
        said = [re.search(r"left=(\d)", line)[1] for line in d.log().splitlines()
                if "device_lost" in line]
        assert said == ["1", "0"], said


# ---- and the CPU ---------------------------------------------------------------------------------

def on_cpu(n, first=0):
    """What a daemon on the CPU answers to together()"""
    with Daemon(model(), flags=("--device", "cpu", "--precision", "fp32")) as d:
        return together(d, n, first=first)


def wait_moved(d):
    for i in range(3000):
        assert ask(d, 100000 + 3 * i).status in (200, 503)
        if devices_of(d)[0] == "cpu":
            return
    raise AssertionError(d.log())


def test_the_cpu_takes_over_when_it_is_told_to():
    data = scratch()
    env = {"CUDA_EMULATOR_DIES_AFTER": f"0:{ENOUGH},1:{ENOUGH + 300}"}
    with daemon("cuda:0,1", flags=MOVES, env=env, data=data) as d:
        on_gpu = ask(d, 0, 30).embeddings().tobytes()
        assert ask(d, 0, 30).json()["usage"]["cached"] == 30
        assert d.metric("scdiva_model_info", device="cuda") == 1
        wait_moved(d)  # every request was answered
        assert devices_of(d) == ("cpu", {"cuda:0": "lost", "cuda:1": "lost", "cpu": "serving"})
        assert d.get("/readyz").status == 200
        assert by_device(d, "scdiva_model_info") == {"cpu": 1}
        # what the GPUs computed is theirs: neither the cache nor whole answers say otherwise
        again = ask(d, 0, 30)
        assert again.json()["usage"]["cached"] == 0
        now = again.embeddings().tobytes()
        assert now != on_gpu and now == on_cpu(10)
        assert ask(d, 0, 30).json()["usage"]["cached"] == 30
        assert re.search(r" device .*kind=cpu .*on-device-loss", d.log()), d.log()
    with daemon("cuda:0", data=data) as d:  # and their cache is as it was
        answer = ask(d, 0, 30)
        assert answer.json()["usage"]["cached"] == 30
        assert answer.embeddings().tobytes() == on_gpu
    flags = ("--device", "cpu", "--precision", "fp32")
    with Daemon(model(), flags=flags, data=data) as d:
        want = together(d, 40, first=100000)
        assert d.metric("scdiva_cache_hits_total") < 120  # those of the move were not kept
    assert want == on_cpu(40, first=100000)


def test_a_job_that_moves_to_the_cpu_has_one_devices_results():
    table = jobs.table(600, genes=[f"GENE{i}" for i in range(40)], length=12)
    with Daemon(model(), flags=("--device", "cpu", "--precision", "fp32")) as d:
        job = jobs.wait(d, jobs.start(d, table))
        want = d.get(f"/v1/jobs/{job['id']}/result").body
    with daemon("cuda:0", flags=MOVES,
                env={"CUDA_EMULATOR_DIES_AFTER": str(ENOUGH + 100)}) as d:
        job = jobs.wait(d, jobs.start(d, table), timeout=100 * SLOW)
        assert "device_moves" in d.log() and "job_pauses" in d.log(), d.log()
        assert d.get(f"/v1/jobs/{job['id']}/result").body == want


def test_a_job_waits_where_no_device_is_left():
    data = scratch()
    with daemon("cuda:0", env={"CUDA_EMULATOR_DIES_AFTER": str(ENOUGH + 100)}, data=data) as d:
        job = jobs.start(d, jobs.table(600, genes=[f"GENE{i}" for i in range(40)], length=12))
        for _ in range(600):
            if "device_lost" in d.log():
                break
            d.wait_metric("scdiva_device_up", lambda v: v == 0, timeout=60 * SLOW)
        assert jobs.get(d, job)["state"] in ("QUEUED", "RUNNING")
    with daemon("cuda:0", data=data) as d:
        jobs.wait(d, job)
