# shellcheck shell=bash disable=SC2034,SC2153
# Policies as their authors and operators meet them: the examples, a swap in a live agent with its diff, replay,
# and what one can do wrong. The table of docs/policies.md is shown by the tests.

POLICY_EXAMPLES=$REPO/policies/dist/examples

policies() {
    local module name line
    heading "policies: the examples"
    for module in "$POLICY_EXAMPLES"/*.wasm; do
        name=$(basename "$module" .wasm)
        capture berth policy test "$module"
        if [ "$RC" = 0 ]; then result ok "$name: its fixtures" "$(grep -c '^  ok' <<<"$OUT") cases"; else result FAIL "$name: its fixtures" "$(short "$OUT$ERR")"; fi
        capture berth policy bench "$module" -n 200
        line=$(grep -E '^(report|place|order|evict|adjust) ' <<<"$OUT" | tr -s ' ' | paste -sd ';')
        if [ "$RC" = 0 ] && [ -n "$line" ]; then
            result ok "$name: what it costs" "$line"
        else
            result FAIL "$name: what it costs" "$(short "$OUT$ERR")"
        fi
    done

    heading "policies: a swap in a live agent"
    agent_start || return
    policies_swap
    policies_mistakes
    agent_stop
}

# The core that a kernel got.
core_of() { berth inspect "$1" -o json | get cpuset | tr -d ' \n'; }

policies_swap() {
    local first last digest
    first=$(berth create --dry-run --cpus 1 -o json | get cpuset | tr -d ' \n')
    for name in one two; do
        holds "a kernel: $name" berth create --name "$name" --image "$IMAGE" --cpus 1
        [ "$name" = two ] || berth rm -f one >/dev/null
    done
    berth rm -f two >/dev/null
    holds "a module is pushed" berth policy push "$POLICY_EXAMPLES/last-core.wasm"
    refuses "it would decide otherwise: not activated" 1 'differ' "$BERTH_BINARY" policy activate last-core
    says "the difference names the kernel's decision" "$(berth policy activate last-core 2>&1)" 'place'
    holds "activated with --accept-diff" berth policy activate last-core --accept-diff --reason acceptance
    last=$(berth create --dry-run --cpus 1 -o json | get cpuset | tr -d ' \n')
    [ "$(nproc)" = 1 ] || equal "the next kernel gets another core" "$([ "$first" != "$last" ] && echo yes)" yes
    holds "a kernel by it" berth create --name three --image "$IMAGE" --cpus 1
    equal "on that core, without a restart" "$(core_of three)" "$last"
    says "why it got it" "$(berth why three)" 'last-core'
    holds "rolled back" berth policy rollback scheduler
    equal "as before" "$(berth create --dry-run --cpus 1 -o json | get cpuset | tr -d ' \n')" "$first"
    berth rm -f three >/dev/null
    capture berth policy replay
    says "every decision is reproduced bit for bit" "$RC $OUT" '^0 .*decisions? replayed'
    holds "the journal is exported" berth policy journal --export "$WORK/journal.jsonl"
    capture env BERTH_SOCKET=/nonexistent "$BERTH_BINARY" policy replay --journal "$WORK/journal.jsonl" \
        --modules "$POLICY_EXAMPLES" --modules "$REPO/policies/dist"
    says "and reproduced by a process without an agent" "$RC $OUT" '^0 .*decisions? replayed'
    holds "a policy watches" berth policy activate --shadow last-core
    berth create --dry-run --cpus 1 >/dev/null
    says "it is counted how it agrees" "$(sleep 1; berth policy shadow)" 'last-core'
    holds "and stops watching" berth policy shadow --stop
}

# One line that says what and what next.
policies_mistakes() {
    heading "policies: mistakes"
    truncate -s 200M "$WORK/large.wasm"
    head -c 4096 /bin/busybox >"$WORK/precompiled.wasm"
    refuses "a module of 200 MB" 1 'bytes, more than' "$BERTH_BINARY" policy push "$WORK/large.wasm"
    refuses "a native file" 1 'precompiled|native' "$BERTH_BINARY" policy push "$WORK/precompiled.wasm"
    refuses "an unknown digest" 1 'no policy called' "$BERTH_BINARY" policy activate 0123456789
    refuses "rollback without a history" 1 'nothing was active' "$BERTH_BINARY" policy rollback slot-reporter
    refuses "needs that are not granted" 1 'not granted' "$BERTH_BINARY" policy push "$POLICY_EXAMPLES/proxy-and-ca.wasm"
    holds "a slot reporter is pushed" berth policy push "$POLICY_EXAMPLES/night-cores.wasm"
    printf 'cores = "two"\nfrom = 3\n' >"$WORK/wrong.toml"
    refuses "settings of the wrong type, all at once" 1 'cores.*from|from.*cores' \
        "$BERTH_BINARY" policy activate night-cores --settings "$WORK/wrong.toml"
    refuses "a module of another world" 1 'policy for .slot-reporter.|slot-reporter' \
        "$BERTH_BINARY" policy replay --module "$POLICY_EXAMPLES/night-cores.wasm" --world scheduler
    capture berth policy push "$POLICY_EXAMPLES/last-core.wasm"
    says "a module pushed twice" "$OUT$ERR" 'already'
}
