//! Datafiles as sparse local files: `bstreams/xx/<handle as 16 hex digits>`, `xx` being the low byte
//! of the handle in hex; checksums beside them with the suffix `.crc`.
//!
//! Place in the walks: the last step of read and write. Invariant: a datafile holds the pure bytes at
//! their physical offsets and nothing else.
use super::media::{FileStat, Kind, LogKind, Media, MediaFile};
use crate::error::{Result, TroveError};
use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Space that a log holds in advance.
const LOG_ROOM_BYTES: u64 = 256 << 10;

/// The folder `bstreams/` of a storage space.
pub struct DiskMedia {
    dir: PathBuf,
    logs: [Mutex<Option<File>>; 2],
    boot: u64,
}

impl DiskMedia {
    /// Opens the folder, making the 256 folders in it that are missing.
    ///
    /// # Errors
    /// `Os`.
    pub fn open(dir: &Path) -> Result<DiskMedia> {
        let mut made = false;
        for low in 0..=255u8 {
            let sub = dir.join(format!("{low:02x}"));
            match std::fs::create_dir(&sub) {
                Ok(()) => made = true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(TroveError::os("make folder", &sub)(e)),
            }
        }
        if made {
            crate::format::sync_dir(dir)?;
        }
        raise_descriptor_limit();
        let id = crate::format::boot_id();
        let boot = id.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b));
        Ok(DiskMedia { dir: dir.to_path_buf(), logs: Default::default(), boot })
    }

    fn path(&self, kind: Kind, handle: u64) -> PathBuf {
        let suffix = match kind {
            Kind::Data => "",
            Kind::Sums => ".crc",
        };
        self.dir.join(format!("{:02x}/{handle:016x}{suffix}", handle & 0xff))
    }

    fn log_path(&self, log: LogKind) -> PathBuf {
        self.dir.join(match log {
            LogKind::Dirty => "DIRTY",
            LogKind::Removed => "REMOVED",
        })
    }

    fn with_log<T>(&self, log: LogKind, f: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let mut slot = self.logs[log as usize].lock();
        if slot.is_none() {
            let path = self.log_path(log);
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            // Room for what a full disk must still take: removals. A hint; not every disk can.
            let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, LOG_ROOM_BYTES);
            *slot = Some(file);
        }
        match slot.as_ref() {
            Some(file) => f(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Open datafiles are many; the usual soft limit of 1,024 descriptors is meant for `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Where it is refused, opening fails later with a message of its own.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

impl Media for DiskMedia {
    fn open(
        &self,
        kind: Kind,
        handle: u64,
        create: bool,
    ) -> io::Result<Option<(Arc<dyn MediaFile>, bool)>> {
        let path = self.path(kind, handle);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let wrap = |file| -> Arc<dyn MediaFile> {
            Arc::new(DiskFile {
                file: Arc::new(file),
                can_nowait: AtomicBool::new(true),
                can_tell: AtomicBool::new(true),
            })
        };
        match options.open(&path) {
            Ok(file) => return Ok(Some((wrap(file), false))),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) if !create => return Ok(None),
            Err(_) => {}
        }
        options.create(true).truncate(false).open(&path).map(|f| Some((wrap(f), true)))
    }
    fn stat(&self, handle: u64) -> io::Result<Option<FileStat>> {
        match std::fs::metadata(self.path(Kind::Data, handle)) {
            Ok(m) => Ok(Some(stat_of(&m))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn remove(&self, kind: Kind, handle: u64) -> io::Result<bool> {
        match std::fs::remove_file(self.path(kind, handle)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
    fn sync_names(&self, handle: u64) -> io::Result<()> {
        File::open(self.dir.join(format!("{:02x}", handle & 0xff)))?.sync_all()
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.dir)?)?)
    }
    fn list(&self, each: &mut dyn FnMut(u64)) -> io::Result<()> {
        for low in 0..=255u8 {
            for entry in std::fs::read_dir(self.dir.join(format!("{low:02x}")))? {
                let name = entry?.file_name();
                let handle = name
                    .to_str()
                    .filter(|n| n.len() == 16)
                    .and_then(|n| u64::from_str_radix(n, 16).ok());
                if let Some(handle) = handle {
                    each(handle);
                }
            }
        }
        Ok(())
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        let s = rustix::fs::statvfs(&self.dir)?;
        Ok((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
    }
    fn disk(&self) -> io::Result<u64> {
        Ok(self.boot ^ std::fs::metadata(&self.dir)?.dev())
    }
    fn read_log(&self, log: LogKind) -> io::Result<Vec<u8>> {
        match std::fs::read(self.log_path(log)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }
    fn append_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()> {
        self.with_log(log, |mut f| {
            let wrote = f.write(bytes)?;
            if wrote < bytes.len() {
                // Half a record would shift all that follow.
                f.set_len(f.metadata()?.len().saturating_sub(wrote as u64))?;
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Ok(())
        })
    }
    fn sync_log(&self, log: LogKind) -> io::Result<()> {
        self.with_log(log, File::sync_data)
    }
    fn replace_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()> {
        let mut slot = self.logs[log as usize].lock();
        let path = self.log_path(log);
        let aside = path.with_extension("new");
        let mut f = File::create(&aside)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        std::fs::rename(&aside, &path)?;
        *slot = None;
        File::open(&self.dir)?.sync_all()
    }
    fn boot(&self) -> u64 {
        self.boot
    }
    fn name(&self, kind: Kind, handle: u64) -> String {
        self.path(kind, handle).display().to_string()
    }
}

fn stat_of(m: &std::fs::Metadata) -> FileStat {
    FileStat {
        size: m.size(),
        mtime_ns: m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()),
        allocated: m.blocks().saturating_mul(512),
    }
}

struct DiskFile {
    file: Arc<File>,
    can_nowait: AtomicBool,
    /// The system tells which pages are in memory.
    can_tell: AtomicBool,
}

/// `cachestat(2)`, of Linux 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

fn page_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    // SAFETY: asks for a number. It is never refused on Linux; if it were, nothing would be lent.
    *BYTES.get_or_init(|| u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1))
}

/// Pages of the range that are in memory.
fn cached_pages(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let range = [offset, len];
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted
    let mut found = [0u64; 5];
    // SAFETY: an open descriptor; two live structs of the sizes that the call reads and fills.
    let failed = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0u32)
    };
    if failed == 0 { Ok(found[0]) } else { Err(io::Error::last_os_error()) }
}

/// Slices that one `pwritev` takes.
const IOV_MAX: usize = 1024;

impl MediaFile for DiskFile {
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<(), (u64, io::Error)> {
        let total: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        let mut done = 0;
        let (mut at, mut skip) = (0, 0);
        while done < total {
            while bufs.get(at).is_some_and(|b| b.len() <= skip) {
                skip -= bufs[at].len();
                at += 1;
            }
            // After a short write: finish the broken slice alone, then go on with whole ones.
            let end = bufs.len().min(at + IOV_MAX);
            let wrote = if skip == 0 {
                rustix::io::pwritev(&self.file, &bufs[at..end], offset + done)
            } else {
                rustix::io::pwrite(&self.file, &bufs[at][skip..], offset + done)
            };
            match wrote {
                Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    done += n as u64;
                    skip += n;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err((done, e.into())),
            }
        }
        Ok(())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            match self.file.read_at(&mut buf[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(got)
    }
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.can_nowait.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut bufs = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.can_nowait.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
    fn lend(&self, offset: u64, len: u64) -> Option<Arc<File>> {
        if len == 0 || !self.can_tell.load(Ordering::Relaxed) {
            return None;
        }
        let pages = (offset + len).div_ceil(page_bytes()) - offset / page_bytes();
        match cached_pages(&self.file, offset, len) {
            Ok(n) if n >= pages => Some(self.file.clone()),
            Ok(_) => None,
            Err(_) => {
                self.can_tell.store(false, Ordering::Relaxed);
                None
            }
        }
    }
    fn read_ahead(&self, offset: u64, len: u64) {
        // A hint: what cannot be read is told to who reads it.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
    }
    fn stat(&self) -> io::Result<FileStat> {
        self.file.metadata().map(|m| stat_of(&m))
    }
    fn set_len(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }
    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        let time = |nsec| rustix::fs::Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: nsec,
        };
        let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = rustix::fs::Timestamps {
            last_access: omit,
            last_modification: time(mtime_ns.rem_euclid(1_000_000_000)),
        };
        Ok(rustix::fs::futimens(&self.file, &times)?)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, how, offset, len)?)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len)?)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(Some((start, rustix::fs::seek(&self.file, SeekFrom::Hole(start))?)))
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn start_writeout(&self, range: Range<u64>) {
        use std::os::fd::AsRawFd;
        // A length of 0 is "to the end".
        let len = if range.end == u64::MAX { 0 } else { range.end - range.start };
        // A hint only: sync() follows and reports what fails.
        // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
        unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                range.start as i64,
                len as i64,
                libc::SYNC_FILE_RANGE_WRITE,
            );
        }
    }
}
