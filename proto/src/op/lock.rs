//! Messages of byte-range locks: lock (also unlock, poll and cancel), getlk, and what a reclaim says.

/// Kinds of a lock as they cross the wire.
pub mod lock_kind {
    /// Unlock.
    pub const UNLOCK: u32 = 0;
    /// Shared with other read locks.
    pub const READ: u32 = 1;
    /// Excludes every other lock.
    pub const WRITE: u32 = 2;
}

/// What became of a lock request.
pub mod lock_state {
    /// It holds (or, for an unlock, nothing is locked any more).
    pub const DONE: u32 = 0;
    /// It waits: a notice tells when it is worth asking again with the same id.
    pub const QUEUED: u32 = 1;
    /// It was cancelled before it was granted.
    pub const CANCELLED: u32 = 2;
}

/// Locks or unlocks a range of bytes of a file. Sent again with the same `id` it asks what has become
/// of a request that was queued; with `cancel` it takes that back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The owner within the session (the kernel's lock owner).
    #[prost(uint64, tag = "2")]
    pub owner: u64,
    /// First byte.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Last byte, inside.
    #[prost(uint64, tag = "4")]
    pub last: u64,
    /// A [`lock_kind`].
    #[prost(uint32, tag = "5")]
    pub kind: u32,
    /// The process that asks, for F_GETLK of others.
    #[prost(uint32, tag = "6")]
    pub pid: u32,
    /// Queue the request if it conflicts, instead of refusing it.
    #[prost(bool, tag = "7")]
    pub wait: bool,
    /// The request among all lock requests of the client; from 1, never used again.
    #[prost(uint64, tag = "8")]
    pub id: u64,
    /// [`LockResponse::stamp`] of the last lock on this file that the client has taken in, its caches
    /// included; 0: none.
    #[prost(uint64, tag = "9")]
    pub seen: u64,
    /// Take the request `id` back: it is never granted after the answer.
    #[prost(bool, tag = "10")]
    pub cancel: bool,
}
/// Answer to lock. A conflict without `wait` is the error `Locked`, a deadlock `Deadlock`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockResponse {
    /// A [`lock_state`].
    #[prost(uint32, tag = "1")]
    pub state: u32,
    /// Changes of one file's locks have growing stamps: they tell a client the order of its own.
    #[prost(uint64, tag = "2")]
    pub stamp: u64,
    /// Nobody else has held a write lock on the file since `seen`: what is cached of it may stay.
    #[prost(bool, tag = "3")]
    pub fresh: bool,
}

/// Asks which lock would stand in the way of another (F_GETLK).
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetlkRequest {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The owner that would lock.
    #[prost(uint64, tag = "2")]
    pub owner: u64,
    /// First byte.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Last byte, inside.
    #[prost(uint64, tag = "4")]
    pub last: u64,
    /// READ or WRITE of [`lock_kind`].
    #[prost(uint32, tag = "5")]
    pub kind: u32,
}
/// Answer to getlk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetlkResponse {
    /// The first lock in the way; none: it could be had.
    #[prost(message, optional, tag = "1")]
    pub conflict: Option<LockState>,
}

/// A lock that is held.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LockState {
    /// The file.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The owner within the session.
    #[prost(uint64, tag = "2")]
    pub owner: u64,
    /// First byte.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Last byte, inside.
    #[prost(uint64, tag = "4")]
    pub last: u64,
    /// For writing.
    #[prost(bool, tag = "5")]
    pub write: bool,
    /// The process that asked for it.
    #[prost(uint32, tag = "6")]
    pub pid: u32,
}
