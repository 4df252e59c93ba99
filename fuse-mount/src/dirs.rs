//! Open directories: pages of entries kept per handle, and the map between cursors and offsets.
//!
//! Place in the walks: readdir and readdirplus. The server numbers entries by cursors that stay
//! right while names come and go (from 1); the kernel knows them as offsets, in which "." and ".."
//! come first:
//!
//! | offset in a request | what follows |
//! |---|---|
//! | 0 | ".", then "..", then everything |
//! | 1 | "..", then everything |
//! | 2 | everything |
//! | n > 2 | the entries after cursor n - 2 |
//!
//! The kernel keeps a listing too, and looks by itself whether the directory has changed through this
//! mount; it is told to use that again as long as names are believed ([`Listed`]).
//!
//! Invariant: a page with attributes serves only as long as this mount has changed nothing since it
//! was begun, because the kernel would believe the older size of a file written in between.
use crate::attrs::{file_attr, file_type};
use crate::fuse_ops::Shared;
use crate::inodes::Inodes;
use fuser::{
    FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
};
use parking_lot::Mutex;
use pvfs2_client::sys;
use pvfs2_client::timed_map::TimedMap;
use pvfs2_proto::attr::mode;
use pvfs2_proto::op::Dirent;
use pvfs2_proto::{Attr, Handle};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// Offsets below this are "." and "..".
const DOTS: u64 = 2;

/// A place in a directory stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// How many of "." and ".." have been given: 0, 1 or 2.
    pub dots: u64,
    /// The cursor after which to go on.
    pub cursor: u64,
}

impl Position {
    /// The place that the kernel means by `offset`.
    pub fn from_offset(offset: u64) -> Position {
        Position { dots: offset.min(DOTS), cursor: offset.saturating_sub(DOTS) }
    }
}

/// The offset that the kernel shall remember for the entry with `cursor`.
pub fn offset_of(cursor: u64) -> u64 {
    cursor.saturating_add(DOTS)
}

/// An open directory.
pub struct DirHandle {
    /// The directory.
    pub dir: Handle,
    /// Pages as `client-lib` keeps them, and how often this mount had changed something when they
    /// were begun.
    pages: Mutex<(u64, Arc<sys::DirHandle>)>,
    /// The kernel was told to use the listing that it has.
    pub kept: bool,
}

impl DirHandle {
    /// A directory just opened.
    pub fn new(dir: Handle, kept: bool) -> DirHandle {
        DirHandle { dir, pages: Mutex::new((0, sys::DirHandle::new(dir))), kept }
    }

    /// The pages to read on from. With attributes (`plus`), only those that were begun at the same
    /// count of this mount's own `changes`.
    pub fn pages(&self, plus: bool, changes: u64) -> Arc<sys::DirHandle> {
        let mut pages = self.pages.lock();
        if plus && pages.0 != changes {
            *pages = (changes, sys::DirHandle::new(self.dir));
        }
        pages.1.clone()
    }
}

/// Directories whose listing the kernel may use again, from when their first names were asked for.
pub struct Listed(TimedMap<u64, ()>);

/// Most directories that are remembered.
const LISTED_MAX: usize = 16_384;

impl Listed {
    /// None; each is remembered for `timeout_ms`.
    pub fn new(timeout_ms: u64) -> Listed {
        Listed(TimedMap::new(timeout_ms, LISTED_MAX))
    }

    /// What the kernel is to be told when `dir` is opened: nothing, to keep the listing that it will
    /// read, to use (`true`) the one that it has.
    pub fn flags(&self, dir: Handle, now_ns: i64) -> (FopenFlags, bool) {
        let kept = self.0.get(&dir.0, now_ns).is_some();
        let flags = match kept {
            true => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            false if self.0.is_on() => FopenFlags::FOPEN_CACHE_DIR,
            false => FopenFlags::empty(),
        };
        (flags, kept)
    }

