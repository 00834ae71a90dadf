#!/bin/bash
# smoke.sh - does the image work? Needs root and Debian's debootstrap, but no container engine.
#
# Carries out the Dockerfile line by line (FROM, WORKDIR, RUN, COPY, ENV, USER...) in roots made by
# debootstrap, one per stage, then runs the last one the way compose.yaml does: the image's user, no
# capabilities, no new privileges, root file system read-only, /data and /tmp writable, a network of
# its own. It is not a container engine: layers, cgroups, seccomp and user namespaces are not
# tested, and `debian:bookworm-slim` is debootstrap's minbase of bookworm.
#
# With `cuda` it is Dockerfile.cuda, without a GPU and without NVIDIA's images: for the one with the
# toolkit stands the same bookworm with this machine's toolkit (CUDA_HOME, else where nvcc is) and
# gcc 11, which is Ubuntu 22.04's, for the one to run in, bookworm with cuBLASLt alone.
#
#     docker/smoke.sh [cuda] [WORKDIR]    WORKDIR is kept, its base system used again; default: a
#                                         new one
# shellcheck disable=SC2086,SC2016 # instructions are split into words on purpose
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
image=cpu
if [ "${1-}" = cuda ]; then
    image=cuda
    shift
fi
dockerfile=$top/docker/Dockerfile
[ "$image" = cpu ] || dockerfile=$dockerfile.cuda

fail() {
    echo "smoke: $*" >&2
    exit 1
}

# ---- build: the Dockerfile's instructions ------------------------------------------------------

declare -A env_of=()
stage='' root='' workdir='' user='' entrypoint='' healthcheck=''
cuda_version='' cuda_home='' cuda_release=''

make_base() {
    [ -e "$work/base/.complete" ] && return
    rm -rf "$work/base"
    echo "smoke: debootstrap"
    debootstrap --variant=minbase bookworm "$work/base" >"$work/debootstrap.log" 2>&1 ||
        fail "debootstrap failed, see $work/debootstrap.log"
    # packages come from where this machine gets them
    cp -a /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/sources.list "$work/base/etc/apt/" \
        2>/dev/null || true
    rm -f "$work"/base/etc/apt/apt.conf.d/*packagekit* "$work"/base/etc/apt/apt.conf.d/*listchanges*
    cp -a /usr/share/keyrings/. "$work/base/usr/share/keyrings/"
    touch "$work/base/.complete"
}

enter() { # user command...: in the root of the stage, with its environment
    local as=$1 vars=() name
    shift
    for name in "${!env_of[@]}"; do vars+=("$name=${env_of[$name]}"); done
    [ "$as" != root ] || as=0:0
    chroot --userspec="$as" --groups= "$root" /usr/bin/env -i \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        DEBIAN_FRONTEND=noninteractive "${vars[@]}" \
        /bin/sh -c 'cd "$0" && exec "$@"' "${workdir:-/}" "$@"
}

mount_kernel() {
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --make-rslave "$root/dev"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
}

do_arg() { # NAME=value, before FROM alone
    [ "$1" = "CUDA=${1#CUDA=}" ] || fail "ARG $1: only CUDA is known here"
    cuda_version=${1#CUDA=}
}

# Where this machine's CUDA is, of the release that the Dockerfile names.
find_cuda() {
    local nvcc
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    cuda_home=${CUDA_HOME:-$(dirname "$(dirname "$(realpath "$nvcc")")")}
    nvcc=$cuda_home/bin/nvcc
    [ -x "$nvcc" ] || fail "needs CUDA's toolkit: no $nvcc (set CUDA_HOME)"
    cuda_release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    [ "${cuda_release%%.*}" = "${cuda_version%%.*}" ] ||
        fail "FROM CUDA $cuda_version, but the toolkit in $cuda_home is $cuda_release"
    echo "smoke: for $1 stands bookworm with CUDA $cuda_release of this machine"
}

# NVIDIA's image with the toolkit, which lies in /usr/local/cuda, and its compiler, which is gcc 11.
add_toolkit() {
    local tool
    mkdir -p "$root/usr/local/cuda"
    mount --bind "$cuda_home" "$root/usr/local/cuda"
    mount -o remount,bind,ro "$root/usr/local/cuda"
    enter root sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends g++-11' \
        >>"$work/$stage.log" 2>&1 || fail "no gcc 11: $(tail -3 "$work/$stage.log")"
    for tool in gcc g++; do ln -s "/usr/bin/$tool-11" "$root/usr/local/bin/$tool"; done
    echo "smoke: its compiler is $(enter root gcc --version | head -1)"
}

# NVIDIA's image to run in: of all its libraries the one that we load.
add_cublaslt() {
    local name=libcublasLt.so.${cuda_release%%.*}
    mkdir -p "$root/usr/local/cuda/lib64"
    cp -L "$cuda_home/lib64/$name" "$root/usr/local/cuda/lib64/"
    echo /usr/local/cuda/lib64 >"$root/etc/ld.so.conf.d/cuda.conf"
    chroot "$root" /sbin/ldconfig
}

do_from() { # image [AS name]
    stage=${3:-final}
    root=$work/$stage
    env_of=() workdir=/ user=root entrypoint='' healthcheck=''
    cp -a "$work/base" "$root"
    mount_kernel
    case $1 in
        debian:bookworm-slim) ;;
        nvidia/cuda:*-devel-ubuntu22.04) find_cuda "$1" && add_toolkit ;;
        nvidia/cuda:*-runtime-ubuntu22.04) find_cuda "$1" && add_cublaslt ;;
        *) fail "FROM $1: not known here" ;;
    esac
}

do_copy() { # [--from=stage] source... target
    local from=$top target paths=() path
    case $1 in
        --from=*) from=$work/${1#--from=} && shift ;;
        --*) fail "COPY $1: not known here" ;;
    esac
    target=${*: -1}
    case $target in /*) ;; *) target=$workdir/$target ;; esac
    paths=("${@:1:$#-1}")
    case $target in */) mkdir -p "$root$target" ;; *) mkdir -p "$root${target%/*}" ;; esac
    for path in "${paths[@]}"; do
        if [ -d "$from/$path" ]; then # a directory stands for its content
            cp -r "$from/$path/." "$root$target"
        else
            cp "$from/$path" "$root$target"
        fi
    done
}

