//! The tables of one user's database. Version 1.
use crate::error::{Result, SyncError};
use crate::tree::ROOT;
use rusqlite::Connection;

const VERSION: i64 = 1;

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
        0 => {
            let tx = db.unchecked_transaction()?;
            tx.execute_batch(TABLES)?;
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