    /// The listing of a directory begins, with names that were asked for at `asked_ns`. One that was
    /// opened to use what the kernel has may only add to that, so it makes it no younger.
    pub fn begins(&self, dir: &DirHandle, asked_ns: i64) {
        if !dir.kept {
            self.0.upsert(dir.dir.0, asked_ns, |_| Some(()));
        }
    }
}

/// What takes directory entries: the kernel's reply, or a test.
pub trait Sink {
    /// Takes an entry; true when it is full and did not.
    fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool;
    /// As [`Sink::dot`], for an entry of the server.
    fn entry(&mut self, ino: INodeNo, offset: u64, entry: &Dirent) -> bool;
}

/// Fills `sink` with "." and ".." as far as `position` says, then with `entries`. `here` and
/// `parent`: the directory and the one above it.
pub fn fill(
    sink: &mut dyn Sink,
    entries: &[Dirent],
    position: Position,
    (here, parent): (Handle, Handle),
    inodes: &Inodes,
) {
    let parent = if here == inodes.root() || parent == Handle::NULL { here } else { parent };
    if position.dots < 1 && sink.dot(inodes.ino(here), 1, ".") {
        return;
    }
    if position.dots < 2 && sink.dot(inodes.ino(parent), 2, "..") {
        return;
    }
    for entry in entries {
        let ino = inodes.ino(Handle(entry.handle));
        if sink.entry(ino, offset_of(entry.cursor), entry) {
            return;
        }
    }
}

/// Names and types only.
pub struct PlainSink<'a>(pub &'a mut ReplyDirectory);

impl Sink for PlainSink<'_> {
    fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
        self.0.add(ino, offset, FileType::Directory, name)
    }
    fn entry(&mut self, ino: INodeNo, offset: u64, e: &Dirent) -> bool {
        self.0.add(ino, offset, file_type(e.kind), OsStr::from_bytes(&e.name))
    }
}

/// With attributes; each entry taken counts as a lookup.
pub(crate) struct PlusSink<'a> {
    /// The kernel's reply.
    pub reply: &'a mut ReplyDirectoryPlus,
    /// Counts the lookups, and knows what the kernel is to be told.
    pub shared: &'a Shared,
    /// Life of names and attributes in the kernel.
    pub ttl: Duration,
}

impl Sink for PlusSink<'_> {
    fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
        // The kernel takes nothing but inode number and type from these two, and counts no lookup.
        let attr = type_only(ino, mode::S_IFDIR);
        self.reply.add(ino, offset, name, &Duration::ZERO, &attr, Generation(0))
    }

    fn entry(&mut self, ino: INodeNo, offset: u64, e: &Dirent) -> bool {
        let (attr, ttl) = match &e.attr {
            Some(attr) => {
                let joined = self.shared.is_joined(attr.handle());
                self.shared.shown(attr, if joined { Duration::ZERO } else { self.ttl })
            }
            // Without attributes (the object's server did not answer) the kernel asks when it needs
            // them: their life is 0.
            None => (type_only(ino, e.kind), Duration::ZERO),
        };
        let name = OsStr::from_bytes(&e.name);
        let full = self.reply.add(ino, offset, name, &ttl, &attr, Generation(0));
        if !full {
            self.shared.inodes.remember(Handle(e.handle), e.attr.as_ref());
        }
        full
    }
}

