//! Replies that many callbacks share: each turns a machine's outcome into the kernel's answer.
//!
//! Place in the walks: the end of every operation, on the FUSE thread or the background thread.
use super::Shared;
use crate::attrs::{file_attr, negative_entry, system_time};
use crate::dispatch::errno;
use crate::pages::Told;
use bytes::Bytes;
use fuser::{
    Errno, FileAttr, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs,
    ReplyXattr,
};
use pvfs2_client::sys::StatfsOut;
use pvfs2_proto::{Attr, ErrorCode, Handle, Result};
use std::sync::Arc;
use std::time::Duration;

/// Handles are not used again, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(0);
/// Unit of sizes in statfs.
const STATFS_UNIT_BYTES: u64 = 4_096;

/// Life of what the kernel caches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ttl {
    /// Attributes.
    pub(crate) attr: Duration,
    /// Names.
    pub(crate) entry: Duration,
    /// Where FUSE (or fuser) has one number for both.
    pub(crate) both: Duration,
}

impl Ttl {
    /// As the mount options say.
    pub(crate) fn new(acache_ms: u64, ncache_ms: u64) -> Ttl {
        Ttl {
            attr: Duration::from_millis(acache_ms),
            entry: Duration::from_millis(ncache_ms),
            both: Duration::from_millis(acache_ms.min(ncache_ms)),
        }
    }
}

/// A life that is cut by what is left of a cached one.
fn shorter(life: Duration, left_ns: Option<u64>) -> Duration {
    left_ns.map_or(life, |ns| life.min(Duration::from_nanos(ns)))
}

impl Shared {
    pub(super) fn now_ns(&self) -> i64 {
        self.client.env().now_ns()
    }

    /// Life of attributes: what came out of the acache lives in the kernel only as long as there.
    pub(super) fn attr_ttl(&self, handle: Handle) -> Duration {
        if self.is_joined(handle) {
            return Duration::ZERO;
        }
        shorter(self.ttl.attr, self.client.acache().left_ns(handle, self.now_ns()))
    }

    /// Life of a name, likewise.
    fn entry_ttl(&self, dir: Handle, name: &Bytes) -> Duration {
        shorter(self.ttl.entry, self.client.ncache().left_ns(dir, name, self.now_ns()))
    }

    /// Life of what a directory's page says that was asked for at `asked_ns`.
    pub(crate) fn page_ttl(&self, asked_ns: i64) -> Duration {
        let age_ns = u64::try_from(self.now_ns() - asked_ns).unwrap_or(0);
        self.ttl.both.saturating_sub(Duration::from_nanos(age_ns))
    }

    /// Counts the lookup and answers an entry whose name lives for `name_ttl`.
    fn entry(&self, attr: &Attr, name_ttl: Duration, reply: ReplyEntry) {
        let handle = attr.handle();
        let (file, attr_ttl) = self.shown(attr, self.attr_ttl(handle));
        self.inodes.remember(handle, Some(attr));
        reply.entry_with_ttls(&attr_ttl, &name_ttl, &file, GENERATION);
    }

    /// The attributes that go to the kernel with a name, and their life there if they are true; see
    /// [`crate::pages`].
    pub(crate) fn shown(&self, attr: &Attr, ttl: Duration) -> (FileAttr, Duration) {
        let mut file = file_attr(attr, self.inodes.ino(attr.handle()));
        match self.told(attr, !ttl.is_zero()) {
            Told::Good { mtime_ns } => {
                file.mtime = system_time(mtime_ns);
                return (file, Duration::ZERO);
            }
            Told::Old => self.drop_pages(attr.handle(), || ()),
            Told::Truth => {}
        }
        (file, ttl)
    }

    /// Whether attributes of `handle` tell an older mtime than it has: some of its bytes are held back.
    pub(crate) fn is_joined(&self, handle: Handle) -> bool {
        self.client.joins().is_joined(handle)
    }

