#!/usr/bin/env bash
# Build the npm packages as they would be published: tarballs in target/node/, installed into target/node/installed. `node.sh suite`: the same with the crash
# points and switches the suite needs, installed into target/suite/node. The tools of bindings-node are installed once per lock file.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
lock=$(sha256sum bindings-node/package-lock.json | cut -d' ' -f1)
if [ "$(cat bindings-node/node_modules/.made-from 2>/dev/null || true)" != "$lock" ]; then
    # Install scripts fetch binaries from places of their own; what is used here needs none.
    npm ci --prefix bindings-node --ignore-scripts --no-audit --no-fund --silent
    echo "$lock" > bindings-node/node_modules/.made-from
fi
node bindings-node/scripts/build.mjs
if [ "${1:-}" = suite ]; then
    out=$target/suite/node
else
    out=$target/node
fi
tests/scripts/native.sh "$@"
node bindings-node/scripts/pack.mjs "$out" "$target/release/libeverstep_node.so"
mkdir -p "$out/installed"
echo '{ "private": true }' > "$out/installed/package.json"
npm install --prefix "$out/installed" --offline --no-audit --no-fund --silent "$out"/*.tgz
# Programs that import the package as an application does: the suite's worker, or the demo's.
program() {
    bindings-node/node_modules/.bin/esbuild "$1" --log-level=warning --bundle --platform=node --format=cjs --target=node20 --tsconfig-raw='{}' \
        --external:everstep --external:pg-native --outfile="$out/installed/$2"
}
if [ "${1:-}" = suite ]; then
    program bindings-node/conformance/worker.ts worker.cjs
else
    program bindings-node/examples/demo/worker.ts demo_worker.cjs
fi
