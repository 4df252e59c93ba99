//! Messages of the datafile operations on I/O servers. A datafile that was never written does not
//! exist: it reads as empty, and only a write makes it.

/// A range of a datafile.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PhysicalExtent {
    /// First byte.
    #[prost(uint64, tag = "1")]
    pub physical_offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

/// Reads extents of one datafile (list I/O). The body is their bytes, one extent after the other,
/// each cut at the datafile's end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoReadRequest {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// Extents, ascending, not overlapping.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<PhysicalExtent>,
    /// The body may be lent (see `frame::FLAG_LENT`): the reader compares checksums, and asks again
    /// without this where they do not match.
    #[prost(bool, tag = "3")]
    pub may_lend: bool,
    /// Datafiles that will probably be read from their beginning soon, at most
    /// [`limits::AHEAD_FILES_MAX`](crate::limits::AHEAD_FILES_MAX): the server may have the disk read
    /// them now. What is not there, or not this server's, is passed over.
    #[prost(message, repeated, tag = "4")]
    pub ahead: Vec<Ahead>,
}

/// The beginning of a datafile that will probably be read soon.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Ahead {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// Bytes from its beginning, at most [`limits::AHEAD_BYTES_MAX`](crate::limits::AHEAD_BYTES_MAX).
    #[prost(uint64, tag = "2")]
    pub len: u64,
}
/// Answer to io_read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoReadResponse {
    /// Bytes of each extent in the body (less than asked: the datafile ends there; the rest reads
    /// as zeros up to the file's size). Empty: every extent is whole.
    #[prost(uint64, repeated, tag = "1")]
    pub got: Vec<u64>,
}

/// Writes the body into extents of one datafile, making it if need be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoWriteRequest {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// Extents, ascending, not overlapping; their lengths sum to the body's.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<PhysicalExtent>,
    /// Not empty: there is no body in the frame, it stands in the memory that the client shares on this
    /// connection (see [`HelloRequest::region_bytes`](super::HelloRequest::region_bytes)), in these pieces,
    /// one after the other.
    #[prost(message, repeated, tag = "3")]
    pub shared: Vec<SharedPiece>,
    /// With `shared`: the CRC-32 of what falls into each strip, extent after extent. They are stored as
    /// they are; whoever reads compares.
    #[prost(fixed32, repeated, tag = "4")]
    pub crcs: Vec<u32>,
}
/// A piece of the memory that a client shares.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SharedPiece {
    /// Its first byte in the region.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub len: u64,
}
/// Answer to io_write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoWriteResponse {
    /// The server's time of the write, for the file's mtime.
    #[prost(sint64, tag = "1")]
    pub mtime_ns: i64,
}

/// Sizes and times of datafiles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfStatRequest {
    /// The datafiles, all of this server.
    #[prost(uint64, repeated, tag = "1")]
    pub datahandles: Vec<u64>,
}
/// One datafile.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct DfStat {
    /// Its length; 0 when it does not exist.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Its last write; 0 when it does not exist.
    #[prost(sint64, tag = "2")]
    pub mtime_ns: i64,
    /// Bytes it takes on disk.
    #[prost(uint64, tag = "3")]
    pub allocated: u64,
}
/// Answer to df_stat, in the order asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfStatResponse {
    /// The datafiles.
    #[prost(message, repeated, tag = "1")]
    pub stats: Vec<DfStat>,
}

/// Sets a datafile's length (never longer than it is, unless `extend`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfTruncateRequest {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// The new length.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Also lengthen.
    #[prost(bool, tag = "3")]
    pub extend: bool,
}
/// Answer to df_truncate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfTruncateResponse {}

/// Preallocates or punches extents of a datafile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfFallocateRequest {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// Extents.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<PhysicalExtent>,
    /// Punch holes (true) or reserve space (false; the length stays).
    #[prost(bool, tag = "3")]
    pub punch: bool,
}
/// Answer to df_fallocate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfFallocateResponse {}

/// One piece of a [`DfCopyRequest`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CopyExtent {
    /// The datafile to copy from, of the same server.
    #[prost(uint64, tag = "1")]
    pub source: u64,
    /// First byte there.
    #[prost(uint64, tag = "2")]
    pub source_offset: u64,
    /// First byte in the datafile copied to.
    #[prost(uint64, tag = "3")]
    pub physical_offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub len: u64,
}
/// Copies extents of datafiles of one server into a datafile, making it if need be. Holes, and what
/// lies beyond a source's end, become holes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfCopyRequest {
    /// The datafile to copy to.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// The pieces, ascending in the datafile copied to, not overlapping.
    #[prost(message, repeated, tag = "2")]
    pub pieces: Vec<CopyExtent>,
}
/// Answer to df_copy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfCopyResponse {
    /// The server's time of the copy, for the file's mtime.
    #[prost(sint64, tag = "1")]
    pub mtime_ns: i64,
}

/// Where a datafile has data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfMapRequest {
    /// The datafile.
    #[prost(uint64, tag = "1")]
    pub datahandle: u64,
    /// From here.
    #[prost(uint64, tag = "2")]
    pub physical_offset: u64,
    /// At most this many extents.
    #[prost(uint32, tag = "3")]
    pub max: u32,
}
/// Answer to df_map.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfMapResponse {
    /// Extents with data, ascending; the first may begin before the offset asked for.
    #[prost(message, repeated, tag = "1")]
    pub data: Vec<PhysicalExtent>,
    /// The datafile's length.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// There are more than `max`.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Makes datafiles durable against loss of power.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfSyncRequest {
    /// The datafiles; those that do not exist are skipped.
    #[prost(uint64, repeated, tag = "1")]
    pub datahandles: Vec<u64>,
}
/// Answer to df_sync.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfSyncResponse {}

/// Removes datafiles; later writes to them are refused as `Stale` for `handle_recycle_secs`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfRemoveRequest {
    /// The datafiles; those that do not exist are skipped.
    #[prost(uint64, repeated, tag = "1")]
    pub datahandles: Vec<u64>,
}
/// Answer to df_remove.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfRemoveResponse {
    /// How many were there.
    #[prost(uint32, tag = "1")]
    pub removed: u32,
}

/// Lists datafiles in order of their handles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfListRequest {
    /// Handles above this one.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// At most this many.
    #[prost(uint32, tag = "2")]
    pub max: u32,
}
/// Answer to df_list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DfListResponse {
    /// The datafiles.
    #[prost(uint64, repeated, tag = "1")]
    pub datahandles: Vec<u64>,
    /// Nothing follows.
    #[prost(bool, tag = "2")]
    pub end: bool,
}

/// An I/O server's share of statfs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoStatfsRequest {}
/// Answer to io_statfs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IoStatfsResponse {
    /// Bytes free for users.
    #[prost(uint64, tag = "1")]
    pub bytes_free: u64,
    /// Bytes in all.
    #[prost(uint64, tag = "2")]
    pub bytes_total: u64,
    /// Datafiles here.
    #[prost(uint64, tag = "3")]
    pub datafiles: u64,
    /// Another server has the same number only if its space comes from the same disk (0: it does not say).
    #[prost(uint64, tag = "4")]
    pub disk: u64,
}
