//! The inode table: which handles the kernel knows, and how many lookups it owes back.
//!
//! Place in the walks: create and lookup add one, forget takes them back. An inode number is the
//! handle itself; only the mounted directory differs, which the kernel calls 1.
//!
//! Invariant: an entry's count is the number of replies that carried the handle as an entry (lookup,
//! create, mknod, mkdir, symlink, link, readdirplus) minus what forget gave back; at 0 the entry is
//! gone.
//!
//! An entry also holds what is known of the kernel's pages of the file; see [`crate::pages`].
use crate::pages::{Pages, Told};
use fuser::INodeNo;
use parking_lot::Mutex;
use pvfs2_proto::{Attr, Handle};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the kernel calls the root of a mount.
pub const FUSE_ROOT: u64 = 1;
const SHARDS: usize = 32;

#[derive(Default)]
struct Entry {
    lookups: u64,
    pages: Pages,
}

/// The inode table of one mount.
pub struct Inodes {
    root: Handle,
    shards: Vec<Mutex<HashMap<u64, Entry>>>,
    restarts: AtomicU64,
}

impl Inodes {
    /// An empty table of a mount whose root is the directory `root`.
    pub fn new(root: Handle) -> Inodes {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect();
        Inodes { root, shards, restarts: AtomicU64::new(0) }
    }

    /// The mounted directory.
    pub fn root(&self) -> Handle {
        self.root
    }

    /// The handle behind the kernel's inode number.
    pub fn handle(&self, ino: INodeNo) -> Handle {
        if ino.0 == FUSE_ROOT { self.root } else { Handle(ino.0) }
    }

    /// The kernel's inode number for a handle.
    pub fn ino(&self, handle: Handle) -> INodeNo {
        INodeNo(if handle == self.root { FUSE_ROOT } else { handle.0 })
    }

    /// An entry with `handle` is about to be sent to the kernel, with attributes if they are known.
    pub fn remember(&self, handle: Handle, attr: Option<&Attr>) {
        if handle != self.root {
            let new = || Entry { lookups: 0, pages: Pages::new(attr) };
            self.shard(handle).lock().entry(handle.0).or_insert_with(new).lookups += 1;
        }
    }

    /// The kernel gives back `lookups` lookups. True: it has forgotten the handle altogether.
    pub fn forget(&self, handle: Handle, lookups: u64) -> bool {
        if handle == self.root {
            return false;
        }
        let mut shard = self.shard(handle).lock();
        let Some(entry) = shard.get_mut(&handle.0) else { return true };
        entry.lookups = entry.lookups.saturating_sub(lookups);
        if entry.lookups > 0 {
            return false;
        }
        shard.remove(&handle.0);
        true
    }

    /// Lookups that the kernel holds on `handle`.
    pub fn lookups(&self, handle: Handle) -> u64 {
        self.shard(handle).lock().get(&handle.0).map_or(0, |e| e.lookups)
    }

    /// What is known of the kernel's pages of `attr`'s file; `None`: the kernel knows no such file.
    pub fn with_pages<T>(&self, attr: &Attr, f: impl FnOnce(&mut Pages) -> T) -> Option<T> {
        if !attr.is_file() {
            return None;
        }
        let mut shard = self.shard(attr.handle()).lock();
        shard.get_mut(&attr.handle).map(|entry| f(&mut entry.pages))
    }

    /// [`Pages::show`]; the truth about all that is no file.
    pub fn show(&self, attr: &Attr, counted: bool) -> Told {
        self.with_pages(attr, |pages| pages.show(attr, counted)).unwrap_or(Told::Truth)
    }

    /// Bytes of `handle` may have changed that the kernel's pages do not show.
    pub fn doubt_pages(&self, handle: Handle) {
        if let Some(entry) = self.shard(handle).lock().get_mut(&handle.0) {
            entry.pages.doubt();
        }
    }

    /// The kernel has dropped the pages of `handle`.
    pub fn told_old(&self, handle: Handle) {
        if let Some(entry) = self.shard(handle).lock().get_mut(&handle.0) {
            entry.pages.told_old();
        }
    }

    /// Servers have restarted `restarts` times so far: after one that lost power, versions may come
    /// again and mean something else.
    pub fn at_restarts(&self, restarts: u64) {
        if self.restarts.load(Ordering::Acquire) == restarts {
            return;
        }
        for shard in &self.shards {
            shard.lock().values_mut().for_each(|entry| entry.pages.doubt());
        }
        self.restarts.store(restarts, Ordering::Release);
    }

    /// How many inodes the kernel knows, without the root.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// Whether the kernel knows none but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, handle: Handle) -> &Mutex<HashMap<u64, Entry>> {
        // Handles count up, so the low bits spread them evenly.
        &self.shards[handle.0 as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_up_and_down() {
        let t = Inodes::new(Handle::ROOT);
        let h = Handle(77);
        t.remember(h, None);
        t.remember(h, None);
        t.remember(h, None);
        assert_eq!((t.lookups(h), t.len()), (3, 1));
        assert!(!t.forget(h, 2));
        assert_eq!(t.lookups(h), 1);
        assert!(t.forget(h, 1));
        assert!(t.is_empty());
        assert!(t.forget(h, 1), "a forget for an unknown inode is harmless");
    }

    #[test]
    fn pages_are_known_of_files_that_the_kernel_knows() {
        let t = Inodes::new(Handle::ROOT);
        let mode = pvfs2_proto::attr::mode::S_IFREG;
        let attr = Attr { handle: 9, mode, data_version: 5, data_others: 5, ..Attr::default() };
        let keep = |t: &Inodes| t.with_pages(&attr, |p| p.keep_at_open(&attr, false));
        assert_eq!((keep(&t), t.show(&attr, true)), (None, Told::Truth));
        t.remember(Handle(9), None);
        assert_eq!((keep(&t), keep(&t)), (Some(false), Some(true)), "from the first open on");
        t.at_restarts(0);
        assert_eq!(keep(&t), Some(true));
        t.at_restarts(1);
        assert_eq!((keep(&t), keep(&t)), (Some(false), Some(true)), "a server has restarted");
        t.doubt_pages(Handle(9));
        assert_eq!(keep(&t), Some(false));
        assert!(t.forget(Handle(9), 1));
        t.remember(Handle(9), Some(&attr));
        assert_eq!(keep(&t), Some(true), "the kernel has no page that could be old");
    }

    #[test]
    fn the_root_is_one_and_never_forgotten() {
        let t = Inodes::new(Handle(500));
        assert_eq!(t.handle(INodeNo(1)), Handle(500));
        assert_eq!(t.ino(Handle(500)), INodeNo(1));
        assert_eq!(t.handle(INodeNo(9)), Handle(9));
        assert_eq!(t.ino(Handle(9)), INodeNo(9));
        t.remember(Handle(500), None);
        assert!(!t.forget(Handle(500), 9));
        assert!(t.is_empty());
    }
}
