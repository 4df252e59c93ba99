//! A medium in memory that survives a simulated crash and can lose power.
//!
//! Place in the walks: as [`super::disk`], in tests and simulations. Invariants: a file opened
//! before a crash fails afterwards; what was synced survives loss of power; of the rest, a seed says
//! file by file whether it survives.
use super::media::{FileStat, Kind, LogKind, Media, MediaFile};
use parking_lot::Mutex;
use pvfs2_proto::env::{Env, Random, SplitMix};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

const PAGE_BYTES: u64 = 4096;
/// Longest file, as on ext4.
const FILE_BYTES_MAX: u64 = 1 << 44;
type Page = [u8; PAGE_BYTES as usize];

#[derive(Clone, Default)]
struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    size: u64,
    mtime_ns: i64,
}

#[derive(Default)]
struct OneFile {
    now: Content,
    durable: Content,
    /// The name survives loss of power.
    named: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<(u64, bool), Arc<Mutex<OneFile>>>,
    logs: HashMap<LogKind, (Vec<u8>, Vec<u8>)>,
    epoch: u64,
    boot: u64,
    fail_sync: BTreeSet<u64>,
    space_left_bytes: Option<u64>,
    started_out_bytes: u64,
}

/// What of the datafiles survives the end of a simulated process.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

impl MemDisk {
    /// The process is killed: everything written stays; open instances are dead.
    pub fn crash(&self) {
        self.0.lock().epoch += 1;
    }

    /// Power is lost. `keep` 0: all that was not synced goes; `u64::MAX`: all of it stays; else it
    /// is the seed that decides file by file.
    pub fn lose_power(&self, keep: u64) {
        let mut s = self.0.lock();
        s.epoch += 1;
        s.boot += 1;
        let random = SplitMix::new(keep);
        let stays = || match keep {
            0 => false,
            u64::MAX => true,
            _ => random.next_u64() & 1 == 0,
        };
        s.files.retain(|_, file| {
            let mut f = file.lock();
            if stays() {
                f.durable = f.now.clone();
                f.named = true;
            } else {
                f.now = f.durable.clone();
            }
            f.named
        });
        for (now, durable) in s.logs.values_mut() {
            if stays() {
                *durable = now.clone();
            } else {
                *now = durable.clone();
            }
        }
    }

    /// The next sync of this datafile fails.
    pub fn fail_next_sync(&self, handle: u64) {
        self.0.lock().fail_sync.insert(handle);
    }

    /// Bytes of data that may still be written; `None`: no limit.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.0.lock().space_left_bytes = bytes;
    }

    /// Bytes that were to be written out early, of all files, without a sync.
    pub fn started_out_bytes(&self) -> u64 {
        self.0.lock().started_out_bytes
    }

    /// Flips bits of a datafile's byte behind everybody's back; `false` when there is no such byte.
    pub fn damage(&self, handle: u64, physical_offset: u64, mask: u8) -> bool {
        let file = self.0.lock().files.get(&(handle, false)).cloned();
        let Some(file) = file else { return false };
        let mut f = file.lock();
        let page = f.now.pages.get_mut(&(physical_offset / PAGE_BYTES));
        page.map(|p| Arc::make_mut(p)[(physical_offset % PAGE_BYTES) as usize] ^= mask).is_some()
    }
}

/// An opened medium.
pub struct MemMedia {
    disk: MemDisk,
    epoch: u64,
    env: Env,
}

impl MemMedia {
    /// Opens the medium.
    pub fn new(disk: &MemDisk, env: Env) -> MemMedia {
        let epoch = disk.0.lock().epoch;
        MemMedia { disk: disk.clone(), epoch, env }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut s = self.disk.0.lock();
        alive(&s, self.epoch)?;
        f(&mut s)
    }
}

fn alive(s: &State, epoch: u64) -> io::Result<()> {
    if s.epoch == epoch {
        Ok(())
    } else {
        Err(io::Error::other("this simulated server has crashed"))
    }
}

