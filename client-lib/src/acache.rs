//! acache: handle -> attributes, with the size already made exact where it is dynamic.
//!
//! | operation | acache |
//! |---|---|
//! | lookup, getattr, getxattr, lseek, read (size at the end of a file), open | read |
//! | lookup, lookup_path, getattr, readdir with attributes, open, read_small | filled from the answer |
//! | create, mkdir, mknod, symlink, link, setattr, write_small, append, unstuff, fallocate, setxattr, removexattr, report | filled from the answer (newest change wins) |
//! | write to datafiles | size and mtime of the entry raised where it stands |
//! | unlink, rmdir, rename | the object, what it replaced, and the directories dropped |
//! | release of a file that was written | dropped (the server has set times and size) |
//! | any operation failing with Stale | the object dropped |
//! | notice | the named handles dropped; restart of a server: everything |
//!
//! Invariants: with a timeout of 0 nothing is kept and nothing is read; an answer with a lower
//! `change` never replaces one with a higher; what this client wrote and has not reported is merged
//! by the reader (`attrs.rs`), not here.
use crate::timed_map::TimedMap;
use pvfs2_proto::{Attr, Handle};

/// Most entries that an acache keeps (about 250 bytes each).
pub const ACACHE_ENTRIES_MAX: usize = 131_072;

/// The cache of attributes.
pub struct Acache {
    map: TimedMap<u64, Attr>,
}

impl Acache {
    /// A cache whose entries live `timeout_ms`; 0: off.
    pub fn new(timeout_ms: u64) -> Acache {
        Acache { map: TimedMap::new(timeout_ms, ACACHE_ENTRIES_MAX) }
    }
    /// Whether it keeps anything.
    pub fn is_on(&self) -> bool {
        self.map.is_on()
    }
    /// Attributes of `handle`, if they are fresh.
    pub fn get(&self, handle: Handle, now_ns: i64) -> Option<Attr> {
        self.map.get(&handle.0, now_ns)
    }
    /// See [`TimedMap::left_ns`].
    pub fn left_ns(&self, handle: Handle, now_ns: i64) -> Option<u64> {
        self.map.left_ns(&handle.0, now_ns)
    }
    /// Size of `handle`, if its attributes are fresh.
    pub fn size(&self, handle: Handle, now_ns: i64) -> Option<u64> {
        self.map.view(&handle.0, now_ns, |attr| attr.size)
    }
    /// See [`TimedMap::moment`].
    pub fn moment(&self) -> u64 {
        self.map.moment()
    }
    /// See [`TimedMap::is_dropped_since`].
    pub fn is_dropped_since(&self, moment: u64, handle: Handle) -> bool {
        self.map.is_dropped_since(moment, &handle.0)
    }
    /// Keeps the answer to a question that was sent at `moment`.
    pub fn fill_since(&self, moment: u64, attr: &Attr, now_ns: i64) {
        if self.map.is_on() {
            self.map.upsert_since(moment, attr.handle, now_ns, |there| newest(there, attr));
        }
    }
    /// Keeps the answer to a change that this client made.
    pub fn fill(&self, attr: &Attr, now_ns: i64) {
        if self.map.is_on() {
            self.map.upsert(attr.handle, now_ns, |there| newest(there, attr));
        }
    }
    /// This client wrote bytes of datafiles up to `end` at `mtime_ns`.
    pub fn wrote(&self, handle: Handle, end: u64, mtime_ns: i64) {
        self.map.update(&handle.0, |attr| {
            attr.size = attr.size.max(end);
            attr.mtime_ns = attr.mtime_ns.max(mtime_ns);
            attr.ctime_ns = attr.ctime_ns.max(mtime_ns);
        });
    }
    /// Drops an object's attributes.
    pub fn drop_handle(&self, handle: Handle) {
        self.map.remove(&handle.0);
    }
    /// Drops everything.
    pub fn clear(&self) {
        self.map.clear();
    }
    /// Entries held.
    pub fn len(&self) -> usize {
        self.map.len()
    }
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

fn newest(there: Option<&Attr>, attr: &Attr) -> Option<Attr> {
    there.is_none_or(|t| t.change <= attr.change).then(|| attr.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_wins_and_own_writes_raise_it() {
        let c = Acache::new(1_000);
        let attr = |change, size| Attr { handle: 5, change, size, ..Default::default() };
        c.fill(&attr(3, 30), 0);
        c.fill(&attr(2, 20), 0);
        assert_eq!(c.get(Handle(5), 1).map(|a| a.size), Some(30));
        c.wrote(Handle(5), 100, 7);
        assert_eq!(c.get(Handle(5), 1).map(|a| (a.size, a.mtime_ns)), Some((100, 7)));
        c.fill(&attr(4, 10), 0);
        assert_eq!(c.get(Handle(5), 1).map(|a| a.size), Some(10));
        let moment = c.moment();
        c.drop_handle(Handle(5));
        c.fill_since(moment, &attr(9, 9), 0);
        assert_eq!(c.get(Handle(5), 1), None);
    }
}
