#!/usr/bin/env bash
# Runs the whole suite with cargo-nextest where it is installed, else with cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --all-targets "$@" </dev/null
else
    cargo test --lib --bins --examples </dev/null
    cargo test --test it -- --skip oracle:: </dev/null
    # The oracle loads the whole machine: one of its tests at a time.
    cargo test --test it -- oracle:: --test-threads=1 </dev/null
fi
