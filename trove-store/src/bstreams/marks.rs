//! The two small logs beside the datafiles: which side files are not to be trusted (`DIRTY`), and
//! which datafiles were removed lately (`REMOVED`).
//!
//! Place in the walks: the first write of a datafile after it came to rest; every removal.
//! Invariants: a datafile is marked before its bytes change; a mark goes away only after its side
//! file is durable; a removed handle refuses writes until its time is over.
//!
//! Both logs are records of 24 bytes, little-endian; a torn last one is ignored:
//!
//! | bytes | field |
//! |---|---|
//! | 0-7 | handle (or boot number) |
//! | 8-15 | time in ns |
//! | 16-19 | kind: 1 dirty, 2 removed, 3 opened in this boot, 4 at rest (no longer dirty) |
//! | 20-23 | CRC-32 of bytes 0-19 |
use super::media::{LogKind, Media};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

const RECORD_BYTES: usize = 24;
const DIRTY: u32 = 1;
const REMOVED: u32 = 2;
const OPENED: u32 = 3;
const AT_REST: u32 = 4;
/// A log is written anew when it holds this many records that mean nothing any more.
const STALE_RECORDS_MAX: usize = 4096;

fn encode(handle: u64, time_ns: i64, kind: u32) -> [u8; RECORD_BYTES] {
    let mut b = [0; RECORD_BYTES];
    b[0..8].copy_from_slice(&handle.to_le_bytes());
    b[8..16].copy_from_slice(&time_ns.to_le_bytes());
    b[16..20].copy_from_slice(&kind.to_le_bytes());
    let crc = crc32fast::hash(&b[..20]);
    b[20..24].copy_from_slice(&crc.to_le_bytes());
    b
}

fn decode(b: &[u8]) -> Option<(u64, i64, u32)> {
    let b: &[u8; RECORD_BYTES] = b.try_into().ok()?;
    let sound = b[20..24] == crc32fast::hash(&b[..20]).to_le_bytes();
    let handle = u64::from_le_bytes(b[0..8].try_into().ok()?);
    let time = i64::from_le_bytes(b[8..16].try_into().ok()?);
    sound.then_some((handle, time, u32::from_le_bytes(b[16..20].try_into().ok()?)))
}

#[derive(Default)]
struct Dirty {
    handles: BTreeSet<u64>,
    /// Those of them whose checksums must be taken from their bytes.
    unknown: BTreeSet<u64>,
    records: usize,
}

#[derive(Default)]
struct Removed {
    until_ns: HashMap<u64, i64>,
    records: usize,
}

/// Both logs, in memory and on the medium.
pub struct Marks {
    dirty: Mutex<Dirty>,
    removed: Mutex<Removed>,
    dirty_unsynced: AtomicBool,
    removed_unsynced: AtomicBool,
    recycle_ns: i64,
    boot: u64,
    /// The earlier boot in which the medium was in use when power was lost, until every datafile
    /// was compared with its side file since.
    lost_boot: Mutex<Option<u64>>,
}

impl Marks {
    /// Reads both logs, and notes that the medium is open in this boot.
    ///
    /// # Errors
    /// As the disk.
    pub fn open(media: &dyn Media, now_ns: i64, recycle_ns: i64) -> io::Result<Marks> {
        let boot = media.boot();
        let (mut dirty, mut removed) = (Dirty::default(), Removed::default());
        let mut lost_boot = None;
        for record in media.read_log(LogKind::Dirty)?.chunks(RECORD_BYTES) {
            match decode(record) {
                Some((handle, _, DIRTY)) => drop(dirty.handles.insert(handle)),
                Some((handle, _, AT_REST)) => drop(dirty.handles.remove(&handle)),
                Some((then, _, OPENED)) if then != boot => lost_boot = Some(then),
                _ => {}
            }
        }
        dirty.unknown.clone_from(&dirty.handles);
        for record in media.read_log(LogKind::Removed)?.chunks(RECORD_BYTES) {
            if let Some((handle, time_ns, REMOVED)) = decode(record) {
                // A clock that was set back must not make a tombstone last for years.
                let until_ns = time_ns.min(now_ns).saturating_add(recycle_ns);
                if until_ns > now_ns {
                    removed.until_ns.insert(handle, until_ns);
                }
            }
        }
        let marks = Marks {
            lost_boot: Mutex::new(lost_boot),
            dirty: Mutex::new(dirty),
            removed: Mutex::new(removed),
            dirty_unsynced: AtomicBool::new(false),
            removed_unsynced: AtomicBool::new(false),
            recycle_ns,
            boot,
        };
        marks.rewrite_dirty(media, &mut marks.dirty.lock(), true)?;
        marks.rewrite_removed(media, &mut marks.removed.lock())?;
        Ok(marks)
    }

    fn rewrite_dirty(&self, media: &dyn Media, d: &mut Dirty, open: bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        if open {
            bytes.extend_from_slice(&encode(self.boot, 0, OPENED));
        }
        if let Some(lost_boot) = *self.lost_boot.lock() {
            bytes.extend_from_slice(&encode(lost_boot, 0, OPENED));
        }
        for handle in &d.handles {
            bytes.extend_from_slice(&encode(*handle, 0, DIRTY));
        }
        media.replace_log(LogKind::Dirty, &bytes)?;
        d.records = d.handles.len();
        Ok(())
    }

