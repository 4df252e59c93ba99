#!/usr/bin/env bash
# mpi_io.sh DIR: MPI-IO through ROMIO (PyPI's mpich and mpi4py) by 4 processes, two on each of two mounts of one
# file system: collective and independent writes, strided views (two-phase I/O and data sieving, which lock
# ranges with fcntl), atomic mode, shared file pointers; all of it verified through the other mount.
#
# SECOND  another mount of the same file system (run-all.sh sets it); unset: all processes use DIR
. "$(dirname "$0")/common.sh"
need python3 unshare
[ "$(id -u)" = 0 ] || skip "needs root (a mount namespace for each process)"
VENV=$SHARED/mpi
if [ ! -x "$VENV/bin/mpiexec" ] || ! "$VENV/bin/python" -c 'import mpi4py, numpy' 2>/dev/null; then
    rm -rf "$VENV"
    python3 -m venv "$VENV" && "$VENV/bin/pip" install -q mpich==4.3.2 mpi4py==4.1.2 numpy >"$LOCAL/pip" 2>&1 ||
        skip "mpich, mpi4py and numpy cannot be installed: $(tail -1 "$LOCAL/pip" 2>/dev/null)"
fi
VIEW=$LOCAL/view && mkdir "$VIEW"
WORK2=$WORK
[ -z "${SECOND:-}" ] || WORK2=$SECOND/$(basename "$WORK")
[ -d "$WORK2" ] || fail "$WORK2: the second mount does not show what the first made"
# One path for all, but a mount of its own below it: odd processes look through the second mount.
cat >"$LOCAL/rank.sh" <<X
#!/bin/bash
mount --make-rprivate / && if [ \$((PMI_RANK % 2)) = 0 ]; then mount --bind "$WORK" "$VIEW"; else mount --bind "$WORK2" "$VIEW"; fi && exec "$VENV/bin/python" "$HERE/mpi_io.py" "$VIEW"
X
chmod +x "$LOCAL/rank.sh"
timeout 300 "$VENV/bin/mpiexec" -n 4 unshare -m "$LOCAL/rank.sh" >"$LOCAL/out" 2>&1 || { tail -20 "$LOCAL/out"; fail "the MPI program ended with an error"; }
grep -q '^all good' "$LOCAL/out" || { tail -20 "$LOCAL/out"; fail "it did not run to its end"; }
say "$(grep '^all good' "$LOCAL/out")"
