//! One user's store: the table of nodes (SQLite) and the plain files, kept in step. It is the only
//! writer of both; whoever holds a `Store` is that user's worker.
//!
//! A change is one transaction that alters the nodes and notes what must happen to the files
//! (`redo.rs`); then the files are changed; then the note is struck out. After a crash the notes are
//! carried out again before anything else, and each of them may be carried out twice. Bytes are durable
//! before the transaction that names them. What lies in the tree without the store's knowledge is never
//! overwritten or deleted: it is moved to `foreign/`.
//!
//! | step | crash before it | crash after it |
//! |---|---|---|
//! | bytes to `tmp/`, synced, hash checked | the upload goes on or is dropped | as before |
//! | transaction: node, revision, note | nothing happened | carried out at the next start |
//! | files renamed | as above | the same again does nothing |
//! | note struck out | as above | done |
mod activity;
mod expire;
pub mod held;
mod ops;
mod props;
mod redo;
mod schema;
mod small;
mod trash;
mod upload;
mod vaults;

pub use activity::Activity;
pub use expire::{Ages, Expired};
pub use props::Prop;
pub use small::{Staged, reply, stage};
pub use upload::Progress;

use crate::api::{Changes, NodeInfo};
use crate::error::{Result, SyncError};
use crate::files::{Files, join};
use crate::names;
use crate::tree::{Kind, NodeId, ROOT};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::sync::Arc;

/// How many changes one answer carries.
pub const CHANGES_MAX: usize = 2_000;
/// How many old versions of one file are kept.
pub const VERSIONS_MAX: usize = 20;

