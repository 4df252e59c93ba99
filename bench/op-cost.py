#!/usr/bin/env python3
"""What one operation costs: prints a Markdown table. Called by op-cost.sh, which starts the cluster.

usage: op-cost.py PVFS2 MOUNT META_PID CLIENT_PID [N]

Two passes over the same operations. The first, of N operations (default 5,000), takes CPU from
/proc/PID/task/*/schedstat (nanoseconds) and requests from `pvfs2 perf-mon`. The second, of a tenth,
runs under strace, which slows everything but counts right: system calls of the metadata server and
of the client, bytes between them, bytes into the journal. Between two operations the caches run
out, so every first touch is cold.
"""
import json, os, re, signal, subprocess, sys, tempfile, threading, time

PVFS2, MOUNT, META, CLIENT = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
N = int(sys.argv[5]) if len(sys.argv) > 5 else 5000
CACHES_S = 1.3  # longer than the client's caches and the kernel's believe anything
PROGRAMS = 8


def cpu_us(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            total += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1000


def requests():
    # Asking costs a get_config and a stats request of its own, which are left out.
    out = subprocess.run([PVFS2, "perf-mon", "--fs", MOUNT, "--json"], capture_output=True, check=True)
    mine = {"get_config", "hello", "renew", "goodbye"}
    return sum(row["count"] for row in json.loads(out.stdout) if row["op"] not in mine)


class Strace:
    """Everything that a process calls, from the first line to stop()."""

    def __init__(self, pid):
        self.file = tempfile.NamedTemporaryFile("r", prefix="op-cost.", suffix=".strace")
        args = ["strace", "-f", "-y", "-s", "0", "-qq", "-o", self.file.name, "-p", str(pid)]
        self.run = subprocess.Popen(args, stderr=subprocess.DEVNULL)
        time.sleep(0.5)

    def stop(self):
        self.run.send_signal(signal.SIGINT)
        self.run.wait()
        calls = wire = journal = 0
        for line in self.file:
            # A call that another one interrupts takes two lines; the second, "resumed", is counted.
            if "<unfinished ...>" in line or not re.search(r"^\d+ +(\w+\(|<\.\.\. \w+ resumed>)", line):
                continue
            calls += 1
            done = re.search(r"= (\d+)", line)
            if not done:
                continue
            if re.search(r"(sendmsg|sendto|recvmsg|recvfrom|readv|writev|read|write)\(\d+<(socket|UNIX|TCP)", line):
                wire += int(done[1])
            elif re.search(r"(write|pwrite64)\(\d+<[^>]*/journal/", line):
                journal += int(done[1])
        return calls, wire, journal


def each(n, f):
    for i in range(n):
        f(i)


def at_once(n, f):
    share = [threading.Thread(target=lambda k=k: [f(i) for i in range(k, n, PROGRAMS)]) for k in range(PROGRAMS)]
    [t.start() for t in share]
    [t.join() for t in share]


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def write_small(path):
    with open(path, "wb") as f:
        f.write(b"x" * 4096)


def read_small(path):
    with open(path, "rb") as f:
        f.read()


def operations(d, n):
    """(name, operations that it counts as, what to run)."""
    name = lambda i: f"{d}/f{i}"
    os.mkdir(d)
    os.mkdir(f"{d}/sub")
    yield "create", n, lambda: each(n, lambda i: create(name(i)))
    yield f"create by {PROGRAMS} threads at once", n, lambda: at_once(n, lambda i: create(f"{d}/g{i}"))
    yield "stat, cold", n, lambda: each(n, lambda i: os.stat(name(i)))
    yield "stat again, cached", n, lambda: each(n, lambda i: os.stat(name(0)))
    yield "create + write 4 KiB + close", n, lambda: each(n, lambda i: write_small(f"{d}/sub/w{i}"))
    yield "open + read 4 KiB + close, cold", n, lambda: each(n, lambda i: read_small(f"{d}/sub/w{i}"))
    yield "rename", n, lambda: each(n, lambda i: os.rename(name(i), f"{d}/r{i}"))
    yield "unlink", n, lambda: each(n, lambda i: os.unlink(f"{d}/r{i}"))
    yield "mkdir", n, lambda: each(n, lambda i: os.mkdir(f"{d}/d{i}"))
    yield "rmdir", n, lambda: each(n, lambda i: os.rmdir(f"{d}/d{i}"))
    rounds = max(1, n // 1000)
    yield "readdir of 1,000 names with attributes", rounds * max(1, n // 1000), lambda: each(rounds, lambda _: [e.stat() for e in os.scandir(d)])


def first_pass():
    costs = []
    for name, count, run in operations(f"{MOUNT}/cost{N}", N):
        time.sleep(CACHES_S)
        before = cpu_us(META), cpu_us(CLIENT), requests()
        run()
        after = cpu_us(META), cpu_us(CLIENT), requests()
        costs.append((name, [(a - b) / count for a, b in zip(after, before)]))
    return costs


def second_pass(n):
    counts = []
    for _, count, run in operations(f"{MOUNT}/calls{n}", n):
        time.sleep(CACHES_S)
        meta, client = Strace(META), Strace(CLIENT)
        run()
        (calls, wire, journal), (client_calls, _, _) = meta.stop(), client.stop()
        counts.append([calls / count, client_calls / count, wire / count, journal / count])
    return counts


def main():
    costs = first_pass()
    # readdir needs its thousand names.
    counts = second_pass(max(1000, N // 10))
    print("| operation | CPU us, server | CPU us, client | requests | system calls, server | system calls, client | bytes, wire | bytes, journal |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, (server, client, asked)), (calls, client_calls, wire, journal) in zip(costs, counts):
        print(f"| {name} | {server:.1f} | {client:.1f} | {asked:.2f} | {calls:.1f} | {client_calls:.1f} | {wire:.0f} | {journal:.0f} |")


main()
