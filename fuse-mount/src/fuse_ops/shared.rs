//! What callbacks and replies share, on FUSE threads and on the background thread.
//!
//! Place in the walks: beside every callback. Owner of what the kernel knows and has open in one mount.
use super::replies::Ttl;
use crate::dirs::DirHandle;
use crate::inodes::Inodes;
use crate::mount::Inval;
use crate::open_files::OpenMap;
use parking_lot::Mutex;
use pvfs2_client::sys::StatfsOut;
use pvfs2_client::{Client, OpenFile};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// What replies need, also on the background thread.
pub(crate) struct Shared {
    pub(crate) client: Arc<Client>,
    pub(crate) inodes: Arc<Inodes>,
    pub(crate) files: OpenMap<Opened>,
    pub(crate) dirs: OpenMap<DirHandle>,
    pub(crate) ttl: Ttl,
    /// Counts this mount's own changes; see the head of the file.
    changes: AtomicU64,
    inval: mpsc::Sender<Inval>,
    /// What statfs last learned.
    pub(crate) space: Mutex<Option<StatfsOut>>,
}

/// An open file as the kernel holds it.
pub(crate) struct Opened {
    /// The file.
    pub(crate) file: Arc<OpenFile>,
    /// Its bytes pass the kernel's page cache by.
    pub(crate) direct: bool,
}

impl Shared {
    /// Nothing known, nothing open.
    pub(crate) fn new(
        client: Arc<Client>,
        inodes: Arc<Inodes>,
        ttl: Ttl,
        inval: mpsc::Sender<Inval>,
    ) -> Shared {
        let (files, dirs) = (OpenMap::default(), OpenMap::default());
        let (changes, space) = (AtomicU64::new(0), Mutex::new(None));
        Shared { client, inodes, files, dirs, ttl, changes, inval, space }
    }

    /// This mount has changed something.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it has.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Tells the kernel, from another thread (from this one it could wait for itself).
    pub(crate) fn invalidate(&self, job: Inval) {
        // The receiver is gone only when the mount has ended, and with it whoever waits.
        let _ = self.inval.send(job);
    }
}
