#!/usr/bin/env bash
# Find or install what a command needs: setup.sh [python] [postgres] [node] [java] [go]. Rust and a C compiler are always needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

# Debian only splits venv and ensurepip from the interpreter; everything else here is one package each.
install() {
    command -v apt-get >/dev/null || stop "$1 is missing and this system has no apt-get. Install it and run this again."
    [ "$(id -u)" = 0 ] || stop "$1 is missing. Run as root once: apt-get install $*"
    say "installing $*"
    if [ -z "${apt_updated:-}" ]; then apt-get update -qq </dev/null; apt_updated=1; fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
}

command -v cc >/dev/null || install gcc libc6-dev
command -v cargo >/dev/null || stop "Rust is missing (cargo). Install it with rustup; rust-toolchain.toml names the version."

newest_postgres() {
    local dir
    for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn); do
        [ -x "$dir/initdb" ] && [ "$(basename "$(dirname "$dir")")" -ge 15 ] && echo "$dir" && return
    done
    dir=$(command -v initdb 2>/dev/null) && [ "$("$dir" --version | grep -oE '[0-9]+' | head -1)" -ge 15 ] && dirname "$dir"
}

need_postgres() {
    if [ -n "${EVERSTEP_PG_BIN:-}" ]; then
        [ -x "$EVERSTEP_PG_BIN/initdb" ] || stop "EVERSTEP_PG_BIN=$EVERSTEP_PG_BIN has no initdb"
    elif [ -z "$(newest_postgres || true)" ]; then
        install postgresql-15
    fi
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || install pgbouncer
}

need_python() {
    command -v python3 >/dev/null || install python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "Python 3.10 or later is needed, this is $(python3 --version)"
    local wanted have=""
    wanted=$(python3 -c 'import hashlib,sys; print(hashlib.sha256(open("tests/requirements.txt","rb").read() + open("tests/constraints.txt","rb").read() + sys.version.encode()).hexdigest())')
    [ -f .venv/.made-from ] && have=$(cat .venv/.made-from)
    [ "$have" = "$wanted" ] && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
    say "creating .venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r tests/requirements.txt -c tests/constraints.txt
    echo "$wanted" > .venv/.made-from
}

need_node() {
    command -v node >/dev/null || install nodejs npm
    node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' ||
        stop "Node 20 or later is needed, this is $(node --version) (Debian 12 has 18). Install a newer one, with its npm, put it on the PATH before $(command -v node), and run this again."
    command -v npm >/dev/null || install npm
}

need_go() {
    command -v go >/dev/null || install golang-go
    local minor
    minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 21 ] || fetch_go
    # From 1.21 on Go fetches what go.mod names by itself, where GOTOOLCHAIN lets it.
    (cd bindings-go && GOWORK=off go list -m >/dev/null) || stop "Go 1.24 or later is needed, this is $(go version). Unset GOTOOLCHAIN, or install it and put it on the PATH."
}

# What a newer Go does by itself, for one that cannot yet (Debian 12's 1.19): a toolchain is a module, which comes from the module proxy and is checked
# against the checksum database like any other. A module's archive keeps no modes, and none of the go.mod files below its own.
fetch_go() {
    local old wanted dir name
    old=$(go version)
    wanted=$(sed -n 's/^go //p' bindings-go/go.mod)
    say "fetching Go $wanted; this is $old"
    dir=$(GOWORK=off GO111MODULE=on GOFLAGS=-modcacherw go mod download -json "golang.org/toolchain@v0.0.1-go$wanted.$(go env GOOS)-$(go env GOARCH)" |
        sed -n 's/.*"Dir": "\(.*\)".*/\1/p' || true)
    [ -n "$dir" ] || stop "Go $wanted or later is needed, this is $old, and the module proxy (go env GOPROXY) did not give it. Install it and put it on the PATH."
    find "$dir" -name _go.mod -execdir cp _go.mod go.mod \;
    chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/*
    for name in go gofmt; do
        # What stands there, and is no link of ours, is somebody's.
        [ "$(id -u)" = 0 ] || break
        case $(readlink "/usr/local/bin/$name" || true) in */golang.org/toolchain@*) ;; *) [ ! -e "/usr/local/bin/$name" ] || break ;; esac
        ln -sfn "$dir/bin/$name" "/usr/local/bin/$name"
    done
    hash -r
    [ "$(command -v go)" -ef "$dir/bin/go" ] || stop "Go $wanted is in $dir/bin. Put that first on the PATH and run this again."
}

need_java() {
    command -v javac >/dev/null || install openjdk-17-jdk-headless
    command -v mvn >/dev/null || install maven
    local major
    major=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ] || stop "Java 17 or later is needed, this is $(javac -version 2>&1). Set JAVA_HOME to a newer JDK and put it on the PATH."
}

for part in "$@"; do "need_$part"; done
