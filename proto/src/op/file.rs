//! Messages of the operations on regular files at their metadata server: open, release, small
//! files, appends, unstuff, fallocate.
use crate::attr::Attr;
use bytes::Bytes;

/// Opens a regular file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// For reading.
    #[prost(bool, tag = "2")]
    pub read: bool,
    /// For writing.
    #[prost(bool, tag = "3")]
    pub write: bool,
    /// O_TRUNC.
    #[prost(bool, tag = "4")]
    pub truncate: bool,
    /// Bring the bytes of a small file along.
    #[prost(bool, tag = "5")]
    pub want_bytes: bool,
    /// Opened for execution only (checked against x, not r).
    #[prost(bool, tag = "6")]
    pub exec: bool,
    /// For writing: the right to hold back what is written is wanted.
    #[prost(bool, tag = "20")]
    pub want_right: bool,
}
/// Answer to open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenResponse {
    /// The file's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// Bytes of a small file, if asked for.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub bytes: Option<Bytes>,
    /// The session alone has the file open, and may hold back what it writes until this right is
    /// recalled; 0: it may not.
    #[prost(uint64, tag = "20")]
    pub right: u64,
}

/// Gives back the right to hold back what is written, after it was recalled and all is written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GiveBackRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The right.
    #[prost(uint64, tag = "2")]
    pub right: u64,
    /// Do not give it back, only ask whether it is still held: after a time in which the session may
    /// have ended.
    #[prost(bool, tag = "3")]
    pub keep: bool,
}
/// Answer to give_back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GiveBackResponse {
    /// The session held the right until now: nobody else was told anything of the file meanwhile.
    #[prost(bool, tag = "1")]
    pub held: bool,
}

/// One close.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseItem {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// It was open for writing.
    #[prost(bool, tag = "2")]
    pub write: bool,
    /// Bytes were written to datafiles through it since the last report.
    #[prost(bool, tag = "3")]
    pub wrote: bool,
    /// One past the last byte written since the last report (0 with `wrote` false).
    #[prost(uint64, tag = "4")]
    pub end: u64,
    /// When they were written; 0: keep the mtime (it was set explicitly since).
    #[prost(sint64, tag = "5")]
    pub mtime_ns: i64,
    /// When bytes were last read; 0: never, or atime is not kept.
    #[prost(sint64, tag = "6")]
    pub atime_ns: i64,
}
/// Closes files of this server, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseRequest {
    /// The closes.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<ReleaseItem>,
}
/// Answer to release.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseResponse {}

/// A writer tells what [`ReleaseItem`] tells, without closing (flush, fsync).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportRequest {
    /// What was written.
    #[prost(message, optional, tag = "1")]
    pub item: Option<ReleaseItem>,
    /// Also make it durable (fsync): one request instead of two.
    #[prost(bool, tag = "2")]
    pub sync: bool,
}
/// Answer to report.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportResponse {
    /// The file's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Reads a stuffed file. Error `NotStuffed` comes with the attributes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadSmallRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub logical_offset: u64,
    /// Bytes wanted.
    #[prost(uint64, tag = "3")]
    pub len: u64,
}
/// Answer to read_small; the bytes (fewer at the end of the file) are the body.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadSmallResponse {
    /// The file's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Writes the body into a stuffed file. When the file would outgrow `small_file_bytes`, or is no
/// longer stuffed: error `NotStuffed` with the attributes; the client unstuffs and writes datafiles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteSmallRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Where.
    #[prost(uint64, tag = "2")]
    pub logical_offset: u64,
    /// Clear suid and sgid.
    #[prost(bool, tag = "3")]
    pub kill_suidgid: bool,
    /// The client's kernel keeps the times, and tells them by itself.
    #[prost(bool, tag = "4")]
    pub keep_times: bool,
}
/// Answer to write_small.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteSmallResponse {
    /// The file's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Appends the body. The metadata server decides the offset and carries the bytes to the datafiles
/// where the file is striped, so that records of two clients never overlap and no reader sees a gap.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AppendRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// One past the last byte that this client itself wrote and has not reported.
    #[prost(uint64, tag = "2")]
    pub known_end: u64,
    /// Clear suid and sgid.
    #[prost(bool, tag = "3")]
    pub kill_suidgid: bool,
}
/// Answer to append.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AppendResponse {
    /// Where the first byte went.
    #[prost(uint64, tag = "1")]
    pub logical_offset: u64,
    /// The file's attributes afterwards.
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
}

/// Gives a stuffed file datahandles and moves its bytes there. A file that has them is left alone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnstuffRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Datahandles of a file that is about to be copied here: where the layout is nobody's wish, the
    /// I/O servers are taken in the same order, so that each of them can copy what it has.
    #[prost(uint64, repeated, tag = "2")]
    pub like: Vec<u64>,
}
/// Answer to unstuff.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnstuffResponse {
    /// The file's attributes, with its layout.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Kinds of fallocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FallocateKind {
    /// Reserve space, extend the size.
    Allocate = 0,
    /// Reserve space, keep the size (FALLOC_FL_KEEP_SIZE).
    KeepSize = 1,
    /// Make a hole (FALLOC_FL_PUNCH_HOLE | KEEP_SIZE).
    PunchHole = 2,
    /// Zero a range, extend the size (FALLOC_FL_ZERO_RANGE).
    ZeroRange = 3,
    /// Zero a range, keep the size.
    ZeroKeepSize = 4,
}
/// Preallocates, punches, zeroes. The metadata server drives the I/O servers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FallocateRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// What to do.
    #[prost(enumeration = "FallocateKind", tag = "2")]
    pub kind: i32,
    /// From.
    #[prost(uint64, tag = "3")]
    pub logical_offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub len: u64,
    /// One past the last byte that this client wrote and has not reported.
    #[prost(uint64, tag = "5")]
    pub known_end: u64,
    /// Clear suid and sgid.
    #[prost(bool, tag = "6")]
    pub kill_suidgid: bool,
}
/// Answer to fallocate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FallocateResponse {
    /// The file's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Copies bytes of a stuffed file into a stuffed file. Sent to the server of the second; error
/// `NotStuffed` where either is not stuffed any more, does not live there, or would outgrow
/// `small_file_bytes`: the client then copies by reading and writing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopySmallRequest {
    /// The file to copy from.
    #[prost(uint64, tag = "1")]
    pub source: u64,
    /// First byte there.
    #[prost(uint64, tag = "2")]
    pub source_offset: u64,
    /// The file to copy to.
    #[prost(uint64, tag = "3")]
    pub handle: u64,
    /// First byte there.
    #[prost(uint64, tag = "4")]
    pub logical_offset: u64,
    /// Bytes; fewer are copied where the source ends before.
    #[prost(uint64, tag = "5")]
    pub len: u64,
    /// Clear suid and sgid.
    #[prost(bool, tag = "6")]
    pub kill_suidgid: bool,
}
/// Answer to copy_small.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopySmallResponse {
    /// Bytes that were copied.
    #[prost(uint64, tag = "1")]
    pub copied: u64,
    /// The attributes of the file copied to.
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
}
