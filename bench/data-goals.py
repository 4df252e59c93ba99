#!/usr/bin/env python3
"""data-goals.py [ROUNDS] : measures what the data path is to reach, beside this machine's limits and its
peers, in turn and ROUNDS times (default 5), and prints medians as a table: goal, measured, met or not.

It starts 1 metadata + 4 I/O servers as processes of their own and mounts them three times (default options,
nojoin, writeback), the in-memory FUSE file system (pvfs2 bench ceiling --hold), and from MEASURE_DIR
(default ../shared/bench, beside the repository) the pass-through and, where it is installed, MooseFS. Root,
fio; nothing else should run.

PVFS2_BIN   the program (default target/release/pvfs2)
MIB         MiB of one stream (default 128; with four streams half of it each)
NATIVE_MIB  MiB of all streams together of the rows of the native client (default 512: the loopback beside it
            is measured at its steady rate, so what a client needs to connect must not weigh here; much more
            would measure how fast a virtual machine is given fresh memory)
PARTS       which rows: "seq direct native small rand ior sizes" (default all)
OUT         where every value is kept, as JSON
SECONDS     no round is begun that would probably end later (default: none is left out)
"""
import json, os, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

if sys.argv[1:] and sys.argv[1] in ("-h", "--help"):
    sys.exit(__doc__)
REPO = Path(__file__).resolve().parent.parent
BIN = os.environ.get("PVFS2_BIN", str(REPO / "target/release/pvfs2"))
MEASURE = Path(os.environ.get("MEASURE_DIR", REPO.parent / "shared/bench"))
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
MIB = int(os.environ.get("MIB", "128"))
NATIVE_MIB = int(os.environ.get("NATIVE_MIB", "512"))
SECONDS = float(os.environ.get("SECONDS", "inf"))
PARTS = os.environ.get("PARTS", "seq direct native small rand ior sizes").split()
SIZES = [("4 KB", 4 << 10, 100), ("64 KB", 64 << 10, 40), ("1 MB", 1 << 20, 8), ("64 MB", 64 << 20, 1)]
values, done = {}, 0


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def keep(name, value):
    values.setdefault(name, []).append(value)


def drop():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def busy_seconds():
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def fio(name, where, *args, jobs=1, mib=MIB, cost=None):
    """One fio run; its rate in MiB/s under `name`, its latency in us under `name us`. `cost`: CPU seconds of the
    whole machine per GB are kept under that name."""
    access = "read" if any("read" in a for a in args) else "write"
    before = busy_seconds()
    text = run("fio", "--output-format=json", "--name=f", "--ioengine=psync", "--fallocate=none", "--invalidate=0",
               "--group_reporting=1", f"--numjobs={jobs}", f"--size={mib}M", f"--directory={where}",
               "--filename_format=fio.$jobnum", *args)
    job = json.loads(text[text.index("{"):])["jobs"][0][access]
    keep(name, job["bw_bytes"] / 1048576)
    keep(name + " us", job["lat_ns"]["mean"] / 1000)
    if cost:
        keep(cost, (busy_seconds() - before) / (job["io_bytes"] / 1e9))


