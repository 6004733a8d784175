#!/usr/bin/env bash
# The native libraries of TypeScript, Java and Go in target/release; `native.sh suite`: with the suite's crash points and switches. PROFILE=dist: in that profile.
# All in one cargo command: each alone would compile the engine and its dependencies once more for the features that language's own crates turn on.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = suite ]; then
    # The suite depends on them with crash points: the same command as the build of its programs.
    packages=(--workspace --exclude everstep-python --features everstep/tables)
else
    packages=(-p everstep-node -p everstep-java -p everstep-go)
fi
exec cargo build --quiet --locked --profile "${PROFILE:-release}" "${packages[@]}"
