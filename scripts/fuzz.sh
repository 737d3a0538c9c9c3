#!/usr/bin/env bash
# Fuzzes the decoders of what containers, clients and the RPC port send (fuzz/README.md). Prints executions and
# findings of each target; exits 1 when there was a finding, with the command that shows it again.
#
#   scripts/fuzz.sh [--keep] [SECONDS] [TARGET..]     SECONDS for each target: 120; TARGET: all of them
#
#   --keep   adds to fuzz/corpus what reaches code that nothing in there reached
#
# Stable Rust will do; cargo-fuzz is installed if it is missing (a minute or two).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

keep=no seconds=120 targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        -h | --help) sed -n '2,/^\./{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
        -*) fail "there is no option $1" "scripts/fuzz.sh --help" ;;
        *[!0-9]*) targets+=("$1") ;;
        *) seconds=$1 ;;
    esac
    shift
done

need_toolchain
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
# The sanitizer is an unstable option of the compiler.
export RUSTC_BOOTSTRAP=1
# Archives are unpacked: in memory, where that is possible.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm

mapfile -t known < <(cargo fuzz list)
[ ${#targets[@]} != 0 ] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    [[ " ${known[*]} " == *" $target "* ]] || fail "there is no target $target" "known are: ${known[*]}"
done

# longest TARGET: bytes of the longest input. Enough for the limits that lie within reach of a fuzzer; what needs
# millions of bytes is a test of its own.
longest() {
    case $1 in
        callosum_header) echo 4200 ;;
        link_words) echo 64 ;;
        link_finished | callosum_certificate) echo 1024 ;;
        agent_archive) echo 16384 ;;
        *) echo 8192 ;;
    esac
}

# longest_kept TARGET, and how many are kept: short inputs that reach code, not those that only go through it more
# often, and no more than a test replays in no time.
longest_kept() {
    case $1 in
        agent_archive) echo 520 ;; # a header, and a little
        *) echo 256 ;;
    esac
}
KEPT_MAX=280

found=$CARGO_TARGET_DIR/fuzz # inputs beyond those that are kept
options() {
    # No decoder may take long over a few KiB, nor much memory: the heap is bounded by the checks, too.
    echo "-max_len=$(longest "$1") -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256"
}

step "build"
cargo fuzz build

step "fuzz, $seconds s each"
findings=0
for target in "${targets[@]}"; do
    log=$found/$target.log artifacts=fuzz/artifacts/$target
    mkdir -p "$found/$target" "$artifacts"
    rc=0
    # shellcheck disable=SC2046 # words are meant
    cargo fuzz run "$target" "$found/$target" "fuzz/corpus/$target" -- $(options "$target") \
        -max_total_time="$seconds" -print_final_stats=1 >"$log" 2>&1 || rc=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$rc" = 0 ]; then
        printf '%-22s %12s executions, no finding\n' "$target" "$executions"
        continue
    fi
    findings=$((findings + 1))
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    printf '%-22s %12s executions, %sfinding:%s %s\n' "$target" "${executions:-?}" "$RED" "$PLAIN" \
        "$(grep -m1 -A1 -E 'panicked at|ERROR: ' "$log" | tr '\n' ' ')"
    if [ -n "$input" ]; then
        say "  again: RUSTC_BOOTSTRAP=1 cargo fuzz run $target ${input#"$REPO/"}"
    else
        say "  see $log"
    fi
done

if [ "$keep" = yes ] && [ "$findings" = 0 ]; then
    step "what is new"
    for target in "${targets[@]}"; do
        before=$(find "fuzz/corpus/$target" -type f | wc -l)
        cargo fuzz run "$target" "fuzz/corpus/$target" "$found/$target" -- -set_cover_merge=1 -use_counters=0 \
            -max_len="$(longest_kept "$target")" >"$found/$target.merge" 2>&1 ||
            fail "the corpus of $target could not be merged" "see $found/$target.merge"
        # Those with a hash for a name came from a run; by it the surplus is as good a choice as any.
        find "fuzz/corpus/$target" -regextype egrep -regex '.*/[0-9a-f]{40}' | sort | tail -n "+$((KEPT_MAX + 1))" |
            xargs -r rm
        say "$target: $(($(find "fuzz/corpus/$target" -type f | wc -l) - before)) more"
    done
fi

step_end
[ "$findings" = 0 ] || fail "$findings of ${#targets[@]} targets have a finding" "fix the decoder, with a test, and put the input into fuzz/corpus"
