#!/usr/bin/env bash
# Build the wheel as it would be published and install it into .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${CARGO_TARGET_DIR:-target}/wheels"
rm -rf "$out"
.venv/bin/maturin build --quiet --release --locked --manifest-path bindings-python/Cargo.toml --interpreter .venv/bin/python --out "$out"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$out"/everstep-*.whl
