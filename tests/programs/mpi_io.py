"""mpi_io.py DIR: run by mpi_io.sh under mpiexec; each process verifies what the others wrote."""
import os
import sys

import numpy
from mpi4py import MPI

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
base = sys.argv[1]


def pattern(n, who, step):
    return ((numpy.arange(n, dtype=numpy.int64) * 31 + who * 1009 + step * 7919) % 251).astype(numpy.uint8)


def check(what, got, want):
    if not numpy.array_equal(got, want):
        bad = int(numpy.argmax(got != want))
        print(f"rank {rank}: {what}: first wrong byte at {bad}: {got[bad]} instead of {want[bad]}", flush=True)
        comm.Abort(1)


def opened(name, mode=MPI.MODE_RDWR | MPI.MODE_CREATE):
    return MPI.File.Open(comm, os.path.join(base, name), mode)


# Contiguous blocks, independent, then read by the neighbour (through the other mount).
block = 1 << 20
f = opened("blocks")
f.Write_at(rank * block, pattern(block, rank, 0))
f.Sync(); comm.Barrier(); f.Sync()
other = (rank + 1) % size
got = numpy.empty(block, numpy.uint8)
f.Read_at(other * block, got)
check("blocks", got, pattern(block, other, 0))
f.Close()

# Interleaved records: a strided view; collective (two-phase) and independent (data sieving: fcntl locks).
record, count = 1000, 300
for collective in (True, False):
    name = "strided-c" if collective else "strided-i"
    f = opened(name)
    kind = MPI.BYTE.Create_vector(count, record, record * size)
    kind.Commit()
    f.Set_view(rank * record, MPI.BYTE, kind, "native")
    data = pattern(record * count, rank, 1)
    (f.Write_all if collective else f.Write)(data)
    f.Sync(); comm.Barrier(); f.Sync()
    f.Close()
    f = opened(name, MPI.MODE_RDONLY)
    f.Set_view(other * record, MPI.BYTE, kind, "native")
    got = numpy.empty(record * count, numpy.uint8)
    f.Read_all(got)
    check(name, got, pattern(record * count, other, 1))
    f.Close()
    kind.Free()

# Atomic mode: overlapping writes of whole buffers; what is read is one of them, never a mixture.
f = opened("atomic")
f.Set_atomicity(True)
for step in range(10):
    f.Write_at(0, numpy.full(300_000, rank * 16 + step, numpy.uint8))
    got = numpy.empty(300_000, numpy.uint8)
    f.Read_at(0, got)
    if got.min() != got.max():
        print(f"rank {rank}: atomic: step {step}: a mixture of {got.min()} and {got.max()}", flush=True)
        comm.Abort(1)
comm.Barrier()
f.Close()

# A shared file pointer (a hidden file under a lock): every record once.
f = opened("shared")
for step in range(50):
    f.Write_shared(numpy.frombuffer(b"%03d:%03d\n" % (rank, step), numpy.uint8))
f.Sync(); comm.Barrier()
f.Close()
comm.Barrier()
lines = open(os.path.join(base, "shared"), "rb").read().split()
want = sorted(b"%03d:%03d" % (r, s) for r in range(size) for s in range(50))
if sorted(lines) != want:
    print(f"rank {rank}: shared pointer: {len(lines)} records, {len(set(lines) & set(want))} right of {len(want)}", flush=True)
    comm.Abort(1)

comm.Barrier()
if rank == 0:
    print(f"all good: {size} processes, blocks, strided collective and independent, atomic, shared pointer", flush=True)
