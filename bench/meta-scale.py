#!/usr/bin/env python3
"""meta-scale.py PVFS2 N ROUNDS MOUNT:PID,PID.. MOUNT:PID,..: called by meta-scale.sh, with the mount of each
cluster and the processes whose CPU time counts; the first cluster is what the others are compared with."""
import json, os, statistics, subprocess, sys

DIRS = 12
PROGRAMS = 3
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


def at_once(n, f):
    """`f(i)` for i below n by PROGRAMS programs, each with a share of its own in a row."""
    children = []
    for k in range(PROGRAMS):
        child = os.fork()
        if child == 0:
            for i in range(k * n // PROGRAMS, (k + 1) * n // PROGRAMS):
                f(i)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)


def kinds(base, n):
    dirs = [f"{base}/dir{i}" for i in range(DIRS)]
    for d in dirs:
        os.mkdir(d)
    turn = lambda i: dirs[i % DIRS]
    row = lambda i: dirs[i * DIRS // n]
    next_door = lambda i: f"{dirs[(i + 1) % DIRS]}/m{i}"
    few = n // 10
    return [
        ("create, each program in directories of its own, three programs", n, lambda i: create(f"{row(i)}/p{i}")),
        ("create, one program, directory after directory", n, lambda i: create(f"{row(i)}/o{i}")),
        ("create, one program, another directory each time", n, lambda i: create(f"{turn(i)}/f{i}")),
        ("rename within a directory", n, lambda i: os.rename(f"{turn(i)}/f{i}", f"{turn(i)}/r{i}")),
        ("rename into another directory", few, lambda i: os.rename(f"{turn(i)}/r{i}", next_door(i))),
        ("link from another directory", few, lambda i: os.link(next_door(i), f"{dirs[(i + 2) % DIRS]}/l{i}")),
        ("unlink such a link", few, lambda i: os.unlink(f"{dirs[(i + 2) % DIRS]}/l{i}")),
        ("unlink", n, lambda i: os.unlink(next_door(i) if i < few else f"{turn(i)}/r{i}")),
        ("mkdir", few, lambda i: os.mkdir(f"{turn(i)}/d{i}")),
        ("rmdir", few, lambda i: os.rmdir(f"{turn(i)}/d{i}")),
    ]


def main(pvfs2, n, rounds, clusters):
    found, asked = {}, {}
    for turn in range(rounds):
        work = []
        for at, (mount, pids) in enumerate(clusters):
            base = f"{mount}/round{turn}"
            os.mkdir(base)
            work.append((at, mount, pids, kinds(base, n)))
        for kind in range(len(work[0][3])):
            # Another one is the first each time.
            for at, mount, pids, of in work[turn % len(work):] + work[:turn % len(work)]:
                what, count, f = of[kind]
                sent, cpu = between(pvfs2, mount), cpu_s(pids)
                at_once(count, f) if "three programs" in what else [f(i) for i in range(count)]
                cpu, sent = cpu_s(pids) - cpu, between(pvfs2, mount) - sent
                found.setdefault(what, {}).setdefault(at, []).append(cpu * 10_000 / count)
                asked.setdefault(what, {}).setdefault(at, []).append(sent / count)
    print("| operation | CPU s per 10,000 with 1, 2, 3 servers | ratio to one (quartiles) | requests between servers, each |")
    print("|---|---|---|---|")
    each = lambda of, form: " / ".join(form % statistics.median(of[at]) for at in sorted(of))
    for what, of in found.items():
        ratios = []
        for at in sorted(of)[1:]:
            low, mid, high = statistics.quantiles([b / a for a, b in zip(of[0], of[at])], n=4)
            ratios.append("%.2f (%.2f to %.2f)" % (mid, low, high))
        print(f"| {what} | {each(of, '%.2f')} | {', '.join(ratios)} | {each(asked[what], '%.2f')} |")


if __name__ == "__main__":
    _, pvfs2, n, rounds, *clusters = sys.argv
    main(pvfs2, int(n), int(rounds), [(c.rsplit(":", 1)[0], c.rsplit(":", 1)[1].split(",")) for c in clusters])
