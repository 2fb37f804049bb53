#!/usr/bin/env bash
# Runs the tests and says at the end what ran.
#
#   test/run.sh        everything, a real Kafka included
#   test/run.sh fast   the packages that need neither storage nor Kafka
set -euo pipefail
cd "$(dirname "$0")/.."

module=$(go list -m)
# What links rclone takes minutes to compile with the race detector on; all else
# is tested with it.
light=() heavy=()
while read -r pkg deps; do
    case $pkg in
    "$module"/test/*) ;;
    *) case " $deps " in
        *" github.com/rclone/rclone/fs "*) heavy+=("$pkg") ;;
        *) light+=("$pkg") ;;
        esac ;;
    esac
done < <(go list -f '{{.ImportPath}} {{join .Deps " "}}' ./...)
[ ${#heavy[@]} -gt 0 ] || { echo "test/run.sh: no package imports rclone any more: look at this script" >&2; exit 1; }

sum() { go tool gotestsum --format pkgname-and-test-fails --hide-summary=output "$@"; }

echo "== packages without storage, with the race detector"
sum -- -count=1 -race "${light[@]}"
[ "${1:-}" = fast ] && exit

echo "== packages with storage"
sum -- -count=1 "${heavy[@]}"

echo "== real Kafka, real storage"
for tool in java mvn; do
    command -v $tool >/dev/null || { echo "test/run.sh: $tool is not on the PATH, and the main tests need it" >&2; exit 1; }
done
KBK_BIN=$PWD/bin sum -- -count=1 -timeout 20m -p 1 "$module/test/..."

version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' test/kafka/pom.xml)
echo
echo "All passed: ${#light[@]} packages with the race detector, ${#heavy[@]} with storage,"
echo "and the end-to-end tests against Apache Kafka $version and storage servers. Skipped tests, if any, are named above."
