#!/usr/bin/env python3
"""kill9.py [ROUNDS] - SIGKILL under load, reopen, compare every byte; 100 rounds unless told."""
import sys
import time

import common
import test_store_crash


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    common.head(f"kill -9 under load, {rounds} rounds on one data directory")
    start = time.monotonic()
    hits = test_store_crash.crash_rounds(
        rounds, lambda i, found: print(f"  round {i + 1}: {found} hits, all right", flush=True))
    common.row("wrong bytes", f"0 in {rounds} rounds, {hits} cells answered from what survived, "
               f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
