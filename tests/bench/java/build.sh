#!/usr/bin/env bash
# Build the two programs under measurement into target/bench/java, against the package that tests/scripts/java.sh has made.
set -euo pipefail
cd "$(dirname "$0")"
# -U: the package keeps its version from one build to the next.
rm -rf "${HOME}/.m2/repository/dev/everstep/everstep"
exec mvn -q -B -U compile </dev/null