impl Media for MemMedia {
    fn open(
        &self,
        kind: Kind,
        handle: u64,
        create: bool,
    ) -> io::Result<Option<(Arc<dyn MediaFile>, bool)>> {
        self.with(|s| {
            let key = (handle, kind == Kind::Sums);
            let made = !s.files.contains_key(&key);
            if made && !create {
                return Ok(None);
            }
            let file = s.files.entry(key).or_default().clone();
            if made {
                file.lock().now.mtime_ns = self.env.now_ns();
            }
            let (disk, env) = (self.disk.clone(), self.env.clone());
            let open = MemFile { disk, epoch: self.epoch, env, handle, kind, file };
            Ok(Some((Arc::new(open) as Arc<dyn MediaFile>, made)))
        })
    }
    fn stat(&self, handle: u64) -> io::Result<Option<FileStat>> {
        match self.open(Kind::Data, handle, false)? {
            Some((file, _)) => file.stat().map(Some),
            None => Ok(None),
        }
    }
    fn remove(&self, kind: Kind, handle: u64) -> io::Result<bool> {
        self.with(|s| Ok(s.files.remove(&(handle, kind == Kind::Sums)).is_some()))
    }
    fn sync_names(&self, handle: u64) -> io::Result<()> {
        self.with(|s| {
            for (_, file) in s.files.iter().filter(|((h, _), _)| h & 0xff == handle & 0xff) {
                file.lock().named = true;
            }
            Ok(())
        })
    }
    fn sync_all(&self) -> io::Result<()> {
        self.with(|s| {
            for file in s.files.values() {
                let mut f = file.lock();
                f.durable = f.now.clone();
                f.named = true;
            }
            for (now, durable) in s.logs.values_mut() {
                *durable = now.clone();
            }
            Ok(())
        })
    }
    fn list(&self, each: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.with(|s| {
            s.files.keys().filter(|(_, sums)| !sums).for_each(|(h, _)| each(*h));
            Ok(())
        })
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        const TOTAL: u64 = 1 << 40;
        self.with(|s| {
            let pages: usize = s.files.values().map(|f| f.lock().now.pages.len()).sum();
            let free = TOTAL.saturating_sub(pages as u64 * PAGE_BYTES);
            Ok((s.space_left_bytes.unwrap_or(free), TOTAL))
        })
    }
    fn disk(&self) -> io::Result<u64> {
        self.with(|_| Ok(0))
    }
    fn read_log(&self, log: LogKind) -> io::Result<Vec<u8>> {
        self.with(|s| Ok(s.logs.get(&log).map(|(now, _)| now.clone()).unwrap_or_default()))
    }
    fn append_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()> {
        self.with(|s| {
            s.logs.entry(log).or_default().0.extend_from_slice(bytes);
            Ok(())
        })
    }
    fn sync_log(&self, log: LogKind) -> io::Result<()> {
        self.with(|s| {
            let (now, durable) = s.logs.entry(log).or_default();
            *durable = now.clone();
            Ok(())
        })
    }
    fn replace_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()> {
        self.with(|s| {
            s.logs.insert(log, (bytes.to_vec(), bytes.to_vec()));
            Ok(())
        })
    }
    fn boot(&self) -> u64 {
        self.disk.0.lock().boot
    }
    fn name(&self, kind: Kind, handle: u64) -> String {
        let suffix = if kind == Kind::Sums { ".crc" } else { "" };
        format!("memory:{handle:016x}{suffix}")
    }
}

struct MemFile {
    disk: MemDisk,
    epoch: u64,
    env: Env,
    handle: u64,
    kind: Kind,
    file: Arc<Mutex<OneFile>>,
}

impl MemFile {
    fn with<T>(&self, f: impl FnOnce(&mut OneFile) -> io::Result<T>) -> io::Result<T> {
        alive(&self.disk.0.lock(), self.epoch)?;
        f(&mut self.file.lock())
    }
    fn take_space(&self, bytes: u64) -> u64 {
        match &mut self.disk.0.lock().space_left_bytes {
            Some(left) if self.kind == Kind::Data => {
                let taken = bytes.min(*left);
                *left -= taken;
                taken
            }
            _ => bytes,
        }
    }
}

