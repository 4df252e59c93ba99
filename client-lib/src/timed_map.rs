//! A map whose entries end after a fixed time, bounded, with sharded locks: the ground of ncache
//! and acache.
//!
//! Invariants: an entry is never given out after its time; a shard never holds more than its bound
//! (the oldest go first); what was dropped after a [`TimedMap::moment`] is not filled in by an answer
//! to a question that was sent then ([`TimedMap::upsert_since`]). Every entry has one place in its
//! shard's queue, in the order of insertion, which is the order of expiry too.
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;
/// Keys share what is remembered of their last drop with others: one of this many places. A multiple
/// of `SHARDS`, so that a shard's lock guards its places.
const PLACES: usize = 4_096;

struct Entry<V> {
    value: V,
    until_ns: i64,
    serial: u64,
}

struct Shard<K, V> {
    map: HashMap<K, Entry<V>>,
    queue: VecDeque<(K, u64)>,
    serial: u64,
}

/// A bounded map with timeouts.
pub struct TimedMap<K, V> {
    timeout_ns: i64,
    shard_max: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
    /// Counts drops.
    drops: AtomicU64,
    /// The count at the last drop of a key of each place.
    dropped: Vec<AtomicU64>,
    /// The count when all was dropped.
    cleared: AtomicU64,
}

