#!/usr/bin/env bash
# Takes the README's picture from a platform of its own that runs the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${POLYBOLOS:-${CARGO_TARGET_DIR:-target}/debug/polybolos}
folder=$(mktemp -d)
"$binary" up --data-dir "$folder/data" --port-offset 3000 >"$folder/out" 2>"$folder/err" &
platform=$!
trap 'kill -INT $platform; wait $platform || true; rm -rf "$folder"' EXIT
until grep -q '^ready' "$folder/out"; do kill -0 $platform; sleep 0.2; done
sleep 45
url=$(sed -n 's/^ready http=//p' "$folder/out")
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$folder/browser" --window-size=1280,900 \
  --virtual-time-budget=8000 --screenshot=docs/console.png "$url"
