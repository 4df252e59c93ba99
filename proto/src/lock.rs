//! Byte-range locks of one owner on one file, as metadata server and client both keep them.
//!
//! A list is sorted, its parts do not overlap, and neighbours that say the same are one. So setting,
//! unlocking, upgrading and downgrading any range is [`HeldList::set`], which splits and merges.
use std::fmt;

/// The last byte that a range can reach (a lock "to the end of the file, wherever that is").
pub const LOCK_END: u64 = i64::MAX as u64;

/// A range of bytes, both ends inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockRange {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
}

impl LockRange {
    /// Every byte of a file.
    pub const ALL: LockRange = LockRange { first: 0, last: LOCK_END };

    /// A range; `None` when it holds no byte.
    pub fn new(first: u64, last: u64) -> Option<LockRange> {
        (first <= last).then_some(LockRange { first, last })
    }
    /// Whether both have a byte in common.
    pub fn overlaps(&self, other: &LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for LockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            LOCK_END.. => write!(f, "bytes {} to the end", self.first),
            last => write!(f, "bytes {} to {last}", self.first),
        }
    }
}

/// One lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its bytes.
    pub range: LockRange,
    /// A write lock: excludes all others. A read lock excludes write locks.
    pub write: bool,
    /// The process that asked, for F_GETLK.
    pub pid: u32,
    /// The client's own mark: through which open file it was asked for. 0 on servers.
    pub mark: u64,
}

impl Held {
    fn says_the_same(&self, other: &Held) -> bool {
        (self.write, self.pid, self.mark) == (other.write, other.pid, other.mark)
    }
}

/// The locks of one owner on one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldList {
    locks: Vec<Held>,
}

impl HeldList {
    /// Locks the bytes of `lock` as it says, whatever was locked of them before.
    pub fn set(&mut self, lock: Held) {
        self.clear(lock.range);
        let at = self.locks.partition_point(|h| h.range.first < lock.range.first);
        self.locks.insert(at, lock);
        self.merge_at(at + 1);
        self.merge_at(at);
    }

    /// Unlocks the bytes of `range`.
    pub fn clear(&mut self, range: LockRange) {
        let from = self.locks.partition_point(|h| h.range.last < range.first);
        let to = self.locks.partition_point(|h| h.range.first <= range.last);
        if from >= to {
            return;
        }
        let (mut first, mut last) = (self.locks[from], self.locks[to - 1]);
        let mut left = Vec::new();
        if first.range.first < range.first {
            first.range.last = range.first - 1;
            left.push(first);
        }
        if last.range.last > range.last {
            last.range.first = range.last + 1;
            left.push(last);
        }
        self.locks.splice(from..to, left);
    }

    /// Joins the lock at `at` with the one before it, if they touch and say the same.
    fn merge_at(&mut self, at: usize) {
        let Some(before) = at.checked_sub(1) else { return };
        if let (Some(a), Some(b)) = (self.locks.get(before), self.locks.get(at))
            && a.says_the_same(b)
            && a.range.last.checked_add(1) == Some(b.range.first)
        {
            self.locks[before].range.last = b.range.last;
            self.locks.remove(at);
        }
    }

    /// The first lock that `range` meets and that a lock of kind `write` on it would conflict with,
    /// were it another owner's.
    pub fn conflict(&self, range: LockRange, write: bool) -> Option<&Held> {
        let from = self.locks.partition_point(|h| h.range.last < range.first);
        let met = self.locks[from..].iter().take_while(|h| h.range.first <= range.last);
        met.into_iter().find(|h| write || h.write)
    }

    /// Whether all of `range` is locked already, and for writing if `write`.
    pub fn covers(&self, range: LockRange, write: bool) -> bool {
        let mut next = range.first;
        let from = self.locks.partition_point(|h| h.range.last < range.first);
        for held in &self.locks[from..] {
            if held.range.first > next || (write && !held.write) {
                return false;
            }
            match held.range.last.checked_add(1) {
                Some(after) if held.range.last < range.last => next = after,
                _ => return true,
            }
        }
        false
    }

    /// The locks in order.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.locks.iter()
    }
    /// How many they are.
    pub fn len(&self) -> usize {
        self.locks.len()
    }
    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }
    /// Whether any byte is locked for writing.
    pub fn has_write(&self) -> bool {
        self.locks.iter().any(|h| h.write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N: u64 = 24;

    fn held(first: u64, last: u64, write: bool, mark: u64) -> Held {
        Held { range: LockRange { first, last }, write, pid: 1, mark }
    }

    #[test]
    fn the_end_has_no_byte_after_it() {
        let mut list = HeldList::default();
        list.set(Held { range: LockRange::ALL, write: true, pid: 1, mark: 0 });
        assert!(list.covers(LockRange::ALL, true));
        list.set(held(10, 19, false, 0));
        assert_eq!(list.len(), 3);
        assert!(list.covers(LockRange::ALL, false) && !list.covers(LockRange::ALL, true));
        list.clear(LockRange { first: 15, last: LOCK_END });
        assert_eq!(list.iter().map(|h| h.range.last).collect::<Vec<_>>(), [9, 14]);
        list.set(Held { range: LockRange { first: 0, last: u64::MAX }, ..held(0, 0, true, 0) });
        assert_eq!(list.len(), 1);
        assert!(list.covers(LockRange { first: 5, last: u64::MAX }, true));
    }

    proptest! {
        /// Against one cell per byte.
        #[test]
        fn lists_are_what_bytes_say(
            steps in prop::collection::vec((0..N, 0..N, 0..3u8, 0..2u64), 1..60),
            ask in (0..N, 0..N, any::<bool>()),
        ) {
            let mut list = HeldList::default();
            let mut bytes = [None; N as usize];
            for (a, b, kind, mark) in steps {
                let (first, last) = (a.min(b), a.max(b));
                let cell = (kind > 0).then_some((kind == 2, mark));
                bytes[first as usize..=last as usize].fill(cell);
                match cell {
                    Some((write, mark)) => list.set(held(first, last, write, mark)),
                    None => list.clear(LockRange { first, last }),
                }
                // As few parts as can say it.
                let mut parts = Vec::new();
                for (i, cell) in bytes.iter().enumerate() {
                    if let Some((write, mark)) = *cell {
                        match parts.last_mut() {
                            Some(Held { range, write: w, mark: m, .. })
                                if range.last + 1 == i as u64 && (*w, *m) == (write, mark) =>
                            {
                                range.last = i as u64;
                            }
                            _ => parts.push(held(i as u64, i as u64, write, mark)),
                        }
                    }
                }
                prop_assert_eq!(list.iter().copied().collect::<Vec<_>>(), parts);
            }
            let (first, last) = (ask.0.min(ask.1), ask.0.max(ask.1));
            let (range, write) = (LockRange { first, last }, ask.2);
            let cells = &bytes[first as usize..=last as usize];
            let covers = cells.iter().all(|c| c.is_some_and(|(w, _)| w || !write));
            prop_assert_eq!(list.covers(range, write), covers);
            let meets = cells.iter().any(|c| c.is_some_and(|(w, _)| w || write));
            prop_assert_eq!(list.conflict(range, write).is_some(), meets);
        }
    }
}
