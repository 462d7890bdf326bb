#!/usr/bin/env bash
# Runs every fuzz target for $1 seconds on the committed corpus; what is found on the way stays in target/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")"

readonly seconds=${1:-60}
readonly cargo_fuzz_version=0.13.1
readonly out=../../../target/fuzz
# A safe-Rust target gains nothing from the address sanitizer and runs at half the speed under it.
readonly build=(-s none --fuzz-dir .)

missing() {
    echo "fuzz: missing $1"
    exit 1
}

[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz: TIME=$seconds: say for how many seconds each target runs, such as 60"; exit 1; }
cargo +nightly --version >/dev/null 2>&1 || missing "the nightly toolchain (rustup toolchain install nightly)"
command -v c++ >/dev/null || missing "a C++ compiler (apt-get install g++)"
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --version "$cargo_fuzz_version" --locked ||
        missing "cargo-fuzz (cargo install cargo-fuzz --version $cargo_fuzz_version --locked)"
fi

mkdir -p "$out"
cargo +nightly fuzz build "${build[@]}"
targets=$(cargo +nightly fuzz list --fuzz-dir .)
count=0 total=0 failed=0 rows=""
begun=$SECONDS
for target in $targets; do
    mkdir -p "$out/corpus/$target" "artifacts/$target" "corpus/$target"
    log=$out/$target.log
    if cargo +nightly fuzz run "${build[@]}" "$target" "$out/corpus/$target" "corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 >"$log" 2>&1; then
        verdict=ok
    else
        verdict=failed
        failed=$((failed + 1))
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2 || true)
    echo "$target: $verdict runs=${runs:-0} covered=${covered:-0}"
    rows+="${rows:+,}{\"target\":\"$target\",\"verdict\":\"$verdict\",\"runs\":${runs:-0},\"covered\":${covered:-0}}"
    count=$((count + 1))
    total=$((total + ${runs:-0}))
done
took=$((SECONDS - begun))
echo "{\"targets\":[$rows],\"seconds\":$took,\"runs\":$total,\"failed\":$failed}" >"$out/report.json"
if [ "$failed" != 0 ]; then
    echo "fuzz: FAILED $failed of $count targets; inputs in csi-driver/iscsi/fuzz/artifacts, logs in target/fuzz"
    exit 1
fi
echo "fuzz: ok targets=$count seconds=$took runs=$total"
