#!/usr/bin/env bash
# Build what is measured, in the profile it ships in, then measure. ONLY=core|python|node|java|go, QUICK=1, ROUNDS=n.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
wanted() { [ -z "${ONLY:-}" ] || [ "$ONLY" = "$1" ]; }
if wanted python; then tests/scripts/wheel.sh; fi
if wanted node; then tests/scripts/node.sh && tests/bench/node/build.sh; fi
if wanted java; then tests/scripts/java.sh && tests/bench/java/build.sh; fi
if wanted go; then tests/scripts/go.sh && rm -rf "$target/bench/go" && (cd tests/bench/go && go build -o "$target/bench/go/" ./everstep ./dbos); fi
built=$(cargo bench --quiet --locked -p everstep --bench host --no-run --message-format json | grep -o '"executable":"[^"]*/host-[^"]*"' | tail -1)
BENCH_HOST=$(printf '%s' "$built" | cut -d'"' -f4)
export BENCH_HOST
exec .venv/bin/python tests/bench
