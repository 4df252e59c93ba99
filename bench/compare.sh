#!/usr/bin/env bash
# bench/compare.sh [ROUNDS] : measures, in turn and ROUNDS times (default 3), a local directory (ext4),
# the pass-through FUSE file system (fusehp) and a PVFS2 mount whose servers are processes of their own
# (pvfs2), then prints medians and the ratios to the pass-through.
#
# The measuring itself lies outside this repository: MEASURE_DIR (default ../shared/bench) holds
# measure.sh, report.py and up-passthrough.sh. Root, fio, gcc, python3; nothing else should run.
#
# SECTIONS     parts of measure.sh (default "seq md tree")
# LABELS       who is measured (default "ext4 fusehp pvfs2")
# QUICKSTART_ARGS  more arguments for quickstart
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
MEASURE_DIR=$(cd "${MEASURE_DIR:-$REPO/../shared/bench}" && pwd) || {
    echo "compare.sh: set MEASURE_DIR to the folder with measure.sh" >&2
    exit 1
}
ROUNDS=${1:-3}
LABELS=${LABELS:-ext4 fusehp pvfs2}
export SECTIONS=${SECTIONS:-seq md tree}
export STATE=${STATE:-${TMPDIR:-/tmp}/fs-measure}
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
HOME_DIR=$STATE/compare.$$
mkdir -p "$STATE/results" "$STATE/run" "$HOME_DIR/ext4" "$HOME_DIR/mnt"
# Results of this run alone.
mv "$STATE/results" "$STATE/results.before.$(date +%s)"
mkdir -p "$STATE/results"

down() {
    "$BIN" quickstart --stop --data "$HOME_DIR/data" >/dev/null 2>&1 || true
    case " $LABELS " in *" fusehp "*) "$MEASURE_DIR/down-passthrough.sh" >/dev/null 2>&1 || true ;; esac
    rm -rf --one-file-system "$HOME_DIR"
}
trap down EXIT

case " $LABELS " in *" fusehp "*) mountpoint -q /mnt/fusehp || "$MEASURE_DIR/up-passthrough.sh" ;; esac
case " $LABELS " in
*" pvfs2 "*)
    # shellcheck disable=SC2086  # several words on purpose
    "$BIN" quickstart --data "$HOME_DIR/data" --mount "$HOME_DIR/mnt" --processes --detach ${QUICKSTART_ARGS:-}
    pgrep -f "$HOME_DIR/data" >"$HOME_DIR/pvfs2.pids" || true
    ;;
esac

for round in $(seq "$ROUNDS"); do
    for label in $LABELS; do
        case $label in
        ext4) dir=$HOME_DIR/ext4 pids= ;;
        fusehp) dir=/mnt/fusehp pids=$STATE/run/fusehp.pid ;;
        pvfs2) dir=$HOME_DIR/mnt pids=$HOME_DIR/pvfs2.pids ;;
        *) echo "compare.sh: unknown label $label" >&2 && exit 1 ;;
        esac
        echo "== round $round of $ROUNDS: $label" >&2
        RUN=$round PIDFILE=$pids "$MEASURE_DIR/measure.sh" "$dir" "$label" >/dev/null
    done
done
python3 "$MEASURE_DIR/report.py" "$STATE/results"
case " $LABELS " in *" fusehp "*) python3 "$REPO/bench/ratios.py" "$STATE/results" ;; esac