    /// Answers a lookup; a name that does not exist may be remembered as such.
    pub(crate) fn looked_up(
        self: &Arc<Self>,
        dir: Handle,
        name: Bytes,
        reply: ReplyEntry,
    ) -> impl FnOnce(Result<Attr>) + Send + 'static {
        let shared = self.clone();
        move |result| match result {
            Ok(attr) => shared.entry(&attr, shared.entry_ttl(dir, &name), reply),
            Err(e) if e.code == ErrorCode::NotFound && !shared.ttl.entry.is_zero() => {
                let none = negative_entry();
                let ttl = shared.entry_ttl(dir, &name);
                reply.entry_with_ttls(&Duration::ZERO, &ttl, &none, GENERATION);
            }
            Err(e) => reply.error(errno("lookup", &e)),
        }
    }

    /// Answers an operation that made a name.
    pub(crate) fn made(
        self: &Arc<Self>,
        op: &'static str,
        reply: ReplyEntry,
    ) -> impl FnOnce(Result<Attr>) + Send + 'static {
        let shared = self.clone();
        move |result| {
            shared.changed();
            match result {
                Ok(attr) => shared.entry(&attr, shared.ttl.entry, reply),
                Err(e) => reply.error(errno(op, &e)),
            }
        }
    }

    /// Answers attributes: to a program, or `for_reading`, of which the kernel takes nothing but the
    /// size and whether its pages are old.
    pub(crate) fn attr(
        self: &Arc<Self>,
        for_reading: bool,
        reply: ReplyAttr,
    ) -> impl FnOnce(Result<Attr>) + Send + 'static {
        let shared = self.clone();
        move |result| match result {
            Ok(attr) if for_reading => shared.attr_for_reading(&attr, reply),
            Ok(attr) => {
                let handle = attr.handle();
                let file = file_attr(&attr, shared.inodes.ino(handle));
                let mut ttl = shared.attr_ttl(handle);
                match shared.told(&attr, true) {
                    Told::Good { .. } if shared.have_attr_passed_on(handle) => ttl = Duration::ZERO,
                    Told::Good { .. } => {
                        shared.inodes.with_pages(&attr, |p| p.told_all_the_same(&attr));
                    }
                    Told::Old => shared.drop_pages(handle, || ()),
                    Told::Truth => {}
                }
                reply.attr(&ttl, &file);
            }
            Err(e) => reply.error(errno("getattr", &e)),
        }
    }

    fn attr_for_reading(&self, attr: &Attr, reply: ReplyAttr) {
        let (handle, ttl) = (attr.handle(), self.attr_ttl(attr.handle()));
        let mut file = file_attr(attr, self.inodes.ino(handle));
        match self.told(attr, !ttl.is_zero()) {
            Told::Good { mtime_ns } => {
                file.mtime = system_time(mtime_ns);
                reply.attr(&Duration::ZERO, &file);
            }
            // The reader waits until the pages are gone.
            Told::Old => self.drop_pages(handle, move || reply.attr(&ttl, &file)),
            Told::Truth => reply.attr(&ttl, &file),
        }
    }

    /// Answers the attributes after a change of them; `resized`: of the size too.
    pub(crate) fn changed_attr(
        self: &Arc<Self>,
        resized: Option<Handle>,
        reply: ReplyAttr,
    ) -> impl FnOnce(Result<Attr>) + Send + 'static {
        let shared = self.clone();
        move |result| {
            shared.changed();
            if let Some(handle) = resized {
                shared.inodes.doubt_pages(handle);
            }
            match result {
                Ok(attr) => {
                    let handle = attr.handle();
                    let told = shared.inodes.with_pages(&attr, |p| p.show_changed(&attr));
                    if told == Some(Told::Old) {
                        shared.drop_pages(handle, || ());
                    }
                    let file = file_attr(&attr, shared.inodes.ino(handle));
                    reply.attr(&shared.attr_ttl(handle), &file);
                }
                Err(e) => reply.error(errno("setattr", &e)),
            }
        }
    }

    /// Answers a change of which the kernel hears nothing but that it worked.
    pub(crate) fn done<T: 'static>(
        self: &Arc<Self>,
        op: &'static str,
        reply: ReplyEmpty,
    ) -> impl FnOnce(Result<T>) + Send + 'static {
        let shared = self.clone();
        move |result| {
            shared.changed();
            match result {
                Ok(_) => reply.ok(),
                Err(e) => reply.error(errno(op, &e)),
            }
        }
    }
}

