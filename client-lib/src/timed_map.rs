//! A map whose entries end after a fixed time, bounded, with sharded locks: the ground of ncache
//! and acache.
//!
//! Invariants: an entry is never given out after its time; a shard never holds more than its bound
//! (the oldest go first); what was dropped after an epoch was read is not filled in by an answer
//! that was under way at that moment ([`TimedMap::insert_since`]). Every entry has one place in its
//! shard's queue, in the order of insertion, which is the order of expiry too.
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;

struct Entry<V> {
    value: V,
    until_ns: i64,
    serial: u64,
}

struct Shard<K, V> {
    map: HashMap<K, Entry<V>>,
    queue: VecDeque<(K, u64)>,
    serial: u64,
    epoch: u64,
}

/// A bounded map with timeouts.
pub struct TimedMap<K, V> {
    timeout_ns: i64,
    shard_max: usize,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
    drops: AtomicU64,
}

impl<K: Eq + Hash + Clone, V: Clone> TimedMap<K, V> {
    /// A map of at most `entries_max` entries that live `timeout_ms`; 0 keeps nothing.
    pub fn new(timeout_ms: u64, entries_max: usize) -> Self {
        let shard = || Shard { map: HashMap::new(), queue: VecDeque::new(), serial: 0, epoch: 0 };
        TimedMap {
            timeout_ns: i64::try_from(timeout_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            shard_max: (entries_max / SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            drops: AtomicU64::new(0),
        }
    }

    /// Whether anything is ever kept.
    pub fn is_on(&self) -> bool {
        self.timeout_ns > 0
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
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
        let shard = self.shard(key).lock();
        shard.map.get(key).filter(|e| now_ns < e.until_ns).map(|e| f(&e.value))
    }

    /// How long the value still lives: 0 when its time has come; `None`: there is none.
    pub fn left_ns(&self, key: &K, now_ns: i64) -> Option<u64> {
        if !self.is_on() {
            return None;
        }
        let shard = self.shard(key).lock();
        shard.map.get(key).map(|e| u64::try_from(e.until_ns - now_ns).unwrap_or(0))
    }

    /// What to hand to [`TimedMap::insert_since`]; read before the question is sent.
    pub fn epoch(&self, key: &K) -> u64 {
        if self.is_on() { self.shard(key).lock().epoch } else { 0 }
    }

    /// Counts drops of anything: for answers with many keys, which are kept only when the count
    /// is what it was before the question was sent.
    pub fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// Keeps `value` for `key`, unless something of its shard was dropped since `epoch`.
    pub fn insert_since(&self, epoch: u64, key: K, value: V, now_ns: i64) {
        if self.is_on() {
            let mut shard = self.shard(&key).lock();
            if shard.epoch == epoch {
                self.put(&mut shard, key, value, now_ns);
            }
        }
    }

    /// Keeps what `f` makes of the value that is there (`None`: leaves all as it is).
    pub fn upsert(&self, key: K, now_ns: i64, f: impl FnOnce(Option<&V>) -> Option<V>) {
        if self.is_on() {
            let mut shard = self.shard(&key).lock();
            let there = shard.map.get(&key).filter(|e| now_ns < e.until_ns).map(|e| &e.value);
            if let Some(value) = f(there) {
                self.put(&mut shard, key, value, now_ns);
            }
        }
    }

    /// Changes a value where it stands; its time stays.
    pub fn update(&self, key: &K, f: impl FnOnce(&mut V)) {
        if self.is_on()
            && let Some(e) = self.shard(key).lock().map.get_mut(key)
        {
            f(&mut e.value);
        }
    }

    /// Drops `key`, also for answers that are under way.
    pub fn remove(&self, key: &K) {
        if self.is_on() {
            let mut shard = self.shard(key).lock();
            shard.map.remove(key);
            shard.epoch += 1;
            self.drops.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.map.clear();
            shard.queue.clear();
            shard.epoch += 1;
        }
        self.drops.fetch_add(1, Ordering::AcqRel);
    }

    /// Entries held, timed out ones included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().map.len()).sum()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        m.insert_since(m.epoch(&1), 1, "a", 0);
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
        m.insert_since(0, 1, "a", 0);
        m.upsert(1, 0, |_| Some("b"));
        assert_eq!((m.get(&1, 0), m.len()), (None, 0));
    }

    #[test]
    fn an_answer_under_way_does_not_undo_a_drop() {
        let m = TimedMap::new(10, 100);
        let epoch = m.epoch(&1);
        m.remove(&1);
        m.insert_since(epoch, 1, "old", 0);
        assert_eq!(m.get(&1, 0), None);
        m.insert_since(m.epoch(&1), 1, "new", 0);
        assert_eq!(m.get(&1, 0), Some("new"));
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
        assert!(m.shard(&7).lock().queue.len() <= 2 * m.shard_max);
    }
}
