#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test. Arguments go to `cargo test`:
#   scripts/test.sh                          all tests
#   scripts/test.sh -p berth-runner          those of the runner
#   scripts/test.sh -- --nocapture interrupt those whose name has "interrupt", with their output
# Tests that need a Docker engine, bubblewrap, busybox, Redis, etcd or the official Python client (CPython 3.13) say so
# and are skipped where there is none.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "system packages"
need_packages "${BUILD_PACKAGES[@]}"
want_packages "${TOUR_PACKAGES[@]}" "${CLUSTER_PACKAGES[@]}"

step "Rust toolchain"
need_toolchain

step "official peers"
want_peers

step "build"
build_berth

step "tests"
docker_answers || say "note: no Docker engine answers ($(docker_problem)); tests that need one are skipped"
selection=(--workspace)
for word; do
    case $word in
        --) break ;;
        -p | -p?* | --package | --package=* | --workspace | --all) selection=() ;;
    esac
done
cargo test "${selection[@]}" "$@"
step_end
