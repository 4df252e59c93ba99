#!/usr/bin/env bash
# run-all.sh [NAME...]: starts a quickstart cluster in a scratch folder (1 metadata + 4 I/O servers, each a
# process), mounts it twice, runs every program script on it (or the named ones), stops it, and closes with
# 'N passed, N failed, N skipped'. Needs root or fusermount3, and /dev/fuse.
#
# PVFS2_BIN       the pvfs2 program (default: target/release/pvfs2, built if missing)
# ON=DIR          run on this directory instead (no cluster is started): to try the judges themselves
# QUICKSTART_ARGS more arguments for quickstart, for example "--meta 3 -o acache-ms=0,ncache-ms=0"
#                 or "-o writeback"
# mpi_io is not among them: it wants mounts without caches of names, `just mpi-io`.
# PROGRAM_TIMEOUT seconds for one script (default 900)
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
ALL=(cp_diff tar_pipe rsync_twice git_clone sqlite_two_writers cargo_build dd_direct fio_verify
    stress_ng dbench postmark bonnie postgresql fsx pjdfstest webdav browser openapi sync_kill)
[ $# -gt 0 ] && ALL=("$@")
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
passed=0 failed=0 skipped=0 started=
STATE=$(mktemp -d "${TMPDIR:-/tmp}/pvfs2-run.XXXXXX")
chmod 755 "$STATE" # other users pass through it in pjdfstest
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}

stop() {
    if [ -n "$started" ]; then
        timeout 60 "$BIN" quickstart --stop --data "$STATE/data" || echo "run-all: --stop failed" >&2
        for m in "$STATE/mnt" "$STATE/mnt2"; do
            mountpoint -q "$m" || continue
            echo "run-all: $m is still mounted after --stop" >&2
            umount -l "$m" || fusermount3 -uz "$m"
            failed=$((failed + 1))
        done
        started=
    fi
}
trap 'stop; rm -rf --one-file-system "$STATE"' EXIT

if [ -n "${ON:-}" ]; then
    TARGET=$ON
elif [ ! -r /dev/fuse ]; then
    echo "run-all: skipped: no /dev/fuse here"
    echo "0 passed, 0 failed, ${#ALL[@]} skipped"
    exit 0
else
    [ -x "$BIN" ] || (cd "$REPO" && cargo build --release -p pvfs2) || exit 1
    mkdir "$STATE/mnt" "$STATE/mnt2"
    # shellcheck disable=SC2086  # several words on purpose
    timeout 120 "$BIN" quickstart --data "$STATE/data" --mount "$STATE/mnt" --mount2 "$STATE/mnt2" --processes --detach \
        ${QUICKSTART_ARGS:-} || { echo "run-all: quickstart failed" >&2; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
    started=1
    mountpoint -q "$STATE/mnt" || { echo "run-all: quickstart returned without a mount" >&2; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
    TARGET=$STATE/mnt
    export SECOND=$STATE/mnt2 PVFS2_BIN=$BIN
    export KILL_SERVERS="$HERE/kill-servers.sh $STATE/data"
fi

failures=()
for name in "${ALL[@]}"; do
    begin=$(date +%s)
    timeout -k 10 "${PROGRAM_TIMEOUT:-900}" "$HERE/$name.sh" "$TARGET" </dev/null
    case $? in
    0) passed=$((passed + 1)) verdict=passed ;;
    77) skipped=$((skipped + 1)) verdict=skipped ;;
    124 | 137) failed=$((failed + 1)) verdict='FAILED (timed out)' failures+=("$name") ;;
    *) failed=$((failed + 1)) verdict=FAILED failures+=("$name") ;;
    esac
    echo "== $name: $verdict after $(($(date +%s) - begin)) s"
done
stop
[ ${#failures[@]} = 0 ] || echo "failed: ${failures[*]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
