//! Exclusion of writers of one datafile: write, truncate, punch and remove take the datafile's lock,
//! so that a request with several extents is one step, and what it undoes for want of space is its
//! own. Readers take none: a read that meets a write may see part of it, as on any local file.
//!
//! The kernel lets one writer at a time into an inode anyway, so the lock costs no parallelism.
//! Invariant: never held across an await (tasks of one event loop share a thread).
use parking_lot::{Mutex, MutexGuard};
use pvfs2_proto::Handle;

/// Locks shared by all datafiles: enough that two busy ones seldom meet.
const SHARDS: usize = 1024;

/// The locks of all datafiles.
pub struct DatafileLocks {
    shards: Box<[Mutex<()>]>,
}

impl Default for DatafileLocks {
    fn default() -> DatafileLocks {
        DatafileLocks { shards: (0..SHARDS).map(|_| Mutex::new(())).collect() }
    }
}

impl DatafileLocks {
    /// Excludes other writers of `datahandle` until the guard is dropped.
    pub fn lock(&self, datahandle: Handle) -> MutexGuard<'_, ()> {
        // Datahandles of one metadata server are consecutive: the multiplication spreads them.
        let mixed = datahandle.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        self.shards[mixed as usize % SHARDS].lock()
    }
}
