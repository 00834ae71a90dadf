#!/usr/bin/env python3
"""make bench: every benchmark that takes minutes, one after the other, on an idle machine.

    tests/bench/run.py --build build [--long]

--long adds the ones that take longer: a minute of overload and a hundred kills. TORCH_PYTHON names
a Python that has PyTorch, where this one has not.
"""
import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))


def section(title, command, env):
    print("\n## %s\n" % title, flush=True)
    code = subprocess.run(command, env=env, check=False).returncode
    if code:
        print("(ended with %d)" % code, flush=True)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args.add_argument("--long", action="store_true")
    args = args.parse_args()
    build = os.path.abspath(args.build)
    env = dict(os.environ, SCDIVAD=os.path.join(build, "scdivad"),
               SCDIVA_TRAIN=os.path.join(build, "scdiva-train"),
               BENCH_ENGINE=os.path.join(build, "bench", "bench_engine"),
               BENCH_ROOF=os.path.join(build, "bench", "bench_roof"))
    os.environ.update(env)
    import harness  # reads the environment
    model, python = harness.official_model(), sys.executable
    for precision in ("bf16", "fp32"):
        section("the bare engine, %s" % precision,
                [env["BENCH_ENGINE"], model, "--precision", precision], env)
        section("operations, %s" % precision,
                [os.path.join(build, "bench", "bench_ops"), "--precision", precision], env)
    for title, script in (("HTTP end to end", "end_to_end.py"), ("cache hits", "cache_hit.py"),
                          ("start and memory", "startup.py"), ("large bodies", "memory.py"),
                          ("probes beside much work", "probes.py")):
        section(title, [python, os.path.join(HERE, script)], env)
    section("PyTorch", [env.get("TORCH_PYTHON", python), os.path.join(HERE, "torch_peer.py")], env)
    section("training", [python, os.path.join(HERE, "train_throughput.py")], env)
    section("two hundred cells by heart", [python, os.path.join(HERE, "overfit.py")], env)
    section("JSON", [os.path.join(build, "bench", "bench_json")], env)
    section("genes and serialization", [os.path.join(build, "bench", "bench_cells")], env)
    section("embeddings beside denoising", [python, os.path.join(HERE, "mixed_load.py")], env)
    if args.long:
        section("overload", [python, os.path.join(HERE, "overload.py")], env)
        section("kill -9", [python, os.path.join(HERE, "kill9.py")], env)


if __name__ == "__main__":
    main()
