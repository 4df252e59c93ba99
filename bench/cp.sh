#!/usr/bin/env bash
# bench/cp.sh [ROUNDS]: `pvfs2 cp` of 1 GiB into and out of the file system, beside `cp` from /dev/shm into a
# local directory on the servers' own disk, in turn, ROUNDS times (default 5); prints seconds, medians and the
# rate against the local copy. Every target is removed right before its own copy, so that each finds the same
# kind of free pages: on a virtual machine, pages that were free for some seconds must first be had from the host.
#
# SIZE_MIB  (default 1024)     STATE  scratch folder (default below /tmp; on the disk to be measured)
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
ROUNDS=${1:-5} SIZE_MIB=${SIZE_MIB:-1024}
S=${STATE:-${TMPDIR:-/tmp}}/pvfs2-cp.$$ M=/dev/shm/pvfs2-cp.$$
mkdir -p "$S/local" "$S/mnt" "$M"
down() {
    "$BIN" quickstart --stop --data "$S/data" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$S" "$M"
}
trap down EXIT
"$BIN" quickstart --data "$S/data" --mount "$S/mnt" --processes --detach >/dev/null
dd if=/dev/urandom of="$M/one" bs=1M count="$SIZE_MIB" status=none
taken() { # NAME TARGET COMMAND...
    local name=$1 target=$2 begin
    shift 2
    rm -f "$target"
    begin=$(date +%s.%N)
    "$@"
    awk -v n="$name" -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%s %.3f\n", n, b - a }' >>"$S/times"
}
for round in $(seq 0 "$ROUNDS"); do
    [ "$round" = 1 ] && : >"$S/times" # the first one warms up
    taken local "$S/local/one" cp "$M/one" "$S/local/one"
    taken in "$S/mnt/one" "$BIN" cp -q "$M/one" "$S/mnt/one"
    taken out "$M/two" "$BIN" cp -q "$S/mnt/one" "$M/two"
    cmp "$M/one" "$M/two"
done
python3 - "$S/times" "$SIZE_MIB" <<'PY'
import statistics, sys
times = {}
for line in open(sys.argv[1]):
    name, seconds = line.split()
    times.setdefault(name, []).append(float(seconds))
base = statistics.median(times["local"])
print("| copy of %s MiB | seconds | median | rate against local cp |\n|---|---|---|---|" % sys.argv[2])
for name, label in ("local", "local `cp`"), ("in", "`pvfs2 cp` in"), ("out", "`pvfs2 cp` out"):
    m = statistics.median(times[name])
    print("| %s | %s | %.2f | %.2f |" % (label, " ".join("%.2f" % t for t in times[name]), m, base / m))
PY
