//! Old versions and the trash: list, restore, purge.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | version: its bytes are copied to `tmp/`, hash checked | commit as a new content | 422; nothing changed |
//! | trash: name free or made free, room | transaction with a note: alive again under its number | nothing changed |
//! | purge | transaction with notes: bytes gone, mark stays | nothing changed |
use super::redo::{Note, note};
use super::{Store, journal, live, lookup, next_rev, path_of};
use crate::api::{NodeInfo, UploadBegin, VersionInfo};
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, PIECE_BYTES, join};
use crate::names::{conflict, fold};
use crate::rng::{hex, unhex};
use crate::tree::{Kind, NodeId, ROOT};
use rusqlite::{OptionalExtension, Transaction, params};

/// The directory and the path it has, to put something back into; the user's folder if it is gone.
pub(super) fn home(tx: &Transaction, parent: NodeId) -> Result<(NodeId, String)> {
    match live(tx, parent) {
        Ok(dir) if dir.kind == Kind::Dir => Ok((parent, path_of(tx, parent)?)),
        _ => Ok((ROOT, String::new())),
    }
}

impl Store {
    /// The old contents of a file, newest first.
    ///
    /// # Errors
    /// Database.
    pub fn versions(&self, node: NodeId) -> Result<Vec<VersionInfo>> {
        let mut q = self.db.prepare_cached(
            "SELECT rev, size, mtime_ns, hash, at_ms FROM version WHERE node = ?1 ORDER BY rev DESC",
        )?;
        let rows = q.query_map([node], |r| {
            Ok(VersionInfo {
                rev: r.get(0)?,
                size: u64::try_from(r.get::<_, i64>(1)?).unwrap_or(0),
                mtime_ns: r.get(2)?,
                hash: hex(&r.get::<_, [u8; 32]>(3)?),
                at_ms: r.get(4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Where the bytes of a version lie among our own, and what is known of it.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn version_path(&self, node: NodeId, rev: i64) -> Result<(VersionInfo, String)> {
        let found = self.versions(node)?.into_iter().find(|v| v.rev == rev);
        let info =
            found.ok_or_else(|| SyncError::NotFound(format!("version {rev} of node {node}")))?;
        Ok((info, format!("versions/{node}@{rev}")))
    }

    /// Makes an old version the content again; the present one becomes a version itself.
    ///
    /// # Errors
    /// [`SyncError::Damaged`] if its bytes are not what they were.
    pub fn restore_version(&mut self, node: NodeId, version: i64, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        let now = live(&self.db, node)?;
        let (info, from) = self.version_path(node, version)?;
        let req = UploadBegin {
            id: format!("restore{node:010}x{version:010}x{ms}"),
            parent: now.parent,
            name: now.name,
            replace: Some((node, now.rev)),
            size: info.size,
            hash: info.hash,
            mtime_ns: info.mtime_ns,
            exec: now.exec,
        };
        self.upload_begin(&req)?;
        let files = self.files.clone();
        let mut progress = super::Progress::resume(&*files, &req.id)?;
        while progress.offset < req.size {
            let piece = files.read(At(Area::Own, &from), progress.offset, PIECE_BYTES)?;
            if piece.is_empty() {
                break;
            }
            progress.append(&*files, &req.id, progress.offset, &piece)?;
        }
        self.upload_commit(&req.id, &progress, who)
    }

    /// What lies in the trash, newest first, with the milliseconds since 1970 when it was deleted.
    ///
    /// # Errors
    /// Database.
    pub fn trash(&self) -> Result<Vec<(NodeInfo, i64)>> {
        let sql = format!(
            "SELECT {}, deleted_ms FROM node WHERE deleted > 0 AND trash = 1 ORDER BY deleted DESC",
            super::NODE
        );
        let mut q = self.db.prepare_cached(&sql)?;
        let rows = q.query_map([], |r| Ok((super::node_of(r)?, r.get(10)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Where the bytes of a deleted file lie among our own.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn trash_path(&self, node: NodeId) -> Result<String> {
        let sql = "SELECT deleted FROM node WHERE id = ?1 AND deleted > 0 AND trash = 1";
        let rev: Option<i64> = self.db.query_row(sql, [node], |r| r.get(0)).optional()?;
        match rev {
            Some(rev) => Ok(format!("trash/{node}@{rev}")),
            None => Err(SyncError::NotFound(format!("node {node} in the trash"))),
        }
    }

    /// Takes a file out of the trash: where it was, or into the user's folder if that directory is
    /// gone; under a conflict name if the name is taken meanwhile.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], [`SyncError::Damaged`].
    pub fn restore_trash(&mut self, node: NodeId, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        let own = self.trash_path(node)?;
        let old = self.node(node)?;
        let (hash, size) = files::hash(&*self.files, At(Area::Own, &own))?;
        if unhex::<32>(&old.hash) != Some(hash) || size != old.size {
            return Err(SyncError::Damaged(format!("{:?} in the trash", old.name)));
        }
        let inode = self.files.stat(At(Area::Own, &own))?.map_or(0, |s| s.inode);
        let tx = self.db.transaction()?;
        let vault = super::vaults::revive(&tx, &*self.files, &old, who, ms)?;
        let (parent, dir) = home(&tx, old.parent)?;
        let mut name = old.name.clone();
        if vault && super::holder(&tx, parent, &name)?.is_some() {
            // Another name would not open.
            return Err(SyncError::Taken(format!("{name:?} in an encrypted folder")));
        }
        let mut nth = 1;
        while super::holder(&tx, parent, &name)?.is_some() {
            name = conflict(&old.name, "restored", &format!("rev{}", old.rev), nth);
            nth += 1;
        }
        let rev = next_rev(&tx)?;
        tx.execute(
            "UPDATE node SET parent = ?2, name = ?3, fold = ?4, rev = ?5, deleted = 0, \
             deleted_ms = 0, trash = 0, generation = generation + 1 WHERE id = ?1",
            params![node, parent, name, fold(&name), rev],
        )?;
        journal(&tx, rev, node, "restore", who, ms)?;
        let path = join(&dir, &name);
        note(&tx, &Note::Place { own, inode, path, keep: format!("foreign/{node}@{rev}") })?;
        let info = lookup(&tx, node)?.ok_or_else(|| SyncError::NotFound(format!("node {node}")))?;
        tx.commit()?;
        self.recover()?;
        Ok(info)
    }

    /// Drops a deleted file's bytes and versions for good; its deleted mark stays.
    ///
    /// # Errors
    /// Database and I/O.
    pub fn purge(&mut self, node: NodeId) -> Result<()> {
        let info = self.node(node)?;
        if !info.deleted {
            return Err(SyncError::Invalid(format!("{:?} is not deleted", info.name)));
        }
        self.drop_bytes(&[node])
    }
}
