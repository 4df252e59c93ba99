//! The narrow trait behind the collection, as PVFS2's Trove has methods.
//!
//! Place in the walks: below [`crate::collection`], off the hot path: the collection applies what
//! the journal holds already. Invariant: what was there at [`Keyval::flush`] is there after loss of
//! power; later changes may be there or not, in any order, because the journal is replayed over
//! them.
//!
//! - [`sled`]: on disk, the default
//! - [`mod@fjall`]: on disk (feature `fjall`)
//! - [`memory`]: in memory
#[cfg(feature = "fjall")]
pub mod fjall;
pub mod memory;
pub mod sled;

use crate::error::{Result, TroveError};
use bytes::Bytes;
use pvfs2_proto::KeyvalMethod;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// One change of a key, for [`Keyval::apply`]: its new value, or `None` to remove it.
pub type KeyChange<'a> = (&'a Bytes, Option<&'a Bytes>);

/// A method's own lock may still be held by an instance that this process has just dropped: how
/// often an opening tries again, and how long it waits in between.
pub(crate) const LOCK_TRIES: u32 = 1000;
pub(crate) const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Keys and values in ascending order.
pub trait Keyval: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// As the method's disk.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Sets and removes keys, which come in ascending order, each once. Readers may see a part of
    /// them meanwhile, and after a failure.
    ///
    /// # Errors
    /// As the method's disk.
    fn apply(&self, changes: &mut dyn Iterator<Item = KeyChange<'_>>) -> Result<()>;
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

/// Opens or makes the store of `method` in `dir`, with `cache_bytes` of memory for what it read.
///
/// # Errors
/// `Format` when this program was built without the method; `Damaged`; the method's.
pub fn open(method: KeyvalMethod, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Keyval>> {
    // A method may panic on some kinds of damage; a start must fail with a sentence instead.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| match method {
        KeyvalMethod::Sled => {
            sled::SledKeyval::open(dir, cache_bytes).map(|k| Arc::new(k) as Arc<dyn Keyval>)
        }
        #[cfg(feature = "fjall")]
        KeyvalMethod::Fjall => {
            fjall::FjallKeyval::open(dir, cache_bytes).map(|k| Arc::new(k) as Arc<dyn Keyval>)
        }
        #[cfg(not(feature = "fjall"))]
        KeyvalMethod::Fjall => Err(TroveError::Format(format!(
            "{}: this program was built without the keyval method fjall: build it with the feature \
             `fjall` (on by default, needs Rust 1.90)",
            dir.display()
        ))),
    }));
    opened.unwrap_or_else(|_| {
        Err(TroveError::Damaged(format!(
            "{}: {method} cannot read its files; restore this server's storage space from a copy",
            dir.display()
        )))
    })
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
