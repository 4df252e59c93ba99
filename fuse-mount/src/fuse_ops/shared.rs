//! What callbacks and replies share, on FUSE threads and on the background thread.
//!
//! Place in the walks: beside every callback. Owner of what the kernel knows and has open in one mount.
use super::replies::Ttl;
use crate::dirs::{DirHandle, Listed};
use crate::inodes::Inodes;
use crate::mount::{Inval, Kernel};
use crate::open_files::OpenMap;
use crate::pages::Told;
use parking_lot::Mutex;
use pvfs2_client::sys::StatfsOut;
use pvfs2_client::{Client, OpenFile};
use pvfs2_proto::{Attr, Handle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What replies need, also on the background thread.
pub(crate) struct Shared {
    pub(crate) client: Arc<Client>,
    pub(crate) inodes: Arc<Inodes>,
    pub(crate) files: OpenMap<Opened>,
    pub(crate) dirs: OpenMap<DirHandle>,
    pub(crate) listed: Listed,
    pub(crate) ttl: Ttl,
    /// Counts this mount's own changes; see the head of the file.
    changes: AtomicU64,
    kernel: Kernel,
    /// The kernel holds writes back, and believes its own sizes and times of files.
    pub(crate) writeback: bool,
    warned: AtomicBool,
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
        kernel: Kernel,
        writeback: bool,
    ) -> Shared {
        let (files, dirs) = (OpenMap::default(), OpenMap::default());
        let (changes, space) = (AtomicU64::new(0), Mutex::new(None));
        let listed = Listed::new(ttl.both.as_millis() as u64);
        let warned = AtomicBool::new(false);
        Shared {
            client,
            inodes,
            files,
            dirs,
            listed,
            ttl,
            changes,
            kernel,
            writeback,
            warned,
            space,
        }
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
        let _ = self.kernel.inval.send(job);
    }

    /// What the kernel is to be told with `attr`; see [`Pages::show`](crate::pages::Pages::show).
    pub(crate) fn told(&self, attr: &Attr, counted: bool) -> Told {
        self.inodes.at_restarts(self.client.restarts());
        if !self.writeback {
            return self.inodes.show(attr, counted);
        }
        // No mtime tells it anything.
        let told = self.inodes.with_pages(attr, |p| p.show_changed(attr)).unwrap_or(Told::Truth);
        if told == Told::Old && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                handle = %attr.handle(),
                "another mount has changed a file that this one knows, and this one is mounted with \
                 writeback: its size may be wrong here until the file is forgotten (unmount this one, \
                 or mount without writeback)"
            );
        }
        told
    }

    /// The kernel's pages of a file are old: it drops them, and then `then` is called.
    pub(crate) fn drop_pages(&self, handle: Handle, then: impl FnOnce() + Send + 'static) {
        let inodes = self.inodes.clone();
        let then = Box::new(move || {
            inodes.told_old(handle);
            then();
        });
        self.invalidate(Inval::Then { ino: self.inodes.ino(handle), then });
    }

    /// Has the kernel hand the attributes that follow to who asked for them, without taking them over
    /// itself: an answer to a question older than a notice is not news to it. `false`: it cannot be
    /// told. From this thread: a notice about attributes alone waits for no page.
    pub(crate) fn have_attr_passed_on(&self, handle: Handle) -> bool {
        let ino = self.inodes.ino(handle);
        self.kernel.notifier.get().is_some_and(|n| n.inval_inode(ino, -1, 0).is_ok())
    }
}
