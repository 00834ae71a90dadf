"""test_job_files.py - strangers' files in jobs: each fails its own job, in bounded time, with what
is wrong and where; reader and writer of it are confined, and the daemon goes on.
"""
import glob
import os
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np

import files
import harness
import jobs
from harness import Daemon, SLOW, check_problem, shared as daemon


# ---- disks and files that are not there ----------------------------------------------------------

class SmallDisk:
    """A folder on a disk of a few megabytes"""

    def __init__(self, mb):
        self.path = harness.scratch()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mb}m", "scdiva", self.path],
                              capture_output=True, check=False)
        if done.returncode:
            raise harness.Skip("only root can mount a small disk here")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.path], check=True)

    def fill(self, leave=0):
        """All of it but so many bytes; again, where some of it became free"""
        fd = os.open(os.path.join(self.path, "fill"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        facts = os.statvfs(self.path)
        left = facts.f_bavail * facts.f_frsize - leave
        try:
            while left > 0:
                left -= os.write(fd, b"x" * min(left, 1 << 16))
        except OSError:
            pass
        os.close(fd)

    def empty(self):
        os.unlink(os.path.join(self.path, "fill"))

    def wait_free(self, n):
        """Until so many bytes are free: what is deleted is so when its last reader closes it."""
        end = time.monotonic() + 10 * SLOW
        while (facts := os.statvfs(self.path)).f_bavail * facts.f_frsize < n:
            assert time.monotonic() < end, facts
            time.sleep(0.02)


def test_a_full_disk_is_said_lived_with_and_made_room_on():
    with SmallDisk(16) as disk:
        data = os.path.join(disk.path, "data")
        body, query = heavy(2), "task=annotate&format=h5ad&filename=a.h5ad"
        with Daemon(files.small_model(), data=data, flags=("--cache-mb", "0")) as d:
            check_problem(jobs.post(d, b"x" * (17 << 20)), 507, "insufficient-storage")
            jobs.wait_no_input(d)
            disk.wait_free(8 << 20)
            with open(files.small("good_csr.h5ad"), "rb") as f:
                small = f.read()
            ids = [jobs.wait(d, jobs.start(d, small, query))["id"] for _ in range(2)]
            for headers in ({}, {"Upload-Length": str(len(small))}):
                disk.fill()
                full = jobs.post(d, b"" if headers else small, query, headers)
                check_problem(full, 507, "insufficient-storage")
            assert d.get("/v1/jobs").status == d.get("/readyz").status == 200
            gone = d.request("DELETE", f"/v1/jobs/{ids[0]}")  # even now
            assert gone.status == 200 and gone.json()["deleted"], gone
            disk.empty()
            jobs.result(d, jobs.get(d, {"id": ids[1]}))
            disk.fill(leave=len(body) + (len(body) >> 1))
            waiting = jobs.start(d, body, query)  # there is room for it, and none for its result
            end = time.monotonic() + 30 * SLOW
            while "job_pauses" not in d.log():
                assert time.monotonic() < end and jobs.get(d, waiting)["state"] != "COMPLETE"
                time.sleep(0.05)
            assert jobs.get(d, waiting)["state"] == "RUNNING"
            disk.empty()
            jobs.result(d, jobs.wait(d, waiting, timeout=100 * SLOW))
        lines = [line["event"] for line in jobs.audit(data)]
        assert lines.count("job.completed") == 3 and lines.count("job.deleted") == 1, lines


def test_files_that_vanish_are_told_of():
    with open(files.small("good_csr.h5ad"), "rb") as f:
        body = f.read()
    with Daemon(files.small_model()) as d:
        place = os.path.join(d.data, "jobs")
        done = jobs.wait(d, jobs.start(d, body, "task=embed&format=h5ad"))
        os.unlink(os.path.join(place, done["id"] + ".h5ad"))
        check_problem(d.get(f"/v1/jobs/{done['id']}/result"), 500, "internal", detail="file")
        half = jobs.start(d, body[:9], headers={"Upload-Length": str(len(body))})
        os.unlink(os.path.join(place, half["id"] + ".input"))
        check_problem(jobs.part(d, half, body[9:], 9), 507, "insufficient-storage")
        job = jobs.start(d, heavy(), "task=embed&format=h5ad&filename=heavy.h5ad")
        catch(d, READER)
        os.unlink(os.path.join(place, job["id"] + ".input"))
        os.kill(child_of(d, READER), signal.SIGCONT)
        job = jobs.wait(d, job, "ERROR", timeout=60 * SLOW)  # a second try after 15 s
        assert "vanished" in job["error"]["detail"], job
        d.check_alive()


# ---- files of no use -----------------------------------------------------------------------------

def test_files_of_no_use_fail_their_job_and_nothing_else():
    genes = harness.demo_body()["genes"]
    for body, detail in (
            (b"a,b", "upload.csv"), (b"\x89HDF\r\n\x1a\n" + b"x" * 100, "upload.csv"),
            (b"PK\x03\x04" + b"x" * 50, "upload.csv"),
            (jobs.table(5, genes=[f"nothing{i}" for i in range(60)]), "knows none"),
            (("," + ",".join(genes) + "\n" + "c," + ",".join(["-1"] * len(genes)) + "\n").encode(),
             "scaled")):
        query = "task=embed&format=csv&filename=upload.csv"
        job = jobs.wait(daemon(), jobs.start(daemon(), body, query), "FAILED")
        assert detail in job["error"]["detail"], job
        assert daemon().data not in job["error"]["detail"], job
        assert job["error"]["type"] == "urn:scdiva:problem:invalid", job
        check_problem(daemon().get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")
    harness.check_good(daemon())


def spoilt(name, spoil):
    """good_csr.h5ad with one thing changed: bytes"""
    path = harness.scratch(name)
    shutil.copy(files.small("good_csr.h5ad"), path)
    with h5py.File(path, "r+") as f:
        spoil(f)
    with open(path, "rb") as f:
        return f.read()


def put(f, where, value):
    """value, whatever stood there"""
    if where in f:
        del f[where]
    f[where] = value


def loops(f):
    f["obs/again"] = f["obs"]
    f["layers/again"] = f["/"]
    put(f, "layers/a", h5py.SoftLink("/layers/b"))
    put(f, "layers/b", h5py.SoftLink("/layers/a"))


def test_places_that_results_cannot_go_to_are_named_before_anything_is_computed():
    """What cannot be added to is the file's fault, not a full disk that may have room later."""
    cases = {
        "uns": (lambda f: put(f, "uns", 3), "uns: is no group to add to"),
        "obsm": (lambda f: put(f, "obsm", np.zeros(6)), "obsm: is neither a group nor records"),
        "inside": (lambda f: put(f, "uns/scdiva", 3), "uns/scdiva: is no group"),
        "layers": (lambda f: put(f, "layers", np.zeros(3)), "layers: is no group to add to"),
        "outside": (lambda f: put(f, "obsm", h5py.ExternalLink("/etc/passwd", "/")),
                    "obsm: a link to another file"),
        "in a circle": (lambda f: put(f, "uns", h5py.SoftLink("/uns")), "uns: cannot be added to"),
    }
    with Daemon(files.small_model()) as d:
        query = "task=annotate&format=h5ad&overwrite=true&filename=a.h5ad"
        for name, (spoil, says) in cases.items():
            job = jobs.start(d, spoilt(name, spoil), query)
            job = jobs.wait(d, job, "FAILED", timeout=20 * SLOW)
            assert says in job["error"]["detail"], (name, job)
            assert job["progress"]["cells_done"] == 0, (name, job)
        job = jobs.start(d, spoilt("loops", loops), query)
        jobs.wait(d, job, timeout=20 * SLOW)  # that is in nobody's way


def test_bytes_changed_anywhere_in_a_file_are_no_trouble_to_the_daemon():
    """Half of them in what libhdf5 reads of the file itself, where it may well crash."""
    with open(files.small("good_csr.h5ad"), "rb") as f:
        whole = f.read()
    rng, states = np.random.default_rng(3), []
    with Daemon(files.small_model()) as d:
        for i in range(40):
            body = bytearray(whole)
            for at in rng.integers(0, len(body), rng.integers(1, 12)):
                body[at] = rng.integers(0, 256)
            if i % 8 == 0:
                body = body[:len(body) * (i + 1) // 41]
            job = jobs.start(d, bytes(body), "task=annotate&format=h5ad&filename=a.h5ad")
            end = time.monotonic() + 60 * SLOW
            while (job := jobs.get(d, job))["state"] not in jobs.OVER:
                assert time.monotonic() < end, job
                time.sleep(0.01)
            states.append(job["state"])
        d.check_alive()
        left = [n for n in os.listdir(os.path.join(d.data, "jobs")) if ".work" in n or ".tmp" in n]
        assert left == [] and set(states) <= {"COMPLETE", "FAILED"}, (left, states)


def test_damaged_and_hostile_files_fail_their_jobs_alone():
    """The result is the file itself with more in it, so that all of it is read and written."""
    folder = files.small_inputs()
    with Daemon(files.small_model()) as d:
        started, whole = {}, []
        for name in sorted(n for n in os.listdir(folder) if n.startswith("bad_")):
            if os.path.isdir(os.path.join(folder, name)):
                continue
            with open(os.path.join(folder, name), "rb") as f:
                body = f.read()
            if body:
                query = f"task=annotate&format=h5ad&filename={name}"
                started[name] = jobs.start(d, body, query)
        for name, job in started.items():
            job = jobs.get(d, job, {"Prefer": "wait=60"})
            assert job["state"] in ("FAILED", "COMPLETE"), (name, job)
            if job["state"] == "COMPLETE":  # what is damaged is no part of what is used
                whole.append(name)
            else:
                assert d.data not in job["error"]["detail"], job
        assert len(whole) < len(started) / 2, whole
        left = [n for n in os.listdir(os.path.join(d.data, "jobs")) if ".tmp" in n]
        assert left == [], left
        d.check_alive()


READER, WRITER = b"--confined-reader", b"--job-writer"


def child_of(d, what):
    """The pid of the daemon's child that was started for this, or None"""
    for path in glob.glob(f"/proc/{d.process.pid}/task/*/children"):
        with open(path, encoding="utf-8") as f:
            for pid in f.read().split():
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as command:
                        if command.read().split(b"\0")[1:2] == [what]:
                            return int(pid)
                except OSError:
                    pass  # gone already
    return None


def catch(d, what):
    """The same, stopped in the middle of its work: of the writer, while it copies"""
    end = time.monotonic() + 30 * SLOW
    while True:
        pid = child_of(d, what)
        if pid and (what == READER or glob.glob(os.path.join(d.data, "jobs", "*.work", "*.tmp"))):
            os.kill(pid, signal.SIGSTOP)
            return pid
        assert time.monotonic() < end


def heavy(mb=64):
    """An .h5ad that takes a while to copy"""
    path = harness.scratch(f"heavy{mb}.h5ad")
    if not os.path.exists(path):
        shutil.copy(files.small("good_csr.h5ad"), path)
        with h5py.File(path, "r+") as f:
            f["uns/ballast"] = np.random.default_rng(0).random(mb << 17)
    with open(path, "rb") as f:
        return f.read()


def status_of(pid, field):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(line.split()[1] for line in f if line.startswith(field + ":"))


def test_reader_and_writer_of_a_file_are_confined_and_their_death_is_its_own():
    query = "task=embed&format=h5ad&filename=heavy.h5ad"
    data = harness.scratch()
    left = os.path.join(data, "jobs", "job_gone.h5ad.work")
    os.makedirs(left)
    with open(os.path.join(left, "result.h5ad"), "wb"):
        pass
    with Daemon(files.small_model(), data=data) as d:
        assert not os.path.exists(left)
        for what, said in ((READER, "crashed the reader"),
                           (WRITER, "crashed the writer")):
            job = jobs.start(d, heavy(), query)
            pid = catch(d, what)
            while status_of(pid, "Seccomp") == "0" and not d.is_sanitized():  # too early
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.002)
                os.kill(pid, signal.SIGSTOP)
            assert d.is_sanitized() or status_of(pid, "Seccomp") == "2"
            os.kill(pid, signal.SIGKILL)
            job = jobs.wait(d, job, "FAILED")
            assert said in job["error"]["detail"], job
        d.check_alive()
        for _ in range(2):  # as many as there are workers: none of them is held up
            for what in (READER, WRITER):
                job = jobs.start(d, heavy(), query)
                catch(d, what)
                canceled = d.request("DELETE", f"/v1/jobs/{job['id']}").json()
                assert canceled["state"] == "CANCELED", canceled
        jobs.wait(d, jobs.start(d, heavy(), query))
        jobs.start(d, heavy(), query)
        catch(d, READER)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10 * SLOW  # nor is the stop
    left = [n for n in os.listdir(os.path.join(data, "jobs")) if ".work" in n]
    assert left == [], left


def test_a_daemon_whose_program_was_replaced_meanwhile_still_works_on_files():
    """As an upgrade does it while the old one is serving."""
    program = harness.scdivad()
    own = harness.scratch("scdivad-of-before")
    if len(program) > 1:
        raise harness.Skip("scdivad is not run by its own path")
    shutil.copy(program[0], own)
    with Daemon(files.small_model(), command=[own]) as d:
        shutil.copy(program[0], own + ".new")
        os.replace(own + ".new", own)
        with open(files.small("good_csr.h5ad"), "rb") as f:
            jobs.wait(d, jobs.start(d, f.read(), "task=embed&format=h5ad"))
        os.unlink(own)
        with open(files.small("good_csr.h5ad"), "rb") as f:
            jobs.wait(d, jobs.start(d, f.read(), "task=embed&format=h5ad"))