impl<K: Eq + Hash + Clone, V: Clone> TimedMap<K, V> {
    /// A map of at most `entries_max` entries that live `timeout_ms`; 0 keeps nothing.
    pub fn new(timeout_ms: u64, entries_max: usize) -> Self {
        let shard = || Shard { map: HashMap::new(), queue: VecDeque::new(), serial: 0 };
        TimedMap {
            timeout_ns: i64::try_from(timeout_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            shard_max: (entries_max / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            drops: AtomicU64::new(0),
            dropped: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            cleared: AtomicU64::new(0),
        }
    }

    /// Whether anything is ever kept.
    pub fn is_on(&self) -> bool {
        self.timeout_ns > 0
    }

    fn place(&self, key: &K) -> usize {
        self.hasher.hash_one(key) as usize % PLACES
    }

    fn shard(&self, place: usize) -> MutexGuard<'_, Shard<K, V>> {
        self.shards[place % SHARDS].lock()
    }

    /// The value, if its time has not come.
    pub fn get(&self, key: &K, now_ns: i64) -> Option<V> {
        self.view(key, now_ns, V::clone)
    }

    /// What `f` makes of the value, if its time has not come.
    pub fn view<T>(&self, key: &K, now_ns: i64, f: impl FnOnce(&V) -> T) -> Option<T> {
        if !self.is_on() {
            return None;
        }
        let shard = self.shard(self.place(key));
        shard.map.get(key).filter(|e| now_ns < e.until_ns).map(|e| f(&e.value))
    }

    /// How long the value still lives: 0 when its time has come; `None`: there is none.
    pub fn left_ns(&self, key: &K, now_ns: i64) -> Option<u64> {
        if !self.is_on() {
            return None;
        }
        let shard = self.shard(self.place(key));
        shard.map.get(key).map(|e| u64::try_from(e.until_ns - now_ns).unwrap_or(0))
    }

    /// What to hand to [`TimedMap::upsert_since`]; taken before the question is sent.
    pub fn moment(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// Whether `key` (or one that shares its place) was dropped since that moment.
    pub fn is_dropped_since(&self, moment: u64, key: &K) -> bool {
        self.is_place_dropped_since(moment, self.place(key))
    }

    fn is_place_dropped_since(&self, moment: u64, place: usize) -> bool {
        self.cleared.load(Ordering::Acquire) > moment
            || self.dropped[place].load(Ordering::Acquire) > moment
    }

    /// As [`TimedMap::upsert`], unless `key` was dropped since that moment.
    pub fn upsert_since(
        &self,
        moment: u64,
        key: K,
        now_ns: i64,
        f: impl FnOnce(Option<&V>) -> Option<V>,
    ) {
        if self.is_on() {
            let place = self.place(&key);
            let mut shard = self.shard(place);
            if !self.is_place_dropped_since(moment, place) {
                self.put_made(&mut shard, key, now_ns, f);
            }
        }
    }

    /// Keeps what `f` makes of the value that is there (`None`: leaves all as it is).
    pub fn upsert(&self, key: K, now_ns: i64, f: impl FnOnce(Option<&V>) -> Option<V>) {
        if self.is_on() {
            let mut shard = self.shard(self.place(&key));
            self.put_made(&mut shard, key, now_ns, f);
        }
    }

    /// Changes a value where it stands; its time stays.
    pub fn update(&self, key: &K, f: impl FnOnce(&mut V)) {
        if self.is_on()
            && let Some(e) = self.shard(self.place(key)).map.get_mut(key)
        {
            f(&mut e.value);
        }
    }

    /// Drops `key`, also for answers that are under way.
    pub fn remove(&self, key: &K) {
        if self.is_on() {
            let place = self.place(key);
            let mut shard = self.shard(place);
            shard.map.remove(key);
            let count = self.drops.fetch_add(1, Ordering::AcqRel) + 1;
            self.dropped[place].store(count, Ordering::Release);
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        // First: what an answer fills in from now on is refused, what it did before goes.
        let count = self.drops.fetch_add(1, Ordering::AcqRel) + 1;
        self.cleared.fetch_max(count, Ordering::AcqRel);
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.map.clear();
            shard.queue.clear();
        }
    }

    /// Entries held, timed out ones included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().map.len()).sum()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put_made(
        &self,
        shard: &mut Shard<K, V>,
        key: K,
        now_ns: i64,
        f: impl FnOnce(Option<&V>) -> Option<V>,
    ) {
        let there = shard.map.get(&key).filter(|e| now_ns < e.until_ns).map(|e| &e.value);
        if let Some(value) = f(there) {
            self.put(shard, key, value, now_ns);
        }
    }

    fn put(&self, shard: &mut Shard<K, V>, key: K, value: V, now_ns: i64) {
        shard.serial += 1;
        let serial = shard.serial;
        let until_ns = now_ns.saturating_add(self.timeout_ns);
        shard.map.insert(key.clone(), Entry { value, until_ns, serial });
        shard.queue.push_back((key, serial));
        while let Some((old, old_serial)) = shard.queue.front() {
            let entry = shard.map.get(old).filter(|e| e.serial == *old_serial);
            let live = entry.is_some_and(|e| now_ns < e.until_ns);
            if live && shard.map.len() <= self.shard_max && shard.queue.len() <= self.shard_max * 2
            {
                break;
            }
            if entry.is_some() {
                let old = old.clone();
                shard.map.remove(&old);
            }
            shard.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn entries_end_after_their_time() {
        let m = TimedMap::new(10, 100);
        m.upsert_since(m.moment(), 1, 0, |_| Some("a"));
        assert_eq!(m.get(&1, 9 * MS), Some("a"));
        assert_eq!(m.get(&1, 10 * MS), None);
    }

    #[test]
    fn what_is_left_of_an_entrys_time() {
        let m = TimedMap::new(10, 100);
        assert_eq!(m.left_ns(&1, 0), None);
        m.upsert(1, 0, |_| Some("a"));
        assert_eq!(m.left_ns(&1, 3 * MS), Some(7_000_000));
        m.update(&1, |v| *v = "b");
        assert_eq!(m.left_ns(&1, 10 * MS), Some(0));
        assert_eq!(m.left_ns(&1, 99 * MS), Some(0));
    }

    #[test]
    fn zero_turns_it_off() {
        let m = TimedMap::new(0, 100);
        m.upsert_since(0, 1, 0, |_| Some("a"));
        m.upsert(1, 0, |_| Some("b"));
        assert_eq!((m.get(&1, 0), m.len()), (None, 0));
    }

    #[test]
    fn an_answer_under_way_does_not_undo_a_drop() {
        let m = TimedMap::new(10, 10_000);
        let moment = m.moment();
        m.remove(&1);
        let others = (2..1_000).filter(|i| m.place(i) != m.place(&1));
        others.for_each(|i| m.upsert_since(moment, i, 0, |_| Some("other")));
        m.upsert_since(moment, 1, 0, |_| Some("old"));
        assert!(m.is_dropped_since(moment, &1));
        assert_eq!(m.get(&1, 0), None);
        assert!(m.len() > 900, "only what was dropped is refused");
        m.upsert_since(m.moment(), 1, 0, |_| Some("new"));
        assert_eq!(m.get(&1, 0), Some("new"));
        let moment = m.moment();
        m.clear();
        m.upsert_since(moment, 2, 0, |_| Some("old"));
        assert!(m.is_empty());
        m.upsert_since(m.moment(), 2, 0, |_| Some("new"));
        assert_eq!(m.get(&2, 0), Some("new"));
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_the_newest() {
        let m = TimedMap::new(1_000, 64);
        for i in 0..10_000u64 {
            m.upsert(i, i as i64, |_| Some(i));
            assert!(m.len() <= 64);
        }
        assert_eq!(m.get(&9_999, 10_000), Some(9_999));
        for i in 0..10_000 {
            m.upsert(7, 10_000 + i, |_| Some(i as u64));
        }
        assert!(m.shard(m.place(&7)).queue.len() <= 2 * m.shard_max);
    }
}
