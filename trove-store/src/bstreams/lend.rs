//! Strips that leave straight from the page cache, under the checksums stored beside the datafile.
//!
//! Place in the walks: read, in place of the copy into a buffer of ours. Invariants: only whole strips
//! (or what there is of the last one) with known sums, all of whose pages are in memory when asked;
//! what is written to them afterwards may leave in their place, so only a reader that compares may
//! be lent to. Damage of the disk is found by its comparison, and named by the read that follows.
use super::datafile::Datafile;
use super::sums::Sum;
use super::{STRIP_BYTES, crc};
use pvfs2_proto::Result;
use pvfs2_proto::op::PhysicalExtent;
use std::fs::File;
use std::sync::Arc;

/// What may be sent.
pub struct Loan {
    /// The local file.
    pub file: Arc<File>,
    /// The CRC-32 of all extents behind each other.
    pub crc: u32,
}

impl Datafile {
    /// See [`super::Bstreams::lend`].
    pub fn lend(&self, extents: &[PhysicalExtent]) -> Result<Option<Loan>> {
        // A writer is at work: reading waits for it, or goes to the pool.
        let Some(state) = self.state.try_read() else { return Ok(None) };
        self.check_readable(&state)?;
        let mut all = 0;
        let mut file = None;
        for extent in extents {
            let (start, end) = (extent.physical_offset, extent.physical_offset + extent.len);
            let whole = start.is_multiple_of(STRIP_BYTES)
                && end <= state.size
                && (end.is_multiple_of(STRIP_BYTES) || end == state.size);
            if !whole {
                return Ok(None);
            }
            for strip in start / STRIP_BYTES..end.div_ceil(STRIP_BYTES) {
                let Sum::Known(sum) = state.sums.get(strip) else { return Ok(None) };
                let len = state.valid(strip);
                all = crc::join(all, crc::plain(sum, len), len);
            }
            match self.file.lend(start, extent.len) {
                Some(lent) => file = Some(lent),
                None => return Ok(None),
            }
        }
        Ok(file.map(|file| Loan { file, crc: all }))
    }
}
