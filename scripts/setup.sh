#!/usr/bin/env bash
# Installs what the build needs and this machine lacks, and the programs named as arguments. Silent when nothing is missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

declare -A packages=(
    [cc]="gcc libc6-dev" [make]=make [cmake]=cmake
    [mkfs.ext4]=e2fsprogs [mkfs.xfs]=xfsprogs [valgrind]=valgrind
)
missing=()
wanted=()
for tool in cc make cmake "$@"; do
    package=${packages[$tool]:?no package known for $tool}
    command -v "$tool" >/dev/null && continue
    missing+=("$tool")
    read -ra names <<<"$package"
    wanted+=("${names[@]}")
done

if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "install ${missing[*]} with this system's package manager, then try again" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "as root: apt-get install ${wanted[*]}" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${wanted[@]}" </dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: see https://rustup.rs, then run make again" >&2
    exit 1
fi
