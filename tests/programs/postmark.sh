#!/usr/bin/env bash
# postmark.sh DIR: a mail server's mix: 2,000 files in 20 directories, 5,000 transactions.
. "$(dirname "$0")/common.sh"
need postmark
cat >"$LOCAL/conf" <<X
set location $WORK
set number ${POSTMARK_FILES:-2000}
set subdirectories 20
set transactions ${POSTMARK_TRANSACTIONS:-5000}
set size 500 60000
run
quit
X
postmark "$LOCAL/conf" >"$LOCAL/out" 2>&1 || { tail -20 "$LOCAL/out"; fail "postmark ended with an error"; }
! grep -iE 'error|cannot|failed' "$LOCAL/out" || fail "see above"
grep -q 'Time:' "$LOCAL/out" || { tail -20 "$LOCAL/out"; fail "no report: it did not run to its end"; }
[ -z "$(find "$WORK" -type f)" ] || fail "files are left behind"
say "$(grep -E 'transactions? \(' "$LOCAL/out" | head -1 | sed 's/^ *//')"
