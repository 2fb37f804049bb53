#!/usr/bin/env bash
# filter.sh PREFIX HEADER: drops records whose key begins with PREFIX, and headers named HEADER.
set -euo pipefail

kbk-filter -q --to json |
    jq -c --arg prefix "$1" --arg name "$2" '
        if has("kbk") then .                                             # no record
        elif .key | type == "string" and startswith($prefix) then empty
        else .headers |= map(select(.[0] != $name)) end' |
    kbk-filter -q --from json
