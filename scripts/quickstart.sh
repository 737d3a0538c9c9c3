#!/usr/bin/env bash
# From a clean clone to real code in a real container, with nothing left behind:
# sets up what is missing, builds, starts an agent with folders of its own, runs Python in kernels, shows
# which policy decided what, and stops all it started. The second time it takes seconds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
began=$(now_ms)

case ${1:-} in
    '') ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit ;;
    *) fail "quickstart.sh takes no arguments" "scripts/quickstart.sh" ;;
esac

# ----------------------------------------------------------------------------------------- clean-up

home='' agent='' engine=docker image='' instance=''
clean_up() {
    local rc=$?
    trap - EXIT INT TERM
    set +e
    step_end
    if [ -n "$agent" ] && kill -0 "$agent" 2>/dev/null; then
        berth rm --force quick-start >/dev/null 2>&1
        kill -TERM "$agent"
        wait "$agent" 2>/dev/null
    fi
    if [ "$rc" != 0 ] && [ -n "$home" ]; then
        [ ! -s "$home/agent.log" ] || { say "the last lines of the agent's log:" && tail -n 20 "$home/agent.log"; } >&2
    fi
    # Should the agent have died: its containers carry its instance id.
    [ -z "$instance" ] || [ "$engine" != docker ] ||
        docker ps -aq --filter "label=ai.berth.instance=$instance" | xargs -r docker rm -f >/dev/null 2>&1
    [ -z "$home" ] || rm -rf "$home"
    exit "$rc"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# shown COMMAND..: the command as one would type it, then what it does.
shown() {
    printf '%s$ %s%s\n' "$BOLD" "$(printf '%s ' "${@@Q}" | sed "s/'\([A-Za-z0-9_.:=,/+-]*\)'/\1/g; s/ $//")" "$PLAIN"
    "$@"
}

# field NAME: the text or number of that name in the JSON on standard input (the first one).
field() { tr -d '\n' | sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p'; }

berth() { "$binary" "$@"; }

# ------------------------------------------------------------------------------------- what is needed

home=$(mktemp -d "${TMPDIR:-/tmp}/berth-quickstart.XXXXXX")
# A folder mounted noexec cannot hold what kernels run.
if findmnt -no OPTIONS -T "$home" 2>/dev/null | grep -qw noexec; then
    rmdir "$home"
    mkdir -p "${XDG_STATE_HOME:-$HOME/.local/state}"
    home=$(mktemp -d "${XDG_STATE_HOME:-$HOME/.local/state}/berth-quickstart.XXXXXX")
fi
chmod 711 "$home" # kernels of a root agent run as another user

step "system packages"
need_packages "${BUILD_PACKAGES[@]}"
want_packages "${TOUR_PACKAGES[@]}"
say "all there"

step "Rust toolchain"
need_toolchain

step "container engine"
if provide_docker; then
    say "Docker $(docker version --format '{{.Server.Version}}')"
else
    engine=process
    say "No Docker engine can be used here: $(docker_problem)."
    say "Going on with the process engine: kernels are processes of this machine, confined by bubblewrap"
    say "where it works. What is not isolated or limited is said below."
fi

step "build"
build_berth
binary=$(berth_binary)
say "$(berth --version)"

step "kernel image"
if [ "$engine" = docker ]; then
    "$REPO/scripts/kernel-image.sh" | tee "$home/said"
    image=$(tail -n 1 "$home/said")
else
    image=host
    say "the process engine knows one image, host: this machine's own programs"
fi

# ------------------------------------------------------------------------------------------ the agent

step "an agent with folders of its own"
export BERTH_SOCKET=$home/berth.sock
# Kernels of the process engine find this machine's own Python, not a private one of this user.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "$binary" serve --engine "$engine" --state-dir "$home/state" --socket "$BERTH_SOCKET" >"$home/agent.log" 2>&1 &
agent=$!
ready_or_gone() { berth status || ! kill -0 "$agent"; }
wait_until 30 ready_or_gone || fail "the agent was not ready within 30 s"
kill -0 "$agent" 2>/dev/null || fail "the agent did not start"
instance=$(berth status -o json | field instance)
say "berth serve runs with pid $agent, state in $home/state"
shown berth status

step "what this node offers"
shown berth slots

# -------------------------------------------------------------------------------------- the first code

step "run a script"
cat >"$home/hello.py" <<'PYTHON'
import hashlib, os

data = os.urandom(1 << 20)
print(6 * 7)
print("sha256 of a megabyte of random bytes:", hashlib.sha256(data).hexdigest())
PYTHON
cat "$home/hello.py"
shown berth run --image "$image" "$home/hello.py" | tee "$home/said"
grep -qx 42 "$home/said" || fail "the script did not print 42"
grep -Eq 'sha256 of .*: [0-9a-f]{64}$' "$home/said" || fail "the script printed no sha256"

# --------------------------------------------------------------------------- a kernel that stays a while

step "a kernel that stays: who decided what"
shown berth create --name quick-start --image "$image" --mem 256m
shown berth exec quick-start --code 'x = 41'
shown berth exec quick-start --code 'print(x + 1)' | tee "$home/said"
grep -qx 42 "$home/said" || fail "the kernel forgot its variable"
shown berth exec quick-start --code 'import os; print(open("random", "wb").write(os.urandom(1 << 20)), "bytes")'
inside=$(berth exec quick-start -- sha256sum random | cut -d' ' -f1)
outside=$(sha256sum "$(berth inspect -o json quick-start | field work_dir)/random" | cut -d' ' -f1)
say "sha256 inside the kernel:    $inside"
say "the same file on this host:  $outside"
[ "$inside" = "$outside" ] || fail "the two differ"

shown berth inspect quick-start
shown berth policy list
container=$(berth inspect -o json quick-start | field container)
[ -n "$container" ] || fail "berth inspect tells no container id"
if [ "$engine" = docker ]; then
    shown docker ps --filter "id=$container" --format 'table {{.ID}}\t{{.Image}}\t{{.Status}}\t{{.Names}}'
    docker ps --no-trunc -q --filter "id=$container" | grep -qx "$container" || fail "docker ps does not show container $container"
else
    say "its container (a process tree of this machine): $container"
fi

step "stop it"
shown berth stop quick-start
shown berth rm quick-start
shown berth ps -a
if [ "$engine" = docker ]; then
    ! docker inspect "$container" >/dev/null 2>&1 || fail "container $container is still there"
    say "docker inspect: container ${container:0:12} is gone"
    left=$(docker ps -aq --filter "label=ai.berth.instance=$instance")
    [ -z "$left" ] || fail "containers are left: $left"
fi

step "stop the agent"
kill -TERM "$agent"
rc=0
wait "$agent" || rc=$?
agent=''
[ "$rc" = 0 ] || fail "the agent ended with status $rc"
rm -rf "$home"
home=''
say "agent and folders are gone"

step_end
printf '\n%sDone in %s.%s Next: README.md has a two-minute tour; %s run --code '"'print(6*7)'"' works without an agent too.\n' \
    "$GREEN" "$(seconds $(($(now_ms) - began)))" "$PLAIN" "${binary#"$REPO"/}"
