//! Messages of quotas: limits on the bytes and files of a user, a group or a directory tree.
use crate::attr::Attr;

/// Whose objects a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum QuotaKind {
    /// Those of an owner.
    User = 0,
    /// Those of a group.
    Group = 1,
    /// Those of a directory tree; its id is the handle of the directory.
    Dir = 2,
}

/// An amount for one user, group or tree: a limit (0: none), what is used, or what may be used.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QuotaAmount {
    /// Whose.
    #[prost(enumeration = "QuotaKind", tag = "1")]
    pub kind: i32,
    /// uid, gid or handle.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// Bytes of regular files, by their sizes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Objects of every kind.
    #[prost(uint64, tag = "4")]
    pub files: u64,
}

/// Sets (or with zeros takes away) the limits of one user, group or tree. Root's; sent to the first
/// metadata server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaSetRequest {
    /// The limits.
    #[prost(message, optional, tag = "1")]
    pub limit: Option<QuotaAmount>,
}
/// Answer to quota_set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaSetResponse {}

/// Usage and limits, of all metadata servers together. Sent to the first one. Others than root see
/// what is theirs and their groups', and trees.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaGetRequest {
    /// Count anew from the objects' attributes.
    #[prost(bool, tag = "1")]
    pub recount: bool,
}
/// Answer to quota_get.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaGetResponse {
    /// What is used, in order.
    #[prost(message, repeated, tag = "1")]
    pub used: Vec<QuotaAmount>,
    /// The limits, in order.
    #[prost(message, repeated, tag = "2")]
    pub limits: Vec<QuotaAmount>,
    /// Metadata servers that did not answer: what their objects take is missing.
    #[prost(uint32, repeated, tag = "3")]
    pub silent: Vec<u32>,
    /// Counts that a recount found wrong and put right.
    #[prost(uint64, tag = "4")]
    pub corrected: u64,
}

/// A writer asks for room before it writes datafiles of a file under a quota.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaReserveRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// One past the last byte that it is about to write.
    #[prost(uint64, tag = "2")]
    pub end: u64,
}
/// Answer to quota_reserve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaReserveResponse {
    /// Up to here it may write without asking again.
    #[prost(uint64, tag = "1")]
    pub end: u64,
}

/// Puts an object into a directory tree that has a quota (0: out of any). Root's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaMarkRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The tree: the handle of its directory.
    #[prost(uint64, tag = "2")]
    pub tree: u64,
}
/// Answer to quota_mark.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaMarkResponse {
    /// The object's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// (From the first metadata server) tells the limits, asks for usage, calls room back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaTellRequest {
    /// `limits` is the whole table.
    #[prost(bool, tag = "1")]
    pub has_limits: bool,
    /// All limits.
    #[prost(message, repeated, tag = "2")]
    pub limits: Vec<QuotaAmount>,
    /// Whose room is called back: what is not used of it is given up. Amounts are not looked at.
    #[prost(message, repeated, tag = "3")]
    pub recall: Vec<QuotaAmount>,
    /// Answer with everybody's usage, not only of those called back.
    #[prost(bool, tag = "4")]
    pub all: bool,
    /// Count anew from the objects' attributes before.
    #[prost(bool, tag = "5")]
    pub recount: bool,
}
/// Answer to quota_tell.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaTellResponse {
    /// What objects there take, room of open writers included.
    #[prost(message, repeated, tag = "1")]
    pub used: Vec<QuotaAmount>,
    /// Counts that a recount found wrong and put right.
    #[prost(uint64, tag = "2")]
    pub corrected: u64,
}

/// What a metadata server wants.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaWant {
    /// What its objects take now.
    #[prost(message, optional, tag = "1")]
    pub used: Option<QuotaAmount>,
    /// Bytes that it needs besides.
    #[prost(uint64, tag = "2")]
    pub more_bytes: u64,
    /// Files that it needs besides.
    #[prost(uint64, tag = "3")]
    pub more_files: u64,
}
/// (To the first metadata server) asks for room. Error `Quota`: there is none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaAskRequest {
    /// What is wanted.
    #[prost(message, repeated, tag = "1")]
    pub wants: Vec<QuotaWant>,
}
/// Answer to quota_ask.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QuotaAskResponse {
    /// What the asking server's objects may take in all, in the order asked.
    #[prost(message, repeated, tag = "1")]
    pub allowed: Vec<QuotaAmount>,
}
