//! Uploads: begin (room reserved), append at an offset, commit.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | begin: quota and disk checked, row written | append | 507 before the first byte (trap 11) |
//! | append at the offset that is there | append, commit | 412 with the offset; go on from there |
//! | commit: length, hash, revision checked; file synced | transaction with a note | 422, 412; nothing changed |
//! | files | answer | carried out before the next request |
//!
//! A commit is idempotent: its id is remembered with the answer (trap 13).
use super::ops::next_node;
use super::redo::{Note, note};
use super::vaults::{may_hold, may_put};
use super::{
    Store, VERSIONS_MAX, at_rev, charge, journal, lookup, next_rev, path_of, room_for, to_i64,
};
use crate::api::{NodeInfo, UploadBegin, UploadState};
use crate::delta::Part;
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, Files, PIECE_BYTES, join};
use crate::names::fold;
use crate::rng::{hex, unhex};
use crate::tree::{Kind, NodeId, ROOT};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Uploads that nobody has touched for so long are dropped when the store is opened.
const UPLOAD_MS_MAX: i64 = 7 * 24 * 3_600_000;

/// An upload's bytes as they come in; lives outside the store's lock.
pub struct Progress {
    /// Bytes that are there.
    pub offset: u64,
    hasher: Option<blake3::Hasher>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("offset", &self.offset).finish_non_exhaustive()
    }
}

fn tmp(id: &str) -> String {
    format!("tmp/{id}")
}

pub(super) fn check_id(id: &str) -> Result<()> {
    if (16..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(SyncError::Invalid("an upload's id has 16 to 64 letters and digits".into()))
    }
}

impl Progress {
    /// Takes up an upload where its file ends.
    ///
    /// # Errors
    /// I/O.
    pub fn resume(files: &dyn Files, id: &str) -> Result<Self> {
        check_id(id)?;
        let offset = files.stat(At(Area::Own, &tmp(id)))?.map_or(0, |s| s.size);
        // What an earlier process wrote is hashed at commit.
        Ok(Self { offset, hasher: (offset == 0).then(blake3::Hasher::new) })
    }

