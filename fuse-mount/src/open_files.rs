//! What the kernel has open: a number for each open file or directory.
//!
//! Place in the walks: open, create and opendir put in; read, write and all others that carry the
//! number look up; release takes out. Invariant: a number is never used twice in a mount.
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: u64 = 32;

/// Numbers to things.
pub struct OpenMap<T> {
    next: AtomicU64,
    shards: Vec<RwLock<HashMap<u64, Arc<T>>>>,
}

impl<T> Default for OpenMap<T> {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::new(HashMap::new())).collect();
        OpenMap { next: AtomicU64::new(1), shards }
    }
}

impl<T> OpenMap<T> {
    /// Puts a thing in; its number.
    pub fn insert(&self, thing: Arc<T>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).write().insert(number, thing);
        number
    }

    /// The thing with a number.
    pub fn get(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).read().get(&number).cloned()
    }

    /// Takes a thing out.
    pub fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).write().remove(&number)
    }

    /// Takes everything out (the mount has ended, and the kernel sends no release any more).
    pub fn drain(&self) -> Vec<Arc<T>> {
        self.shards.iter().flat_map(|s| std::mem::take(&mut *s.write()).into_values()).collect()
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        &self.shards[(number % SHARDS) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_twice() {
        let map = OpenMap::default();
        let (a, b) = (map.insert(Arc::new("a")), map.insert(Arc::new("b")));
        assert_ne!(a, b);
        assert_eq!(map.get(a).as_deref(), Some(&"a"));
        assert_eq!(map.remove(a).as_deref(), Some(&"a"));
        assert!(map.get(a).is_none() && map.remove(a).is_none());
        let c = map.insert(Arc::new("c"));
        assert!(c > b);
        let mut left: Vec<_> = map.drain().iter().map(|s| **s).collect();
        left.sort_unstable();
        assert_eq!(left, ["b", "c"]);
        assert!(map.get(b).is_none());
    }
}
