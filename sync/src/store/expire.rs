//! What is kept for a while only: the trash, old versions, deleted marks, devices that never come back.
//!
//! | what | kept | then |
//! |---|---|---|
//! | a deleted file's bytes | for `trash_ms` after its deletion | dropped with its versions; the mark stays |
//! | an old content | for `versions_ms` after it was replaced | dropped |
//! | a device that is silent | for `devices_ms` | no longer waited for; it enters as new (trap 9) |
//! | a deleted mark | for `marks_ms`, until every device has acknowledged it and its bytes are dropped | dropped |
//!
//! Everything goes in pieces of [`PIECE`], so that the user's other requests are answered in between.
use super::redo::{Note, note};
use super::{Store, charge};
use crate::error::Result;
use crate::tree::NodeId;
use rusqlite::{Transaction, params};

/// So many are dropped in one transaction.
pub const PIECE: usize = 500;

/// How long what is kept; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// Bytes of deleted files.
    pub trash_ms: Option<i64>,
    /// Old contents.
    pub versions_ms: Option<i64>,
    /// Deleted marks.
    pub marks_ms: Option<i64>,
    /// Devices that do not ask.
    pub devices_ms: Option<i64>,
}

/// How many were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Deleted files.
    pub trash: usize,
    /// Old contents.
    pub versions: usize,
    /// Deleted marks.
    pub marks: usize,
    /// Devices.
    pub devices: usize,
}

impl Expired {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.trash += other.trash;
        self.versions += other.versions;
        self.marks += other.marks;
        self.devices += other.devices;
    }

    /// Whether there may be more to drop right now.
    #[must_use]
    pub fn more(&self) -> bool {
        [self.trash, self.versions, self.marks].contains(&PIECE)
    }
}

/// Notes that these versions go.
fn drop_versions(tx: &Transaction, all: &[(NodeId, i64, i64)]) -> Result<()> {
    for (node, rev, size) in all {
        charge(tx, -size)?;
        tx.prepare_cached("DELETE FROM version WHERE node = ?1 AND rev = ?2")?
            .execute(params![node, rev])?;
        note(tx, &Note::Drop { own: format!("versions/{node}@{rev}") })?;
    }
    Ok(())
}

impl Store {
    /// Drops one piece of what is older than `ages`.
    ///
    /// # Errors
    /// Database and I/O.
    pub fn expire(&mut self, ages: &Ages) -> Result<Expired> {
        self.may_change()?;
        let mut done = Expired::default();
        if let Some(age) = ages.trash_ms {
            done.trash = self.expire_trash(age)?;
        }
        if let Some(age) = ages.versions_ms {
            done.versions = self.expire_versions(age)?;
        }
        if let Some(age) = ages.devices_ms {
            let before = (self.clock)() - age;
            done.devices = self.db.execute("DELETE FROM device WHERE seen_ms < ?1", [before])?;
        }
        if let Some(age) = ages.marks_ms {
            done.marks = self.expire_marks(age)?;
        }
        if done.trash + done.versions + done.marks > 0 && !done.more() {
            self.forget_sums()?;
        }
        Ok(done)
    }

    /// Drops the bytes of files that were deleted longer than `age_ms` ago, and their versions.
    ///
    /// # Errors
    /// Database and I/O.
    pub fn expire_trash(&mut self, age_ms: i64) -> Result<usize> {
        let before = (self.clock)() - age_ms;
        let ids: Vec<NodeId> = {
            let mut q = self.db.prepare_cached(
                "SELECT id FROM node WHERE trash = 1 AND deleted_ms <= ?1 LIMIT ?2",
            )?;
            q.query_map(params![before, PIECE as i64], |r| r.get(0))?
                .collect::<rusqlite::Result<_>>()?
        };
        self.drop_bytes(&ids)?;
        Ok(ids.len())
    }

    /// Drops contents that were replaced longer than `age_ms` ago.
    ///
    /// # Errors
    /// Database and I/O.
    pub fn expire_versions(&mut self, age_ms: i64) -> Result<usize> {
        let before = self.begin()? - age_ms;
        let old: Vec<(NodeId, i64, i64)> = {
            let mut q = self
                .db
                .prepare_cached("SELECT node, rev, size FROM version WHERE at_ms <= ?1 LIMIT ?2")?;
            q.query_map(params![before, PIECE as i64], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?
        };
        if !old.is_empty() {
            let tx = self.db.transaction()?;
            drop_versions(&tx, &old)?;
            tx.commit()?;
            self.recover()?;
        }
        Ok(old.len())
    }

    /// Drops deleted marks that every registered device has acknowledged, that are older than `age_ms`,
    /// and of which the trash holds nothing any more.
    ///
    /// # Errors
    /// Database and I/O.
    pub fn expire_marks(&mut self, age_ms: i64) -> Result<usize> {
        let before = self.begin()? - age_ms;
        let (head, _) = self.head()?;
        let acked: i64 = self.db.query_row("SELECT min(acked) FROM device", [], |r| {
            Ok(r.get::<_, Option<i64>>(0)?.unwrap_or(head))
        })?;
        let ids: Vec<(NodeId, i64)> = {
            let mut q = self.db.prepare_cached(
                "SELECT id, deleted FROM node WHERE deleted > 0 AND deleted <= ?1 \
                 AND deleted_ms <= ?2 AND trash = 0 LIMIT ?3",
            )?;
            q.query_map(params![acked, before, PIECE as i64], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?
        };
        // The versions of what has no bytes in the trash are gone, but for a crash long ago.
        self.drop_bytes(&ids.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
        let tx = self.db.transaction()?;
        for (id, deleted) in &ids {
            tx.execute("DELETE FROM node WHERE id = ?1", [id])?;
            tx.execute("DELETE FROM prop WHERE node = ?1", [id])?;
            tx.execute("UPDATE meta SET v = max(v, ?1) WHERE k = 'horizon'", [deleted])?;
        }
        tx.commit()?;
        Ok(ids.len())
    }

    /// Drops deleted files' bytes and versions for good, in one transaction; their marks stay.
    pub(super) fn drop_bytes(&mut self, ids: &[NodeId]) -> Result<()> {
        self.begin()?;
        if ids.is_empty() {
            return Ok(());
        }
        let tx = self.db.transaction()?;
        for id in ids {
            let trashed: Vec<(i64, i64)> = {
                let mut q = tx.prepare_cached(
                    "SELECT deleted, size FROM node WHERE id = ?1 AND deleted > 0 AND trash = 1",
                )?;
                q.query_map([id], |r| Ok((r.get(0)?, r.get(1)?)))?
                    .collect::<rusqlite::Result<_>>()?
            };
            for (deleted, size) in trashed {
                charge(&tx, -size)?;
                note(&tx, &Note::Drop { own: format!("trash/{id}@{deleted}") })?;
            }
            let old: Vec<(NodeId, i64, i64)> = {
                let mut q =
                    tx.prepare_cached("SELECT node, rev, size FROM version WHERE node = ?1")?;
                q.query_map([id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                    .collect::<rusqlite::Result<_>>()?
            };
            drop_versions(&tx, &old)?;
            tx.prepare_cached("UPDATE node SET trash = 0 WHERE id = ?1")?.execute([id])?;
        }
        tx.commit()?;
        self.recover()
    }
}