    /// Writes the next bytes; `offset` must be where the file ends.
    ///
    /// # Errors
    /// [`SyncError::Stale`] with the offset to go on from; I/O.
    pub fn append(&mut self, files: &dyn Files, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset != self.offset {
            return Err(SyncError::Stale(format!("go on at offset {}", self.offset)));
        }
        if let Err(e) = files.write(At(Area::Own, &tmp(id)), offset, bytes) {
            // How much of it is there is not known any more.
            self.hasher = None;
            return Err(e);
        }
        if let Some(h) = &mut self.hasher {
            h.update(bytes);
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Appends parts: bytes that came with them, or bytes that `old` reads at a place. Never beyond
    /// `size`.
    ///
    /// # Errors
    /// As [`Progress::append`]; [`SyncError::Invalid`] for more than was announced;
    /// [`SyncError::Damaged`] for a place that the old content does not have.
    pub fn append_parts<B: AsRef<[u8]>>(
        &mut self,
        files: &dyn Files,
        id: &str,
        offset: u64,
        size: u64,
        parts: &[(Part, B)],
        old: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let more = parts.iter().fold(0_u64, |sum, (p, _)| sum.saturating_add(p.size));
        if offset.saturating_add(more) > size {
            let why = format!("more than the {size} bytes that were announced");
            return Err(SyncError::Invalid(why));
        }
        let mut pos = offset;
        for (part, bytes) in parts {
            let Some(from) = part.from else {
                self.append(files, id, pos, bytes.as_ref())?;
                pos += part.size;
                continue;
            };
            let mut done = 0;
            while done < part.size {
                let room = (part.size - done).min(PIECE_BYTES as u64);
                let piece = old(from.saturating_add(done), usize::try_from(room).unwrap_or(0))?;
                if piece.len() as u64 != room {
                    let why = format!("no {room} bytes at {} of the old content", from + done);
                    return Err(SyncError::Damaged(why));
                }
                self.append(files, id, pos, &piece)?;
                (done, pos) = (done + room, pos + room);
            }
        }
        Ok(())
    }

    fn hash(&self, files: &dyn Files, id: &str) -> Result<([u8; 32], u64)> {
        match &self.hasher {
            Some(h) => Ok((*h.finalize().as_bytes(), self.offset)),
            None if files.stat(At(Area::Own, &tmp(id)))?.is_none() => {
                Ok((*blake3::hash(b"").as_bytes(), 0))
            }
            None => files::hash(files, At(Area::Own, &tmp(id))),
        }
    }
}

pub(super) struct Begun {
    pub parent: NodeId,
    pub name: String,
    pub replace: Option<(NodeId, i64)>,
    pub size: u64,
    pub hash: String,
    pub mtime_ns: i64,
    pub exec: bool,
}

impl From<&UploadBegin> for Begun {
    fn from(req: &UploadBegin) -> Self {
        Self {
            parent: req.parent,
            name: req.name.clone(),
            replace: req.replace,
            size: req.size,
            hash: req.hash.clone(),
            mtime_ns: req.mtime_ns,
            exec: req.exec,
        }
    }
}

impl Store {
    /// Begins an upload, or finds the one that was begun; reserves its room (trap 14).
    ///
    /// # Errors
    /// See the table above.
    pub fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState> {
        let ms = self.begin()?;
        check_id(&req.id)?;
        if let Some(node) = self.done_before(&req.id)? {
            return Ok(UploadState { offset: node.size });
        }
        if self.begun(&req.id)?.is_some() {
            return Ok(UploadState { offset: Progress::resume(&*self.files, &req.id)?.offset });
        }
        self.not_given_up(&req.id)?;
        let tx = self.db.transaction()?;
        match req.replace {
            Some((id, rev)) => {
                at_rev(&tx, id, rev)?;
            }
            None => {
                room_for(&tx, req.parent, &req.name, 0)?;
                may_put(&tx, req.parent, &req.name, req.size)?;
            }
        }
        room(&tx, self.quota, to_i64(req.size))?;
        let (node, rev) = req.replace.unwrap_or((0, 0));
        tx.prepare_cached("INSERT INTO upload VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute(params![
            req.id,
            req.parent,
            req.name,
            node,
            rev,
            to_i64(req.size),
            req.hash,
            req.mtime_ns,
            req.exec,
            ms
        ])?;
        tx.commit()?;
        Ok(UploadState { offset: 0 })
    }

    fn begun(&self, id: &str) -> Result<Option<Begun>> {
        let mut q = self.db.prepare_cached(
            "SELECT parent, name, node, rev, size, hash, mtime_ns, exec FROM upload WHERE id = ?1",
        )?;
        let found = q.query_row([id], |r| {
            let node: NodeId = r.get(2)?;
            let rev: i64 = r.get(3)?;
            Ok(Begun {
                parent: r.get(0)?,
                name: r.get(1)?,
                replace: (node != 0).then_some((node, rev)),
                size: u64::try_from(r.get::<_, i64>(4)?).unwrap_or(0),
                hash: r.get(5)?,
                mtime_ns: r.get(6)?,
                exec: r.get(7)?,
            })
        });
        Ok(found.optional()?)
    }

    /// How many bytes a begun upload may still take.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn upload_size(&self, id: &str) -> Result<u64> {
        match self.begun(id)? {
            Some(b) => Ok(b.size),
            None => Err(SyncError::NotFound(format!("upload {id}"))),
        }
    }

    /// The content that an upload replaces, as [`Store::content_path`] tells it.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; [`SyncError::Invalid`] if it makes a new file; [`SyncError::Stale`].
    pub fn upload_source(&self, id: &str) -> Result<(NodeInfo, String)> {
        match self.begun(id)? {
            Some(Begun { replace: Some((node, rev)), .. }) => self.content_path(node, Some(rev)),
            Some(_) => Err(SyncError::Invalid("this upload replaces no content".into())),
            None => Err(SyncError::NotFound(format!("upload {id}"))),
        }
    }

    /// How many uploads are under way, and the bytes reserved for them.
    ///
    /// # Errors
    /// Database.
    pub fn uploads(&self) -> Result<(u64, u64)> {
        let sql = "SELECT count(*), coalesce(sum(size), 0) FROM upload";
        let found: (i64, i64) = self.db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
        Ok((u64::try_from(found.0).unwrap_or(0), u64::try_from(found.1).unwrap_or(0)))
    }

