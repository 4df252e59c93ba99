#!/usr/bin/env bash
# bench/agree.sh DIR [ROUNDS] : runs fio and `pvfs2 bench ior` in turn, ROUNDS times (default 5), with the
# same patterns in DIR, and prints medians and their ratio. They shall agree within 10 % on a quiet machine;
# exits with 1 if they do not. Needs fio and python3; as root, cold reads are measured too.
#
# SIZE  MiB of each job (default 256)      JOBS  numbers of jobs (default "1 4")
# PVFS2_BIN  the program (default target/release/pvfs2)
set -euo pipefail
REPO=$(cd "$(dirname "$0")/.." && pwd)
BIN=${PVFS2_BIN:-$REPO/target/release/pvfs2}
DIR=${1:?usage: bench/agree.sh DIR [ROUNDS]}
ROUNDS=${2:-5} SIZE=${SIZE:-256} JOBS=${JOBS:-1 4}
[ -x "$BIN" ] || (cd "$REPO" && cargo build --release)
command -v fio >/dev/null || { echo "agree.sh: fio is not installed" >&2 && exit 1; }
W=$(mktemp -d "$DIR/agree.XXXXXX") OUT=$(mktemp)
trap 'rm -rf "$W" "$OUT"' EXIT
is_root=$([ "$(id -u)" = 0 ] && echo yes || true)

drop() { sync; [ -z "$is_root" ] || echo 3 >/proc/sys/vm/drop_caches; }
# fio_run LABEL JOBS read|write ARGS... : MiB/s
fio_run() {
    local label=$1 jobs=$2 access=$3; shift 3
    fio --output-format=json --name=f --ioengine=psync --fallocate=none --invalidate=0 --fadvise_hint=0 --group_reporting=1 \
        --numjobs="$jobs" --size="${SIZE}M" --directory="$W" --filename_format='fio.$jobnum' "$@" >"$OUT.f"
    python3 - "$OUT.f" "$access" "$label" "$jobs" >>"$OUT" <<'PY'
import json, sys
text = open(sys.argv[1]).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
print(sys.argv[3], sys.argv[4], "fio", job[sys.argv[2]]["bw_bytes"] / 1048576)
PY
    rm -f "$OUT.f"
}
# ior_run LABEL JOBS read|write ARGS... : MiB/s
ior_run() {
    local label=$1 jobs=$2 access=$3; shift 3
    "$BIN" bench ior --quiet -F -k -N "$jobs" -b "${SIZE}m" -o "$W/ior" "$@" \
        -O "summaryFile=$OUT.i,summaryFormat=CSV" >/dev/null
    awk -F, -v a="$access" -v l="$label" -v j="$jobs" '$1 == a { print l, j, "ior", $2 }' "$OUT.i" >>"$OUT"
    rm -f "$OUT.i"
}

for round in $(seq "$ROUNDS"); do
    for jobs in $JOBS; do
        echo "== round $round of $ROUNDS, $jobs jobs" >&2
        rm -f "$W"/*; drop
        fio_run write-1m-fsync "$jobs" write --rw=write --bs=1M --end_fsync=1
        ior_run write-1m-fsync "$jobs" write -w -t 1m -e
        [ -z "$is_root" ] || { drop; fio_run read-1m-cold "$jobs" read --rw=read --bs=1M; }
        [ -z "$is_root" ] || { drop; ior_run read-1m-cold "$jobs" read -r -t 1m; }
        # Both programs' files, of which the last read was cold, or came before the caches were dropped.
        cat "$W"/* >/dev/null
        # Eight times: of some milliseconds, fio's beginning is a third.
        fio_run read-1m-warm "$jobs" read --rw=read --bs=1M --loops=8
        ior_run read-1m-warm "$jobs" read -r -t 1m
        fio_run randwrite-64k-fsync "$jobs" write --rw=randwrite --bs=64k --end_fsync=1
        ior_run randwrite-64k-fsync "$jobs" write -w -E -t 64k -z -e
        # With O_DIRECT: else what is measured is how much of it this kernel happens to hold.
        fio_run randread-4k-direct "$jobs" read --rw=randread --bs=4k --direct=1
        ior_run randread-4k-direct "$jobs" read -r -t 4k -z -B
    done
done
python3 - "$OUT" <<'PY'
import statistics, sys
values, order = {}, []
for line in open(sys.argv[1]):
    label, jobs, who, value = line.split()
    if (label, jobs) not in order:
        order.append((label, jobs))
    values.setdefault((label, jobs, who), []).append(float(value))
print("| pattern | jobs | fio MiB/s | ior MiB/s | ior / fio | spread fio, ior | |\n|---|---|---|---|---|---|---|")
apart = 0
for label, jobs in order:
    fio, ior = (values.get((label, jobs, w), [0.0]) for w in ("fio", "ior"))
    a, b = statistics.median(fio), statistics.median(ior)
    ratio = b / a if a else float("inf")
    spread = ", ".join(f"{max(v) / max(min(v), 1e-9):.2f}" for v in (fio, ior))
    good = 0.9 <= ratio <= 1.1
    apart += not good
    print(f"| {label} | {jobs} | {a:.1f} | {b:.1f} | {ratio:.2f} | {spread} | {'' if good else 'apart'} |")
sys.exit(1 if apart else 0)
PY
