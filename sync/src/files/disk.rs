//! Real files. Every path is resolved by `openat2` beneath an open root without following any link
//! (trap 18), and the roots are compared with what their paths name before each batch (trap 5).
use super::{Area, At, Files, Listing, OWN_DIRS, Stat, What, name_of, parent_of};
use crate::error::{Result, SyncError};
use crate::rng;
use pvfs2_proto::ioctl;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const MARKER: &str = "marker";
/// So much of a large file is written out at once.
const WRITE_OUT_BYTES: u64 = 16 << 20;
/// From so many files on they are made durable by one call for the whole file system.
const SYNCFS_FROM: usize = 10;
/// So many files are made durable at once otherwise.
const SYNC_THREADS: usize = 16;
/// So many names are changed at once where a server is asked: as many event loops as a mount has at least.
const RENAME_THREADS: usize = 4;

/// Files below two real directories.
#[derive(Debug)]
pub struct Disk {
    tree: (PathBuf, OwnedFd),
    own: (PathBuf, OwnedFd),
    marker: String,
    /// Whether `syncfs` makes files durable in both; asked once.
    local: OnceLock<bool>,
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SyncError::io(path.display().to_string(), e.into()))
}

impl Disk {
    /// Opens both roots. `own` and its folders are made if they are missing; `tree` must be there.
    /// `marker` is what `own/marker` must hold; `None` takes what is there or writes a new one.
    ///
    /// # Errors
    /// I/O; [`SyncError::RootLost`] if the marker is another.
    pub fn open(tree: &Path, own: &Path, marker: Option<&str>) -> Result<Self> {
        let tree_fd = open_root(tree)?;
        if marker.is_some() && !own.join(MARKER).exists() {
            let why = format!("{} has no marker: is the disk mounted?", own.display());
            return Err(SyncError::RootLost(why));
        }
        for dir in OWN_DIRS {
            let dir = own.join(dir);
            std::fs::create_dir_all(&dir)
                .map_err(|e| SyncError::io(dir.display().to_string(), e))?;
        }
        let mut disk = Self {
            tree: (tree.to_owned(), tree_fd),
            own: (own.to_owned(), open_root(own)?),
            marker: String::new(),
            local: OnceLock::new(),
        };
        disk.marker = match disk.read(At(Area::Own, MARKER), 0, 64) {
            Ok(bytes) if !bytes.is_empty() => String::from_utf8_lossy(&bytes).into_owned(),
            _ => {
                let new =
                    rng::hex(&rng::secret::<16>().map_err(|e| SyncError::io("random bytes", e))?);
                disk.write(At(Area::Own, MARKER), 0, new.as_bytes())?;
                disk.seal(At(Area::Own, MARKER), 32, 0, false)?;
                disk.sync_dir(At(Area::Own, ""))?;
                new
            }
        };
        match marker {
            Some(want) if want != disk.marker => Err(SyncError::RootLost(format!(
                "{} is another folder than before",
                tree.display()
            ))),
            _ => Ok(disk),
        }
    }

    /// What tells this root from any other.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Opens a file for reading; it stays what it is even if its name goes to another.
    ///
    /// # Errors
    /// I/O.
    pub fn open_file(&self, at: At) -> Result<std::fs::File> {
        self.open_at("read", at, OFlags::RDONLY | OFlags::NONBLOCK).map(std::fs::File::from)
    }

    fn root(&self, area: Area) -> &OwnedFd {
        match area {
            Area::Tree => &self.tree.1,
            Area::Own => &self.own.1,
        }
    }

    fn is_local(&self) -> bool {
        *self.local.get_or_init(|| syncs_whole(&self.tree.1) && syncs_whole(&self.own.1))
    }

    fn what(&self, verb: &str, at: At) -> String {
        let root = if at.0 == Area::Tree { &self.tree.0 } else { &self.own.0 };
        format!("{verb} {}", root.join(at.1).display())
    }

    fn open_at(&self, verb: &str, at: At, flags: OFlags) -> Result<OwnedFd> {
        let path = if at.1.is_empty() { "." } else { at.1 };
        let mode =
            if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        fs::openat2(self.root(at.0), path, flags | OFlags::CLOEXEC, mode, BENEATH)
            .map_err(|e| SyncError::io(self.what(verb, at), e.into()))
    }

