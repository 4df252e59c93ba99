//! Messages between metadata servers: steps of operations that span two of them. Every step names
//! its intent (drawn by the coordinating server, unique for ever) and does nothing when repeated.
use super::meta::Dirent;
use crate::attr::Attr;
use bytes::Bytes;

/// Makes the object of a directory whose dirent the coordinator will write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CrdirRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
    /// Attributes of the new directory (its handle is chosen by the receiver).
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
    /// The parent directory.
    #[prost(uint64, tag = "3")]
    pub parent: u64,
    /// Extended attributes that it inherits, name and value in turn.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub xattrs: Vec<Bytes>,
    /// Take it back (the dirent could not be written).
    #[prost(bool, tag = "5")]
    pub undo: bool,
}
/// Answer to crdir.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CrdirResponse {
    /// The new directory's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Changes the link count of an object that is no directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkCountRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
    /// The object.
    #[prost(uint64, tag = "2")]
    pub handle: u64,
    /// +1, -1, or 0 (only the ctime: rename).
    #[prost(sint32, tag = "3")]
    pub delta: i32,
    /// Take the change back, if it was made; if not, it never will be.
    #[prost(bool, tag = "4")]
    pub undo: bool,
}
/// Answer to link_count.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkCountResponse {
    /// The object's attributes afterwards; none when its last name went.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Steps of removing (or re-parenting) a directory object for a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RmdirStep {
    /// If it is empty, mark it dying: nothing can be made in it any more.
    Prepare = 0,
    /// Take the mark back.
    Undo = 1,
    /// Remove the object.
    Finish = 2,
    /// Set its parent (rename of a directory).
    SetParent = 3,
}
/// A step of removing a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RmdirPeerRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
    /// The directory.
    #[prost(uint64, tag = "2")]
    pub handle: u64,
    /// The step.
    #[prost(enumeration = "RmdirStep", tag = "3")]
    pub step: i32,
    /// The new parent (`SetParent`).
    #[prost(uint64, tag = "4")]
    pub parent: u64,
}
/// Answer to rmdir_peer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RmdirPeerResponse {
    /// The directory's attributes, where it still exists.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// Its parent.
    #[prost(uint64, tag = "2")]
    pub parent: u64,
}

/// Steps of the source's half of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RenameStep {
    /// Check, find and hold the old name: readers of it wait until the end.
    Prepare = 0,
    /// Remove the old name (or point it at the exchanged object), let readers go on.
    Commit = 1,
    /// Let readers go on with the old name.
    Abort = 2,
}
/// A step of the source's half of a rename.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenamePeerRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
    /// The step.
    #[prost(enumeration = "RenameStep", tag = "2")]
    pub step: i32,
    /// Directory of the old name.
    #[prost(uint64, tag = "3")]
    pub dir: u64,
    /// The old name.
    #[prost(bytes = "bytes", tag = "4")]
    pub name: Bytes,
    /// For an exchange: what the old name shall point at.
    #[prost(uint64, tag = "5")]
    pub exchange_handle: u64,
    /// For an exchange: its type bits.
    #[prost(uint32, tag = "6")]
    pub exchange_kind: u32,
}
/// Answer to rename_peer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenamePeerResponse {
    /// The object that the old name points at.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its type bits.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Attributes of the directory of the old name.
    #[prost(message, optional, tag = "3")]
    pub dir_attr: Option<Attr>,
}

/// Asks a coordinator how an intent ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IntentStatusRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
}
/// Answer to intent_status.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IntentStatusResponse {
    /// It took effect (false: it never will).
    #[prost(bool, tag = "1")]
    pub committed: bool,
    /// It is still under way: ask again.
    #[prost(bool, tag = "2")]
    pub pending: bool,
}

/// Steps of the lock under which directories change parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TreeLockStep {
    /// Take it, or be refused at once.
    Try = 0,
    /// Take it, waiting a moment.
    Take = 1,
    /// Give it back; if it was not taken, it never will be.
    Release = 2,
}
/// Takes or gives back the file system's tree lock (first metadata server).
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeLockRequest {
    /// The intent.
    #[prost(uint64, tag = "1")]
    pub intent: u64,
    /// The step.
    #[prost(enumeration = "TreeLockStep", tag = "2")]
    pub step: i32,
}
/// Answer to tree_lock.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeLockResponse {}

/// Gives a part all names of its directory from `low` to `high` (hashes), in place of what it was
/// given from `low` on before: nobody has seen that yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SplitDirentRequest {
    /// The part.
    #[prost(uint64, tag = "1")]
    pub part: u64,
    /// Grows with every move of the home; a move that is no news does nothing.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// First hash.
    #[prost(uint64, tag = "3")]
    pub low: u64,
    /// The hash after the last.
    #[prost(uint64, tag = "4")]
    pub high: u64,
    /// Names, handles and kinds.
    #[prost(message, repeated, tag = "5")]
    pub entries: Vec<Dirent>,
}
/// Answer to split_dirent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SplitDirentResponse {}

/// Tells a part what checks need: mode, owner, group, ACL, and the attributes that are handed down.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartAttrRequest {
    /// The part.
    #[prost(uint64, tag = "1")]
    pub part: u64,
    /// The home's attributes; its `change` tells older ones from newer.
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
    /// Extended attributes that are handed down, name and value in turn.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub xattrs: Vec<Bytes>,
}
/// Answer to part_attr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartAttrResponse {}
