//! A store that stands still while it is copied: changes are refused with 503 until it is released, and
//! reading goes on. What a copy of the table says about the files is read here too, so that a copy of
//! the files can be held against it.
use super::Store;
use crate::error::{Result, SyncError};
use crate::rng::hex;
use crate::tree::{NodeId, ROOT};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// Path below the user's folder or our own -> bytes and BLAKE3, as a table has them.
pub type Known = BTreeMap<String, (u64, [u8; 32])>;

impl Store {
    /// Refuses changes from now on; what was under way is finished first.
    ///
    /// # Errors
    /// I/O and database; it is held already.
    pub fn hold(&mut self, why: &str) -> Result<()> {
        self.begin()?;
        self.held = Some(why.to_owned());
        Ok(())
    }

    /// Takes changes again.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Whether changes are taken.
    ///
    /// # Errors
    /// [`SyncError::Held`].
    pub fn may_change(&self) -> Result<()> {
        match &self.held {
            Some(why) => Err(SyncError::Held(why.clone())),
            None => Ok(()),
        }
    }

    /// Writes the table to a new file, as it is now, with nothing left to carry out.
    ///
    /// # Errors
    /// I/O and database.
    pub fn copy_table(&mut self, to: &Path) -> Result<()> {
        self.files.check_root()?;
        self.recover()?;
        Ok(self.db.backup("main", to, None)?)
    }
}

/// Opens a copy of a table that nobody else has, and checks that SQLite finds it whole.
///
/// # Errors
/// [`SyncError::Damaged`]; database.
pub fn open_copy(path: &Path) -> Result<Connection> {
    if !path.is_file() {
        return Err(SyncError::Damaged(format!("{} is missing", path.display())));
    }
    let db = Connection::open(path)?;
    let said: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if said != "ok" {
        return Err(SyncError::Damaged(format!("{}: {said}", path.display())));
    }
    Ok(db)
}

/// The epoch and the newest revision of a copy.
///
/// # Errors
/// Database.
pub fn head_of(db: &Connection) -> Result<(String, i64)> {
    let epoch = db.query_row("SELECT v FROM text WHERE k = 'epoch'", [], |r| r.get(0))?;
    Ok((epoch, db.query_row("SELECT v FROM meta WHERE k = 'rev'", [], |r| r.get(0))?))
}

/// The files that a table says are there: `tree/PATH`, `own/versions/...`, `own/trash/...`.
///
/// # Errors
/// Database.
pub fn known(db: &Connection) -> Result<Known> {
    let sql = format!(
        "WITH RECURSIVE p(id, path) AS (
           SELECT id, 'tree/' || name FROM node WHERE parent = {ROOT} AND deleted = 0 AND id <> {ROOT}
           UNION ALL
           SELECT node.id, p.path || '/' || node.name FROM node JOIN p ON node.parent = p.id
           WHERE node.deleted = 0)
         SELECT p.path, size, hash FROM p JOIN node ON node.id = p.id WHERE kind = 0
         UNION ALL SELECT 'own/trash/' || id || '@' || deleted, size, hash FROM node
           WHERE deleted > 0 AND trash = 1 AND kind = 0
         UNION ALL SELECT 'own/versions/' || node || '@' || rev, size, hash FROM version"
    );
    let mut q = db.prepare(&sql)?;
    let rows = q.query_map([], |r| {
        let size = u64::try_from(r.get::<_, i64>(1)?).unwrap_or(0);
        Ok((r.get(0)?, (size, r.get::<_, [u8; 32]>(2)?)))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The nodes that live in a table.
///
/// # Errors
/// Database.
pub fn live_nodes(db: &Connection) -> Result<Vec<NodeId>> {
    let mut q = db.prepare("SELECT id FROM node WHERE deleted = 0 ORDER BY id")?;
    Ok(q.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Numbers jump at least so far where another history begins: farther than a history goes.
const JUMP: i64 = 1 << 32;

/// Makes a copy the beginning of a history of its own: another epoch, no uploads under way.
///
/// # Errors
/// Database.
pub fn begin_anew(db: &Connection, epoch: &[u8; 8]) -> Result<()> {
    begin_history(db, &hex(epoch))?;
    db.execute("DELETE FROM upload", [])?;
    Ok(())
}

/// Begins the history `epoch`. What lives gets revisions, and what is made later numbers, that the history
/// before has not given (nor one that began at the same backup): a request that was on its way meanwhile
/// meets nothing that it means.
///
/// # Errors
/// Database.
pub(super) fn begin_history(db: &Connection, epoch: &str) -> Result<()> {
    let mut its = [0; 4];
    its.copy_from_slice(&blake3::hash(epoch.as_bytes()).as_bytes()[..4]);
    let jump = JUMP + i64::from(u32::from_le_bytes(its));
    let all = db.unchecked_transaction()?;
    all.execute("UPDATE text SET v = ?1 WHERE k = 'epoch'", [epoch])?;
    all.execute("UPDATE node SET rev = rev + ?1 WHERE deleted = 0", [jump])?;
    all.execute("UPDATE meta SET v = v + ?1 WHERE k IN ('rev', 'node')", [jump])?;
    all.commit()?;
    Ok(())
}
