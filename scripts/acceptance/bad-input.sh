# shellcheck shell=bash
# Bad input: each one clear line with the next step, and nothing left behind.

bad_requests() {
    local name
    refuses "unknown image" 125 'no-such/image' "$BERTH_BINARY" run --image no-such/image:0 --code 1
    refuses "unknown kernel" '*' 'nobody' "$BERTH_BINARY" exec nobody -- true
    refuses "unknown kernel, stop" '*' 'nobody' "$BERTH_BINARY" stop nobody
    refuses "a name that looks like a flag" '*' 'flag' "$BERTH_BINARY" create --name=-k --image "$IMAGE"
    name=$(cat /proc/sys/kernel/random/uuid)
    refuses "a name that looks like a uuid" '*' 'uuid|kernel id' "$BERTH_BINARY" create --name "$name" --image "$IMAGE"
    refuses "malformed size" '*' '12qq' "$BERTH_BINARY" run --image "$IMAGE" --mem 12qq --code 1
    refuses "a mount source that does not exist" '*' '/no/such' "$BERTH_BINARY" run --image "$IMAGE" --mount /no/such:/data --code 1
    nothing_left "refused requests"

    berth create --name twice --image "$IMAGE" >/dev/null
    refuses "a name twice" '*' 'twice' "$BERTH_BINARY" create --name twice --image "$IMAGE"
    berth stop twice >/dev/null
    berth rm twice >/dev/null
    nothing_left "a name twice"
}

# Images that say much themselves, and one that cannot run here. Docker only.
bad_images() {
    local own=berth-acceptance/own:$$ other=berth-acceptance/other:$$ empty=berth-acceptance/empty:$$ container volumes volume
    container=$(docker create "$IMAGE" true)
    docker commit --change 'ENTRYPOINT ["/bin/false"]' --change 'USER 1234:1234' --change 'VOLUME /home/work' \
        --change 'VOLUME /data' --change 'WORKDIR /data' "$container" "$own" >/dev/null
    docker rm "$container" >/dev/null
    capture berth run --image "$own" --code 'print(6*7)' </dev/null
    equal "an image with its own ENTRYPOINT, USER and VOLUME works" "$OUT" 42
    berth create --name own --image "$own" >/dev/null
    container=$(berth inspect own -o json | get container)
    volumes=$(docker inspect --format '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}' "$container")
    berth stop own >/dev/null
    berth rm own >/dev/null
    for volume in $volumes; do
        ! docker volume inspect "$volume" >/dev/null 2>&1 || result FAIL "its VOLUME is removed with it" "volume $volume is left"
    done
    nothing_left "own ENTRYPOINT, USER, VOLUME"
    docker rmi -f "$own" >/dev/null

    tar -cT /dev/null | docker import --change 'LABEL ai.backend.kernelspec=1' - "$empty" >/dev/null
    docker tag "$empty" "$other"
    docker rmi "$empty" >/dev/null
    docker save "$other" | /usr/bin/python3 "$TOOLS/tool.py" other-architecture s390x >"$WORK/other.tar"
    docker rmi "$other" >/dev/null
    docker load --quiet <"$WORK/other.tar" >/dev/null
    refuses "an image of another architecture" 125 's390x' "$BERTH_BINARY" run --image "$other" --code 1
    docker rmi -f "$other" >/dev/null
    nothing_left "an image of another architecture"
}

