#!/bin/bash
# sanitize.sh - the operations under NVIDIA's compute-sanitizer, on a GPU.
#
#     tests/ops/sanitize.sh COMPUTE_SANITIZER build/gpu
#
# memcheck finds accesses out of bounds and misaligned, racecheck races in shared memory, synccheck
# barriers that not all threads reach, initcheck reads of memory that nobody wrote. Tests write
# outputs over NaN on purpose, which counts as written. initcheck does not see the stores of the
# tensor memory accelerator, which cuBLASLt's bf16 products use on Hopper, and calls each of their
# results unwritten: test_ops is left out there, and test_attention with it. A tool that is not
# installed is said and is a failure: what was not looked at is not clean.
set -u
tool=$1 build=$2 failed=0
if ! command -v "$tool" >/dev/null; then
    echo "compute-sanitizer is not there ($tool): nothing was looked at" >&2
    exit 1
fi
look() { # kind, program
    echo "compute-sanitizer --tool $1 $2"
    SCDIVA_TEST_DEVICES=cuda "$tool" --tool "$1" --error-exitcode 9 --print-limit 20 \
        "$build/$2" >"$build/$2.$1.log" 2>&1 && return
    failed=1
    tail -n 40 "$build/$2.$1.log" >&2
}
for program in test_ops test_attention test_pick test_train_rows test_train_linear \
    test_train_attention test_train_embed test_train_loss test_cuda_model; do
    look memcheck "$program"
done
for program in test_pick test_train_rows test_train_attention test_train_loss; do
    for kind in racecheck synccheck initcheck; do
        look "$kind" "$program"
    done
done
for program in test_ops test_attention; do
    look racecheck "$program"
    look synccheck "$program"
done
exit $failed
