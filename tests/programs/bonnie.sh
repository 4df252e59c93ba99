#!/usr/bin/env bash
# bonnie.sh DIR: bonnie++ with 256 MiB and 4 x 1,024 files, not as root (as bonnie++ wants it).
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin
need bonnie++
user=()
if [ "$(id -u)" = 0 ]; then
    chown nobody "$WORK" && chmod 755 "$DIR"
    user=(-u nobody)
fi
# -f: without the writes of single bytes (20 million calls). 256 MiB is more than -r 128 asks for.
bonnie++ -d "$WORK" -s 256 -r 128 -f -n 4:4096:0:4 -x 1 -q "${user[@]}" >"$LOCAL/out" 2>"$LOCAL/err" ||
    { tail -20 "$LOCAL/err"; fail "bonnie++ ended with an error"; }
! grep -iE "can't|error|failed" "$LOCAL/err" || fail "see above"
[ -s "$LOCAL/out" ] || fail "no result line: it did not run to its end"
say "256 MiB, 4,096 files"
