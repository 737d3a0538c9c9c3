#!/usr/bin/env bash
# Runs the acceptance checks and prints one line for each: ok or FAIL, what, value and limit.
#
#   scripts/acceptance.sh [OPTIONS]
#
#   --engine docker|process  for items 2-4 and bad input (docker; process where no Docker engine answers)
#   --only N[,N..]           of: 2 3 4 5 6 7 8 bad load idle policies, and, not run unless asked for, 1 (quickstart.sh
#                            twice), engine (frozen and restarted; root), crash (minutes of kill -9), door (calls;
#                            builds benches)
#   --as USER                items 2-4 and 6 as this user of the docker group, with programs installed
#                            outside the clone; made and removed again when there is none (root).
#                            Without it item 6 does so with a user of its own.
#
#   2 run   3 create, exec, stop, rm   4 interrupt   5 limits   6 unprivileged, files of root
#   7 process engine with and without bubblewrap   8 what runner and agent add   bad  bad input
#   load  many creations, much output   idle  an agent with ten idle kernels   policies  examples, swap, mistakes
#
# Exits 0 when no check failed. Build first: scripts/quickstart.sh or cargo xtask build.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
TOOLS=$REPO/scripts/acceptance
# shellcheck source=acceptance/lib.sh
. "$TOOLS/lib.sh"
# shellcheck source=acceptance/kernels.sh
. "$TOOLS/kernels.sh"
# shellcheck source=acceptance/timing.sh
. "$TOOLS/timing.sh"
# shellcheck source=acceptance/bad-input.sh
. "$TOOLS/bad-input.sh"
# shellcheck source=acceptance/load.sh
. "$TOOLS/load.sh"
# shellcheck source=acceptance/door.sh
. "$TOOLS/door.sh"
# shellcheck source=acceptance/engine.sh
. "$TOOLS/engine.sh"
# shellcheck source=acceptance/policies.sh
. "$TOOLS/policies.sh"
set +e # a failed check is counted, not the end

ENGINE='' ONLY=2,3,4,5,6,7,8,bad,load,idle,policies AS=''
while [ $# -gt 0 ]; do
    case $1 in
        --engine) ENGINE=${2:?--engine docker or process} && shift ;;
        --only) ONLY=${2:?--only N} && shift ;;
        --as) AS=${2:?--as USER} && shift ;;
        # For the second half of --as: what to say before each check.
        --context) CONTEXT="${2?} " && shift ;;
        -h | --help) sed -n '2,/^\./{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
        *) fail "there is no option $1" "scripts/acceptance.sh --help" ;;
    esac
    shift
done
case $ENGINE in
    docker) docker_answers || fail "no Docker engine answers: $(docker_problem)" "scripts/acceptance.sh --engine process" ;;
    process) ;;
    '') if docker_answers; then ENGINE=docker; else ENGINE=process; fi ;;
    *) fail "--engine is docker or process, not $ENGINE" ;;
esac
BERTH_BINARY=${BERTH_BINARY:-$(berth_binary)}
[ -x "$BERTH_BINARY" ] || fail "berth is not built: no $BERTH_BINARY" "cargo xtask build"
[ -x /usr/bin/python3 ] || fail "the checks read JSON with /usr/bin/python3" "sudo apt-get install python3"

