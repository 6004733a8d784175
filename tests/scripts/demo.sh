#!/usr/bin/env bash
# Build each language's package and its worker, then show what kills do to them. Arguments go to the demo.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
say() { printf 'demo: building %s\n' "$*" >&2; }
say "the wheel" && tests/scripts/wheel.sh
say "the npm packages" && tests/scripts/node.sh
say "the jars" && tests/scripts/java.sh
say "the Go module" && tests/scripts/go.sh && rm -f "$target/go/demo" && (cd bindings-go && go build -o "$target/go/demo" ./examples/demo)
exec .venv/bin/python bindings-python/examples/demo "$@"
