#!/usr/bin/env bash
# Runs the whole suite with cargo-nextest where it is installed, else with cargo test; before it, where nothing was picked
# by an argument, the count of instructions of the hot functions and of one event (benches/instructions.rs).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
    scripts/setup.sh valgrind
    cargo bench --bench instructions </dev/null
fi

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --all-targets "$@" </dev/null
else
    cargo test --lib --bins --examples </dev/null
    cargo test --test it -- --skip oracle:: </dev/null
    # The oracle loads the whole machine: one of its tests at a time.
    cargo test --test it -- oracle:: --test-threads=1 </dev/null
fi