fn type_only(ino: INodeNo, kind: u32) -> FileAttr {
    file_attr(&Attr { mode: kind, nlink: 1, ..Attr::default() }, ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Taken {
        names: Vec<(u64, u64, String)>,
        room: usize,
    }

    impl Taken {
        fn with_room(room: usize) -> Taken {
            Taken { names: Vec::new(), room }
        }
        fn take(&mut self, ino: INodeNo, offset: u64, name: &[u8]) -> bool {
            if self.names.len() == self.room {
                return true;
            }
            self.names.push((ino.0, offset, String::from_utf8_lossy(name).into_owned()));
            false
        }
    }

    impl Sink for Taken {
        fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
            self.take(ino, offset, name.as_bytes())
        }
        fn entry(&mut self, ino: INodeNo, offset: u64, e: &Dirent) -> bool {
            self.take(ino, offset, &e.name)
        }
    }

    fn entries(cursors: &[u64]) -> Vec<Dirent> {
        cursors
            .iter()
            .map(|c| Dirent {
                name: format!("n{c}").into_bytes().into(),
                handle: 1_000 + c,
                kind: 0o100_000,
                cursor: *c,
                attr: None,
            })
            .collect()
    }

    #[test]
    fn offsets_of_dots_and_cursors_never_collide() {
        assert_eq!(Position::from_offset(0), Position { dots: 0, cursor: 0 });
        assert_eq!(Position::from_offset(1), Position { dots: 1, cursor: 0 });
        assert_eq!(Position::from_offset(2), Position { dots: 2, cursor: 0 });
        for cursor in [1, 2, 3, 99, u64::MAX - 2] {
            let offset = offset_of(cursor);
            assert!(offset > 2);
            assert_eq!(Position::from_offset(offset), Position { dots: 2, cursor });
        }
    }

    #[test]
    fn any_buffer_size_gives_every_name_once() {
        let inodes = Inodes::new(Handle::ROOT);
        let whole = entries(&[1, 4, 5, 9]);
        for room in 1..8 {
            let (mut offset, mut all) = (0, Vec::new());
            loop {
                let mut sink = Taken::with_room(room);
                let position = Position::from_offset(offset);
                let after = whole.partition_point(|e| e.cursor <= position.cursor);
                fill(&mut sink, &whole[after..], position, (Handle(30), Handle(7)), &inodes);
                let Some(last) = sink.names.last() else { break };
                offset = last.1;
                all.extend(sink.names.iter().map(|n| n.2.clone()));
            }
            assert_eq!(all, [".", "..", "n1", "n4", "n5", "n9"], "room {room}");
        }
    }

    #[test]
    fn dots_carry_directory_and_parent() {
        let inodes = Inodes::new(Handle(500));
        let start = Position::from_offset(0);
        let dots = |here, parent| {
            let mut sink = Taken::with_room(2);
            fill(&mut sink, &[], start, (Handle(here), Handle(parent)), &inodes);
            sink.names.iter().map(|n| (n.0, n.1)).collect::<Vec<_>>()
        };
        assert_eq!(dots(30, 7), [(30, 1), (7, 2)]);
        assert_eq!(dots(30, 500), [(30, 1), (1, 2)], "the mount's root is 1");
        assert_eq!(dots(500, 7), [(1, 1), (1, 2)], "and its own parent");
        assert_eq!(dots(30, 0), [(30, 1), (30, 2)], "a parent that nobody knows");
    }

    #[test]
    fn attributes_serve_until_this_mount_changes_something() {
        let d = DirHandle::new(Handle(30), false);
        let first = d.pages(true, 0);
        assert!(Arc::ptr_eq(&first, &d.pages(true, 0)));
        assert!(Arc::ptr_eq(&first, &d.pages(false, 1)), "names are good all the same");
        assert!(!Arc::ptr_eq(&first, &d.pages(true, 1)), "changed since");
    }

    #[test]
    fn the_kernels_listing_serves_as_long_as_names_are_believed() {
        const MS: i64 = 1_000_000;
        let (listed, dir) = (Listed::new(10), Handle(30));
        let first = |now_ns| {
            let (flags, kept) = listed.flags(dir, now_ns);
            assert!(flags.contains(FopenFlags::FOPEN_CACHE_DIR));
            assert_eq!(flags.contains(FopenFlags::FOPEN_KEEP_CACHE), kept);
            kept
        };
        assert!(!first(0));
        listed.begins(&DirHandle::new(dir, false), 0);
        assert!(first(9 * MS));
        listed.begins(&DirHandle::new(dir, true), 9 * MS);
        assert!(!first(10 * MS), "no younger than its oldest names");
        let off = Listed::new(0);
        off.begins(&DirHandle::new(dir, false), 0);
        assert_eq!(off.flags(dir, 0), (FopenFlags::empty(), false));
    }
}
