//! The `FORMAT` file, the lock file and the clean-stop marker of a storage space.
//!
//! Place in the walks: before the first request, when a server starts; `mkfs` writes it.
//! Invariants: `FORMAT` appears whole or not at all (written aside, synced, renamed last); one
//! process holds the lock; the marker exists only between a clean stop and the next start.
//!
//! `FORMAT` is text, one `key value` per line, in this order:
//!
//! | line | value |
//! |---|---|
//! | `pvfs2-trove` | magic |
//! | `version` | 1; [`FORMAT_VERSION`] when there is a line `keyval` |
//! | `fs_id` | 16 hex digits |
//! | `server_id` | position in the cluster map |
//! | `server_alias` | alias in the cluster file |
//! | `keyval` | the keyval's method; missing: `sled` |
//! | `crc32` | 8 hex digits: CRC-32 of all bytes before this line |
use crate::error::{Result, TroveError};
use pvfs2_proto::KeyvalMethod;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The newest version that this program writes and reads; a space with sled is of version 1, so that
/// older programs read it too.
pub const FORMAT_VERSION: u32 = 2;
/// First line of `FORMAT`.
pub const FORMAT_MAGIC: &str = "pvfs2-trove";
const FORMAT: &str = "FORMAT";
const LOCK: &str = "lock";
const CLEAN: &str = "CLEAN";
const FORMAT_BYTES_MAX: u64 = 4096;

/// Whose storage space this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatInfo {
    /// The file system's id, from the cluster file.
    pub fs_id: u64,
    /// The server's alias in the cluster file.
    pub server_alias: String,
    /// The server's position in the cluster map.
    pub server_id: u32,
    /// What holds its keys and values.
    pub keyval: KeyvalMethod,
}

impl FormatInfo {
    /// The text of `FORMAT`.
    pub fn encode(&self) -> String {
        let version = if self.keyval == KeyvalMethod::Sled { 1 } else { FORMAT_VERSION };
        let mut s = format!(
            "{FORMAT_MAGIC}\nversion {version}\nfs_id {:016x}\nserver_id {}\nserver_alias {}\n",
            self.fs_id, self.server_id, self.server_alias
        );
        if version > 1 {
            s.push_str(&format!("keyval {}\n", self.keyval));
        }
        let crc = crc32fast::hash(s.as_bytes());
        s.push_str(&format!("crc32 {crc:08x}\n"));
        s
    }

    /// Parses the text of `FORMAT`; `dir` is for the messages.
    ///
    /// # Errors
    /// `Format`, with a sentence and the remedy.
    pub fn decode(text: &str, dir: &Path) -> Result<FormatInfo> {
        let bad = |why: &str| {
            TroveError::Format(format!(
                "{}: {why}; this is not a readable storage space: check the path, or run \
                 'pvfs2 mkfs' on an empty folder",
                dir.join(FORMAT).display()
            ))
        };
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT_MAGIC) {
            return Err(bad("does not begin with 'pvfs2-trove'"));
        }
        let mut value = |key: &str| {
            lines
                .next()
                .and_then(|l| l.strip_prefix(key))
                .and_then(|l| l.strip_prefix(' '))
                .ok_or_else(|| bad(&format!("has no line '{key}'")))
        };
        let version: u32 = value("version")?.parse().map_err(|_| bad("has a bad version"))?;
        if !(1..=FORMAT_VERSION).contains(&version) {
            return Err(TroveError::Format(format!(
                "{} is of format version {version}, this program reads up to {FORMAT_VERSION}: \
                 use the pvfs2 release that wrote it",
                dir.display()
            )));
        }
        let fs_id = u64::from_str_radix(value("fs_id")?, 16).map_err(|_| bad("has a bad fs_id"))?;
        let server_id = value("server_id")?.parse().map_err(|_| bad("has a bad server_id"))?;
        let server_alias = value("server_alias")?.to_string();
        let keyval = match version {
            1 => KeyvalMethod::Sled,
            _ => value("keyval")?
                .parse()
                .map_err(|e: String| bad(&format!("has a bad keyval: {e}")))?,
        };
        let crc = u32::from_str_radix(value("crc32")?, 16).map_err(|_| bad("has a bad crc32"))?;
        let body = text.rfind("crc32 ").map_or("", |at| &text[..at]);
        if crc32fast::hash(body.as_bytes()) != crc {
            return Err(bad("is damaged (CRC-32 does not match)"));
        }
        Ok(FormatInfo { fs_id, server_alias, server_id, keyval })
    }
}

