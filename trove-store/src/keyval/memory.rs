//! Keyval method `memory`: a map, and a copy of it as of the last flush.
//!
//! Place in the walks: as [`super::sled`], in tests and simulations.
use super::{KeyChange, Keyval, bounds, prefix_end};
use crate::error::Result;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What survives a crash.
#[derive(Default)]
pub struct MemMap {
    now: BTreeMap<Bytes, Bytes>,
    flushed: BTreeMap<Bytes, Bytes>,
}

impl MemMap {
    /// Loses power: falls back to the last flush, except that the changes of the first
    /// `keep_keys` keys since then stay (a disk may keep any of them).
    pub fn lose_power(&mut self, keep_keys: u64) {
        let mut kept = self.flushed.clone();
        let keys: std::collections::BTreeSet<_> =
            self.now.keys().chain(self.flushed.keys()).cloned().collect();
        for key in keys.into_iter().take(usize::try_from(keep_keys).unwrap_or(usize::MAX)) {
            match self.now.get(&key) {
                Some(v) => kept.insert(key, v.clone()),
                None => kept.remove(&key),
            };
        }
        self.now = kept.clone();
        self.flushed = kept;
    }
}

/// An opened map over a backing.
pub struct MemKeyval(pub Arc<RwLock<MemMap>>);

impl Keyval for MemKeyval {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.read().now.get(key).cloned())
    }
    fn apply(&self, changes: &mut dyn Iterator<Item = KeyChange<'_>>) -> Result<()> {
        let mut map = self.0.write();
        for (key, value) in changes {
            match value {
                Some(value) => map.now.insert(key.clone(), value.clone()),
                None => map.now.remove(key),
            };
        }
        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<()> {
        let map = self.0.read();
        let end = prefix_end(prefix);
        for (k, v) in map.now.range::<[u8], _>(bounds(prefix, after, end.as_deref())) {
            if !each(k.clone(), v.clone()) {
                break;
            }
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        let mut map = self.0.write();
        map.flushed = map.now.clone();
        Ok(())
    }
}
