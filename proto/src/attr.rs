//! Attributes: one message both for the wire and for Trove.
//!
//! `size` is exact while [`AttrFlags::SIZE_DYNAMIC`] is clear. While it is set (somebody has the
//! striped file open for writing, or had when he died), the size is
//! `max(size, logical end of the datafiles)`: the client asks the I/O servers, as in PVFS2.
use crate::dirmap::DirMap;
use crate::dist::Dist;
use crate::handle::Handle;
use bytes::Bytes;

/// Name of the extended attribute that is an object's access ACL.
pub const XATTR_ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the extended attribute that is what a directory hands down as ACL.
pub const XATTR_ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Flags of [`Attr::flags`], as bits.
pub struct AttrFlags;
impl AttrFlags {
    /// The file's bytes live with the metafile; it has no datafiles.
    pub const STUFFED: u32 = 1;
    /// The size must be computed from the datafiles.
    pub const SIZE_DYNAMIC: u32 = 2;
    /// The object has extended attributes (clear: `getxattr` needs no request); the access ACL does
    /// not count.
    pub const HAS_XATTR: u32 = 4;
    /// (In replies) the asking session is the only one that has the file open for writing, so what
    /// it knows of the size is exact.
    pub const SOLE_WRITER: u32 = 8;
    /// The directory is being removed: nothing may be made in it.
    pub const DIR_DYING: u32 = 16;
    /// (At the metadata server) a stuffed file whose bytes began to move to datafiles, which may
    /// hold some of them; see `unstuff`.
    pub const MOVING: u32 = 32;
    /// (In replies) the object counts for somebody with a quota: a writer of datafiles asks for room
    /// (`quota_reserve`) before it goes beyond the size.
    pub const QUOTA: u32 = 1 << 16;
    /// Beside `SIZE_DYNAMIC`: a writer may hold back bytes (see the metadata server's `rights.rs`).
    pub const MAY_JOIN: u32 = 1 << 17;
    /// A part of a split directory (see `dirmap.rs`); its home names it, no dirent does.
    pub const DIR_PART: u32 = 1 << 10;
}

/// Attributes of an object. Times are nanoseconds since 1970-01-01 UTC.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attr {
    /// The object's handle.
    #[prost(uint64, tag = "1")]
    pub handle: u64,
    /// Type and permission bits as in `st_mode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Number of names.
    #[prost(uint32, tag = "5")]
    pub nlink: u32,
    /// Bytes (see the head of this file); for a directory the number of entries.
    #[prost(uint64, tag = "6")]
    pub size: u64,
    /// Device number of a special file, as in `st_rdev` (Linux's 32-bit encoding).
    #[prost(uint32, tag = "7")]
    pub rdev: u32,
    /// Last read.
    #[prost(sint64, tag = "8")]
    pub atime_ns: i64,
    /// Last change of the bytes.
    #[prost(sint64, tag = "9")]
    pub mtime_ns: i64,
    /// Last change of the attributes.
    #[prost(sint64, tag = "10")]
    pub ctime_ns: i64,
    /// Birth.
    #[prost(sint64, tag = "11")]
    pub crtime_ns: i64,
    /// Bits of [`AttrFlags`].
    #[prost(uint32, tag = "12")]
    pub flags: u32,
    /// Counts every change of bytes or attributes that the metadata server knows of.
    #[prost(uint64, tag = "13")]
    pub change: u64,
    /// Distribution and datahandles of a regular file that is not stuffed.
    #[prost(message, optional, tag = "14")]
    pub layout: Option<FileLayout>,
    /// When the mtime was last set by `utimes` and not by a write, by this server's clock; datafile
    /// times before it do not count.
    #[prost(sint64, tag = "15")]
    pub mtime_set_ns: i64,
    /// The access ACL, where it says more than the mode: value of `system.posix_acl_access`. Its
    /// owner, mask (or group) and other entries always say what the mode says.
    #[prost(bytes = "bytes", tag = "16")]
    pub acl: Bytes,
    /// The directory tree with a quota that the object counts for: the handle of its directory; 0:
    /// none.
    #[prost(uint64, tag = "20")]
    pub quota_tree: u64,
    /// The map of a split directory, or what a part knows of it. A client takes it out when it has
    /// added what the parts say: attributes with a map are not the whole directory's.
    #[prost(message, optional, boxed, tag = "24")]
    pub dir_map: Option<Box<DirMap>>,
    /// Counts the changes of a file's bytes that the metadata server knows of; while somebody has the
    /// file open for writing there may be others.
    #[prost(uint64, tag = "30")]
    pub data_version: u64,
    /// (At the metadata server) the session that made the last of them; 0: nobody knows.
    #[prost(uint64, tag = "31")]
    pub data_by: u64,
    /// Data version of the last change that was not `data_by`'s; in replies: not the asking
    /// session's, or [`DATA_IN_FLUX`].
    #[prost(uint64, tag = "32")]
    pub data_others: u64,
}

/// Value of [`Attr::data_others`] while the bytes are being changed: their version tells nothing.
pub const DATA_IN_FLUX: u64 = u64::MAX;

