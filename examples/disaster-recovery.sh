#!/usr/bin/env bash
# Backs up a Kafka cluster, and brings it back as another one: topics, consumer groups that carry on
# exactly where they were, and what else a cluster has: ACLs, quotas, users, configs, schemas and
# connectors.
#
#   SOURCE=src:9092 BACKUP=s3:bucket/nightly examples/disaster-recovery.sh backup
#   TARGET=dst:9092 BACKUP=s3:bucket/nightly examples/disaster-recovery.sh recover
#
# Variables for both, all of them optional:
#
#   TOPICS, CONSUMERS  topics and groups: names, or regular expressions that begin with ^; all by default
#   CLUSTER=no         leaves out what the cluster has beside them
#   CONFIG             a file with the properties of the connection, as Kafka's own tools take it
#   REGISTRY, CONNECT  URLs of the schema registry and of Kafka Connect that belong to the cluster
#
# And to recover:
#
#   PASSWORDS          a file with the passwords of users, USER=PASSWORD lines: no backup has them
#   PREFIX             before the names of topics and groups: restored. puts them beside those that the
#                      target has; orders becomes restored.orders
#
# The target may have topics and groups of its own. Topics of the same name stop the recovery before
# anything is written to them, unless they hold what an earlier recovery has written. Groups of the same
# name stop it before anything is committed, if they would have to go back. Nothing is deleted.
#
# The status is 4 where something could not be brought back. It is named: a user without a password, say.
set -euo pipefail
set -f # an expression is no pattern of files

TOPICS=${TOPICS:-^}
CONSUMERS=${CONSUMERS:-^}
CLUSTER=${CLUSTER:-yes}
PREFIX=${PREFIX:-}
: "${BACKUP:?set it to a folder or an rclone remote}"

status=0
here=(-b "${SOURCE:-${TARGET:-}}") # the cluster,
[ -z "${CONFIG:-}" ] || here+=(--command-config "$CONFIG")
all=("${here[@]}") # and what belongs to it
[ -z "${REGISTRY:-}" ] || all+=(--schema-registry "$REGISTRY")
[ -z "${CONNECT:-}" ] || all+=(--connect "$CONNECT")

# named lets the script go on where something was left out and named, and remembers it.
named() { "$@" || { local left=$?; [ $left = 4 ] || exit $left; status=4; }; }

backup() {
    local topics=() groups=() t g
    for t in $TOPICS; do topics+=(--topic "$t"); done
    for g in $CONSUMERS; do groups+=(--groups "$g"); done
    [ "$CLUSTER" = no ] || named snapshot # first: then it belongs to the restore point
    named records
}

snapshot() {
    kbk-cluster snapshot "${all[@]}" | kbk-pack | kbk-push "$BACKUP" >/dev/null
}

records() {
    kbk-fetch "${here[@]}" "${topics[@]}" "${groups[@]}" | kbk-pack | kbk-push "$BACKUP" >/dev/null
}

# Who may do what, and the schemas, come first: then the records, with the schema ids that they have
# there; then the groups; then what belongs to topics and reads on from offsets. The groups are
# committed when the last record is in its topic, and not if any stage before has failed. What is
# overwritten is kept, in case the target had such things.
recover() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local filter=(--quiet)
    if [ "$CLUSTER" != no ]; then
        named apply first --exclude "configs${CONNECT:+,connectors}" ${REGISTRY:+--schema-ids "$work/ids"} ${PASSWORDS:+--passwords-file "$PASSWORDS"}
        [ ! -s "$work/ids" ] || filter+=(--schema-id-map "$work/ids" --key-schema-id-map "$work/ids")
    fi
    named restore "${filter[@]}"
    [ "$CLUSTER" = no ] || named apply last --exclude "acls,quotas,users${REGISTRY:+,schemas}"
}

apply() {
    local now
    now=$(date -u +%Y%m%dT%H%M%SZ)
    kbk-pull --quiet --cluster-snapshot only "$BACKUP" | kbk-pack --quiet -d |
        kbk-cluster apply "${all[@]}" --prefix "$PREFIX" --rename-group "^(.*)\$=$PREFIX\$1" --save "before-$now-$1.kbk" "${@:2}"
}

restored() { kbk-pull --quiet --cluster-snapshot none "$BACKUP" | kbk-pack --quiet -d | kbk-filter "$@"; }

restore() {
    restored "$@" |
        kbk-produce "${here[@]}" --create-topics --prefix "$PREFIX" |
        kbk-offsets translate --rename-group "^(.*)\$=$PREFIX\$1" |
        kbk-offsets apply "${here[@]}" --undo "${UNDO:-undo-$(date -u +%Y%m%dT%H%M%SZ).kbk}" |
        kbk-offsets verify "${here[@]}" --records <(restored "$@")
}

case ${1:-} in
backup) : "${SOURCE:?set it to a broker of the cluster to back up}" && backup ;;
recover) : "${TARGET:?set it to a broker of the cluster to recover on}" && recover ;;
*) echo "usage: ${0##*/} backup|recover" >&2 && exit 2 ;;
esac
exit $status
