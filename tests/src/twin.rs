//! A random history of operations, each done twice: through one of two mounts of one file system, and
//! in a local directory. Every result (errno, bytes, attributes, listing) must be the same.
//!
//! The history follows from its seed alone. A failure prints the seed and what was done before.
use crate::pattern;
use pvfs2_proto::env::{Random, SplitMix};
use rustix::fs::{self as rfs, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gave {
    Nothing,
    Bytes(Vec<u8>),
    Names(Vec<(String, u32)>),
    Stat(Stat),
}

/// Attributes that must agree. A directory's size is the file system's own affair.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    mode: u32,
    nlink: u64,
    owner: (u32, u32),
    size: Option<u64>,
    /// The mtime, where `utimensat` set it: it lies in the last century. (The atime follows reads.)
    mtime: Option<(i64, i64)>,
}

type Outcome = Result<Gave, Errno>;

/// A file that is open on both.
struct Held {
    side: usize,
    ours: File,
    local: File,
}

/// Who plays.
pub struct Twin {
    sides: [PathBuf; 2],
    local: PathBuf,
    random: SplitMix,
    held: Vec<Held>,
    log: Vec<String>,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Open files at most.
const HELD_MAX: usize = 4;
/// Files are about this long at most.
const LEN_MAX: u64 = 60_000;
/// Times that are set are before this second.
const CENTURY: i64 = 946_684_800;

impl Twin {
    /// A history on `sides`, one folder through two mounts, and `local`; both are empty.
    pub fn new(seed: u64, sides: [PathBuf; 2], local: PathBuf) -> Twin {
        let random = SplitMix::new(seed);
        Twin { sides, local, random, held: Vec::new(), log: vec![format!("seed {seed}")] }
    }

