#!/usr/bin/env bash
# Backs up topics and consumer groups of a Kafka cluster, and brings them back on another
# one, where consumers carry on exactly where they were:
#
#   SOURCE=src:9092 BACKUP=s3:bucket/nightly examples/disaster-recovery.sh backup
#   TARGET=dst:9092 BACKUP=s3:bucket/nightly examples/disaster-recovery.sh recover
#
# TOPICS and CONSUMERS (groups) are names, or regular expressions that begin with ^; all by default.
#
# The target may have topics and groups of its own. Topics of the same name stop the recovery before
# anything is written, unless they hold what an earlier recovery has written. Groups of the same name stop it
# before anything is committed, if they would have to go back. PREFIX=restored. puts both beside them: orders
# becomes restored.orders, and the group billing becomes restored.billing.
set -euo pipefail
set -f # an expression is no pattern of files

TOPICS=${TOPICS:-^}
CONSUMERS=${CONSUMERS:-^}
PREFIX=${PREFIX:-}
: "${BACKUP:?set it to a folder or an rclone remote}"

backup() {
    local topics=() groups=()
    for t in $TOPICS; do topics+=(--topic "$t"); done
    for g in $CONSUMERS; do groups+=(--groups "$g"); done
    kbk-fetch -b "$SOURCE" "${topics[@]}" "${groups[@]}" | kbk-pack | kbk-push "$BACKUP" >/dev/null
}

# The groups are committed when the last record is in its topic, and not if any stage
# before has failed. What is overwritten is kept, in case the target had such groups.
recover() {
    records() { kbk-pull --quiet "$BACKUP" | kbk-pack --quiet -d; }
    records |
        kbk-produce -b "$TARGET" --create-topics --prefix "$PREFIX" |
        kbk-offsets translate --rename-group "^(.*)\$=$PREFIX\$1" |
        kbk-offsets apply -b "$TARGET" --undo "${UNDO:-undo-$(date -u +%Y%m%dT%H%M%SZ).kbk}" |
        kbk-offsets verify -b "$TARGET" --records <(records)
}

case ${1:-} in
backup) : "${SOURCE:?set it to a broker of the cluster to back up}" && backup ;;
recover) : "${TARGET:?set it to a broker of the cluster to recover on}" && recover ;;
*) echo "usage: ${0##*/} backup|recover" >&2 && exit 2 ;;
esac
