#!/usr/bin/env bash
# Installs what the build needs and this machine lacks. Silent when nothing is missing.
set -euo pipefail

needed=(cc make cmake)
missing=()
for tool in "${needed[@]}"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done

if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "install a C compiler, make and cmake with this system's package manager, then run make again" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "as root: apt-get install gcc libc6-dev make cmake" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends gcc libc6-dev make cmake </dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: see https://rustup.rs, then run make again" >&2
    exit 1
fi
