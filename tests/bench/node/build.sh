#!/usr/bin/env bash
# Build the two programs under measurement into target/bench/node: everstep_child.mjs beside the installed tarballs, dbos_child.mjs beside the DBOS SDK.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=${CARGO_TARGET_DIR:-target}/bench/node
lock=$(sha256sum tests/bench/node/package-lock.json | cut -d' ' -f1)
if [ "$(cat "$out/.made-from" 2>/dev/null || true)" != "$lock" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    cp tests/bench/node/package.json tests/bench/node/package-lock.json "$out"
    npm ci --prefix "$out" --ignore-scripts --no-audit --no-fund --silent
    echo "$lock" > "$out/.made-from"
fi
# The package under measurement is the one that would be published.
for name in everstep everstep-linux-x64-gnu; do
    rm -rf "$out/node_modules/$name"
    cp -r "${CARGO_TARGET_DIR:-target}/node/installed/node_modules/$name" "$out/node_modules/$name"
done
for name in everstep_child dbos_child; do
    bindings-node/node_modules/.bin/esbuild "tests/bench/node/$name.ts" --log-level=warning --bundle --platform=node --format=esm --target=node20 \
        --packages=external --tsconfig-raw="{}" --outfile="$out/$name.mjs"
done
