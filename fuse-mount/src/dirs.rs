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
//! Invariants: offset 0 asks the server again (rewinddir sees new names); a page with attributes
//! serves only as long as this mount has changed nothing since it was asked for, because the kernel
//! would believe the older size of a file that was written in between.
use crate::attrs::{file_attr, file_type};
use crate::inodes::Inodes;
use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use parking_lot::Mutex;
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

/// A page of entries as the server answered it.
#[derive(Debug)]
pub struct Page {
    /// The cursor that was asked with.
    pub after: u64,
    /// Entries in cursor order.
    pub entries: Vec<Dirent>,
    /// Nothing follows.
    pub end: bool,
    /// The directory's parent.
    pub parent: Handle,
    /// Asked for with attributes.
    pub plus: bool,
    /// [`DirHandle::page`]'s `epoch` when it was asked for.
    pub epoch: u64,
}

impl Page {
    /// Where the entries after `cursor` begin, if this page can tell.
    fn find(&self, cursor: u64) -> Option<usize> {
        if cursor == self.after {
            return Some(0);
        }
        let at = self.entries.partition_point(|e| e.cursor <= cursor);
        let is_inside = at > 0 && self.entries[at - 1].cursor == cursor;
        (is_inside && (at < self.entries.len() || self.end)).then_some(at)
    }
}

/// An open directory.
pub struct DirHandle {
    /// The directory.
    pub dir: Handle,
    page: Mutex<Option<Arc<Page>>>,
}

impl DirHandle {
    /// A directory just opened.
    pub fn new(dir: Handle) -> DirHandle {
        DirHandle { dir, page: Mutex::new(None) }
    }

    /// The page that goes on at `position`, if it is here and still good. `epoch` counts this
    /// mount's own changes.
    pub fn page(&self, position: Position, plus: bool, epoch: u64) -> Option<Arc<Page>> {
        if position.dots == 0 {
            return None;
        }
        let page = self.page.lock().clone()?;
        let is_good = !plus || (page.plus && page.epoch == epoch);
        (is_good && page.find(position.cursor).is_some()).then_some(page)
    }

    /// Keeps a page for the calls that follow.
    pub fn keep(&self, page: Arc<Page>) {
        *self.page.lock() = Some(page);
    }
}

/// What takes directory entries: the kernel's reply, or a test.
pub trait Sink {
    /// Takes an entry; true when it is full and did not.
    fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool;
    /// As [`Sink::dot`], for an entry of the server.
    fn entry(&mut self, ino: INodeNo, offset: u64, entry: &Dirent) -> bool;
}

/// Fills `sink` from `page`, beginning at `position`.
pub fn fill(sink: &mut dyn Sink, page: &Page, position: Position, dir: Handle, inodes: &Inodes) {
    let parent = if dir == inodes.root() || page.parent == Handle::NULL { dir } else { page.parent };
    if position.dots < 1 && sink.dot(inodes.ino(dir), 1, ".") {
        return;
    }
    if position.dots < 2 && sink.dot(inodes.ino(parent), 2, "..") {
        return;
    }
    let Some(start) = page.find(position.cursor) else { return };
    for entry in &page.entries[start..] {
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
pub struct PlusSink<'a> {
    /// The kernel's reply.
    pub reply: &'a mut ReplyDirectoryPlus,
    /// Counts the lookups.
    pub inodes: &'a Inodes,
    /// Life of names and attributes in the kernel.
    pub ttl: Duration,
    /// Nothing was taken yet.
    pub is_empty: bool,
}

impl Sink for PlusSink<'_> {
    fn dot(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
        // The kernel takes nothing but inode number and type from these two, and counts no lookup.
        let attr = type_only(ino, mode::S_IFDIR);
        let full = self.reply.add(ino, offset, name, &Duration::ZERO, &attr, Generation(0));
        self.is_empty &= full;
        full
    }

    fn entry(&mut self, ino: INodeNo, offset: u64, e: &Dirent) -> bool {
        let (attr, ttl) = match &e.attr {
            Some(attr) => (file_attr(attr, ino), self.ttl),
            // Without attributes (the object's server did not answer) the kernel asks when it needs
            // them: their life is 0.
            None => (type_only(ino, e.kind), Duration::ZERO),
        };
        let name = OsStr::from_bytes(&e.name);
        let full = self.reply.add(ino, offset, name, &ttl, &attr, Generation(0));
        if !full {
            self.inodes.remember(Handle(e.handle));
            self.is_empty = false;
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

    fn page(after: u64, cursors: &[u64], end: bool) -> Page {
        let entries = cursors
            .iter()
            .map(|c| Dirent {
                name: format!("n{c}").into_bytes().into(),
                handle: 1_000 + c,
                kind: 0o100_000,
                cursor: *c,
                attr: None,
            })
            .collect();
        Page { after, entries, end, parent: Handle(7), plus: true, epoch: 0 }
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
        let page = page(0, &[1, 4, 5, 9], true);
        for room in 1..8 {
            let (mut offset, mut all) = (0, Vec::new());
            loop {
                let mut sink = Taken::with_room(room);
                fill(&mut sink, &page, Position::from_offset(offset), Handle(30), &inodes);
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
        let mut sink = Taken::with_room(2);
        let start = Position::from_offset(0);
        fill(&mut sink, &page(0, &[], true), start, Handle(30), &inodes);
        assert_eq!(sink.names, [(30, 1, ".".into()), (7, 2, "..".into())]);
        let mut sink = Taken::with_room(2);
        fill(&mut sink, &page(0, &[], true), start, Handle(500), &inodes);
        assert_eq!(sink.names, [(1, 1, ".".into()), (1, 2, "..".into())], "the root is its own parent");
    }

    #[test]
    fn a_page_serves_where_it_reaches() {
        let d = DirHandle::new(Handle(30));
        let at = Position::from_offset;
        assert!(d.page(at(2), false, 0).is_none());
        d.keep(Arc::new(page(10, &[12, 13], false)));
        assert!(d.page(at(offset_of(10)), false, 0).is_some(), "where it was asked");
        assert!(d.page(at(offset_of(12)), false, 0).is_some(), "inside");
        assert!(d.page(at(offset_of(13)), false, 0).is_none(), "more follows elsewhere");
        assert!(d.page(at(offset_of(11)), false, 0).is_none(), "unknown cursor");
        assert!(d.page(at(0), false, 0).is_none(), "rewinddir asks again");
        d.keep(Arc::new(page(10, &[12, 13], true)));
        assert!(d.page(at(offset_of(13)), false, 0).is_some(), "the end is known");
    }

    #[test]
    fn attributes_serve_until_this_mount_changes_something() {
        let d = DirHandle::new(Handle(30));
        d.keep(Arc::new(page(0, &[1, 2], true)));
        let at = Position::from_offset(2);
        assert!(d.page(at, true, 0).is_some());
        assert!(d.page(at, true, 1).is_none(), "changed since");
        assert!(d.page(at, false, 1).is_some(), "names are good all the same");
        d.keep(Arc::new(Page { plus: false, ..page(0, &[1, 2], true) }));
        assert!(d.page(at, true, 0).is_none(), "no attributes in it");
    }
}
