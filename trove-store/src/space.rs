//! A storage space: one folder with `FORMAT`, lock, `keyval/`, `journal/`, `bstreams/`; or the same in
//! memory for simulations.
//!
//! Place in the walks: a server's start and stop. Invariants: one process holds a space at a time;
//! the clean-stop marker is gone while it is open and comes back only after everything is durable.
use crate::bstreams::memory::MemDisk;
use crate::bstreams::{Bstreams, BstreamsOptions};
use crate::collection::{Collection, CollectionOptions, MemCollection};
use crate::format::{self, FormatInfo, SpaceLock};
use parking_lot::Mutex;
use pvfs2_proto::Result;
use pvfs2_proto::env::Env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sizes and times of a storage space.
#[derive(Clone, Debug, Default)]
pub struct TroveOptions {
    /// Of its collection.
    pub collection: CollectionOptions,
    /// Of its bstreams.
    pub bstreams: BstreamsOptions,
}

/// An open storage space.
pub struct StorageSpace {
    /// Keys and values.
    pub collection: Arc<Collection>,
    /// Datafiles.
    pub bstreams: Arc<Bstreams>,
    /// Whether the last stop was clean (or there was none yet).
    pub clean_stop: bool,
    home: Home,
}

enum Home {
    Disk { dir: PathBuf, lock: Mutex<Option<SpaceLock>> },
    Memory(MemSpace),
}

impl StorageSpace {
    /// Makes a storage space in an empty or missing folder.
    ///
    /// # Errors
    /// `WrongFileSystem` when something is there already; `Io`, `NoSpace`.
    pub fn format(dir: &Path, info: &FormatInfo) -> Result<()> {
        format::format(dir, info)?;
        Ok(format::leave_clean_marker(dir)?)
    }

    /// Opens a storage space: checks whose it is, takes its lock, recovers it, starts its threads.
    ///
    /// # Errors
    /// `WrongFileSystem`: not there, of another version, file system or server; `InUse`: open in
    /// another process; `Damaged`, `Io`. Each with the remedy.
    pub fn open(
        dir: &Path,
        expect: &FormatInfo,
        options: TroveOptions,
        env: Env,
    ) -> Result<StorageSpace> {
        format::check(dir, expect)?;
        let lock = SpaceLock::take(dir)?;
        let clean_stop = format::take_clean_marker(dir)?;
        let collection =
            Collection::open(dir, expect.fs_id, expect.keyval, options.collection, env.clone())?;
        let bstreams = Bstreams::open(&dir.join("bstreams"), options.bstreams, env, clean_stop)?;
        Ok(StorageSpace {
            collection: Arc::new(collection),
            bstreams: Arc::new(bstreams),
            clean_stop,
            home: Home::Disk { dir: dir.to_path_buf(), lock: Mutex::new(Some(lock)) },
        })
    }

    /// Stops cleanly: everything is made durable and written down, and calls after it fail. Another
    /// process may open the space then.
    ///
    /// # Errors
    /// The first that came up; the space then counts as not stopped cleanly, and nothing is lost.
    pub fn close(&self) -> Result<()> {
        let collection = self.collection.close();
        let bstreams = self.bstreams.close();
        collection?;
        bstreams?;
        match &self.home {
            Home::Disk { dir, lock } => {
                let mut lock = lock.lock();
                if lock.is_some() {
                    format::leave_clean_marker(dir)?;
                    *lock = None;
                }
            }
            Home::Memory(space) => space.clean.store(true, Ordering::Release),
        }
        Ok(())
    }
}

/// What of a storage space survives the end of its simulated process.
#[derive(Clone, Default)]
pub struct MemSpace {
    /// Keys and values.
    pub collection: MemCollection,
    /// Datafiles.
    pub disk: MemDisk,
    clean: Arc<AtomicBool>,
    used: Arc<AtomicBool>,
}

impl MemSpace {
    /// An empty one.
    pub fn new() -> MemSpace {
        MemSpace::default()
    }

    /// Opens it, after a crash too.
    ///
    /// # Errors
    /// `Io` when it crashes meanwhile.
    pub fn open(&self, env: Env) -> Result<StorageSpace> {
        let first = !self.used.swap(true, Ordering::AcqRel);
        let clean_stop = self.clean.swap(false, Ordering::AcqRel) || first;
        Ok(StorageSpace {
            collection: Arc::new(Collection::open_memory(&self.collection, env.clone())),
            bstreams: Arc::new(Bstreams::open_memory(&self.disk, env)?),
            clean_stop,
            home: Home::Memory(self.clone()),
        })
    }

    /// The process is killed: what was committed and written stays; open instances are dead.
    pub fn crash(&self) {
        self.collection.crash();
        self.disk.crash();
    }

    /// Power is lost: what was synced stays; of the rest, the first `keep` transactions, and the
    /// datafiles that `keep` as a seed chooses (see [`MemDisk::lose_power`]).
    pub fn lose_power(&self, keep: u64) {
        self.collection.lose_power(keep);
        self.disk.lose_power(keep);
    }
}
