#!/usr/bin/env python3
"""job_kill9.py [KILLS] - SIGKILL at random moments of jobs, start again, compare every byte.

Each job has to be there once, complete, with the result of a run without kills; the audit has to be
whole; a receiver of webhooks that keeps their ids has to see each job's end once. 50 kills unless
told."""
import sys
import time

import common
import test_jobs


def main():
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    common.head(f"kill -9 at {kills} random moments of jobs, on one data directory")
    start = time.monotonic()
    n_jobs, resumed, told = test_jobs.crash_rounds(
        kills, seed=int(start * 1e6) % 2**32, tell=lambda text: print("  " + text, flush=True))
    common.row("wrong bytes", f"0 in {n_jobs} jobs, {resumed} of {kills} starts went on in the "
               f"middle of one, {told} webhooks for {n_jobs} ends, "
               f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
