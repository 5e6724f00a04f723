#!/usr/bin/env bash
# Makes .cargo/profile anew: what the gateway does under load, which optimised builds are laid out by (.cargo/rustc.sh). Due when
# the hot path, the compiler or a dependency has changed (functions are named after the latter two). Needs BENCH_DIR, a checkout
# of the comparison harness whose hookload is built (BENCH_TARGET_DIR), rustup's llvm-tools, and ports 24310 and 24311. Takes two
# cores, and a quarter of an hour.
#
# Binaries and counts stay in target/profile, so that it is faster again when only the load has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/load-config.sh
exec </dev/null

scripts/setup.sh valgrind
hookload=${BENCH_TARGET_DIR:-${BENCH_DIR:?}/hookload/target}/release/hookload
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
for tool in "$hookload" "$profdata"; do
    [ -x "$tool" ] || {
        echo "$tool is missing: build hookload, or run rustup component add llvm-tools" >&2
        exit 1
    }
done

# Counts that grow while an instrumented gateway runs are merged into one file for each build.
work=$PWD/target/profile
rm -rf "$work/counts" "$work/run"
mkdir -p "$work/counts" "$work/run"
export HOOKLATCH_PROFILE_INTO=$work/counts
gateway=$work/build/release/hooklatch

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
stop() { # PID: ends it and waits, so that its counts are written.
    kill "$1"
    wait "$1" || true
}
sink_port=24310 port=24311
answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
demand_free() { # PORT: who answers there would be taken for ours.
    if answers "$1"; then
        echo "port $1 is taken" >&2
        exit 1
    fi
}
start_sink() {
    demand_free "$sink_port"
    taskset -c 1 "$hookload" sink --listen "127.0.0.1:$sink_port" --fail 0.01 >/dev/null 2>&1 &
    sink=$!
    pids+=("$sink")
}
start_gateway() { # COMMAND THAT RUNS IT...
    demand_free "$port"
    taskset -c 0 "$@" "$gateway" run -c "$work/run/hooklatch.toml" >>"$work/run/log" 2>&1 &
    running=$!
    pids+=("$running")
    for _ in $(seq 300); do
        answers "$port" && return
        sleep 0.1
    done
    echo "the gateway did not start; see $work/run/log" >&2
    exit 1
}
load() { # PATH OPTION...
    local path=$1
    shift
    taskset -c 1 "$hookload" load --url "http://127.0.0.1:$port/$path" --secret bench-secret "$@" >/dev/null
}

providers=(quantiv quintago iverton ltvboost connectgain)
{
    config_head "$port" "$work/run/store"
    for mode in queue proxy; do
        for provider in "${providers[@]}"; do
            config_route "/$mode/$provider" "$provider" "$mode" "127.0.0.1:$sink_port"
        done
    done
} >"$work/run/hooklatch.toml"

# Cargo names functions by the features of what they use, which differ where examples and benches are built too.
for targets in "--bin hooklatch" "--bin hooklatch --example sample_app"; do
    # shellcheck disable=SC2086
    cargo build --release --target-dir "$work/build" $targets
    rm -rf "$work/run/store"
    start_sink
    start_gateway
    for mode in queue proxy; do
        for provider in "${providers[@]}"; do
            for size in 300 1k 4k 20k; do
                load "$mode/$provider" --provider "$provider" --size "$size" --duration 1
            done
        done
        for size in 1k 10k 100k; do
            load "$mode/quantiv" --size "$size" --duration 4
        done
        load "$mode/quantiv" --duration 2 --bad 0.1
        load "$mode/quantiv" --duration 2 --dup 0.1
        load "$mode/quantiv" --duration 2 --reqs-per-conn 1
        load "$mode/quantiv" --duration 2 --rate 2000
    done
    # An outage of the app, a restart, and what was left.
    stop "$sink"
    load queue/quantiv --duration 3
    stop "$running"
    start_gateway
    start_sink
    sleep 8
    stop "$running"
    # A processor without SHA instructions.
    start_gateway valgrind -q --tool=none
    load queue/quantiv --size 4k --count 2000
    stop "$running"
    stop "$sink"
done

"$profdata" merge --sparse "$work"/counts/*.profraw -o .cargo/profile/hooklatch.profdata
rustc -vV >.cargo/profile/rustc
# Cargo does not see that what the compiler reads has changed.
cargo clean --release
ls -l .cargo/profile/hooklatch.profdata
