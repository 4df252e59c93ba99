#!/usr/bin/env bash
# pjd-all.sh: pjdfstest over 3 metadata servers, first with the default timeouts, then with both at 0,
# each on a quickstart cluster of its own (run-all.sh, whose variables hold here too). PJD_REMOUNT=1:
# also the tests that remount.
set -uo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
bad=0
for options in "" "-o acache-ms=0,ncache-ms=0"; do
    echo "pjd-all: 3 metadata servers, ${options:-default timeouts}"
    QUICKSTART_ARGS="--meta 3 $options" "$HERE/run-all.sh" pjdfstest || bad=$((bad + 1))
done
[ $bad = 0 ] || { echo "pjd-all: FAILED in $bad of 2 configurations" >&2; exit 1; }
echo "pjd-all: passed in both configurations"
