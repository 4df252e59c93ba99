//! Maps of split directories: whom to ask for a name.
//!
//! | operation | maps |
//! |---|---|
//! | every operation on a name, readdir | read |
//! | every answer with a split directory's attributes, readdir of its home | learned |
//! | any operation answered `Moved` | asked for anew (`machine.rs`), then the step runs again |
//!
//! A map has no timeout: a name that lies elsewhere by now is answered `Moved`. Invariants: a map is
//! never replaced by an older one; directories that did not split cost one look at a flag.
use parking_lot::Mutex;
use pvfs2_proto::{DirMap, Handle};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most maps that are kept (about 200 bytes each).
const MAPS_MAX: usize = 16_384;

/// See the head of the file.
#[derive(Default)]
pub struct DirMaps {
    any: AtomicBool,
    maps: Mutex<HashMap<u64, Arc<DirMap>>>,
}

impl DirMaps {
    /// Keeps a map, unless it is older than the one that is there.
    pub fn learn(&self, map: &DirMap) {
        let mut maps = self.maps.lock();
        if maps.get(&map.home).is_some_and(|there| there.moved >= map.moved) {
            return;
        }
        if maps.len() >= MAPS_MAX {
            maps.clear();
        }
        maps.insert(map.home, Arc::new(map.clone()));
        self.any.store(true, Ordering::Release);
    }

    /// The map of a directory; none: it is not known to be split.
    pub fn get(&self, dir: Handle) -> Option<Arc<DirMap>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.maps.lock().get(&dir.0).cloned()
    }

    /// The object that holds `name` of `dir`, as far as this client knows.
    pub fn part_of(&self, dir: Handle, name: &[u8]) -> Handle {
        self.get(dir).map_or(dir, |map| map.owner_of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::dirmap::HASH_END;

    #[test]
    fn the_newest_map_counts() {
        let maps = DirMaps::default();
        let map = |moved| DirMap { home: 5, parts: vec![9], moved, ..Default::default() };
        assert_eq!(maps.part_of(Handle(5), b"x"), Handle(5));
        maps.learn(&map(HASH_END));
        maps.learn(&map(HASH_END / 2));
        assert_eq!(maps.get(Handle(5)).map(|m| m.moved), Some(HASH_END));
        assert_eq!(maps.get(Handle(6)), None);
        let held: std::collections::BTreeSet<u64> =
            (0..50).map(|i| maps.part_of(Handle(5), format!("f{i}").as_bytes()).0).collect();
        assert_eq!(held.into_iter().collect::<Vec<_>>(), [5, 9]);
    }
}
