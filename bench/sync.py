#!/usr/bin/env python3
"""What bench/sync.sh runs; see there."""
import os, random, re, shutil, signal, socket, statistics, subprocess, sys, time
from pathlib import Path

DIR = Path(sys.argv[1]).resolve()
ENV = os.environ
TOOLS = ENV.get("TOOLS", "ours unison syncthing rclone").split()
PARTS = ENV.get("PARTS", "small large delta noop seen idle").split()
FILES, MIB = int(ENV.get("FILES", 10000)), int(ENV.get("MIB", 1024))
SEEN, IDLE = int(ENV.get("SEEN", 100)), int(ENV.get("IDLE", 120))
CLIENTS = Path(ENV.get("CLIENTS", "/tmp/pvfs2-sync-bench"))
BIN = ENV["PVFS2_BIN"]
UNISON, SYNCTHING, RCLONE = (ENV.get(n, n.lower()) for n in ("UNISON", "SYNCTHING", "RCLONE"))
running = []


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def lo_bytes():
    line = next(l for l in open("/proc/net/dev") if l.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def start(*args, **more):
    log = open(CLIENTS / "log", "ab")
    p = subprocess.Popen(args, stdout=more.pop("stdout", log), stderr=log, start_new_session=True, **more)
    running.append(p)
    return p


def stop(p):
    if p.poll() is None:
        p.send_signal(signal.SIGTERM)
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
    if p in running:
        running.remove(p)


def run(*args, ok=(0,), **more):
    with open(CLIENTS / "log", "ab") as log:
        p = subprocess.run(args, stdout=log, stderr=log, timeout=150, **more)
    if p.returncode not in ok:
        raise RuntimeError(f"{args[0]} {args[1:3]}: exit {p.returncode}, see {CLIENTS}/log")


def until(f, seconds=120, step=0.02):
    end = time.time() + seconds
    while not f():
        if time.time() > end:
            raise RuntimeError("not within %d s" % seconds)
        time.sleep(step)


def timed(f):
    begin, bytes_before = time.time(), lo_bytes()
    f()
    return time.time() - begin, lo_bytes() - bytes_before


def count(folder):
    return sum(1 for d, dirs, files in os.walk(folder) for f in files
               if "/." not in d and not f.startswith((".syncthing.", ".unison")))


class Ours:
    """Two devices and a server in DIR, TLS."""

    def __init__(self, home, there):
        self.home, self.port = home, port()
        self.a, self.b = home / "a", home / "b"
        self.server = start(BIN, "sync", "quickstart", "--root", str(there / "root"), "--listen",
                            f"127.0.0.1:{self.port}", stdout=subprocess.PIPE,
                            env={**ENV, "XDG_STATE_HOME": str(home / "state")})
        text = ""
        while not (found := re.search(r"password\W+([0-9a-f]{20})", text)):
            line = self.server.stdout.readline().decode()
            if not line:
                raise RuntimeError(f"no password told: {text}")
            text += line
        self.password = found[1]
        cert = there / "root/.sync/cert.pem"
        for name in ("a", "b"):
            run(BIN, "sync", "setup", "--state", str(home / f"{name}.state"), "--server",
                f"https://127.0.0.1:{self.port}", "--ca", str(cert), "--user", "admin", "--device", name,
                "--folder", str(home / name), input=(self.password + "\n").encode())

    def up(self):
        run(BIN, "sync", "now", "--state", str(self.home / "a.state"))

    def down(self):
        run(BIN, "sync", "now", "--state", str(self.home / "b.state"))

    def daemons(self):
        return [start(BIN, "sync", "daemon", "--state", str(self.home / f"{n}.state")) for n in "ab"]

    def close(self):
        stop(self.server)


class Unison:
    """Two replicas of a root in DIR, over a socket in the clear."""

    def __init__(self, home, there):
        self.home, self.port, self.there = home, port(), there / "root"
        self.a, self.b = home / "a", home / "b"
        for d in (self.a, self.b, self.there):
            d.mkdir(parents=True)
        self.server = start(UNISON, "-socket", str(self.port), env={**ENV, "UNISON": str(home / "s")})
        time.sleep(1)

    def sync(self, name):
        run(UNISON, "-batch", "-auto", "-silent", "-ui", "text", "-times", str(self.home / name),
            f"socket://127.0.0.1:{self.port}/{self.there}", env={**ENV, "UNISON": str(self.home / "c")})

    def up(self):
        self.sync("a")

    def down(self):
        self.sync("b")

    def close(self):
        stop(self.server)


class Syncthing:
    """One device, and one whose folder is in DIR; TLS, no discovery; watches with 1 s delay."""

    def __init__(self, home, there):
        self.a, self.b = home / "a", there / "root"
        self.nodes, ids, ports = [], {}, {"a": port(), "b": port()}
        for n in "ab":
            run(SYNCTHING, "generate", f"--home={home / n}.conf")
            text = open(f"{home / n}.conf/config.xml").read()
            ids[n] = re.search(r'<device id="([A-Z0-9-]+)"', text)[1]
        for n, folder in (("a", self.a), ("b", self.b)):
            folder.mkdir(parents=True)
            (folder / ".stfolder").mkdir()
            other = "b" if n == "a" else "a"
            device = lambda d: (f'<device id="{ids[d]}" name="{d}" compression="metadata"><address>'
                                f'tcp://127.0.0.1:{ports[d]}</address></device>')
            Path(f"{home / n}.conf/config.xml").write_text(
                f'<configuration version="35"><folder id="f" label="f" path="{folder}" type="sendreceive" '
                f'rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1">'
                f'<device id="{ids[n]}"/><device id="{ids[other]}"/></folder>{device(n)}{device(other)}'
                f'<gui enabled="false"/><options><listenAddress>tcp://127.0.0.1:{ports[n]}</listenAddress>'
                '<globalAnnounceEnabled>false</globalAnnounceEnabled><natEnabled>false</natEnabled>'
                '<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled>'
                '<urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH>'
                '<startBrowser>false</startBrowser><crashReportingEnabled>false</crashReportingEnabled>'
                '</options></configuration>')
            self.nodes.append(start(SYNCTHING, "serve", f"--home={home / n}.conf", "--no-browser", "--no-restart"))
        self.write("first", b"x")
        until(lambda: (self.b / "first").exists(), 90)

    def write(self, name, data):
        (self.a / name).write_bytes(data)

    def up(self):
        want = {p.relative_to(self.a): p.stat().st_size for p in self.a.rglob("*")
                if p.is_file() and ".stfolder" not in p.parts}
        def same():
            try:
                return all((self.b / p).stat().st_size == s for p, s in want.items()) and not any(
                    f.startswith(".syncthing.") for _, _, files in os.walk(self.b) for f in files)
            except FileNotFoundError:
                return False
        until(same, 300, 0.1)

    down = None

    def daemons(self):
        return []

    def close(self):
        for n in self.nodes:
            stop(n)


class Rclone:
    """`rclone copy` from and to `rclone serve webdav` on DIR, in the clear."""

    def __init__(self, home, there):
        self.a, self.b, self.more = home / "a", home / "b", []
        for d in (self.a, self.b, there / "root"):
            d.mkdir(parents=True)
        p = port()
        self.server = start(RCLONE, "serve", "webdav", str(there / "root"), "--addr", f"127.0.0.1:{p}")
        self.remote = f":webdav,url='http://127.0.0.1:{p}',vendor=rclone:"
        time.sleep(1)

    def up(self):
        run(RCLONE, "copy", str(self.a), self.remote, "--transfers", "8", *self.more)

    def down(self):
        run(RCLONE, "copy", self.remote, str(self.b), "--transfers", "8", *self.more)

    def close(self):
        stop(self.server)


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def small(t):
    data = noise(4096 * 64, 1)
    for n in range(FILES):
        sub = t.a / f"d{n // 100}"
        sub.mkdir(parents=True, exist_ok=True)
        at = (n * 61) % (4096 * 62)
        (sub / f"f{n}").write_bytes(data[at:at + 4088] + n.to_bytes(8, "little"))
    secs, _ = timed(t.up)
    yield f"{FILES} x 4 KiB up, files/s", f"{FILES / secs:.0f}"
    if t.down:
        secs, _ = timed(t.down)
        yield f"{FILES} x 4 KiB down, files/s", f"{FILES / secs:.0f}"
        if count(t.b) < FILES:
            raise RuntimeError(f"{count(t.b)} files arrived")


def noop(t):
    if isinstance(t, Syncthing):
        return
    time.sleep(1.1)
    t.up()
    runs = [timed(t.up)[0] for _ in range(5)]
    yield f"nothing to do, {FILES} files, s (median of 5)", f"{statistics.median(runs):.2f}"


def large(t):
    block = noise(1 << 20, 2)
    with open(t.a / "large", "wb") as f:
        for n in range(MIB):
            f.write(block[n:] + block[:n])
    os.sync()
    secs, _ = timed(t.up)
    yield f"{MIB} MiB up, MB/s", f"{MIB * 1.048576 / secs:.0f}"
    if t.down:
        secs, _ = timed(t.down)
        yield f"{MIB} MiB down, MB/s", f"{MIB * 1.048576 / secs:.0f}"


def delta(t):
    if isinstance(t, Rclone):
        # Between two times it compares sizes only here, so it is told to send this one.
        t.more = ["--include", "/hundred", "--ignore-times"]
    data = bytearray(noise(100_000_000, 3))
    (t.a / "hundred").write_bytes(data)
    t.up()
    if t.down:
        t.down()
    data[50_000_000] ^= 1
    for what, change in (("one byte changed in 100 MB", None), ("one byte put before 100 MB", b"x")):
        if change:
            data = change + data
        time.sleep(1.1)
        (t.a / "hundred").write_bytes(data)
        begin = lo_bytes()
        t.up()
        if isinstance(t, Syncthing):
            until(lambda: (t.b / "hundred").read_bytes() == data, 60, 0.5)
        yield f"{what}, kB up", f"{(lo_bytes() - begin) / 1000:.1f}"
        if t.down:
            yield f"{what}, kB down", f"{timed(t.down)[1] / 1000:.1f}"
            if (t.b / "hundred").read_bytes() != data:
                raise RuntimeError("other bytes arrived")


def seen(t):
    if not hasattr(t, "daemons"):
        return
    daemons = t.daemons()
    try:
        (t.a / "begin").write_text("x")
        until(lambda: (t.b / "begin").exists(), 60)
        time.sleep(2)
        took = []
        for n in range(SEEN):
            (t.a / f"seen{n}").write_text(str(n))
            begin = time.time()
            until(lambda: (t.b / f"seen{n}").exists(), 60, 0.005)
            took.append(time.time() - begin)
            time.sleep(random.random())
        took.sort()
        p99 = took[-(len(took) // 100) - 1]  # the worst of up to 99, the second worst of 100
        yield f"change seen elsewhere, s: p50, p99 of {SEEN}", f"{statistics.median(took):.2f}, {p99:.2f}"
        if "idle" in PARTS:
            time.sleep(5)
            begin = lo_bytes()
            time.sleep(IDLE)
            per = (lo_bytes() - begin) / 1000 / (IDLE / 60) / 2
            yield "idle, kB per minute and device", f"{per:.2f}"
    finally:
        for d in daemons:
            stop(d)


def bare():
    """What the directory itself takes: the large file, written and synced."""
    path = DIR / "bare"
    block = noise(1 << 20, 2)
    begin = time.time()
    with open(path, "wb") as f:
        for n in range(MIB):
            f.write(block[n:] + block[:n])
        f.flush()
        os.fsync(f.fileno())
    secs = time.time() - begin
    path.unlink()
    return MIB * 1.048576 / secs


def main():
    shutil.rmtree(CLIENTS, ignore_errors=True)
    CLIENTS.mkdir(parents=True)
    rows = {}
    if "large" in PARTS:
        print(f"bare folder: {MIB} MiB written and synced at {bare():.0f} MB/s", flush=True)
    for name in TOOLS:
        make = {"ours": Ours, "unison": Unison, "syncthing": Syncthing, "rclone": Rclone}[name]
        program = {"ours": BIN, "unison": UNISON, "syncthing": SYNCTHING, "rclone": RCLONE}[name]
        if not shutil.which(program):
            print(f"{name}: {program} is not installed", flush=True)
            continue
        home, there = CLIENTS / name, DIR / f"bench-{name}"
        shutil.rmtree(there, ignore_errors=True)
        home.mkdir()
        there.mkdir(parents=True)
        tool = None
        try:
            tool = make(home, there)
            for part in (small, noop, large, delta, seen):
                if part.__name__ not in PARTS:
                    continue
                try:
                    for what, value in part(tool):
                        print(f"{name}: {what}: {value}", flush=True)
                        rows.setdefault(what, {})[name] = value
                except Exception as e:
                    print(f"{name}: {part.__name__} failed: {e}", flush=True)
        except Exception as e:
            print(f"{name}: {e}", flush=True)
        finally:
            if tool:
                tool.close()
            for p in list(running):
                stop(p)
            shutil.rmtree(there, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)
    print("\n| | " + " | ".join(TOOLS) + " |\n|" + "---|" * (len(TOOLS) + 1))
    for what, values in rows.items():
        print(f"| {what} | " + " | ".join(values.get(n, "-") for n in TOOLS) + " |")


signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
try:
    main()
finally:
    for p in list(running):
        stop(p)
    shutil.rmtree(CLIENTS, ignore_errors=True)