/// Milliseconds since 1970; a parameter, so that a simulation can set it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One user's files and the table about them.
pub struct Store {
    db: Connection,
    files: Arc<dyn Files>,
    clock: Clock,
    epoch: String,
    quota: Option<u64>,
    held: Option<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

const NODE: &str = "id, parent, name, kind, size, mtime_ns, exec, hash, rev, deleted";

fn node_of(row: &Row) -> rusqlite::Result<NodeInfo> {
    let kind = if row.get::<_, i64>(3)? == 1 { Kind::Dir } else { Kind::File };
    Ok(NodeInfo {
        id: row.get(0)?,
        parent: row.get(1)?,
        name: row.get(2)?,
        kind,
        size: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
        mtime_ns: row.get(5)?,
        exec: row.get(6)?,
        hash: NodeInfo::hash_text(kind, &row.get::<_, [u8; 32]>(7)?),
        rev: row.get(8)?,
        deleted: row.get::<_, i64>(9)? != 0,
    })
}

fn to_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn lookup(db: &Connection, id: NodeId) -> Result<Option<NodeInfo>> {
    let mut q = db.prepare_cached(&format!("SELECT {NODE} FROM node WHERE id = ?1"))?;
    Ok(q.query_row([id], node_of).optional()?)
}

/// A node that is alive.
fn live(db: &Connection, id: NodeId) -> Result<NodeInfo> {
    match lookup(db, id)? {
        Some(n) if !n.deleted => Ok(n),
        Some(n) => Err(SyncError::NotFound(format!("{:?} was deleted", n.name))),
        None => Err(SyncError::NotFound(format!("node {id}"))),
    }
}

/// A node that is alive and at the revision that the caller saw.
fn at_rev(db: &Connection, id: NodeId, rev: i64) -> Result<NodeInfo> {
    let node = live(db, id)?;
    if id == ROOT {
        return Err(SyncError::Invalid("the user's own folder cannot be changed".into()));
    }
    if node.rev == rev {
        Ok(node)
    } else {
        Err(SyncError::Stale(format!("{:?} is at revision {}, not {rev}", node.name, node.rev)))
    }
}

/// Whoever holds a name in a directory.
fn holder(db: &Connection, parent: NodeId, name: &str) -> Result<Option<NodeInfo>> {
    let sql = format!("SELECT {NODE} FROM node WHERE parent = ?1 AND fold = ?2 AND deleted = 0");
    let mut q = db.prepare_cached(&sql)?;
    Ok(q.query_row(params![parent, names::fold(name)], node_of).optional()?)
}

/// Checks that `parent` can take a new entry of this name, other than `not` itself.
fn room_for(db: &Connection, parent: NodeId, name: &str, not: NodeId) -> Result<()> {
    names::check(name).map_err(SyncError::Invalid)?;
    let dir = live(db, parent)?;
    if dir.kind != Kind::Dir {
        return Err(SyncError::Invalid(format!("{:?} is no directory", dir.name)));
    }
    match holder(db, parent, name)? {
        Some(other) if other.id != not => {
            Err(SyncError::Taken(format!("{:?} by {:?}", name, other.name)))
        }
        _ => Ok(()),
    }
}

/// A live node's path in the tree.
fn path_of(db: &Connection, id: NodeId) -> Result<String> {
    let mut path = String::new();
    let mut at = id;
    for _ in 0..=names::DEPTH_MAX {
        if at == ROOT {
            return Ok(path);
        }
        let node = live(db, at)?;
        path = if path.is_empty() { node.name } else { join(&node.name, &path) };
        at = node.parent;
    }
    Err(SyncError::Invalid(format!("nested deeper than {} directories", names::DEPTH_MAX)))
}

/// The live entries of a directory, directories first, by name.
fn children(db: &Connection, parent: NodeId) -> Result<Vec<NodeInfo>> {
    let sql = format!(
        "SELECT {NODE} FROM node WHERE parent = ?1 AND deleted = 0 AND id <> {ROOT} \
         ORDER BY kind DESC, fold"
    );
    let mut q = db.prepare_cached(&sql)?;
    Ok(q.query_map([parent], node_of)?.collect::<rusqlite::Result<Vec<_>>>()?)
}

/// What was answered to the request with this key.
fn done_before(db: &Connection, key: &str) -> Result<Option<NodeInfo>> {
    if key.is_empty() {
        return Ok(None);
    }
    let mut q = db.prepare_cached("SELECT reply FROM done WHERE key = ?1")?;
    let text: Option<String> = q.query_row([key], |r| r.get(0)).optional()?;
    Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
}

/// The next revision, taken within the transaction that uses it.
fn next_rev(tx: &Transaction) -> Result<i64> {
    let sql = "UPDATE meta SET v = v + 1 WHERE k = 'rev' RETURNING v";
    Ok(tx.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

/// Adds to the bytes that count against the quota: files, versions and trash (trap 14).
fn charge(tx: &Transaction, bytes: i64) -> Result<()> {
    tx.prepare_cached("UPDATE meta SET v = v + ?1 WHERE k = 'used'")?.execute([bytes])?;
    Ok(())
}

fn journal(tx: &Transaction, rev: i64, node: NodeId, op: &str, who: &str, ms: i64) -> Result<()> {
    let sql = "INSERT INTO journal (seq, node, op, who, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.prepare_cached(sql)?.execute(params![rev, node, op, who, ms])?;
    Ok(())
}

impl Store {
    /// Opens the store and finishes what a crash interrupted. `epoch` names the history if the
    /// database is new.
    ///
    /// # Errors
    /// Database and I/O; [`SyncError::RootLost`] if the folder is not the one that it was.
    pub fn open(
        db: Connection,
        files: Arc<dyn Files>,
        clock: Clock,
        epoch: &str,
        quota: Option<u64>,
    ) -> Result<Self> {
        schema::apply(&db, epoch)?;
        let epoch = db.query_row("SELECT v FROM text WHERE k = 'epoch'", [], |r| r.get(0))?;
        let mut store = Self { db, files, clock, epoch, quota, held: None };
        store.files.check_root()?;
        store.recover()?;
        store.drop_stale_uploads()?;
        store.drop_stale_small()?;
        Ok(store)
    }

    /// Gives the database back, as a process leaves it when it ends.
    #[must_use]
    pub fn into_db(self) -> Connection {
        self.db
    }

    /// Sets how many bytes the user may keep, versions and trash included.
    pub fn set_quota(&mut self, quota: Option<u64>) {
        self.quota = quota;
    }

    /// Bytes that count against the quota, and the quota.
    ///
    /// # Errors
    /// Database.
    pub fn usage(&self) -> Result<(u64, Option<u64>)> {
        let used: i64 =
            self.db.query_row("SELECT v FROM meta WHERE k = 'used'", [], |r| r.get(0))?;
        Ok((u64::try_from(used).unwrap_or(0), self.quota))
    }

    /// The newest revision and the name of this history.
    ///
    /// # Errors
    /// Database.
    pub fn head(&self) -> Result<(i64, &str)> {
        let rev = self.db.query_row("SELECT v FROM meta WHERE k = 'rev'", [], |r| r.get(0))?;
        Ok((rev, &self.epoch))
    }

    /// Begins another history, after a backup was loaded: devices then merge and delete nothing
    /// (trap 7).
    ///
    /// # Errors
    /// Database.
    pub fn new_epoch(&mut self, epoch: &str) -> Result<()> {
        held::begin_history(&self.db, epoch)?;
        epoch.clone_into(&mut self.epoch);
        Ok(())
    }

    /// What changed after revision `since` in history `epoch` (empty: from the beginning).
    ///
    /// # Errors
    /// [`SyncError::Epoch`] if that history or revision is not ours, or if deleted marks after it have
    /// been dropped already: then the device must begin anew, deleting nothing.
    pub fn changes(&self, epoch: &str, since: i64) -> Result<Changes> {
        let (head, _) = self.head()?;
        let horizon: i64 =
            self.db.query_row("SELECT v FROM meta WHERE k = 'horizon'", [], |r| r.get(0))?;
        let anew = epoch.is_empty() && since == 0;
        if !anew && (epoch != self.epoch || since > head || since < horizon) {
            return Err(SyncError::Epoch);
        }
        let sql = format!(
            "SELECT {NODE} FROM node WHERE rev > ?1 AND id <> {ROOT} ORDER BY rev LIMIT {}",
            CHANGES_MAX + 1
        );
        let mut q = self.db.prepare_cached(&sql)?;
        let mut nodes = q.query_map([since], node_of)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = nodes.len() > CHANGES_MAX;
        nodes.truncate(CHANGES_MAX);
        let next = if more { nodes.last().map_or(since, |n| n.rev) } else { head };
        Ok(Changes { epoch: self.epoch.clone(), next, more, nodes })
    }

    /// A node, also one that was deleted.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn node(&self, id: NodeId) -> Result<NodeInfo> {
        lookup(&self.db, id)?.ok_or_else(|| SyncError::NotFound(format!("node {id}")))
    }

    /// The path of a live node.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn path(&self, id: NodeId) -> Result<String> {
        path_of(&self.db, id)
    }

    /// The live entries of a directory, directories first, by name.
    ///
    /// # Errors
    /// Database.
    pub fn children(&self, parent: NodeId) -> Result<Vec<NodeInfo>> {
        live(&self.db, parent)?;
        children(&self.db, parent)
    }

    /// Every live node, for a complete table.
    ///
    /// # Errors
    /// Database.
    pub fn conflicts(&self) -> Result<Vec<(NodeInfo, String)>> {
        let sql = format!(
            "SELECT {NODE} FROM node WHERE deleted = 0 AND name LIKE '% (conflict %' ORDER BY id"
        );
        let mut q = self.db.prepare_cached(&sql)?;
        let nodes = q.query_map([], node_of)?.collect::<rusqlite::Result<Vec<_>>>()?;
        nodes.into_iter().map(|n| Ok((n.clone(), self.path(n.id)?))).collect()
    }

    /// Where the bytes of a live file lie, for reading outside the store's lock.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; [`SyncError::Stale`] if it is not at `rev` any more.
    pub fn content_path(&self, id: NodeId, rev: Option<i64>) -> Result<(NodeInfo, String)> {
        let node = match rev {
            Some(rev) => at_rev(&self.db, id, rev)?,
            None => live(&self.db, id)?,
        };
        if node.kind != Kind::File {
            return Err(SyncError::Invalid(format!("{:?} is a directory", node.name)));
        }
        let path = self.path(id)?;
        Ok((node, path))
    }

    /// The answer to a request that was done before under this key.
    ///
    /// # Errors
    /// Database.
    pub fn done_before(&self, key: &str) -> Result<Option<NodeInfo>> {
        done_before(&self.db, key)
    }

    /// A device says up to where it has taken the changes in.
    ///
    /// # Errors
    /// Database.
    pub fn acknowledge(&mut self, device: &str, name: &str, rev: i64) -> Result<()> {
        if self.held.is_some() {
            return Ok(()); // it says so again with its next question
        }
        let now = (self.clock)();
        self.db.execute(
            "INSERT INTO device (id, name, acked, seen_ms) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (id) DO UPDATE SET acked = max(acked, ?3), seen_ms = ?4",
            params![device, name, rev, now],
        )?;
        Ok(())
    }

    /// Forgets a device. Its next question is answered with [`SyncError::Epoch`] once marks that it
    /// had not seen are gone (trap 9).
    ///
    /// # Errors
    /// Database.
    pub fn forget_device(&mut self, device: &str) -> Result<()> {
        self.may_change()?;
        self.db.execute("DELETE FROM device WHERE id = ?1", [device])?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