impl Content {
    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let start = (at % PAGE_BYTES) as usize;
            let n = bytes.len().min(PAGE_BYTES as usize - start);
            let page = self
                .pages
                .entry(at / PAGE_BYTES)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
            Arc::make_mut(page)[start..start + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            at += n as u64;
        }
        self.size = self.size.max(at);
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = (self.size.saturating_sub(offset)).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let start = (at % PAGE_BYTES) as usize;
            let len = (n - done).min(PAGE_BYTES as usize - start);
            match self.pages.get(&(at / PAGE_BYTES)) {
                Some(p) => buf[done..done + len].copy_from_slice(&p[start..start + len]),
                None => buf[done..done + len].fill(0),
            }
            done += len;
        }
        n
    }
    fn zero(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let page = at / PAGE_BYTES;
            let end = to.min((page + 1) * PAGE_BYTES);
            if end - at == PAGE_BYTES {
                // Whole pages: jump from one that is there to the next.
                let last = to / PAGE_BYTES;
                let gone: Vec<u64> = self.pages.range(page..last).map(|(p, _)| *p).collect();
                gone.iter().for_each(|p| drop(self.pages.remove(p)));
                at = (last * PAGE_BYTES).max(end);
                continue;
            }
            if let Some(p) = self.pages.get_mut(&page) {
                let start = (at % PAGE_BYTES) as usize;
                Arc::make_mut(p)[start..start + (end - at) as usize].fill(0);
            }
            at = end;
        }
    }
}

impl MediaFile for MemFile {
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<(), (u64, io::Error)> {
        let total: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        if offset.saturating_add(total) > FILE_BYTES_MAX {
            return Err((0, io::Error::from_raw_os_error(libc::EFBIG)));
        }
        let room = self.take_space(total);
        let now = self.env.now_ns();
        let mut left = room;
        self.with(|f| {
            let mut at = offset;
            for b in bufs {
                let n = left.min(b.len() as u64);
                f.now.write(at, &b[..n as usize]);
                at += n;
                left -= n;
            }
            f.now.mtime_ns = now;
            Ok(())
        })
        .map_err(|e| (0, e))?;
        if room < total { Err((room, io::Error::from_raw_os_error(libc::ENOSPC))) } else { Ok(()) }
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|f| Ok(f.now.read(offset, buf)))
    }
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.read_at(offset, buf).map(Some)
    }
    fn stat(&self) -> io::Result<FileStat> {
        self.with(|f| {
            let allocated = f.now.pages.len() as u64 * PAGE_BYTES;
            Ok(FileStat { size: f.now.size, mtime_ns: f.now.mtime_ns, allocated })
        })
    }
    fn set_len(&self, size: u64) -> io::Result<()> {
        if size > FILE_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let now = self.env.now_ns();
        self.with(|f| {
            let end = f.now.size;
            f.now.zero(size, end.next_multiple_of(PAGE_BYTES).max(size));
            f.now.size = size;
            f.now.mtime_ns = now;
            Ok(())
        })
    }
    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        self.with(|f| {
            f.now.mtime_ns = mtime_ns;
            Ok(())
        })
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|f| {
            let end = offset.saturating_add(len).min(f.now.size.next_multiple_of(PAGE_BYTES));
            f.now.zero(offset, end);
            Ok(())
        })
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if offset.saturating_add(len) > FILE_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.with(|_| Ok(()))
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.with(|f| {
            if offset >= f.now.size {
                return Ok(None);
            }
            let mut found: Option<(u64, u64)> = None;
            for (page, _) in f.now.pages.range(offset / PAGE_BYTES..) {
                let start = page * PAGE_BYTES;
                match &mut found {
                    None => found = Some((start.max(offset), start + PAGE_BYTES)),
                    Some((_, end)) if *end == start => *end += PAGE_BYTES,
                    Some(_) => break,
                }
            }
            Ok(found.filter(|(s, _)| *s < f.now.size).map(|(s, e)| (s, e.min(f.now.size))))
        })
    }
    fn sync(&self) -> io::Result<()> {
        if self.kind == Kind::Data && self.disk.0.lock().fail_sync.remove(&self.handle) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.with(|f| {
            f.durable = f.now.clone();
            Ok(())
        })
    }
    fn start_writeout(&self, range: Range<u64>) {
        let len = range.end - range.start;
        let started = &mut self.disk.0.lock().started_out_bytes;
        *started = started.saturating_add(len);
    }
}
