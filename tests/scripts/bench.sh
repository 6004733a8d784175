#!/usr/bin/env bash
# Build what is measured, in the profile it ships in, then measure. ONLY=python|core, QUICK=1, ROUNDS=n.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "${ONLY:-}" = core ] || tests/scripts/wheel.sh
built=$(cargo bench --quiet --locked -p everstep --bench host --no-run --message-format json | grep -o '"executable":"[^"]*/host-[^"]*"' | tail -1)
BENCH_HOST=$(printf '%s' "$built" | cut -d'"' -f4)
export BENCH_HOST
exec .venv/bin/python tests/bench
