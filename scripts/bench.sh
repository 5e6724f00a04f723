#!/usr/bin/env bash
# Figures of this machine: first the parts (verify, identify, commit), then, where BENCH_DIR names a checkout of the
# comparison harness, the whole gateway beside others. More arguments go to the harness, such as `--rounds 3 --secs 3`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/load-config.sh

cargo bench </dev/null

if [ -z "${BENCH_DIR:-}" ]; then
    echo "BENCH_DIR is not set: no comparison with other gateways"
    exit 0
fi
cargo build --release --bin hooklatch </dev/null
binary=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release/hooklatch
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT

# @PORT@ and @SINK@ are filled in by the harness through the shell below.
for mode in queue proxy; do
    {
        config_head @PORT@ "$run/$mode-store"
        config_route /webhook quantiv "$mode" @SINK@
    } >"$run/$mode.toml"
done
command_of() {
    echo "sh -c 'sed -e s/@PORT@/{port}/ -e s/@SINK@/{sink}/ $run/$1.toml >{run}/hooklatch.toml && exec $binary run -c {run}/hooklatch.toml'"
}
for mode in queue proxy; do
    class=forward
    [ "$mode" = queue ] && class=queue
    "$BENCH_DIR/run.sh" --targets "${BENCH_TARGETS:-haproxy,nginx-lua}" --baseline "${BENCH_BASELINE:-haproxy}" \
        --target "hooklatch-$mode" 'http://127.0.0.1:{port}/webhook' "$(command_of "$mode")" \
        --target-class "$class" "$@" </dev/null
done
