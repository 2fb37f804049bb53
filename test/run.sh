#!/usr/bin/env bash
# Runs the tests and says at the end what ran, and what did not.
#
#   test/run.sh        everything, a real Kafka included
#   test/run.sh fast   the packages that need neither storage nor Kafka
#
# It takes Go, make and a shell, and for all but fast Java and Maven. What a test needs
# beyond that (see test/need) is installed into bin/test or, where that is not possible,
# the test is skipped. With CI set, what is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

module=$(go list -m)
# What links rclone takes minutes to compile with the race detector on; all else
# is tested with it.
light=() heavy=() real=()
while read -r pkg deps; do
    case $pkg in
    "$module"/test/need*) light+=("$pkg") ;;
    "$module"/test/simulate) ;;
    "$module"/test/*) real+=("$pkg") ;;
    *) case " $deps " in
        *" github.com/rclone/rclone/fs "*) heavy+=("$pkg") ;;
        *) light+=("$pkg") ;;
        esac ;;
    esac
done < <(go list -f '{{.ImportPath}} {{join .Deps " "}}' ./...)
[ ${#heavy[@]} -gt 0 ] || { echo "test/run.sh: no package imports rclone any more: look at this script" >&2; exit 1; }

# The race detector takes a C compiler.
race=(-race) with="with the race detector"
if ! command -v "$(CGO_ENABLED=1 go env CC)" >/dev/null; then
    [ -z "${CI:-}" ] || { echo "test/run.sh: there is no C compiler for the race detector" >&2; exit 1; }
    race=() with="WITHOUT the race detector, as there is no C compiler"
fi

mkdir -p bin/test
results=$(mktemp -d bin/test/results.XXXXXX)
finish() {
    status=$?
    echo
    go run ./test/need/report "$results"/*.json || status=1
    rm -rf "$results"
    [ $status -ne 0 ] || echo "$passed"
    exit $status
}
trap finish EXIT
part=0
sum() {
    part=$((part + 1))
    go tool gotestsum --format pkgname-and-test-fails --hide-summary=output,skipped --jsonfile "$results/$part.json" "$@"
}

echo "== packages without storage, $with"
CGO_ENABLED=$((${#race[@]} > 0)) sum -- -count=1 ${race[@]+"${race[@]}"} "${light[@]}"
if [ "${1:-}" = fast ]; then
    passed="Passed: ${#light[@]} packages $with."
    exit
fi

echo "== packages with storage"
sum -- -count=1 "${heavy[@]}"

echo "== simulation"
sum -- -tags synctests -count=1 "$module/test/simulate"

echo "== real Kafka, real storage"
for tool in java mvn; do
    command -v $tool >/dev/null || { echo "test/run.sh: $tool is not on the PATH, and the main tests need it" >&2; exit 1; }
done
KBK_BIN=$PWD/bin sum -- -count=1 -timeout 30m -p 1 "${real[@]}"

version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' test/kafka/pom.xml)
passed="Passed: ${#light[@]} packages $with, ${#heavy[@]} with storage,
and the end-to-end tests against Apache Kafka $version and storage servers."
