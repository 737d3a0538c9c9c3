# shellcheck shell=bash disable=SC2034,SC2153
# An engine that hangs, and one that is restarted with and without live-restore. A Docker engine of our own
# (root only): the machine's is never touched.

ENGINE_DIR='' ENGINE_PID='' ENGINE_IMAGE=berth-acceptance/busybox:private

# private_engine [FLAG..]: starts dockerd with folders of its own, and in a network namespace of its own:
# with `--bridge none` it removes the docker0 of whoever shares its namespace.
private_engine() {
    printf '{}\n' >"$ENGINE_DIR/empty.json"
    unshare --net -- dockerd --config-file "$ENGINE_DIR/empty.json" --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" \
        --pidfile "$ENGINE_DIR/pid" --host "unix://$ENGINE_DIR/docker.sock" --bridge none --iptables=false \
        --storage-driver vfs "$@" >>"$ENGINE_DIR/log" 2>&1 </dev/null &
    ENGINE_PID=$!
    wait_until 60 docker --host "unix://$ENGINE_DIR/docker.sock" version
}

private_engine_stop() {
    [ -n "$ENGINE_PID" ] || return 0
    kill -CONT "$ENGINE_PID" 2>/dev/null
    kill -TERM "$ENGINE_PID" 2>/dev/null
    wait "$ENGINE_PID" 2>/dev/null
    ENGINE_PID=''
}

private_engine_remove() {
    [ -n "$ENGINE_DIR" ] || return 0
    if [ -n "$ENGINE_PID" ]; then
        kill -CONT "$ENGINE_PID" 2>/dev/null
        docker --host "unix://$ENGINE_DIR/docker.sock" ps -aq 2>/dev/null |
            xargs -r docker --host "unix://$ENGINE_DIR/docker.sock" rm -f >/dev/null 2>&1
    fi
    private_engine_stop
    # Shims that outlived their engine: they name its folder, which no other program does.
    pgrep -f -- "$ENGINE_DIR/" | xargs -r kill -KILL 2>/dev/null
    umount -R "$ENGINE_DIR" 2>/dev/null
    findmnt -rno TARGET | grep -F "$ENGINE_DIR/" | sort -r | xargs -r -n 1 umount 2>/dev/null
    rm -rf "$ENGINE_DIR"
    ENGINE_DIR=''
}

# state_is WORD: what `berth status` says.
state_is() { [ "$(berth status -o json | get state)" = "$1" ]; }
phase_is() { [ "$(berth inspect "$1" -o json | get phase)" = "$2" ]; }

engine_faults() {
    local pid frozen=${BERTH_FREEZE_S:-60} began took container
    if ! is_root || ! unshare --net true 2>/dev/null || ! command -v dockerd >/dev/null || [ ! -x /bin/busybox ]; then
        result skip "an engine of our own" "needs root, network namespaces, dockerd and busybox-static"
        return
    fi
    ENGINE_DIR=$(mktemp -d /var/tmp/berth-engine.XXXXXX)
    if ! private_engine; then
        result FAIL "a private engine starts" "$(tail -n 2 "$ENGINE_DIR/log" | tr '\n' ' ')"
        private_engine_remove
        return
    fi
    export DOCKER_HOST=unix://$ENGINE_DIR/docker.sock
    mkdir -p "$ENGINE_DIR/root/bin"
    cp /bin/busybox "$ENGINE_DIR/root/bin/"
    for applet in sh echo cat sleep true; do ln -s busybox "$ENGINE_DIR/root/bin/$applet"; done
    tar -C "$ENGINE_DIR/root" -c . | docker import --change 'LABEL ai.berth.default=1' - "$ENGINE_IMAGE" >/dev/null
    IMAGE=$ENGINE_IMAGE
    if agent_start; then
        engine_frozen
        engine_restarted "without live-restore"
        private_engine_stop
        private_engine --live-restore
        wait_until 60 state_is ready
        engine_restarted "with live-restore" --live-restore
        agent_stop
    fi
    unset DOCKER_HOST
    private_engine_remove
}

engine_frozen() {
    local began took worst=0 now said
    holds "a kernel on an engine of our own" berth create --name frozen --image "$IMAGE" --cpus 1
    kill -STOP "$ENGINE_PID"
    began=$(now_ms)
    while [ $(($(now_ms) - began)) -lt $((frozen * 1000)) ]; do
        now=$(now_ms)
        # Degraded is an answer too, and exits 1.
        said=$(berth status 2>/dev/null)
        took=$(($(now_ms) - now))
        [ "$took" -le "$worst" ] || worst=$took
        grep -q '^state ' <<<"$said" || worst=99999
        [ "$(berth exec frozen -- echo alive </dev/null 2>/dev/null)" = alive ] || worst=99999
        sleep 1
    done
    at_most "engine frozen for $frozen s: the slowest berth status, code answered" "$worst" 1000 ms
    state_is degraded
    equal "it says degraded" "$?" 0
    refuses "a creation meanwhile ends by its deadline" 1 'engine|Docker' "$BERTH_BINARY" create --name late --image "$IMAGE"
    kill -CONT "$ENGINE_PID"
    holds "afterwards it says ready" wait_until 60 state_is ready
    equal "and the kernel is the same" "$(berth exec frozen -- echo alive </dev/null)" alive
    berth rm -f late >/dev/null 2>&1
    berth rm -f frozen >/dev/null
    nothing_left "engine frozen"
}

# engine_restarted WHAT [FLAG..]
engine_restarted() {
    local what=$1 before
    shift
    holds "$what: a kernel" berth create --name restarted --image "$IMAGE"
    before=$(docker inspect -f '{{.State.Pid}}' "$(berth inspect restarted -o json | get container)")
    private_engine_stop
    private_engine "$@"
    if [ $# -gt 0 ]; then
        holds "$what: the node is ready again" wait_until 60 state_is ready
        equal "$what: the kernel's process is the same" \
            "$(docker inspect -f '{{.State.Pid}}' "$(berth inspect restarted -o json | get container)")" "$before"
        equal "$what: it answers code" "$(berth exec restarted -- echo alive </dev/null)" alive
    else
        holds "$what: the kernel has ended" wait_until 60 phase_is restarted collected
        equal "$what: as self-terminated" "$(berth inspect restarted -o json | get termination.reason)" self-terminated
        equal "$what: told once" "$(berth events --from 1 -o json | grep -c "$(berth inspect restarted -o json | get id).*kernel-terminated")" 1
        holds "$what: the node is ready again" wait_until 60 state_is ready
    fi
    berth rm -f restarted >/dev/null
    nothing_left "$what"
}
