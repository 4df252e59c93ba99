#!/usr/bin/env python3
"""ratios.py RESULTS_DIR : medians of pvfs2 against the pass-through's, for the rows that have a floor.

A rate is ours / theirs (at least the floor); a time is ours / theirs (at most the floor)."""
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

values = {}
for path in glob.glob(sys.argv[1] + "/*.csv"):
    for row in csv.reader(open(path)):
        if len(row) == 6:
            try:
                values.setdefault((row[2], row[3], row[0]), []).append(float(row[4]))
            except ValueError:
                pass

print("\n| metric | pvfs2 | pass-through | ratio | floor | |\n|---|---|---|---|---|---|")
missed = 0
for metric, threads, floor, is_time in FLOORS:
    ours, theirs = (values.get((metric, threads, l)) for l in ("pvfs2", "fusehp"))
    if not ours or not theirs:
        print(f"| {metric} | | | not measured | {floor} | |")
        continue
    a, b = statistics.median(ours), statistics.median(theirs)
    ratio = a / b if b else float("inf")
    good = ratio <= floor if is_time else ratio >= floor
    missed += not good
    print(f"| {metric} | {a:.4g} | {b:.4g} | {ratio:.2f} | {'<=' if is_time else '>='} {floor} | {'' if good else 'missed'} |")
sys.exit(1 if missed else 0)
