#!/usr/bin/env bash
# Checks of the Java packages after tests/scripts/java.sh: `java_tests.sh lint` (format, Javadoc; the compiler's lints and error-prone ran with the
# build), `java_tests.sh test` (JUnit, on both stores; the starter's on Spring Boot 3 and on 4).
set -euo pipefail
cd "$(dirname "$0")/../../bindings-java"
build=$PWD/../target/java
case $1 in
# compile: without that phase a module finds the ones before it in the local repository only, where nothing puts them.
lint) exec mvn -q -B "-Deverstep.build=$build" -Dmaven.test.skip=true -pl everstep,everstep-spring-boot-starter,examples spotless:check compile javadoc:javadoc </dev/null ;;
test) exec mvn -B "-Deverstep.build=$build" -Dmaven.test.failure.ignore=false -pl everstep,everstep-spring-boot-starter,spring-boot-4,examples package </dev/null ;;
*) echo "java_tests.sh lint|test" >&2; exit 2 ;;
esac
