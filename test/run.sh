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
# What links rclone takes minutes to compile with the race detector on. All else is tested
# with it, except packages in which nothing runs concurrently. Packages whose tests take long
# come first: go test begins them in this order, and the last ones would run alone.
light=("$module"/pkg/{produce,pack,fetch}) heavy=() real=("$module"/test/{e2e,histories})
# In these nothing runs concurrently, and with it they take minutes.
alone=("$module"/format "$module"/pkg/{commitlog,jsonline})
while read -r pkg deps; do
    case " ${light[*]} ${alone[*]} ${real[*]} " in *" $pkg "*) continue ;; esac
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

files=()
for dir in "${alone[@]#"$module"/}"; do files+=("$dir"/*.go); done
if grep -E '\bgo (func|[a-zA-Z.]+\()|\.Go\(|"(sync|sync/atomic)"|\.Parallel\(' "${files[@]}"; then
    echo "test/run.sh: the lines above run concurrently, so the package takes the race detector" >&2
    exit 1
fi

mkdir -p bin/test
results=$(mktemp -d bin/test/results.XXXXXX)
fuzz="" # process id
finish() {
    status=$?
    [ -z "$fuzz" ] || kill "$fuzz" 2>/dev/null || true
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
# The race detector takes cgo; what tests build themselves does not, and is compiled already.
CGO_ENABLED=$((${#race[@]} > 0)) sum -- -count=1 -exec 'env CGO_ENABLED=0' ${race[@]+"${race[@]}"} "${light[@]}"
echo "== packages that run nothing concurrently"
sum -- -count=1 "${alone[@]}"
if [ "${1:-}" = fast ]; then
    passed="Passed: ${#light[@]} packages $with, and ${#alone[@]} that do not need it."
    exit
fi

echo "== simulation"
sum -- -tags "synctests${TAGS:+,$TAGS}" -count=1 "$module/test/simulate"

echo "== real Kafka, real storage"
for tool in java mvn; do
    command -v $tool >/dev/null || { echo "test/run.sh: $tool is not on the PATH, and the main tests need it" >&2; exit 1; }
done
# They wait for half of the time, so three run at once: the first two take longest, and the
# others run one after the other beside them, in the end those with storage that need no Kafka.
# CI fuzzes meanwhile, at low priority.
if [ -n "${CI:-}" ]; then
    nice -n 19 test/fuzz.sh 20s "" 240 >"$results/fuzz.txt" 2>&1 &
    fuzz=$!
fi
KBK_BIN=$PWD/bin sum -- -count=1 -timeout 45m -p 3 "${real[@]}" "${heavy[@]}"
if [ -n "$fuzz" ]; then
    echo "== fuzzing"
    wait "$fuzz" || { cat "$results/fuzz.txt"; exit 1; }
    fuzz="" # it has ended
    tail -n 1 "$results/fuzz.txt"
fi

version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' test/kafka/pom.xml)
passed="Passed: ${#light[@]} packages $with, ${#alone[@]} that do not need it, ${#heavy[@]} with storage,
and the end-to-end tests against Apache Kafka $version and storage servers."