impl Attr {
    /// The handle as a [`Handle`].
    pub fn handle(&self) -> Handle {
        Handle(self.handle)
    }
    /// A session has changed the file's bytes; 0: somebody, perhaps several.
    pub fn data_changed(&mut self, session: u64) {
        if session == 0 || session != self.data_by {
            self.data_others = self.data_version;
            self.data_by = session;
        }
        self.data_version += 1;
        if session == 0 {
            self.data_others = self.data_version;
        }
    }
    /// Turns who changed the bytes into what it means to `session`, and tells no other session's id.
    pub fn data_as_seen_by(&mut self, session: u64) {
        if self.data_by != session {
            self.data_others = self.data_version;
        }
        self.data_by = 0;
    }
    /// In a reply: whether [`Attr::data_version`] tells everything that has happened to the bytes but
    /// for what the asking session wrote itself.
    pub fn data_is_known(&self) -> bool {
        let told = !self.has(AttrFlags::SIZE_DYNAMIC) || self.has(AttrFlags::SOLE_WRITER);
        told && self.data_by == 0 && self.data_others != DATA_IN_FLUX
    }
    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & mode::S_IFMT
    }
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == mode::S_IFDIR
    }
    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == mode::S_IFREG
    }
    /// Whether this is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.kind() == mode::S_IFLNK
    }
    /// The directory that these attributes are of, or are of a part of.
    pub fn home(&self) -> u64 {
        self.dir_map.as_ref().map_or(self.handle, |m| m.home)
    }
    /// Whether a flag of [`AttrFlags`] is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
    /// Sets or clears a flag of [`AttrFlags`].
    pub fn set(&mut self, flag: u32, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

/// Bits of `st_mode`, so that no one needs libc to read them.
#[allow(missing_docs)]
pub mod mode {
    pub const S_IFMT: u32 = 0o170000;
    pub const S_IFSOCK: u32 = 0o140000;
    pub const S_IFLNK: u32 = 0o120000;
    pub const S_IFREG: u32 = 0o100000;
    pub const S_IFBLK: u32 = 0o060000;
    pub const S_IFDIR: u32 = 0o040000;
    pub const S_IFCHR: u32 = 0o020000;
    pub const S_IFIFO: u32 = 0o010000;
    pub const S_ISUID: u32 = 0o4000;
    pub const S_ISGID: u32 = 0o2000;
    pub const S_ISVTX: u32 = 0o1000;

    /// `mode` without suid, and without sgid where the group may execute (sgid without it once meant
    /// mandatory locking and stays).
    pub fn without_suidgid(mode: u32) -> u32 {
        let group_exec = mode & 0o010 != 0;
        mode & !S_ISUID & !if group_exec { S_ISGID } else { 0 }
    }
}

/// Where a striped file's bytes lie: strip i on datafile `dist`(i), datafile d under
/// `datahandles[d]`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileLayout {
    /// The distribution.
    #[prost(message, required, tag = "1")]
    pub dist: Dist,
    /// One datahandle per datafile, in order.
    #[prost(uint64, repeated, tag = "2")]
    pub datahandles: Vec<u64>,
}

/// What a time shall become in [`SetAttr`].
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TimeSpec {
    /// The server's own time at execution; `ns` is ignored.
    #[prost(bool, tag = "1")]
    pub now: bool,
    /// Nanoseconds since 1970-01-01 UTC.
    #[prost(sint64, tag = "2")]
    pub ns: i64,
}

/// The attributes that `setattr` changes; `None` leaves one as it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetAttr {
    /// Permission bits (the type cannot change).
    #[prost(uint32, optional, tag = "1")]
    pub mode: Option<u32>,
    /// Owner.
    #[prost(uint32, optional, tag = "2")]
    pub uid: Option<u32>,
    /// Group.
    #[prost(uint32, optional, tag = "3")]
    pub gid: Option<u32>,
    /// Size in bytes (truncate or extend).
    #[prost(uint64, optional, tag = "4")]
    pub size: Option<u64>,
    /// Last read.
    #[prost(message, optional, tag = "5")]
    pub atime: Option<TimeSpec>,
    /// Last change of the bytes.
    #[prost(message, optional, tag = "6")]
    pub mtime: Option<TimeSpec>,
    /// Clear suid, sgid (when group-executable) and `security.capability`: a write or truncate by
    /// somebody without CAP_FSETID.
    #[prost(bool, tag = "7")]
    pub kill_suidgid: bool,
    /// The caller holds the file open for writing: size changes need no write permission.
    #[prost(bool, tag = "8")]
    pub by_open_file: bool,
    /// Last change of the attributes, by a kernel that caches writes: it keeps the times itself, and has
    /// checked who may set them. `None`: now.
    #[prost(message, optional, tag = "33")]
    pub ctime: Option<TimeSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a session sees: the version, and the last change that was not its own.
    fn seen(attr: &Attr, session: u64) -> (u64, u64) {
        let mut attr = attr.clone();
        attr.data_as_seen_by(session);
        assert!(attr.data_is_known());
        (attr.data_version, attr.data_others)
    }

    #[test]
    fn each_session_sees_when_others_changed_the_bytes() {
        let mut attr = Attr::default();
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((0, 0), (0, 0)));
        attr.data_changed(1);
        attr.data_changed(1);
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((2, 0), (2, 2)));
        attr.data_changed(2);
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((3, 3), (3, 2)));
        attr.data_changed(2);
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((4, 4), (4, 2)));
        attr.data_changed(0);
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((5, 5), (5, 5)));
        attr.data_changed(0);
        attr.data_changed(2);
        assert_eq!((seen(&attr, 1), seen(&attr, 2)), ((7, 7), (7, 6)));
    }

    #[test]
    fn a_version_says_nothing_while_others_may_write() {
        let mut attr = Attr { data_by: 7, ..Attr::default() };
        assert!(!attr.data_is_known(), "not as a session sees it");
        attr.data_as_seen_by(3);
        assert!(attr.data_is_known());
        attr.set(AttrFlags::SIZE_DYNAMIC, true);
        assert!(!attr.data_is_known());
        attr.set(AttrFlags::SOLE_WRITER, true);
        assert!(attr.data_is_known());
        attr.data_others = DATA_IN_FLUX;
        assert!(!attr.data_is_known());
    }
}
