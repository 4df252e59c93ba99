//! Files below one user's or one device's folder. Server and device touch files through this trait
//! only: the real one ([`disk`]) stays beneath its roots whatever a path says (trap 18), the simulated
//! one ([`mem`]) crashes, fills up and forgets what was not synced.
pub mod disk;
pub mod mem;

use crate::delta;
use crate::error::{Result, SyncError};

/// Which of the two roots a path starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The user's own files.
    Tree,
    /// What the service keeps beside them: `tmp/`, `versions/`, `trash/`, `foreign/`, `marker`.
    Own,
}

/// A place: an area and names joined by `/`; the empty path is the root itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a>(pub Area, pub &'a str);

/// What lies somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, socket, device: not synchronised, and shown as skipped.
    Other,
}

/// Attributes, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub what: What,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of the bytes.
    pub mtime_ns: i64,
    /// Time of the last change of anything.
    pub ctime_ns: i64,
    /// The inode number.
    pub inode: u64,
    /// The owner's execute bit.
    pub exec: bool,
}

/// A directory's entries, and names that cannot be synchronised.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Name and attributes.
    pub entries: Vec<(String, Stat)>,
    /// Names that are not UTF-8, as well as they can be shown.
    pub skipped: Vec<String>,
}

/// The folders `Own` has.
pub const OWN_DIRS: [&str; 4] = ["tmp", "versions", "trash", "foreign"];

/// Operations on files. Every write is in place at once for other calls; durable is what
/// [`Files::seal`] and [`Files::sync_dir`] have returned for.
pub trait Files: Send + Sync {
    /// Whether the roots are still the directories that they were (trap 5).
    ///
    /// # Errors
    /// [`crate::error::SyncError::RootLost`].
    fn check_root(&self) -> Result<()>;
    /// Attributes; `None` if nothing is there.
    ///
    /// # Errors
    /// I/O.
    fn stat(&self, at: At) -> Result<Option<Stat>>;
    /// A whole directory, or an error: never a part of it (trap 6).
    ///
    /// # Errors
    /// I/O.
    fn list(&self, at: At) -> Result<Listing>;
    /// Up to `len` bytes from `pos`; fewer only at the end of the file.
    ///
    /// # Errors
    /// I/O.
    fn read(&self, at: At, pos: u64, len: usize) -> Result<Vec<u8>>;
    /// Writes at `pos`; makes the file if it is not there.
    ///
    /// # Errors
    /// I/O; [`crate::error::SyncError::Full`].
    fn write(&self, at: At, pos: u64, bytes: &[u8]) -> Result<()>;
    /// Cuts to `len`, sets time and execute bit, and syncs the file; makes it if it is not there.
    ///
    /// # Errors
    /// I/O.
    fn seal(&self, at: At, len: u64, mtime_ns: i64, exec: bool) -> Result<()>;
    /// Makes a small file whole, with time and execute bit, in place of what is there; it is durable when
    /// [`Files::settle`] has returned for it.
    ///
    /// # Errors
    /// I/O; [`crate::error::SyncError::Full`].
    fn put(&self, at: At, bytes: &[u8], mtime_ns: i64, exec: bool) -> Result<Stat>;
    /// Makes many files durable that [`Files::put`] made, at the price of few; with the inode of each.
    ///
    /// # Errors
    /// I/O: then none of them counts as durable.
    fn settle(&self, all: &[(At, u64)]) -> Result<()>;
    /// Makes a directory.
    ///
    /// # Errors
    /// I/O, also when the name is there.
    fn mkdir(&self, at: At) -> Result<()>;
    /// Renames; never replaces.
    ///
    /// # Errors
    /// I/O, also when the new name is there.
    fn rename(&self, from: At, to: At) -> Result<()>;
    /// Many renames to different names, in any order; those that failed are to be looked at. A simulated
    /// crash ends it.
    fn rename_many(&self, all: &[(At, At)]) -> Vec<Result<()>> {
        let mut out = Vec::with_capacity(all.len());
        for (from, to) in all {
            out.push(self.rename(*from, *to));
            if matches!(out.last(), Some(Err(SyncError::Crash))) {
                break;
            }
        }
        out
    }
    /// Swaps two names in one step.
    ///
    /// # Errors
    /// I/O.
    fn exchange(&self, a: At, b: At) -> Result<()>;
    /// Removes a file; nothing there is fine.
    ///
    /// # Errors
    /// I/O.
    fn remove_file(&self, at: At) -> Result<()>;
    /// Removes an empty directory; nothing there is fine.
    ///
    /// # Errors
    /// I/O, also when it is not empty.
    fn remove_dir(&self, at: At) -> Result<()>;
    /// Makes a directory's names durable.
    ///
    /// # Errors
    /// I/O.
    fn sync_dir(&self, at: At) -> Result<()>;
}

/// The directory part of a path.
#[must_use]
pub fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// The last name of a path.
#[must_use]
pub fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// A directory and a name as one path.
#[must_use]
pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// How much is read or written at once.
pub const PIECE_BYTES: usize = 1 << 20;

/// Files up to this size travel many in one request.
pub const SMALL_BYTES: u64 = 128 << 10;

/// BLAKE3 of a whole file and how many bytes it read.
///
/// # Errors
/// I/O.
pub fn hash(files: &dyn Files, at: At) -> Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut pos = 0;
    loop {
        let piece = files.read(at, pos, PIECE_BYTES)?;
        hasher.update(&piece);
        pos += piece.len() as u64;
        if piece.len() < PIECE_BYTES {
            return Ok((*hasher.finalize().as_bytes(), pos));
        }
    }
}

/// The pieces of ranges of a file.
///
/// # Errors
/// I/O; [`crate::error::SyncError::Invalid`] for an average that cannot be asked for.
pub fn pieces(
    files: &dyn Files,
    at: At,
    average: u32,
    ranges: &[delta::Range],
) -> Result<Vec<Vec<delta::Piece>>> {
    let of = |range: &delta::Range| {
        // The reader's errors have only a text; ours are handed on as they are.
        let mut failed = None;
        let window = delta::Window::new(*range, |pos, room| {
            let bytes = files.read(at, pos, room.len().min(PIECE_BYTES)).map_err(|e| {
                let text = std::io::Error::other(e.to_string());
                failed = Some(e);
                text
            })?;
            let room = room.get_mut(..bytes.len()).unwrap_or_default();
            room.copy_from_slice(&bytes);
            Ok(room.len())
        });
        let cut = delta::cut(window, average);
        failed.map_or(cut, Err)
    };
    ranges.iter().map(of).collect()
}