    fn rand(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    /// A path of one to three components; the longer, the rarer.
    fn path(&self) -> String {
        let depth = [1, 1, 1, 2, 2, 3][self.rand(6) as usize];
        let names: Vec<&str> = (0..depth).map(|_| NAMES[self.rand(6) as usize]).collect();
        names.join("/")
    }

    /// Does `op` on both; `what` tells it.
    fn both(&mut self, what: String, op: impl Fn(&Path) -> Outcome) {
        let side = self.rand(2) as usize;
        let local = op(&self.local);
        if local == Err(Errno::OPNOTSUPP) {
            return; // the local file system cannot say
        }
        let ours = op(&self.sides[side]);
        self.compare(&what, side, ours, local);
    }

    fn compare(&mut self, what: &str, side: usize, ours: Outcome, local: Outcome) {
        let told = match &ours {
            Ok(Gave::Bytes(bytes)) => format!("{} bytes", bytes.len()),
            other => format!("{other:?}"),
        };
        self.log.push(format!("{}: {what}: {told}", ["a", "b"][side]));
        if ours != local {
            let local = match (&ours, &local) {
                (Ok(Gave::Bytes(a)), Ok(Gave::Bytes(b))) => {
                    let at = a.iter().zip(b).position(|(a, b)| a != b);
                    format!("{} bytes, first difference {at:?}", b.len())
                }
                (_, local) => format!("{local:?}"),
            };
            panic!("{}\nthe local directory says: {local}", self.log.join("\n"));
        }
    }

    /// Something happened to the servers.
    pub fn note(&mut self, what: &str) {
        self.log.push(what.into());
    }

    /// One random operation.
    pub fn step(&mut self) {
        match self.rand(100) {
            0..34 => self.name_step(),
            34..50 => self.attr_step(),
            50..62 => self.look(),
            62..80 => self.file_step(),
            _ => self.held_step(),
        }
    }

    fn name_step(&mut self) {
        let (path, other) = (self.path(), self.path());
        match self.rand(12) {
            0..2 => self.both(format!("mkdir {path}"), |d| {
                nothing(rfs::mkdir(d.join(&path), Mode::from_raw_mode(0o755)))
            }),
            2 => self.both(format!("rmdir {path}"), |d| nothing(rfs::rmdir(d.join(&path)))),
            3..5 => self.both(format!("unlink {path}"), |d| nothing(rfs::unlink(d.join(&path)))),
            5..8 => {
                let flags = match self.rand(5) {
                    0 => rfs::RenameFlags::NOREPLACE,
                    1 => rfs::RenameFlags::EXCHANGE,
                    _ => rfs::RenameFlags::empty(),
                };
                self.both(format!("rename {path} {other} {flags:?}"), |d| {
                    nothing(rfs::renameat_with(CWD, d.join(&path), CWD, d.join(&other), flags))
                });
            }
            8..10 => self.both(format!("link {path} {other}"), |d| {
                nothing(rfs::link(d.join(&path), d.join(&other)))
            }),
            10 => self.both(format!("symlink {other} {path}"), |d| {
                nothing(rfs::symlink(&other, d.join(&path)))
            }),
            _ => self.both(format!("mkfifo {path}"), |d| {
                let mode = Mode::from_raw_mode(0o640);
                nothing(rfs::mknodat(CWD, d.join(&path), FileType::Fifo, mode, 0))
            }),
        }
    }

    fn attr_step(&mut self) {
        let path = self.path();
        let key = format!("user.{}", NAMES[self.rand(3) as usize]);
        match self.rand(9) {
            0..2 => {
                let mode = [0o600, 0o644, 0o755, 0o1777, 0o4711, 0o2755][self.rand(6) as usize];
                self.both(format!("chmod {mode:o} {path}"), |d| {
                    regular(&d.join(&path))?;
                    nothing(rfs::chmod(d.join(&path), Mode::from_raw_mode(mode)))
                });
            }
            2 => {
                let (uid, gid) = (self.rand(3) as u32, self.rand(3) as u32);
                self.both(format!("chown {uid}:{gid} {path}"), |d| {
                    let (uid, gid) = (rfs::Uid::from_raw(uid), rfs::Gid::from_raw(gid));
                    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
                    nothing(rfs::chownat(CWD, d.join(&path), Some(uid), Some(gid), no_follow))
                });
            }
            3..5 => {
                let time = || rfs::Timespec {
                    tv_sec: self.rand(CENTURY as u64) as i64,
                    tv_nsec: self.rand(1_000_000_000) as i64,
                };
                let times = rfs::Timestamps { last_access: time(), last_modification: time() };
                self.both(format!("utimens {path}"), |d| {
                    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
                    nothing(rfs::utimensat(CWD, d.join(&path), &times, no_follow))
                });
            }
            5..7 => {
                let value = pattern::bytes(self.random.next_u64(), 0, self.rand(200) as usize);
                let flags = match self.rand(4) {
                    0 => XattrFlags::CREATE,
                    1 => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                self.both(format!("setxattr {path} {key} {flags:?}"), |d| {
                    regular(&d.join(&path))?;
                    nothing(rfs::lsetxattr(d.join(&path), key.as_str(), &value, flags))
                });
            }
            7 => self.both(format!("removexattr {path} {key}"), |d| {
                regular(&d.join(&path))?;
                nothing(rfs::lremovexattr(d.join(&path), key.as_str()))
            }),
            _ => self.both(format!("xattrs {path}"), |d| xattrs(&d.join(&path))),
        }
    }

    fn look(&mut self) {
        let path = self.path();
        match self.rand(4) {
            0 => self.both(format!("lstat {path}"), |d| lstat(&d.join(&path))),
            1 => self.both(format!("list {path}"), |d| list(&d.join(&path))),
            2 => self.both("list .".into(), list),
            _ => self.both(format!("readlink {path}"), |d| {
                let target = rfs::readlink(d.join(&path), Vec::new())?;
                Ok(Gave::Bytes(target.into_bytes()))
            }),
        }
    }

    fn file_step(&mut self) {
        let path = self.path();
        let flags = match self.rand(6) {
            0 => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            1 => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
            2 | 3 => OFlags::RDWR | OFlags::CREATE,
            4 => OFlags::RDWR | OFlags::APPEND,
            _ => OFlags::RDWR,
        };
        // A FIFO would wait for its other end.
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let side = self.rand(2) as usize;
        let open = |d: &Path| {
            let path = d.join(&path);
            if let Ok(there) = rfs::stat(&path)
                && FileType::from_raw_mode(there.st_mode) == FileType::Fifo
            {
                return Err(Errno::NXIO);
            }
            rfs::open(path, flags, Mode::from_raw_mode(0o644)).map(File::from)
        };
        let (local, ours) = (open(&self.local), open(&self.sides[side]));
        let told = |r: &Result<File, Errno>| r.as_ref().map(|_| Gave::Nothing).map_err(|e| *e);
        self.compare(&format!("open {path} {flags:?}"), side, told(&ours), told(&local));
        if let (Ok(ours), Ok(local)) = (ours, local) {
            self.held.push(Held { side, ours, local });
            self.use_held(self.held.len() - 1);
            if self.held.len() > HELD_MAX || self.rand(3) > 0 {
                self.held.pop();
                self.log.push("closed".into());
            }
        }
    }

    fn held_step(&mut self) {
        if self.held.is_empty() {
            return self.look();
        }
        let which = self.rand(self.held.len() as u64) as usize;
        if self.rand(4) == 0 {
            self.held.remove(which);
            self.log.push(format!("closed {which}"));
        } else {
            self.use_held(which);
        }
    }

    /// Something with an open file.
    fn use_held(&mut self, which: usize) {
        let at = self.rand(LEN_MAX) >> self.rand(12);
        let len = 1 + (self.rand(LEN_MAX) >> self.rand(14));
        let seed = self.random.next_u64();
        let kind = self.rand(10);
        let by = move |file: &File| -> Outcome {
            match kind {
                0..3 => {
                    let bytes = pattern::bytes(seed, at, len as usize);
                    nothing(file.write_all_at(&bytes, at).map_err(errno))
                }
                3..5 => {
                    let mut bytes = vec![0; if kind == 3 { 2 * LEN_MAX } else { len } as usize];
                    let from = if kind == 3 { 0 } else { at };
                    let mut got = 0;
                    loop {
                        match file.read_at(&mut bytes[got..], from + got as u64).map_err(errno)? {
                            0 => break,
                            n => got += n,
                        }
                    }
                    bytes.truncate(got);
                    Ok(Gave::Bytes(bytes))
                }
                5 => nothing(rfs::ftruncate(file, at)),
                6 => nothing(rfs::fsync(file)),
                7 => {
                    let flags = [
                        FallocateFlags::empty(),
                        FallocateFlags::KEEP_SIZE,
                        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                        FallocateFlags::ZERO_RANGE,
                        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    ];
                    nothing(rfs::fallocate(file, flags[seed as usize % 5], at, len))
                }
                _ => stat_of(&file.metadata().map_err(errno)?),
            }
        };
        let held = &self.held[which];
        let (side, local) = (held.side, by(&held.local));
        if local == Err(Errno::OPNOTSUPP) {
            return;
        }
        let ours = by(&held.ours);
        let what =
            ["write", "write", "write", "read all", "read", "truncate", "fsync", "fallocate"];
        let what = what.get(kind as usize).unwrap_or(&"fstat");
        self.compare(&format!("open file {which}: {what} at {at}, {len}"), side, ours, local);
    }

    /// Closes all, and compares the whole tree through both sides.
    pub fn finish(mut self) {
        self.held.clear();
        self.log.push("closed all".into());
        for side in 0..2 {
            let mut dirs = vec![PathBuf::new()];
            while let Some(dir) = dirs.pop() {
                let (ours, local) =
                    (list(&self.sides[side].join(&dir)), list(&self.local.join(&dir)));
                let names = local.clone();
                self.compare(&format!("in the end: list {}", dir.display()), side, ours, local);
                let Ok(Gave::Names(names)) = names else { continue };
                for (name, kind) in names {
                    let path = dir.join(&name);
                    let mut looks: Vec<fn(&Path) -> Outcome> = vec![lstat];
                    match FileType::from_raw_mode(kind) {
                        FileType::RegularFile => {
                            looks.extend([bytes as fn(&Path) -> Outcome, xattrs])
                        }
                        FileType::Directory => dirs.push(path.clone()),
                        _ => {}
                    }
                    for look in looks {
                        let ours = look(&self.sides[side].join(&path));
                        let local = look(&self.local.join(&path));
                        self.compare(&format!("in the end: {}", path.display()), side, ours, local);
                    }
                }
            }
        }
    }
}

fn nothing<T>(result: Result<T, Errno>) -> Outcome {
    result.map(|_| Gave::Nothing)
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// Symlinks are left alone where Linux and local file systems differ in what they say of them.
fn regular(path: &Path) -> Result<(), Errno> {
    let stat = rfs::lstat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        _ => Err(Errno::PERM),
    }
}

fn bytes(path: &Path) -> Outcome {
    std::fs::read(path).map(Gave::Bytes).map_err(errno)
}

fn xattrs(path: &Path) -> Outcome {
    regular(path)?;
    let mut list = vec![0; 4_096];
    let n = rfs::llistxattr(path, &mut list[..])?;
    let mut names: Vec<&[u8]> = list[..n].split(|b| *b == 0).collect();
    names.retain(|n| n.starts_with(b"user.") && !n.starts_with(b"user.pvfs2."));
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let mut value = vec![0; 4_096];
        let n = rfs::lgetxattr(path, name, &mut value[..])?;
        all.extend_from_slice(name);
        all.push(b'=');
        all.extend_from_slice(&value[..n]);
    }
    Ok(Gave::Bytes(all))
}

fn list(dir: &Path) -> Outcome {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        assert!(entry.ino() != 0);
        let kind = std::fs::symlink_metadata(entry.path()).map_err(errno)?.mode() & libc::S_IFMT;
        names.push((entry.file_name().into_string().expect("our own names"), kind));
    }
    names.sort();
    Ok(Gave::Names(names))
}

fn lstat(path: &Path) -> Outcome {
    stat_of(&std::fs::symlink_metadata(path).map_err(errno)?)
}

fn stat_of(m: &std::fs::Metadata) -> Outcome {
    let set = |sec: i64, nsec: i64| (sec < CENTURY).then_some((sec, nsec));
    Ok(Gave::Stat(Stat {
        mode: m.mode(),
        nlink: m.nlink(),
        owner: (m.uid(), m.gid()),
        size: (!m.is_dir()).then_some(m.len()),
        mtime: set(m.mtime(), m.mtime_nsec()),
    }))
}
