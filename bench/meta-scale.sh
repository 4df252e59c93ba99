#!/usr/bin/env bash
# bench/meta-scale.sh [N] : what operations in separate directories cost with 1, 2 and 3 metadata servers, as a
# Markdown table: CPU seconds per 10,000 operations (all metadata servers and the mount, summed), the same as a
# ratio to one server, and requests between servers per operation. Three clusters stand side by side and are
# asked in turn, N operations of a kind at a time (default 1,000), so that what slows the machine slows all.
# Root, python3.
#
# ROUNDS            turns of each cluster and kind; medians and quartiles are printed (default 20)
# PVFS2_BIN         the program (default target/release/pvfs2, built if it is missing)
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
DIR=$(mktemp -d "${TMPDIR:-/tmp}/meta-scale.XXXXXX")
down() {
    for m in 1 2 3; do "$BIN" quickstart --stop --data "$DIR/data$m" >/dev/null 2>&1 || true; done
    rm -rf --one-file-system "$DIR"
}
trap down EXIT
clusters=()
for m in 1 2 3; do
    "$BIN" quickstart --data "$DIR/data$m" --mount "$DIR/mnt$m" --meta $m --io 4 --processes --detach >/dev/null
    pids=$(for i in $(seq 0 $((m - 1))); do read -r pid _ <"$DIR/data$m/run/meta$i.pid" && echo "$pid"; done)
    # The mount lives in the quickstart's own process, the parent of the servers.
    mount=$(awk '{print $4}' "/proc/${pids%%$'\n'*}/stat")
    clusters+=("$DIR/mnt$m:${pids//$'\n'/,},$mount")
done
python3 "$REPO/bench/meta-scale.py" "$BIN" "${1:-1000}" "${ROUNDS:-20}" "${clusters[@]}"
