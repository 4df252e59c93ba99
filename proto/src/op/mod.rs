//! The operations: their numbers, names, and messages.
//!
//! One operation, one name: the variant of [`Op`], the file on client and server, the tracing span
//! and the metric are called the same. `docs/ADDING_AN_OP.md` lists the places a new one touches.
//! A request's head is a [`RequestHead`], a response's a [`ResponseHead`]; bulk bytes travel as the
//! frame's body and pass no codec.
mod file;
mod fsck;
mod io;
mod lock;
mod meta;
mod peer;
mod quota;
mod session;

pub use file::*;
pub use fsck::*;
pub use io::*;
pub use lock::*;
pub use meta::*;
pub use peer::*;
pub use quota::*;
pub use session::*;

use crate::error::{ErrorCode, PvfsError};

/// How a repeat of a request is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Reads: doing it again is harmless. Travels without a slot.
    Harmless,
    /// The reply is kept in memory per slot: recognised until the server restarts, after which
    /// doing it again gives the same result.
    Remembered,
    /// The reply is kept with the transaction: recognised after a restart too.
    Durable,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $num:literal $tag:tt $name:ident $snake:literal $req:ident $resp:ident $repeat:ident;)*) => {
        /// Operations by their number on the wire. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Op { $($(#[$doc])* $name = $num),* }
        impl Op {
            /// Every operation.
            pub const ALL: &'static [Op] = &[$(Op::$name),*];
            /// The operation for a number off the wire.
            pub fn from_wire(raw: u16) -> Option<Op> {
                match raw { $($num => Some(Op::$name),)* _ => None }
            }
            /// The name shared by file, function, span and metric.
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $snake),* }
            }
            /// How a repeat is recognised.
            pub fn repeat(self) -> Repeat {
                match self { $(Op::$name => Repeat::$repeat),* }
            }
        }
        /// The operation's part of a request.
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub enum OpRequest { $($(#[$doc])* #[prost(message, tag = $tag)] $name($req)),* }
        impl OpRequest {
            /// Which operation this is.
            pub fn op(&self) -> Op {
                match self { $(OpRequest::$name(_) => Op::$name),* }
            }
        }
        /// The operation's part of a response.
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub enum OpResponse { $($(#[$doc])* #[prost(message, tag = $tag)] $name($resp)),* }
        impl OpResponse {
            /// Which operation this answers.
            pub fn op(&self) -> Op {
                match self { $(OpResponse::$name(_) => Op::$name),* }
            }
        }
        $(impl_req!($name $req $resp);)*
    };
}

/// A request message and the response that belongs to it.
pub trait OpMessage: Sized {
    /// The response message.
    type Response;
    /// The operation.
    const OP: Op;
    /// As the operation's part of a request.
    fn into_request(self) -> OpRequest;
    /// The response out of the operation's part of a response.
    ///
    /// # Errors
    /// `Protocol` when the server answered another operation.
    fn take_response(response: Option<OpResponse>) -> Result<Self::Response, PvfsError>;
    /// A response as the operation's part of a response.
    fn wrap_response(response: Self::Response) -> OpResponse;
}

macro_rules! impl_req {
    ($name:ident $req:ident $resp:ident) => {
        impl OpMessage for $req {
            type Response = $resp;
            const OP: Op = Op::$name;
            fn into_request(self) -> OpRequest {
                OpRequest::$name(self)
            }
            fn take_response(response: Option<OpResponse>) -> Result<$resp, PvfsError> {
                match response {
                    Some(OpResponse::$name(r)) => Ok(r),
                    _ => Err(PvfsError::new(
                        ErrorCode::Protocol,
                        concat!("the server answered something else than ", stringify!($name)),
                    )),
                }
            }
            fn wrap_response(response: $resp) -> OpResponse {
                OpResponse::$name(response)
            }
        }
    };
}

ops! {
    /// First exchange on a connection.
    1 "101" Hello "hello" HelloRequest HelloResponse Harmless;
    /// Renews a session's lease.
    2 "102" Renew "renew" RenewRequest RenewResponse Harmless;
    /// Says again, after a server's restart, what the session has open.
    3 "103" Reclaim "reclaim" ReclaimRequest ReclaimResponse Harmless;
    /// Ends a session.
    4 "104" Goodbye "goodbye" GoodbyeRequest GoodbyeResponse Harmless;
    /// The cluster map.
    5 "105" GetConfig "get_config" GetConfigRequest GetConfigResponse Harmless;
    /// Is anybody there?
    6 "106" Ping "ping" PingRequest PingResponse Harmless;
    /// Names to handles, one or a whole path.
    10 "110" Lookup "lookup" LookupRequest LookupResponse Harmless;
    /// Attributes.
    11 "111" Getattr "getattr" GetattrRequest GetattrResponse Harmless;
    /// Changes attributes, also the size.
    12 "112" Setattr "setattr" SetattrRequest SetattrResponse Durable;
    /// Makes (and opens) a regular file.
    13 "113" Create "create" CreateRequest CreateResponse Durable;
    /// Makes a directory.
    14 "114" Mkdir "mkdir" MkdirRequest MkdirResponse Durable;
    /// Makes a special file (or a regular one without opening it).
    15 "115" Mknod "mknod" MknodRequest MknodResponse Durable;
    /// Makes a symlink.
    16 "116" Symlink "symlink" SymlinkRequest SymlinkResponse Durable;
    /// Reads a symlink.
    17 "117" Readlink "readlink" ReadlinkRequest ReadlinkResponse Harmless;
    /// Makes another name for an object.
    18 "118" Link "link" LinkRequest LinkResponse Durable;
    /// Removes a name.
    19 "119" Unlink "unlink" UnlinkRequest UnlinkResponse Durable;
    /// Removes an empty directory.
    20 "120" Rmdir "rmdir" RmdirRequest RmdirResponse Durable;
    /// Renames.
    21 "121" Rename "rename" RenameRequest RenameResponse Durable;
    /// Lists a directory, with attributes if asked.
    22 "122" Readdir "readdir" ReaddirRequest ReaddirResponse Harmless;
    /// Opens a file.
    23 "123" Open "open" OpenRequest OpenResponse Remembered;
    /// Closes files.
    24 "124" Release "release" ReleaseRequest ReleaseResponse Remembered;
    /// Reads bytes of a stuffed file; they come as the body.
    25 "125" ReadSmall "read_small" ReadSmallRequest ReadSmallResponse Harmless;
    /// Writes bytes of a stuffed file; they come as the body.
    26 "126" WriteSmall "write_small" WriteSmallRequest WriteSmallResponse Durable;
    /// Appends the body at the end of the file, wherever that is.
    27 "127" Append "append" AppendRequest AppendResponse Durable;
    /// Moves a stuffed file's bytes to datafiles.
    28 "128" Unstuff "unstuff" UnstuffRequest UnstuffResponse Durable;
    /// Preallocates, punches holes, zeroes ranges.
    29 "129" Fallocate "fallocate" FallocateRequest FallocateResponse Durable;
    /// Makes an object's metadata durable against loss of power.
    30 "130" Fsync "fsync" FsyncRequest FsyncResponse Harmless;
    /// A metadata server's share of statfs.
    31 "131" Statfs "statfs" StatfsRequest StatfsResponse Harmless;
    /// One extended attribute.
    32 "132" Getxattr "getxattr" GetxattrRequest GetxattrResponse Harmless;
    /// Sets an extended attribute.
    33 "133" Setxattr "setxattr" SetxattrRequest SetxattrResponse Durable;
    /// Names of the extended attributes.
    34 "134" Listxattr "listxattr" ListxattrRequest ListxattrResponse Harmless;
    /// Removes an extended attribute.
    35 "135" Removexattr "removexattr" RemovexattrRequest RemovexattrResponse Durable;
    /// A writer tells size and mtime without closing.
    36 "136" Report "report" ReportRequest ReportResponse Remembered;
    /// Locks or unlocks a range of bytes, asks after a queued lock, or takes it back.
    37 "137" Lock "lock" LockRequest LockResponse Remembered;
    /// Which lock would stand in the way.
    38 "138" Getlk "getlk" GetlkRequest GetlkResponse Harmless;
    /// Sets limits of a user, a group or a directory tree.
    40 "140" QuotaSet "quota_set" QuotaSetRequest QuotaSetResponse Remembered;
    /// Usage and limits.
    41 "141" QuotaGet "quota_get" QuotaGetRequest QuotaGetResponse Harmless;
    /// Room for a writer of a file under a quota.
    42 "142" QuotaReserve "quota_reserve" QuotaReserveRequest QuotaReserveResponse Harmless;
    /// Puts an object into a directory tree that has a quota.
    43 "143" QuotaMark "quota_mark" QuotaMarkRequest QuotaMarkResponse Durable;
    /// Copies bytes from one stuffed file into another.
    44 "144" CopySmall "copy_small" CopySmallRequest CopySmallResponse Durable;
    /// Attributes of many objects.
    45 "145" Listattr "listattr" ListattrRequest ListattrResponse Harmless;
    /// (fsck) a metadata server's records, page by page.
    48 "148" FsckScan "fsck_scan" FsckScanRequest FsckScanResponse Harmless;
    /// Reads a datafile; the bytes come as the body.
    50 "150" IoRead "io_read" IoReadRequest IoReadResponse Harmless;
    /// Writes a datafile; the bytes come as the body.
    51 "151" IoWrite "io_write" IoWriteRequest IoWriteResponse Remembered;
    /// Sizes and times of datafiles.
    52 "152" DfStat "df_stat" DfStatRequest DfStatResponse Harmless;
    /// Truncates a datafile.
    53 "153" DfTruncate "df_truncate" DfTruncateRequest DfTruncateResponse Remembered;
    /// Preallocates or punches a datafile.
    54 "154" DfFallocate "df_fallocate" DfFallocateRequest DfFallocateResponse Remembered;
    /// Data and holes of a datafile.
    55 "155" DfMap "df_map" DfMapRequest DfMapResponse Harmless;
    /// Makes datafiles durable against loss of power.
    56 "156" DfSync "df_sync" DfSyncRequest DfSyncResponse Harmless;
    /// Removes datafiles.
    57 "157" DfRemove "df_remove" DfRemoveRequest DfRemoveResponse Harmless;
    /// Lists datafiles.
    58 "158" DfList "df_list" DfListRequest DfListResponse Harmless;
    /// An I/O server's share of statfs.
    59 "159" IoStatfs "io_statfs" IoStatfsRequest IoStatfsResponse Harmless;
    /// Copies extents from other datafiles of the same server into a datafile.
    60 "160" DfCopy "df_copy" DfCopyRequest DfCopyResponse Remembered;
    /// (Between metadata servers) makes a directory object for a dirent elsewhere.
    70 "170" Crdir "crdir" CrdirRequest CrdirResponse Harmless;
    /// (Between metadata servers) changes an object's link count, once per intent.
    71 "171" LinkCount "link_count" LinkCountRequest LinkCountResponse Harmless;
    /// (Between metadata servers) marks an empty directory as dying, or takes that back, or ends it.
    72 "172" RmdirPeer "rmdir_peer" RmdirPeerRequest RmdirPeerResponse Harmless;
    /// (Between metadata servers) the source's half of a rename.
    73 "173" RenamePeer "rename_peer" RenamePeerRequest RenamePeerResponse Harmless;
    /// (Between metadata servers) how an intent ended.
    74 "174" IntentStatus "intent_status" IntentStatusRequest IntentStatusResponse Harmless;
    /// (Between metadata servers) tells limits, calls room back, asks for usage.
    78 "178" QuotaTell "quota_tell" QuotaTellRequest QuotaTellResponse Harmless;
    /// (Between metadata servers) asks for room.
    79 "179" QuotaAsk "quota_ask" QuotaAskRequest QuotaAskResponse Harmless;
    /// (Between metadata servers) gives names of a directory that splits to one of its parts.
    75 "175" SplitDirent "split_dirent" SplitDirentRequest SplitDirentResponse Harmless;
    /// (Between metadata servers) tells a directory's part what checks need of the attributes.
    76 "176" PartAttr "part_attr" PartAttrRequest PartAttrResponse Harmless;
    /// (Between metadata servers) takes or gives back the lock under which directories change parents.
    80 "180" TreeLock "tree_lock" TreeLockRequest TreeLockResponse Harmless;
    /// Gives back the right to hold back what is written.
    85 "185" GiveBack "give_back" GiveBackRequest GiveBackResponse Harmless;
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Cred {
    /// User.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
    /// Supplementary groups, where known.
    #[prost(uint32, repeated, tag = "3")]
    pub groups: Vec<u32>,
    /// Whether `groups` is the whole truth. When not, a refusal for want of a group makes the client
    /// look them up and ask again.
    #[prost(bool, tag = "4")]
    pub groups_known: bool,
}

impl Cred {
    /// Root's credentials.
    pub fn root() -> Cred {
        Cred { uid: 0, gid: 0, groups: Vec::new(), groups_known: true }
    }
    /// Whether these are root's.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// Whether the caller is in `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// Head of every request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestHead {
    /// The session, as given in the hello's response.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Slot number plus 1; 0: no slot ([`Repeat::Harmless`]).
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// Sequence number within the slot, from 1.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// The operation id that crosses from FUSE to server in traces.
    #[prost(uint64, tag = "4")]
    pub op_id: u64,
    /// Who asks.
    #[prost(message, optional, tag = "5")]
    pub cred: Option<Cred>,
    /// What is asked.
    #[prost(
        oneof = "OpRequest",
        tags = "101,102,103,104,105,106,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127,128,129,130,131,132,133,134,135,136,137,138,140,141,142,143,144,145,148,150,151,152,153,154,155,156,157,158,159,160,170,171,172,173,174,175,176,178,179,180,185"
    )]
    pub op: Option<OpRequest>,
}

/// Head of every response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResponseHead {
    /// 0, or an [`ErrorCode`].
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// The error's sentence.
    #[prost(string, tag = "2")]
    pub detail: String,
    /// The operation's part; may accompany an error where the operation says so.
    #[prost(
        oneof = "OpResponse",
        tags = "101,102,103,104,105,106,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127,128,129,130,131,132,133,134,135,136,137,138,140,141,142,143,144,145,148,150,151,152,153,154,155,156,157,158,159,160,170,171,172,173,174,175,176,178,179,180,185"
    )]
    pub op: Option<OpResponse>,
}

