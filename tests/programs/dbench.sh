#!/usr/bin/env bash
# dbench.sh DIR: dbench with 4 clients, DBENCH_SECONDS (default 10) seconds: the file operations of a
# Samba server. Ends without an error, and reports its rate.
. "$(dirname "$0")/common.sh"
need dbench
loader=$(ls /usr/share/dbench/client.txt /usr/share/dbench/*.txt 2>/dev/null | head -1)
[ -n "$loader" ] || skip "dbench's load file is not installed"
dbench -t "${DBENCH_SECONDS:-10}" -D "$WORK" -c "$loader" 4 >"$LOCAL/out" 2>&1 || { tail -20 "$LOCAL/out"; fail "dbench ended with an error"; }
! grep -v 'barrier semaphore' "$LOCAL/out" | grep -iE 'failed|error|unexpected' || fail "see above"
say "$(grep -E '^Throughput' "$LOCAL/out" || tail -1 "$LOCAL/out")"
