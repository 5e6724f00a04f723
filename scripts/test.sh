#!/usr/bin/env bash
# Runs the whole suite with cargo-nextest where it is installed, else with cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --all-targets "$@" </dev/null
    # nextest leaves the examples in the documentation to cargo.
    cargo test --doc </dev/null
else
    cargo test --all-targets "$@" </dev/null
    cargo test --doc </dev/null
fi
