#!/usr/bin/env python3
"""Called by meta-scale.sh. `run PVFS2 MOUNT SERVERS N NAME PID...` prints one JSON line an operation;
`table FILE` prints the medians of such lines as Markdown."""
import json, os, statistics, subprocess, sys

DIRS = 12
BETWEEN = {"crdir", "link_count", "rmdir_peer", "rename_peer", "intent_status", "tree_lock"}


def cpu_s(pids):
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                total += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass
    return total / 1e9


def between(pvfs2, mount):
    out = subprocess.run([pvfs2, "perf-mon", "--fs", mount, "--json"], capture_output=True, check=True)
    return sum(row["count"] for row in json.loads(out.stdout) if row["op"] in BETWEEN)


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def run(pvfs2, mount, servers, n, name, pids):
    base = f"{mount}/{name}"
    os.mkdir(base)
    dirs = [f"{base}/dir{i}" for i in range(DIRS)]
    for d in dirs:
        os.mkdir(d)
    at = lambda i: f"{dirs[i % DIRS]}/f{i}"
    next_door = lambda i: f"{dirs[(i + 1) % DIRS]}/m{i}"
    few = n // 10
    operations = [
        ("create in separate directories, by turns", n, lambda i: create(at(i))),
        ("create in separate directories, one after the other", n, lambda i: create(f"{dirs[i * DIRS // n]}/o{i}")),
        ("rename within a directory", n, lambda i: os.rename(at(i), f"{dirs[i % DIRS]}/r{i}")),
        ("rename into another directory", few, lambda i: os.rename(f"{dirs[i % DIRS]}/r{i}", next_door(i))),
        ("link from another directory", few, lambda i: os.link(next_door(i), f"{dirs[(i + 2) % DIRS]}/l{i}")),
        ("unlink such a link", few, lambda i: os.unlink(f"{dirs[(i + 2) % DIRS]}/l{i}")),
        ("unlink", n, lambda i: os.unlink(next_door(i) if i < few else f"{dirs[i % DIRS]}/r{i}")),
        ("mkdir", few, lambda i: os.mkdir(f"{dirs[i % DIRS]}/d{i}")),
        ("rmdir", few, lambda i: os.rmdir(f"{dirs[i % DIRS]}/d{i}")),
    ]
    for what, count, f in operations:
        cpu, asked = cpu_s(pids), between(pvfs2, mount)
        for i in range(count):
            f(i)
        cpu, asked = cpu_s(pids) - cpu, between(pvfs2, mount) - asked
        print(json.dumps([what, servers, cpu * 10_000 / count, asked / count]))


def table(path):
    rows, order = {}, []
    for line in open(path):
        what, servers, cpu, asked = json.loads(line)
        rows.setdefault(what, {}).setdefault(servers, []).append((cpu, asked))
        if what not in order:
            order.append(what)
    print("| operation | CPU s per 10,000 with 1, 2, 3 servers | requests between servers, each, with 1, 2, 3 |\n|---|---|---|")
    for what in order:
        of = [rows[what][m] for m in sorted(rows[what])]
        print("| %s | %s | %s |" % (
            what,
            " / ".join("%.2f" % statistics.median(c for c, _ in x) for x in of),
            " / ".join("%.2f" % statistics.median(a for _, a in x) for x in of)))


if sys.argv[1] == "run":
    pvfs2, mount, servers, n, name, *pids = sys.argv[2:]
    run(pvfs2, mount, int(servers), int(n), name, pids)
else:
    table(sys.argv[2])
