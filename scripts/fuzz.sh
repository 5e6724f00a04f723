#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ (or those named) for FUZZ_RUNS executions. Needs a nightly toolchain of rustup.
#
# What is found new goes to target/fuzz/corpus, what breaks to target/fuzz/crashes; fuzz/corpus is only read. FUZZ_SEED
# repeats a run.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

runs=${FUZZ_RUNS:-50000000}
targets=("$@")
if [ $# -eq 0 ]; then targets=(signature identify config request rows answer); fi
# Small inputs are fast ones; these hold everything a target tells apart.
declare -A bytes=([signature]=256 [identify]=256 [config]=160 [request]=512 [rows]=96 [answer]=384)

cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
# Coverage of what reads outside bytes, not of every dependency: several times faster.
export RUSTC_WRAPPER="$PWD/fuzz/rustc.sh"
cargo +nightly fuzz build --sanitizer none --no-trace-compares
binaries=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release

work=target/fuzz
mkdir -p "$work/crashes" "$work/logs"
for target in "${targets[@]}"; do
    log=$work/logs/$target.log
    mkdir -p "$work/corpus/$target"
    dictionary=()
    if [ -f "fuzz/dict/$target.dict" ]; then dictionary=("-dict=fuzz/dict/$target.dict"); fi
    if ! "$binaries/$target" -runs="$runs" -seed="${FUZZ_SEED:-0}" -max_len="${bytes[$target]}" \
        -timeout=2 -rss_limit_mb=512 -use_value_profile=0 -print_final_stats=1 \
        -artifact_prefix="$work/crashes/$target-" "${dictionary[@]}" \
        "$work/corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
        echo "fuzz $target broke; its input is in $work/crashes, the end of $log:" >&2
        grep -a -A 12 'panicked at\|ERROR: libFuzzer' "$log" | head -40 >&2 || tail -20 "$log" >&2
        exit 1
    fi
    done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    echo "proved: fuzz $target: $done executions, $rate a second, 0 crashes"
done
