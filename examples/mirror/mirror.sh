#!/bin/bash
# Keeps the cluster B the same as the cluster A, until it is stopped: docs/mirror.md.
#
#   A=a:9092 B=b:9092 examples/mirror/mirror.sh
#
# TOPICS selects topics by a regular expression, GROUPS_OF consumer groups. Files with
# properties of the connections, if any, are A_CONFIG and B_CONFIG.
set -euo pipefail

: "${A:?is to be the brokers of the source}" "${B:?is to be the brokers of the target}"
topics=${TOPICS:-^}
groups=${GROUPS_OF:-^}
from=(-b "$A" ${A_CONFIG:+--command-config "$A_CONFIG"})
to=(-b "$B" ${B_CONFIG:+--command-config "$B_CONFIG"})

kbk-offsets cursor "${to[@]}" -t "$topics" |
    kbk-fetch "${from[@]}" -t "$topics" --groups "$groups" --from - --batches --follow --point-every "${POINT_EVERY:-30s}" |
    kbk-produce "${to[@]}" --offsets exact --create-topics --add-partitions >/dev/null
