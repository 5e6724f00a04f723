#!/usr/bin/env bash
# The sample app and the gateway with five providers on this machine: a genuine event, a repeat and a forgery of each, told
# as they happen; then both keep serving until Ctrl-C. `--once` ends after the transcript.
set -euo pipefail
cd "$(dirname "$0")/.."

built=${CARGO_TARGET_DIR:-target}/release
hooklatch=${HOOKLATCH_BIN:-$built/hooklatch}
app=$built/examples/sample_app
config=config/hooklatch.toml
run=run
mkdir -p "$run"

# Secrets for this demonstration only.
export QUANTIV_WEBHOOK_SECRET=demo-quantiv-0123456789abcdef
export QUINTAGO_WEBHOOK_SECRET=demo-quintago-0123456789abcdef
export IVERTON_WEBHOOK_SECRET=whsec_demo-iverton-0123456789abcdef
export LTVBOOST_WEBHOOK_SECRET=demo-ltvboost-0123456789abcdef
export CONNECTGAIN_WEBHOOK_SECRET=demo-connectgain-0123456789abcdef

children=()
stop() {
    trap - EXIT INT TERM
    for child in "${children[@]}"; do
        kill "$child" 2>/dev/null || true
    done
    for child in "${children[@]}"; do
        wait "$child" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'echo; echo "stopping"; exit 0' INT TERM

# wait_until SECONDS COMMAND...: false when the time is over.
wait_until() {
    local tries=$(($1 * 20))
    shift
    until "$@"; do
        [ $((tries--)) -gt 0 ] || return 1
        sleep 0.05
    done
}
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
    local port
    for port in $(seq "$1" "$(($1 + 50))"); do
        taken "$port" || { echo "$port"; return; }
    done
    echo "no free port from $1 on" >&2
    return 1
}
fail() {
    echo "$1" >&2
    tail -n 20 "$2" >&2 || true
    exit 1
}

: >"$run/app.log"
"$app" 127.0.0.1:3000 >"$run/app.log" 2>&1 &
children+=($!)
wait_until 10 grep -q '^sample app on' "$run/app.log" || fail "the sample app does not start" "$run/app.log"
app_address=$(sed -n 's|^sample app on http://||p' "$run/app.log")

# The configuration as it is shipped, but for ports that are taken here.
port=$(free_port 8080)
admin_port=$(free_port 9190)
sed -e "s|127\.0\.0\.1:3000|$app_address|" -e "s|0\.0\.0\.0:8080|127.0.0.1:$port|" "$config" >"$run/hooklatch.toml"
grep -q '^\[admin\]' "$run/hooklatch.toml" ||
    printf '\n[admin]\nlisten = "127.0.0.1:%s"\n' "$admin_port" >>"$run/hooklatch.toml"

rm -f "$run/ready.json"
HOOKLATCH_READY_FILE=$run/ready.json "$hooklatch" run -c "$run/hooklatch.toml" \
    --allow-ephemeral --store "$run/store" >"$run/gateway.log" 2>&1 &
gateway=$!
children+=("$gateway")
ready_or_gone() { [ -e "$run/ready.json" ] || ! kill -0 "$gateway" 2>/dev/null; }
wait_until 20 ready_or_gone || fail "the gateway does not become ready" "$run/gateway.log"
[ -e "$run/ready.json" ] || fail "the gateway ended" "$run/gateway.log"

echo "gateway     http://127.0.0.1:$port        (log: $run/gateway.log, store: $run/store)"
echo "sample app  http://$app_address        (log: $run/app.log)"

arrived() { grep -c ' sha256 ' "$run/app.log" || true; }
arrived_more_than() { [ "$(arrived)" -gt "$1" ]; }

# send TITLE EXPECTED PROVIDER EVENT [OPTIONS]: EXPECTED is how many requests the app must get.
send() {
    local title=$1 expected=$2 before answer
    shift 2
    before=$(arrived)
    echo
    echo "## $1: $title"
    echo "\$ hooklatch send $*"
    # A refused event makes `send` end with a status of its own.
    answer=$("$hooklatch" send "$@" --config "$run/hooklatch.toml" 2>&1) || true
    printf '%s\n' "$answer" | sed 's/^/  /'
    if [ "$expected" -gt 0 ]; then
        wait_until 10 arrived_more_than "$((before + expected - 1))" || fail "the app got nothing" "$run/gateway.log"
    fi
    # Long enough for a delivery that should not be.
    sleep 0.3
    local got=$(($(arrived) - before))
    [ "$got" -eq "$expected" ] || fail "the app got $got requests instead of $expected" "$run/app.log"
    if [ "$got" -eq 0 ]; then
        echo "  the app got nothing"
        return
    fi
    grep ' sha256 ' "$run/app.log" | tail -n "$got" | sed -e 's/^/  the app got: /' -e 's/  */ /g' -e 's/^ /  /'
    local digest
    digest=$(grep ' sha256 ' "$run/app.log" | tail -n 1 | sed 's/.* sha256 \([0-9a-f]*\).*/\1/')
    if grep -q "$digest" <<<"$answer"; then
        echo "  the body is the one that was sent: sha256 $digest"
    fi
}

event_of() {
    # The first sample event of the provider's own file.
    sed -n '/^\[\[sample/,$p' "config/providers/$1.toml" | sed -n 's/^\(event_\)\{0,1\}type *= *"\(.*\)"/\2/p' | head -n 1
}

for provider in quantiv quintago iverton ltvboost connectgain; do
    event=$(event_of "$provider")
    send "a genuine event, sent twice; the app gets it once" 1 "$provider" "$event" --repeat
    send "a forged one" 0 "$provider" "$event" --bad-signature
done

echo
echo "15 requests were sent, 5 events were handed over."
if [ "${1:-}" = --once ]; then
    exit 0
fi
echo "Both keep serving; Ctrl-C ends them. Try: hooklatch send quantiv $(event_of quantiv) --config $run/hooklatch.toml"
wait "$gateway"
