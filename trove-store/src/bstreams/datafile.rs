//! One open datafile: its bytes, its length, its checksums.
//!
//! Place in the walks: the last step of read and write. Invariants: bytes and sums change together
//! under the write lock; a reader compares every whole strip that it reads, and every partly read
//! strip once after opening; bytes that do not match are never handed out; after a failed sync
//! everything fails.
use super::crc;
use super::media::{Media, MediaFile};
use super::stream_out::Stream;
use super::sums::{Sum, Sums};
use super::{STRIP_BYTES, Shared};
use parking_lot::{Mutex, RwLock};
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{DfStat, PhysicalExtent};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long `read_nowait` waits for a writer of the same datafile.
const NOWAIT_LOCK: Duration = Duration::from_micros(50);

thread_local! {
    /// A strip's worth of warm memory per thread.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; STRIP_BYTES as usize].into());
}

pub(super) struct State {
    pub size: u64,
    pub mtime_ns: i64,
    pub sums: Sums,
    /// Counts changes.
    pub version: u64,
    /// Removed while somebody still held it.
    pub removed: bool,
    /// Why nothing works any more.
    pub poisoned: Option<String>,
    /// Why its bytes cannot be trusted at all.
    pub damaged: Option<String>,
    /// How it is being written.
    pub stream: Stream,
}

/// See the head of this file.
pub(super) struct Datafile {
    pub handle: u64,
    pub file: Arc<dyn MediaFile>,
    pub state: RwLock<State>,
    /// In the log of dirty datafiles.
    pub marked: AtomicBool,
    /// Bytes may have changed since the last sync.
    pub unsynced: AtomicBool,
    /// Its name may not survive loss of power.
    pub name_unsynced: AtomicBool,
    /// Background tick of the last use.
    pub used: AtomicU64,
    /// One sync at a time.
    pub syncing: Mutex<()>,
}

/// The part of a strip that an access touches.
#[derive(Clone, Copy)]
struct Part {
    strip: u64,
    from: usize,
    to: usize,
}

impl Part {
    fn len(&self) -> usize {
        self.to - self.from
    }
    fn offset(&self) -> u64 {
        self.strip * STRIP_BYTES + self.from as u64
    }
}

/// The strips that `offset..offset + len` touches.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let end = offset + len;
    (offset / STRIP_BYTES..end.div_ceil(STRIP_BYTES)).map(move |strip| {
        let start = strip * STRIP_BYTES;
        let from = offset.saturating_sub(start) as usize;
        Part { strip, from, to: (end - start).min(STRIP_BYTES) as usize }
    })
}

impl State {
    /// Bytes of a strip that lie before the datafile's end.
    pub fn valid(&self, strip: u64) -> usize {
        self.size.saturating_sub(strip * STRIP_BYTES).min(STRIP_BYTES) as usize
    }
}

impl Datafile {
    pub fn size(&self) -> u64 {
        self.state.read().size
    }

    pub(super) fn error(&self, shared: &Shared, what: &str, e: io::Error) -> PvfsError {
        let code = match e.raw_os_error() {
            Some(libc::ENOSPC) => ErrorCode::NoSpace,
            Some(libc::EDQUOT) => ErrorCode::Quota,
            Some(libc::EFBIG | libc::EINVAL) => ErrorCode::FileTooBig,
            Some(libc::EOPNOTSUPP) => ErrorCode::NotSupported,
            _ => ErrorCode::Io,
        };
        PvfsError::new(code, format!("cannot {what} datafile {}: {e}", shared.name(self.handle)))
    }

    pub(super) fn check(&self, state: &State) -> Result<()> {
        if let Some(why) = &state.poisoned {
            return Err(PvfsError::new(ErrorCode::Io, why.clone()));
        }
        if state.removed {
            return Err(super::stale(Handle(self.handle)));
        }
        Ok(())
    }

    pub(super) fn check_readable(&self, state: &State) -> Result<()> {
        self.check(state)?;
        match &state.damaged {
            Some(why) => Err(PvfsError::new(ErrorCode::Damaged, why.clone())),
            None => Ok(()),
        }
    }

    pub fn damage(&self, shared: &Shared, offset: u64) -> PvfsError {
        PvfsError::new(
            ErrorCode::Damaged,
            format!(
                "datafile {} (handle {}) does not match its checksum in the strip at physical \
                 offset {offset}: the disk has changed it; restore the file from a copy",
                shared.name(self.handle),
                Handle(self.handle)
            ),
        )
    }