/// Answers an attribute's value or a list of names: its size when the kernel asks with 0.
pub(crate) fn xattr<B: AsRef<[u8]>>(
    op: &'static str,
    size: u32,
    reply: ReplyXattr,
    result: Result<B>,
) {
    match result {
        Ok(value) => match fit(value.as_ref(), size) {
            Fit::Size(size) => reply.size(size),
            Fit::Value(value) => reply.data(value),
            Fit::TooLong => reply.error(Errno::ERANGE),
        },
        Err(e) => reply.error(errno(op, &e)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Fit<'a> {
    Size(u32),
    Value(&'a [u8]),
    TooLong,
}

fn fit(value: &[u8], size: u32) -> Fit<'_> {
    match (size, u32::try_from(value.len())) {
        (_, Err(_)) => Fit::TooLong,
        (0, Ok(len)) => Fit::Size(len),
        (size, Ok(len)) if len > size => Fit::TooLong,
        _ => Fit::Value(value),
    }
}

/// Names as listxattr(2) gives them: each with a zero byte behind it.
pub(crate) fn join_names(names: &[bytes::Bytes]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

/// Answers statfs.
pub(crate) fn statfs(reply: ReplyStatfs) -> impl FnOnce(Result<StatfsOut>) + Send + 'static {
    move |result| match result {
        Ok(s) => {
            let free = s.bytes_free / STATFS_UNIT_BYTES;
            let files = s.handles_used.saturating_add(s.handles_free);
            let unit = STATFS_UNIT_BYTES as u32;
            let total = s.bytes_total / STATFS_UNIT_BYTES;
            let name_max = pvfs2_proto::limits::NAME_MAX as u32;
            reply.statfs(total, free, free, files, s.handles_free, unit, name_max, unit);
        }
        Err(e) => reply.error(errno("statfs", &e)),
    }
}

/// Answers lseek.
pub(crate) fn seek(reply: ReplyLseek) -> impl FnOnce(Result<u64>) + Send + 'static {
    move |result| match result {
        Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
        Err(e) => reply.error(errno("lseek", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_xattrs() {
        assert_eq!(fit(b"abc", 0), Fit::Size(3));
        assert_eq!(fit(b"abc", 2), Fit::TooLong);
        assert_eq!(fit(b"abc", 3), Fit::Value(b"abc"));
        assert_eq!(fit(b"", 0), Fit::Size(0));
        assert_eq!(fit(b"", 5), Fit::Value(b""));
    }

    #[test]
    fn names_end_in_zero_bytes() {
        let names = [bytes::Bytes::from_static(b"user.a"), bytes::Bytes::from_static(b"user.b")];
        assert_eq!(join_names(&names), b"user.a\0user.b\0");
        assert_eq!(join_names(&[]), b"");
    }

    #[test]
    fn one_life_for_both_is_the_shorter() {
        let left = |ns| shorter(Duration::from_secs(1), ns);
        assert_eq!(left(None), Duration::from_secs(1));
        assert_eq!(left(Some(0)), Duration::ZERO);
        assert_eq!(left(Some(7)), Duration::from_nanos(7));
        assert_eq!(left(Some(u64::MAX)), Duration::from_secs(1));
        let ttl = Ttl::new(1_000, 0);
        assert_eq!((ttl.both, ttl.attr), (Duration::ZERO, Duration::from_secs(1)));
    }
}
