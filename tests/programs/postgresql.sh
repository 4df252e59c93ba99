#!/usr/bin/env bash
# postgresql.sh DIR: PostgreSQL with its data directory on the file system: initdb (with checksums), pgbench,
# kill -9 of all file servers and of PostgreSQL in the middle, then: every transaction that pgbench's clients
# saw committed is there, pg_amcheck and the page checksums find nothing.
#
# PG_ROUNDS     kill rounds (default 2)
# PG_SECONDS    seconds of load before each kill (default 6)
# KILL_SERVERS  a command that kills all file servers with -9 and starts them again; run-all.sh sets it.
#               Unset: only PostgreSQL is killed.
. "$(dirname "$0")/common.sh"
PG=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -n "$PG" ] && [ -x "$PG/initdb" ] || skip "PostgreSQL's server is not installed"
[ "$(id -u)" = 0 ] || skip "needs root (PostgreSQL itself runs as user postgres)"
id postgres >/dev/null 2>&1 || skip "there is no user postgres"
chmod 755 "$WORK" "$LOCAL" "$SHARED"
mkdir "$WORK/data" && chown postgres "$WORK/data" && chmod 700 "$WORK/data"
sock=$LOCAL/sock && mkdir "$sock" && chown postgres "$sock"
as() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env PATH="$PG:$PATH" HOME=/tmp LC_ALL=C.UTF-8 "$@"); }
port=$((20000 + RANDOM % 20000))
sql() { as psql -h "$sock" -p $port -d "$1" -v ON_ERROR_STOP=1 -XAtqc "$2"; }
cleanup() {
    local pid
    pid=$(head -1 "$WORK/data/postmaster.pid" 2>/dev/null) || return 0
    [ -n "$pid" ] && kill -INT "$pid" 2>/dev/null && for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    return 0
}
start_pg() {
    # A killed postmaster leaves its pid file; its children go when they notice.
    for _ in $(seq 100); do
        as pg_ctl -D "$WORK/data" -w -t 60 -l "$LOCAL/pg.log" \
            -o "-p $port -k $sock -c listen_addresses= -c shared_buffers=32MB" start >"$LOCAL/ctl" 2>&1 && return 0
        sleep 0.3
    done
    tail -5 "$LOCAL/pg.log"
    fail "PostgreSQL does not start"
}
touch "$LOCAL/pg.log" && chown postgres "$LOCAL/pg.log"
as initdb -D "$WORK/data" -k -A trust -U postgres >"$LOCAL/initdb" 2>&1 || { tail "$LOCAL/initdb"; fail "initdb"; }
start_pg
sql postgres 'CREATE DATABASE bench' && as pgbench -h "$sock" -p $port -i -s 2 -q bench >"$LOCAL/out" 2>&1 || { tail "$LOCAL/out"; fail "pgbench -i"; }
sql bench 'CREATE TABLE seen(client int, n bigint, PRIMARY KEY (client, n)); CREATE EXTENSION amcheck'

# A client that notes what it saw committed, outside the file system: after every COMMIT that returned.
committer() { # CLIENT FILE FROM
    local n=$3
    while sql bench "INSERT INTO seen VALUES($1, $n)" >/dev/null 2>&1; do
        echo "$n" >>"$2"
        n=$((n + 1))
    done
}
for round in $(seq "${PG_ROUNDS:-2}"); do
    clients=()
    for c in 1 2; do
        last=$(tail -1 "$LOCAL/seen.$c" 2>/dev/null || true)
        # One may have been committed unseen by a killed round.
        committer $c "$LOCAL/seen.$c" $((${last:-0} + 2)) &
        clients+=($!)
    done
    as pgbench -h "$sock" -p $port -n -c 4 -T $((${PG_SECONDS:-6} + 60)) bench >"$LOCAL/pgbench.$round" 2>&1 &
    clients+=($!)
    sleep "${PG_SECONDS:-6}"
    if [ -n "${KILL_SERVERS:-}" ] && [ $((round % 2)) = 1 ]; then
        # The file servers die under it; PostgreSQL waits for them and goes on.
        bash -c "$KILL_SERVERS" || fail "the file servers were not started again"
        sleep "${PG_SECONDS:-6}"
    fi
    pm=$(head -1 "$WORK/data/postmaster.pid")
    # Stopped, it makes no child that would be missed, and would wait for ever for what the killed ones hold.
    kill -STOP "$pm"
    pids=$(ps -o pid= --ppid "$pm" || true)
    # shellcheck disable=SC2086  # several words on purpose
    kill -9 "$pm" $pids 2>/dev/null || true
    [ -z "${KILL_SERVERS:-}" ] || bash -c "$KILL_SERVERS" || fail "the file servers were not started again"
    wait "${clients[@]}" 2>/dev/null || true
    start_pg
    for c in 1 2; do
        [ -s "$LOCAL/seen.$c" ] || fail "round $round: client $c committed nothing: PostgreSQL did not get on"
        sql bench "SELECT n FROM seen WHERE client = $c" | LC_ALL=C sort >"$LOCAL/there"
        lost=$(LC_ALL=C sort "$LOCAL/seen.$c" | LC_ALL=C comm -23 - "$LOCAL/there" | wc -l)
        [ "$lost" = 0 ] || fail "round $round: $lost committed transactions of client $c are lost"
    done
    as pg_amcheck -h "$sock" -p $port --heapallindexed bench >"$LOCAL/amcheck" 2>&1 || { tail "$LOCAL/amcheck"; fail "round $round: pg_amcheck"; }
    sum=$(sql bench 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)')
    [ "$sum" = t ] || fail "round $round: pgbench's sums differ"
done
cleanup
as pg_checksums -D "$WORK/data" --check >"$LOCAL/sums" 2>&1 || { tail "$LOCAL/sums"; fail "pg_checksums"; }
say "${PG_ROUNDS:-2} kill rounds, $(cat "$LOCAL"/seen.* | wc -l) commits noted, none lost; pg_amcheck and checksums clean"
