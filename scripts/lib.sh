# shellcheck shell=bash
# What the scripts share: messages, packages, the Rust toolchain, the build, the container engine.
#
# A script sources this file first: `. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"`. It then runs in the
# root of the repository, stops at the first failure, and knows:
#   REPO               the root of the repository
#   CARGO_TARGET_DIR   where the build goes: as given; else $BERTH_TARGET_DIR; else the folder
#                      ${XDG_CACHE_HOME:-~/.cache}/berth-target where it exists; else ./target

set -euo pipefail
export LC_NUMERIC=C

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$REPO"

# An unprivileged user's PATH lacks the sbin folders, and a fresh shell cargo's.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ ! -d "${HOME:-/nonexistent}/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH

choose_target_dir() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/berth-target
    if [ -n "${CARGO_TARGET_DIR:-}" ]; then
        return
    elif [ -n "${BERTH_TARGET_DIR:-}" ]; then
        CARGO_TARGET_DIR=$BERTH_TARGET_DIR
    elif [ -d "$cache" ]; then
        CARGO_TARGET_DIR=$cache
    else
        CARGO_TARGET_DIR=$REPO/target
    fi
    export CARGO_TARGET_DIR
}
choose_target_dir

# ---------------------------------------------------------------------------------------- messages

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    # shellcheck disable=SC2034 # used by the scripts that source this file
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

now_ms() {
    local now=${EPOCHREALTIME/[^0-9]/}
    echo $((now / 1000))
}

# seconds MILLISECONDS: as "1.2 s".
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

say() { printf '%s\n' "$*"; }

# fail MESSAGE [NEXT STEP]: one line, what to do, and the end.
fail() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
    exit 1
}

STEP_NAME='' STEP_BEGAN=0
# step HEADING: ends the step before with its time and begins another.
step() {
    step_end
    STEP_NAME=$1 STEP_BEGAN=$(now_ms)
    printf '\n%s== %s%s\n' "$BOLD" "$1" "$PLAIN"
}

# Prints what the current step took.
step_end() {
    [ -z "$STEP_NAME" ] || printf '%s   (%s: %s)%s\n' "$DIM" "$STEP_NAME" "$(seconds $(($(now_ms) - STEP_BEGAN)))" "$PLAIN"
    STEP_NAME=''
}

# quietly COMMAND..: its output is shown only when it fails.
quietly() {
    local log rc=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || rc=$?
    [ "$rc" = 0 ] || tail -n 40 "$log" >&2
    rm -f "$log"
    return "$rc"
}

# wait_until SECONDS COMMAND..: until it succeeds; fails when it never does.
wait_until() {
    local end=$(($(now_ms) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$end" ] || return 1
        sleep 0.05
    done
}

is_root() { [ "$(id -u)" = 0 ]; }

# ---------------------------------------------------------------------------------------- packages

# What the build needs, and what the tests and the tour use beside it.
# shellcheck disable=SC2034 # used by the scripts that source this file
BUILD_PACKAGES=(gcc libc6-dev libzmq3-dev pkg-config protobuf-compiler libprotobuf-dev ca-certificates)
# shellcheck disable=SC2034
TOUR_PACKAGES=(busybox-static bubblewrap python3 curl)
# Servers of a cluster, which tests start for themselves.
# shellcheck disable=SC2034
CLUSTER_PACKAGES=(redis-server etcd-server)

# Whether what a Debian package is wanted for is there, however it came.
have_package() {
    case $1 in
        gcc) command -v cc >/dev/null ;;
        pkg-config) command -v pkg-config >/dev/null ;;
        libzmq3-dev) [ -e /usr/include/zmq.h ] ;;
        libc6-dev) [ -e /usr/include/stdio.h ] ;;
        python3) [ -x /usr/bin/python3 ] ;; # not another one that PATH finds: kernel-image.sh packs it
        bubblewrap) command -v bwrap >/dev/null ;;
        busybox-static) [ -x /bin/busybox ] ;;
        ca-certificates) [ -e /etc/ssl/certs/ca-certificates.crt ] ;;
        curl) command -v curl >/dev/null ;;
        protobuf-compiler) command -v protoc >/dev/null ;;
        libprotobuf-dev) [ -e /usr/include/google/protobuf/descriptor.proto ] ;;
        redis-server) command -v redis-server >/dev/null ;;
        etcd-server) command -v etcd >/dev/null ;;
        *) dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
    esac
}

# missing_packages NAME..: those that are not there, one a line.
missing_packages() {
    local package
    for package; do
        have_package "$package" || printf '%s\n' "$package"
    done
}

# apt_install NAME..: without recommended packages, with fresh lists where the present ones are stale.
apt_install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends)
    "${apt[@]}" install "$@" >/dev/null 2>&1 || {
        quietly apt-get -qq update && quietly "${apt[@]}" install "$@"
    }
}

