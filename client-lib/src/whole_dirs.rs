//! Directories of which this client knows every name, because it made them and all changes since
//! were its own: a name that it does not know is not there, and no server needs to be asked before
//! it is created.
//!
//! What makes it sure is the directory's count of changes. Every change raises it by one, and the
//! reply to each of this client's own brings it: while they follow each other without a gap, nobody
//! else has changed the directory. Replies may overtake each other, so those beyond a gap wait for
//! it to close. A lookup's answer brings the count too.
//!
//! Invariants: a directory counts as known only within the ncache's timeout after the last request
//! whose answer confirmed its count was sent, so this knows nothing that a cached "does not exist"
//! could not; the names held are never fewer than there are (a removed one stays: asking once too
//! often is no harm).
//!
//! Place in the walks: under [`crate::ncache`], in the lookup before each create.
use parking_lot::Mutex;
use pvfs2_proto::{Attr, Handle};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

const SHARDS: usize = 16;
/// Directories held by each shard.
const DIRS_MAX: usize = 64;
/// Names held by each shard, about 16 bytes each.
const NAMES_MAX: usize = 32_768;
/// Replies of one directory that wait for a gap to close.
const AHEAD_MAX: usize = 256;

#[derive(Default)]
struct Whole {
    /// The count of changes up to which all are known.
    change: u64,
    /// When the last request was sent whose answer confirmed it.
    checked_ns: i64,
    /// Own changes beyond a gap, and when they were asked for.
    ahead: BTreeMap<u64, i64>,
    names: HashSet<u64>,
}

#[derive(Default)]
struct Shard {
    dirs: HashMap<u64, Whole>,
    names: usize,
}

impl Shard {
    fn forget(&mut self, dir: u64) {
        if let Some(whole) = self.dirs.remove(&dir) {
            self.names -= whole.names.len();
        }
    }
}