do_env() {
    local pair
    for pair in "$@"; do env_of[${pair%%=*}]=${pair#*=}; done
}

# ["a", "b"] as words; no escapes, none are used
json_words() {
    tr -d '[]",' <<<"$1"
}

build() {
    local line word rest
    while read -r line; do
        word=${line%% *} rest=${line#* }
        echo "smoke: $stage> ${line:0:100}"
        case $word in
            ARG) do_arg "$rest" ;;
            FROM) do_from ${rest/'${CUDA}'/"$cuda_version"} ;;
            RUN) enter "$user" /bin/sh -c "$rest" >>"$work/$stage.log" 2>&1 ||
                fail "RUN failed, see $work/$stage.log: $(tail -3 "$work/$stage.log")" ;;
            COPY) do_copy $rest ;;
            ENV) do_env $rest ;;
            WORKDIR) workdir=$rest && mkdir -p "$root$workdir" ;;
            USER) user=$rest ;;
            ENTRYPOINT) entrypoint=$(json_words "$rest") ;;
            HEALTHCHECK) healthcheck=$(json_words "${rest#*CMD }") ;;
            VOLUME) [ "$rest" = /data ] || fail "VOLUME $rest: only /data is known here" ;;
            EXPOSE) [ "$rest" = 8080 ] || fail "EXPOSE $rest: 8080 expected" ;;
            *) fail "$word: not known here" ;;
        esac
    done < <(awk '/^[ \t]*(#|$)/ { next }
                  sub(/\\$/, "") { kept = kept $0; next }
                  { print kept $0; kept = "" }' "$dockerfile")
}

# ---- run: as compose.yaml would ------------------------------------------------------------------

token=smoke-test-token
url=http://127.0.0.1:8080
daemon=''

