//! The inode table: which handles the kernel knows, and how many lookups it owes back.
//!
//! Place in the walks: create and lookup add one, forget takes them back. An inode number is the
//! handle itself; only the mounted directory differs, which the kernel calls 1.
//!
//! Invariant: an entry's count is the number of replies that carried the handle as an entry (lookup,
//! create, mknod, mkdir, symlink, link, readdirplus) minus what forget gave back; at 0 the entry is
//! gone.
//!
//! An entry also remembers which state of the bytes the kernel's pages show, so that opening a file
//! for reading that nobody has changed keeps them. Read and filled by open; anything this mount or
//! another does to the bytes moves the file's change count on, and then the next open drops them.
use fuser::INodeNo;
use parking_lot::Mutex;
use pvfs2_proto::{Attr, AttrFlags, Handle};
use std::collections::HashMap;

/// What the kernel calls the root of a mount.
pub const FUSE_ROOT: u64 = 1;
const SHARDS: usize = 32;

#[derive(Default)]
struct Entry {
    lookups: u64,
    /// The file's change count at the last open for reading; `None`: its pages may show anything.
    seen_change: Option<u64>,
}

/// The inode table of one mount.
pub struct Inodes {
    root: Handle,
    shards: Vec<Mutex<HashMap<u64, Entry>>>,
}

impl Inodes {
    /// An empty table of a mount whose root is the directory `root`.
    pub fn new(root: Handle) -> Inodes {
        Inodes { root, shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect() }
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

    /// An entry with `handle` is about to be sent to the kernel.
    pub fn remember(&self, handle: Handle) {
        if handle != self.root {
            self.shard(handle).lock().entry(handle.0).or_default().lookups += 1;
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

    /// `attr` came with an open. True: the kernel may keep the file's pages. Only an open for
    /// reading of a file whose change count tells everything may do so, or be remembered.
    pub fn may_keep_pages(&self, attr: &Attr, write: bool) -> bool {
        let is_known = !write && !attr.has(AttrFlags::SIZE_DYNAMIC);
        let mut shard = self.shard(attr.handle()).lock();
        let Some(entry) = shard.get_mut(&attr.handle) else { return false };
        let now = is_known.then_some(attr.change);
        let before = std::mem::replace(&mut entry.seen_change, now);
        is_known && before == now
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
        t.remember(h);
        t.remember(h);
        t.remember(h);
        assert_eq!((t.lookups(h), t.len()), (3, 1));
        assert!(!t.forget(h, 2));
        assert_eq!(t.lookups(h), 1);
        assert!(t.forget(h, 1));
        assert!(t.is_empty());
        assert!(t.forget(h, 1), "a forget for an unknown inode is harmless");
    }

    #[test]
    fn pages_stay_while_nobody_changes_the_file() {
        let t = Inodes::new(Handle::ROOT);
        let mut attr = Attr { handle: 9, change: 5, ..Attr::default() };
        assert!(!t.may_keep_pages(&attr, false), "the kernel does not know it");
        t.remember(Handle(9));
        assert!(!t.may_keep_pages(&attr, false), "first open");
        assert!(t.may_keep_pages(&attr, false), "nothing happened");
        attr.change = 6;
        assert!(!t.may_keep_pages(&attr, false), "changed");
        assert!(t.may_keep_pages(&attr, false));
        assert!(!t.may_keep_pages(&attr, true), "opened for writing");
        assert!(!t.may_keep_pages(&attr, false), "it may have been written");
        attr.set(AttrFlags::SIZE_DYNAMIC, true);
        assert!(!t.may_keep_pages(&attr, false), "somebody writes");
        assert!(!t.may_keep_pages(&attr, false));
    }

    #[test]
    fn the_root_is_one_and_never_forgotten() {
        let t = Inodes::new(Handle(500));
        assert_eq!(t.handle(INodeNo(1)), Handle(500));
        assert_eq!(t.ino(Handle(500)), INodeNo(1));
        assert_eq!(t.handle(INodeNo(9)), Handle(9));
        assert_eq!(t.ino(Handle(9)), INodeNo(9));
        t.remember(Handle(500));
        assert!(!t.forget(Handle(500), 9));
        assert!(t.is_empty());
    }
}