# need_packages NAME..: installs what is missing when root, else prints the exact command and stops.
need_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "missing: ${missing[*]}, and this is neither Debian nor Ubuntu" "install what your system calls them, then run this again"
    is_root ||
        fail "missing system packages: ${missing[*]}" "sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
    say "installing ${missing[*]}"
    apt_install "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}" "see its message above"
}

# want_packages NAME..: as need_packages, but without them things go on: some tests will be skipped.
want_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if is_root && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        apt_install "${missing[@]}" || say "note: could not install ${missing[*]}; what needs them is skipped"
    else
        say "note: ${missing[*]} not installed; what needs them is skipped. To install them:"
        say "  sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
}

# ----------------------------------------------------------------------------------------- the build

# The least Rust version, as Cargo.toml has it.
rust_version() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1; }

need_toolchain() {
    local want have
    local how="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y   # then open a new shell"
    want=$(rust_version)
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        fail "there is no Rust toolchain here; berth needs $want or newer" "$how"
    fi
    have=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
    [ -n "$have" ] || fail "rustc --version does not answer" "rustup default stable"
    [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
        fail "rustc is $have; berth needs $want or newer" "rustup update stable"
    say "Rust $have"
}

# Where the built programs lie.
berth_binary() { printf '%s\n' "$CARGO_TARGET_DIR/debug/berth"; }

# Builds the runner and the agent, and says how long that may take.
build_berth() {
    local free_kib
    if [ ! -x "$(berth_binary)" ]; then
        say "the first build takes about 8-15 minutes on two cores; into $CARGO_TARGET_DIR"
        mkdir -p "$CARGO_TARGET_DIR"
        free_kib=$(df -Pk "$CARGO_TARGET_DIR" | awk 'NR == 2 { print $4 }')
        [ "$free_kib" -gt 6000000 ] || say "note: only $((free_kib / 1024)) MiB are free there; the build needs about 6 GiB"
    fi
    # Not by `cargo xtask`, which would first compile what it needs with features of its own.
    cargo build --workspace --bin berth --bin xtask
    "$CARGO_TARGET_DIR/debug/xtask" build
    [ -x "$(berth_binary)" ] || fail "cargo xtask build made no $(berth_binary)" "cargo xtask build"
}

# ------------------------------------------------------------------------------- the container engine

# Whether a Docker Engine answers this user.
docker_answers() { command -v docker >/dev/null && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Why it does not, in a phrase.
docker_problem() {
    if ! command -v docker >/dev/null; then
        echo "no docker program is installed"
    elif [ -z "${DOCKER_HOST:-}" ] && [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        echo "this user may not use /var/run/docker.sock (sudo usermod -aG docker $(id -un), then log in anew)"
    else
        timeout 10 docker version --format x 2>&1 >/dev/null | head -n 1 || true
    fi
}

start_dockerd() {
    if [ -d /run/systemd/system ]; then
        quietly systemctl start docker || true
    else
        quietly service docker start || true
    fi
    wait_until 20 docker_answers
}

# Debian's engine when there is none and we may; false when none can run here.
provide_docker() {
    local packages=(docker.io)
    docker_answers && return 0
    [ -z "${DOCKER_HOST:-}" ] || return 1
    is_root || return 1
    if ! command -v dockerd >/dev/null; then
        command -v apt-get >/dev/null || return 1
        ! apt-cache show docker-cli >/dev/null 2>&1 || packages+=(docker-cli) # a package of its own since Debian 13
        [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || packages+=(apparmor)
        say "installing ${packages[*]}"
        apt_install "${packages[@]}" || return 1
    fi
    say "starting dockerd"
    start_dockerd
}

# ---------------------------------------------------------------------------------------- official peers

# What the tests hold berth against: the client that a Backend.AI manager uses.
PEERS_VERSION=26.9.6

# CPython 3.13, for which these packages are made; fails where there is none.
python_for_peers() {
    local candidate
    for candidate in python3.13 "${HOME:-/nonexistent}"/.pyenv/versions/3.13.*/bin/python3.13 python3; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Installs the official client into a folder of its own, once; says why where it cannot. Exports BERTH_PEERS, the
# Python that has it.
want_peers() {
    local dir python
    dir=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/berth-peers/$PEERS_VERSION
    if [ ! -e "$dir/complete" ]; then
        python=$(python_for_peers) || {
            say "note: no CPython 3.13; tests with the official client are skipped"
            return 0
        }
        say "installing the official client $PEERS_VERSION"
        rm -rf "$dir"
        if ! quietly "$python" -m venv "$dir" ||
            ! quietly "$dir/bin/pip" install --quiet --disable-pip-version-check "backend.ai-common==$PEERS_VERSION"; then
            rm -rf "$dir"
            say "note: the official client cannot be installed; tests with it are skipped"
            return 0
        fi
        touch "$dir/complete"
    fi
    export BERTH_PEERS=$dir/bin/python
}