start() { # [flags]: as process 1 of its own, with nothing to gain
    local vars=() name
    for name in "${!env_of[@]}"; do vars+=("$name=${env_of[$name]}"); done
    unshare --pid --fork chroot "$root" /usr/bin/setpriv --reuid="${user%:*}" --regid="${user#*:}" \
        --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        /usr/bin/env -i --chdir="$workdir" PATH=/usr/local/bin:/usr/bin:/bin "${vars[@]}" \
        "$entrypoint" "$@" 2>"$work/daemon.log" &
    daemon=$!
}

wait_ready() {
    local _
    for _ in $(seq 100); do
        enter "$user" $healthcheck 2>/dev/null && return
        kill -0 "$daemon" 2>/dev/null || fail "the daemon ended: $(tail -3 "$work/daemon.log")"
        sleep 0.1
    done
    fail "not ready after 10 s: $(tail -3 "$work/daemon.log")"
}

stop() {
    kill -TERM "$(pgrep -P "$daemon")"
    wait "$daemon" || fail "SIGTERM: exit status $?, 0 expected"
}

post() { # expected status, curl options...: the answer in $work/answer.json
    local want=$1 got
    shift
    got=$(curl -s -o "$work/answer.json" -w '%{http_code}' "$@" \
        -H 'Content-Type: application/json' \
        -d '{"cells": [{"id": "c1", "genes": ["CD3D", "LYZ"], "values": [2, 5]}], "force": true}' \
        "$url/v1/embeddings")
    [ "$got" = "$want" ] || fail "status $got, expected $want: $(head -c 500 "$work/answer.json")"
}

mib() {
    du -smx "$1" | cut -f1
}

checked() {
    echo "smoke: ok - $*"
}

# Every library of every program is there.
check_libraries() {
    local file
    for file in "$root"/usr/local/bin/scdiva*; do
        case $file in *healthcheck) continue ;; esac
        enter "$user" ldd "${file#"$root"}" >"$work/ldd.txt" 2>&1 || fail "$(cat "$work/ldd.txt")"
        ! grep 'not found' "$work/ldd.txt" >&2 || fail "libraries of ${file#"$root"} are missing"
    done
    checked "the programs' libraries are all there"
}

# Of CUDA there is what a GPU needs to be used, and no toolkit.
check_cuda_files() {
    local name=libcublasLt.so.${cuda_release%%.*} tool
    [ -e "$root/usr/local/bin/scdiva_cuda.so" ] || fail "scdiva_cuda.so is not in the image"
    # found and loaded the way dlopen does it
    enter "$user" /usr/bin/env LD_PRELOAD="$name" /bin/true 2>"$work/ldd.txt"
    [ ! -s "$work/ldd.txt" ] || fail "$name: $(cat "$work/ldd.txt")"
    for tool in nvcc gcc g++ cc make; do
        ! enter "$user" sh -c "command -v $tool || ls /usr/local/cuda/bin/$tool" >/dev/null 2>&1 ||
            fail "$tool is in the image"
    done
    checked "the image has scdiva_cuda.so and $name, and no compiler"
}

# Without a GPU: auto says so in one line and computes on the CPU, cuda does not start.
check_cuda_device() {
    start --device cuda
    ! wait "$daemon" || fail "--device cuda without a GPU: it ended well"
    grep -q 'there is no NVIDIA driver on this machine' "$work/daemon.log" ||
        fail "--device cuda without a GPU: $(cat "$work/daemon.log")"
    checked "without a GPU it says $(grep -o '\-\-device cuda: [^"]*' "$work/daemon.log")"
    start --device auto
    wait_ready
    stop
    if [ "$(grep -c NVIDIA "$work/daemon.log")" != 1 ] ||
        ! grep NVIDIA "$work/daemon.log" | grep -q '"device":"cpu"'; then
        fail "--device auto: $(cat "$work/daemon.log")"
    fi
    checked "--device auto takes the CPU and says why, in one line"
}