    /// The directory that holds `at`, and the name in it.
    fn dir_of<'a>(&self, verb: &str, at: At<'a>) -> Result<(OwnedFd, &'a str)> {
        let dir =
            self.open_at(verb, At(at.0, parent_of(at.1)), OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((dir, name_of(at.1)))
    }

    fn renaming(&self, from: At, to: At, flags: RenameFlags) -> Result<()> {
        let (a, a_name) = self.dir_of("rename", from)?;
        let (b, b_name) = self.dir_of("rename to", to)?;
        fs::renameat_with(a, a_name, b, b_name, flags)
            .map_err(|e| SyncError::io(self.what("rename", from), e.into()))
    }
}

fn to_stat(s: &fs::Stat) -> Stat {
    let what = match fs::FileType::from_raw_mode(s.st_mode) {
        fs::FileType::RegularFile => What::File,
        fs::FileType::Directory => What::Dir,
        _ => What::Other,
    };
    let ns = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stat {
        what,
        size: u64::try_from(s.st_size).unwrap_or(0),
        mtime_ns: ns(s.st_mtime, i64::try_from(s.st_mtime_nsec).unwrap_or(0)),
        ctime_ns: ns(s.st_ctime, i64::try_from(s.st_ctime_nsec).unwrap_or(0)),
        inode: s.st_ino,
        exec: s.st_mode & 0o100 != 0,
    }
}

