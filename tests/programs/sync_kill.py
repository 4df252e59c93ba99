#!/usr/bin/env python3
"""What sync_kill.sh runs: a server and two devices, each a process, are killed, starved of room and put an hour
off while somebody edits both folders. In the end both folders and the server hold the same, what was written
last is there (in its file, a conflict copy, the versions or the trash), and what was deleted is not.

    sync_kill.py PVFS2 SCRATCH local|pvfs2     (root's, with /dev/fuse for pvfs2)

local: the server's root is a bind mount of a small tmpfs, and so is one device's folder.
pvfs2: it is on a mount of a file system of processes of its own, of which one I/O server has little room.
In both a user's store is moved to another route at last, which goes away and comes back.
SEED repeats the same wishes; threads and kernel take turns as they like. FAULTS names some faults only.
"""
import glob
import os
import pathlib
import random
import re
import shutil
import signal
import json
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.request

BIN, S, KIND = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), sys.argv[3]
SEED = int(os.environ.get("SEED", time.time_ns() % 10**9))
rng = random.Random(SEED)
print(f"SEED={SEED}", flush=True)
FAKETIME = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
mounts, processes, data = [], [], None


def run(*args, **more):
    return subprocess.run([str(a) for a in args], check=True, timeout=120, **more)


def mount(*args):
    run("mount", *args)
    mounts.append(args[-1])


def unmount(at, *flags):
    run("umount", *flags, at)
    mounts.remove(at)


def start(name, *args, hours=0):
    env = dict(os.environ)
    if hours:
        env |= {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{hours * 3600:+}", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1"}
    log = open(S / f"{name}.log", "ab")
    p = subprocess.Popen([BIN, *map(str, args)], stdout=log, stderr=log, stdin=subprocess.PIPE, env=env,
                         start_new_session=True)
    processes.append(p)
    return p


def end(p, sig=signal.SIGKILL):
    p.send_signal(sig)
    p.wait(60)
    processes.remove(p)


def until(what, f, seconds=120):
    limit = time.time() + seconds
    while not f():
        if time.time() > limit:
            raise SystemExit(f"SEED={SEED}: not within {seconds} s: {what}")
        time.sleep(0.1)


class Pvfs2:
    """A file system of processes, and a mount of it that holds the service's root."""

    def __init__(self):
        global data
        data = S / "data"
        begin = [BIN, "quickstart", "--data", data, "--mount", S / "own", "--processes", "--io", "2", "--detach"]
        run(*begin, stdout=subprocess.DEVNULL)
        run(BIN, "quickstart", "--stop", "--data", data, stdout=subprocess.DEVNULL)
        little, formatted = data / "storage/io1", S / "io1"
        shutil.move(little, formatted)
        little.mkdir()
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", little)
        shutil.copytree(formatted, little, dirs_exist_ok=True)
        run(*begin, stdout=subprocess.DEVNULL)
        found = tomllib.loads((data / "cluster.toml").read_text())
        tcp = next(a for s in found["servers"] for a in s["addresses"] if a.startswith("tcp://"))
        self.spec = f"{tcp}/{found['filesystem']['name']}"
        self.at = S / "mnt"
        self.at.mkdir()
        self.mount()
        self.root = self.at / "user"

    def mount(self):
        self.process = start("mount", "mount", "--foreground", self.spec, self.at)
        until("the mount", lambda: os.path.ismount(self.at))
        mounts.append(self.at)

    def gone(self):
        end(self.process)
        unmount(self.at, "-l")

    def back(self):
        self.mount()


class Local:
    """A bind mount of a small tmpfs."""

    def __init__(self):
        (S / "small").mkdir()
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", S / "small")
        self.store, self.root = S / "small/store", S / "root"
        self.store.mkdir()
        self.root.mkdir()
        mount("--bind", self.store, self.root)

    def gone(self):
        unmount(self.root, "-l")

    def back(self):
        mount("--bind", self.store, self.root)