    /// Marks it dirty on the medium before its first change.
    fn begin_change(&self, state: &mut State, shared: &Shared, media: &dyn Media) -> Result<()> {
        if !self.marked.load(Ordering::Acquire) {
            let marked = shared.marks.mark(media, self.handle);
            marked.map_err(|e| self.error(shared, "mark", e))?;
            self.marked.store(true, Ordering::Release);
        }
        // Set before and after the change: a sync in between must not lose the second.
        state.version += 1;
        self.changed(shared);
        Ok(())
    }

    fn changed(&self, shared: &Shared) {
        if !self.unsynced.swap(true, Ordering::AcqRel) {
            shared.wake();
        }
    }

    /// The linear sum of bytes that are there now, as a piece of the padded sum; 0 where the sum
    /// says that the strip is a hole.
    fn old_piece(&self, state: &State, part: Part) -> io::Result<u32> {
        let to = part.to.min(state.valid(part.strip));
        if to <= part.from || state.sums.get(part.strip) == Sum::Known(0) {
            return Ok(0);
        }
        with_scratch(|scratch| {
            let old = &mut scratch[..to - part.from];
            self.read_exact(part.offset(), old)?;
            Ok(crc::piece(crc32fast::hash(old), part.from, old.len()))
        })
    }

    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(offset, buf)? {
            n if n == buf.len() => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the local file is shorter than its recorded length",
            )),
        }
    }

    /// Takes a strip's sum from the disk.
    pub(super) fn learn(&self, state: &mut State, strip: u64) -> io::Result<u32> {
        let valid = state.valid(strip);
        let sum = with_scratch(|scratch| {
            self.read_exact(strip * STRIP_BYTES, &mut scratch[..valid])?;
            Ok::<u32, io::Error>(crc::padded(&scratch[..valid]))
        })?;
        state.sums.set(strip, sum);
        state.sums.set_verified(strip);
        Ok(sum)
    }

    pub(super) fn known(&self, state: &mut State, strip: u64) -> io::Result<u32> {
        match state.sums.get(strip) {
            Sum::Known(sum) => Ok(sum),
            Sum::Unknown => self.learn(state, strip),
        }
    }

    pub fn write(
        &self,
        shared: &Shared,
        media: &dyn Media,
        offset: u64,
        (bufs, crcs): (&[&[u8]], &[u32]),
    ) -> Result<i64> {
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        let end = offset.checked_add(len).filter(|end| *end <= FILE_SIZE_MAX);
        let end = end.ok_or_else(|| super::too_big(Handle(self.handle)))?;
        let mut state = self.state.write();
        self.check(&state)?;
        let now = shared.env.now_ns();
        if len == 0 {
            return Ok(now);
        }
        self.begin_change(&mut state, shared, media)?;
        let fail = |e| self.error(shared, "write", e);
        // New sums first: the old bytes of partly covered strips are about to go.
        let mut sums: SmallVec<[(u64, u32); 20]> = SmallVec::new();
        let mut source = Gather { bufs, at: 0, skip: 0 };
        let crcs = (crcs.len() == parts(offset, len).count()).then_some(crcs);
        for (i, part) in parts(offset, len).enumerate() {
            let crc = crcs.map_or_else(|| source.crc(part.len()), |crcs| crcs[i]);
            let new = crc::piece(crc, part.from, part.len());
            let whole = part.from == 0 && part.to >= state.valid(part.strip);
            let sum = if whole {
                new
            } else {
                let old = self.known(&mut state, part.strip).map_err(fail)?;
                old ^ self.old_piece(&state, part).map_err(fail)? ^ new
            };
            sums.push((part.strip, sum));
        }
        let slices: SmallVec<[IoSlice<'_>; 16]> = bufs.iter().map(|b| IoSlice::new(b)).collect();
        if let Err((written, e)) = self.file.write_at(offset, &slices) {
            self.after_broken_write(&mut state, offset, written);
            return Err(fail(e));
        }
        for (strip, sum) in sums {
            state.sums.set(strip, sum);
        }
        state.size = state.size.max(end);
        state.mtime_ns = now;
        self.changed(shared);
        if let Some(range) = state.stream.wrote(offset..end) {
            drop(state);
            shared.stream_out.ask(&self.file, range);
        }
        Ok(now)
    }

    /// Takes the sums of what a broken write may have touched from the disk.
    fn after_broken_write(&self, state: &mut State, offset: u64, written: u64) {
        let again = (|| {
            state.size = self.file.stat()?.size;
            for part in parts(offset, written) {
                self.learn(state, part.strip)?;
            }
            Ok::<(), io::Error>(())
        })();
        if let Err(e) = again {
            state.poisoned = Some(format!(
                "datafile {} failed amid a write and cannot be read back ({e}): look after this \
                 server's disk and restart it",
                Handle(self.handle)
            ));
        }
    }

    /// Reads into `buf`, short at the datafile's end; `None`: it would block (`nowait` only).
    pub fn read(
        &self,
        shared: &Shared,
        offset: u64,
        buf: &mut [u8],
        nowait: bool,
    ) -> Result<Option<usize>> {
        loop {
            let state = if nowait {
                match self.state.try_read_for(NOWAIT_LOCK) {
                    Some(state) => state,
                    None => return Ok(None),
                }
            } else {
                self.state.read()
            };
            self.check_readable(&state)?;
            let n = state.size.saturating_sub(offset).min(buf.len() as u64) as usize;
            if n == 0 {
                return Ok(Some(0));
            }
            let buf = &mut buf[..n];
            match self.fetch(shared, offset, buf, nowait)? {
                None => return Ok(None),
                Some(got) if got < n => return Err(self.damage(shared, offset + got as u64)),
                Some(_) => {}
            }
            match self.verify(shared, &state, offset, buf, nowait)? {
                Verdict::Good => return Ok(Some(n)),
                Verdict::WouldBlock => return Ok(None),
                Verdict::Unknown(_) if nowait => return Ok(None),
                Verdict::Unknown(strip) => {
                    drop(state);
                    let mut state = self.state.write();
                    self.check_readable(&state)?;
                    let learned = self.known(&mut state, strip);
                    learned.map_err(|e| self.error(shared, "read", e))?;
                }
            }
        }
    }

    /// From the page cache only, if `nowait`.
    fn fetch(
        &self,
        shared: &Shared,
        offset: u64,
        buf: &mut [u8],
        nowait: bool,
    ) -> Result<Option<usize>> {
        let got = if nowait {
            // A short read means that the rest is not in memory.
            self.file.read_cached(offset, buf).map(|got| got.filter(|n| *n == buf.len()))
        } else {
            self.file.read_at(offset, buf).map(Some)
        };
        got.map_err(|e| self.error(shared, "read", e))
    }

    fn verify(
        &self,
        shared: &Shared,
        state: &State,
        offset: u64,
        buf: &[u8],
        nowait: bool,
    ) -> Result<Verdict> {
        let mut rest = buf;
        for part in parts(offset, buf.len() as u64) {
            let (bytes, after) = rest.split_at(part.len());
            rest = after;
            let Sum::Known(sum) = state.sums.get(part.strip) else {
                return Ok(Verdict::Unknown(part.strip));
            };
            let valid = state.valid(part.strip);
            let good = if part.from == 0 && part.to >= valid {
                crc::padded(bytes) == sum
            } else if state.sums.is_verified(part.strip) {
                continue;
            } else if sum == 0 {
                bytes.iter().all(|b| *b == 0)
            } else {
                let whole = with_scratch(|scratch| {
                    let got = self.fetch(
                        shared,
                        part.strip * STRIP_BYTES,
                        &mut scratch[..valid],
                        nowait,
                    )?;
                    Ok::<_, PvfsError>(got.map(|n| n == valid && crc::padded(&scratch[..n]) == sum))
                })?;
                match whole {
                    Some(good) => good,
                    None => return Ok(Verdict::WouldBlock),
                }
            };
            if !good {
                return Err(self.damage(shared, part.strip * STRIP_BYTES));
            }
            state.sums.set_verified(part.strip);
        }
        Ok(Verdict::Good)
    }

    pub fn truncate(
        &self,
        shared: &Shared,
        media: &dyn Media,
        size: u64,
        extend: bool,
    ) -> Result<()> {
        if size > FILE_SIZE_MAX {
            return Err(super::too_big(Handle(self.handle)));
        }
        let mut state = self.state.write();
        self.check(&state)?;
        if size == state.size || (size > state.size && !extend) {
            return Ok(());
        }
        self.begin_change(&mut state, shared, media)?;
        let fail = |e| self.error(shared, "truncate", e);
        let last = size / STRIP_BYTES;
        let kept = (size % STRIP_BYTES) as usize;
        let mut new_sum = None;
        if size < state.size && kept > 0 {
            let cut = Part { strip: last, from: kept, to: state.valid(last) };
            let old = self.known(&mut state, last).map_err(fail)?;
            new_sum = Some(old ^ self.old_piece(&state, cut).map_err(fail)?);
        }
        self.file.set_len(size).map_err(fail)?;
        if size < state.size {
            state.sums.clear_from(size.div_ceil(STRIP_BYTES));
            if let Some(sum) = new_sum {
                state.sums.set(last, sum);
            }
            if size == 0 {
                // Nothing is left that could be damaged.
                state.damaged = None;
                state.sums = Sums::empty();
            }
        }
        state.size = size;
        state.mtime_ns = shared.env.now_ns();
        self.changed(shared);
        Ok(())
    }

    pub fn punch(&self, shared: &Shared, media: &dyn Media, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state.write();
        self.check(&state)?;
        let end = offset.saturating_add(len).min(state.size);
        if offset >= end {
            return Ok(());
        }
        self.begin_change(&mut state, shared, media)?;
        let fail = |e| self.error(shared, "punch a hole into", e);
        // Whole strips become holes; only the first and the last may be touched in part.
        let (first, last) = (offset / STRIP_BYTES, (end - 1) / STRIP_BYTES);
        let mut edges: SmallVec<[(u64, u32); 2]> = SmallVec::new();
        for strip in [first, last] {
            let start = strip * STRIP_BYTES;
            let part = Part {
                strip,
                from: offset.saturating_sub(start) as usize,
                to: (end - start).min(STRIP_BYTES) as usize,
            };
            let whole = part.from == 0 && part.to >= state.valid(strip);
            if !whole && edges.first().is_none_or(|(s, _)| *s != strip) {
                let old = self.known(&mut state, strip).map_err(fail)?;
                edges.push((strip, old ^ self.old_piece(&state, part).map_err(fail)?));
            }
        }
        // In whole blocks where the datafile ends, so that the tail is given back too.
        let to = if end == state.size { end.next_multiple_of(4096) } else { end };
        self.file.punch(offset, to - offset).map_err(fail)?;
        state.sums.clear(first, last + 1);
        for (strip, sum) in edges {
            state.sums.set(strip, sum);
        }
        state.mtime_ns = shared.env.now_ns();
        self.changed(shared);
        Ok(())
    }

    pub fn allocate(
        &self,
        shared: &Shared,
        media: &dyn Media,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let mut state = self.state.write();
        self.check(&state)?;
        if len == 0 {
            return Ok(());
        }
        if offset.checked_add(len).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(super::too_big(Handle(self.handle)));
        }
        self.begin_change(&mut state, shared, media)?;
        self.file.allocate(offset, len).map_err(|e| self.error(shared, "reserve space for", e))
    }

    pub fn stat(&self, shared: &Shared) -> Result<DfStat> {
        let state = self.state.read();
        if state.removed {
            return Ok(DfStat::default());
        }
        let found = self.file.stat().map_err(|e| self.error(shared, "stat", e))?;
        Ok(DfStat { size: state.size, mtime_ns: state.mtime_ns, allocated: found.allocated })
    }

    pub fn map(
        &self,
        shared: &Shared,
        offset: u64,
        max: usize,
    ) -> Result<(Vec<PhysicalExtent>, u64, bool)> {
        let state = self.state.read();
        self.check(&state)?;
        let mut out = Vec::new();
        let mut at = offset;
        while at < state.size {
            let found = self.file.next_data(at).map_err(|e| self.error(shared, "map", e))?;
            let Some((start, end)) = found else { break };
            let end = end.min(state.size);
            if start >= end {
                break;
            }
            if out.len() == max {
                return Ok((out, state.size, true));
            }
            out.push(PhysicalExtent { physical_offset: start, len: end - start });
            at = end;
        }
        Ok((out, state.size, false))
    }
}

