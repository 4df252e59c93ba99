//! Bstreams: the datafiles of one server, with a CRC-32 per strip of 64 KiB.
//!
//! Place in the walks: the last room of read and write. Invariants: a datafile that was never
//! written does not exist and reads as empty; only a write (or an extending truncate, or a
//! reservation) makes it; a removed handle refuses to come back until `handle_recycle_secs` are
//! over; what was written is synced within a second in the background, so that loss of power costs
//! no more.
//!
//! The cache of open datafiles: filled by every operation that finds a datafile, trimmed by
//! [`Bstreams::step`] to the oldest that are at rest, emptied of a handle by `remove`.
//!
//! - [`media`]: what is needed of a disk; [`disk`], [`memory`]: the two media
//! - `cache`: the open datafiles; `datafile`: one of them; `rest`: its way to rest
//! - [`sums`], over the algebra of `pvfs2_proto::crc`: the table of a datafile's checksums and its side file
//! - [`marks`]: the logs of dirty and of removed datafiles
//! - `lend`: whole strips that leave from the page cache under their stored checksums
//! - `writeout`: what happens in the background
//! - `stream_out`: what is written on and on goes out meanwhile
mod cache;
mod datafile;
pub mod disk;
mod lend;
pub mod marks;
pub mod media;
pub mod memory;
mod rest;
mod stream_out;
pub mod sums;
mod writeout;

use crate::error::TroveError;
use cache::Room;
use datafile::Datafile;
use disk::DiskMedia;
pub use lend::Loan;
use marks::Marks;
use media::{FileStat, Kind, Media};
use memory::{MemDisk, MemMedia};
use parking_lot::{Condvar, Mutex};
use pvfs2_proto::crc;
pub use pvfs2_proto::crc::STRIP_BYTES;
use pvfs2_proto::env::Env;
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{DfStat, PhysicalExtent};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stream_out::StreamOut;

const SHARDS: usize = 16;
/// So many times `open_max` datafiles may be open while they wait for the disk.
const OVERFLOW: usize = 4;

/// Sizes and times of bstreams.
#[derive(Clone, Debug)]
pub struct BstreamsOptions {
    /// Open datafiles kept.
    pub open_max: usize,
    /// A removed handle refuses writes for this long.
    pub recycle_secs: u64,
    /// Pause between two rounds of write-out.
    pub writeout_ms: u64,
    /// Rounds without use after which a datafile's checksums are written down.
    pub rest_rounds: u64,
    /// Writes that lengthen a datafile are refused when less than this is free (or a sixteenth of
    /// the disk, if that is less), so that there is room for journals and removals.
    pub reserve_bytes: u64,
    /// Bytes per round that are read to learn checksums after an unclean stop.
    pub learn_bytes: u64,
}

impl Default for BstreamsOptions {
    fn default() -> Self {
        BstreamsOptions {
            open_max: 1024,
            recycle_secs: 360,
            writeout_ms: 600,
            rest_rounds: 8,
            reserve_bytes: 48 << 20,
            learn_bytes: 64 << 20,
        }
    }
}

/// What datafiles share.
struct Shared {
    env: Env,
    marks: Marks,
    media: Arc<dyn Media>,
    wake: Condvar,
    work: Mutex<Work>,
    /// Something is to be written out, and the background knows.
    awake: AtomicBool,
    stream_out: StreamOut,
}

#[derive(Default)]
struct Work {
    stop: bool,
    dirty: bool,
}

impl Shared {
    fn name(&self, handle: u64) -> String {
        self.media.name(Kind::Data, handle)
    }
    fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.work.lock().dirty = true;
            self.wake.notify_one();
        }
    }
}

struct Inner {
    shared: Shared,
    shards: [Mutex<HashMap<u64, Arc<Datafile>>>; SHARDS],
    options: BstreamsOptions,
    tick: AtomicU64,
    datafiles: AtomicU64,
    /// Snapshot for paging through [`Bstreams::list`].
    listing: Mutex<Vec<u64>>,
    /// Nothing was written by an earlier process that may not be on the disk yet.
    was_clean: bool,
    closed: AtomicBool,
    learning: Mutex<writeout::Learning>,
    /// Datafiles to compare with their side files, since power was lost.
    unchecked: Mutex<Vec<u64>>,
    /// One round at a time.
    rounds: Mutex<()>,
    room: Room,
}

/// What [`Bstreams::statfs`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BstreamsStatfs {
    /// Bytes free for users.
    pub bytes_free: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Datafiles.
    pub datafiles: u64,
    /// A number that another storage space has only if it takes its space from the same disk; 0: unknown.
    pub disk: u64,
}

