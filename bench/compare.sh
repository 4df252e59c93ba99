#!/usr/bin/env bash
# bench/compare.sh [ROUNDS] : measures, in turn and ROUNDS times (default 3), a local directory (ext4),
# the pass-through FUSE file system (fusehp), a PVFS2 mount whose servers are processes of their own
# (pvfs2) and, where its Debian packages are installed, MooseFS (moosefs), then prints medians and the
# ratios to every peer.
#
# The measuring itself lies outside this repository: MEASURE_DIR (default ../shared/bench) holds
# measure.sh, report.py and the peers' up-*.sh and down-*.sh. Root, fio, gcc, python3; nothing else
# should run. A peer that was already up is left up; one that this script started is taken down.
#
# SECTIONS         parts of measure.sh (default "seq md tree")
# LABELS           who is measured (default "ext4 fusehp pvfs2", and moosefs if installed)
# SERVERS          I/O servers of pvfs2 and chunk servers of MooseFS (default 4)
# QUICKSTART_ARGS  more arguments for quickstart
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
MEASURE_DIR=$(cd "${MEASURE_DIR:-$REPO/../shared/bench}" && pwd) || {
    echo "compare.sh: set MEASURE_DIR to the folder with measure.sh" >&2
    exit 1
}
ROUNDS=${1:-3}
if [ -z "${LABELS:-}" ]; then
    LABELS="ext4 fusehp pvfs2"
    command -v mfsmaster >/dev/null && command -v mfsmount >/dev/null && LABELS="$LABELS moosefs"
fi
SERVERS=${SERVERS:-4}
export SECTIONS=${SECTIONS:-seq md tree}
export STATE=${STATE:-${TMPDIR:-/tmp}/fs-measure}
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
for label in $LABELS; do
    case $label in
    ext4 | fusehp | pvfs2) ;;
    moosefs)
        command -v mfsmaster >/dev/null && command -v mfschunkserver >/dev/null && command -v mfsmount >/dev/null || {
            echo "compare.sh: moosefs needs Debian's moosefs-master, moosefs-chunkserver, moosefs-client" >&2
            exit 1
        }
        ;;
    *) echo "compare.sh: unknown label $label (known: ext4 fusehp pvfs2 moosefs)" >&2 && exit 1 ;;
    esac
done
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
HOME_DIR=$STATE/compare.$$
mkdir -p "$STATE/results" "$STATE/run" "$HOME_DIR/ext4" "$HOME_DIR/mnt"
# Results of this run alone.
mv "$STATE/results" "$STATE/results.before.$(date +%s).$$"
mkdir -p "$STATE/results"

wants() { case " $LABELS " in *" $1 "*) true ;; *) false ;; esac; }
started=
down() {
    ! wants pvfs2 || "$BIN" quickstart --stop --data "$HOME_DIR/data" >/dev/null 2>&1 || true
    for peer in $started; do "$MEASURE_DIR/down-$peer.sh" >/dev/null 2>&1 || true; done
    rm -rf --one-file-system "$HOME_DIR"
}
trap down EXIT

if wants fusehp && ! mountpoint -q /mnt/fusehp; then
    started="$started passthrough"
    "$MEASURE_DIR/up-passthrough.sh" >&2
fi
if wants moosefs && ! mountpoint -q /mnt/moosefs; then
    started="$started moosefs"
    "$MEASURE_DIR/up-moosefs.sh" "$SERVERS" >&2
fi
if wants moosefs && ! mountpoint -q /mnt/moosefs; then
    echo "compare.sh: MooseFS did not mount /mnt/moosefs; its logs lie in $STATE/moosefs" >&2
    exit 1
fi
if wants pvfs2; then
    # shellcheck disable=SC2086  # several words on purpose
    "$BIN" quickstart --data "$HOME_DIR/data" --mount "$HOME_DIR/mnt" --io "$SERVERS" \
        --processes --detach ${QUICKSTART_ARGS:-}
    pgrep -f "$HOME_DIR/data" >"$HOME_DIR/pvfs2.pids" || true
fi

for round in $(seq "$ROUNDS"); do
    for label in $LABELS; do
        case $label in
        ext4) dir=$HOME_DIR/ext4 pids= ;;
        fusehp) dir=/mnt/fusehp pids=$STATE/run/fusehp.pid ;;
        pvfs2) dir=$HOME_DIR/mnt pids=$HOME_DIR/pvfs2.pids ;;
        moosefs) dir=/mnt/moosefs pids=$STATE/run/moosefs.pids ;;
        esac
        echo "== round $round of $ROUNDS: $label" >&2
        RUN=$round PIDFILE=$pids "$MEASURE_DIR/measure.sh" "$dir" "$label" >/dev/null
    done
done
python3 "$MEASURE_DIR/report.py" "$STATE/results"
! wants pvfs2 || python3 "$REPO/bench/ratios.py" "$STATE/results"
