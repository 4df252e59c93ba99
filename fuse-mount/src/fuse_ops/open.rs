//! Opening and closing files.
//!
//! Place in the walks: create and open come here first, release last. Invariant: every answered open
//! has a number in the table of open files until the kernel releases it, or until the mount ends.
use super::replies::GENERATION;
use super::{Opened, PvfsFs, Shared};
use crate::dispatch::errno;
use bytes::Bytes;
use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, LockOwner, ReplyCreate, ReplyEmpty, ReplyIoctl,
    ReplyOpen, Request,
};
use pvfs2_client::OpenFile;
use pvfs2_client::sys::{Create, Flush, Fsync, FsyncMany, Open, Release};
use pvfs2_proto::ioctl::FSYNC_MANY_MAX;
use pvfs2_proto::{Handle, Result};
use std::sync::Arc;

/// The kernel's mark of an open for execution (FMODE_EXEC), which passes through to us.
const O_EXEC_MARK: i32 = 0x20;

/// What a program's `O_` flags mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OpenHow {
    read: bool,
    write: bool,
    truncate: bool,
    append: bool,
    direct: bool,
    exec: bool,
    no_atime: bool,
    writeback: bool,
}

impl OpenHow {
    fn new(flags: i32, writeback: bool) -> OpenHow {
        let access = flags & libc::O_ACCMODE;
        OpenHow {
            read: access != libc::O_WRONLY,
            write: access == libc::O_WRONLY || access == libc::O_RDWR,
            truncate: flags & libc::O_TRUNC != 0,
            append: flags & libc::O_APPEND != 0,
            direct: flags & libc::O_DIRECT != 0,
            exec: flags & O_EXEC_MARK != 0 && access == libc::O_RDONLY,
            no_atime: flags & libc::O_NOATIME != 0,
            writeback,
        }
    }

    /// How the kernel shall treat the open file. Appended bytes pass its pages by, because the
    /// metadata server says where they go; a file only read needs no flush at its close, unless this
    /// mount has locked it before (see `locks`).
    fn fopen(self, may_keep_pages: bool, was_locked: bool) -> FopenFlags {
        let mut out = FopenFlags::empty();
        out.set(FopenFlags::FOPEN_DIRECT_IO, self.is_direct());
        out.set(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, self.is_direct() && !self.append);
        out.set(FopenFlags::FOPEN_NOFLUSH, !self.write && !was_locked);
        out.set(FopenFlags::FOPEN_KEEP_CACHE, may_keep_pages && !self.is_direct());
        out
    }

    /// Whether the kernel's pages are passed by. With its write-back it decides that by itself: it
    /// knows where the file ends, and keeps the times.
    fn is_direct(self) -> bool {
        !self.writeback && (self.direct || self.append && self.write)
    }
}

impl Shared {
    /// Where the outcome may be that bytes were lost which the kernel's pages show, those go.
    fn written_out(
        self: &Arc<Self>,
        handle: Handle,
        answer: impl FnOnce(Result<()>) + Send + 'static,
    ) -> impl FnOnce(Result<()>) + Send + 'static {
        let shared = self.clone();
        move |result| {
            if result.is_err() && !shared.writeback {
                shared.inodes.doubt_pages(handle);
                shared.drop_pages(handle, || ());
            }
            answer(result);
        }
    }

    /// Gives an open file its number, and the kernel's flags for it.
    fn opened(&self, file: Arc<OpenFile>, how: OpenHow) -> (FileHandle, FopenFlags) {
        let attr = &file.attr;
        self.inodes.at_restarts(self.client.restarts());
        let keep = self.inodes.with_pages(attr, |p| p.keep_at_open(attr, how.truncate));
        let keep = keep.unwrap_or(false);
        if how.no_atime {
            file.set_no_atime();
        }
        let was_locked = self.client.locks().was_locked(file.handle);
        let opened = Opened { file, direct: how.is_direct() };
        (FileHandle(self.files.insert(Arc::new(opened))), how.fopen(keep, was_locked))
    }
}

impl PvfsFs {
    pub(super) fn open_file(&self, req: &Request, handle: Handle, flags: i32, reply: ReplyOpen) {
        let how = OpenHow::new(flags, self.writeback);
        let machine = match how.exec {
            true => Open::new(handle, (false, false), false).exec(),
            // The kernel cuts it by a setattr of its own where O_TRUNC says so.
            false => Open::new(handle, (how.read, how.write), false),
        };
        let shared = self.shared.clone();
        self.dispatch.run(req, machine, move |result| match result {
            Ok(file) => {
                let (fh, fopen) = shared.opened(file, how);
                reply.opened(fh, fopen);
            }
            Err(e) => reply.error(errno("open", &e)),
        });
    }

    pub(super) fn create_file(
        &self,
        req: &Request,
        (dir, name): (Handle, Bytes),
        (mode, umask): (u32, u32),
        flags: i32,
        reply: ReplyCreate,
    ) {
        let how = OpenHow::new(flags, self.writeback);
        let exclusive = flags & libc::O_EXCL != 0;
        let access = (how.read, how.write);
        let machine = Create::open(dir, name, mode, access, exclusive, how.truncate).umask(umask);
        let shared = self.shared.clone();
        self.dispatch.run(req, machine, move |result| {
            shared.changed();
            let created = match result {
                Ok(created) => created,
                Err(e) => return reply.error(errno("create", &e)),
            };
            let Some(file) = created.file else {
                tracing::error!("a create that opens gave no open file (a fault of this program)");
                return reply.error(Errno::EIO);
            };
            let handle = created.attr.handle();
            shared.inodes.remember(handle, Some(&created.attr));
            let (fh, fopen) = shared.opened(file, how);
            let (attr, ttl) = shared.shown(&created.attr, shared.attr_ttl(handle));
            reply.created(&ttl.min(shared.ttl.both), &attr, GENERATION, fh, fopen);
        });
    }

