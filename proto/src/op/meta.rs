//! Messages of the metadata operations.
use crate::attr::{Attr, SetAttr};
use crate::dirmap::DirMap;
use bytes::Bytes;

/// Names to handles: the components of a path below `dir`, one for a plain lookup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupRequest {
    /// Directory to begin in.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// Components, in order, neither empty nor "." nor "..".
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub path: Vec<Bytes>,
    /// Bring the bytes of a small file along.
    #[prost(bool, tag = "3")]
    pub want_bytes: bool,
    /// The right to know every name of `dir` is wanted, should it be empty.
    #[prost(bool, tag = "20")]
    pub want_right: bool,
}
/// One entry of a lookup's chain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupStep {
    /// The object; 0: this component does not exist.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its attributes, unless another server holds them.
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
}
/// As far as this server could walk: it stops after a component that does not exist (last step has
/// handle 0), that is no directory, or whose object another server holds (last step has no attr).
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookupResponse {
    /// The chain.
    #[prost(message, repeated, tag = "1")]
    pub steps: Vec<LookupStep>,
    /// Bytes of the last object, a small file, if they were asked for.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub bytes: Option<Bytes>,
    /// The directory is empty, and no other session adds a name to it before this right is recalled;
    /// 0: not so.
    #[prost(uint64, tag = "20")]
    pub right: u64,
}

/// Attributes of an object.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
}
/// Answer to getattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetattrResponse {
    /// The attributes; see `attr.rs` for a dynamic size.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Attributes of many objects of one server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListattrRequest {
    /// The objects, at most `READDIR_MAX`.
    #[prost(uint64, repeated, tag = "1")]
    pub handles: Vec<u64>,
}
/// Answer to listattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListattrResponse {
    /// Attributes in the order asked for; handle 0: gone, or too long to travel with others.
    #[prost(message, repeated, tag = "1")]
    pub attrs: Vec<Attr>,
}

/// Changes attributes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// What to change.
    #[prost(message, optional, tag = "2")]
    pub set: Option<SetAttr>,
}
/// Answer to setattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetattrResponse {
    /// The attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}

/// Makes a regular file and opens it. With `exclusive` an existing name is `Exists`; without, an
/// existing regular file is opened as `open` does (with `truncate` applied).
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateRequest {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Permission bits, before the umask.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// O_EXCL.
    #[prost(bool, tag = "4")]
    pub exclusive: bool,
    /// O_TRUNC, for an existing file.
    #[prost(bool, tag = "5")]
    pub truncate: bool,
    /// Opened for reading.
    #[prost(bool, tag = "6")]
    pub read: bool,
    /// Opened for writing.
    #[prost(bool, tag = "7")]
    pub write: bool,
    /// Do not leave it open (native tools that only make a file).
    #[prost(bool, tag = "8")]
    pub no_open: bool,
    /// Bits that the mode loses, unless the directory has a default ACL.
    #[prost(uint32, tag = "9")]
    pub umask: u32,
    /// As in open.
    #[prost(bool, tag = "20")]
    pub want_right: bool,
}
/// Answer to create.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateResponse {
    /// The file's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// Whether it was made (false: it was there).
    #[prost(bool, tag = "2")]
    pub created: bool,
    /// The directory's attributes afterwards.
    #[prost(message, optional, tag = "3")]
    pub dir_attr: Option<Attr>,
    /// As in open; never in a reply that is kept over a restart.
    #[prost(uint64, tag = "20")]
    pub right: u64,
}

/// Makes a directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MkdirRequest {
    /// The parent directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Permission bits, before the umask.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Bits that the mode loses, unless the directory has a default ACL.
    #[prost(uint32, tag = "4")]
    pub umask: u32,
}
/// Answer to mkdir.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MkdirResponse {
    /// The new directory's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "2")]
    pub dir_attr: Option<Attr>,
}

/// Makes a special file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MknodRequest {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Type and permission bits, before the umask.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Device number.
    #[prost(uint32, tag = "4")]
    pub rdev: u32,
    /// Bits that the mode loses, unless the directory has a default ACL.
    #[prost(uint32, tag = "5")]
    pub umask: u32,
}
/// Answer to mknod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MknodResponse {
    /// The new object's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "2")]
    pub dir_attr: Option<Attr>,
}

/// Makes a symlink.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SymlinkRequest {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// What it points to.
    #[prost(bytes = "bytes", tag = "3")]
    pub target: Bytes,
}
/// Answer to symlink.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SymlinkResponse {
    /// The symlink's attributes.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "2")]
    pub dir_attr: Option<Attr>,
}

/// Reads a symlink.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadlinkRequest {
    /// The symlink.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
}
/// Answer to readlink.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadlinkResponse {
    /// What it points to.
    #[prost(bytes = "bytes", tag = "1")]
    pub target: Bytes,
}

/// Makes another name for an object that is no directory. Sent to the server of `dir`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Directory of the new name.
    #[prost(uint64, tag = "2")]
    pub dir: u64,
    /// The new name.
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
}
/// Answer to link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinkResponse {
    /// The object's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "2")]
    pub dir_attr: Option<Attr>,
}

