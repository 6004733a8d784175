#!/usr/bin/env bash
# Build the Java packages as they would be published, into target/java: jars, and a Maven repository with them in target/java/repository;
# `java.sh suite`: the variant with crash points and the switches the suite needs, with the conformance worker, into target/suite/java.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ "${1:-}" = suite ]; then
    out=$PWD/target/suite/java goal=(package -pl "everstep,conformance")
else
    out=$PWD/target/java goal=(deploy "-DaltDeploymentRepository=everstep::file://$PWD/target/java/repository")
fi
tests/scripts/native.sh "$@"

# Named as the loader looks for them (NativeLoader.platform).
machine=$(uname -m)
case $(uname -s) in
Linux) platform=linux-${machine/arm64/aarch64} library=libeverstep_java.so ;;
Darwin) platform=macos-${machine/arm64/aarch64} library=libeverstep_java.dylib ;;
*) echo "java.sh: no package for $(uname -s)" >&2; exit 1 ;;
esac
resources=$out/native-resources/native/$platform
rm -rf "$out/repository" "$resources"
mkdir -p "$resources"
cp "$target/release/$library" "$resources/"
cd bindings-java
# Not even compiled, the tests: their jar would be deployed beside the package. java_tests.sh compiles and runs them.
exec mvn -q -B -Dmaven.test.skip=true "-Deverstep.build=$out" "${goal[@]}" </dev/null
