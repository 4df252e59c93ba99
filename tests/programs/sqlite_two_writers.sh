#!/usr/bin/env bash
# sqlite_two_writers.sh DIR [DIR2]: two processes write one database at once, with a rollback journal and
# with a write-ahead log (shared memory through mmap); no row is lost and the database is whole. With
# DIR2, the same directory through another mount, one of them goes that way, with a rollback journal
# only: shared memory does not reach over mounts.
. "$(dirname "$0")/common.sh"
need sqlite3
ROWS=${SQLITE_ROWS:-150}
SECOND=$WORK modes="delete wal"
if [ $# -gt 1 ]; then
    SECOND=$(cd "$2" && pwd)/$(basename "$WORK") modes=delete
    # The other mount may have looked before.
    for _ in $(seq 50); do [ -d "$SECOND" ] && break; sleep 0.1; done
    [ -d "$SECOND" ] || fail "$2 is not another mount of $1"
fi
for mode in $modes; do
    db=$WORK/$mode.db
    sqlite3 "$db" "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT, n INTEGER, UNIQUE(who, n));" >/dev/null
    pids=()
    for who in a b; do
        (
            [ $who = a ] || db=$SECOND/$mode.db
            for n in $(seq "$ROWS"); do
                echo "BEGIN IMMEDIATE; INSERT INTO t(who, n) VALUES('$who', $n); COMMIT;"
            done | sqlite3 -bail -cmd '.timeout 60000' "$db" >/dev/null
        ) &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || fail "$mode: a writer failed"; done
    n=$(sqlite3 "$db" 'SELECT count(*) FROM t')
    [ "$n" = $((2 * ROWS)) ] || fail "$mode: $n rows instead of $((2 * ROWS))"
    ok=$(sqlite3 "$db" 'PRAGMA integrity_check')
    [ "$ok" = ok ] || fail "$mode: $ok"
done
say "2 writers x $ROWS rows: $modes"
