#!/usr/bin/env bash
# openapi.sh DIR: schemathesis (from PyPI) tries every operation of the sync service's OpenAPI document, on a
# service whose root is on this file system; attack.sh tells how.
. "$(dirname "$0")/common.sh"
need python3 curl
BIN=${PVFS2_BIN:-$HERE/../../target/release/pvfs2}
[ -x "$BIN" ] || skip "no pvfs2 program: set PVFS2_BIN"
VENV=$SHARED/schemathesis
if [ ! -x "$VENV/bin/schemathesis" ]; then
    rm -rf "$VENV"
    { python3 -m venv "$VENV" && "$VENV/bin/pip" install -q schemathesis==4.32.5; } >"$LOCAL/pip" 2>&1 ||
        skip "schemathesis cannot be installed: $(tail -1 "$LOCAL/pip")"
fi
PATH=$VENV/bin:$PATH TOOLS=schemathesis EXAMPLES=${EXAMPLES:-3} ROOT=$WORK/user PORT=${PORT:-18451} \
    "$HERE/attack.sh" "$BIN" "$LOCAL" >"$LOCAL/out" 2>&1 ||
    { cat "$LOCAL/out"; sed -n '/= FAILURES =/,/= WARNINGS =/p' "$LOCAL"/schemathesis*; fail "see above"; }
say "schemathesis: $(grep ' generated' "$LOCAL/schemathesis" | sed 's/^ *//')"
