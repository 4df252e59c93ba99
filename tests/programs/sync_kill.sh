#!/usr/bin/env bash
# sync_kill.sh DIR: sync_kill.py, with the service's root on a small tmpfs, then on a pvfs2 mount of its own
# (DIR is not used: what it runs on is unmounted and killed meanwhile).
. "$(dirname "$0")/common.sh"
need python3
python3 -c 'import tomllib' 2>/dev/null || skip "python3 is older than 3.11"
[ "$(id -u)" = 0 ] && [ -r /dev/fuse ] || skip "needs root (it mounts) and /dev/fuse"
BIN=${PVFS2_BIN:-$HERE/../../target/release/pvfs2}
[ -x "$BIN" ] || skip "no pvfs2 program: set PVFS2_BIN"
for kind in ${KINDS:-local pvfs2}; do
    mkdir "$LOCAL/$kind"
    timeout -k 20 300 python3 "$HERE/sync_kill.py" "$BIN" "$LOCAL/$kind" "$kind" >"$LOCAL/out" 2>&1 ||
        { cat "$LOCAL/out"; tail -n 20 "$LOCAL/$kind"/*.log; fail "$kind: see above"; }
    grep "skipped" "$LOCAL/out" || true
    say "$kind: $(grep '^all good' "$LOCAL/out")"
done
