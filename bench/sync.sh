#!/usr/bin/env bash
# bench/sync.sh DIR : the sync service beside Unison, Syncthing and rclone in one run. DIR is where the
# server's side of each keeps its files (a local directory, or one on a pvfs2 mount); the devices' folders
# lie in CLIENTS. Prints a table; what a tool cannot do, or is not installed for, is "-".
#
# TOOLS    who is measured (default "ours unison syncthing rclone")
# PARTS    what (default "small large delta noop seen idle")
# FILES    how many files of 4 KiB (default 10000)   MIB  size of the large file (default 1024)
# CLIENTS  the devices' folders (default /tmp/pvfs2-sync-bench)
# SEEN     how many changes are waited for (default 100)   IDLE  seconds of silence (default 120)
# PVFS2_BIN, UNISON, SYNCTHING, RCLONE  the programs
#
# Debian: unison, syncthing, rclone. Bytes are those of the loopback device, heads included; as root it runs in
# a network of its own, else nothing else may talk there. Times mean something only on a quiet machine.
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
export PVFS2_BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$PVFS2_BIN" ] || { echo "sync.sh: build first: cargo build --release" >&2; exit 1; }
DIR=$(realpath "${1:?usage: bench/sync.sh DIR}")
run=(python3 "$REPO/bench/sync.py" "$DIR")
if [ "$(id -u)" = 0 ] && command -v ip >/dev/null; then
    exec unshare -n sh -c 'ip link set lo up && exec "$@"' sh "${run[@]}"
fi
exec "${run[@]}"
