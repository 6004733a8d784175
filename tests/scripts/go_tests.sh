#!/usr/bin/env bash
# Go's own checks on the library tests/scripts/go.sh has built: `go_tests.sh lint` (gofmt, vet, staticcheck, the analyzer on the examples), `go_tests.sh
# test` (every module's tests). The closing line is `N passed, N failed, N skipped`.
set -euo pipefail
cd "$(dirname "$0")/../../bindings-go"
modules=(. everpgx vet linktest)
# Pinned: another version finds other things, and a check that changes by itself is none.
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

if [ "${1:-}" = lint ]; then
    unformatted=$(gofmt -l . ../tests/bench/go)
    [ -z "$unformatted" ] || { echo "gofmt: $unformatted" >&2; exit 1; }
    tools=${CARGO_TARGET_DIR:-$PWD/../target}/go/tools
    [ -x "$tools/staticcheck" ] || GOBIN=$tools go install "$staticcheck"
    (cd vet && go build -o "$tools/everstepvet" ./cmd/everstepvet)
    for module in "${modules[@]}" conformance proxy ../tests/bench/go; do
        (cd "$module" && go vet ./... && "$tools/staticcheck" ./... && go mod tidy -diff)
    done
    for module in . conformance; do
        (cd "$module" && go vet -vettool="$tools/everstepvet" ./...)
    done
    exit
fi

# The other library is somebody else's, so it is built as somebody else would.
rustc --edition 2024 --crate-type staticlib -O -C panic=unwind -o linktest/libother.a linktest/other.rs
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
    "$@" > "$log" 2>&1 || true
    grep -E '^\s*--- FAIL|^FAIL|^panic:|^# |WARNING: DATA RACE' "$log" && cat "$log" || true
    passed=$((passed + $(grep -cE '^\s*--- PASS' "$log" || true)))
    skipped=$((skipped + $(grep -cE '^\s*--- SKIP' "$log" || true)))
    # A package that does not build fails without having run a test.
    failed=$((failed + $(grep -cE '^\s*--- FAIL|^FAIL\s+\S+ \[' "$log" || true)))
}
for module in "${modules[@]}"; do cd "$module"; run go test -count=1 -v ./...; cd - > /dev/null; done
run go test -count=1 -v -race -short .
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
