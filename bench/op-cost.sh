#!/usr/bin/env bash
# bench/op-cost.sh [N] : what one operation costs through a mount with one metadata and one I/O server,
# as a Markdown table: CPU, requests, system calls, bytes. N operations of each kind (default 5000).
# Root, python3, strace. CPU and counts hold on a busy machine too, unlike rates.
#
# PVFS2_BIN         the program (default target/release/pvfs2, built if it is missing)
# QUICKSTART_ARGS   more arguments for quickstart
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
command -v strace >/dev/null || { echo "op-cost.sh: strace is missing (apt install strace)" >&2; exit 1; }
DIR=$(mktemp -d "${TMPDIR:-/tmp}/op-cost.XXXXXX")
down() {
    "$BIN" quickstart --stop --data "$DIR/data" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$DIR"
}
trap down EXIT
# shellcheck disable=SC2086  # several words on purpose
"$BIN" quickstart --data "$DIR/data" --mount "$DIR/mnt" --io 1 --processes --detach \
    ${QUICKSTART_ARGS:-} >/dev/null
read -r META _ <"$DIR/data/run/meta0.pid"
# The mount lives in the quickstart's own process, the parent of the servers.
CLIENT=$(awk '{print $4}' "/proc/$META/stat")
python3 "$REPO/bench/op-cost.py" "$BIN" "$DIR/mnt" "$META" "$CLIENT" "${1:-5000}"
