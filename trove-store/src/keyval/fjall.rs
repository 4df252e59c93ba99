//! Keyval method `fjall` (3.1): one keyspace, filled by ingestion.
//!
//! Place in the walks: below [`crate::collection`], only from its applier and for reads that miss
//! the overlay. Invariant: an [`Keyval::apply`] that has returned is durable against loss of power,
//! whole or not at all, so that [`Keyval::flush`] has nothing left to do.
//!
//! Read in fjall 3.1.13 and lsm-tree 3.1.10, and relied on:
//! - changes do not pass fjall's own journal and memtable: the collection's journal has them
//!   already, and a generation of the overlay is sorted, so it becomes a table of its own at once
//!   (`ingestion.rs`, `tree/ingest.rs`). `finish` writes the tables, calls `sync_all` on each and
//!   fsyncs their folder (`table/writer/mod.rs`), then writes the new version with `sync_all`,
//!   fsyncs its folder, and replaces `current` by a synced rename (`version/persist.rs`). This is
//!   what `PersistMode::SyncAll` promises for fjall's journal, without the journal.
//! - keys must ascend, each once, or ingestion panics; the overlay is a map.
//! - ingestion waits for nobody: compaction may fall behind. [`Keyval::apply`] waits itself while
//!   there are `RUNS_MAX` runs in level 0, as fjall's own inserts would.
//! - a database that was cut off while it was being made is not opened again (`db.rs`), so it is
//!   made aside and renamed.
use super::{KeyChange, Keyval, LOCK_PAUSE, LOCK_TRIES, bounds, prefix_end};
use crate::error::{Result, TroveError};
use crate::format::sync_dir;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FOLDER: &str = "fjall";
const ASIDE: &str = "fjall.new";
const KEYSPACE: &str = "keyval";
/// Threads that compact.
const WORKERS: usize = 1;
/// Tables whose files are kept open.
const OPEN_TABLES_MAX: usize = 128;
/// No further run is added to level 0 while it has so many.
const RUNS_MAX: usize = 20;
const RUNS_PAUSE: Duration = Duration::from_millis(10);

/// fjall in a folder.
pub struct FjallKeyval {
    dir: PathBuf,
    keys: Keyspace,
    /// Dropped last: waits for the worker.
    _db: Database,
}

impl FjallKeyval {
    /// Opens or makes the store in `dir`.
    ///
    /// # Errors
    /// `Fjall`, `Os`; `Damaged` when its keyspace is missing.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<FjallKeyval> {
        let home = dir.join(FOLDER);
        if !home.exists() {
            make(dir, &home)?;
        }
        let db = open_database(&home, cache_bytes)?;
        if !db.keyspace_exists(KEYSPACE) {
            return Err(TroveError::Damaged(format!(
                "{}: fjall's keyspace is missing; restore this server's storage space from a copy",
                home.display()
            )));
        }
        let keys = db.keyspace(KEYSPACE, KeyspaceCreateOptions::default);
        let keys = keys.map_err(fail(&home))?;
        Ok(FjallKeyval { dir: home, keys, _db: db })
    }

    fn fail(&self, source: fjall::Error) -> TroveError {
        fail(&self.dir)(source)
    }
}

fn fail(dir: &Path) -> impl FnOnce(fjall::Error) -> TroveError {
    let path = dir.to_path_buf();
    move |source| TroveError::Fjall { path, source }
}

/// Makes the database aside, so that one that was cut off in the making is never taken for whole.
fn make(dir: &Path, home: &Path) -> Result<()> {
    let aside = dir.join(ASIDE);
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(TroveError::os("remove", &aside)(e));
        }
        _ => {}
    }
    let db = open_database(&aside, 0)?;
    let keys = db.keyspace(KEYSPACE, KeyspaceCreateOptions::default).map_err(fail(&aside))?;
    drop((keys, db));
    std::fs::rename(&aside, home).map_err(TroveError::os("rename to", home))?;
    sync_dir(dir)
}

fn open_database(home: &Path, cache_bytes: u64) -> Result<Database> {
    let mut patience = LOCK_TRIES;
    loop {
        let builder = Database::builder(home)
            .cache_size(cache_bytes)
            .worker_threads(WORKERS)
            .max_cached_files(Some(OPEN_TABLES_MAX));
        match builder.open() {
            Err(fjall::Error::Locked) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened.map_err(fail(home)),
        }
    }
}

impl Keyval for FjallKeyval {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.keys.get(key).map_err(|e| self.fail(e))?;
        // Copied: a slice would hold its whole block.
        Ok(found.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn apply(&self, changes: &mut dyn Iterator<Item = KeyChange<'_>>) -> Result<()> {
        let mut changes = changes.peekable();
        // An ingestion of nothing would leave an empty table's file.
        if changes.peek().is_none() {
            return Ok(());
        }
        while self.keys.l0_table_count() >= RUNS_MAX {
            std::thread::sleep(RUNS_PAUSE);
        }
        let mut tables = self.keys.start_ingestion().map_err(|e| self.fail(e))?;
        for (key, value) in changes {
            let done = match value {
                Some(value) => tables.write(key.as_ref(), value.as_ref()),
                None => tables.write_tombstone(key.as_ref()),
            };
            done.map_err(|e| self.fail(e))?;
        }
        tables.finish().map_err(|e| self.fail(e))
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<()> {
        let end = prefix_end(prefix);
        for entry in self.keys.range::<&[u8], _>(bounds(prefix, after, end.as_deref())) {
            let (k, v) = entry.into_inner().map_err(|e| self.fail(e))?;
            if !each(Bytes::copy_from_slice(&k), Bytes::copy_from_slice(&v)) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
