#!/bin/bash
# smoke.sh - does the image work? Needs root and Debian's debootstrap, but no container engine.
#
# Carries out docker/Dockerfile line by line (FROM, WORKDIR, RUN, COPY, ENV, USER...) in roots made
# by debootstrap, one per stage, then runs the last one the way compose.yaml does: the image's user,
# no capabilities, no new privileges, root file system read-only, /data and /tmp writable, a network
# of its own. It is not a container engine: layers, cgroups, seccomp and user namespaces are not
# tested, and `debian:bookworm-slim` is debootstrap's minbase of bookworm.
#
#     docker/smoke.sh [WORKDIR]    WORKDIR is kept, its base system used again; default: a new one
# shellcheck disable=SC2086,SC2016 # instructions are split into words on purpose
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
dockerfile=$top/docker/Dockerfile

fail() {
    echo "smoke: $*" >&2
    exit 1
}

# ---- build: the Dockerfile's instructions ------------------------------------------------------

declare -A env_of=()
stage='' root='' workdir='' user='' entrypoint='' healthcheck=''

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

do_from() { # image [AS name]
    [ "$1" = debian:bookworm-slim ] || fail "FROM $1: only debian:bookworm-slim is known here"
    stage=${3:-final}
    root=$work/$stage
    env_of=() workdir=/ user=root entrypoint='' healthcheck=''
    cp -a "$work/base" "$root"
    mount_kernel
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
            FROM) do_from $rest ;;
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

start() { # as process 1 of its own, with nothing to gain
    local vars=() name
    for name in "${!env_of[@]}"; do vars+=("$name=${env_of[$name]}"); done
    unshare --pid --fork chroot "$root" /usr/bin/setpriv --reuid="${user%:*}" --regid="${user#*:}" \
        --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        /usr/bin/env -i --chdir="$workdir" PATH=/usr/local/bin:/usr/bin:/bin "${vars[@]}" \
        "$entrypoint" 2>"$work/daemon.log" &
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

checked() {
    echo "smoke: ok - $*"
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
    echo "smoke: size of the root of the image: $(du -smx "$root" | cut -f1) MiB"
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
    unshare --mount "$0" --inside build "$work" &&
        unshare --mount --net --pid --fork --mount-proc "$0" --inside run "$work" || status=$?
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
    declare -p root workdir user entrypoint healthcheck env_of >"$work/image.env"
else
    # shellcheck disable=SC1091
    . "$work/image.env"
    check_image
fi
