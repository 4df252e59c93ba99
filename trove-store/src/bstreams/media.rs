//! What bstreams need of a disk, as traits, so that a simulation can take its place.
//!
//! Place in the walks: the last step of read and write. Invariant: an open file belongs to the life
//! ("epoch") of the medium in which it was opened; after a simulated crash it fails.
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// Which file of a datafile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Its bytes.
    Data,
    /// Its checksums.
    Sums,
}

/// The small append-only logs beside the datafiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// Datafiles whose side file is not to be trusted.
    Dirty,
    /// Removed datafiles.
    Removed,
}

/// Length, time and space of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the bytes.
    pub mtime_ns: i64,
    /// Bytes on disk.
    pub allocated: u64,
}

/// One open file.
pub trait MediaFile: Send + Sync {
    /// Writes all slices one after the other; on an error also tells how many bytes were written.
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<(), (u64, io::Error)>;
    /// Reads until `buf` is full or the file ends.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Reads what is in memory; `None` when nothing is, or the system cannot tell.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>>;
    /// The local file, if all pages of the range are in memory and the system tells.
    fn lend(&self, _offset: u64, _len: u64) -> Option<Arc<File>> {
        None
    }
    /// Begins to read into memory, without waiting for the disk. A hint.
    fn read_ahead(&self, _offset: u64, _len: u64) {}
    /// Length, time, space.
    fn stat(&self) -> io::Result<FileStat>;
    /// Sets the length.
    fn set_len(&self, size: u64) -> io::Result<()>;
    /// Sets the time of the last change.
    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()>;
    /// Makes a hole; the length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Reserves space; the length stays.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The first stretch of data at or after `offset`: (start, end).
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>>;
    /// Makes bytes and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Begins to write a stretch out, without waiting for the disk; up to `u64::MAX`: to the end.
    fn start_writeout(&self, range: Range<u64>);
}

/// A place that holds datafiles.
pub trait Media: Send + Sync {
    /// Opens a file, making it if `create`; `None` when it is not there. The flag: it was made.
    fn open(
        &self,
        kind: Kind,
        handle: u64,
        create: bool,
    ) -> io::Result<Option<(Arc<dyn MediaFile>, bool)>>;
    /// Length, time and space of a datafile, without opening it; `None` when it is not there.
    fn stat(&self, handle: u64) -> io::Result<Option<FileStat>>;
    /// Removes a file; `false` when it was not there.
    fn remove(&self, kind: Kind, handle: u64) -> io::Result<bool>;
    /// Makes the names of a handle's files durable.
    fn sync_names(&self, handle: u64) -> io::Result<()>;
    /// Makes everything on the medium durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Calls `each` with the handle of every datafile, in no order.
    fn list(&self, each: &mut dyn FnMut(u64)) -> io::Result<()>;
    /// Bytes free for users, and in all.
    fn space(&self) -> io::Result<(u64, u64)>;
    /// A number that another medium has only if it takes its space from the same disk; 0
    /// when it cannot tell.
    fn disk(&self) -> io::Result<u64>;
    /// All bytes of a log; empty when it is not there.
    fn read_log(&self, log: LogKind) -> io::Result<Vec<u8>>;
    /// Appends to a log (one `write(2)`).
    fn append_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()>;
    /// Makes a log durable.
    fn sync_log(&self, log: LogKind) -> io::Result<()>;
    /// Puts other bytes in a log's place, at once and durably.
    fn replace_log(&self, log: LogKind, bytes: &[u8]) -> io::Result<()>;
    /// A number that differs after every loss of power.
    fn boot(&self) -> u64;
    /// A file's name for messages.
    fn name(&self, kind: Kind, handle: u64) -> String;
}
