//! Directories whose names are all known here, so that one which is not there needs no question.
//!
//! A lookup that finds nothing in an empty directory brings a right (by number) from its metadata
//! server: no other session adds a name before the right is recalled. From then on the names that
//! this client adds are all that can be there. Names are kept as keyed 64-bit hashes. One that is kept
//! though it is not there (its making failed; another client removed it) only costs a question.
//!
//! | event | what happens |
//! |---|---|
//! | the server recalls the right, or the connection to it is cut | the directory is forgotten; after a recall the right is given back |
//! | nothing was answered by its server for a while: this client may have been stopped (SIGSTOP, a suspended machine) for longer than its lease | the next question is asked, and its answer shows that the session has not ended |
//! | more names or directories than fit | forgotten; the server asks the right back when it needs it |
//!
//! Owner of: the hashes. Invariants: a name is in before the request that adds it leaves
//! ([`NameRights::adding`]); a right is taken up only if none of its directory's names was being added
//! when it was asked for, and nothing was recalled or cut since ([`NameRights::ask`]); a name that this
//! client removes is forgotten only if none was being added meanwhile ([`NameRights::removing`]).
use parking_lot::Mutex;
use pvfs2_proto::{ClusterMap, Handle, ServerId};
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most directories that are known.
const DIRS_MAX: usize = 4_096;
/// Most names of one of them (about 10 bytes each).
const NAMES_MAX: usize = 65_536;
/// Most names of all of them.
const ALL_NAMES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Dir {
    right: u64,
    names: HashSet<u64>,
    /// Counts requests that add names.
    adds: u64,
    /// The session was alive then, and lives for its lease from then on.
    proven_ns: i64,
    lease_ns: i64,
    /// Lookups under way that may bring the right.
    asking: u32,
    /// What they bring is not to be taken up.
    void: bool,
}

#[derive(Default)]
struct Table {
    dirs: HashMap<Handle, Dir>,
    /// Directories with a right, the oldest first; some are gone meanwhile.
    order: VecDeque<(Handle, u64)>,
    names: usize,
    adding: HashMap<Handle, u32>,
}

impl Table {
    /// Whether nothing is being added to `dir`, or only by one request (`own`).
    fn is_quiet(&self, dir: Handle, own: bool) -> bool {
        self.adding.get(&dir).copied().unwrap_or(0) == u32::from(own)
    }

    fn forget(&mut self, dir: Handle) {
        if let Entry::Occupied(mut entry) = self.dirs.entry(dir) {
            self.names -= entry.get().names.len();
            if entry.get().asking == 0 {
                entry.remove();
            } else {
                let asking = entry.get().asking;
                entry.insert(Dir { asking, void: true, ..Dir::default() });
            }
        }
    }
}

/// See the head of the file.
pub struct NameRights {
    on: bool,
    hasher: RandomState,
    /// Directories in the table: nothing is locked while there are none.
    count: AtomicUsize,
    table: Mutex<Table>,
}

/// A lookup that may bring a right.
pub struct Asking {
    rights: Arc<NameRights>,
    dir: Handle,
    asked_ns: i64,
}

/// A request that adds a name is under way. Dropped without [`Adding::answered`], the name may be
/// added at any time, so its directory gets no right any more.
pub struct Adding {
    rights: Arc<NameRights>,
    dir: Handle,
    asked_ns: i64,
}

/// A request that removes a name is under way.
pub struct Removing {
    dir: Handle,
    hash: u64,
    right: u64,
    adds: u64,
    own: bool,
}

impl NameRights {
    /// Nothing known; `on`: whether rights are wanted.
    pub fn new(on: bool) -> Arc<NameRights> {
        Arc::new(NameRights {
            on,
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            table: Mutex::default(),
        })
    }

    fn counted(&self, table: &Table) {
        self.count.store(table.dirs.len(), Ordering::Release);
    }

