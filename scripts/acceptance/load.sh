# shellcheck shell=bash disable=SC2153
# Many creations at once, much output, a reader that stops reading; and what an agent costs that does nothing.

# Unix milliseconds at which each kernel left a phase, from the events: NAME-sorted lines are not needed.
load() {
    local i pids=() rc=0 most sum got rss container
    for i in $(seq 1 10); do
        berth create --name "many$i" --image "$IMAGE" >/dev/null 2>"$WORK/many$i.err" </dev/null &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || rc=1; done
    equal "ten creations at once: none refused" "$rc" 0
    equal "ten creations at once: all run" "$(berth ps -o json | grep -c '"running"')" 10
    most=$(berth ps -o json | /usr/bin/python3 "$TOOLS/tool.py" starting)
    at_most "ten creations at once: started at a time" "$most" 4 kernels
    # Cancelled while it is made: nothing is left of it.
    timeout 0.1 "$BERTH_BINARY" create --name cancelled --image "$IMAGE" >/dev/null 2>&1 </dev/null
    wait_until 20 gone cancelled
    equal "a creation whose client goes away is cancelled" "$?" 0
    for i in $(seq 1 10); do berth rm -f "many$i" >/dev/null; done
    nothing_left "ten creations"

    berth create --name loud --image "$IMAGE" >/dev/null
    berth create --name other --image "$IMAGE" >/dev/null
    berth exec loud --code '
import hashlib, sys
h, block = hashlib.sha256(), bytes(range(256)) * 256
for i in range(1600):
    piece = i.to_bytes(8, "little") + block[8:]
    h.update(piece)
    sys.stdout.buffer.write(piece)
sys.stdout.flush()
print(h.hexdigest(), file=sys.stderr)' </dev/null 2>"$WORK/sum" | sha256sum >"$WORK/got"
    sum=$(tail -n 1 "$WORK/sum") got=$(cut -d' ' -f1 "$WORK/got")
    equal "100 MB printed arrive complete and in order" "$got" "$sum"

    # A client that reads nothing for a while: the kernel waits, others do not, memory stays.
    mkfifo "$WORK/stalled"
    "$BERTH_BINARY" exec loud --code 'import sys
for i in range(2000): sys.stdout.buffer.write(b"x" * 65536)' </dev/null >"$WORK/stalled" 2>/dev/null &
    i=$!
    exec 9<"$WORK/stalled"
    sleep 3
    equal "a client that reads nothing: another kernel answers" "$(berth exec other -- echo fine </dev/null)" fine
    rss=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$AGENT/status")
    at_most "the agent's memory at its highest" "$rss" 100 MB
    sum=$(wc -c <&9)
    exec 9<&-
    wait "$i"
    equal "and it gets everything when it reads on" "$sum" $((2000 * 65536))
    rm -f "$WORK/stalled"
    berth rm -f loud >/dev/null
    berth rm -f other >/dev/null
    nothing_left "much output"
}

gone() { [[ $(berth inspect "$1" 2>&1) == *no-such-kernel* ]]; }

# An agent with ten idle kernels: above twice the targets it fails.
idle() {
    local i before after seconds=30 pss
    for i in $(seq 1 10); do berth create --name "idle$i" --image "$IMAGE" >/dev/null; done
    sleep 5
    before=$(cpu_ticks)
    sleep "$seconds"
    after=$(cpu_ticks)
    pss=$(awk '/^Pss:/ { sum += $2 } END { printf "%.1f", sum / 1024 }' "/proc/$AGENT/smaps_rollup")
    say "      target 0.2 % of a core and 30 MiB at 30 kernels; twice that is the limit here"
    at_most "ten idle kernels: CPU of the agent" "$(awk -v t=$((after - before)) -v s=$seconds -v hz="$(getconf CLK_TCK)" \
        'BEGIN { printf "%.2f", 100 * t / hz / s }')" 0.4 '% of a core'
    at_most "ten idle kernels: memory of the agent (PSS)" "$pss" 60 MiB
    for i in $(seq 1 10); do berth rm -f "idle$i" >/dev/null; done
    nothing_left "idle kernels"
}

cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$AGENT/stat"; }
