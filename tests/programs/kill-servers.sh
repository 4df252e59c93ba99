#!/usr/bin/env bash
# kill-servers.sh DATA [ALIAS...]: kills the servers (default: all) of a quickstart with --processes on data
# directory DATA with -9 and starts them again, which is what an operator would do after a crash. They are
# found by their pid files; `quickstart --stop` ends them like those that it started itself.
set -euo pipefail
DATA=$(cd "$1" && pwd)
shift
BIN=${PVFS2_BIN:-$(cd "$(dirname "$0")/../.." && pwd)/target/release/pvfs2}
[ $# -gt 0 ] || set -- $(sed -n 's/^alias *= *"\(.*\)"/\1/p' "$DATA/cluster.toml")
for alias in "$@"; do
    read -r pid _ <"$DATA/run/$alias.pid"
    kill -9 "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
done
for alias in "$@"; do
    setsid "$BIN" server --config "$DATA/cluster.toml" --alias "$alias" >>"$DATA/run/$alias.log" 2>&1 </dev/null &
done
for _ in $(seq 200); do
    "$BIN" ping --fs "$DATA/cluster.toml" >/dev/null 2>&1 && exit 0
    sleep 0.1
done
echo "kill-servers: the servers did not come back within 20 s" >&2
exit 1
