#!/usr/bin/env bash
# pjdfstest.sh DIR [PATTERN...]: POSIX rules, call by call (cargo install pjdfstest@0.2.2), as root, with
# a second file system that is not ours. Tests that remount the file system run with PJD_REMOUNT=1.
# Prints the failed ones. With PJD_REMOUNT=1 those that fail on ext4 in the same words are expected
# (docs/SEMANTICS.md); any other failure is one.
. "$(dirname "$0")/common.sh"
shift
need pjdfstest getent
[ "$(id -u)" = 0 ] || skip "needs root"
second=
for candidate in /dev/shm /run /tmp; do
    if [ -w $candidate ] && [ "$(stat -c %d $candidate)" != "$(stat -c %d "$DIR")" ]; then
        second=$(mktemp -d "$candidate/pjd.XXXXXX")
        break
    fi
done
[ -n "$second" ] || skip "no second file system to write on"
cleanup() { rm -rf "$second"; }
# Its sockets' names are long, and a socket's path has at most 107 bytes.
[ ${#WORK} -le 44 ] || fail "$WORK is too long a path for socket names: mount it higher up (TMPDIR=/tmp)"
# Two users with groups of their own that every Debian has.
cat >"$LOCAL/pjd.toml" <<X
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
secondary_fs = "$second"
[settings]
naptime = 0.01
allow_remount = $([ "${PJD_REMOUNT:-0}" = 1 ] && echo true || echo false)
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
X
chmod 755 "$WORK" "$DIR" 2>/dev/null || true
rc=0
pjdfstest -c "$LOCAL/pjd.toml" -p "$WORK" "$@" >"$LOCAL/out" 2>&1 || rc=$?
sed -i 's/\x1b\[[0-9;]*m//g' "$LOCAL/out"
cp "$LOCAL/out" "$SHARED/pjdfstest.last"
grep -A3 -E 'FAILED|UNEXPECTEDLY' "$LOCAL/out" || true
summary=$(grep -E '^Summary' "$LOCAL/out") || { tail -20 "$LOCAL/out"; fail "no summary: it did not run to its end"; }
say "$summary"
if [ "${PJD_REMOUNT:-0}" = 1 ]; then
    as_on_ext4='open::erofs_new_file|open::erofs_named|mkfifo::erofs_new_file|rmdir::erofs_named|symlink::erofs_new_file'
    as_on_ext4="$as_on_ext4|rename::erofs_named|chown::erofs_named|chown::lchown::erofs_named"
    others=$(grep -E ' FAILED| UNEXPECTEDLY' "$LOCAL/out" | grep -vE "^($as_on_ext4) " || true)
    [ -n "$others" ] || rc=0
fi
[ $rc = 0 ] || fail "see the lines above (everything: $SHARED/pjdfstest.last)"
