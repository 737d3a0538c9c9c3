#!/usr/bin/env bash
# Provides an image with Python for kernels and prints its name as the last line.
#
#   scripts/kernel-image.sh [OPTIONS] [TAG]        TAG: berth/python:local
#
# Without TAG any local image with the label ai.berth.default=1 will do. Where none is there: one pulled
# if a registry answers, else one packed from this machine's own Python, its libraries and busybox,
# which takes seconds and needs no network.
#
#   --local        pull nothing
#   --debootstrap  a whole Debian or Ubuntu with python3 from this machine's apt sources (root, minutes)
#   --rebuild      make it also when it is there
#
# BERTH_PULL_IMAGE says what is pulled (python:3.13-slim).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tag='' may_pull=yes way=host rebuild=no
while [ $# -gt 0 ]; do
    case $1 in
        --local) may_pull=no ;;
        --debootstrap) way=debootstrap may_pull=no ;;
        --rebuild) rebuild=yes ;;
        -h | --help) sed -n '2,/^\./{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
        -*) fail "there is no option $1" "scripts/kernel-image.sh --help" ;;
        *) tag=$1 ;;
    esac
    shift
done

docker_answers || fail "no Docker engine answers: $(docker_problem)" "or use berth without one: berth serve --engine process"

if [ "$rebuild" = no ]; then
    if [ -n "$tag" ]; then
        found=$(docker images --quiet "$tag")
    else
        found=$(docker images --filter label=ai.berth.default=1 --filter dangling=false --format '{{.Repository}}:{{.Tag}}')
        # Ours first, should there be several.
        ! grep -qx 'berth/python:local' <<<"$found" || found=berth/python:local
        tag=$(head -n 1 <<<"$found")
    fi
    if [ -n "$found" ]; then
        say "there is one: $tag"
        say "$tag"
        exit
    fi
fi
tag=${tag:-berth/python:local}

labels=(--change 'LABEL ai.berth.default=1 ai.backend.kernelspec=1 ai.backend.runtime-type=python ai.backend.runtime-path=/usr/bin/python3')
stage=''
trap '[ -z "$stage" ] || rm -rf "$stage"' EXIT

# ------------------------------------------------------------------------------------ from a registry

pull_image() {
    local reference=${BERTH_PULL_IMAGE:-python:3.13-slim} container
    say "asking a registry for $reference"
    timeout 8 docker manifest inspect "$reference" >/dev/null 2>&1 || { say "none answers"; return 1; }
    timeout 600 docker pull --quiet "$reference" || { say "it could not be pulled"; return 1; }
    # A pulled image says nothing of berth: a name of our own, with the labels.
    container=$(docker create "$reference" true)
    docker commit "${labels[@]}" --change 'LABEL ai.backend.base-distro=debian' --change 'CMD ["python3"]' "$container" "$tag" >/dev/null
    docker rm "$container" >/dev/null
}

# -------------------------------------------------------------------------------- from this machine

distro() { (. /etc/os-release && printf '%s%s' "$ID" "${VERSION_ID:-}"); }

