#!/usr/bin/env bash
# Mutation testing: every small change of the code that decides must be noticed by a test. Two passes, each with its list
# of files and of equivalent mutants: .cargo/mutants.toml by the unit tests beside the code, .cargo/mutants-store.toml
# by the tests of the inbox. Arguments go to cargo-mutants, as in `scripts/mutants.sh --re limit.rs`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

cargo mutants --version >/dev/null 2>&1 || cargo install cargo-mutants --locked

# What it depends on is built once; debug information would double the time of a build.
export CARGO_TARGET_DIR="$PWD/target/mutants" CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0

# How many mutants the configuration $1 lets through; the rest goes to cargo-mutants.
count() { cargo mutants --config "$@" --list | wc -l; }

caught=0 endless=0 unviable=0 equivalent=0 missed=0
for pass in mutants mutants-store; do
    config=.cargo/$pass.toml
    out=target/mutants/$pass
    mkdir -p "$out"
    sed '/^exclude_re = \[/,/^\]/d' "$config" >"$out/all.toml"
    all=$(count "$out/all.toml" "$@")
    [ "$all" -gt 0 ] || continue
    equivalent=$((equivalent + all - $(count "$config" "$@")))
    # An exclusion that names nothing any more would hide the next mutant that it fits.
    sed -n "s/^    '\(.*\)',$/\1/p" "$config" | while read -r exclusion; do
        [ "$(count "$out/all.toml" --re "$exclusion")" -gt 0 ] || {
            echo "$config excludes a mutant that is gone: $exclusion" >&2
            exit 1
        }
    done
    status=0
    nice cargo mutants --config "$config" --jobs 1 --output "$out" --colors never "$@" || status=$?
    # 2: some were missed; 3: some never ended, which the tests notice too.
    case $status in 0 | 2 | 3) ;; *) exit "$status" ;; esac
    lines() { wc -l <"$out/mutants.out/$1.txt"; }
    caught=$((caught + $(lines caught)))
    endless=$((endless + $(lines timeout)))
    unviable=$((unviable + $(lines unviable)))
    missed=$((missed + $(lines missed)))
done

total=$((caught + endless + unviable + equivalent + missed))
result="$total mutants, $((caught + endless)) caught ($endless by never ending), $unviable unviable"
result="$result, $equivalent shown equivalent, $missed missed"
if [ "$missed" -gt 0 ]; then
    echo "$result" >&2
    exit 1
fi
echo "proved: mutants: $result"
