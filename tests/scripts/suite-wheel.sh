#!/usr/bin/env bash
# The suite's own wheel: with crash points and mutations compiled in, in an environment of its own (.venv-suite) so that nothing else
# can be run with it by mistake. Tools and database drivers come from .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${CARGO_TARGET_DIR:-target}/wheels-suite"
rm -rf "$out"
.venv/bin/maturin build --quiet --release --locked --manifest-path bindings-python/Cargo.toml --interpreter .venv/bin/python \
    --features everstep/failpoints,everstep/mutations --out "$out"
if [ ! -x .venv-suite/bin/python ]; then
    .venv/bin/python -m venv .venv-suite
    site=$(.venv-suite/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > "$site/drivers.pth"
fi
.venv-suite/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$out"/everstep-*.whl
