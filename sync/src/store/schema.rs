//! The tables of one user's database. Version 4: with properties of WebDAV clients
//! and the sums that they compare, and an index of conflict copies.
use crate::error::{Result, SyncError};
use crate::tree::ROOT;
use rusqlite::Connection;

const VERSION: i64 = 4;

const TABLES: &str = "
CREATE TABLE meta (k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE text (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
-- one row per file or directory; kind 1 is a directory; deleted is the revision that deleted it
CREATE TABLE node (
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, fold TEXT NOT NULL,
    kind INTEGER NOT NULL, generation INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0,
    mtime_ns INTEGER NOT NULL DEFAULT 0, exec INTEGER NOT NULL DEFAULT 0, hash BLOB NOT NULL,
    rev INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0, deleted_ms INTEGER NOT NULL DEFAULT 0,
    trash INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX node_place ON node (parent, fold) WHERE deleted = 0;
CREATE UNIQUE INDEX node_rev ON node (rev);
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, node INTEGER NOT NULL, op TEXT NOT NULL, who TEXT NOT NULL,
    at_ms INTEGER NOT NULL);
CREATE TABLE device (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, acked INTEGER NOT NULL, seen_ms INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE version (
    node INTEGER NOT NULL, rev INTEGER NOT NULL, size INTEGER NOT NULL, hash BLOB NOT NULL,
    mtime_ns INTEGER NOT NULL, exec INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (node, rev)) WITHOUT ROWID;
CREATE TABLE upload (
    id TEXT PRIMARY KEY, parent INTEGER NOT NULL, name TEXT NOT NULL, node INTEGER NOT NULL,
    rev INTEGER NOT NULL, size INTEGER NOT NULL, hash TEXT NOT NULL, mtime_ns INTEGER NOT NULL,
    exec INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE done (key TEXT PRIMARY KEY, reply TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE redo (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT NOT NULL);
INSERT INTO meta VALUES ('rev', 1), ('used', 0), ('horizon', 0), ('node', 1);
";

/// What version 2 has more than version 1.
const SINCE_2: &str = "
-- what WebDAV clients keep with a node: XML as they sent it
CREATE TABLE prop (
    node INTEGER NOT NULL, ns TEXT NOT NULL, name TEXT NOT NULL, xml BLOB NOT NULL,
    PRIMARY KEY (node, ns, name)) WITHOUT ROWID;
CREATE INDEX node_trash ON node (deleted_ms) WHERE trash = 1;
CREATE INDEX version_age ON version (at_ms);
";

/// What version 3 has more than version 2, of which only days existed.
const SINCE_3: &str = "
DROP TABLE IF EXISTS sum;
-- sums of contents that came through WebDAV, by their BLAKE3, as ownCloud tells them: 'SHA1:... MD5:...'
CREATE TABLE sum (hash BLOB PRIMARY KEY, sums TEXT NOT NULL) WITHOUT ROWID;
";

/// What version 4 has more than version 3.
const SINCE_4: &str = "
CREATE INDEX node_conflict ON node (id) WHERE deleted = 0 AND instr(name, ' (conflict ') > 0;
";

/// Sets the connection up, and makes the tables in a new database.
pub fn apply(db: &Connection, epoch: &str) -> Result<()> {
    db.set_prepared_statement_cache_capacity(64);
    db.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;",
    )?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    match version {
        VERSION => Ok(()),
        1..VERSION => {
            let tx = db.unchecked_transaction()?;
            for (since, sql) in [(2, SINCE_2), (3, SINCE_3), (4, SINCE_4)] {
                if version < since {
                    tx.execute_batch(sql)?;
                }
            }
            tx.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
            Ok(tx.commit()?)
        }
        0 => {
            let tx = db.unchecked_transaction()?;
            tx.execute_batch(TABLES)?;
            tx.execute_batch(SINCE_2)?;
            tx.execute_batch(SINCE_3)?;
            tx.execute_batch(SINCE_4)?;
            tx.execute("INSERT INTO text VALUES ('epoch', ?1)", [epoch])?;
            tx.execute(
                "INSERT INTO node (id, parent, name, fold, kind, hash, rev) \
                 VALUES (?1, ?1, '', '', 1, zeroblob(32), 1)",
                [ROOT],
            )?;
            tx.execute_batch(&format!("PRAGMA user_version = {VERSION}"))?;
            tx.commit()?;
            Ok(())
        }
        other => Err(SyncError::Invalid(format!(
            "the database has version {other}, this program knows {VERSION}: use a newer one"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_an_older_version_is_taken_over() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(TABLES).unwrap();
        db.execute("INSERT INTO text VALUES ('epoch', 'old')", []).unwrap();
        db.execute_batch("PRAGMA user_version = 1").unwrap();
        apply(&db, "new").unwrap();
        apply(&db, "new").unwrap();
        let epoch: String = db.query_row("SELECT v FROM text", [], |r| r.get(0)).unwrap();
        let sums: i64 = db.query_row("SELECT count(*) FROM sum", [], |r| r.get(0)).unwrap();
        assert_eq!((epoch.as_str(), sums), ("old", 0));
        db.execute_batch(&format!("PRAGMA user_version = {}", VERSION + 1)).unwrap();
        assert!(apply(&db, "new").is_err(), "a newer one is not touched");
    }
}
