//! ncache: (directory, name) -> handle, and names known not to exist.
//!
//! | operation | ncache |
//! |---|---|
//! | lookup, lookup_path (first component) | read; filled from the answer, also with "does not exist" |
//! | readdir with attributes | filled |
//! | create, mkdir, mknod, symlink, link | filled |
//! | unlink, rmdir | filled with "does not exist" |
//! | rename | old name filled with "does not exist" (exchange: both names dropped), new name filled |
//! | any of those failing with Exists, NotFound, Stale | the name dropped |
//! | notice, restart of a server | everything dropped |
//!
//! Invariant: with a timeout of 0 nothing is kept and nothing is read.
use crate::timed_map::TimedMap;
use bytes::Bytes;
use pvfs2_proto::Handle;

/// Most entries that an ncache keeps (about 100 bytes each).
pub const NCACHE_ENTRIES_MAX: usize = 262_144;

/// What the cache says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It names this object.
    Handle(Handle),
    /// It names nothing.
    Absent,
}

/// The cache of names.
pub struct Ncache {
    map: TimedMap<(u64, Bytes), Cached>,
}

impl Ncache {
    /// A cache whose entries live `timeout_ms`; 0: off.
    pub fn new(timeout_ms: u64) -> Ncache {
        Ncache { map: TimedMap::new(timeout_ms, NCACHE_ENTRIES_MAX) }
    }
    /// Whether it keeps anything.
    pub fn is_on(&self) -> bool {
        self.map.is_on()
    }
    /// What is known about `name` in `dir`.
    pub fn get(&self, dir: Handle, name: &Bytes, now_ns: i64) -> Option<Cached> {
        self.map.is_on().then(|| self.map.get(&(dir.0, name.clone()), now_ns)).flatten()
    }
    /// See [`TimedMap::left_ns`].
    pub fn left_ns(&self, dir: Handle, name: &Bytes, now_ns: i64) -> Option<u64> {
        self.map.is_on().then(|| self.map.left_ns(&(dir.0, name.clone()), now_ns)).flatten()
    }
    /// See [`TimedMap::moment`].
    pub fn moment(&self) -> u64 {
        self.map.moment()
    }
    /// Keeps the answer to a question that was sent at `moment`.
    pub fn fill_since(&self, moment: u64, dir: Handle, name: &Bytes, what: Cached, now_ns: i64) {
        if self.map.is_on() {
            self.map.upsert_since(moment, (dir.0, name.clone()), now_ns, |_| Some(what));
        }
    }
    /// Keeps what this client itself has just done to the name; answers under way do not undo it.
    pub fn set(&self, dir: Handle, name: &Bytes, what: Cached, now_ns: i64) {
        if self.map.is_on() {
            let key = (dir.0, name.clone());
            self.map.remove(&key);
            self.map.upsert(key, now_ns, |_| Some(what));
        }
    }
    /// Drops a name.
    pub fn drop_name(&self, dir: Handle, name: &Bytes) {
        if self.map.is_on() {
            self.map.remove(&(dir.0, name.clone()));
        }
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