/// Makes a storage space in `dir`, which must be empty or missing.
///
/// # Errors
/// `Format` when something is there already; `Os` when the disk refuses.
pub fn format(dir: &Path, info: &FormatInfo) -> Result<()> {
    if info.server_alias.is_empty() || info.server_alias.contains(['\n', '\r']) {
        return Err(TroveError::Invalid(format!(
            "server alias '{}' must be one line, not empty",
            info.server_alias.escape_debug()
        )));
    }
    std::fs::create_dir_all(dir).map_err(TroveError::os("make folder", dir))?;
    let mut entries = std::fs::read_dir(dir).map_err(TroveError::os("list", dir))?;
    if dir.join(FORMAT).exists() {
        return Err(TroveError::Format(format!(
            "{} holds a storage space already: start the server on it, or remove the folder first \
             if its data may go",
            dir.display()
        )));
    }
    if let Some(entry) = entries.next() {
        let name = entry.map_err(TroveError::os("list", dir))?.file_name();
        return Err(TroveError::Format(format!(
            "{} is not empty (it holds '{}'): give an empty or missing folder",
            dir.display(),
            name.to_string_lossy()
        )));
    }
    for sub in ["keyval", "journal", "bstreams"] {
        let path = dir.join(sub);
        std::fs::create_dir(&path).map_err(TroveError::os("make folder", &path))?;
    }
    write_atomically(dir, FORMAT, info.encode().as_bytes())?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    Ok(())
}

/// Reads `FORMAT` and refuses another file system or server than `expect`.
///
/// # Errors
/// `Format`, with a sentence and the remedy.
pub fn check(dir: &Path, expect: &FormatInfo) -> Result<()> {
    let found = read(dir)?;
    if found.fs_id != expect.fs_id {
        return Err(TroveError::Format(format!(
            "{} belongs to file system {:016x}, the cluster file names {:016x}: give the data \
             folder that belongs to this cluster file, or 'pvfs2 mkfs' a new one",
            dir.display(),
            found.fs_id,
            expect.fs_id
        )));
    }
    if found.server_alias != expect.server_alias || found.server_id != expect.server_id {
        return Err(TroveError::Format(format!(
            "{} belongs to server '{}' (number {}), not to '{}' (number {}): start that server \
             on it, or correct the data folder in the cluster file",
            dir.display(),
            found.server_alias,
            found.server_id,
            expect.server_alias,
            expect.server_id
        )));
    }
    if found.keyval != expect.keyval {
        return Err(TroveError::Format(format!(
            "{} keeps its keyval by the method {found}, the cluster file says {expected}: write \
             `keyval = \"{found}\"` for server '{}' there, or 'pvfs2 mkfs' an empty folder",
            dir.display(),
            expect.server_alias,
            found = found.keyval,
            expected = expect.keyval,
        )));
    }
    Ok(())
}

/// Reads `FORMAT`.
///
/// # Errors
/// `Format` when it is missing or damaged.
pub fn read(dir: &Path) -> Result<FormatInfo> {
    let path = dir.join(FORMAT);
    let mut text = String::new();
    match File::open(&path) {
        Ok(f) => f.take(FORMAT_BYTES_MAX).read_to_string(&mut text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(TroveError::Format(format!(
                "{} is no storage space (no FORMAT file): run 'pvfs2 mkfs' for this server first, \
                 or correct its data folder in the cluster file",
                dir.display()
            )));
        }
        Err(e) => Err(e),
    }
    .map_err(TroveError::os("read", &path))?;
    FormatInfo::decode(&text, dir)
}

/// The held lock of a storage space; the system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct SpaceLock {
    _file: File,
}

impl SpaceLock {
    /// Takes the lock of `dir`.
    ///
    /// # Errors
    /// `Locked`, naming the process that holds it.
    pub fn take(dir: &Path) -> Result<SpaceLock> {
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(TroveError::os("open", &path))?;
        if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(TroveError::os("lock", &path)(e.into()));
            }
            let mut holder = String::new();
            let _ = (&file).take(32).read_to_string(&mut holder);
            return Err(TroveError::Locked(format!(
                "{} is already open in another process (pid {}): stop that server first",
                dir.display(),
                holder.trim()
            )));
        }
        let note = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(TroveError::os("write", &path))?;
        Ok(SpaceLock { _file: file })
    }
}

/// Takes the clean-stop marker away and tells whether it was there.
///
/// # Errors
/// `Os`.
pub fn take_clean_marker(dir: &Path) -> Result<bool> {
    let path = dir.join(CLEAN);
    match std::fs::remove_file(&path) {
        Ok(()) => sync_dir(dir).map(|()| true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(TroveError::os("remove", &path)(e)),
    }
}

/// Leaves the clean-stop marker.
///
/// # Errors
/// `Os`.
pub fn leave_clean_marker(dir: &Path) -> Result<()> {
    write_atomically(dir, CLEAN, b"stopped cleanly\n")
}

/// Writes `name` in `dir` so that it is seen whole or not at all, also after loss of power.
pub(crate) fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let aside = dir.join(format!("{name}.new"));
    let path = dir.join(name);
    let mut f = File::create(&aside).map_err(TroveError::os("make", &aside))?;
    f.write_all(bytes).map_err(TroveError::os("write", &aside))?;
    f.sync_all().map_err(TroveError::os("sync", &aside))?;
    std::fs::rename(&aside, &path).map_err(TroveError::os("rename to", &path))?;
    sync_dir(dir)
}

/// Makes a folder's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(TroveError::os("sync folder", dir))
}

/// An id of this boot of the machine, by which recovery tells a killed process from lost power.
pub(crate) fn boot_id() -> [u8; 16] {
    let mut id = [0u8; 16];
    let text = std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/random/boot_id"));
    let digits: Vec<u8> =
        text.unwrap_or_default().chars().filter_map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
