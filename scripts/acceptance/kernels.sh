# shellcheck shell=bash disable=SC2153
# Items 2 to 6: code in kernels. They need an agent (`agent_start`); IMAGE is the one they run in, WORK a
# folder for files.

# Run one after another by any engine and any user.
item_2() {
    local sum alone
    run() { berth run --image "$IMAGE" "$@"; }

    capture run --code 'print(6*7)' </dev/null
    equal "run --code 'print(6*7)' prints exactly 42" "$OUT" 42
    capture run --code 'import sys; sys.exit(3)' </dev/null
    equal "run --code 'sys.exit(3)' exits 3" "$RC" 3
    printf 'Ann\n' >"$WORK/in"
    capture run --code 'print("hi", input())' <"$WORK/in"
    says "run --code 'print(\"hi\", input())' greets Ann" "$OUT" 'hi Ann$'
    printf 'a b' >"$WORK/in"
    capture run -- cat <"$WORK/in"
    equal "printf 'a b' | run -- cat" "$OUT" 'a b'
    # shellcheck disable=SC2016 # the word must stay as it is
    capture run -- printf '%s\n' 'a  "b" $c' </dev/null
    # shellcheck disable=SC2016
    equal "run -- printf keeps its word unchanged" "$OUT" 'a  "b" $c'
    capture run -- sh -c 'echo out; echo err >&2; exit 7' </dev/null
    equal "run -- sh: standard output" "$OUT" out
    equal "run -- sh: standard error" "$ERR" err
    equal "run -- sh: exit status" "$RC" 7

    head -c 20000000 /dev/urandom >"$WORK/big.bin"
    sum=$(sha256sum <"$WORK/big.bin")
    (cd "$WORK" && run --upload big.bin -- cat big.bin </dev/null 2>"$WORK/err") >"$WORK/big.out" || true
    equal "run --upload big.bin -- cat big.bin keeps 20 MB" "$(sha256sum <"$WORK/big.out")" "$sum"
    rm -f "$WORK/big.bin" "$WORK/big.out"

    printf 'a,b\n1,2\n' >"$WORK/data.csv"
    printf 'import csv\nprint(sum(int(r["a"]) + int(r["b"]) for r in csv.DictReader(open("data.csv"))))\n' >"$WORK/script.py"
    capture run "$WORK/script.py" --upload "$WORK/data.csv" </dev/null
    equal "run script.py --upload data.csv reads the file" "$OUT" 3
    nothing_left "run"

    # Without any agent there: a private one, that says so and ends with its folder.
    mkdir -p "$WORK/private" "$WORK/runtime"
    chmod 700 "$WORK/runtime"
    alone=(env -u BERTH_SOCKET "TMPDIR=$WORK/private" "XDG_RUNTIME_DIR=$WORK/runtime" "PATH=${SERVE_PATH:-$SYSTEM_PATH}" "$BERTH_BINARY")
    if "${alone[@]}" status >/dev/null 2>&1; then
        result skip "run without an agent" "an agent of this machine runs"
    else
        capture "${alone[@]}" run --engine "$ENGINE" --image "$IMAGE" --code 'print(6*7)' </dev/null
        equal "run without an agent starts a private one" "$OUT" 42
        says "and says so" "$ERR" 'private'
        equal "and leaves no folder" "$(find "$WORK/private" -mindepth 1)" ''
    fi
}

item_3() {
    local kernel container work
    holds "create --name k1" berth create --name k1 --image "$IMAGE"
    holds "exec k1 --code 'x=41'" berth exec k1 --code 'x=41'
    capture berth exec k1 --code 'print(x+1)' </dev/null
    equal "exec k1 --code 'print(x+1)'" "$OUT" 42
    kernel=$(berth inspect k1 -o json | get id)
    container=$(berth inspect k1 -o json | get container)
    work=$(berth inspect k1 -o json | get work_dir)
    holds "stop k1" berth stop k1
    holds "rm k1" berth rm k1
    [ "$ENGINE" != docker ] || equal "its container is gone" "$(docker ps -aq --no-trunc --filter "id=${container:-none}")" ''
    if [ -n "$work" ] && [ ! -e "$work" ]; then
        result ok "its work folder is gone" "$work"
    else
        result FAIL "its work folder is gone" "${work:-berth inspect told none}"
    fi
    says "inspect k1 now says that there is none" "$(berth inspect k1 2>&1 || true)" 'k1'
    [ -n "$kernel" ] || result FAIL "inspect -o json tells the kernel's id"
    nothing_left "stop, rm"
}

