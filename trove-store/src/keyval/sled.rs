//! Keyval method `sled` (0.34): one tree, plain inserts and removes.
//!
//! Place in the walks: below [`crate::collection`], only from its applier and for reads that miss
//! the overlay. Invariant: after [`Keyval::flush`] sled's file and folder are synced by descriptors
//! of our own, because sled's own flush ends in `sync_file_range`, which is no barrier.
//!
//! Read in sled 0.34.7: a leaf splits above 16 items (`node.rs`); a page longer than a quarter of a
//! segment goes to a file of its own under `blobs/`, which sled never syncs (`blob_io.rs`). With
//! segments of [`SLED_SEGMENT_BYTES`] a leaf of 16 values of 64 KiB stays below that, so blobs only
//! appear for larger values; `flush` syncs them too.
use super::{KeyChange, Keyval, LOCK_PAUSE, LOCK_TRIES, bounds, prefix_end};
use crate::error::{Result, TroveError};
use bytes::Bytes;
use std::fs::File;
use std::path::{Path, PathBuf};

/// sled's segment, its unit of allocation and of cleaning.
pub const SLED_SEGMENT_BYTES: usize = 8 << 20;

/// What sled 0.34.7 says when its file is locked (`config.rs`).
const LOCK_HELD: &str = "could not acquire lock";

/// sled in a folder.
pub struct SledKeyval {
    dir: PathBuf,
    db: sled::Db,
    file: File,
}

impl SledKeyval {
    /// Opens or makes the store in `dir`.
    ///
    /// # Errors
    /// `Sled`, `Os`.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<SledKeyval> {
        let fail = |source| TroveError::Sled { path: dir.to_path_buf(), source };
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .segment_size(SLED_SEGMENT_BYTES)
            .flush_every_ms(None);
        // sled's pool may hold the file of an instance that this process has just dropped.
        let mut patience = LOCK_TRIES;
        let db = loop {
            match config.open() {
                Err(sled::Error::Io(e)) if patience > 0 && e.to_string().contains(LOCK_HELD) => {
                    patience -= 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => break opened.map_err(fail)?,
            }
        };
        let path = dir.join("db");
        let file = File::open(&path).map_err(TroveError::os("open", &path))?;
        Ok(SledKeyval { dir: dir.to_path_buf(), db, file })
    }

    fn fail(&self, source: sled::Error) -> TroveError {
        TroveError::Sled { path: self.dir.clone(), source }
    }
}

impl Keyval for SledKeyval {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.db.get(key).map_err(|e| self.fail(e))?;
        Ok(found.map(|v| Bytes::copy_from_slice(&v)))
    }
    fn apply(&self, changes: &mut dyn Iterator<Item = KeyChange<'_>>) -> Result<()> {
        for (key, value) in changes {
            let done = match value {
                Some(value) => self.db.insert(key.as_ref(), value.as_ref()),
                None => self.db.remove(key.as_ref()),
            };
            done.map_err(|e| self.fail(e))?;
        }
        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<()> {
        let end = prefix_end(prefix);
        for entry in self.db.range::<&[u8], _>(bounds(prefix, after, end.as_deref())) {
            let (k, v) = entry.map_err(|e| self.fail(e))?;
            if !each(Bytes::copy_from_slice(&k), Bytes::copy_from_slice(&v)) {
                break;
            }
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.db.flush().map_err(|e| self.fail(e))?;
        self.file.sync_all().map_err(TroveError::os("sync sled's file in", &self.dir))?;
        let blobs = self.dir.join("blobs");
        for entry in std::fs::read_dir(&blobs).map_err(TroveError::os("list", &blobs))? {
            let path = entry.map_err(TroveError::os("list", &blobs))?.path();
            match File::open(&path).and_then(|f| f.sync_all()) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(TroveError::os("sync", &path))?,
            }
        }
        crate::format::sync_dir(&blobs)?;
        crate::format::sync_dir(&self.dir)
    }
}