def ior(name, where, *args):
    """One run of bench ior; write and read in MiB/s."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        run(BIN, "bench", "ior", "--quiet", "-o", f"{where}/ior", *args, "-O", f"summaryFile={out.name},summaryFormat=CSV")
        for line in open(out.name):
            fields = line.split(",")
            if fields[0] in ("write", "read"):
                keep(f"{name} {fields[0]}", float(fields[1]))


def clients(count, work):
    """Seconds until `count` processes have done `work(i)`, begun together."""
    ready, go = os.pipe(), os.pipe()
    children = []
    for i in range(count):
        if (child := os.fork()) == 0:
            os.close(go[1])
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            try:
                work(i)
            except OSError as e:
                print(e, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children.append(child)
    for _ in range(count):
        os.read(ready[0], 1)
    begin = time.monotonic()
    for fd in (go[1], go[0]):
        os.close(fd)
    bad = [c for c in children if os.waitpid(c, 0)[1]]
    took = time.monotonic() - begin
    os.close(ready[0])
    os.close(ready[1])
    if bad:
        raise SystemExit("a client failed")
    return took


def files(where, what, size, count):
    block = os.urandom(min(size, 1 << 20))

    def write(i):
        for k in range(count):
            fd = os.open(f"{where}/s{i}.{k}", os.O_WRONLY | os.O_CREAT, 0o644)
            for _ in range(size // len(block)):
                os.write(fd, block)
            os.close(fd)

    def read(i):
        for k in range(count):
            fd = os.open(f"{where}/s{i}.{k}", os.O_RDONLY)
            while os.read(fd, 1 << 20):
                pass
            os.close(fd)
    return write if what == "write" else read


class Rig:
    def __init__(self, scratch):
        self.scratch, self.mounts, self.held, self.peers = scratch, {}, [], []
        for name in ("pvfs2", "nojoin", "writeback", "memory"):
            (scratch / name).mkdir()
            self.mounts[name] = scratch / name
        data = scratch / "data"
        run(BIN, "quickstart", "--data", data, "--mount", self.mounts["pvfs2"], "--io", 4, "--processes", "--detach")
        spec = next(line.split()[0] for line in open("/proc/mounts") if str(self.mounts["pvfs2"]) in line)
        self.spec = spec
        for option in ("nojoin", "writeback"):
            self.hold("mount", "--foreground", spec, self.mounts[option], "-o", option)
        self.hold("bench", "ceiling", "--hold", self.mounts["memory"])
        env = dict(os.environ, STATE=str(Path(tempfile.gettempdir()) / "fs-measure"))
        for peer, script, where, args in (("pass-through", "passthrough", "/mnt/fusehp", []), ("MooseFS", "moosefs", "/mnt/moosefs", ["4"])):
            if script == "moosefs" and subprocess.run(["which", "mfsmaster"], capture_output=True).returncode:
                continue
            if not os.path.ismount(where):
                if not (MEASURE / f"up-{script}.sh").exists():
                    continue
                with open(scratch / f"{script}.log", "w") as log:
                    subprocess.run([MEASURE / f"up-{script}.sh", *args], env=env, stdout=log, stderr=log, timeout=200)
                self.peers.append((script, env))
            if os.path.ismount(where):
                self.mounts[peer] = Path(where)
        deadline = time.monotonic() + 20
        while not all(os.path.ismount(m) for m in self.mounts.values()):
            if time.monotonic() > deadline:
                raise SystemExit(f"not mounted: {[str(m) for m in self.mounts.values() if not os.path.ismount(m)]}")
            time.sleep(0.1)
        self.dirs = {}
        for name, mount in self.mounts.items():
            self.dirs[name] = mount / f"goals-{name}.{os.getpid()}"
            self.dirs[name].mkdir()

    def hold(self, *command):
        log = open(self.scratch / "held.log", "a")
        self.held.append(subprocess.Popen([BIN, *map(str, command)], stdout=log, stderr=log))

    def memory(self):
        """Peak resident MiB of each of our processes, the largest first of each kind."""
        out = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                line = (status.parent / "cmdline").read_bytes().split(b"\0")
                if str(self.scratch).encode() not in b" ".join(line):
                    continue
                kind = "mount" if b"mount" in line[:3] or b"quickstart" in line[:3] else "server" if b"server" in line[:3] else None
                peak = next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith("VmHWM")) / 1024
            except (OSError, StopIteration):
                continue
            if kind:
                out[kind] = max(out.get(kind, 0), peak)
        return out

    def clear(self, *names):
        for name in names:
            for f in self.dirs[name].iterdir():
                f.unlink()

    def end(self):
        for name, where in self.dirs.items():
            subprocess.run(["rm", "-rf", str(where)], timeout=60)
        for name in ("nojoin", "writeback", "memory"):
            subprocess.run(["umount", str(self.mounts[name])], timeout=60)
        for held in self.held:
            try:
                held.wait(20)
            except subprocess.TimeoutExpired:
                held.send_signal(signal.SIGKILL)
        subprocess.run([BIN, "quickstart", "--stop", "--data", str(self.scratch / "data")], timeout=60, capture_output=True)
        for script, env in self.peers:
            subprocess.run([MEASURE / f"down-{script}.sh"], env=env, timeout=60, capture_output=True)


def one_round(rig):
    dirs, peers = rig.dirs, [p for p in ("pvfs2", "pass-through", "MooseFS") if p in rig.dirs]
    if "seq" in PARTS:
        for jobs in (1, 4):
            mib = MIB if jobs == 1 else MIB // 2
            for who in peers:
                rig.clear(who)
                drop()
                cost = f"CPU write {who} {jobs}"
                fio(f"write {who} {jobs}", dirs[who], "--rw=write", "--bs=1M", "--end_fsync=1", jobs=jobs, mib=mib, cost=cost)
                drop()
                fio(f"read {who} {jobs}", dirs[who], "--rw=read", "--bs=1M", jobs=jobs, mib=mib, cost=f"CPU read {who} {jobs}")
                if jobs == 1:
                    fio(f"reread {who}", dirs[who], "--rw=read", "--bs=1M", mib=mib)
    if "direct" in PARTS:
        for who in ("pvfs2", "memory"):
            rig.clear(who)
            for access in ("write", "read"):
                if access == "write":
                    # Into files that are there, as their pages are.
                    fio(f"lay {who}", dirs[who], "--rw=write", "--bs=1M", jobs=4, mib=MIB // 2)
                fio(f"direct {access} {who}", dirs[who], f"--rw={access}", "--bs=1M", "--direct=1", "--overwrite=1", jobs=4,
                    mib=MIB // 2, cost=f"CPU direct {access} {who}")
    if "native" in PARTS:
        rig.clear("pvfs2")
        # Transfers of 1 MiB over four servers travel as messages of 256 KiB.
        figures = json.loads(run(BIN, "bench", "ceiling", "--network", "--quiet", "--json", "-t", "256k", "-N", "1,4", "--seconds", "0.4"))
        for f in figures["figures"]:
            if f["access"] in ("bandwidth", "round trip"):
                keep(f"{f['resource']} {f['access']} {f['streams']}", f["rate"])
        for n in (1, 4):
            more = ["-F", "-t", "1m", "-b", f"{NATIVE_MIB // n}m", "-N", n, "-C"]
            ior(f"mounted {n}", dirs["pvfs2"], "-w", *more)
            rig.clear("pvfs2")
            # What the native client has written is in the servers' page cache and not in this kernel's.
            ior(f"native {n}", dirs["pvfs2"], "-a", "PVFS2", "-w", "-r", "-k", *more)
            ior(f"native again {n}", dirs["pvfs2"], "-a", "PVFS2", "-w", "-E", "-k", *more)
            # For a second the kernel may believe that the names which the mount removed are not there.
            time.sleep(1.2)
            ior(f"mounted {n}", dirs["pvfs2"], "-r", *more)
    if "small" in PARTS:
        for who in ("pvfs2", "nojoin", "memory", "writeback", "pass-through"):
            if who in dirs:
                rig.clear(who)
                fio(f"4k write {who}", dirs[who], "--rw=write", "--bs=4k", "--end_fsync=1", mib=64)
    if "rand" in PARTS:
        for who in ("pvfs2", "memory"):
            rig.clear(who)
            fio(f"lay {who}", dirs[who], "--rw=write", "--bs=1M", "--end_fsync=1", mib=64)
            fio(f"4k randread {who}", dirs[who], "--rw=randread", "--bs=4k", "--direct=1", "--io_size=24M", mib=64)
    if "ior" in PARTS:
        rig.clear("pvfs2")
        ior("easy", dirs["pvfs2"], "-F", "-t", "1m", "-b", "16m", "-N", "4", "-e", "-C", "--drop-caches")
        ior("hard", dirs["pvfs2"], "-t", "47008", "-b", "47008", "-s", "300", "-N", "4", "-e", "-C", "--drop-caches")
    if "sizes" in PARTS:
        for label, size, count in SIZES:
            for n in (1, 2, 4):
                for who in ("pvfs2", "MooseFS"):
                    if who not in dirs:
                        continue
                    rig.clear(who)
                    for what in ("write", "read"):
                        if what == "read":
                            drop()
                        took = clients(n, files(dirs[who], what, size, count))
                        keep(f"size {label} {n} {what} {who}", size * count * n / took / 1048576)


def med(name):
    return statistics.median(values[name]) if name in values else None


def ratio(a, b):
    """Median of the rounds' own ratios: both were measured right after each other."""
    if a not in values or b not in values:
        return None
    return statistics.median(x / y for x, y in zip(values[a], values[b]) if y)


