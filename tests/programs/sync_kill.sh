#!/usr/bin/env bash
# sync_kill.sh DIR: sync_kill.py, with the service's root on a small tmpfs, and beside it on a pvfs2 mount of its own
# (DIR is not used: what it runs on is unmounted and killed meanwhile).
. "$(dirname "$0")/common.sh"
need python3
python3 -c 'import tomllib' 2>/dev/null || skip "python3 is older than 3.11"
[ "$(id -u)" = 0 ] && [ -r /dev/fuse ] || skip "needs root (it mounts) and /dev/fuse"
BIN=${PVFS2_BIN:-$HERE/../../target/release/pvfs2}
[ -x "$BIN" ] || skip "no pvfs2 program: set PVFS2_BIN"
one() { # one KIND: says how it went
    mkdir "$LOCAL/$1"
    timeout -k 20 400 python3 "$HERE/sync_kill.py" "$BIN" "$LOCAL/$1" "$1" >"$LOCAL/out.$1" 2>&1 || {
        cat "$LOCAL/out.$1"
        tail -n 20 "$LOCAL/$1"/*.log
        say "$1: FAILED, see above"
        return 1
    }
    grep "skipped" "$LOCAL/out.$1" || true
    say "$1: $(grep '^all good' "$LOCAL/out.$1")"
}
running=() bad=0
for kind in ${KINDS:-local pvfs2}; do
    one "$kind" &
    running+=($!)
done
for pid in "${running[@]}"; do wait "$pid" || bad=$((bad + 1)); done
[ $bad = 0 ] || fail "$bad of them failed"
