#!/usr/bin/env bash
# browser.sh DIR: browser.py on a sync service whose root is on this file system. Playwright and axe come
# from PyPI, the browser from Debian.
#
# SCREENSHOTS  a folder for the pictures (default: dropped at the end)
. "$(dirname "$0")/common.sh"
need python3 chromium
BIN=${PVFS2_BIN:-$HERE/../../target/release/pvfs2}
[ -x "$BIN" ] || skip "no pvfs2 program: set PVFS2_BIN"
VENV=$SHARED/browser
if ! "$VENV/bin/python" -c 'import playwright, axe_playwright_python' 2>/dev/null; then
    rm -rf "$VENV"
    { python3 -m venv "$VENV" && "$VENV/bin/pip" install -q playwright==1.65.2 axe-playwright-python==0.1.8; } >"$LOCAL/pip" 2>&1 ||
        skip "playwright and axe-playwright-python cannot be installed: $(tail -1 "$LOCAL/pip")"
fi
mkdir "$WORK/user"
export XDG_STATE_HOME=$LOCAL/state
timeout -k 10 400 "$VENV/bin/python" "$HERE/browser.py" "$BIN" "${SCREENSHOTS:-$LOCAL/shots}" "$WORK/user" >"$LOCAL/out" 2>&1 ||
    { cat "$LOCAL/out"; fail "see above"; }
say "$(grep ' pages, ' "$LOCAL/out" | sed 's/ in [^,]*,/,/')"
