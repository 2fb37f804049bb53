#!/usr/bin/env bash
# Backs up topics of a Kafka cluster to a folder and restores them under other
# names. `make demo` runs it against an embedded broker; with BROKERS and TOPICS
# set it runs against yours.
set -euo pipefail

BROKERS=${BROKERS:-127.0.0.1:9092}
TOPICS=${TOPICS:-orders payments customers}
BACKUP=${BACKUP:-$(mktemp -d)/nightly}

fetch=() rename=() copies=()
for topic in $TOPICS; do
    fetch+=(--topic "$topic")
    rename+=(--rename "$topic=$topic-restored")
    copies+=(--rename "$topic=$topic-batches")
done

echo "--- Back up: Kafka -> records -> compressed segments -> a folder (or any rclone remote)"
kbk-fetch -b "$BROKERS" "${fetch[@]}" | kbk-pack | kbk-push "$BACKUP" >/dev/null

echo "--- What is there now"
(cd "$BACKUP" && find . -type f | sort)

echo "--- The same line again: nothing is lost and nothing doubled"
kbk-fetch -b "$BROKERS" "${fetch[@]}" | kbk-pack | kbk-push "$BACKUP" >/dev/null

echo "--- Restore: a folder -> segments -> records -> Kafka"
kbk-pull "$BACKUP" | kbk-pack -d |
    kbk-produce -b "$BROKERS" --create-topics "${rename[@]}" >"$BACKUP.map.kbk"

echo "--- The quick way, there and back: record batches as they are, where no filter has to see records"
kbk-fetch -b "$BROKERS" "${fetch[@]}" --batches | kbk-pack | kbk-push "$BACKUP-batches" >/dev/null
kbk-pull "$BACKUP-batches" | kbk-pack -d --batches |
    kbk-produce -b "$BROKERS" --create-topics "${copies[@]}" >"$BACKUP-batches.map.kbk"

echo "--- Done: the backup is in $BACKUP, and which offset became which in $BACKUP.map.kbk"