    /// Whether it is known that `dir` has no such name.
    pub fn is_absent(&self, dir: Handle, name: &[u8], now_ns: i64) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let table = self.table.lock();
        let lives = |d: &&Dir| (0..d.lease_ns / 4 * 3).contains(&(now_ns - d.proven_ns));
        let known = table.dirs.get(&dir).filter(|d| d.right != 0).filter(lives);
        known.is_some_and(|d| !d.names.contains(&self.hasher.hash_one(name)))
    }

    /// The directory's server has answered what it was asked at `asked_ns`.
    pub(crate) fn answered(&self, dir: Handle, asked_ns: i64) {
        if self.count.load(Ordering::Acquire) > 0
            && let Some(known) = self.table.lock().dirs.get_mut(&dir)
        {
            known.proven_ns = known.proven_ns.max(asked_ns);
        }
    }

    /// A name of `dir` will be looked up: whether the right shall be asked for along with it.
    pub fn ask(self: &Arc<Self>, dir: Handle, now_ns: i64) -> Option<Asking> {
        if !self.on {
            return None;
        }
        let mut table = self.table.lock();
        if table.adding.contains_key(&dir) || table.dirs.get(&dir).is_some_and(|d| d.right != 0) {
            return None;
        }
        table.dirs.entry(dir).or_default().asking += 1;
        self.counted(&table);
        Some(Asking { rights: self.clone(), dir, asked_ns: now_ns })
    }

    /// A request that adds a name to `dir` is about to leave.
    pub fn adding(self: &Arc<Self>, dir: Handle, name: &[u8], now_ns: i64) -> Option<Adding> {
        if !self.on {
            return None;
        }
        let mut guard = self.table.lock();
        let table = &mut *guard;
        *table.adding.entry(dir).or_default() += 1;
        let mut full = false;
        if let Some(known) = table.dirs.get_mut(&dir) {
            known.adds += 1;
            table.names += usize::from(known.names.insert(self.hasher.hash_one(name)));
            full = known.names.len() > NAMES_MAX || table.names > ALL_NAMES_MAX;
        }
        if full {
            table.forget(dir);
            self.counted(table);
        }
        Some(Adding { rights: self.clone(), dir, asked_ns: now_ns })
    }

    /// A request that removes a name from `dir` is about to leave; `own`: the same request adds one to
    /// it. `None`: there is nothing to forget.
    pub fn removing(&self, dir: Handle, name: &[u8], own: bool) -> Option<Removing> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let table = self.table.lock();
        let known = table.dirs.get(&dir).filter(|d| d.right != 0)?;
        let hash = self.hasher.hash_one(name);
        let (right, adds) = (known.right, known.adds);
        table.is_quiet(dir, own).then_some(Removing { dir, hash, right, adds, own })
    }

    /// It was removed.
    pub fn removed(&self, removing: Removing) {
        let Removing { dir, hash, right, adds, own } = removing;
        let mut guard = self.table.lock();
        let table = &mut *guard;
        let quiet = table.is_quiet(dir, own);
        if let Some(known) = table.dirs.get_mut(&dir)
            && (quiet, known.right, known.adds) == (true, right, adds)
        {
            table.names -= usize::from(known.names.remove(&hash));
        }
    }

    /// The server recalls its right on a directory.
    pub(crate) fn recalled(&self, dir: Handle) {
        let mut table = self.table.lock();
        table.forget(dir);
        self.counted(&table);
    }

    /// The connection to a server was cut, and with it the way of its recalls.
    pub(crate) fn cut(&self, map: &ClusterMap, server: ServerId) {
        let mut table = self.table.lock();
        let its: Vec<Handle> = table
            .dirs
            .keys()
            .copied()
            .filter(|dir| map.meta_server_of(*dir) == Some(server))
            .collect();
        for dir in its {
            table.forget(dir);
        }
        self.counted(&table);
    }
}

impl Asking {
    /// The lookup brought this right (0: none) from a server that gives this lease; whether it was
    /// taken up.
    pub fn granted(&self, right: u64, lease_ms: u32) -> bool {
        let mut guard = self.rights.table.lock();
        let table = &mut *guard;
        let Some(known) = table.dirs.get_mut(&self.dir).filter(|d| right != 0 && !d.void) else {
            return false;
        };
        known.right = right;
        known.lease_ns = i64::from(lease_ms) * 1_000_000;
        known.proven_ns = known.proven_ns.max(self.asked_ns);
        table.order.push_back((self.dir, right));
        if table.order.len() > DIRS_MAX
            && let Some((oldest, number)) = table.order.pop_front()
            && table.dirs.get(&oldest).is_some_and(|d| d.right == number)
        {
            table.forget(oldest);
        }
        true
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut table = self.rights.table.lock();
        if let Entry::Occupied(mut entry) = table.dirs.entry(self.dir) {
            entry.get_mut().asking -= 1;
            if entry.get().asking == 0 && entry.get().right == 0 {
                let gone = entry.remove().names.len();
                table.names -= gone;
            }
        }
        self.rights.counted(&table);
    }
}

