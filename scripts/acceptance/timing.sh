# shellcheck shell=bash
# Item 8: what the runner and the agent add. Docker only; one engine call at a time, in pairs.

item_8() {
    local boot kernel i
    for i in 1 2 3 4 5; do
        berth create --name "boot$i" --image "$IMAGE" >/dev/null
        boot=$(berth inspect "boot$i" -o json | get runner_boot_ms)
        at_most "the runner of kernel $i answers status after its main" "$boot" 50 ms
        berth stop "boot$i" >/dev/null
        berth rm "boot$i" >/dev/null
    done
    pairs 20
    for kernel in $(docker ps -aq --filter label=ai.berth.acceptance=1); do docker rm -f "$kernel" >/dev/null 2>&1; done
    nothing_left "timing"
}

# direct_start NAME: create and start of the equal container, as two engine calls; prints milliseconds.
# By curl, which adds a millisecond; Docker's own command would add its start to each.
direct_start() {
    local socket=${DOCKER_HOST:-unix:///var/run/docker.sock} api=http://localhost/v$API
    curl --silent --show-error --fail --unix-socket "${socket#unix://}" -o /dev/null -w '%{time_total}\n' \
        -X POST -H 'Content-Type: application/json' --data-binary "@$WORK/body.json" "$api/containers/create?name=$1" \
        --next --silent --show-error --fail --unix-socket "${socket#unix://}" -o /dev/null -w '%{time_total}\n' \
        -X POST "$api/containers/$1/start" | awk '{ sum += $1 } END { printf "%.1f\n", sum * 1000 }'
    docker rm -f "$1" >/dev/null
}

# agent_start_of NAME: `berth create`; prints the agent's milliseconds (request accepted to runner's first
# answer) and the whole command's.
agent_start_of() {
    local began
    began=$(now_ms)
    berth create --name "$1" --image "$IMAGE" >/dev/null
    printf '%s %s\n' "$(berth inspect "$1" -o json | /usr/bin/python3 -c '
import json, sys
kernel = json.load(sys.stdin)
kernel = kernel[0] if isinstance(kernel, list) else kernel
print(kernel["ready_at_ms"] - kernel["created_at_ms"])')" $(($(now_ms) - began))
    berth stop "$1" --grace 0 >/dev/null
    berth rm "$1" >/dev/null
}

pairs() {
    local n=$1 i direct_ms=() agent_ms=() command_ms=() line direct agent limit template
    API=$(berth status -o json | get engine.api_version)
    # The body is what the engine says of a container that the agent made, its folders of our own.
    berth create --name template --image "$IMAGE" >/dev/null
    template=$(berth inspect template -o json | get container)
    docker inspect "$template" >"$WORK/template.json"
    berth stop template >/dev/null
    berth rm template >/dev/null
    /usr/bin/python3 "$TOOLS/tool.py" create-body "$AGENT_DIR/state" "$WORK/direct" <"$WORK/template.json" >"$WORK/body.json"
    for ((i = 0; i < n; i++)); do
        # Who goes first changes, so that neither has the warmer engine.
        if ((i % 2)); then
            direct_ms+=("$(direct_start "berth-acceptance-$$-$i")")
            line=$(agent_start_of "pair$i")
        else
            line=$(agent_start_of "pair$i")
            direct_ms+=("$(direct_start "berth-acceptance-$$-$i")")
        fi
        agent_ms+=("${line% *}") command_ms+=("${line#* }")
    done
    direct=$(median <<<"${direct_ms[*]}")
    agent=$(median <<<"${agent_ms[*]}")
    limit=$(awk -v d="$direct" 'BEGIN { printf "%.1f", d * 1.10 }')
    say "      engine calls made directly: median $direct ms of $n   (${direct_ms[*]})"
    say "      the same by the agent:      median $agent ms of $n   (${agent_ms[*]})"
    say "      berth create, the command:  median $(median <<<"${command_ms[*]}") ms (with berth inspect)"
    at_most "create + start to the runner's answer, to the direct calls + 10 %" "$agent" "$limit" ms
}
