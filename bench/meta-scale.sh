#!/usr/bin/env bash
# bench/meta-scale.sh [N] : what operations in separate directories cost with 1, 2 and 3 metadata servers, as a
# Markdown table: CPU seconds per 10,000 operations (all metadata servers and the mount, summed), and requests
# between servers per operation. N operations of each kind (default 10,000). Root, python3.
#
# ROUNDS            rounds, interleaved; medians are printed (default 3)
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
for round in $(seq "${ROUNDS:-3}"); do
    for m in 1 2 3; do
        "$BIN" quickstart --data "$DIR/data$m" --mount "$DIR/mnt$m" --meta $m --io 4 --processes --detach >/dev/null
        pids=$(for i in $(seq 0 $((m - 1))); do read -r pid _ <"$DIR/data$m/run/meta$i.pid" && echo "$pid"; done)
        first=${pids%%$'\n'*}
        # The mount lives in the quickstart's own process, the parent of the servers.
        mount=$(awk '{print $4}' "/proc/$first/stat")
        # shellcheck disable=SC2086  # several pids on purpose
        python3 "$REPO/bench/meta-scale.py" run "$BIN" "$DIR/mnt$m" "$m" "${1:-10000}" "round$round" $pids "$mount" >>"$DIR/results"
        "$BIN" quickstart --stop --data "$DIR/data$m" >/dev/null
    done
done
python3 "$REPO/bench/meta-scale.py" table "$DIR/results"
