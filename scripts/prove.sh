#!/usr/bin/env bash
# The long form of the rigs of docs/reliability.md against the release build: `prove.sh` runs all, `prove.sh NAME...` some.
# What each found is gathered in target/prove/report.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

# Each rig is a filter over the behaviour tests, or a script.
declare -A rigs=(
    [power_cut]='test(/^oracle::.*(cut|disk|control)/)'
    [kill_9]='test(/^oracle::.*kill/)'
    [log]='test(/^oracle::log/)'
    [supply_chain]=scripts/deny.sh
    [hostile]='test(/^hostile::/)'
    [bad_upstream]='test(/^bad_upstream::/)'
    [bad_senders]='test(/^bad_senders::/)'
    [fuzz]=scripts/fuzz.sh
    [properties]='test(/inbox::windows|no_spelling_of_our_headers/)'
    [lifecycle]='test(/^lifecycle::/)'
    [leaks]='test(/^leaks::/)'
    [soak]='test(/^soak::/)'
    [mutants]=scripts/mutants.sh
    [bad_disk]='test(/^store_faults::/)'
    [damaged_store]='test(/^inbox::damage::/)'
    [upgrade]='test(/^store_upgrade::/)'
)
order=(power_cut kill_9 log bad_disk supply_chain hostile bad_upstream bad_senders fuzz properties lifecycle leaks soak mutants damaged_store upgrade)

report=target/prove/report.txt
mkdir -p target/prove
if [ $# -gt 0 ]; then order=("$@"); fi

# What the power is cut on, and what is filled.
case " ${order[*]} " in *" power_cut "* | *" bad_disk "*) scripts/setup.sh mkfs.ext4 mkfs.xfs ;; esac

for rig in "${order[@]}"; do
    [ -x "${rigs[$rig]:?no such rig: $rig}" ] && continue
    cargo build --release --bin hooklatch
    break
done
HOOKLATCH_BIN=$(realpath -m "${CARGO_TARGET_DIR:-target}/release/hooklatch")
export HOOKLATCH_BIN PROVE=long

failed=()
: >"$report"
for rig in "${order[@]}"; do
    filter=${rigs[$rig]}
    log=target/prove/$rig.log
    run=(cargo nextest run --profile prove -E "$filter")
    if [ -x "$filter" ]; then run=("$filter"); fi
    "${run[@]}" 2>&1 | tee "$log" || failed+=("$rig")
    grep -ho 'proved: .*' "$log" >>"$report" || true
done

echo
sort -u "$report"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
