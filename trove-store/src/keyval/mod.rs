//! The narrow trait behind the collection, as PVFS2's Trove has methods.
//!
//! Place in the walks: below [`crate::collection`], off the hot path: the collection applies what
//! the journal holds already. Invariant: what was there at [`Keyval::flush`] is there after loss of
//! power; later changes may be there or not, in any order, because the journal is replayed over
//! them.
//!
//! - [`sled`]: on disk
//! - [`memory`]: in memory
pub mod memory;
pub mod sled;

use crate::error::Result;
use bytes::Bytes;

/// Keys and values in ascending order.
pub trait Keyval: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// As the method's disk.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Sets a key.
    ///
    /// # Errors
    /// As the method's disk.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// As the method's disk.
    fn delete(&self, key: &[u8]) -> Result<()>;
    /// Calls `each` with every key that begins with `prefix` and lies above `after`, ascending, until
    /// it says `false`.
    ///
    /// # Errors
    /// As the method's disk.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        each: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<()>;
    /// Makes everything durable against loss of power.
    ///
    /// # Errors
    /// As the method's disk.
    fn flush(&self) -> Result<()>;
}

/// The first key above all keys that begin with `prefix`; `None` when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// The bounds of a scan.
pub(crate) fn bounds<'a>(
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
    end: Option<&'a [u8]>,
) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let low = match after {
        Some(after) if after >= prefix => Excluded(after),
        _ => Included(prefix),
    };
    let high = end.map_or(Unbounded, Excluded);
    // An `after` beyond the prefix: an empty range, in a form that BTreeMap accepts.
    match (low, high) {
        (Excluded(l), Excluded(h)) if l >= h => (Included(h), Excluded(h)),
        both => both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(b""), None);
    }
}