impl ResponseHead {
    /// A good answer.
    pub fn ok(op: OpResponse) -> ResponseHead {
        ResponseHead { status: 0, detail: String::new(), op: Some(op) }
    }
    /// An error.
    pub fn error(e: PvfsError) -> ResponseHead {
        ResponseHead { status: e.code as u32, detail: e.detail.into_owned(), op: None }
    }
    /// The error, if it is one.
    pub fn as_error(&self) -> Option<PvfsError> {
        (self.status != 0)
            .then(|| PvfsError::new(ErrorCode::from_wire(self.status), self.detail.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn every_op_has_its_own_number_and_name() {
        let mut names = std::collections::HashSet::new();
        for &op in Op::ALL {
            assert_eq!(Op::from_wire(op as u16), Some(op));
            assert!(names.insert(op.name()));
        }
    }

    #[test]
    fn golden_lookup_request() {
        let head = RequestHead {
            session: 5,
            slot: 0,
            seq: 0,
            op_id: 9,
            cred: Some(Cred::root()),
            op: Some(OpRequest::Lookup(LookupRequest {
                dir: 1,
                path: vec![b"a".as_slice().into()],
                ..Default::default()
            })),
        };
        let bytes = head.encode_to_vec();
        assert_eq!(bytes, [8, 5, 32, 9, 42, 2, 32, 1, 242, 6, 5, 8, 1, 18, 1, 97]);
        assert_eq!(RequestHead::decode(bytes.as_slice()).unwrap(), head);
    }

    #[test]
    fn golden_lock_request() {
        let lock = LockRequest {
            handle: 9,
            owner: 7,
            first: 0,
            last: 127,
            kind: lock_kind::WRITE,
            pid: 3,
            wait: true,
            id: 5,
            seen: 1,
            cancel: false,
        };
        let head = RequestHead {
            session: 5,
            slot: 1,
            seq: 2,
            op: Some(OpRequest::Lock(lock)),
            ..RequestHead::default()
        };
        let bytes = head.encode_to_vec();
        let inside = [8, 9, 16, 7, 32, 127, 40, 2, 48, 3, 56, 1, 64, 5, 72, 1];
        assert_eq!(bytes, [&[8, 5, 16, 1, 24, 2, 202, 8, 16][..], &inside].concat());
        assert_eq!(RequestHead::decode(bytes.as_slice()).unwrap(), head);
    }
}
