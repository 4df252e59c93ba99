//! Segment files of the journal and the checkpoint file.
//!
//! Place in the walks: opened at a server's start, rotated every [`SEGMENT_BYTES`].
//! Invariant: a segment's name is the index of its first record, so the order of the names is the
//! order of the records. All numbers are little-endian.
//!
//! Segment `journal/<first index, 16 hex digits>.seg`: this header, then records.
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | magic `PVJS` |
//! | 4-7 | version, 1 |
//! | 8-15 | file system id |
//! | 16-23 | index of the first record |
//! | 24-39 | id of the boot in which it was written |
//! | 40-43 | CRC-32 of bytes 0-39 |
//!
//! `journal/CHECKPOINT`: everything up to the index is in the keyval store.
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | magic `PVJC` |
//! | 4-7 | version, 1 |
//! | 8-15 | index |
//! | 16-19 | CRC-32 of bytes 0-15 |
use super::record::{u32_at, u64_at};
use crate::error::{Result, TroveError};
use crate::format::write_atomically;
use std::path::{Path, PathBuf};

/// A segment is closed when it would grow beyond this.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes before the first record.
pub const SEGMENT_HEAD_BYTES: usize = 44;
const SEGMENT_MAGIC: &[u8; 4] = b"PVJS";
const CHECKPOINT_MAGIC: &[u8; 4] = b"PVJC";
const VERSION: u32 = 1;
const CHECKPOINT: &str = "CHECKPOINT";

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// File system.
    pub fs_id: u64,
    /// Index of the first record.
    pub first_index: u64,
    /// Boot in which it was written.
    pub boot_id: [u8; 16],
}

impl SegmentHead {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut b = [0; SEGMENT_HEAD_BYTES];
        b[0..4].copy_from_slice(SEGMENT_MAGIC);
        b[4..8].copy_from_slice(&VERSION.to_le_bytes());
        b[8..16].copy_from_slice(&self.fs_id.to_le_bytes());
        b[16..24].copy_from_slice(&self.first_index.to_le_bytes());
        b[24..40].copy_from_slice(&self.boot_id);
        let crc = crc32fast::hash(&b[..40]);
        b[40..44].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Decodes a header; `None` when it is not whole and sound.
    pub fn decode(b: &[u8]) -> Option<SegmentHead> {
        let b = b.get(..SEGMENT_HEAD_BYTES)?;
        let sound = &b[0..4] == SEGMENT_MAGIC
            && u32_at(b, 4)? == VERSION
            && u32_at(b, 40)? == crc32fast::hash(&b[..40]);
        let boot_id = b[24..40].try_into().ok()?;
        sound.then_some(SegmentHead { fs_id: u64_at(b, 8)?, first_index: u64_at(b, 16)?, boot_id })
    }
}

/// The path of the segment that begins with `first_index`.
pub fn path_of(dir: &Path, first_index: u64) -> PathBuf {
    dir.join(format!("{first_index:016x}.seg"))
}

/// All segments of `dir`, oldest first, as (first index by name, path).
///
/// # Errors
/// `Os`; `Damaged` for a file that does not belong there.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(TroveError::os("list", dir))? {
        let path = entry.map_err(TroveError::os("list", dir))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(CHECKPOINT) {
            continue;
        }
        let index = name
            .strip_suffix(".seg")
            .filter(|hex| hex.len() == 16)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        match index {
            Some(index) => found.push((index, path)),
            None => {
                return Err(TroveError::Damaged(format!(
                    "{} does not belong into a journal: move it away",
                    path.display()
                )));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The bytes of a checkpoint file.
pub fn encode_checkpoint(index: u64) -> [u8; 20] {
    let mut b = [0; 20];
    b[0..4].copy_from_slice(CHECKPOINT_MAGIC);
    b[4..8].copy_from_slice(&VERSION.to_le_bytes());
    b[8..16].copy_from_slice(&index.to_le_bytes());
    let crc = crc32fast::hash(&b[..16]);
    b[16..20].copy_from_slice(&crc.to_le_bytes());
    b
}

/// The index in a checkpoint file's bytes; `None` when they are not whole and sound.
pub fn decode_checkpoint(b: &[u8]) -> Option<u64> {
    let sound = b.len() == 20
        && &b[0..4] == CHECKPOINT_MAGIC
        && u32_at(b, 4)? == VERSION
        && u32_at(b, 16)? == crc32fast::hash(&b[..16]);
    if sound { u64_at(b, 8) } else { None }
}

/// Records the checkpoint.
///
/// # Errors
/// `Os`; the old checkpoint stands.
pub fn write_checkpoint(dir: &Path, index: u64) -> Result<()> {
    write_atomically(dir, CHECKPOINT, &encode_checkpoint(index))
}

/// Reads the checkpoint; 0 when there is none yet.
///
/// # Errors
/// `Os`, `Damaged`.
pub fn read_checkpoint(dir: &Path) -> Result<u64> {
    let path = dir.join(CHECKPOINT);
    match std::fs::read(&path) {
        Ok(b) => decode_checkpoint(&b).ok_or_else(|| {
            TroveError::Damaged(format!(
                "{} is damaged (CRC-32); restore this storage space from a copy",
                path.display()
            ))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(TroveError::os("read", &path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let head = SegmentHead { fs_id: 0x0102, first_index: 9, boot_id: [0xab; 16] };
        let b = head.encode();
        let hex: String = b[..40].iter().map(|b| format!("{b:02x}")).collect();
        let want = "50564a530100000002010000000000000900000000000000\
                    abababababababababababababababab";
        assert_eq!(hex, want);
        assert_eq!(SegmentHead::decode(&b), Some(head));
        let c = encode_checkpoint(0x1234);
        let hex: String = c[..16].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "50564a43010000003412000000000000");
        assert_eq!(decode_checkpoint(&c), Some(0x1234));
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let head = SegmentHead { fs_id: 1, first_index: 2, boot_id: [3; 16] }.encode();
        for i in 0..head.len() {
            let mut b = head;
            b[i] ^= 0x40;
            assert_eq!(SegmentHead::decode(&b), None);
        }
        let c = encode_checkpoint(5);
        for i in 0..c.len() {
            let mut b = c;
            b[i] ^= 0x40;
            assert_eq!(decode_checkpoint(&b), None);
        }
    }
}
