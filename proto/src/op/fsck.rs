//! Messages of `pvfs2 fsck`: a metadata server's records, page by page, read only.
use crate::attr::Attr;
use bytes::Bytes;

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FsckKind {
    /// Objects: attributes and what belongs to them.
    Objects = 0,
    /// Dirents.
    Names = 1,
    /// What is under way: intents, steps of other servers' intents, the reap queue, moves.
    Pending = 2,
}
/// Asks for a page of records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckScanRequest {
    /// Which.
    #[prost(enumeration = "FsckKind", tag = "1")]
    pub kind: i32,
    /// `next` of the page before; empty: from the beginning.
    #[prost(bytes = "bytes", tag = "2")]
    pub after: Bytes,
}
/// A page of records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckScanResponse {
    /// Objects.
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<FsckObject>,
    /// Dirents.
    #[prost(message, repeated, tag = "2")]
    pub names: Vec<FsckName>,
    /// What is under way.
    #[prost(message, repeated, tag = "3")]
    pub pending: Vec<FsckPending>,
    /// Where to go on; empty: nothing follows.
    #[prost(bytes = "bytes", tag = "4")]
    pub next: Bytes,
    /// Handles from this one on have not been given out.
    #[prost(uint64, tag = "5")]
    pub next_handle: u64,
}

/// An object.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckObject {
    /// Its attributes, without the ACL.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// A directory's parent; 0: it has none.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
    /// It is recorded as an orphan.
    #[prost(bool, tag = "3")]
    pub orphan: bool,
    /// Somebody has it open, or (in the grace time) may have.
    #[prost(bool, tag = "4")]
    pub open: bool,
}

/// A dirent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckName {
    /// Its directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// What it points at.
    #[prost(uint64, tag = "3")]
    pub handle: u64,
    /// The type bits that it says.
    #[prost(uint32, tag = "4")]
    pub kind: u32,
}

/// Kinds of things under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FsckPendingKind {
    /// An intent of the server that says so.
    Intent = 0,
    /// A step of another server's intent.
    Step = 1,
    /// Datafiles of a removed file wait for the reaper.
    Reap = 2,
    /// A stuffed file's bytes began to move to datafiles.
    Moving = 3,
}
/// Something under way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckPending {
    /// What.
    #[prost(enumeration = "FsckPendingKind", tag = "1")]
    pub kind: i32,
    /// The intent, or the metafile.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Objects that it may still change.
    #[prost(uint64, repeated, tag = "3")]
    pub handles: Vec<u64>,
    /// Datafiles that it will remove or fill.
    #[prost(uint64, repeated, tag = "4")]
    pub datahandles: Vec<u64>,
    /// When it began, if known.
    #[prost(int64, tag = "5")]
    pub begun_ns: i64,
    /// For how long it has been under way, by the server's clock.
    #[prost(int64, tag = "6")]
    pub age_ns: i64,
}