    /// Sets the length of an upload whose true length turned out to be less than was reserved.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn upload_resize(&mut self, id: &str, size: u64) -> Result<()> {
        let sql = "UPDATE upload SET size = ?2 WHERE id = ?1 AND size >= ?2";
        match self.db.execute(sql, params![id, to_i64(size)])? {
            1 => Ok(()),
            _ => Err(SyncError::NotFound(format!("upload {id}"))),
        }
    }

    /// Reserves more room for an upload whose length is not known beforehand.
    ///
    /// # Errors
    /// [`SyncError::Full`], [`SyncError::NotFound`].
    pub fn upload_grow(&mut self, id: &str, size: u64) -> Result<()> {
        self.may_change()?;
        let tx = self.db.transaction()?;
        let sql = "SELECT size FROM upload WHERE id = ?1";
        let now: Option<i64> = tx.query_row(sql, [id], |r| r.get(0)).optional()?;
        let Some(now) = now else { return Err(SyncError::NotFound(format!("upload {id}"))) };
        room(&tx, self.quota, to_i64(size).saturating_sub(now))?;
        tx.execute("UPDATE upload SET size = ?2 WHERE id = ?1", params![id, to_i64(size)])?;
        Ok(tx.commit()?)
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// Database.
    pub fn upload_drop(&mut self, id: &str) -> Result<()> {
        check_id(id)?;
        self.begin()?;
        let ms = (self.clock)();
        let tx = self.db.transaction()?;
        tx.execute("DELETE FROM upload WHERE id = ?1", [id])?;
        // What is still under way under this id has no effect any more.
        tx.execute("INSERT OR IGNORE INTO done VALUES (?1, '', ?2)", params![id, ms])?;
        note(&tx, &Note::Drop { own: tmp(id) })?;
        tx.commit()?;
        self.recover()
    }

    /// Refuses what was given up before it came.
    pub(super) fn not_given_up(&self, id: &str) -> Result<()> {
        let mut q = self.db.prepare_cached("SELECT 1 FROM done WHERE key = ?1 AND reply = ''")?;
        match q.query_row([id], |_| Ok(())).optional()? {
            Some(()) => Err(SyncError::Stale(format!("upload {id} was given up"))),
            None => Ok(()),
        }
    }

    pub(super) fn drop_stale_uploads(&mut self) -> Result<()> {
        let before = (self.clock)() - UPLOAD_MS_MAX;
        self.db.execute("DELETE FROM done WHERE at_ms < ?1", [before])?;
        let ids: Vec<String> = {
            let mut q = self.db.prepare("SELECT id FROM upload WHERE at_ms < ?1")?;
            q.query_map([before], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?
        };
        ids.iter().try_for_each(|id| self.upload_drop(id))
    }

    /// Makes an upload the file's content.
    ///
    /// # Errors
    /// See the table above. After [`SyncError::Damaged`] the upload is gone and must begin anew.
    pub fn upload_commit(&mut self, id: &str, got: &Progress, who: &str) -> Result<NodeInfo> {
        let ms = self.begin()?;
        check_id(id)?;
        if let Some(before) = self.done_before(id)? {
            return Ok(before);
        }
        let Some(b) = self.begun(id)? else {
            return Err(SyncError::NotFound(format!("upload {id}")));
        };
        let (hash, size) = got.hash(&*self.files, id)?;
        let wrong_hash = !b.hash.is_empty() && unhex::<32>(&b.hash) != Some(hash);
        if size != b.size || wrong_hash {
            let what = format!("{:?}: {size} of {} bytes, hash {}", b.name, b.size, hex(&hash));
            if size >= b.size {
                self.upload_drop(id)?;
            }
            return Err(SyncError::Damaged(what));
        }
        let own = tmp(id);
        self.files.seal(At(Area::Own, &own), size, b.mtime_ns, b.exec)?;
        let inode = self.files.stat(At(Area::Own, &own))?.map_or(0, |s| s.inode);
        let tx = self.db.transaction()?;
        let files = &*self.files;
        let new = New { hash, inode, own: &own, files, ms, who };
        let info = put_rows(&tx, &b, &new, &mut HashMap::new())?;
        charge(&tx, to_i64(size))?;
        tx.execute("DELETE FROM upload WHERE id = ?1", [id])?;
        answered(&tx, id, &info, ms)?;
        tx.commit()?;
        self.recover()?;
        Ok(info)
    }

    /// A whole small file in one go: what pages and tests use.
    ///
    /// # Errors
    /// As the three steps.
    pub fn put(&mut self, req: &UploadBegin, bytes: &[u8], who: &str) -> Result<NodeInfo> {
        debug_assert!(req.parent >= ROOT);
        self.upload_begin(req)?;
        let files = self.files.clone();
        let mut progress = Progress::resume(&*files, &req.id)?;
        let done = usize::try_from(progress.offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = bytes.get(done..).unwrap_or_default();
        if !rest.is_empty() {
            progress.append(&*files, &req.id, done as u64, rest)?;
        }
        self.upload_commit(&req.id, &progress, who)
    }
}

/// Bytes that are durable in `tmp/` and about to become a file's content.
pub(super) struct New<'a> {
    pub hash: [u8; 32],
    pub inode: u64,
    pub own: &'a str,
    pub files: &'a dyn Files,
    pub ms: i64,
    pub who: &'a str,
}

/// Writes the rows and the note of a new content, once it is sure that nothing is in its way; `paths`
/// remembers those of directories within one transaction.
pub(super) fn put_rows(
    tx: &Transaction,
    b: &Begun,
    new: &New,
    paths: &mut HashMap<NodeId, String>,
) -> Result<NodeInfo> {
    let node = match b.replace {
        Some((node, rev)) => {
            let old = at_rev(tx, node, rev)?;
            if old.kind != Kind::File {
                return Err(SyncError::Invalid(format!("{:?} is a directory", old.name)));
            }
            let path = path_of(tx, node)?;
            may_hold(tx, old.parent, &old.name, new.files, new.own, Some(&path))?;
            old.id
        }
        None => {
            room_for(tx, b.parent, &b.name, 0)?;
            may_put(tx, b.parent, &b.name, b.size)?;
            may_hold(tx, b.parent, &b.name, new.files, new.own, None)?;
            next_node(tx)?
        }
    };
    let rev = next_rev(tx)?;
    let mut kept = format!("foreign/{node}@{rev}");
    let path = if b.replace.is_some() {
        kept = keep_version(tx, node, new.ms)?;
        tx.prepare_cached(
            "UPDATE node SET size = ?2, mtime_ns = ?3, exec = ?4, hash = ?5, rev = ?6 \
             WHERE id = ?1",
        )?
        .execute(params![node, to_i64(b.size), b.mtime_ns, b.exec, new.hash, rev])?;
        path_of(tx, node)?
    } else {
        tx.prepare_cached(
            "INSERT INTO node (id, parent, name, fold, kind, size, mtime_ns, exec, hash, rev) \
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            node,
            b.parent,
            b.name,
            fold(&b.name),
            to_i64(b.size),
            b.mtime_ns,
            b.exec,
            new.hash,
            rev
        ])?;
        let dir = match paths.entry(b.parent) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(path_of(tx, b.parent)?),
        };
        join(dir, &b.name)
    };
    journal(tx, rev, node, "put", new.who, new.ms)?;
    note(tx, &Note::Place { own: new.own.to_owned(), inode: new.inode, path, keep: kept })?;
    if b.replace.is_some() {
        drop_old_versions(tx, node)?;
    }
    lookup(tx, node)?.ok_or_else(|| SyncError::NotFound(format!("node {node}")))
}