rows = []


def row(what, goal, got, text, least=True):
    if got is not None:
        met = got >= goal if least else got <= goal
        rows.append((what, f"{'at least' if least else 'at most'} {goal:g}", f"{got:.2f}", text, "met" if met else "**missed**"))


def beside(name, other, unit="MiB/s"):
    a, b = med(name), med(other)
    return "" if a is None or b is None else f"{a:.0f} beside {b:.0f} {unit}"


def table(memory):
    for jobs in (1, 4):
        for what, share, cold in (("write", 0.85, "1 MiB buffered write + fsync"), ("read", 0.75, "1 MiB cold read")):
            ours = f"{what} pvfs2 {jobs}"
            for peer, goal in (("pass-through", share), ("MooseFS", 2)):
                theirs = f"{what} {peer} {jobs}"
                row(f"{cold}, {jobs} jobs / {peer}", goal, ratio(ours, theirs), beside(ours, theirs))
    row("re-read / pass-through", 0.9, ratio("reread pvfs2", "reread pass-through"), beside("reread pvfs2", "reread pass-through"))
    for what, goal in (("write", 0.4), ("read", 0.25)):
        ours, theirs = f"direct {what} pvfs2", f"direct {what} memory"
        row(f"O_DIRECT {what}, 4 streams / in-memory FUSE", goal, ratio(ours, theirs), beside(ours, theirs))
    for n in (1, 4):
        for what in ("write", "read"):
            ours = f"native {n} {what}"
            row(f"native {what}, {n} streams / loopback (unix)", 0.5, ratio(ours, f"unix bandwidth {n}"), beside(ours, f"unix bandwidth {n}"))
            row(f"native {what}, {n} streams / through the mount", 1.5, ratio(ours, f"mounted {n} {what}"), beside(ours, f"mounted {n} {what}"))
        ours = f"native again {n} write"
        row(f"native write into pages that are there, {n} streams / loopback (unix)", 0.5, ratio(ours, f"unix bandwidth {n}"), beside(ours, f"unix bandwidth {n}"))
    for name, goal in (("nojoin", 5), ("memory", 0.8)):
        row(f"4 KiB joined writes / {name}", goal, ratio("4k write pvfs2", f"4k write {name}"), beside("4k write pvfs2", f"4k write {name}"))
    row("4 KiB writes, writeback / pass-through", 0.5, ratio("4k write writeback", "4k write pass-through"),
        beside("4k write writeback", "4k write pass-through"))
    latency, fuse, trip = (med(k) for k in ("4k randread pvfs2 us", "4k randread memory us", "unix round trip 1"))
    if latency and fuse and trip:
        limit = fuse + 1e6 / trip
        row("4 KiB random read, QD1 / (FUSE + loopback round trip)", 2.5, latency / limit, f"{latency:.0f} us beside {fuse:.0f} + {1e6 / trip:.0f} us", False)
    row("IOR-hard / IOR-easy, write", 0.4, ratio("hard write", "easy write"), beside("hard write", "easy write"))
    row("IOR-hard / IOR-easy, read", 0.6, ratio("hard read", "easy read"), beside("hard read", "easy read"))
    for label, _, _ in SIZES:
        for n in (1, 2, 4):
            for what in ("write", "read"):
                ours, theirs = f"size {label} {n} {what} pvfs2", f"size {label} {n} {what} MooseFS"
                row(f"files of {label}, {n} clients, {what} / MooseFS", 1, ratio(ours, theirs), beside(ours, theirs))
    row("memory of a mount, MiB", 256, memory.get("mount"), "", False)
    row("memory of a server, MiB", 128, memory.get("server"), "", False)
    print("| what | goal | reached | medians | |\n|---|---|---|---|---|")
    for r in rows:
        print("| " + " | ".join(r) + " |")
    print(f"\n{sum(r[4] == 'met' for r in rows)} of {len(rows)} met, {done} rounds")
    costs = sorted(k for k in values if k.startswith("CPU"))
    if costs:
        print("\n| CPU seconds of the whole machine per GB | median |\n|---|---|")
        for k in costs:
            print(f"| {k[4:]} | {med(k):.2f} |")


def main():
    global done
    scratch = Path(tempfile.mkdtemp(prefix="pvfs2-goals."))
    rig = None
    try:
        rig = Rig(scratch)
        first = time.monotonic()
        for i in range(ROUNDS):
            begin = time.monotonic()
            if begin - first + (begin - first) / max(i, 1) > SECONDS:
                break
            one_round(rig)
            done += 1
            print(f"round {i + 1} of {ROUNDS}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        table(rig.memory())
        if out := os.environ.get("OUT"):
            Path(out).write_text(json.dumps(values, indent=1))
    finally:
        if rig:
            rig.end()
        subprocess.run(["rm", "-rf", "--one-file-system", str(scratch)], timeout=120)


main()