/// The datafiles of one server.
pub struct Bstreams {
    inner: Arc<Inner>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

pub(crate) fn stale(handle: Handle) -> PvfsError {
    PvfsError::new(ErrorCode::Stale, format!("datafile {handle} was removed"))
}

fn total(bufs: &[&[u8]]) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}

pub(crate) fn too_big(handle: Handle) -> PvfsError {
    PvfsError::new(ErrorCode::FileTooBig, format!("datafile {handle} would be too large"))
}

impl Bstreams {
    /// Opens `bstreams/` of a storage space and starts the background.
    pub(crate) fn open(
        dir: &Path,
        options: BstreamsOptions,
        env: Env,
        was_clean: bool,
    ) -> Result<Bstreams> {
        let media = Arc::new(DiskMedia::open(dir)?);
        let bstreams = Bstreams::new(media, options, env, was_clean)?;
        let inner = &bstreams.inner;
        bstreams.threads.lock().push(writeout::start(inner, dir)?);
        let streams = stream_out::start(inner, |inner| &inner.shared.stream_out, dir)?;
        bstreams.threads.lock().push(streams);
        Ok(bstreams)
    }

    /// Bstreams without files or threads, on a disk of their own.
    ///
    /// # Errors
    /// None in practice.
    pub fn memory(env: Env) -> Result<Bstreams> {
        Bstreams::open_memory(&MemDisk::default(), env)
    }

    /// Opens a simulated disk, after a crash too.
    ///
    /// # Errors
    /// `Io` when it crashes meanwhile.
    pub fn open_memory(disk: &MemDisk, env: Env) -> Result<Bstreams> {
        let media = Arc::new(MemMedia::new(disk, env.clone()));
        let options = BstreamsOptions { reserve_bytes: 0, ..BstreamsOptions::default() };
        Bstreams::new(media, options, env, false)
    }

    fn new(
        media: Arc<dyn Media>,
        options: BstreamsOptions,
        env: Env,
        was_clean: bool,
    ) -> Result<Bstreams> {
        let fail = |e| TroveError::os("read the logs of", Path::new("bstreams"))(e);
        let recycle_ns =
            i64::try_from(options.recycle_secs).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let marks = Marks::open(media.as_ref(), env.now_ns(), recycle_ns).map_err(fail)?;
        let mut count = 0;
        let mut unchecked = Vec::new();
        let power_lost = marks.power_lost();
        let see = &mut |handle| {
            count += 1;
            if power_lost {
                unchecked.push(handle);
            }
        };
        media.list(see).map_err(fail)?;
        if power_lost && unchecked.is_empty() {
            marks.all_checked();
        }
        let (_, disk_bytes) = media.space().map_err(fail)?;
        let room = Room {
            reserve_bytes: options.reserve_bytes.min(disk_bytes / 16),
            unchecked_bytes: AtomicU64::new(0),
        };
        let shared = Shared {
            env,
            marks,
            media,
            wake: Condvar::new(),
            work: Mutex::new(Work::default()),
            awake: AtomicBool::new(false),
            stream_out: StreamOut::default(),
        };
        let inner = Inner {
            shared,
            shards: Default::default(),
            options,
            tick: AtomicU64::new(0),
            datafiles: AtomicU64::new(count),
            listing: Mutex::new(Vec::new()),
            was_clean,
            closed: AtomicBool::new(false),
            learning: Mutex::default(),
            unchecked: Mutex::new(unchecked),
            rounds: Mutex::new(()),
            room,
        };
        Ok(Bstreams { inner: Arc::new(inner), threads: Mutex::default() })
    }

    /// Writes at a physical offset, making the datafile if need be. Gives the server's time of the
    /// write in ns. On return the bytes are in the page cache and survive `kill -9`.
    ///
    /// # Errors
    /// `Stale` for a removed handle; `NoSpace`, `FileTooBig`, `Io`.
    pub fn write(&self, handle: Handle, physical_offset: u64, bufs: &[&[u8]]) -> Result<i64> {
        self.write_summed(handle, physical_offset, bufs, &[])
    }

