#!/usr/bin/env python3
"""ratios.py RESULTS_DIR [OURS] : medians of OURS (default pvfs2) beside every peer's, as ratios.

RESULTS_DIR holds measure.sh's CSV files: label,run,metric,threads,value,unit. Three parts:
1. every row against every peer, for each number of threads. A ratio above 1 is always in our favour:
   ours / theirs for rates, theirs / ours for times (units s, us, ms, ns).
2. the rows of operations alone, as sentences: ahead of MooseFS (x) and share of the pass-through.
3. the rows that have a floor against the pass-through (rates at least, times at most).
Ends with 1 if a floor is missed."""
import csv, glob, statistics, sys

FLOORS = [  # metric, threads, floor, whether it is a time
    ("seqwrite1m_MBps", "1", 0.60, False),
    ("seqread1m_MBps", "1", 0.60, False),
    ("md_create", "1", 0.40, False),
    ("md_create_write4k", "1", 0.40, False),
    ("md_stat_cold", "1", 0.40, False),
    ("md_rename", "1", 0.40, False),
    ("md_unlink", "1", 0.40, False),
    ("tree_untar", "1", 1.50, True),
]
NAMES = {"ext4": "ext4", "fusehp": "pass-through", "moosefs": "MooseFS", "pvfs2": "PVFS2"}
ORDER = ["ext4", "fusehp", "moosefs"]
TIMES = {"s", "ms", "us", "ns"}
# Rows about the measuring or its counts, not about speed.
NOT_SPEED = ("rss", "wall_", "daemon_cpu")
NOT_SPEED_UNITS = {"rc", "files", "entries", "MiB"}

if len(sys.argv) < 2:
    sys.exit("usage: ratios.py RESULTS_DIR [OURS]")
OURS = sys.argv[2] if len(sys.argv) > 2 else "pvfs2"

values, rows, units, labels = {}, [], {}, set()
for path in sorted(glob.glob(sys.argv[1] + "/*.csv")):
    for row in csv.reader(open(path)):
        if len(row) != 6:
            continue
        label, _, metric, threads, value, unit = row
        try:
            number = float(value)
        except ValueError:
            continue
        values.setdefault((metric, threads, label), []).append(number)
        units[metric, threads] = unit
        labels.add(label)
        if (metric, threads) not in rows:
            rows.append((metric, threads))

if OURS not in labels:
    sys.exit(f"ratios.py: {sys.argv[1]} holds no results of {OURS} (found: {', '.join(sorted(labels)) or 'none'})")
peers = [l for l in ORDER if l in labels and l != OURS]
peers += sorted(labels - set(ORDER) - {OURS})


def median(metric, threads, label):
    found = values.get((metric, threads, label))
    return statistics.median(found) if found else None


def ratio(metric, threads, peer):
    """Above 1: we are ahead. None: one of the two was not measured (or measured nothing)."""
    ours, theirs = median(metric, threads, OURS), median(metric, threads, peer)
    if not ours or not theirs:
        return None
    return theirs / ours if units[metric, threads] in TIMES else ours / theirs


def cell(number, form):
    return "-" if number is None else format(number, form)


def is_speed(metric, threads):
    return not metric.startswith(NOT_SPEED) and units[metric, threads] not in NOT_SPEED_UNITS


speed = [r for r in rows if is_speed(*r)]
rounds = {l: max((len(v) for (_, _, k), v in values.items() if k == l), default=0) for l in labels}
print("\nMedians of " + ", ".join(f"{NAMES.get(l, l)} {rounds[l]}" for l in [OURS, *peers]) + " rounds; above 1 is in our favour.\n")
head = [NAMES.get(OURS, OURS)]
for p in peers:
    head += [NAMES.get(p, p), "x " + NAMES.get(p, p)]
print("| metric | threads | unit | " + " | ".join(head) + " |\n" + "|---" * (len(head) + 3) + "|")
for metric, threads in speed:
    out = [cell(median(metric, threads, OURS), ".4g")]
    for p in peers:
        out += [cell(median(metric, threads, p), ".4g"), cell(ratio(metric, threads, p), ".2f")]
    print(f"| {metric} | {threads} | {units[metric, threads]} | " + " | ".join(out) + " |")

# What one does with a file system; a mean latency says the same as its rate, so it is left out.
ops = [r for r in speed if not r[0].endswith(("_lat", "_lat99", "_synclat", "_synclat99"))]
behind, least, shares = [], None, []
print()
for metric, threads in ops:
    moose, through = ratio(metric, threads, "moosefs"), ratio(metric, threads, "fusehp")
    said = []
    if moose is not None:
        said.append(f"ahead of MooseFS (x) {moose:.2f}" + (" BEHIND" if moose < 1 else ""))
        least = min(least, (moose, metric, threads)) if least else (moose, metric, threads)
        if moose < 1:
            behind.append(f"{metric}/{threads}")
    if through is not None:
        said.append(f"share of pass-through {100 * through:.0f} %")
        shares.append((through, metric, threads))
    if said:
        print(f"{metric:<28} {threads:>2} thr: " + ", ".join(said))
if least:
    print(f"\nleast ahead of MooseFS: {least[0]:.2f} x ({least[1]}, {least[2]} threads); behind in {len(behind)} rows" + (": " + " ".join(behind) if behind else ""))
if shares:
    low = min(shares)
    print(f"least share of pass-through: {100 * low[0]:.0f} % ({low[1]}, {low[2]} threads)")

missed = 0
if "fusehp" in labels:
    print(f"\n| metric | {NAMES.get(OURS, OURS)} | pass-through | ratio | floor | |\n|---|---|---|---|---|---|")
    for metric, threads, floor, is_time in FLOORS:
        ours, theirs = (median(metric, threads, l) for l in (OURS, "fusehp"))
        if not ours or not theirs:
            print(f"| {metric} | | | not measured | {floor} | |")
            continue
        quotient = ours / theirs
        good = quotient <= floor if is_time else quotient >= floor
        missed += not good
        print(f"| {metric} | {ours:.4g} | {theirs:.4g} | {quotient:.2f} | {'<=' if is_time else '>='} {floor} | {'' if good else 'missed'} |")
sys.exit(1 if missed else 0)
