#!/usr/bin/env bash
# Runs the whole suite with cargo-nextest where it is installed, else with cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --all-targets "$@" </dev/null
else
    cargo test --all-targets "$@" </dev/null
fi
