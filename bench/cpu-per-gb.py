#!/usr/bin/env python3
"""cpu-per-gb.py PROGRAM [PROGRAM ...] : CPU seconds per GB through a mount of each of these builds of pvfs2, in turn.

Each PROGRAM (LABEL=PATH or PATH; default target/release/pvfs2) starts 1 metadata + 4 I/O servers as processes
and a mount of its own; "local" is a directory of the same disk, for comparison. Every round writes and reads the
same with each of them, one after the other. Printed are medians: CPU seconds per GB of all processes (the programs
that write and read, the mount, the servers) and, of these, of mount and servers; of the whole machine (the
kernel's threads and write-out too); MiB/s; and of the rounds' ratios to the first PROGRAM: all processes, mount
and servers. Root; nothing else should run.

ROUNDS      rounds (default 5)
MIB         MiB of all streams together (default 256)
PARTS       "write1 read1 write4 read4 directwrite4 directread4 small" (default all; small: 4 KiB writes, a quarter of MIB)
"""
import mmap, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

if sys.argv[1:] and sys.argv[1] in ("-h", "--help"):
    sys.exit(__doc__)
REPO = Path(__file__).resolve().parent.parent
ROUNDS, MIB = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("MIB", "256"))
PARTS = os.environ.get("PARTS", "write1 read1 write4 read4 directwrite4 directread4 small").split()
# How many at once, bytes of each call.
PATTERNS = {"write1": (1, 1 << 20), "read1": (1, 1 << 20), "write4": (4, 1 << 20), "read4": (4, 1 << 20),
            "directwrite4": (4, 1 << 20), "directread4": (4, 1 << 20), "small": (1, 4096)}


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def busy_seconds():
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:8]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def drop():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def processes_of(data, mount):
    """Those that serve `data` or `mount`: the process-wide CPU clocks of the kernel (clock_getcpuclockid(3))."""
    out = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(w).encode() in b" ".join(words) for w in (data, mount)):
            out.append((~int(line.parent.name) << 3) | 2)
    return out


def work(part, path, size, each):
    """One program: writes or reads `path` from its beginning in calls of `each` bytes; writers sync at the end."""
    flags = (os.O_RDONLY if "read" in part else os.O_WRONLY | os.O_CREAT) | (os.O_DIRECT if "direct" in part else 0)
    buffer = mmap.mmap(-1, each)
    buffer.write(os.urandom(each))
    fd = os.open(path, flags, 0o644)
    for _ in range(size // each):
        if (os.readv(fd, [buffer]) if "read" in part else os.write(fd, buffer)) != each:
            raise OSError("short")
    if "read" not in part:
        os.fsync(fd)
    os.close(fd)


def measure(part, where, clocks):
    """CPU seconds per GB of all processes, without the programs, of the machine; MiB/s. Fresh writes begin with no
    file, cold reads with nothing in memory; direct ones use files that are there, and in the servers' memory."""
    count, each = PATTERNS[part]
    size = MIB // (4 if part == "small" else count) << 20
    if "direct" not in part:
        if "read" not in part:
            for f in where.iterdir():
                f.unlink()
        drop()
    busy, served, begin, own, children = busy_seconds(), sum(map(time.clock_gettime, clocks)), time.monotonic(), 0, []
    for i in range(count):
        if (child := os.fork()) == 0:
            try:
                work(part, where / f"{count}.{i}", size, each)
                os._exit(0)
            except OSError as e:
                print(f"{part}: {e}", file=sys.stderr)
            os._exit(1)
        children.append(child)
    for child in children:
        _, status, usage = os.wait4(child, 0)
        if status:
            raise SystemExit("a program failed")
        own += usage.ru_utime + usage.ru_stime
    took, served, gb = time.monotonic() - begin, sum(map(time.clock_gettime, clocks)) - served, size * count / 1e9
    return (own + served) / gb, served / gb, (busy_seconds() - busy) / gb, size * count / took / 1048576


def main():
    programs = [a.split("=", 1) if "=" in a else (Path(a).name, a) for a in sys.argv[1:]] or [("pvfs2", str(REPO / "target/release/pvfs2"))]
    for _, program in programs:
        if not os.access(program, os.X_OK):
            raise SystemExit(f"{program} cannot be run; build it, or name another program")
    values, up, places = {}, [], {}
    with tempfile.TemporaryDirectory(prefix="cpu-per-gb.") as scratch:
        try:
            for label, program in programs:
                data, mount = Path(scratch) / f"{label}.data", Path(scratch) / label
                mount.mkdir()
                up.append((program, data))
                run(program, "quickstart", "--data", data, "--mount", mount, "--io", 4, "--processes", "--detach")
                places[label] = (mount / "d", processes_of(data, mount))
            places["local"] = (Path(scratch) / "local", [])
            for where, _ in places.values():
                where.mkdir()
            for round in range(ROUNDS):
                # Whoever is first in a round is not always the same.
                for i in range(len(places)):
                    label = list(places)[(i + round) % len(places)]
                    for part in PARTS:
                        values.setdefault((part, label), []).append(measure(part, *places[label]))
                print(f"round {round + 1} of {ROUNDS}", file=sys.stderr)
        finally:
            for program, data in up:
                subprocess.run([program, "quickstart", "--stop", "--data", data], capture_output=True, timeout=60)
            time.sleep(1)
    first = programs[0][0]
    print("s/GB: all processes (mount and servers) whole machine; MiB/s")
    print("| | " + " | ".join(places) + " | CPU / " + first + "'s |")
    print("|---" * (len(places) + 2) + "|")
    for part in PARTS:
        cells = []
        for label in places:
            whole, served, machine, rate = (statistics.median(column) for column in zip(*values[part, label]))
            cells.append(f"{whole:.2f} ({served:.2f}) {machine:.2f}; {rate:.0f}")
        ratios = []
        for label, _ in programs[1:]:
            whole, served = (statistics.median(a[k] / b[k] for a, b in zip(values[part, label], values[part, first])) for k in (0, 1))
            ratios.append(f"{whole:.2f} ({served:.2f})")
        print(f"| {part} | " + " | ".join(cells) + " | " + " ".join(ratios) + " |")


main()
