//! The overlay: committed changes that the keyval store does not have yet.
//!
//! Place in the walks: every get and scan of metadata looks here first. Invariants: the active
//! generation is newer than the frozen one, which is newer than the keyval store; a deletion is an
//! entry without a value and hides everything older.
use crate::error::Result;
use crate::journal::record::Change;
use crate::keyval::{KeyChange, Keyval, bounds, prefix_end};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::sync::Arc;

/// Bytes that an entry costs beside key and value, about.
const ENTRY_BYTES: usize = 96;

/// One generation of changes: newest value of each key, `None` for a deletion.
#[derive(Default)]
pub struct Overlay {
    /// The changes.
    pub map: BTreeMap<Bytes, Option<Bytes>>,
    /// Memory that they take, about.
    pub bytes: usize,
    /// Index of the newest transaction in it.
    pub last_index: u64,
}

impl Overlay {
    /// Takes a transaction in.
    pub fn apply(&mut self, index: u64, changes: impl IntoIterator<Item = Change>) {
        for Change { key, value } in changes {
            let key_bytes = key.len() + ENTRY_BYTES;
            self.bytes += value.as_ref().map_or(0, Bytes::len);
            match self.map.insert(key, value) {
                Some(old) => self.bytes -= old.map_or(0, |v| v.len()),
                None => self.bytes += key_bytes,
            }
        }
        self.last_index = index;
    }
}

impl Overlay {
    /// The changes in ascending order.
    pub fn changes(&self) -> impl Iterator<Item = KeyChange<'_>> {
        self.map.iter().map(|(key, value)| (key, value.as_ref()))
    }
}

/// What a reader sees.
pub struct View {
    /// Takes new transactions.
    pub active: Overlay,
    /// On its way into the keyval store.
    pub frozen: Option<Arc<Overlay>>,
    /// The rest; `None` after closing.
    pub keyval: Option<Arc<dyn Keyval>>,
}

impl View {
    /// The value of a key as far as the overlay knows it: `Some(None)` is deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let frozen = || self.frozen.as_ref().and_then(|f| f.map.get(key));
        self.active.map.get(key).or_else(frozen).cloned()
    }

    /// Keys that begin with `prefix` and lie above `after`, ascending, at most `limit`.
    ///
    /// # Errors
    /// As the keyval store.
    pub fn scan(
        &self,
        keyval: &dyn Keyval,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let mut out = Vec::new();
        if limit == 0 {
            return Ok(out);
        }
        let end = prefix_end(prefix);
        let range = bounds(prefix, after, end.as_deref());
        let empty = BTreeMap::new();
        let frozen = self.frozen.as_ref().map_or(&empty, |f| &f.map);
        let mut over = Merged {
            newer: self.active.map.range::<[u8], _>(range).peekable(),
            older: frozen.range::<[u8], _>(range).peekable(),
        };
        keyval.scan(prefix, after, &mut |key, value| {
            // Overlay entries below this key come first; one that equals it replaces it.
            while let Some(next) = over.peek_key() {
                if next > &key || out.len() >= limit {
                    break;
                }
                let replaces = next == &key;
                if let Some((k, Some(v))) = over.next() {
                    out.push((k.clone(), v.clone()));
                }
                if replaces {
                    return out.len() < limit;
                }
            }
            if out.len() < limit {
                out.push((key, value));
            }
            out.len() < limit
        })?;
        while out.len() < limit {
            match over.next() {
                Some((k, Some(v))) => out.push((k.clone(), v.clone())),
                Some((_, None)) => {}
                None => break,
            }
        }
        Ok(out)
    }
}

/// Both generations as one ascending sequence, the newer hiding the older.
struct Merged<'a> {
    newer: Peekable<Range<'a, Bytes, Option<Bytes>>>,
    older: Peekable<Range<'a, Bytes, Option<Bytes>>>,
}

impl<'a> Merged<'a> {
    fn peek_key(&mut self) -> Option<&'a Bytes> {
        match (self.newer.peek(), self.older.peek()) {
            (Some((n, _)), Some((o, _))) => Some(*n.min(o)),
            (Some((k, _)), None) | (None, Some((k, _))) => Some(*k),
            (None, None) => None,
        }
    }

    fn next(&mut self) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
        let key = self.peek_key()?;
        let older = self.older.next_if(|(k, _)| *k == key);
        self.newer.next_if(|(k, _)| *k == key).or(older)
    }
}