/// Lets the disk begin with a large file before it is complete, so that little is left for its sync. A
/// hint: what comes of it is of no matter here.
fn write_out(fd: &OwnedFd, end: u64) {
    if end < WRITE_OUT_BYTES || end % WRITE_OUT_BYTES >= super::PIECE_BYTES as u64 {
        return;
    }
    let (Ok(from), Ok(len)) =
        (i64::try_from(end - WRITE_OUT_BYTES), i64::try_from(WRITE_OUT_BYTES))
    else {
        return;
    };
    // SAFETY: a call with numbers only, on a descriptor that is open.
    unsafe {
        libc::sync_file_range(fd.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Sets the execute bit, wherever the file may be read.
fn dress(fd: &OwnedFd, exec: bool) -> rustix::io::Result<()> {
    let was = fs::fstat(fd)?.st_mode & 0o777;
    let mode = if exec { was | ((was & 0o444) >> 2) } else { was & 0o666 };
    if mode != was {
        fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// Sets the time of the last change.
fn date(fd: &OwnedFd, mtime_ns: i64) -> rustix::io::Result<()> {
    let time = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
    };
    fs::futimens(fd, &Timestamps { last_access: time, last_modification: time })
}

/// Has a pvfs2 mount make objects durable, by their inodes; `false`: `root` lies on no such mount, or on one
/// of an older version.
fn fsync_many(root: &OwnedFd, inodes: &[u64]) -> std::io::Result<bool> {
    for some in inodes.chunks(ioctl::FSYNC_MANY_MAX) {
        let cmd = ioctl::fsync_many(some.len());
        // SAFETY: the descriptor is open, and the mount reads as many numbers as `cmd` says there are.
        if unsafe { libc::ioctl(root.as_raw_fd(), libc::c_ulong::from(cmd), some.as_ptr()) } == 0 {
            continue;
        }
        let e = std::io::Error::last_os_error();
        return match e.raw_os_error() {
            Some(libc::ENOTTY | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(false),
            _ => Err(e),
        };
    }
    Ok(true)
}

/// Whether `syncfs` makes files durable there: on FUSE it only hands the bytes to its server, and of other
/// file systems than these nobody has told us.
fn syncs_whole(root: &OwnedFd) -> bool {
    const EXT: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    const TMPFS: i64 = 0x0102_1994;
    fs::fstatfs(root).is_ok_and(|s| [EXT, XFS, BTRFS, TMPFS].contains(&s.f_type))
}

fn absent(e: rustix::io::Errno) -> bool {
    matches!(e, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)
}

impl Files for Disk {
    fn check_root(&self) -> Result<()> {
        for (path, fd) in [&self.tree, &self.own] {
            let lost = |why: String| SyncError::RootLost(format!("{}: {why}", path.display()));
            let held = fs::fstat(fd).map_err(|e| lost(e.to_string()))?;
            let named = fs::stat(path.as_path()).map_err(|e| lost(e.to_string()))?;
            if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino) {
                return Err(lost("another directory is there now".into()));
            }
        }
        let found = self.read(At(Area::Own, MARKER), 0, 64).unwrap_or_default();
        if found != self.marker.as_bytes() {
            return Err(SyncError::RootLost(format!("{}: marker gone", self.own.0.display())));
        }
        Ok(())
    }

    fn stat(&self, at: At) -> Result<Option<Stat>> {
        let (dir, name) = match self.dir_of("look at", at) {
            Ok(found) => found,
            Err(SyncError::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let (name, flags) = if name.is_empty() {
            ("", AtFlags::EMPTY_PATH)
        } else {
            (name, AtFlags::SYMLINK_NOFOLLOW)
        };
        match fs::statat(&dir, name, flags) {
            Ok(s) => Ok(Some(to_stat(&s))),
            Err(e) if absent(e) => Ok(None),
            Err(e) => Err(SyncError::io(self.what("look at", at), e.into())),
        }
    }

    fn list(&self, at: At) -> Result<Listing> {
        let fd = self.open_at("list", at, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let fail = |e: rustix::io::Errno| SyncError::io(self.what("list", at), e.into());
        let mut out = Listing::default();
        for entry in fs::Dir::read_from(&fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let raw = entry.file_name();
            if matches!(raw.to_bytes(), b"." | b"..") {
                continue;
            }
            match raw.to_str() {
                Ok(name) => match fs::statat(fd.as_fd(), raw, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(s) => out.entries.push((name.to_owned(), to_stat(&s))),
                    Err(e) if absent(e) => {}
                    Err(e) => return Err(fail(e)),
                },
                Err(_) => out.skipped.push(raw.to_string_lossy().into_owned()),
            }
        }
        out.entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    fn read(&self, at: At, pos: u64, len: usize) -> Result<Vec<u8>> {
        let fd = self.open_at("read", at, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut out = vec![0; len];
        let mut have = 0;
        while let Some(room) = out.get_mut(have..).filter(|r| !r.is_empty()) {
            match rustix::io::pread(&fd, room, pos + have as u64) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(SyncError::io(self.what("read", at), e.into())),
            }
        }
        out.truncate(have);
        Ok(out)
    }

    fn write(&self, at: At, pos: u64, bytes: &[u8]) -> Result<()> {
        let fd = self.open_at("write", at, OFlags::WRONLY | OFlags::CREATE)?;
        let mut rest = bytes;
        let mut pos = pos;
        while !rest.is_empty() {
            match rustix::io::pwrite(&fd, rest, pos) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    pos += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(SyncError::io(self.what("write", at), e.into())),
            }
        }
        write_out(&fd, pos);
        Ok(())
    }

    fn seal(&self, at: At, len: u64, mtime_ns: i64, exec: bool) -> Result<()> {
        let fd = self.open_at("finish", at, OFlags::WRONLY | OFlags::CREATE)?;
        let fail = |e: rustix::io::Errno| SyncError::io(self.what("finish", at), e.into());
        fs::ftruncate(&fd, len).map_err(fail)?;
        dress(&fd, exec).map_err(fail)?;
        date(&fd, mtime_ns).map_err(fail)?;
        fs::fsync(&fd).map_err(fail)
    }

    fn put(&self, at: At, bytes: &[u8], mtime_ns: i64, exec: bool) -> Result<Stat> {
        let fd = self.open_at("write", at, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let fail = |e: rustix::io::Errno| SyncError::io(self.what("write", at), e.into());
        // Before the bytes: then the kernel has the attributes still, and asks no FUSE server.
        dress(&fd, exec).map_err(fail)?;
        let (mut rest, mut pos) = (bytes, 0);
        while !rest.is_empty() {
            match rustix::io::pwrite(&fd, rest, pos) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    pos += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        date(&fd, mtime_ns).map_err(fail)?;
        Ok(to_stat(&fs::fstat(&fd).map_err(fail)?))
    }

    fn settle(&self, all: &[(At, u64)]) -> Result<()> {
        let Some((first, _)) = all.first() else { return Ok(()) };
        let root = self.root(first.0);
        let fail = |e: std::io::Error| SyncError::io(self.what("sync", *first), e);
        if all.iter().all(|(at, _)| at.0 == first.0) {
            // One call for the whole file system costs about as much as ten for a file.
            if all.len() >= SYNCFS_FROM && self.is_local() {
                return fs::syncfs(root).map_err(|e| fail(e.into()));
            }
            let inodes: Vec<u64> = all.iter().map(|(_, inode)| *inode).collect();
            if all.len() > 1 && fsync_many(root, &inodes).map_err(fail)? {
                return Ok(());
            }
        }
        // Several at once, so that a journal or a server takes them together.
        let part = all.len().div_ceil(SYNC_THREADS);
        std::thread::scope(|scope| {
            let sync = |(at, _): &(At, u64)| {
                let fd = self.open_at("sync", *at, OFlags::RDONLY)?;
                fs::fsync(fd).map_err(|e| SyncError::io(self.what("sync", *at), e.into()))
            };
            let work: Vec<_> = all
                .chunks(part)
                .map(|some| scope.spawn(move || some.iter().try_for_each(sync)))
                .collect();
            work.into_iter().try_for_each(|t| {
                let ended = || SyncError::io("sync", std::io::Error::other("a thread ended"));
                t.join().unwrap_or_else(|_| Err(ended()))
            })
        })
    }

    fn mkdir(&self, at: At) -> Result<()> {
        let (dir, name) = self.dir_of("make", at)?;
        fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))
            .map_err(|e| SyncError::io(self.what("make", at), e.into()))
    }

    fn rename(&self, from: At, to: At) -> Result<()> {
        self.renaming(from, to, RenameFlags::NOREPLACE)
    }

    fn rename_many(&self, all: &[(At, At)]) -> Vec<Result<()>> {
        let one = |(from, to): &(At, At)| self.rename(*from, *to);
        if self.is_local() || all.len() < RENAME_THREADS {
            return all.iter().map(one).collect();
        }
        // Each waits for a server: several at once.
        let parts = all.chunks(all.len().div_ceil(RENAME_THREADS));
        std::thread::scope(|scope| {
            let work: Vec<_> = parts
                .map(|some| {
                    let all = || some.iter().map(one).collect::<Vec<_>>();
                    (some.len(), scope.spawn(all))
                })
                .collect();
            let ended = || SyncError::io("rename", std::io::Error::other("a thread ended"));
            let wait = |(n, t): (usize, std::thread::ScopedJoinHandle<'_, Vec<Result<()>>>)| {
                t.join().unwrap_or_else(|_| (0..n).map(|_| Err(ended())).collect())
            };
            work.into_iter().flat_map(wait).collect()
        })
    }

    fn exchange(&self, a: At, b: At) -> Result<()> {
        self.renaming(a, b, RenameFlags::EXCHANGE)
    }

    fn remove_file(&self, at: At) -> Result<()> {
        let (dir, name) = self.dir_of("remove", at)?;
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(e) if !absent(e) => Err(SyncError::io(self.what("remove", at), e.into())),
            _ => Ok(()),
        }
    }

    fn remove_dir(&self, at: At) -> Result<()> {
        let (dir, name) = self.dir_of("remove", at)?;
        match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(e) if !absent(e) => Err(SyncError::io(self.what("remove", at), e.into())),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, at: At) -> Result<()> {
        let fd = self.open_at("sync", at, OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::fsync(fd).map_err(|e| SyncError::io(self.what("sync", at), e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap18_nothing_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, own) = (dir.path().join("tree"), dir.path().join("own"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("link")).unwrap();
        std::os::unix::fs::symlink("../secret", tree.join("file")).unwrap();
        let disk = Disk::open(&tree, &own, None).unwrap();
        for path in ["../secret", "link/secret", "file", "/etc/passwd", "x/../../secret"] {
            assert!(disk.read(At(Area::Tree, path), 0, 9).is_err(), "read {path}");
            assert!(disk.write(At(Area::Tree, path), 0, b"x").is_err(), "write {path}");
        }
        assert_eq!(disk.stat(At(Area::Tree, "file")).unwrap().unwrap().what, What::Other);
        assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"s");
    }

    #[test]
    fn trap5_a_root_that_vanished_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, own) = (dir.path().join("tree"), dir.path().join("tree/.own"));
        std::fs::create_dir(&tree).unwrap();
        let disk = Disk::open(&tree, &own, None).unwrap();
        disk.check_root().unwrap();
        std::fs::rename(&tree, dir.path().join("away")).unwrap();
        std::fs::create_dir(&tree).unwrap(); // an empty mount point
        assert!(matches!(disk.check_root(), Err(SyncError::RootLost(_))));
        let again = Disk::open(&tree, &own, Some(disk.marker()));
        assert!(matches!(again, Err(SyncError::RootLost(_))), "{again:?}");
    }

    #[test]
    fn times_modes_and_renames_are_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), &dir.path().join("own"), None).unwrap();
        let (a, b) = (At(Area::Tree, "a"), At(Area::Own, "tmp/b"));
        disk.write(a, 0, b"hello").unwrap();
        disk.seal(a, 5, -1_500_000_000, true).unwrap();
        let s = disk.stat(a).unwrap().unwrap();
        assert_eq!((s.size, s.mtime_ns, s.exec), (5, -1_500_000_000, true));
        disk.write(b, 0, b"other").unwrap();
        assert!(disk.rename(b, a).is_err(), "a rename never replaces");
        disk.exchange(a, b).unwrap();
        assert_eq!(disk.read(a, 1, 3).unwrap(), b"the");
        assert_eq!(super::super::hash(&disk, b).unwrap().0, *blake3::hash(b"hello").as_bytes());
    }
}
