//! Copies of folders that are checked: each file is hashed while it is read, synced, and read back. Links
//! are copied as links and never followed; sockets and devices are left out. For moves and backups.
use crate::error::{Result, SyncError};
use crate::rng::hex;
use rustix::fs::{self, Advice, OFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PIECE_BYTES: usize = 1 << 20;

/// A file as it was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its path below the copy.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 in hexadecimal.
    pub hash: String,
}

/// Where an earlier copy has the bytes that the file of this path has now, and what it wrote of them.
pub type Reuse<'a> = dyn Fn(&str) -> Option<(PathBuf, Item)> + 'a;

/// Copies folders, and remembers what it copied.
pub struct Copier<'a> {
    /// Hears of each piece of bytes; an error ends the copy.
    pub tick: &'a dyn Fn(u64) -> Result<()>,
    /// Whether a file need not be copied because an earlier copy has its bytes.
    pub reuse: &'a Reuse<'a>,
    /// What was copied.
    pub items: Vec<Item>,
    /// What could not be, and why.
    pub problems: Vec<String>,
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> SyncError + '_ {
    move |e| SyncError::io(path.display().to_string(), e)
}

/// Makes a folder's names durable.
///
/// # Errors
/// I/O.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed(dir))
}

/// BLAKE3 and length of a file, from the disk where the system lets us.
///
/// # Errors
/// I/O.
pub fn hash_file(path: &Path, tick: &dyn Fn(u64) -> Result<()>) -> Result<(String, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(failed(path))?;
    let _ = fs::fadvise(&file, 0, None, Advice::DontNeed);
    let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n = file.read(&mut piece).map_err(failed(path))?;
        if n == 0 {
            return Ok((hex(hasher.finalize().as_bytes()), len));
        }
        hasher.update(piece.get(..n).unwrap_or_default());
        len += n as u64;
        tick(n as u64)?;
    }
}

impl<'a> Copier<'a> {
    /// A copier that has copied nothing yet.
    #[must_use]
    pub fn new(tick: &'a dyn Fn(u64) -> Result<()>, reuse: &'a Reuse<'a>) -> Self {
        Self { tick, reuse, items: Vec::new(), problems: Vec::new() }
    }

    /// Copies the folder `from` to `to`, which is made; `below` is how its files are called. Names in
    /// `skip` are left out at the top.
    ///
    /// # Errors
    /// I/O; [`SyncError::Damaged`] if what was written reads back otherwise.
    pub fn folder(&mut self, from: &Path, to: &Path, below: &str, skip: &[&str]) -> Result<()> {
        std::fs::create_dir(to).map_err(failed(to))?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(from).map_err(failed(from))? {
            names.push(entry.map_err(failed(from))?);
        }
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let name = entry.file_name();
            if skip.iter().any(|s| name == *s) {
                continue;
            }
            let (a, b) = (entry.path(), to.join(&name));
            let path = format!("{below}/{}", name.to_string_lossy());
            let kind = entry.file_type().map_err(failed(&a))?;
            if kind.is_dir() {
                self.folder(&a, &b, &path, &[])?;
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&a).map_err(failed(&a))?;
                std::os::unix::fs::symlink(target, &b).map_err(failed(&b))?;
            } else if !kind.is_file() {
                self.problems.push(format!("{path}: neither file nor folder, left out"));
            } else {
                self.file(&a, &b, path)?;
            }
        }
        let dir = File::open(to).map_err(failed(to))?;
        let mode = std::fs::symlink_metadata(from).map_err(failed(from))?.permissions();
        dir.set_permissions(mode).and_then(|()| dir.sync_all()).map_err(failed(to))
    }

    /// Copies one file.
    ///
    /// # Errors
    /// As [`Copier::folder`].
    pub fn file(&mut self, from: &Path, to: &Path, path: String) -> Result<()> {
        if let Some((old, item)) = (self.reuse)(&path) {
            let len = |p: &Path| std::fs::symlink_metadata(p).map(|m| m.len());
            let same = [len(from), len(&old)].iter().all(|l| matches!(l, Ok(n) if *n == item.size));
            if same && std::fs::hard_link(&old, to).is_ok() {
                self.items.push(Item { path, ..item });
                return Ok(());
            }
        }
        let (hash, size) = self.bytes(from, to)?;
        self.items.push(Item { path, size, hash });
        Ok(())
    }

    fn bytes(&self, from: &Path, to: &Path) -> Result<(String, u64)> {
        let open =
            OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(from);
        let mut source = open.map_err(failed(from))?;
        let stat = source.metadata().map_err(failed(from))?;
        let mut options = OpenOptions::new();
        let mut target =
            options.write(true).create_new(true).mode(0o600).open(to).map_err(failed(to))?;
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = source.read(&mut piece).map_err(failed(from))?;
            if n == 0 {
                break;
            }
            let got = piece.get(..n).unwrap_or_default();
            hasher.update(got);
            target.write_all(got).map_err(failed(to))?;
            size += n as u64;
            (self.tick)(n as u64)?;
        }
        let mode = std::fs::Permissions::from_mode(stat.permissions().mode() & 0o777);
        target.set_permissions(mode).map_err(failed(to))?;
        let time = Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() };
        fs::futimens(&target, &Timestamps { last_access: time, last_modification: time })
            .map_err(|e| failed(to)(e.into()))?;
        target.sync_all().map_err(failed(to))?;
        let hash = hex(hasher.finalize().as_bytes());
        let (again, len) = hash_file(to, self.tick)?;
        if (&again, len) != (&hash, size) {
            return Err(SyncError::Damaged(format!("{} reads back otherwise", to.display())));
        }
        Ok((hash, size))
    }
}
