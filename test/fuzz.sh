#!/usr/bin/env bash
# Fuzzes targets, one after the other, each for so long.
#
#   test/fuzz.sh 60s               every target
#   test/fuzz.sh 60s pkg/sign      those of one package
#   test/fuzz.sh 20s "" 300        as many as begin within 300 seconds, from a random one on
#
# What is found is written to testdata/fuzz beside the target, where it is a test from then
# on, and is printed. Inputs that lead to new code are kept in Go's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:?say how long to fuzz each target, such as 60s}
only=${2:-}
within=${3:-}
targets=$(git ls-files '*_test.go' | xargs grep -Ho '^func Fuzz[A-Za-z0-9_]*' | sed 's/func //')
if [ -n "$within" ]; then
    first=$((RANDOM % $(wc -l <<<"$targets")))
    targets=$(tail -n "+$((first + 1))" <<<"$targets" && head -n "$first" <<<"$targets")
fi
failed=() fuzzed=0
while IFS=: read -r file target; do
    package=./$(dirname "$file")
    case $package/$target in *"$only"*) ;; *) continue ;; esac
    [ -z "$within" ] || [ "$SECONDS" -lt "$within" ] || break
    echo "== $package $target"
    # With several workers Go's minimizing of what is new can take all the time.
    if ! out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x "$package" 2>&1); then
        # The end of the time may fall into a call ("context deadline exceeded"): that is no finding.
        case $out in *"Failing input"* | *panic* | *"[build failed]"*) failed+=("$package $target") ;; esac
    fi
    fuzzed=$((fuzzed + 1))
    tail -n 20 <<<"$out" | grep -v 'gathering baseline' || true
done <<<"$targets"
echo "Fuzzed $fuzzed targets for $time each."
[ ${#failed[@]} -eq 0 ] || { printf 'found something: %s\n' "${failed[@]}"; exit 1; }