class Service:
    def __init__(self, place):
        self.place = place
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.store = place.root
        place.root.mkdir(exist_ok=True)
        self.start(first=["--init"])
        told = lambda: re.search(r"password (\S+)", (S / "server.log").read_text())
        until("the password", told)
        self.password = told()[1]
        shutil.copy(place.root / ".sync/cert.pem", S / "cert.pem")

    def start(self, hours=0, first=()):
        self.process = start("server", "sync", "serve", "--root", self.place.root, "--listen",
                             f"127.0.0.1:{self.port}", *first, hours=hours)

    def end(self, sig=signal.SIGKILL):
        end(self.process, sig)

    def ask(self, method, path, body=None, token=None):
        trust = ssl.create_default_context(cafile=S / "cert.pem")
        head = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}/api/v1{path}", method=method, headers=head,
                                         data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, context=trust, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def move(self, name, path):
        """Makes a route and moves the administrator's store there."""
        token = self.ask("POST", "/login", {"user": "admin", "password": self.password, "device": "mover"})["token"]
        to = self.ask("POST", "/admin/routes", {"name": name, "path": str(path)}, token)["id"]
        user = next(u["id"] for u in self.ask("GET", "/admin/users", token=token) if u["name"] == "admin")
        self.ask("POST", f"/admin/users/{user}/move", {"route": to}, token)
        jobs = lambda: self.ask("GET", "/admin/jobs", token=token)
        until("the end of the move", lambda: all(j["ended_ms"] for j in jobs()))
        if not all(j["ok"] for j in jobs()):
            raise SystemExit(f"the store was not moved: {jobs()}")
        self.store = pathlib.Path(path)


class Device:
    def __init__(self, name, service, below):
        self.name, self.folder, self.state = name, below / f"{name}.folder", below / f"{name}.state"
        run(BIN, "sync", "setup", "--state", self.state, "--server", f"https://127.0.0.1:{service.port}", "--ca",
            S / "cert.pem", "--user", "admin", "--device", name, "--folder", self.folder,
            input=(service.password + "\n").encode(), stdout=subprocess.DEVNULL)
        self.mine, self.gone, self.shared, self.count = {}, set(), {}, 0
        self.start()

    def start(self, hours=0):
        self.process = start(self.name, "sync", "daemon", "--state", self.state, "--every", "5", hours=hours)

    def end(self, sig=signal.SIGKILL):
        end(self.process, sig)

    def write(self, path, text):
        """As editors do: beside it, then in its place."""
        new, at = self.folder.parent / f"{self.name}.new", self.folder / path
        try:
            at.parent.mkdir(exist_ok=True)
            with open(new, "w") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(new, at)
            return True
        except OSError:  # no room
            new.unlink(missing_ok=True)
            return False

    def edit(self):
        self.count += 1
        text = f"{self.name} {self.count}\n" + "x" * rng.choice((0, 100, 5000, 300_000 if rng.random() < 0.1 else 1))
        what = rng.random()
        if what < 0.25:
            name = f"shared/{self.count // 6}"
            if self.write(name, text):
                self.shared[name] = text
        elif what < 0.7 or len(self.mine) < 10:
            name = f"d{rng.randrange(5)}/{self.name}{self.count}" if what < 0.55 or not self.mine else rng.choice(list(self.mine))
            if self.write(name, text):
                self.mine[name] = text
        elif what < 0.85:
            name, to = rng.choice(list(self.mine)), f"d{rng.randrange(5)}/{self.name}moved{self.count}"
            (self.folder / to).parent.mkdir(exist_ok=True)
            os.rename(self.folder / name, self.folder / to)
            self.mine[to] = self.mine.pop(name)
        elif what < 0.9:
            name = rng.choice(list(self.mine))
            (self.folder / name).unlink()
            self.gone.add(self.mine.pop(name))


def tree(folder):
    found = {}
    for d, dirs, files in os.walk(folder):
        dirs[:] = [n for n in dirs if n != ".pvfs2-sync"]
        for f in files:
            at = pathlib.Path(d) / f
            try:
                found[str(at.relative_to(folder))] = at.read_text(errors="replace")
            except OSError:
                pass  # taken away meanwhile
    return found


def edits(devices, seconds):
    limit = time.time() + seconds
    while time.time() < limit:
        rng.choice(devices).edit()
        time.sleep(rng.random() * 0.15)


def fill(folder):
    """Takes all room there is."""
    with open(folder / "ballast", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(1 << 16))
        except OSError:
            pass
    return folder / "ballast"


