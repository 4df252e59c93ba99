//! Reading the journal back after a stop of any kind.
//!
//! Place in the walks: a server's start. Invariants: records are handed out in order of their index
//! without a gap; what was durable is found or the start is refused; what is cut off was never
//! promised.
//!
//! Where the first bad record stands, three things may have happened:
//! - nothing good follows: a torn tail (a kill amid `write(2)`, or lost power): cut it there;
//! - good records follow, the machine has been started anew since, and none of them says that the
//!   bad one was durable: lost power wrote pages in another order. Cut it there: all of it is
//!   younger than the last sync;
//! - good records follow otherwise: damage. The start is refused, naming file and offset.
use super::record::{self, Changes, RECORD_BYTES_MIN};
use super::segment::{self, SEGMENT_HEAD_BYTES, SegmentHead};
use crate::error::{Result, TroveError};
use crate::format::{boot_id, sync_dir};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Highest index in the journal (or the checkpoint's, if that is higher).
    pub last_index: u64,
    /// Records handed out.
    pub replayed: u64,
    /// Bytes cut off behind the last good record.
    pub cut_bytes: u64,
}

struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    head: Option<SegmentHead>,
}

/// Reads all segments of `dir`, hands every record above `checkpoint` to `apply`, and cuts a torn
/// tail off.
///
/// # Errors
/// `Damaged`, naming file and offset and the remedy; `Os`.
pub fn recover(
    dir: &Path,
    fs_id: u64,
    checkpoint: u64,
    mut apply: impl FnMut(u64, Changes),
) -> Result<Recovered> {
    let list = segment::list(dir)?;
    let mut out = Recovered { last_index: checkpoint, replayed: 0, cut_bytes: 0 };
    let mut next_index = None;
    for (at, (name_index, path)) in list.iter().enumerate() {
        // After a kill it may be in the page cache only; what is replayed must be durable, because
        // it goes into the keyval store.
        File::open(path).and_then(|f| f.sync_all()).map_err(TroveError::os("sync", path))?;
        let seg = load(path, fs_id, *name_index)?;
        if seg.head.is_some() && next_index.is_none() {
            if *name_index > checkpoint + 1 {
                return Err(TroveError::Damaged(format!(
                    "{}: the journal begins with record {name_index}, but the checkpoint stands at \
                     {checkpoint}: a segment is missing; put it back or restore a copy",
                    dir.display()
                )));
            }
            next_index = Some(*name_index);
        }
        // Without a sound header, or with a gap before it, the segment is bad from its first byte.
        let expected = next_index.unwrap_or(checkpoint + 1);
        let mut offset = match seg.head {
            Some(head) if head.first_index == expected => SEGMENT_HEAD_BYTES,
            _ => 0,
        };
        let mut index = expected;
        if offset > 0 {
            while offset < seg.bytes.len() {
                match record::decode(&seg.bytes[offset..]).filter(|r| r.index == index) {
                    Some(r) => {
                        offset += r.len;
                        index += 1;
                        if r.index > checkpoint {
                            apply(r.index, r.changes);
                            out.replayed += 1;
                        }
                    }
                    None => break,
                }
            }
            next_index = Some(index);
            out.last_index = out.last_index.max(index - 1);
        }
        if offset == 0 || offset < seg.bytes.len() {
            judge(&seg, offset, index, &list[at + 1..], fs_id)?;
            out.cut_bytes = cut(dir, &seg, offset, &list[at + 1..])?;
            break;
        }
    }
    Ok(out)
}

fn load(path: &Path, fs_id: u64, name_index: u64) -> Result<Segment> {
    let bytes = std::fs::read(path).map_err(TroveError::os("read", path))?;
    let head = SegmentHead::decode(&bytes);
    if let Some(head) = head
        && (head.fs_id != fs_id || head.first_index != name_index)
    {
        return Err(TroveError::Damaged(format!(
            "{} is of file system {:016x} and begins with record {}, which does not belong here: \
             put the right file back",
            path.display(),
            head.fs_id,
            head.first_index
        )));
    }
    Ok(Segment { path: path.to_path_buf(), bytes, head })
}

/// Whether the bad place may be cut off: the error says why not.
fn judge(
    seg: &Segment,
    offset: usize,
    bad_index: u64,
    later: &[(u64, PathBuf)],
    fs_id: u64,
) -> Result<()> {
    let same_boot = |head: Option<SegmentHead>| head.is_some_and(|h| h.boot_id == boot_id());
    let mut same = same_boot(seg.head);
    let mut best = survivors(&seg.bytes, offset + 1, bad_index);
    for (name_index, path) in later {
        let next = load(path, fs_id, *name_index)?;
        same |= same_boot(next.head);
        best = best.max(survivors(&next.bytes, SEGMENT_HEAD_BYTES, bad_index));
    }
    match best {
        None => Ok(()),
        Some(durable) if !same && durable < bad_index => {
            tracing::warn!(
                file = %seg.path.display(), offset, record = bad_index,
                "power was lost amid the journal's last, unsynced second: cut off here"
            );
            Ok(())
        }
        Some(_) => Err(TroveError::Damaged(format!(
            "{}: record {bad_index} at offset {offset} is damaged and good records follow it: the \
             disk has lost what was written; restore this server's storage space from a copy, or \
             cut the file at that offset to give up all later changes",
            seg.path.display()
        ))),
    }
}

/// The highest "known durable" among sound records of `bytes` from `from` on that are at or after
/// `bad_index`; `None` when there is none.
fn survivors(bytes: &[u8], from: usize, bad_index: u64) -> Option<u64> {
    let mut best = None;
    let mut at = from;
    while at + RECORD_BYTES_MIN <= bytes.len() {
        // An index far away is no record of ours; this keeps the search from checking every byte.
        let near = |index: u64| index >= bad_index && index - bad_index < 1 << 32;
        let found = record::peek(&bytes[at..])
            .filter(|&(len, index)| near(index) && at + len <= bytes.len())
            .and_then(|_| record::decode(&bytes[at..]));
        match found {
            Some(r) => {
                best = best.max(Some(r.durable));
                at += r.len;
            }
            None => at += 1,
        }
    }
    best
}

fn cut(dir: &Path, seg: &Segment, offset: usize, later: &[(u64, PathBuf)]) -> Result<u64> {
    let mut bytes = (seg.bytes.len() - offset) as u64;
    for (_, path) in later.iter().rev() {
        bytes += path.metadata().map_or(0, |m| m.len());
        std::fs::remove_file(path).map_err(TroveError::os("remove", path))?;
    }
    if offset == 0 {
        std::fs::remove_file(&seg.path).map_err(TroveError::os("remove", &seg.path))?;
    } else {
        let file = OpenOptions::new()
            .write(true)
            .open(&seg.path)
            .map_err(TroveError::os("open", &seg.path))?;
        file.set_len(offset as u64)
            .and_then(|()| file.sync_all())
            .map_err(TroveError::os("cut", &seg.path))?;
    }
    sync_dir(dir)?;
    Ok(bytes)
}