/// Remembers what was answered to a request.
pub(super) fn answered(tx: &Transaction, id: &str, info: &NodeInfo, ms: i64) -> Result<()> {
    let text = serde_json::to_string(info).map_err(|e| SyncError::Invalid(e.to_string()))?;
    tx.prepare_cached("INSERT OR REPLACE INTO done VALUES (?1, ?2, ?3)")?
        .execute(params![id, text, ms])?;
    Ok(())
}

/// Whether the quota has room for `more` bytes besides what is kept and what is reserved.
pub(super) fn room(tx: &Connection, quota: Option<u64>, more: i64) -> Result<()> {
    let Some(quota) = quota else { return Ok(()) };
    let used: i64 = tx.query_row(
        "SELECT v + (SELECT coalesce(sum(size), 0) FROM upload) FROM meta WHERE k = 'used'",
        [],
        |r| r.get(0),
    )?;
    if used.saturating_add(more) <= to_i64(quota) {
        return Ok(());
    }
    Err(SyncError::Full(format!(
        "the quota of {quota} bytes has {} left; versions and trash count too",
        to_i64(quota).saturating_sub(used).max(0)
    )))
}

/// The content that a node has now becomes a version; returns where its bytes go.
pub(super) fn keep_version(tx: &Transaction, node: NodeId, ms: i64) -> Result<String> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO version SELECT id, rev, size, hash, mtime_ns, exec, ?2 FROM node \
         WHERE id = ?1",
    )?
    .execute(params![node, ms])?;
    let rev: i64 = tx.query_row("SELECT rev FROM node WHERE id = ?1", [node], |r| r.get(0))?;
    Ok(format!("versions/{node}@{rev}"))
}

/// Drops the oldest versions beyond [`VERSIONS_MAX`].
fn drop_old_versions(tx: &Transaction, node: NodeId) -> Result<()> {
    let old: Vec<(i64, i64)> = {
        let mut q = tx.prepare_cached(
            "SELECT rev, size FROM version WHERE node = ?1 ORDER BY rev DESC LIMIT -1 OFFSET ?2",
        )?;
        q.query_map(params![node, VERSIONS_MAX as i64], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?
    };
    for (rev, size) in old {
        tx.execute("DELETE FROM version WHERE node = ?1 AND rev = ?2", params![node, rev])?;
        charge(tx, -size)?;
        note(tx, &Note::Drop { own: format!("versions/{node}@{rev}") })?;
    }
    Ok(())
}
