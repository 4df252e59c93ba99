//! Handles: 64-bit names of objects, unique in the file system. The server of a handle is found by
//! range; the FUSE inode number is the handle.
use std::fmt;

/// A 64-bit object name. Zero is never a handle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Handle(pub u64);

impl Handle {
    /// The root directory, on the first metadata server.
    pub const ROOT: Handle = Handle(1);
    /// No handle.
    pub const NULL: Handle = Handle(0);
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:x})", self.0)
    }
}
impl From<u64> for Handle {
    fn from(raw: u64) -> Self {
        Handle(raw)
    }
}

/// An inclusive range of handles that one server owns.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HandleRange {
    /// First handle of the range.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// Last handle of the range.
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

impl HandleRange {
    /// Whether `handle` lies in the range.
    pub fn contains(&self, handle: Handle) -> bool {
        (self.first..=self.last).contains(&handle.0)
    }
    /// Whether two ranges share a handle.
    pub fn overlaps(&self, other: &HandleRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Handles of one server's range that datafiles made by one metadata server may use.
///
/// The metadata server with index `meta_index` names the datafiles of its metafile number `n`
/// (`n` = metahandle - first handle of its range) on an I/O server whose range begins at `first`
/// as `first + (meta_index << DATAHANDLE_META_SHIFT) + n`. So datahandles need no allocation, are
/// unique as long as metahandles are, and one I/O server never has two datafiles of one metafile.
pub const DATAHANDLE_META_SHIFT: u32 = 40;

/// The datahandle for metafile `metahandle` on the I/O server with range `io_range`.
/// See [`DATAHANDLE_META_SHIFT`]. `None` when the range is too small (a fault of the cluster file).
pub fn datahandle(
    io_range: &HandleRange,
    meta_index: u32,
    meta_range: &HandleRange,
    metahandle: Handle,
) -> Option<Handle> {
    let n = metahandle.0.checked_sub(meta_range.first)?;
    if n >> DATAHANDLE_META_SHIFT != 0 {
        return None;
    }
    let raw = io_range
        .first
        .checked_add(u64::from(meta_index) << DATAHANDLE_META_SHIFT)?
        .checked_add(n)?;
    (raw <= io_range.last).then_some(Handle(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datahandles_are_unique_and_in_range() {
        let io = HandleRange { first: 1 << 56, last: (1 << 56) + (1 << 48) - 1 };
        let m0 = HandleRange { first: 1, last: 1 << 40 };
        let m1 = HandleRange { first: (1 << 40) + 1, last: 1 << 41 };
        let a = datahandle(&io, 0, &m0, Handle(5));
        let b = datahandle(&io, 1, &m1, Handle((1 << 40) + 5));
        assert!(a.is_some() && b.is_some() && a != b);
        assert_eq!(datahandle(&HandleRange { first: 1, last: 2 }, 0, &m0, Handle(9)), None);
    }
}