/// Removes the name of an object that is no directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnlinkRequest {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}
/// Answer to unlink.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnlinkResponse {
    /// The object that lost a name.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its attributes afterwards, where this server holds them.
    #[prost(message, optional, tag = "2")]
    pub attr: Option<Attr>,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "3")]
    pub dir_attr: Option<Attr>,
}

/// Removes an empty directory.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RmdirRequest {
    /// The parent directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}
/// Answer to rmdir.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RmdirResponse {
    /// The directory that is gone.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The attributes of `dir` afterwards.
    #[prost(message, optional, tag = "2")]
    pub dir_attr: Option<Attr>,
}

/// Renames. Sent to the server of `new_dir`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenameRequest {
    /// Directory of the old name.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// The old name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Directory of the new name.
    #[prost(uint64, tag = "3")]
    pub new_dir: u64,
    /// The new name.
    #[prost(bytes = "bytes", tag = "4")]
    pub new_name: Bytes,
    /// RENAME_NOREPLACE.
    #[prost(bool, tag = "5")]
    pub no_replace: bool,
    /// RENAME_EXCHANGE.
    #[prost(bool, tag = "6")]
    pub exchange: bool,
}
/// Answer to rename.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenameResponse {
    /// The object that moved.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// The object that was replaced (or exchanged); 0: none; `handle`: both names are its, and stay.
    #[prost(uint64, tag = "2")]
    pub other: u64,
    /// The attributes of `dir` afterwards, where this server holds them and `new_dir` is another.
    #[prost(message, optional, tag = "3")]
    pub dir_attr: Option<Attr>,
    /// The attributes of `new_dir` afterwards.
    #[prost(message, optional, tag = "4")]
    pub new_dir_attr: Option<Attr>,
}

/// Lists a directory from a cursor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReaddirRequest {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub dir: u64,
    /// Entries after this cursor; 0: from the beginning. Cursors stay right while names come and go.
    #[prost(uint64, tag = "2")]
    pub cursor: u64,
    /// At most this many.
    #[prost(uint32, tag = "3")]
    pub max: u32,
    /// With attributes, where this server holds them.
    #[prost(bool, tag = "4")]
    pub plus: bool,
    /// Files of which another session holds back bytes come without attributes; otherwise it is asked
    /// for them first.
    #[prost(bool, tag = "5")]
    pub no_recall: bool,
}
/// One directory entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dirent {
    /// The name.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// The object.
    #[prost(uint64, tag = "2")]
    pub handle: u64,
    /// Its type bits as in `st_mode`.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// Cursor of this entry: ask with it for what follows. From 1; never 0.
    #[prost(uint64, tag = "4")]
    pub cursor: u64,
    /// Its attributes, if asked for and held here.
    #[prost(message, optional, tag = "5")]
    pub attr: Option<Attr>,
}
/// Answer to readdir.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReaddirResponse {
    /// Entries in cursor order, without "." and "..".
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Dirent>,
    /// Nothing follows here.
    #[prost(bool, tag = "2")]
    pub end: bool,
    /// The directory's parent, for "..".
    #[prost(uint64, tag = "3")]
    pub parent: u64,
    /// The map, from the home of a split directory; `end` is then the end of the holder's share.
    #[prost(message, optional, tag = "4")]
    pub map: Option<DirMap>,
}

/// Makes all that was answered for this object durable against loss of power.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsyncRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
}
/// Answer to fsync.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsyncResponse {}

/// A metadata server's share of statfs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatfsRequest {}
/// Answer to statfs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatfsResponse {
    /// Objects that exist here.
    #[prost(uint64, tag = "1")]
    pub handles_used: u64,
    /// Objects that can still be made here.
    #[prost(uint64, tag = "2")]
    pub handles_free: u64,
    /// Bytes free where this server keeps its metadata.
    #[prost(uint64, tag = "3")]
    pub bytes_free: u64,
    /// Bytes in all there.
    #[prost(uint64, tag = "4")]
    pub bytes_total: u64,
}

/// One extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetxattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its full name, with the namespace.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}
/// Answer to getxattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetxattrResponse {
    /// The value.
    #[prost(bytes = "bytes", tag = "1")]
    pub value: Bytes,
}
/// Sets an extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetxattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its full name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    /// XATTR_CREATE: must not exist.
    #[prost(bool, tag = "4")]
    pub create: bool,
    /// XATTR_REPLACE: must exist.
    #[prost(bool, tag = "5")]
    pub replace: bool,
}
/// Answer to setxattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetxattrResponse {
    /// The object's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}
/// Names of the extended attributes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListxattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
}
/// Answer to listxattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListxattrResponse {
    /// Full names.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub names: Vec<Bytes>,
}
/// Removes an extended attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemovexattrRequest {
    /// The object.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Its full name.
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}
/// Answer to removexattr.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemovexattrResponse {
    /// The object's attributes afterwards.
    #[prost(message, optional, tag = "1")]
    pub attr: Option<Attr>,
}
