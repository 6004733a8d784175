#!/usr/bin/env bash
# Build the Go package's static library as it is published, into its module in the tree and into target/go/. `go.sh suite`: the library with crash
# points and switches, and the conformance worker linked with it, in target/suite/go/. `go.sh dist`: also the modules as a proxy directory, target/go/proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
profile=${PROFILE:-release}
module=bindings-go/lib/linux-amd64

[ "${1:-}" = suite ] && out=$target/suite/go || out=$target/go
mkdir -p "$out/objects"
if [ "${1:-}" = suite ]; then tests/scripts/native.sh suite; else tests/scripts/native.sh; fi
archive=$target/$profile/libeverstep_go.a

# Two Rust archives in one program define the same hundreds of symbols, and so do ours and a program's own SQLite. So: one object of what our functions
# reach, in which every other symbol is local.
exports=$(nm --defined-only --extern-only "$archive" 2>/dev/null | awk '$2 == "T" && ($3 ~ /^uniffi_everstep_go_(fn|checksum)_func_/ ||
    $3 == "ffi_everstep_go_uniffi_contract_version" || $3 == "ffi_everstep_go_rustbuffer_free") { print $3 }' | sort -u)
keep=() undefined=()
for symbol in $exports; do keep+=(--keep-global-symbol="$symbol") undefined+=(-u "$symbol"); done
[ ${#keep[@]} = 20 ] || { echo "go.sh: ${#keep[@]} exported symbols, wanted 20" >&2; exit 1; }
ld -r --gc-sections --entry=uniffi_everstep_go_fn_func_open "${undefined[@]}" -o "$out/objects/all.o" "$archive"
# The bitcode first: nm's plug-in fails over it.
objcopy --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd "$out/objects/all.o" "$out/objects/code.o"
# What std asks for weakly (newer functions of libc) must be asked for weakly still: keeping symbols makes it a demand, which would be everybody's in
# the program. The unwinder finds the personality function through a symbol that must stay one.
weak=()
for symbol in $(nm "$out/objects/code.o" | awk '$1 == "w" { print $2 }'); do weak+=(--weaken-symbol="$symbol"); done
objcopy "${keep[@]}" --keep-global-symbol=DW.ref.rust_eh_personality "$out/objects/code.o" "$out/objects/local.o"
objcopy --strip-unneeded --keep-symbol=DW.ref.rust_eh_personality ${weak[@]+"${weak[@]}"} "$out/objects/local.o" "$out/objects/everstep.o"
rm -f "$out/libeverstep_go.a" "$out/objects/all.o" "$out/objects/code.o" "$out/objects/local.o"
ar rcs "$out/libeverstep_go.a" "$out/objects/everstep.o"
rm -f "$out/objects/everstep.o"

if [ "${1:-}" = suite ]; then
    mkdir -p "$out/lib"
    cp $module/go.mod $module/library.go "$out/lib/"
    mv "$out/libeverstep_go.a" "$out/lib/"
    printf 'go 1.24.0\n\nuse (\n\t%s\n\t%s\n\t%s\n\t%s\n)\n' "$root/bindings-go" "$root/bindings-go/everpgx" "$root/bindings-go/conformance" "$out/lib" > "$out/go.work"
    # Go does not see that the archive has changed: a program that stands would stay linked with the last one.
    rm -f "$out/worker"
    (cd bindings-go/conformance && GOWORK=$out/go.work go build -o "$out/worker" .)
else
    cp "$out/libeverstep_go.a" $module/
fi

if [ "${1:-}" = dist ]; then
    rm -rf "$out/proxy"
    version=v$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
    (cd bindings-go/proxy && go run . "$out/proxy" "$version" ..)
fi
