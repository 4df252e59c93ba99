//! One record of the journal: a transaction as absolute puts and deletes.
//!
//! Place in the walks: what `Collection::commit` writes and recovery reads. Replaying a record twice
//! gives the same as once. All numbers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | length of the whole record |
//! | 4-7 | number of changes |
//! | 8-15 | index: 1, 2, 3, ... without gaps |
//! | 16-23 | highest index known durable when this record was written |
//! | 24- | changes, one after the other |
//! | last 4 | CRC-32 of all bytes before |
//!
//! A change:
//!
//! | bytes | field |
//! |---|---|
//! | 0 | 1 = put, 2 = delete |
//! | 1-2 | length of the key |
//! | 3-6 | length of the value (0 for a delete) |
//! | 7- | key, value |
use crate::error::{Result, TroveError};
use bytes::Bytes;
use smallvec::SmallVec;

/// Bytes before the first change.
pub const RECORD_HEAD_BYTES: usize = 24;
/// Shortest record: no changes.
pub const RECORD_BYTES_MIN: usize = RECORD_HEAD_BYTES + 4;
/// Longest record that is written or believed.
pub const RECORD_BYTES_MAX: usize = 32 << 20;
/// Longest key.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
const CHANGE_HEAD_BYTES: usize = 7;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One change of a key: its new value, or `None` for a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
}

/// The changes of one transaction, in order.
pub type Changes = SmallVec<[Change; 6]>;

/// A record as read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order of all transactions.
    pub index: u64,
    /// Highest index known durable when it was written.
    pub durable: u64,
    /// What it changes.
    pub changes: Changes,
    /// Bytes it takes in the segment.
    pub len: usize,
}

/// Appends the record to `buf`.
///
/// # Errors
/// `Invalid` when a key or the whole is too long; `buf` is as before.
pub fn encode(buf: &mut Vec<u8>, index: u64, durable: u64, changes: &[Change]) -> Result<()> {
    let mut len = RECORD_BYTES_MIN;
    for c in changes {
        if c.key.is_empty() || c.key.len() > KEY_BYTES_MAX {
            return Err(TroveError::Invalid(format!(
                "a key of {} bytes must have 1 to {KEY_BYTES_MAX}",
                c.key.len()
            )));
        }
        len += CHANGE_HEAD_BYTES + c.key.len() + c.value.as_ref().map_or(0, Bytes::len);
    }
    if len > RECORD_BYTES_MAX {
        return Err(TroveError::Invalid(format!(
            "a transaction of {len} bytes is longer than {RECORD_BYTES_MAX}: split it"
        )));
    }
    let start = buf.len();
    buf.reserve(len);
    buf.extend_from_slice(&(len as u32).to_le_bytes());
    buf.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    buf.extend_from_slice(&index.to_le_bytes());
    buf.extend_from_slice(&durable.to_le_bytes());
    for c in changes {
        buf.push(if c.value.is_some() { PUT } else { DELETE });
        buf.extend_from_slice(&(c.key.len() as u16).to_le_bytes());
        let value = c.value.as_deref().unwrap_or_default();
        buf.extend_from_slice(&(value.len() as u32).to_le_bytes());
        buf.extend_from_slice(&c.key);
        buf.extend_from_slice(value);
    }
    let crc = crc32fast::hash(&buf[start..]);
    buf.extend_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// What stands at the head of `bytes`, without checking it: (length, index).
pub fn peek(bytes: &[u8]) -> Option<(usize, u64)> {
    let len = u32_at(bytes, 0)? as usize;
    let index = u64_at(bytes, 8)?;
    (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&len).then_some((len, index))
}

/// Decodes the record at the head of `bytes`; `None` when there is no whole and sound one.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let (len, index) = peek(bytes)?;
    let all = bytes.get(..len)?;
    let (body, crc) = all.split_at(len - 4);
    if crc32fast::hash(body) != u32_at(crc, 0)? {
        return None;
    }
    let count = u32_at(body, 4)? as usize;
    let durable = u64_at(body, 16)?;
    let mut rest = body.get(RECORD_HEAD_BYTES..)?;
    if count > rest.len() / CHANGE_HEAD_BYTES {
        return None;
    }
    let mut changes = Changes::with_capacity(count);
    for _ in 0..count {
        let kind = *rest.first()?;
        let key_len = u16::from_le_bytes([*rest.get(1)?, *rest.get(2)?]) as usize;
        let value_len = u32_at(rest, 3)? as usize;
        let key_end = CHANGE_HEAD_BYTES + key_len;
        let end = key_end.checked_add(value_len)?;
        let key = Bytes::copy_from_slice(rest.get(CHANGE_HEAD_BYTES..key_end)?);
        let value = rest.get(key_end..end)?;
        let value = match kind {
            PUT => Some(Bytes::copy_from_slice(value)),
            DELETE if value.is_empty() => None,
            _ => return None,
        };
        changes.push(Change { key, value });
        rest = rest.get(end..)?;
    }
    rest.is_empty().then_some(Record { index, durable, changes, len })
}

pub(super) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    let raw = b.get(at..at.checked_add(4)?)?;
    raw.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    let raw = b.get(at..at.checked_add(8)?)?;
    raw.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(key: &[u8], value: Option<&[u8]>) -> Change {
        Change { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) }
    }

    #[test]
    fn golden_bytes() {
        let mut buf = Vec::new();
        encode(&mut buf, 7, 5, &[change(b"k1", Some(b"abc")), change(b"x", None)]).unwrap();
        let hex: String = buf.iter().map(|b| format!("{b:02x}")).collect();
        let body = "30000000020000000700000000000000050000000000000001020003000000\
                    6b316162630201000000000078";
        assert_eq!(hex[..hex.len() - 8].to_string(), body.replace([' ', '\n'], ""));
        let crc = crc32fast::hash(&buf[..buf.len() - 4]);
        assert_eq!(buf[buf.len() - 4..], crc.to_le_bytes());
        assert_eq!(buf[0] as usize, buf.len());
    }

    #[test]
    fn too_long_keys_and_records_are_refused() {
        let mut buf = vec![1, 2, 3];
        assert!(encode(&mut buf, 1, 0, &[change(b"", Some(b"v"))]).is_err());
        assert!(encode(&mut buf, 1, 0, &[change(&[0; 65_536], None)]).is_err());
        let big = vec![0; RECORD_BYTES_MAX];
        assert!(encode(&mut buf, 1, 0, &[change(b"k", Some(&big))]).is_err());
        assert_eq!(buf, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn round_trip(index: u64, durable: u64, list in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..40),
             prop::option::of(prop::collection::vec(any::<u8>(), 0..300))), 0..20)) {
            let changes: Vec<Change> =
                list.iter().map(|(k, v)| change(k, v.as_deref())).collect();
            let mut buf = Vec::new();
            encode(&mut buf, index, durable, &changes).unwrap();
            let r = decode(&buf).unwrap();
            prop_assert_eq!((r.index, r.durable, r.len), (index, durable, buf.len()));
            prop_assert_eq!(&r.changes[..], &changes[..]);
            for cut in 0..buf.len() {
                prop_assert!(decode(&buf[..cut]).is_none());
            }
        }

        #[test]
        fn one_flipped_bit_is_found(at in 0usize..400, bit in 0u8..8) {
            let mut buf = Vec::new();
            encode(&mut buf, 1, 0, &[change(b"key", Some(&[7; 371]))]).unwrap();
            let at = at % buf.len();
            buf[at] ^= 1 << bit;
            prop_assert!(decode(&buf).is_none());
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&b);
        }
    }
}
