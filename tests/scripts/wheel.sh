#!/usr/bin/env bash
# Build the wheel as it would be published and install it into .venv; `wheel.sh suite`: the wheel with crash points and switches the
# suite needs, into .venv-suite, which sees the tools of .venv behind its own packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
if [ "${1:-}" = suite ]; then
    out=$target/wheels-suite venv=.venv-suite features=(--features failpoints,mutations)
    if [ ! -x $venv/bin/python ] || [ .venv/.made-from -nt $venv ]; then
        python3 -m venv --clear $venv
        site=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
        .venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > "$site/tools.pth"
    fi
else
    out=$target/wheels venv=.venv features=()
fi
rm -rf "$out"
.venv/bin/maturin build --quiet --release --locked --manifest-path bindings-python/Cargo.toml --interpreter .venv/bin/python --out "$out" ${features[@]+"${features[@]}"}
$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$out"/everstep-*.whl
