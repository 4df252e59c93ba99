//! Attributes as FUSE wants them, and times as the wire wants them.
//!
//! Place in the walks: the reply of every operation that gives attributes.
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use pvfs2_proto::attr::mode;
use pvfs2_proto::{Attr, AttrFlags, TimeSpec};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `st_blksize` of a file worth of big requests: one FUSE request.
pub const BLKSIZE_LARGE_BYTES: u32 = 1 << 20;
/// `st_blksize` of a small file that has its bytes with the metafile, and of everything else.
pub const BLKSIZE_SMALL_BYTES: u32 = 4_096;
const NS_PER_S: i64 = 1_000_000_000;

/// The file type for type bits of a mode.
pub fn file_type(mode_bits: u32) -> FileType {
    match mode_bits & mode::S_IFMT {
        mode::S_IFDIR => FileType::Directory,
        mode::S_IFLNK => FileType::Symlink,
        mode::S_IFBLK => FileType::BlockDevice,
        mode::S_IFCHR => FileType::CharDevice,
        mode::S_IFIFO => FileType::NamedPipe,
        mode::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

/// `attr` for the kernel, under inode number `ino`.
pub fn file_attr(attr: &Attr, ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: system_time(attr.atime_ns),
        mtime: system_time(attr.mtime_ns),
        ctime: system_time(attr.ctime_ns),
        crtime: system_time(attr.crtime_ns),
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: blksize(attr),
        flags: 0,
    }
}

/// What `cp` and the like take as their buffer: large, so that they make large requests, except
/// where the file is known to be small.
fn blksize(attr: &Attr) -> u32 {
    let is_small = attr.has(AttrFlags::STUFFED) && attr.size > 0;
    if attr.is_file() && !is_small { BLKSIZE_LARGE_BYTES } else { BLKSIZE_SMALL_BYTES }
}

/// The entry that tells the kernel "this name does not exist, and you may remember that".
pub fn negative_entry() -> FileAttr {
    file_attr(&Attr::default(), INodeNo(0))
}

/// Nanoseconds since 1970 as the standard library's time.
pub fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// The standard library's time as nanoseconds since 1970, as fuser makes it of a request.
///
/// fuser 0.18 turns a time before 1970, (secs, nsecs) with secs < 0, into `EPOCH - (-secs, nsecs)`;
/// the true value is `secs + nsecs`, so the fraction counts upwards again here.
pub fn request_time_ns(t: SystemTime) -> i64 {
    let join = |secs: u64, nanos: u32, sign: i64| {
        i64::try_from(secs)
            .ok()
            .and_then(|s| s.checked_mul(NS_PER_S * sign))
            .and_then(|s| s.checked_add(i64::from(nanos)))
            .unwrap_or(if sign > 0 { i64::MAX } else { i64::MIN })
    };
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => join(d.as_secs(), d.subsec_nanos(), 1),
        Err(e) => join(e.duration().as_secs(), e.duration().subsec_nanos(), -1),
    }
}

/// What `setattr` shall make of a time.
pub fn time_spec(t: TimeOrNow) -> TimeSpec {
    match t {
        TimeOrNow::Now => TimeSpec { now: true, ns: 0 },
        TimeOrNow::SpecificTime(t) => TimeSpec { now: false, ns: request_time_ns(t) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_both_sides_of_1970() {
        for ns in [0, 1, 1_500_000_000, i64::MAX] {
            assert_eq!(request_time_ns(system_time(ns)), ns);
        }
        // -2 s + 0.8 s, in fuser's spelling.
        let t = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(request_time_ns(t), -1_200_000_000);
        let back = system_time(-1_200_000_000);
        assert_eq!(UNIX_EPOCH.duration_since(back).unwrap(), Duration::new(1, 200_000_000));
    }

    #[test]
    fn types_and_sizes() {
        let mut attr = Attr { mode: mode::S_IFREG | 0o4755, size: 513, ..Attr::default() };
        let f = file_attr(&attr, INodeNo(9));
        assert_eq!((f.kind, f.perm, f.blocks), (FileType::RegularFile, 0o4755, 2));
        assert_eq!(f.blksize, BLKSIZE_LARGE_BYTES);
        attr.set(AttrFlags::STUFFED, true);
        assert_eq!(file_attr(&attr, INodeNo(9)).blksize, BLKSIZE_SMALL_BYTES);
        for (bits, kind) in [
            (mode::S_IFDIR, FileType::Directory),
            (mode::S_IFLNK, FileType::Symlink),
            (mode::S_IFBLK, FileType::BlockDevice),
            (mode::S_IFCHR, FileType::CharDevice),
            (mode::S_IFIFO, FileType::NamedPipe),
            (mode::S_IFSOCK, FileType::Socket),
        ] {
            assert_eq!(file_type(bits | 0o644), kind);
        }
    }

    #[test]
    fn a_negative_entry_has_inode_zero() {
        assert_eq!(negative_entry().ino, INodeNo(0));
    }
}