# import_stage: the folder $stage as the image, owned by root and readable by all.
import_stage() {
    local path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    tar -C "$stage" --numeric-owner --owner=0 --group=0 --mode=a+rX --exclude=./dev/* -c . |
        docker import "${labels[@]}" --change "LABEL ai.backend.base-distro=$(distro)" \
            --change "ENV PATH=$path" --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$tag" >/dev/null
}

# put FILE..: copies files into the stage at the same place, links followed, /lib and /bin below /usr.
put() {
    local file to
    for file; do
        to=$file
        case $to in /bin/* | /sbin/* | /lib/* | /lib64/* | /lib32/* | /libx32/*) to=/usr$to ;; esac
        [ ! -e "$stage$to" ] || continue
        mkdir -p "$stage${to%/*}"
        cp -L --preserve=mode,timestamps "$file" "$stage$to"
    done
}

# libraries FILE..: what the dynamic loader would map for them, and the loader, one a line.
libraries() { ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' | grep -vxF -f <(printf '%s\n' "$@") | sort -u || true; }

pack_host() {
    local python=/usr/bin/python3 stdlib shell_tools tool
    need_packages python3
    want_packages busybox-static ca-certificates
    # -I: only what belongs to this Python, nothing from the user's environment.
    stdlib=$($python -I -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    say "packing $($python -I -V) of this machine"

    stage=$(mktemp -d)
    chmod 755 "$stage"
    umask 022
    mkdir -p "$stage"/{dev,etc/ssl/certs,home/work,proc,root,run,sys,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64,usr/local/bin,var/tmp}
    chmod 1777 "$stage"/{tmp,var/tmp}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$stage/"

    put "$($python -I -c 'import os, sys; print(os.path.realpath(sys.executable))')"
    ln -sf "$(basename "$stage"/usr/bin/python3*)" "$stage/usr/bin/python3"
    ln -sf python3 "$stage/usr/bin/python"
    # The standard library without its tests, editors and what only compiles against it.
    mkdir -p "$stage$stdlib"
    tar -C "$stdlib" --dereference --exclude=./test --exclude=./idlelib --exclude=./tkinter --exclude=./turtledemo \
        --exclude=./lib2to3 --exclude=./ensurepip --exclude='./config-*' --exclude='./*/test' --exclude='./*/tests' \
        --ignore-failed-read --warning=no-file-ignored -c . | tar -C "$stage$stdlib" -x
    mapfile -t tool < <(libraries "$stage$stdlib"/lib-dynload/*.so "$python")
    put "${tool[@]}"
    # Loaded by name when a thread is cancelled, so ldd does not see it.
    for tool in /lib/*-linux-gnu*/libgcc_s.so.1 /usr/lib64/libgcc_s.so.1; do [ ! -e "$tool" ] || put "$tool"; done

    # A shell and its tools: one static program under many names.
    if [ -x /bin/busybox ]; then
        put /bin/busybox
        mapfile -t shell_tools < <(libraries /bin/busybox)
        [ ${#shell_tools[@]} = 0 ] || put "${shell_tools[@]}"
        for tool in $(/bin/busybox --list); do
            [ -e "$stage/usr/bin/$tool" ] || ln -s busybox "$stage/usr/bin/$tool"
        done
    else
        for tool in sh cat cp env false head id ls mkdir mv printf rm sha256sum sleep tail touch true uname wc; do
            put "$(type -P "$tool")" # not the shell's own
        done
        mapfile -t shell_tools < <(libraries "$stage"/usr/bin/*)
        put "${shell_tools[@]}"
    fi

    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' >"$stage/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$stage/etc/group"
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$stage/etc/nsswitch.conf"
    put /etc/os-release
    # Where Debian's OpenSSL looks for its configuration and for certificates.
    mkdir -p "$stage/usr/lib/ssl"
    ln -s /etc/ssl/certs "$stage/usr/lib/ssl/certs"
    ln -s /etc/ssl/certs/ca-certificates.crt "$stage/usr/lib/ssl/cert.pem"
    ln -s /etc/ssl/openssl.cnf "$stage/usr/lib/ssl/openssl.cnf"
    for tool in /etc/ssl/openssl.cnf /etc/ssl/certs/ca-certificates.crt; do [ ! -r "$tool" ] || put "$tool"; done
    # Libraries outside the loader's own folders are found by its cache only.
    ! is_root || ldconfig -r "$stage" 2>/dev/null || true
    import_stage
}

pack_debootstrap() {
    local source
    is_root || fail "debootstrap needs root" "sudo scripts/kernel-image.sh --debootstrap, or leave the option out"
    need_packages debootstrap
    # shellcheck disable=SC2016 # the $( ) is apt's
    source=$(. /etc/os-release && apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Component: main' 'Created-By: Packages' |
        awk -v name="$VERSION_CODENAME" '$2 == name { print $1; exit }')
    [ -n "$source" ] || fail "no apt source of this release was found" "see /etc/apt/sources.list; apt-get update"
    say "debootstrap from $source"
    stage=$(mktemp -d)
    chmod 755 "$stage"
    quietly debootstrap --variant=minbase --include=python3,ca-certificates "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$stage" "$source" ||
        fail "debootstrap failed" "see its message above, or leave --debootstrap out"
    rm -rf "$stage"/var/cache/apt/* "$stage"/var/lib/apt/lists/*
    import_stage
}

# --------------------------------------------------------------------------------------------- make it

began=$(now_ms)
if [ "$may_pull" = no ] || ! pull_image; then
    "pack_$way"
fi
docker run --rm --network none "$tag" python3 -c 'import ctypes, hashlib, json, random, sqlite3, ssl, socket, threading' ||
    fail "the image $tag was made, but its Python does not work" "docker run --rm -it $tag sh"
bytes=$(docker image inspect --format '{{.Size}}' "$tag")
say "made $tag, $((bytes / 1000000)) MB, in $(seconds $(($(now_ms) - began)))"
say "$tag"
