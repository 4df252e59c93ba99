//! Messages of sessions: hello, renew, reclaim, goodbye, get_config, ping, and notices.
use super::LockState;
use crate::cluster::ClusterMap;
use bytes::Bytes;

/// First request on a connection. With security on, sent twice: first without `proof`, answered by
/// `challenge`; then with `proof` = HMAC-SHA-256(key, "pvfs2 client" | fs_id | nonce | challenge).
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloRequest {
    /// Oldest version the client speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest version the client speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// The file system wanted; 0 and an empty name: any (tools, first contact).
    #[prost(uint64, tag = "3")]
    pub fs_id: u64,
    /// The file system's name, where the id is not known yet.
    #[prost(string, tag = "4")]
    pub fs_name: String,
    /// The client, drawn at its start; one client has one session with a server.
    #[prost(uint64, tag = "5")]
    pub client_id: u64,
    /// The session to go on with; 0: a new one (or the client's running one).
    #[prost(uint64, tag = "6")]
    pub session: u64,
    /// For messages and tools: host name, pid, mount point.
    #[prost(string, tag = "7")]
    pub client_name: String,
    /// The client's random bytes.
    #[prost(bytes = "bytes", tag = "8")]
    pub nonce: Bytes,
    /// Proof of the cluster's key.
    #[prost(bytes = "bytes", tag = "9")]
    pub proof: Bytes,
    /// The peer is a server of the same cluster; its id plus 1.
    #[prost(uint32, tag = "10")]
    pub peer_server: u32,
    /// No session wanted: a tool that only reads configuration or pings.
    #[prost(bool, tag = "11")]
    pub no_session: bool,
    /// The server's id that the client believes to be talking to, plus 1 (0: does not know).
    #[prost(uint32, tag = "12")]
    pub expect_server: u32,
    /// Nobody listens for notices on this connection (blocking carriers, bulk): send them elsewhere.
    #[prost(bool, tag = "13")]
    pub no_notices: bool,
    /// Not 0: a memfd of so many bytes comes with this message (SCM_RIGHTS, unix sockets only). What is
    /// to be written may then stand in it instead of in the frames of this connection. It is sealed
    /// against shrinking and growing.
    #[prost(uint64, tag = "14")]
    pub region_bytes: u64,
}

/// Answer to hello.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloResponse {
    /// The version both speak.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The file system's id.
    #[prost(uint64, tag = "2")]
    pub fs_id: u64,
    /// This server's [`crate::cluster::ServerId`].
    #[prost(uint32, tag = "3")]
    pub server: u32,
    /// Drawn at each start of the server: a change means it restarted.
    #[prost(uint64, tag = "4")]
    pub boot_id: u64,
    /// The session.
    #[prost(uint64, tag = "5")]
    pub session: u64,
    /// The session is new: opens and locks of an older one are gone unless reclaimed.
    #[prost(bool, tag = "6")]
    pub session_is_new: bool,
    /// Lease of the session.
    #[prost(uint32, tag = "7")]
    pub lease_ms: u32,
    /// Slots of the session.
    #[prost(uint32, tag = "8")]
    pub slots: u32,
    /// The server waits for reclaims.
    #[prost(bool, tag = "9")]
    pub in_grace: bool,
    /// Not empty: prove the key with these random bytes.
    #[prost(bytes = "bytes", tag = "10")]
    pub challenge: Bytes,
    /// The server's own proof: HMAC-SHA-256(key, "pvfs2 server" | fs_id | challenge | nonce).
    #[prost(bytes = "bytes", tag = "11")]
    pub proof: Bytes,
    /// The server has mapped the region that came with the hello.
    #[prost(bool, tag = "12")]
    pub takes_region: bool,
}

/// Renews the lease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenewRequest {}
/// Answer to renew.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenewResponse {
    /// The lease from now.
    #[prost(uint32, tag = "1")]
    pub lease_ms: u32,
}

/// One file that a session has open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenState {
    /// The metafile.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Opens for reading only.
    #[prost(uint32, tag = "2")]
    pub readers: u32,
    /// Opens for writing.
    #[prost(uint32, tag = "3")]
    pub writers: u32,
}
/// What the session has open, after the server's restart.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReclaimRequest {
    /// Open files of this server.
    #[prost(message, repeated, tag = "1")]
    pub opens: Vec<OpenState>,
    /// This was the last reclaim: the server need not wait for more.
    #[prost(bool, tag = "2")]
    pub done: bool,
    /// Locks on files of this server.
    #[prost(message, repeated, tag = "10")]
    pub locks: Vec<LockState>,
}
/// Answer to reclaim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReclaimResponse {
    /// Handles that are gone for good.
    #[prost(uint64, repeated, tag = "1")]
    pub lost: Vec<u64>,
    /// Locks that are gone for good: others may have had them meanwhile.
    #[prost(message, repeated, tag = "10")]
    pub lost_locks: Vec<LockState>,
}

/// Ends the session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoodbyeRequest {}
/// Answer to goodbye.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GoodbyeResponse {}

/// Asks for the cluster map.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetConfigRequest {}
/// The cluster map.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetConfigResponse {
    /// The map.
    #[prost(message, optional, tag = "1")]
    pub map: Option<ClusterMap>,
}

/// Is anybody there?
#[derive(Clone, PartialEq, prost::Message)]
pub struct PingRequest {}
/// Who answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PingResponse {
    /// Its alias.
    #[prost(string, tag = "1")]
    pub alias: String,
    /// Roles: "meta", "io" or "meta,io".
    #[prost(string, tag = "2")]
    pub roles: String,
    /// Program version.
    #[prost(string, tag = "3")]
    pub version: String,
    /// Seconds since its start.
    #[prost(uint64, tag = "4")]
    pub uptime_s: u64,
    /// Sessions that it holds.
    #[prost(uint32, tag = "5")]
    pub sessions: u32,
}

/// The right to know every name of a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameRight {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The right's number.
    #[prost(uint64, tag = "2")]
    pub right: u64,
}

/// What a server tells a client unasked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Notice {
    /// Forget what is cached of these handles.
    #[prost(uint64, repeated, tag = "1")]
    pub invalidate: Vec<u64>,
    /// The server is about to stop cleanly.
    #[prost(bool, tag = "2")]
    pub draining: bool,
    /// Give back the right to hold back what is written of these files, after writing it out.
    #[prost(uint64, repeated, tag = "3")]
    pub recall: Vec<u64>,
    /// Give back these rights to know directories' names.
    #[prost(message, repeated, tag = "21")]
    pub recall_names: Vec<NameRight>,
    /// Lock requests of this client (by their ids) that wait no longer: ask again.
    #[prost(uint64, repeated, tag = "10")]
    pub lock_ids: Vec<u64>,
    /// The rights that `recall` is about, by number, in its order.
    #[prost(uint64, repeated, tag = "20")]
    pub recall_rights: Vec<u64>,
}
