//! mkdir, move, exchange, delete.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | key done before | answer as then | |
//! | checks: alive, revision as seen, name free, no cycle | transaction | 404, 412, 409; nothing changed |
//! | transaction with notes | files | nothing changed |
//! | files | answer | carried out before the next request |
use super::redo::{Note, note};
use super::vaults::{may_cross, may_name, only_key_file};
use super::{Store, at_rev, journal, lookup, next_rev, path_of, room_for};
use crate::api::{BatchOp, BatchReply, Delete, Exchange, Mkdir, Move, NodeInfo};
use crate::error::{Result, SyncError};
use crate::files::join;
use crate::names::{DEPTH_MAX, fold};
use crate::tree::{Kind, NodeId, ROOT};
use crate::vault::KEY_FILE;
use rusqlite::{Connection, Transaction, params};

/// Remembers the answer under the request's key.
fn remember(tx: &Transaction, key: &str, node: &NodeInfo, ms: i64) -> Result<()> {
    if !key.is_empty() {
        let text = serde_json::to_string(node).map_err(|e| SyncError::Invalid(e.to_string()))?;
        tx.prepare_cached("INSERT OR REPLACE INTO done VALUES (?1, ?2, ?3)")?
            .execute(params![key, text, ms])?;
    }
    Ok(())
}

/// The node as the transaction leaves it.
fn after(tx: &Transaction, id: NodeId) -> Result<NodeInfo> {
    lookup(tx, id)?.ok_or_else(|| SyncError::NotFound(format!("node {id}")))
}

/// A number that no node of this user has had.
pub(super) fn next_node(tx: &Transaction) -> Result<NodeId> {
    let sql = "UPDATE meta SET v = v + 1 WHERE k = 'node' RETURNING v";
    Ok(tx.prepare_cached(sql)?.query_row([], |r| r.get(0))?)
}

/// Whether `below` is `above` or lies beneath it.
fn is_within(db: &Connection, below: NodeId, above: NodeId) -> Result<bool> {
    let mut at = below;
    for _ in 0..=DEPTH_MAX {
        if at == above {
            return Ok(true);
        }
        if at == ROOT {
            return Ok(false);
        }
        at = super::live(db, at)?.parent;
    }
    Ok(true)
}

fn depth_below(db: &Connection, id: NodeId) -> Result<usize> {
    let sql = "WITH RECURSIVE d (id, n) AS (SELECT ?1, 0 UNION ALL SELECT node.id, n + 1 FROM node, d \
               WHERE node.parent = d.id AND node.deleted = 0 AND node.id <> 1) SELECT max(n) FROM d";
    let depth: i64 = db.prepare_cached(sql)?.query_row([id], |r| r.get(0))?;
    Ok(usize::try_from(depth).unwrap_or(0))
}