loop_runs() { grep -q looping "$WORK/loop.out"; }
ended() { ! kill -0 "$1"; }

item_4() {
    local loop
    berth create --name k4 --image "$IMAGE" >/dev/null
    berth exec k4 --code 'x = 1' </dev/null
    : >"$WORK/loop.out"
    "$BERTH_BINARY" exec k4 --code 'print("looping", flush=True)
while True: pass' </dev/null >"$WORK/loop.out" 2>"$WORK/loop.err" &
    loop=$!
    holds "an endless loop runs" wait_until 20 loop_runs
    holds "berth interrupt" berth interrupt k4
    if wait_until 20 ended "$loop"; then
        RC=0
        wait "$loop" || RC=$?
        says "it ends and shows KeyboardInterrupt" "$(cat "$WORK/loop.out" "$WORK/loop.err")" KeyboardInterrupt
        if [ "$RC" != 0 ]; then
            result ok "its exit status tells it" "value $RC   limit > 0"
        else
            result FAIL "its exit status tells it" "value 0   limit > 0"
        fi
    else
        kill "$loop" 2>/dev/null || true
        result FAIL "it ends" "not within 20 s"
    fi
    capture berth exec k4 --code 'print(x + 41)' </dev/null
    equal "the kernel works on, its variables kept" "$OUT" 42
    berth stop k4 >/dev/null && berth rm k4 >/dev/null
    nothing_left "interrupt"
}

# Docker only: limits are in the container's cgroup.
item_5() {
    local memory cores
    holds "create --cpus 1 --mem 64m" berth create --name k5 --image "$IMAGE" --cpus 1 --mem 64m
    memory=$(berth exec k5 -- sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max' </dev/null)
    equal "its cgroup's memory limit in bytes" "$memory" 67108864
    cores=$(berth exec k5 -- sh -c 'cat /sys/fs/cgroup/cpuset/cpuset.cpus 2>/dev/null || cat /sys/fs/cgroup/cpuset.cpus.effective' </dev/null)
    if [[ $cores =~ ^[0-9]+$ ]]; then
        result ok "its cgroup's cores are one" "value $cores   limit = one number"
    else
        result FAIL "its cgroup's cores are one" "value $(short "$cores")   limit = one number"
    fi
    berth stop k5 >/dev/null && berth rm k5 >/dev/null
    refuses "run --cpus 1000 is refused with what is there" 125 'not-enough-free' "$BERTH_BINARY" run --image "$IMAGE" --cpus 1000 --code 1
    says "it says how many cores there are" "$ERR" "(^|[^0-9])$(nproc)([^0-9]|$)"
    nothing_left "limits"
}

# Item 6's second half: files of root in a kernel's work folder, which an unprivileged agent cannot remove.
root_files() {
    local container work
    berth create --name k6 --image "$IMAGE" >/dev/null
    container=$(berth inspect k6 -o json | get container)
    work=$(berth inspect k6 -o json | get work_dir)
    holds "docker exec -u 0 makes files of root" docker exec -u 0 "$container" \
        sh -c 'cd /home/work && mkdir -p deep/er && echo x >deep/er/file && chmod 700 deep deep/er && chown -R 0:0 deep'
    holds "stop" berth stop k6
    holds "rm" berth rm k6
    if [ -n "$work" ] && [ ! -e "$work" ]; then
        result ok "all of them are removed" "$work"
    else
        result FAIL "all of them are removed" "${work:-berth inspect told no work folder}"
    fi
    nothing_left "files of root"
}