    /// As [`Bstreams::write`], where the CRC-32 of what falls into each strip is known already; none:
    /// not known. They are believed.
    ///
    /// # Errors
    /// As [`Bstreams::write`].
    pub fn write_summed(
        &self,
        handle: Handle,
        physical_offset: u64,
        bufs: &[&[u8]],
        crcs: &[u32],
    ) -> Result<i64> {
        let i = &self.inner;
        if physical_offset.checked_add(total(bufs)).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(too_big(handle));
        }
        let datafile = i.make(handle)?;
        let end = physical_offset + total(bufs);
        if end > datafile.size() {
            i.room.take(i.media(), end - physical_offset)?;
        }
        datafile.write(&i.shared, i.media(), physical_offset, (bufs, crcs))
    }

    /// Reads at a physical offset; short at the datafile's end, 0 when there is none. May block on
    /// the disk.
    ///
    /// # Errors
    /// `Damaged` when a checksum does not match (nothing is handed out), `Stale`, `Io`.
    pub fn read(&self, handle: Handle, physical_offset: u64, buf: &mut [u8]) -> Result<usize> {
        let i = &self.inner;
        match i.find_to_read(handle, (physical_offset, buf.len() as u64))? {
            Some(d) => Ok(d.read(&i.shared, physical_offset, buf, false)?.unwrap_or(0)),
            None => Ok(0),
        }
    }

    /// As [`Bstreams::read`], but only from memory; `None`: it would block, ask again in a pool.
    ///
    /// # Errors
    /// As [`Bstreams::read`].
    pub fn read_nowait(
        &self,
        handle: Handle,
        physical_offset: u64,
        buf: &mut [u8],
    ) -> Result<Option<usize>> {
        let i = &self.inner;
        match i.find_to_read(handle, (physical_offset, buf.len() as u64))? {
            Some(d) => d.read(&i.shared, physical_offset, buf, true),
            None => Ok(Some(0)),
        }
    }

    /// Whole strips to be sent straight from the page cache, unread and unchecked, with the CRC-32
    /// that they must have; `None` when they are not all in memory, whole and known. The reader is to
    /// compare, and to ask for a [`Bstreams::read`] where it does not match.
    ///
    /// # Errors
    /// As [`Bstreams::read`].
    pub fn lend(&self, handle: Handle, extents: &[PhysicalExtent]) -> Result<Option<Loan>> {
        let first = extents.first().map_or((0, 0), |e| (e.physical_offset, e.len));
        self.inner.find_to_read(handle, first)?.map_or(Ok(None), |d| d.lend(extents))
    }

    /// Opens a datafile and has the disk begin to read its first `len` bytes, because somebody will
    /// probably want them soon. Does not wait for the bytes, but may for what it takes to open it.
    /// Whether there is such a datafile.
    ///
    /// # Errors
    /// `Stale`, `Io`.
    pub fn read_ahead(&self, handle: Handle, len: u64) -> Result<bool> {
        let i = &self.inner;
        let was_open = i.shard(handle.0).lock().contains_key(&handle.0);
        let found = i.find_to_read(handle, (0, len))?;
        if let Some(d) = found.as_ref().filter(|_| was_open) {
            d.file.read_ahead(0, len);
        }
        Ok(found.is_some())
    }

    /// Length, time of the last write, space on disk; all 0 when there is no such datafile.
    ///
    /// # Errors
    /// `Io`.
    pub fn stat(&self, handle: Handle) -> Result<DfStat> {
        let i = &self.inner;
        // Not worth opening a datafile and reading its checksums for.
        let open = i.shard(handle.0).lock().get(&handle.0).cloned();
        if let Some(d) = open {
            return d.stat(&i.shared);
        }
        if i.is_buried(handle) {
            return Ok(DfStat::default());
        }
        let found = i.media().stat(handle.0).map_err(|e| fail("stat a datafile in", e))?;
        let found = found.unwrap_or_default();
        let FileStat { size, mtime_ns, allocated } = found;
        Ok(DfStat { size, mtime_ns, allocated })
    }

    /// Length alone, without asking the disk where the datafile is open; 0 when there is none.
    ///
    /// # Errors
    /// As [`Bstreams::stat`].
    pub fn size(&self, handle: Handle) -> Result<u64> {
        let open = self.inner.shard(handle.0).lock().get(&handle.0).cloned();
        open.map_or_else(|| Ok(self.stat(handle)?.size), |d| Ok(d.size()))
    }

    /// Sets the length; lengthens (and makes the datafile) only if `extend`.
    ///
    /// # Errors
    /// `Stale`, `FileTooBig`, `Io`.
    pub fn truncate(&self, handle: Handle, size: u64, extend: bool) -> Result<()> {
        let i = &self.inner;
        let found = if extend && size > 0 { Some(i.make(handle)?) } else { i.find(handle)? };
        found.map_or(Ok(()), |d| d.truncate(&i.shared, i.media(), size, extend))
    }

    /// Makes a hole; the length stays.
    ///
    /// # Errors
    /// `Stale`, `NotSupported` where the local file system cannot, `Io`.
    pub fn punch(&self, handle: Handle, physical_offset: u64, len: u64) -> Result<()> {
        let i = &self.inner;
        let found = i.find(handle)?;
        found.map_or(Ok(()), |d| d.punch(&i.shared, i.media(), physical_offset, len))
    }

    /// Reserves space, making the datafile if need be; the length stays.
    ///
    /// # Errors
    /// `Stale`, `NoSpace`, `NotSupported`, `Io`.
    pub fn allocate(&self, handle: Handle, physical_offset: u64, len: u64) -> Result<()> {
        let i = &self.inner;
        i.make(handle)?.allocate(&i.shared, i.media(), physical_offset, len)
    }

    /// Stretches with data at or after an offset, at most `max`; the datafile's length; whether
    /// there are more.
    ///
    /// # Errors
    /// `Stale`, `Io`.
    pub fn map(
        &self,
        handle: Handle,
        physical_offset: u64,
        max: usize,
    ) -> Result<(Vec<PhysicalExtent>, u64, bool)> {
        let i = &self.inner;
        match i.find(handle)? {
            Some(d) => d.map(&i.shared, physical_offset, max),
            None => Ok((Vec::new(), 0, false)),
        }
    }

    /// Makes a datafile durable against loss of power: bytes, length and name. Blocks on the disk.
    ///
    /// # Errors
    /// `Io`: the datafile is refused from then on.
    pub fn sync(&self, handle: Handle) -> Result<()> {
        let i = &self.inner;
        if i.is_buried(handle) {
            return Ok(());
        }
        i.find(handle)?.map_or(Ok(()), |d| d.sync(&i.shared, i.media()))
    }

    /// Removes a datafile; whether there was one. Writes to the handle are `Stale` from then on for
    /// `handle_recycle_secs`, also after a restart.
    ///
    /// # Errors
    /// `Io`: ask again.
    pub fn remove(&self, handle: Handle) -> Result<bool> {
        self.inner.remove(handle)
    }

    /// Handles above `after`, ascending, at most `max`; whether that is all. A listing begins with
    /// `after` below every handle; later pages show the datafiles as they were at its beginning.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self, after: Handle, max: usize) -> Result<(Vec<Handle>, bool)> {
        let mut listing = self.inner.listing.lock();
        if after == Handle::NULL || listing.is_empty() {
            listing.clear();
            let media = self.inner.media();
            media.list(&mut |h| listing.push(h)).map_err(|e| fail("list", e))?;
            listing.sort_unstable();
        }
        let from = listing.partition_point(|h| *h <= after.0);
        let to = listing.len().min(from.saturating_add(max));
        let page = listing[from..to].iter().map(|h| Handle(*h)).collect();
        let end = to == listing.len();
        if end {
            *listing = Vec::new();
        }
        Ok((page, end))
    }

    /// Space and datafiles.
    ///
    /// # Errors
    /// `Io`.
    pub fn statfs(&self) -> Result<BstreamsStatfs> {
        let media = self.inner.media();
        let (free, bytes_total) = media.space().map_err(|e| fail("statfs", e))?;
        Ok(BstreamsStatfs {
            bytes_free: free.saturating_sub(self.inner.room.reserve_bytes),
            bytes_total,
            datafiles: self.inner.datafiles.load(Ordering::Relaxed),
            disk: media.disk().map_err(|e| fail("statfs", e))?,
        })
    }

    /// The plain CRC-32 of each strip of `strips` that lies before the datafile's end (of the last
    /// one: of the bytes before the end).
    ///
    /// # Errors
    /// `Damaged`, `Stale`, `Io`.
    pub fn strip_crcs(&self, handle: Handle, strips: std::ops::Range<u64>) -> Result<Vec<u32>> {
        let i = &self.inner;
        i.find(handle)?.map_or(Ok(Vec::new()), |d| d.strip_crcs(&i.shared, strips))
    }

    /// One round of the background's work: writes out, puts datafiles at rest, trims the cache,
    /// learns unknown checksums. In simulations nothing else does it.
    ///
    /// # Errors
    /// The first of the round's errors; each has also poisoned its datafile.
    pub fn step(&self) -> Result<()> {
        self.inner.round()
    }

    /// Syncs everything, writes all checksums down, ends the threads. Calls after it fail.
    pub(crate) fn close(&self) -> Result<()> {
        self.stop_threads();
        self.inner.close()
    }

    fn stop_threads(&self) {
        self.inner.shared.work.lock().stop = true;
        self.inner.shared.wake.notify_all();
        self.inner.shared.stream_out.stop();
        for thread in self.threads.lock().drain(..) {
            // A panic of the thread was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Bstreams {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

fn fail(what: &'static str, e: io::Error) -> PvfsError {
    TroveError::os(what, Path::new("bstreams"))(e).into()
}

#[cfg(test)]
mod tests;
