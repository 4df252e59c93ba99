//! Tombstones: datahandles that were removed lately. A write that was late on the network is refused
//! as `Stale` and does not make the datafile anew; no metadata server gives the handle out again
//! before the tombstone is gone.
//!
//! Kept in memory: after a restart of this server every session is new, and a write of an old one is
//! refused as `BadSession`. Invariants: at most [`KEPT_MAX`] (the oldest go first); the queue and
//! the set hold the same handles.
use parking_lot::RwLock;
use pvfs2_proto::Handle;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most tombstones; more removals than that within the time push the oldest out, at the risk of a
/// datafile without metafile, which fsck finds.
pub const KEPT_MAX: usize = 1 << 20;

#[derive(Default)]
struct Graves {
    set: HashSet<Handle>,
    by_age: VecDeque<(i64, Handle)>,
}

/// The set of handles removed lately.
pub struct Tombstones {
    keep_ns: i64,
    graves: RwLock<Graves>,
    count: AtomicUsize,
}

impl Tombstones {
    /// An empty set whose entries last `keep_ms`.
    pub fn new(keep_ms: u64) -> Tombstones {
        let keep_ns = i64::try_from(keep_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        Tombstones { keep_ns, graves: RwLock::default(), count: AtomicUsize::new(0) }
    }

    /// Whether `handle` was removed lately. Without any tombstone, one relaxed load.
    pub fn contains(&self, handle: Handle) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.graves.read().set.contains(&handle)
    }

    /// Adds `handle`, removed at `now_ns`.
    pub fn add(&self, handle: Handle, now_ns: i64) {
        let mut graves = self.graves.write();
        if graves.set.insert(handle) {
            graves.by_age.push_back((now_ns, handle));
        }
        if graves.by_age.len() > KEPT_MAX
            && let Some((_, oldest)) = graves.by_age.pop_front()
        {
            graves.set.remove(&oldest);
        }
        self.count.store(graves.set.len(), Ordering::Release);
    }

    /// Forgets what is older than the time to keep; returns how many.
    pub fn purge(&self, now_ns: i64) -> usize {
        if self.count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut graves = self.graves.write();
        let before = graves.set.len();
        while let Some(&(removed_ns, handle)) = graves.by_age.front() {
            if now_ns.saturating_sub(removed_ns) < self.keep_ns {
                break;
            }
            graves.by_age.pop_front();
            graves.set.remove(&handle);
        }
        self.count.store(graves.set.len(), Ordering::Release);
        before - graves.set.len()
    }

    /// Number of tombstones.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_last_their_time_and_no_longer() {
        let t = Tombstones::new(10);
        t.add(Handle(1), 0);
        t.add(Handle(2), 5_000_000);
        t.add(Handle(1), 5_000_000);
        assert!(t.contains(Handle(1)) && t.contains(Handle(2)) && !t.contains(Handle(3)));
        assert_eq!(t.purge(9_999_999), 0);
        assert_eq!(t.purge(10_000_000), 1);
        assert!(!t.contains(Handle(1)) && t.contains(Handle(2)));
        assert_eq!(t.purge(15_000_000), 1);
        assert!(t.is_empty());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let t = Tombstones::new(1_000);
        for h in 0..=KEPT_MAX as u64 {
            t.add(Handle(h), 0);
        }
        assert_eq!(t.len(), KEPT_MAX);
        assert!(!t.contains(Handle(0)) && t.contains(Handle(1)));
    }
}
