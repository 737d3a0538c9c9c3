# shellcheck shell=bash disable=SC2034,SC2153
# What the acceptance checks share: counting, an agent of their own, and looking for what was left behind.

PASSED=0 FAILED=0 SKIPPED=0
# Said before each check: which engine, which user.
CONTEXT=''

# result ok|FAIL|skip WHAT [DETAIL]: one line per check.
result() {
    local colour=$GREEN
    case $1 in
        ok) PASSED=$((PASSED + 1)) ;;
        skip) SKIPPED=$((SKIPPED + 1)) colour=$DIM ;;
        *) FAILED=$((FAILED + 1)) colour=$RED ;;
    esac
    printf '%s%-4s%s  %-62s %s\n' "$colour" "$1" "$PLAIN" "$CONTEXT$2" "${3:-}"
}

# equal WHAT GOT WANTED
equal() {
    if [ "$2" = "$3" ]; then
        result ok "$1" "value $(short "$2")   limit = $(short "$3")"
    else
        result FAIL "$1" "value $(short "$2")   limit = $(short "$3")"
    fi
}

# at_most WHAT VALUE LIMIT UNIT
at_most() {
    if [ -n "$2" ] && awk -v v="$2" -v l="$3" 'BEGIN { exit !(v + 0 <= l + 0) }'; then
        result ok "$1" "value $2 $4   limit <= $3 $4"
    else
        result FAIL "$1" "value ${2:-none} $4   limit <= $3 $4"
    fi
}

# says WHAT TEXT PATTERN: an extended regular expression that some line of the text must match.
says() {
    if grep -Eqi -- "$3" <<<"$2"; then
        result ok "$1" "value $(short "$2")   limit ~ $3"
    else
        result FAIL "$1" "value $(short "$2")   limit ~ $3"
    fi
}

# holds WHAT COMMAND..: succeeds.
holds() {
    local what=$1
    shift
    if "$@" >/dev/null 2>&1 </dev/null; then result ok "$what"; else result FAIL "$what" "failed: $*"; fi
}

# A text in one short line.
short() {
    local text=${1//$'\n'/ / }
    [ ${#text} -le 90 ] || text="${text:0:87}..."
    printf '"%s"' "$text"
}

get() { /usr/bin/python3 "$TOOLS/tool.py" get "$1"; }
median() { /usr/bin/python3 "$TOOLS/tool.py" median; }
berth() { "$BERTH_BINARY" "$@"; }

# capture COMMAND..: sets OUT, ERR and RC. Standard input is passed on.
OUT='' ERR='' RC=0
capture() {
    RC=0
    "$@" >"$WORK/out" 2>"$WORK/err" || RC=$?
    OUT=$(cat "$WORK/out")
    ERR=$(cat "$WORK/err")
}

# ------------------------------------------------------------------------------------------- an agent

AGENT='' AGENT_DIR='' INSTANCE=''
# Agents run with it: kernels of the process engine must not find a private Python of this user.
SYSTEM_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# agent_start: an agent with folders of its own, with the engine of $ENGINE.
agent_start() {
    AGENT_DIR=$(mktemp -d "$WORK/agent.XXXXXX")
    export BERTH_SOCKET=$AGENT_DIR/berth.sock
    PATH=${SERVE_PATH:-$SYSTEM_PATH} \
        "$BERTH_BINARY" serve --engine "$ENGINE" --state-dir "$AGENT_DIR/state" --socket "$BERTH_SOCKET" \
        >"$AGENT_DIR/log" 2>&1 </dev/null &
    AGENT=$!
    if wait_until 30 agent_ready_or_gone && kill -0 "$AGENT" 2>/dev/null; then
        INSTANCE=$(berth status -o json | get instance)
        BEFORE=$(listing)
        return 0
    fi
    result FAIL "the agent starts" "$(tail -n 3 "$AGENT_DIR/log" | tr '\n' ' ')"
    agent_stop
    return 1
}

agent_ready_or_gone() { berth status || ! kill -0 "$AGENT"; }

agent_stop() {
    local name
    [ -n "$AGENT" ] || return 0
    # Only after a failed check is there something: kernels outlive their agent.
    for name in $(berth ps -a -o json 2>/dev/null | /usr/bin/python3 "$TOOLS/tool.py" records 2>/dev/null | cut -d' ' -f2); do
        berth rm --force "$name" >/dev/null 2>&1 || true
    done
    kill -TERM "$AGENT" 2>/dev/null || true
    wait "$AGENT" 2>/dev/null || true
    if [ "$ENGINE" = docker ] && [ -n "$INSTANCE" ]; then
        docker ps -aq --filter "label=ai.berth.instance=$INSTANCE" | xargs -r docker rm -fv >/dev/null 2>&1 || true
    fi
    # Processes that name this agent's own folder, which no other program knows.
    pgrep -f -- "$AGENT_DIR/" | xargs -r kill -KILL 2>/dev/null || true
    rm -rf "$AGENT_DIR"
    AGENT='' INSTANCE='' AGENT_DIR=''
    unset BERTH_SOCKET
}

# Which folders and sockets the agent has, those it keeps for all kernels left out.
listing() {
    [ ! -d "$AGENT_DIR/state" ] || find "$AGENT_DIR/state" \
        \( -path '*/runner/*' -o -path '*/cache/*' -o -path '*/compile*/*' -o -path '*/polic*/*' \) -prune -o \
        \( -type d -o -type s \) -print | sort
}

# What is left of kernels: containers, folders, sockets, records, shares. One line each; none: nothing.
leftovers() {
    if [ "$ENGINE" = docker ]; then
        docker ps -a --filter "label=ai.berth.instance=$INSTANCE" --format 'container {{.Names}}'
    else
        pgrep -af -- "$AGENT_DIR/" | grep -v "^$AGENT " | sed 's/^/process /' || true
    fi
    comm -13 <(printf '%s\n' "$BEFORE") <(listing) | grep -Ev '/(runner|cache|link|links|scratch|scratches|compile[^/]*|polic[^/]*)$' || true
    berth ps -a -o json | /usr/bin/python3 "$TOOLS/tool.py" records
    berth slots -o json | /usr/bin/python3 "$TOOLS/tool.py" shares
}

nothing_left_now() { [ -z "$(leftovers)" ]; }

# nothing_left WHAT: no container, folder, socket, record or share, at the latest after ten seconds.
nothing_left() {
    if wait_until 10 nothing_left_now; then
        result ok "$1: nothing left behind" "value 0   limit = 0"
    else
        result FAIL "$1: nothing left behind" "value $(short "$(leftovers)")   limit = 0"
    fi
}

# refuses WHAT STATUS PATTERN COMMAND..: fails with that status (any: `*`), with one line and perhaps a
# hint on standard error that match, and nothing on standard output.
refuses() {
    local what=$1 status=$2 pattern=$3 lines
    shift 3
    capture timeout 60 "$@" </dev/null
    lines=$(grep -c . "$WORK/err" || true)
    if [ "$RC" = 0 ] || [ "$RC" = 124 ] || { [ "$status" != '*' ] && [ "$RC" != "$status" ]; }; then
        result FAIL "$what" "value exit $RC $(short "$ERR")   limit exit $status"
    elif [ "$lines" -gt 4 ] || grep -q panicked "$WORK/err" || ! grep -Eqi -- "$pattern" "$WORK/err"; then
        result FAIL "$what" "value exit $RC, $lines lines: $(short "$ERR")   limit ~ $pattern"
    else
        result ok "$what" "value exit $RC $(short "$ERR")"
    fi
}