WORK=$(mktemp -d "${TMPDIR:-/tmp}/berth-acceptance.XXXXXX")
chmod 755 "$WORK" # kernels of a root agent run as another user
MADE_USER='' MADE_PREFIX=''
clean_up() {
    trap - EXIT
    agent_stop
    private_engine_remove
    [ -z "$MADE_PREFIX" ] || rm -rf "$MADE_PREFIX"
    [ -z "$MADE_USER" ] || userdel --remove "$MADE_USER" >/dev/null 2>&1 || userdel "$MADE_USER"
    rm -rf "$WORK"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wanted() { [[ ,$ONLY, == *,$1,* ]]; }
heading() { printf '\n%s-- %s%s\n' "$BOLD" "$1" "$PLAIN"; }

# The image that kernels run in.
provide_image() {
    if [ "$ENGINE" = process ]; then
        IMAGE=host
    elif [ -z "${IMAGE:-}" ] || [ "$IMAGE" = host ]; then
        IMAGE=$("$REPO/scripts/kernel-image.sh" | tail -n 1)
    fi
}

# ------------------------------------------------------------------------------- as an ordinary user

# as_user USER: installs what is built where the user can read it and runs items 2-4 and 6 by the user.
as_user() {
    local user=$1 counts command
    if [ "$(id -un)" != "$user" ]; then
        is_root || fail "only root can run checks as $user" "sudo scripts/acceptance.sh --as $user"
        if ! id "$user" >/dev/null 2>&1; then
            useradd --create-home --groups docker --shell /bin/sh "$user" || { result FAIL "a user of the docker group" "useradd"; return; }
            MADE_USER=$user
        fi
    fi
    # bin/ and libexec/, as a package would install them: the agent finds its runner there. The
    # policies are inside the agent.
    MADE_PREFIX=$(mktemp -d /opt/berth-acceptance.XXXXXX 2>/dev/null || mktemp -d "$HOME/berth-acceptance.XXXXXX")
    chmod 755 "$MADE_PREFIX"
    install -D -m 755 "$BERTH_BINARY" "$MADE_PREFIX/bin/berth"
    install -D -m 755 "$(dirname "$BERTH_BINARY")/../libexec/berth/berth-runner" "$MADE_PREFIX/libexec/berth/berth-runner"
    install -D -m 644 -t "$MADE_PREFIX/scripts" "$REPO"/scripts/lib.sh
    install -D -m 755 -t "$MADE_PREFIX/scripts" "$REPO"/scripts/acceptance.sh
    install -D -m 644 -t "$MADE_PREFIX/scripts/acceptance" "$TOOLS"/*
    # A folder of theirs below ours, so that root removes it whatever a failed check leaves in it.
    mkdir "$WORK/theirs"
    chown "$user" "$WORK/theirs"
    # Nothing of ours in the environment but what is named here.
    command=(env -i "TMPDIR=$WORK/theirs" "HOME=$(getent passwd "$user" | cut -d: -f6)" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        "BERTH_BINARY=$MADE_PREFIX/bin/berth" "IMAGE=$IMAGE" "LANG=${LANG:-C.UTF-8}"
        "$MADE_PREFIX/scripts/acceptance.sh" --engine docker --only "2,3,4,root-files" --context "as a user:")
    [ "$(id -un)" = "$user" ] || command=(runuser -u "$user" -- "${command[@]}")
    counts=$WORK/as-user
    (cd / && "${command[@]}") | tee "$counts"
    PASSED=$((PASSED + $(grep -c '^ok ' "$counts"))) FAILED=$((FAILED + $(grep -c '^FAIL' "$counts")))
    grep -q ' passed, ' "$counts" || result FAIL "the checks as $user ran to their end"
    rm -rf "$MADE_PREFIX" "$WORK/theirs"
    MADE_PREFIX=''
}

# ------------------------------------------------------------------------------ by the process engine

# A folder of links to all programs but bubblewrap.
path_without_bwrap() {
    local folder program
    mkdir -p "$WORK/no-bwrap"
    for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        for program in "$folder"/*; do
            [ "${program##*/}" = bwrap ] || [ -e "$WORK/no-bwrap/${program##*/}" ] || ln -s "$program" "$WORK/no-bwrap/" 2>/dev/null
        done
    done
    printf '%s\n' "$WORK/no-bwrap"
}

# Each limit of the kernel `limited` is enforced, or said not to be.
limits_hold_or_are_said() {
    local said
    said=$(berth inspect limited -o json | get not_enforced)
    capture berth exec limited -- /usr/bin/python3 -c 'import os; print(len(os.sched_getaffinity(0)))' </dev/null
    if [ "$OUT" = 1 ]; then
        result ok "one core of its own is enforced" "value $OUT   limit = 1"
    else
        says "that cores are not enforced is said with the kernel" "$said" 'core'
    fi
    capture berth exec limited -- /usr/bin/python3 -c 'b = b"x" * (300 << 20); print(len(b))' </dev/null
    if [ "$RC" = 137 ]; then
        result ok "64 MiB of memory are enforced" "value killed   limit = killed"
    else
        says "that memory is not limited is said with the kernel" "$said" 'memory'
    fi
}

by_process() {
    # Seen by what is called from here.
    # shellcheck disable=SC2034
    local ENGINE=process IMAGE=host CONTEXT="process, $1: " SERVE_PATH=${2:-}
    agent_start || return
    says "what is not isolated or enforced is said by status" "$(berth status -o json | get engine.not_enforced)" '.'
    item_2
    item_3
    item_4
    berth create --name limited --image host --cpus 1 --mem 64m >"$WORK/out" 2>&1
    limits_hold_or_are_said
    berth stop limited >/dev/null
    berth rm limited >/dev/null
    nothing_left "limits"
    agent_stop
}

# ------------------------------------------------------------------------------------------ the checks

began=$(now_ms)
provide_image
say "berth: $("$BERTH_BINARY" --version 2>/dev/null), engine $ENGINE, image $IMAGE, as $(id -un)"

if [ -n "$AS" ]; then
    ENGINE=docker
    as_user "$AS"
    ONLY=''
fi

if wanted 1; then
    heading "1 quickstart.sh, twice"
    for attempt in first second; do
        began_1=$(now_ms)
        quietly "$REPO/scripts/quickstart.sh"
        RC=$?
        equal "quickstart.sh, $attempt time: exit status" "$RC" 0
        took=$(($(now_ms) - began_1))
    done
    at_most "quickstart.sh, second time" "$((took / 1000))" 60 s
fi

if wanted 2 || wanted 3 || wanted 4 || wanted root-files || wanted load || wanted idle || { [ "$ENGINE" = docker ] && { wanted 5 || wanted 8; }; }; then
    if agent_start; then
        for item in 2 3 4; do
            wanted $item || continue
            case $item in
                2) heading "${CONTEXT}2 run" ;;
                3) heading "${CONTEXT}3 create, exec, stop, rm" ;;
                4) heading "${CONTEXT}4 interrupt" ;;
            esac
            item_$item
        done
        if [ "$ENGINE" = docker ]; then
            if wanted 5; then heading "5 limits" && item_5; fi
            if wanted root-files; then heading "${CONTEXT}files of root" && root_files; fi
            if wanted 8; then heading "8 what runner and agent add" && item_8; fi
        fi
        if wanted load; then heading "${CONTEXT}many creations, much output" && load; fi
        if wanted idle; then heading "${CONTEXT}an idle agent" && idle; fi
        agent_stop
    fi