    /// close(2) of one descriptor. Costs a request only where something waits to be told.
    pub(super) fn flush_file(
        &self,
        req: &Request,
        opened: &Opened,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let op = self.dispatch.open_file_op(req);
        let machine = Flush::new(opened.file.clone(), owner.0);
        let answer = self.shared.written_out(opened.file.handle, answer("flush", reply));
        self.dispatch.run_op(op, machine, answer);
    }

    /// The last descriptor is closed; nobody waits for the outcome.
    pub(super) fn release_file(&self, fh: FileHandle, opened: &Opened, reply: ReplyEmpty) {
        // flock's locks, and those of a file that gets no flush; see `locks`.
        self.dispatch.client().locks().closed(opened.file.handle, fh.0);
        if opened.file.write {
            self.shared.changed();
        }
        if !opened.file.has_news() {
            self.dispatch.background().release(opened.file.clone());
            return reply.ok();
        }
        // Whoever closed it may be on its way out: the release is nobody's to interrupt.
        let op = self.dispatch.own_op();
        self.dispatch.run_op(op, Release::new(opened.file.clone()), answer("release", reply));
    }

    pub(super) fn sync_object(
        &self,
        req: &Request,
        handle: Handle,
        opened: Option<Arc<Opened>>,
        reply: ReplyEmpty,
    ) {
        let machine = match opened {
            Some(opened) => Fsync::file(opened.file.clone()),
            None => Fsync::object(handle),
        };
        let answer = self.shared.written_out(handle, answer("fsync", reply));
        self.dispatch.run_op(self.dispatch.open_file_op(req), machine, answer);
    }

    /// Makes the objects durable whose inode numbers a program gives.
    pub(super) fn sync_many(&self, req: &Request, numbers: &[u8], reply: ReplyIoctl) {
        let (numbers, rest) = numbers.as_chunks::<8>();
        if !rest.is_empty() || numbers.len() > FSYNC_MANY_MAX {
            return reply.error(Errno::EINVAL);
        }
        let handle = |n: &[u8; 8]| self.handle(INodeNo(u64::from_ne_bytes(*n)));
        let handles: Vec<Handle> = numbers.iter().map(handle).collect();
        let machine = FsyncMany::new(handles);
        self.dispatch.run_op(self.dispatch.open_file_op(req), machine, |result| match result {
            Ok(()) => reply.ioctl(0, &[]),
            Err(e) => reply.error(errno("fsync_many", &e)),
        });
    }

    /// The mount has ended with files open (it was cut off): the servers hear of it all the same.
    pub(super) fn close_all(&self) {
        for opened in self.shared.files.drain() {
            if opened.file.has_news() {
                let release = Release::new(opened.file.clone());
                self.dispatch.continue_later(self.dispatch.own_op(), release, |result| {
                    if let Err(e) = result {
                        tracing::warn!("a file that was open at the end of the mount: {e}");
                    }
                });
            } else {
                self.dispatch.background().release(opened.file.clone());
            }
        }
    }
}

fn answer(op: &'static str, reply: ReplyEmpty) -> impl FnOnce(Result<()>) + Send + 'static {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(op, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes() {
        let how = OpenHow::new(libc::O_RDONLY, false);
        assert!(how.read && !how.write);
        let how = OpenHow::new(libc::O_WRONLY | libc::O_TRUNC, false);
        assert!(!how.read && how.write && how.truncate);
        let how = OpenHow::new(libc::O_RDWR, false);
        assert!(how.read && how.write && !how.truncate);
        assert!(OpenHow::new(O_EXEC_MARK, false).exec);
        assert!(OpenHow::new(libc::O_NOATIME, false).no_atime && !how.no_atime);
    }

    #[test]
    fn kernel_flags() {
        let fopen = |flags, keep| OpenHow::new(flags, false).fopen(keep, false);
        assert_eq!(fopen(libc::O_RDONLY, false), FopenFlags::FOPEN_NOFLUSH);
        assert_eq!(OpenHow::new(libc::O_RDONLY, false).fopen(false, true), FopenFlags::empty());
        assert_eq!(
            fopen(libc::O_RDONLY, true),
            FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE
        );
        assert_eq!(fopen(libc::O_RDWR, false), FopenFlags::empty());
        assert_eq!(fopen(libc::O_WRONLY | libc::O_APPEND, true), FopenFlags::FOPEN_DIRECT_IO);
        assert_eq!(
            fopen(libc::O_RDWR | libc::O_DIRECT, false),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        );
        assert_eq!(fopen(libc::O_RDONLY | libc::O_APPEND, false), FopenFlags::FOPEN_NOFLUSH);
        for flags in [libc::O_APPEND, libc::O_DIRECT] {
            let how = OpenHow::new(libc::O_RDWR | flags, true);
            assert!(!how.is_direct(), "with write-back the kernel does both");
            assert_eq!(how.fopen(true, false), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }
}