impl Store {
    /// Before each change: the folder is there, and nothing is left over from the one before.
    pub(super) fn begin(&mut self) -> Result<i64> {
        self.may_change()?;
        self.files.check_root()?;
        self.recover()?;
        Ok((self.clock)())
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// See the table above.
    pub fn mkdir(&mut self, req: &Mkdir, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        let tx = self.db.transaction()?;
        let node = mkdir_rows(&tx, req, who, ms)?;
        tx.commit()?;
        self.recover()?;
        Ok(node)
    }

    /// Moves or renames (trap 16: by node, ancestors checked in the transaction).
    ///
    /// # Errors
    /// See the table above.
    pub fn move_node(&mut self, req: &Move, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        if let Some(before) = self.done_before(&req.key)? {
            return Ok(before);
        }
        let node = at_rev(&self.db, req.node, req.rev)?;
        let from = path_of(&self.db, node.id)?;
        let inode = self.inode_at(&from)?;
        let tx = self.db.transaction()?;
        room_for(&tx, req.parent, &req.name, node.id)?;
        may_cross(&tx, &node, req.parent)?;
        may_name(&tx, req.parent, &req.name)?;
        if is_within(&tx, req.parent, node.id)? {
            return Err(SyncError::Stale(format!("{:?} would lie within itself", node.name)));
        }
        if (node.parent, &node.name) == (req.parent, &req.name) {
            return Ok(node);
        }
        let to = join(&path_of(&tx, req.parent)?, &req.name);
        if to.split('/').count() + depth_below(&tx, node.id)? > DEPTH_MAX {
            return Err(SyncError::Invalid(format!("nested deeper than {DEPTH_MAX} directories")));
        }
        let rev = next_rev(&tx)?;
        tx.prepare_cached(
            "UPDATE node SET parent = ?2, name = ?3, fold = ?4, rev = ?5 WHERE id = ?1",
        )?
        .execute(params![node.id, req.parent, req.name, fold(&req.name), rev])?;
        journal(&tx, rev, node.id, "move", who, ms)?;
        note(&tx, &Note::Move { from, to, inode, keep: format!("foreign/{}@{rev}", node.id) })?;
        let node = after(&tx, node.id)?;
        remember(&tx, &req.key, &node, ms)?;
        tx.commit()?;
        self.recover()?;
        Ok(node)
    }

    /// Lets two nodes swap places, in one step.
    ///
    /// # Errors
    /// See the table above.
    pub fn exchange(&mut self, req: &Exchange, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        if let Some(before) = self.done_before(&req.key)? {
            return Ok(before);
        }
        let (a, b) = (at_rev(&self.db, req.a.0, req.a.1)?, at_rev(&self.db, req.b.0, req.b.1)?);
        if is_within(&self.db, a.id, b.id)? || is_within(&self.db, b.id, a.id)? {
            return Err(SyncError::Stale("one lies within the other".into()));
        }
        may_cross(&self.db, &a, b.parent)?;
        may_cross(&self.db, &b, a.parent)?;
        let (path_a, path_b) = (path_of(&self.db, a.id)?, path_of(&self.db, b.id)?);
        let inode = self.inode_at(&path_a)?;
        let tx = self.db.transaction()?;
        let set = "UPDATE node SET parent = ?2, name = ?3, fold = ?4, rev = ?5 WHERE id = ?1";
        // A name that no fold has keeps the index unique in between.
        tx.execute("UPDATE node SET fold = '/' WHERE id = ?1", [a.id])?;
        for (node, to) in [(&b, &a), (&a, &b)] {
            let rev = next_rev(&tx)?;
            tx.prepare_cached(set)?.execute(params![
                node.id,
                to.parent,
                to.name,
                fold(&to.name),
                rev
            ])?;
            journal(&tx, rev, node.id, "move", who, ms)?;
        }
        note(&tx, &Note::Swap { a: path_a, b: path_b, inode })?;
        let node = after(&tx, a.id)?;
        remember(&tx, &req.key, &node, ms)?;
        tx.commit()?;
        self.recover()?;
        Ok(node)
    }

    /// Deletes: the node keeps a deleted mark, a file's bytes go to the trash.
    ///
    /// # Errors
    /// See the table above; [`SyncError::Stale`] for a directory that is not empty, unless the whole
    /// tree is meant.
    pub fn delete(&mut self, req: &Delete, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        let tx = self.db.transaction()?;
        let node = delete_rows(&tx, req, who, ms)?;
        tx.commit()?;
        self.recover()?;
        Ok(node)
    }

    /// Directories made and nodes deleted, each for itself, in one transaction.
    fn run_rows(&mut self, ops: &[BatchOp], who: &str) -> Result<Vec<BatchReply>> {
        let ms = self.begin()?;
        let tx = self.db.transaction()?;
        let mut out = Vec::with_capacity(ops.len());
        for op in ops {
            let done = match op {
                BatchOp::Mkdir(r) => mkdir_rows(&tx, r, who, ms),
                BatchOp::Delete(r) => delete_rows(&tx, r, who, ms),
                BatchOp::Move(_) | BatchOp::Exchange(_) => {
                    Err(SyncError::Invalid("a move goes alone".into()))
                }
            };
            match done {
                // Whatever was written before it in this transaction is not kept either.
                Err(e @ SyncError::Db(_)) => return Err(e),
                other => out.push(super::reply(other)),
            }
        }
        tx.commit()?;
        self.recover()?;
        Ok(out)
    }

    /// Several operations, each for itself, in order. Neighbours that only make directories or delete
    /// share a transaction.
    pub fn batch(&mut self, ops: &[BatchOp], who: &str) -> Vec<BatchReply> {
        let rows = |op: &BatchOp| matches!(op, BatchOp::Mkdir(_) | BatchOp::Delete(_));
        let mut out = Vec::with_capacity(ops.len());
        for group in ops.chunk_by(|a, b| rows(a) && rows(b)) {
            match group {
                [BatchOp::Mkdir(r)] => out.push(super::reply(self.mkdir(r, who))),
                [BatchOp::Delete(r)] => out.push(super::reply(self.delete(r, who))),
                [BatchOp::Move(r)] => out.push(super::reply(self.move_node(r, who))),
                [BatchOp::Exchange(r)] => out.push(super::reply(self.exchange(r, who))),
                several => match self.run_rows(several, who) {
                    Ok(replies) => out.extend(replies),
                    Err(e) => {
                        let (status, why) = (e.status(), e.to_string());
                        out.extend(several.iter().map(|_| BatchReply {
                            status,
                            node: None,
                            error: why.clone(),
                        }));
                    }
                },
            }
        }
        out
    }
}

/// Checks, and writes the rows and the note of a new directory.
fn mkdir_rows(tx: &Transaction, req: &Mkdir, who: &str, ms: i64) -> Result<NodeInfo> {
    if let Some(before) = super::done_before(tx, &req.key)? {
        return Ok(before);
    }
    room_for(tx, req.parent, &req.name, 0)?;
    may_name(tx, req.parent, &req.name)?;
    let path = join(&path_of(tx, req.parent)?, &req.name);
    if path.split('/').count() > DEPTH_MAX {
        return Err(SyncError::Invalid(format!("nested deeper than {DEPTH_MAX} directories")));
    }
    let (id, rev) = (next_node(tx)?, next_rev(tx)?);
    tx.prepare_cached(
        "INSERT INTO node (id, parent, name, fold, kind, hash, rev, mtime_ns) \
         VALUES (?1, ?2, ?3, ?4, 1, zeroblob(32), ?5, ?6)",
    )?
    .execute(params![id, req.parent, req.name, fold(&req.name), rev, ms * 1_000_000])?;
    journal(tx, rev, id, "mkdir", who, ms)?;
    note(tx, &Note::Mkdir { path, keep: format!("foreign/{id}@{rev}") })?;
    let node = after(tx, id)?;
    remember(tx, &req.key, &node, ms)?;
    Ok(node)
}

/// Checks, and writes the marks and notes of a deletion.
fn delete_rows(tx: &Transaction, req: &Delete, who: &str, ms: i64) -> Result<NodeInfo> {
    if let Some(before) = super::done_before(tx, &req.key)? {
        return Ok(before);
    }
    let top = at_rev(tx, req.node, req.rev)?;
    let mut all = vec![(top.clone(), path_of(tx, top.id)?)];
    let mut next = 0;
    while let Some((node, path)) = all.get(next).cloned() {
        if node.kind == Kind::Dir {
            for child in super::children(tx, node.id)? {
                let below = join(&path, &child.name);
                all.push((child, below));
            }
        }
        next += 1;
    }
    if top.name == KEY_FILE {
        let why = "a key file goes only together with its folder";
        return Err(SyncError::Invalid(format!("{:?}: {why}", top.name)));
    }
    if all.len() > 1 && !req.tree && !all.get(1..).is_some_and(only_key_file) {
        return Err(SyncError::Stale(format!("{:?} is not empty", top.name)));
    }
    for (node, path) in all.into_iter().rev() {
        let rev = next_rev(tx)?;
        let file = node.kind == Kind::File;
        tx.prepare_cached(
            "UPDATE node SET rev = ?2, deleted = ?2, deleted_ms = ?3, trash = ?4 WHERE id = ?1",
        )?
        .execute(params![node.id, rev, ms, file])?;
        journal(tx, rev, node.id, "delete", who, ms)?;
        note(
            tx,
            &match file {
                true => Note::Keep { path, keep: format!("trash/{}@{rev}", node.id) },
                false => Note::Rmdir { path, keep: format!("foreign/{}@{rev}", node.id) },
            },
        )?;
    }
    let node = after(tx, top.id)?;
    remember(tx, &req.key, &node, ms)?;
    Ok(node)
}