/// See the head of the file.
pub struct WholeDirs {
    timeout_ns: i64,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

impl WholeDirs {
    /// Nothing is known for longer than `timeout_ms`; 0: never.
    pub fn new(timeout_ms: u64) -> WholeDirs {
        WholeDirs {
            timeout_ns: i64::try_from(timeout_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    fn shard(&self, dir: u64) -> &Mutex<Shard> {
        &self.shards[(dir % SHARDS as u64) as usize]
    }

    /// This client made a directory, asked for at `asked_ns`.
    pub fn made(&self, attr: &Attr, asked_ns: i64) {
        if self.timeout_ns == 0 || attr.size != 0 || attr.dir_map.is_some() {
            return;
        }
        let mut shard = self.shard(attr.handle).lock();
        shard.forget(attr.handle);
        if shard.dirs.len() >= DIRS_MAX {
            let oldest = shard.dirs.iter().min_by_key(|(_, w)| w.checked_ns).map(|(d, _)| *d);
            oldest.into_iter().for_each(|dir| shard.forget(dir));
        }
        let whole = Whole { change: attr.change, checked_ns: asked_ns, ..Default::default() };
        shard.dirs.insert(attr.handle, whole);
    }

    /// This client changed a directory, asked for at `asked_ns`: its attributes since, as far as the
    /// answer brought them, and the name that it now has.
    pub fn changed(&self, dir: Handle, attr: Option<&Attr>, name: Option<&[u8]>, asked_ns: i64) {
        if self.timeout_ns == 0 {
            return;
        }
        let mut shard = self.shard(dir.0).lock();
        let Shard { dirs, names } = &mut *shard;
        let Some(whole) = dirs.get_mut(&dir.0) else { return };
        if let Some(name) = name
            && whole.names.insert(self.hasher.hash_one(name))
        {
            *names += 1;
        }
        let attr = attr.filter(|attr| attr.handle() == dir && attr.dir_map.is_none());
        if let Some(attr) = attr.filter(|attr| attr.change >= whole.change) {
            whole.ahead.insert(attr.change, asked_ns);
            while let Some(next) = whole.ahead.first_entry() {
                match next.key() - whole.change {
                    0 | 1 => {
                        let (change, asked_ns) = next.remove_entry();
                        whole.change = change;
                        whole.checked_ns = whole.checked_ns.max(asked_ns);
                    }
                    _ => break,
                }
            }
        }
        if attr.is_none() || whole.ahead.len() > AHEAD_MAX || *names > NAMES_MAX {
            shard.forget(dir.0);
        }
    }

    /// A server said at a request of `asked_ns` that a directory's count is `change`.
    pub fn checked(&self, dir: Handle, change: u64, asked_ns: i64) {
        if self.timeout_ns != 0
            && let Some(whole) = self.shard(dir.0).lock().dirs.get_mut(&dir.0)
            && whole.change == change
        {
            whole.checked_ns = whole.checked_ns.max(asked_ns);
        }
    }

    /// For how long it is known that `dir` has no `name`; `None`: it is not.
    pub fn lacks(&self, dir: Handle, name: &[u8], now_ns: i64) -> Option<u64> {
        if self.timeout_ns == 0 {
            return None;
        }
        let shard = self.shard(dir.0).lock();
        let whole = shard.dirs.get(&dir.0)?;
        let left_ns = whole.checked_ns.saturating_add(self.timeout_ns).saturating_sub(now_ns);
        let known = left_ns > 0 && !whole.names.contains(&self.hasher.hash_one(name));
        known.then_some(left_ns as u64)
    }

    /// Forgets a directory.
    pub fn forget(&self, dir: Handle) {
        if self.timeout_ns != 0 {
            self.shard(dir.0).lock().forget(dir.0);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const DIR: Handle = Handle(5);

    fn attr(change: u64) -> Attr {
        Attr { handle: DIR.0, change, ..Default::default() }
    }

    fn known() -> WholeDirs {
        let dirs = WholeDirs::new(1_000);
        dirs.made(&attr(1), 0);
        dirs
    }

    #[test]
    fn own_changes_keep_it_known() {
        let dirs = known();
        assert_eq!(dirs.lacks(DIR, b"a", MS), Some(999 * MS as u64));
        assert_eq!(dirs.lacks(DIR, b"a", 1_000 * MS), None, "its time is over");
        dirs.changed(DIR, Some(&attr(2)), Some(b"a"), 900 * MS);
        assert_eq!(dirs.lacks(DIR, b"a", 901 * MS), None);
        assert!(dirs.lacks(DIR, b"b", 1_800 * MS).is_some());
        // Removed: asked for all the same.
        dirs.changed(DIR, Some(&attr(3)), None, 950 * MS);
        assert_eq!(dirs.lacks(DIR, b"a", 951 * MS), None);
        assert_eq!(dirs.lacks(Handle(6), b"a", 951 * MS), None, "another directory");
        dirs.clear();
        assert_eq!(dirs.lacks(DIR, b"b", 951 * MS), None);
    }

    #[test]
    fn the_change_of_somebody_else_ends_it() {
        let dirs = known();
        dirs.changed(DIR, Some(&attr(3)), Some(b"a"), 900 * MS);
        assert!(dirs.lacks(DIR, b"b", 999 * MS).is_some(), "by what was known before");
        assert_eq!(dirs.lacks(DIR, b"b", 1_000 * MS), None);
        dirs.changed(DIR, Some(&attr(4)), Some(b"c"), 1_000 * MS);
        dirs.checked(DIR, 4, 1_000 * MS);
        assert_eq!(dirs.lacks(DIR, b"b", 1_001 * MS), None);
    }

    #[test]
    fn replies_that_overtake_each_other_are_put_in_order() {
        let dirs = known();
        dirs.changed(DIR, Some(&attr(4)), Some(b"c"), 900 * MS);
        dirs.changed(DIR, Some(&attr(3)), Some(b"b"), 800 * MS);
        assert_eq!(dirs.lacks(DIR, b"x", 1_100 * MS), None);
        assert_eq!(dirs.lacks(DIR, b"c", MS), None, "names count at once");
        dirs.changed(DIR, Some(&attr(2)), Some(b"a"), 700 * MS);
        assert!(dirs.lacks(DIR, b"x", 1_899 * MS).is_some());
        // One that comes again changes nothing.
        dirs.changed(DIR, Some(&attr(2)), Some(b"a"), 5_000 * MS);
        assert_eq!(dirs.lacks(DIR, b"x", 5_000 * MS), None);
    }

    #[test]
    fn a_lookup_confirms_it() {
        let dirs = known();
        dirs.checked(DIR, 2, 900 * MS);
        assert_eq!(dirs.lacks(DIR, b"a", 1_100 * MS), None);
        dirs.checked(DIR, 1, 900 * MS);
        assert!(dirs.lacks(DIR, b"a", 1_100 * MS).is_some());
        dirs.forget(DIR);
        assert_eq!(dirs.lacks(DIR, b"a", 1_100 * MS), None);
    }

    #[test]
    fn what_tells_nothing_ends_it() {
        for told in [None, Some(Attr { handle: 6, ..attr(2) })] {
            let dirs = known();
            dirs.changed(DIR, told.as_ref(), Some(b"a"), 10 * MS);
            assert_eq!(dirs.lacks(DIR, b"b", 11 * MS), None);
        }
        let off = WholeDirs::new(0);
        off.made(&attr(1), 0);
        assert_eq!(off.lacks(DIR, b"a", 0), None);
    }

    #[test]
    fn it_is_bounded() {
        let dirs = known();
        for i in 0..=NAMES_MAX as u64 {
            assert!(dirs.lacks(DIR, b"x", MS).is_some());
            dirs.changed(DIR, Some(&attr(i + 2)), Some(&i.to_le_bytes()), 0);
        }
        assert_eq!(dirs.lacks(DIR, b"x", MS), None);
        assert_eq!(dirs.shard(DIR.0).lock().names, 0);
        for i in 0..200 {
            let handle = i * SHARDS as u64;
            dirs.made(&Attr { handle, ..attr(1) }, i as i64);
        }
        assert_eq!(dirs.shard(0).lock().dirs.len(), DIRS_MAX);
        assert!(dirs.lacks(Handle(199 * SHARDS as u64), b"x", MS).is_some(), "the newest stays");
    }
}