enum Verdict {
    Good,
    WouldBlock,
    Unknown(u64),
}

/// Walks over slices as over one.
struct Gather<'a> {
    bufs: &'a [&'a [u8]],
    at: usize,
    skip: usize,
}

impl Gather<'_> {
    /// CRC-32 of the next `len` bytes.
    fn crc(&mut self, mut len: usize) -> u32 {
        let mut hasher: Option<crc32fast::Hasher> = None;
        while let Some(buf) = self.bufs.get(self.at) {
            let rest = &buf[self.skip..];
            let n = rest.len().min(len);
            if n == len && hasher.is_none() {
                self.skip += n;
                return crc32fast::hash(&rest[..n]);
            }
            hasher.get_or_insert_default().update(&rest[..n]);
            len -= n;
            if n < rest.len() {
                self.skip += n;
                break;
            }
            (self.at, self.skip) = (self.at + 1, 0);
            if len == 0 {
                break;
            }
        }
        hasher.map_or(0, crc32fast::Hasher::finalize)
    }
}

fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|s| match s.try_borrow_mut() {
        Ok(mut scratch) => f(&mut scratch),
        // Nobody borrows it twice today; a fresh one is right too.
        Err(_) => f(&mut vec![0; STRIP_BYTES as usize]),
    })
}