    fn rewrite_removed(&self, media: &dyn Media, r: &mut Removed) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (handle, until_ns) in &r.until_ns {
            bytes.extend_from_slice(&encode(*handle, until_ns - self.recycle_ns, REMOVED));
        }
        media.replace_log(LogKind::Removed, &bytes)?;
        r.records = r.until_ns.len();
        Ok(())
    }

    /// Whether power was lost, and datafiles may be younger than their side files without a mark.
    pub fn power_lost(&self) -> bool {
        self.lost_boot.lock().is_some()
    }

    /// Every datafile was compared with its side file since power was lost.
    pub fn all_checked(&self) {
        *self.lost_boot.lock() = None;
    }

    /// Marks a datafile before its bytes change.
    ///
    /// # Errors
    /// As the disk; the bytes must stay.
    pub fn mark(&self, media: &dyn Media, handle: u64) -> io::Result<()> {
        let mut d = self.dirty.lock();
        if !d.handles.contains(&handle) {
            media.append_log(LogKind::Dirty, &encode(handle, 0, DIRTY))?;
            d.handles.insert(handle);
            d.records += 1;
            self.dirty_unsynced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The side file of a datafile is durable and true again, or the datafile is gone.
    ///
    /// # Errors
    /// As the disk; it stays marked.
    pub fn unmark(&self, media: &dyn Media, handle: u64) -> io::Result<()> {
        let mut d = self.dirty.lock();
        if d.handles.contains(&handle) {
            media.append_log(LogKind::Dirty, &encode(handle, 0, AT_REST))?;
            d.records += 1;
            d.handles.remove(&handle);
            d.unknown.remove(&handle);
        }
        Ok(())
    }

    /// Marks a datafile whose checksums must be taken from its bytes.
    ///
    /// # Errors
    /// As [`Marks::mark`].
    pub fn mark_unknown(&self, media: &dyn Media, handle: u64) -> io::Result<()> {
        self.mark(media, handle)?;
        self.dirty.lock().unknown.insert(handle);
        Ok(())
    }

    /// All checksums of a datafile are known again.
    pub fn learned(&self, handle: u64) {
        self.dirty.lock().unknown.remove(&handle);
    }

    /// The first datafile at or above `from` with unknown checksums.
    pub fn next_unknown(&self, from: u64) -> Option<u64> {
        self.dirty.lock().unknown.range(from..).next().copied()
    }

    /// Whether any datafile is marked.
    pub fn any(&self) -> bool {
        !self.dirty.lock().handles.is_empty()
    }

    /// Whether a datafile's side file is not to be trusted.
    pub fn is_marked(&self, handle: u64) -> bool {
        self.dirty.lock().handles.contains(&handle)
    }

    /// Makes all marks durable.
    ///
    /// # Errors
    /// As the disk.
    pub fn sync(&self, media: &dyn Media) -> io::Result<()> {
        let logs =
            [(&self.dirty_unsynced, LogKind::Dirty), (&self.removed_unsynced, LogKind::Removed)];
        for (flag, log) in logs {
            if flag.swap(false, Ordering::AcqRel)
                && let Err(e) = media.sync_log(log)
            {
                flag.store(true, Ordering::Release);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Notes a removal.
    ///
    /// # Errors
    /// As the disk; the datafile must stay.
    pub fn bury(&self, media: &dyn Media, handle: u64, now_ns: i64) -> io::Result<()> {
        let mut r = self.removed.lock();
        match media.append_log(LogKind::Removed, &encode(handle, now_ns, REMOVED)) {
            Ok(()) => r.records += 1,
            // A full disk must not forbid what frees it: the log is written anew afterwards.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => r.records = usize::MAX / 2,
            Err(e) => return Err(e),
        }
        r.until_ns.insert(handle, now_ns.saturating_add(self.recycle_ns));
        self.removed_unsynced.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether a handle was removed lately.
    pub fn is_buried(&self, handle: u64, now_ns: i64) -> bool {
        let r = self.removed.lock();
        !r.until_ns.is_empty() && r.until_ns.get(&handle).is_some_and(|until| *until > now_ns)
    }

    /// Forgets what is over and shortens the logs.
    ///
    /// # Errors
    /// As the disk; nothing is lost.
    pub fn tidy(&self, media: &dyn Media, now_ns: i64) -> io::Result<()> {
        {
            let mut d = self.dirty.lock();
            if d.records > 2 * d.handles.len() + STALE_RECORDS_MAX {
                self.rewrite_dirty(media, &mut d, true)?;
            }
        }
        let mut r = self.removed.lock();
        if r.records > STALE_RECORDS_MAX {
            r.until_ns.retain(|_, until| *until > now_ns);
            if r.records > 2 * r.until_ns.len() + STALE_RECORDS_MAX {
                self.rewrite_removed(media, &mut r)?;
            }
        }
        Ok(())
    }

    /// Writes both logs for a clean stop.
    ///
    /// # Errors
    /// As the disk.
    pub fn close(&self, media: &dyn Media, now_ns: i64) -> io::Result<()> {
        self.rewrite_dirty(media, &mut self.dirty.lock(), false)?;
        let mut r = self.removed.lock();
        r.until_ns.retain(|_, until| *until > now_ns);
        self.rewrite_removed(media, &mut r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_record() {
        let b = encode(0x0102, 3, REMOVED);
        let hex: String = b[..20].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0201000000000000030000000000000002000000");
        assert_eq!(decode(&b), Some((0x0102, 3, REMOVED)));
        for i in 0..RECORD_BYTES {
            let mut bad = b;
            bad[i] ^= 1;
            assert_eq!(decode(&bad), None);
        }
        assert_eq!(decode(&b[..23]), None);
    }
}
