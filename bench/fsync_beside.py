#!/usr/bin/env python3
"""fsync_beside.py DIR_A DIR_B MIB ROUNDS: how long the fsync of a large file takes, and what it does to others.

Writes MIB mebibytes to DIR_A in 1 MiB writes and syncs them, while a thread writes and syncs 128 KiB in
DIR_B again and again. Prints a line per round.
"""
import os
import sys
import threading
import time

if len(sys.argv) != 5:
    sys.exit(__doc__)
dir_a, dir_b, mib, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
piece = os.urandom(1 << 20)


def beside(stop, took):
    i = 0
    while not stop.is_set():
        fd = os.open(f"{dir_b}/beside.{i % 8}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.write(fd, piece[: 128 << 10])
        begin = time.perf_counter()
        os.fsync(fd)
        took.append(time.perf_counter() - begin)
        os.close(fd)
        i += 1
        time.sleep(0.05)


for _ in range(rounds):
    stop, took, slowest = threading.Event(), [], 0.0
    thread = threading.Thread(target=beside, args=(stop, took))
    thread.start()
    fd = os.open(f"{dir_a}/large", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    begin = time.perf_counter()
    for _ in range(mib):
        one = time.perf_counter()
        os.write(fd, piece)
        slowest = max(slowest, time.perf_counter() - one)
    written = time.perf_counter()
    os.fsync(fd)
    synced = time.perf_counter()
    os.close(fd)
    stop.set()
    thread.join()
    took.sort()
    print(
        f"write {mib} MiB {written - begin:.2f} s ({mib / (written - begin):.0f} MiB/s, slowest MiB "
        f"{slowest * 1e3:.0f} ms), fsync {synced - written:.2f} s; beside {len(took)} fsyncs: median "
        f"{took[len(took) // 2] * 1e3:.0f} ms, 90 % {took[int(len(took) * 0.9)] * 1e3:.0f} ms, most "
        f"{took[-1] * 1e3:.0f} ms",
        flush=True,
    )
    os.unlink(f"{dir_a}/large")
for i in range(8):
    if os.path.exists(f"{dir_b}/beside.{i}"):
        os.unlink(f"{dir_b}/beside.{i}")