check_image() {
    ip link set lo up
    # the file systems of a container with read_only: true
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t tmpfs -o "mode=0700,uid=${user%:*},gid=${user#*:}" tmpfs "$root/data"
    mount -t tmpfs -o mode=1777,noexec tmpfs "$root/tmp"
    mount --bind "$work/model" "$root/model"
    mount -o remount,bind,ro "$root/model"
    mount_kernel_again

    enter "$user" touch /usr/local/probe 2>/dev/null && fail "the root file system can be written"
    checked "root file system read-only, user $user"
    check_libraries
    [ "$image" = cpu ] || check_cuda_files

    start
    wait "$daemon" && fail "it serves everyone without keys"
    grep -q -e --keys "$work/daemon.log" || fail "no word about keys: $(cat "$work/daemon.log")"
    checked "without keys it refuses to start and says why"

    printf '%s smoke\n' "$(printf %s "$token" | sha256sum | cut -d' ' -f1)" >"$root/tmp/keys"
    chown "${user%:*}" "$root/tmp/keys" && chmod 600 "$root/tmp/keys"
    env_of[SCDIVA_KEYS]=/tmp/keys
    start
    wait_ready
    checked "ready, by the image's own health check"
    [ "$(awk '/^CapEff/ { print $2 }' "/proc/$(pgrep -P "$daemon")/status")" = 0000000000000000 ] ||
        fail "the daemon has capabilities"
    checked "no capabilities"

    post 401
    post 200 -H "Authorization: Bearer $token"
    grep -q '"cache":"miss"' "$work/answer.json" || fail "$(head -c 500 "$work/answer.json")"
    grep -q '"embedding":\[-\?[0-9]' "$work/answer.json" || fail "no embedding in the answer"
    checked "a cell is embedded with a key, and refused without"

    stop
    enter "$user" $healthcheck 2>/dev/null && fail "the health check passes without a daemon"
    checked "SIGTERM to process 1: exit status 0"
    [ -s "$root/data/cache.db" ] || fail "no cache in /data"
    start
    wait_ready
    post 200 -H "Authorization: Bearer $token"
    grep -q '"cache":"hit"' "$work/answer.json" || fail "the cache did not outlive a restart"
    stop
    checked "the cache in /data outlives a restart"
    [ "$image" = cpu ] || check_cuda_device
    echo "smoke: size of the root of the image: $(mib "$root") MiB," \
        "of which the programs $(mib "$root"/usr/local/bin)"
    [ "$image" = cpu ] || echo "smoke: and cuBLASLt, without the rest of NVIDIA's image, $(
        mib "$root/usr/local/cuda"
    )"
    echo "smoke: the Dockerfile's steps and the checks above passed; no container engine was used"
}

mount_kernel_again() { # the stage's own mounts lie below the read-only bind mount now
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    mountpoint -q "$root/dev" && return
    mount --rbind /dev "$root/dev"
    mount --make-rslave "$root/dev"
}

if [ "${1-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || fail "needs root, for chroot and mounts"
    for tool in debootstrap unshare setpriv curl ip; do
        command -v "$tool" >/dev/null || fail "needs $tool"
    done
    work=${1:-$(mktemp -d)}
    mkdir -p "$work"
    work=$(cd "$work" && pwd)
    make_base
    rm -rf --one-file-system "$work/build" "$work/final" "$work/model" "$work"/*.log
    status=0
    what=()
    [ "$image" = cpu ] || what=(cuda)
    unshare --mount "$0" "${what[@]}" --inside build "$work" &&
        unshare --mount --net --pid --fork --mount-proc "$0" "${what[@]}" --inside run "$work" ||
        status=$?
    [ "$#" -gt 0 ] || rm -rf --one-file-system "$work"
    exit "$status"
fi

work=$3
mount --make-rprivate /
if [ "$2" = build ]; then
    build
    mkdir -p "$work/model"
    cp "$top/tests/fixtures/pbmc68k_genes.tsv" "$root/tmp/genes.tsv"
    enter 0:0 scdiva-train init --out /tmp/model --genes /tmp/genes.tsv --hidden 64 --dim 64 \
        --layers 2 --heads 2 --ffn 128 --seed 1 >"$work/model.log" 2>&1 ||
        fail "$(cat "$work/model.log")"
    cp -r "$root/tmp/model/." "$work/model/"
    chmod -R a+rX "$work/model"
    rm -rf "$root/tmp/model" "$root/tmp/genes.tsv"
    declare -p root workdir user entrypoint healthcheck env_of cuda_release >"$work/image.env"
else
    # shellcheck disable=SC1091
    . "$work/image.env"
    check_image
fi
