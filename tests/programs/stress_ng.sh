#!/usr/bin/env bash
# stress_ng.sh DIR: stress-ng's file-system stressors, each with its own checks (--verify), two processes
# each, STRESS_SECONDS (default 2) seconds each. Left out are those that need another device or mount.
. "$(dirname "$0")/common.sh"
need stress-ng
SECONDS_EACH=${STRESS_SECONDS:-2}
STRESSORS=${STRESS_LIST:-access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap filename file-ioctl flock fpunch fstat getdent hdd inode-flags io lease link locka lockf lockofd mknod mmapfork msync open readahead rename revio seek sendfile symlink sync-file touch truncate unlink utime verity xattr}
bad=() ran=0
for s in $STRESSORS; do
    ran=$((ran + 1))
    if ! stress-ng --temp-path "$WORK" --"$s" 2 --timeout "${SECONDS_EACH}s" --verify \
        --hdd-bytes 16M --fallocate-bytes 16M --sync-file-bytes 16M \
        >"$LOCAL/$s" 2>&1; then
        # An unknown stressor of another version is no finding about the file system.
        if grep -q 'unrecognized option' "$LOCAL/$s"; then
            ran=$((ran - 1))
            continue
        fi
        bad+=("$s")
        grep -E 'fail|error' "$LOCAL/$s" | head -5
    fi
    [ -d "$WORK" ] || fail "$s: the folder is gone"
done
[ ${#bad[@]} = 0 ] || fail "${bad[*]}"
[ "$ran" -gt 30 ] || fail "only $ran stressors are known to this stress-ng"
say "$ran stressors, ${SECONDS_EACH} s each"
