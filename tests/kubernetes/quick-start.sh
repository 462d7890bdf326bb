#!/usr/bin/env bash
# Follows the quick start of docs/kubernetes.md, its very text, on the clusters of `make clusters`, then its uninstalling, and ends
# with one line. What is replaced: the image that one would push, by the harness's (the values of the example).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
out=$target/quick-start
mkdir -p "$out"
begun=$SECONDS

# The code blocks of a section, one after the other.
blocks() {
  awk -v title="## $1" '/^## / { inside = ($0 == title) } /^```/ { code = inside && !code && $0 == "```"; next } inside && code' docs/kubernetes.md
}

"$target/debug/clusters" >"$out/clusters.log" 2>&1 &
clusters=$!
trap 'kill -INT $clusters 2>/dev/null; wait $clusters || true' EXIT
until grep -qs '^ready after' "$out/clusters.log"; do
  kill -0 $clusters 2>/dev/null || { cat "$out/clusters.log"; exit 1; }
  sleep 0.5
done
shell=$target/clusters/shell

blocks 'Quick start' |
  grep -v -e '^docker ' -e '^cargo install' |
  sed 's|--set image.repository=[^ ]*|--values examples/two-cluster/values-$site.yaml|' >"$out/quick-start.sh"
blocks 'Uninstalling' | sed -n '1,2p' >"$out/uninstall.sh"
grep -q preflight "$out/quick-start.sh" && grep -q 'helm .* uninstall' "$out/uninstall.sh" || { echo "quick-start: the guide is written otherwise than this reads it"; exit 1; }

# What stands at its end, preflight and status, is asked again until it is good.
sed '/^kubectl twinsite \(preflight\|status\)/d' "$out/quick-start.sh" >"$out/steps.sh"
"$shell" bash -euxo pipefail "$out/steps.sh" >"$out/steps.log" 2>&1 || { tail -20 "$out/steps.log"; exit 1; }
applied=$SECONDS
for _ in $(seq 90); do
  "$shell" kubectl twinsite status --contexts medical,research --check >"$out/status.log" 2>&1 && break
  sleep 1
done
"$shell" kubectl twinsite status --contexts medical,research --check >"$out/status.log" 2>&1 || { cat "$out/status.log"; exit 1; }
good=$SECONDS
"$shell" kubectl twinsite preflight --contexts medical,research >"$out/preflight.log" 2>&1 || { cat "$out/preflight.log"; exit 1; }
cat "$out/status.log"
if [ -n "${THEN:-}" ]; then "$shell" bash -x "$THEN" >"$out/then.log" 2>&1 || true; fi
"$shell" bash -euxo pipefail "$out/uninstall.sh" >"$out/uninstall.log" 2>&1 || { tail -20 "$out/uninstall.log"; exit 1; }
printf '{"steps_seconds": %d, "good_after_seconds": %d, "seconds": %d}\n' $((applied - begun)) $((good - applied)) $((SECONDS - begun)) >"$out/report.json"
echo "quick-start: ok steps_seconds=$((applied - begun)) good_after_seconds=$((good - applied)) seconds=$((SECONDS - begun))"