# How an agent starts, or does not. Each try has folders of its own.
bad_starts() {
    local dir=$WORK/starts stale second
    mkdir -p "$dir"
    local serve=(timeout 20 "$BERTH_BINARY" serve --engine "$ENGINE" --state-dir "$dir/state" --socket "$dir/berth.sock")

    refuses "scratch root missing" '*' 'no-such-scratch' "${serve[@]}" --scratch-root "$dir/no-such-scratch"
    if is_root; then
        mkdir -p "$dir/other"
        chown 12345:12345 "$dir/other"
        refuses "scratch root of another user" '*' "$dir/other" "${serve[@]}" --scratch-root "$dir/other"
    else
        refuses "scratch root of another user" '*' '/usr/share' "${serve[@]}" --scratch-root /usr/share
    fi
    mkdir -p "$dir/real"
    ln -sfn real "$dir/link"
    refuses "scratch root is a symlink" '*' 'symlink|symbolic' "${serve[@]}" --scratch-root "$dir/link"
    mkdir -p "$dir/noexec"
    if is_root && mount -t tmpfs -o noexec,size=1m,mode=700 tmpfs "$dir/noexec" 2>/dev/null; then
        refuses "scratch root is noexec" '*' noexec "${serve[@]}" --scratch-root "$dir/noexec"
        umount "$dir/noexec"
    else
        result skip "scratch root is noexec" "only root can mount one"
    fi
    refuses "scratch root is a file" '*' "directory|folder" "${serve[@]}" --scratch-root /etc/passwd
    refuses "--etcd-addr that is none" '*' 'HOST:PORT' "${serve[@]}" --etcd-addr nowhere --namespace local
    equal "refused starts leave no socket" "$(find "$dir" -type s)" ''
    holds "serve --check passes and returns" "${serve[@]}" --check

    # The last agent was killed: its socket is there, nobody listens.
    rm -rf "$dir/state"
    stale=$dir/berth.sock
    /usr/bin/python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$stale"
    "$BERTH_BINARY" serve --engine "$ENGINE" --state-dir "$dir/state" --socket "$stale" >"$dir/log" 2>&1 </dev/null &
    second=$!
    if BERTH_SOCKET=$stale wait_until 30 "$BERTH_BINARY" status; then
        result ok "a stale control socket is replaced" "the agent is ready"
        refuses "a second agent on the same state directory" '*' "$second" \
            "$BERTH_BINARY" serve --engine "$ENGINE" --state-dir "$dir/state" --socket "$dir/second.sock"
        BERTH_SOCKET=$stale holds "the first one still answers" berth status
        refuses "a second agent on the same socket" '*' 'berth.sock' \
            "$BERTH_BINARY" serve --engine "$ENGINE" --state-dir "$dir/state2" --socket "$stale"
    else
        result FAIL "a stale control socket is replaced" "$(short "$(tail -n 3 "$dir/log")")"
    fi
    kill -TERM "$second" 2>/dev/null
    RC=0
    wait "$second" || RC=$?
    equal "SIGTERM ends the agent in order" "$RC" 0
    rm -rf "$dir"
}

# Nobody may use the engine's socket: both remedies are said. Docker only.
bad_permission() {
    local dir=$WORK/permission as=()
    mkdir -p "$dir"
    /usr/bin/python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$dir/docker.sock"
    chmod 000 "$dir/docker.sock"
    mkdir -p "$dir/home"
    if is_root; then
        # Root may use every socket: as nobody, with copies that nobody can read.
        cp "$BERTH_BINARY" "$(dirname "$BERTH_BINARY")/../libexec/berth/berth-runner" "$dir/"
        chown -R 65534:65534 "$dir/home"
        as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
        BERTH_BINARY=$dir/berth refuses_permission "$dir" "${as[@]}"
    else
        refuses_permission "$dir"
    fi
    rm -rf "$dir"
}

refuses_permission() {
    local dir=$1
    shift
    refuses "no permission on the Docker socket" '*' 'docker.sock' \
        env DOCKER_HOST="unix://$dir/docker.sock" "$@" "$BERTH_BINARY" serve --engine docker --state-dir "$dir/home/state" --socket "$dir/home/berth.sock"
    says "it says the group as a remedy" "$ERR" 'group'
    says "it says the process engine as a remedy" "$ERR" 'engine[ =]process'
    refuses "the same by berth run, with an agent of its own" 125 'docker.sock' \
        env DOCKER_HOST="unix://$dir/docker.sock" "$@" "$BERTH_BINARY" --socket "$dir/home/none.sock" run --code 1
    says "berth run says the process engine as a remedy" "$ERR" 'engine[ =]process'
}
