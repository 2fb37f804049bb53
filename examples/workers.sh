#!/usr/bin/env bash
# Keeps a backup growing with several processes, on one machine or many: run this on
# each. The consumer group deals out the partitions; one that dies has its share taken
# over. Offsets are committed for what is stored and for nothing else, because kbk-push
# says through a FIFO what is.
#
#   examples/workers.sh localhost:9092 '^orders' s3:bucket/orders
set -euo pipefail
brokers=$1 topics=$2 remote=$3

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkfifo "$dir/receipts"

kbk-fetch -b "$brokers" -t "$topics" --follow --group kbk-backup --receipts "$dir/receipts" |
    kbk-pack --segment-age 5m |
    kbk-push --receipts "$dir/receipts" "$remote"