impl Adding {
    /// The server has answered: the name was added, or never will be.
    pub fn answered(self) {
        self.rights.answered(self.dir, self.asked_ns);
        let mut table = self.rights.table.lock();
        if let Entry::Occupied(mut entry) = table.adding.entry(self.dir) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const D: Handle = Handle(7);
    const LEASE_MS: u32 = 1_000;

    fn with_right() -> Arc<NameRights> {
        let rights = NameRights::new(true);
        assert!(rights.ask(D, 0).is_some_and(|asking| asking.granted(5, LEASE_MS)));
        rights
    }

    #[test]
    fn what_was_not_added_is_absent() {
        let rights = with_right();
        assert!(rights.is_absent(D, b"a", 0) && !rights.is_absent(Handle(8), b"a", 0));
        let adding = rights.adding(D, b"a", 0).unwrap();
        assert!(!rights.is_absent(D, b"a", 0), "before the request leaves");
        assert!(rights.is_absent(D, b"b", 0));
        adding.answered();
        assert!(!rights.is_absent(D, b"a", 0));
        assert!(rights.ask(D, 0).is_none(), "it has the right");
        rights.recalled(D);
        assert!(!rights.is_absent(D, b"b", 0));
        assert_eq!(rights.count.load(Ordering::Acquire), 0);
        assert_eq!(rights.table.lock().names, 0);
    }

    #[test]
    fn a_right_that_was_overtaken_is_not_taken_up() {
        let rights = NameRights::new(true);
        let asking = rights.ask(D, 0).unwrap();
        rights.recalled(D);
        assert!(
            !asking.granted(5, LEASE_MS) && !rights.is_absent(D, b"a", 0),
            "recalled before it came"
        );
        drop(asking);
        // A name that was asked to be added while the right was on its way is known.
        let asking = rights.ask(D, 0).unwrap();
        rights.adding(D, b"a", 0).unwrap().answered();
        assert!(asking.granted(6, LEASE_MS));
        drop(asking);
        assert!(!rights.is_absent(D, b"a", 0) && rights.is_absent(D, b"b", 0));
        rights.recalled(D);
        // One that is still being added: no right is asked for.
        let adding = rights.adding(D, b"a", 0).unwrap();
        assert!(rights.ask(D, 0).is_none());
        adding.answered();
        assert!(rights.ask(D, 0).is_some());
        // One whose fate is unknown: never again.
        drop(rights.adding(D, b"a", 0));
        assert!(rights.ask(D, 0).is_none());
    }

    #[test]
    fn what_does_not_fit_is_forgotten() {
        let rights = with_right();
        for i in 0..=NAMES_MAX {
            rights.adding(D, &i.to_le_bytes(), 0).unwrap().answered();
        }
        assert!(!rights.is_absent(D, b"new", 0));
        assert_eq!(rights.table.lock().names, 0);
        for dir in 0..=DIRS_MAX as u64 {
            assert!(
                rights
                    .ask(Handle(100 + dir), 0)
                    .is_some_and(|asking| asking.granted(9 + dir, LEASE_MS))
            );
        }
        assert!(!rights.is_absent(Handle(100), b"a", 0) && rights.is_absent(Handle(101), b"a", 0));
    }

    #[test]
    fn what_was_removed_is_absent_again() {
        let rights = with_right();
        rights.adding(D, b"a", 0).unwrap().answered();
        let removing = rights.removing(D, b"a", false).unwrap();
        assert!(!rights.is_absent(D, b"a", 0), "not before it is removed");
        rights.removed(removing);
        assert!(rights.is_absent(D, b"a", 0));
        assert_eq!(rights.table.lock().names, 0);
        // Made again while it is removed, begun and answered at whatever time: it may be there.
        rights.adding(D, b"a", 0).unwrap().answered();
        let removing = rights.removing(D, b"a", false).unwrap();
        rights.adding(D, b"a", 0).unwrap().answered();
        rights.removed(removing);
        assert!(!rights.is_absent(D, b"a", 0));
        let adding = rights.adding(D, b"a", 0).unwrap();
        assert!(rights.removing(D, b"a", false).is_none());
        adding.answered();
        // Renamed within the directory: its own new name does not count.
        let adding = rights.adding(D, b"b", 0).unwrap();
        let removing = rights.removing(D, b"a", true).unwrap();
        rights.removed(removing);
        adding.answered();
        assert!(rights.is_absent(D, b"a", 0) && !rights.is_absent(D, b"b", 0));
        // Another right than before.
        let removing = rights.removing(D, b"b", false).unwrap();
        rights.recalled(D);
        assert!(rights.ask(D, 0).is_some_and(|asking| asking.granted(6, LEASE_MS)));
        rights.removed(removing);
        assert!(rights.removing(Handle(8), b"a", false).is_none());
    }

    #[test]
    fn a_client_that_was_stopped_asks() {
        const MS: i64 = 1_000_000;
        let rights = with_right();
        assert!(rights.is_absent(D, b"a", 749 * MS));
        assert!(!rights.is_absent(D, b"a", 750 * MS) && !rights.is_absent(D, b"a", -1));
        let adding = rights.adding(D, b"b", 500 * MS).unwrap();
        adding.answered();
        assert!(rights.is_absent(D, b"a", 1_249 * MS) && !rights.is_absent(D, b"a", 1_250 * MS));
        rights.answered(D, 1_260 * MS);
        rights.answered(D, 400 * MS);
        assert!(rights.is_absent(D, b"a", 1_270 * MS));
    }
}
