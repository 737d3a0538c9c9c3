# shellcheck shell=bash disable=SC2034,SC2153
# Calls as a manager makes them: what the agent adds to an execution, and how near routing is to the bare sockets. Builds
# benches in the development profile, this package optimised; minutes.

DOOR_BENCH=(cargo bench --profile dev --workspace)
for package in berth callosum; do
    DOOR_BENCH+=(--config "profile.dev.package.$package.opt-level=3" --config "profile.dev.package.$package.debug-assertions=false")
done

door() {
    local line mark rest what
    heading "calls: what the agent adds"
    capture "${DOOR_BENCH[@]}" --bench execute
    while read -r mark rest; do
        what=$(sed -E 's/  +.*//' <<<"$rest")
        result "$mark" "$what" "value ${rest#"$what"}"
    done < <(grep -E '^(ok|FAIL) ' <<<"$OUT" | sed -E 's/ +limit/   limit <=/')
    says "the bench ran to its end" "$OUT" 'of 10,000 executions lost'

    heading "calls: beside bare sockets in the same run (target 0.8, limit 0.6)"
    capture "${DOOR_BENCH[@]}" --bench door
    [ "$RC" = 0 ] || result FAIL "the bench ran to its end" "$(short "$ERR")"
    door_ratios "$CARGO_TARGET_DIR/criterion" >"$WORK/ratios"
    while IFS=$'\t' read -r what line rest; do
        if awk -v r="$line" -v l="$rest" 'BEGIN { exit !(r + 0 >= l + 0) }'; then
            result ok "$what" "value $line   limit >= $rest"
        else
            result FAIL "$what" "value $line   limit >= $rest"
        fi
    done <"$WORK/ratios"
}

# door_ratios FOLDER: what was measured, ours divided by what it is compared with, and the limit; tabs between.
door_ratios() {
    /usr/bin/python3 - "$1" <<'PYTHON'
import json
import pathlib
import sys

root = pathlib.Path(sys.argv[1])


def rate(*names):
    return 1e9 / json.loads(root.joinpath(*names, "new/estimates.json").read_text())["mean"]["point_estimate"]


def show(what, value, limit):
    print(f"{what}\t{value:.2f}\t{limit}")


for case in ["1-kernel_64", "1-kernel_4096", "1-kernel_65536", "16-kernels_64", "64-of-256-kernels_64"]:
    ours, bare = rate("execute", "door", case), rate("execute", "bare-echo", case)
    show(f"executions, {case}: {ours:,.0f}/s of {bare:,.0f}/s", ours / bare, 0.6)
for size in ["64", "4096", "65536"]:
    ours, bare = rate("kernel-to-window", "window", size), rate("kernel-to-window", "zmq-proxy", size)
    show(f"records to a polled run, {size} B: {ours:,.0f}/s of {bare:,.0f}/s", ours / bare, 0.6)
few, many = rate("busy-of-many", "door", "16"), rate("busy-of-many", "door", "256")
show("executions of one kernel, 256 attached instead of 16", many / few, 0.9)
ours, bare = rate("ping", "door"), rate("ping", "bare-echo")
show(f"ping, 64 in flight: {ours:,.0f}/s; a bare echo makes {bare:,.0f}/s", ours, min(150_000, round(bare * 0.6)))
PYTHON
}