def faults(place, service, devices):
    """Each: a name, and what happens while edits go on."""
    a, b = devices
    pause = lambda s=1.0: edits(devices, s * (0.3 + rng.random()))

    def kill_server():
        for _ in range(3):
            pause()
            service.end()
            pause(0.5)
            service.start()

    def kill_daemon():
        for d in (a, b, a):
            pause()
            d.end()
            pause(0.5)
            d.start()

    def kill_all():
        for one in (a, b, service):
            one.end()
        pause()
        for one in (b, service, a):
            one.start()
            pause(0.3)

    def clock():
        for one, hours in ((service, -1), (a, 1), (service, 1), (b, -1), (service, 0)):
            one.end(signal.SIGTERM)
            one.start(hours)
            pause(1.5)

    def mount_gone():
        pause()
        place.gone()
        pause(2)
        place.back()
        pause(2)

    def full(folder, said):
        def f():
            pause()
            ballast = fill(folder)
            pause(3)
            ballast.unlink()
            pause()
        f.__name__ = said
        return f

    yield from (kill_server, kill_daemon, kill_all)
    if FAKETIME:
        yield clock
    else:
        print("clock: skipped: faketime is not installed", flush=True)
    yield mount_gone
    if KIND == "local":
        yield full(S / "small", "server_full")
        yield full(S / "device", "device_full")
    else:
        def io_server_killed():
            pause()
            pid = int((data / "run/io0.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            pause(2)
            with open(data / "run/io0.log", "ab") as log:
                subprocess.Popen([BIN, "server", "--config", data / "cluster.toml", "--alias", "io0"], stdout=log,
                                 stderr=log, start_new_session=True)
            pause(2)
        yield io_server_killed
        yield mount_gone

        def io_server_full():
            pause()
            ballast = fill(place.at)
            # More than what is kept back for those who are writing already.
            if not a.write("large", "y" * (12 << 20)):
                raise SystemExit("the device has no room")
            a.mine["large"] = "y" * (12 << 20)
            until("the device's word of it", lambda: "no room" in told(a), 60)
            pause(3)
            ballast.unlink()
            pause()
        yield io_server_full

    def route_gone():
        there, other = S / "route", S / "route.other"
        other.mkdir()
        there.mkdir()
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", other)
        mount("--bind", other, there)
        service.move("other", there)
        pause(2)
        had = [len(tree(d.folder)) for d in devices]
        unmount(there, "-l")
        # A store that is away is no store that is empty: devices wait.
        until("the device's word of it", lambda: "503" in told(a), 60)
        pause(3)
        for d, n in zip(devices, had):
            if len(tree(d.folder)) < n - 10:
                raise SystemExit(f"{d.name} had {n} files, and has {len(tree(d.folder))}")
        if os.listdir(there):
            raise SystemExit(f"something began on the bare mount point: {os.listdir(there)}")
        mount("--bind", other, there)
        pause(2)
    yield route_gone


def told(device):
    return subprocess.run([BIN, "sync", "status", "--state", device.state], capture_output=True, text=True).stdout


def everywhere(service, devices):
    """What is kept in the server's versions and trash too."""
    own = service.store / ".sync"
    texts = {p.read_text(errors="replace") for area in ("versions", "trash", "foreign")
             for p in own.glob(f"*/{area}/**/*") if p.is_file()}
    return texts.union(tree(service.store / "admin").values())


def main():
    place = Pvfs2() if KIND == "pvfs2" else Local()
    service = Service(place)
    there = S / "device"
    there.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", there)
    devices = [Device("a", service, S), Device("b", service, there)]
    edits(devices, 2)
    wanted = os.environ.get("FAULTS", "").split()
    for fault in faults(place, service, devices):
        if wanted and fault.__name__ not in wanted:
            continue
        begin = time.time()
        fault()
        a, b = devices
        same = lambda: tree(a.folder) == tree(b.folder) == tree(service.store / "admin")
        until(f"all the same after {fault.__name__}", same)
        print(f"{fault.__name__}: the same everywhere after {time.time() - begin:.0f} s", flush=True)
        check(service, devices, fault.__name__)
    for one in devices:
        one.end(signal.SIGTERM)
    service.end(signal.SIGTERM)
    for log in S.glob("*.log"):
        text = log.read_text()
        if "panicked" in text or KIND == "local" and "request failed" in text:
            raise SystemExit(f"SEED={SEED}: a panic or an internal error, see {log}")
    a, b = devices
    print(f"all good: {a.count + b.count} edits, {len(tree(a.folder))} files, {len(a.gone | b.gone)} deleted")


def check(service, devices, after):
    kept, now = everywhere(service, devices), tree(devices[0].folder)
    texts, wrong = set(now.values()), []
    for d in devices:
        wrong += [f"{n} of {d.name} is lost" for n, t in d.mine.items() if t not in texts]
        wrong += [f"a version of {n} by {d.name} is lost" for n, t in d.shared.items() if t not in kept]
        wrong += [f"{n} came back" for n, t in now.items() if t in d.gone]
    if wrong:
        raise SystemExit(f"SEED={SEED}: after {after}: {wrong}")


try:
    main()
finally:
    for p in list(processes):
        p.kill()
        p.wait()
    for at in reversed(list(mounts)):
        subprocess.run(["umount", "-l", str(at)])
    if data:
        subprocess.run([BIN, "quickstart", "--stop", "--data", str(data)], timeout=60, stdout=subprocess.DEVNULL)