fi

if wanted 6; then
    heading "6 as an unprivileged user of the docker group"
    if [ "$ENGINE" != docker ]; then
        result skip "6" "no Docker engine"
    elif is_root; then
        as_user "berth-check-$$"
    else
        as_user "$(id -un)"
    fi
fi

if wanted 7; then
    heading "7 process engine with bubblewrap"
    if command -v bwrap >/dev/null; then
        by_process "bwrap"
    else
        result skip "with bubblewrap" "not installed (apt-get install bubblewrap)"
    fi
    heading "7 process engine without bubblewrap"
    by_process "no bwrap" "$(path_without_bwrap)"
fi

if wanted bad; then
    heading "bad input"
    if agent_start; then
        bad_requests
        [ "$ENGINE" != docker ] || bad_images
        agent_stop
    fi
    bad_starts
    [ "$ENGINE" != docker ] || bad_permission
fi

if wanted policies; then policies; fi
if wanted engine; then
    heading "an engine that hangs or is restarted"
    engine_faults
fi

if wanted door; then
    door
fi

if wanted crash; then
    heading "kill -9"
    BERTH_CRASH_KILLS=200 BERTH_CRASH_KILLS_DOCKER=20 cargo test --workspace --test crash -- --nocapture 2>&1 |
        grep -E '^test |kills;|^seed|skipped|panicked' -A2 | sed 's/^/      /' | tee "$WORK/crash"
    if grep -q 'FAILED' "$WORK/crash" || ! grep -q ' ok$' "$WORK/crash"; then
        result FAIL "every kill leads to the same end" "see above"
    else
        result ok "every kill leads to the same end" "$(grep -c ' ok$' "$WORK/crash") tests"
    fi
fi

printf '\n%d passed, %d failed' "$PASSED" "$FAILED"
[ "$SKIPPED" = 0 ] || printf ', %d skipped' "$SKIPPED"
printf '   (%s)\n' "$(seconds $(($(now_ms) - began)))"
[ "$FAILED" = 0 ]
