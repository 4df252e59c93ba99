//! read, write, append, and what fallocate and lseek are asked for.
//!
//! Place in the walks: read and write. A read scatters into this thread's buffer, from which one
//! reply goes to the kernel; a write lends the kernel's request to the network. Only what stalls is
//! copied, and only what appends.
//!
//! Permissions were checked when the file was opened, and go with the open file and not with who
//! uses it (a program may give its descriptor away, or give up its rights); so bytes travel as root.
use super::{Opened, PvfsFs, Shared};
use crate::dispatch::errno;
use crate::mount::Inval;
use bytes::Bytes;
use fuser::{Errno, ReplyData, ReplyWrite, Request, WriteFlags};
use pvfs2_client::sys::{Append, CopyRange, Fsync, Lent, Whence, read_into, write_from};
use pvfs2_proto::op::FallocateKind;
use pvfs2_proto::{Handle, PvfsError, Result};
use std::sync::Arc;

/// How a write is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteHow {
    /// At the end of the file, wherever that is.
    append: bool,
    /// Clear suid and sgid.
    kill_suidgid: bool,
    /// Durable before the answer: the kernel sees to it for pages, we where they are passed by.
    sync: bool,
    /// It may be held back for a moment.
    pub(super) joins: bool,
}

impl WriteHow {
    /// From the request's flags and the program's `O_` flags.
    pub(crate) fn new(write: WriteFlags, flags: i32, direct: bool, writeback: bool) -> WriteHow {
        // The kernel writing back pages that a program changed through a mapping: it knows the
        // offset, whatever the flags of the descriptor that it borrows.
        let is_page = write.contains(WriteFlags::FUSE_WRITE_CACHE);
        WriteHow {
            // With write-back it knows where the file ends, and we do not yet.
            append: flags & libc::O_APPEND != 0 && !is_page && !writeback,
            kill_suidgid: write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            sync: direct && flags & libc::O_DSYNC != 0,
            joins: !direct && !is_page && flags & (libc::O_DSYNC | libc::O_APPEND) == 0,
        }
    }
}

/// Where lseek begins and what it looks for; all else the kernel does by itself.
pub(crate) fn seek_target(offset: i64, whence: i32) -> std::result::Result<(u64, Whence), Errno> {
    let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    match whence {
        libc::SEEK_DATA => Ok((from, Whence::Data)),
        libc::SEEK_HOLE => Ok((from, Whence::Hole)),
        _ => Err(Errno::EINVAL),
    }
}

/// What fallocate's flags mean; `None`: not supported.
pub(crate) fn fallocate_kind(flags: i32) -> Option<FallocateKind> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match flags {
        0 => Some(FallocateKind::Allocate),
        KEEP => Some(FallocateKind::KeepSize),
        PUNCH_KEEP => Some(FallocateKind::PunchHole),
        ZERO => Some(FallocateKind::ZeroRange),
        ZERO_KEEP => Some(FallocateKind::ZeroKeepSize),
        _ => None,
    }
}

impl PvfsFs {
    pub(super) fn read_file(
        &self,
        req: &Request,
        opened: &Opened,
        logical_offset: u64,
        len: usize,
        reply: ReplyData,
    ) {
        let mut op = self.dispatch.open_file_op(req);
        let (client, net) = (self.dispatch.client().as_ref(), self.dispatch.carrier());
        self.dispatch.with_buffer(len, |buf| {
            let read = read_into(client, &*net, &mut op, &opened.file, logical_offset, buf);
            match self.dispatch.now(read) {
                Ok(Lent::Done(n)) => reply.data(&buf[..n]),
                Ok(Lent::Stalled(machine)) => {
                    self.dispatch.continue_later(op, machine, |result| match result {
                        Ok(bytes) => reply.data(&bytes),
                        Err(e) => reply.error(errno("read", &e)),
                    });
                }
                Err(e) => reply.error(errno("read", &e)),
            }
        });
    }

    pub(super) fn write_file(
        &self,
        req: &Request,
        opened: &Arc<Opened>,
        logical_offset: u64,
        data: &[u8],
        how: WriteHow,
        reply: ReplyWrite,
    ) {
        if how.append {
            return self.append_file(req, opened, logical_offset, data, how, reply);
        }
        let client = self.dispatch.client();
        let now_ns = client.env().now_ns();
        let (file, kill) = (&opened.file, how.kill_suidgid);
        if how.joins {
            let what = (file.handle, false);
            match client.joins().add(file, logical_offset, data, kill, now_ns) {
                Ok(true) => return written(&self.shared, what, reply, Ok(data.len())),
                Ok(false) => {}
                Err(e) => return written(&self.shared, what, reply, Err(e)),
            }
        }
        let mut op = self.dispatch.open_file_op(req);
        let (client, net) = (self.dispatch.client().as_ref(), self.dispatch.carrier());
        let kill = how.kill_suidgid;
        let file = &opened.file;
        let write = write_from(client, &*net, &mut op, file, logical_offset, data, kill);
        let (shared, what) = (self.shared.clone(), (file.handle, opened.direct));
        match self.dispatch.now(write) {
            Ok(Lent::Done(n)) if how.sync => {
                let sync = Fsync::file(opened.file.clone());
                self.dispatch.run_op(self.dispatch.open_file_op(req), sync, move |result| {
                    written(&shared, what, reply, result.map(|()| n));
                });
            }
            Ok(Lent::Done(n)) => written(&shared, what, reply, Ok(n)),
            Ok(Lent::Stalled(machine)) => {
                let then_sync = how.sync.then(|| opened.file.clone());
                let dispatch = self.dispatch.clone();
                self.dispatch.continue_later(op, machine, move |result| {
                    match (result, then_sync) {
                        (Ok(n), Some(file)) => {
                            let (op, sync) = (dispatch.own_op(), Fsync::file(file));
                            dispatch.continue_later(op, sync, move |result| {
                                written(&shared, what, reply, result.map(|()| n));
                            });
                        }
                        (result, _) => written(&shared, what, reply, result),
                    }
                });
            }
            Err(e) => written(&shared, what, reply, Err(e)),
        }
    }

    /// The kernel gives up its pages of what was copied to by itself.
    pub(super) fn copy_range(
        &self,
        req: &Request,
        to: Handle,
        machine: CopyRange,
        reply: ReplyWrite,
    ) {
        let (op, shared) = (self.dispatch.open_file_op(req), self.shared.clone());
        self.dispatch.run_op(op, machine, move |result| {
            if shared.writeback && matches!(result, Ok(0)) {
                // The source may go on in the kernel's pages: it copies through them.
                return reply.error(Errno::EOPNOTSUPP);
            }
            written(&shared, (to, true), reply, result.map(|n| n as usize));
        });
    }

    fn append_file(
        &self,
        req: &Request,
        opened: &Opened,
        believed_offset: u64,
        data: &[u8],
        how: WriteHow,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let machine = Append::new(opened.file.clone(), data, how.kill_suidgid);
        let (shared, direct) = (self.shared.clone(), opened.direct);
        let (ino, what) = (shared.inodes.ino(opened.file.handle), (opened.file.handle, true));
        let (file, dispatch) = (opened.file.clone(), self.dispatch.clone());
        self.dispatch.run_op(self.dispatch.open_file_op(req), machine, move |result| {
            if let Ok((n, logical_offset)) = &result
                && *logical_offset != believed_offset
            {
                let len = *n as u64;
                shared.invalidate(Inval::Data { ino, logical_offset: *logical_offset, len });
                if !direct {
                    // The kernel put the bytes into its pages where it believed the end to be.
                    shared.invalidate(Inval::Data { ino, logical_offset: believed_offset, len });
                }
            }
            match result {
                Ok((n, _)) if how.sync => {
                    let (op, sync) = (dispatch.own_op(), Fsync::file(file));
                    dispatch.continue_later(op, sync, move |result| {
                        written(&shared, what, reply, result.map(|()| n));
                    });
                }
                result => written(&shared, what, reply, result.map(|(n, _)| n)),
            }
        });
    }
}

/// Answers a write. What the kernel's pages show is what was written, unless it failed, or passed
/// them by (`past_pages`).
fn written(
    shared: &Shared,
    (handle, past_pages): (Handle, bool),
    reply: ReplyWrite,
    result: Result<usize, PvfsError>,
) {
    shared.changed();
    if past_pages || result.is_err() {
        shared.inodes.doubt_pages(handle);
    }
    if result.is_err() && !shared.writeback {
        // It may be of bytes that were answered before, and that they show.
        shared.drop_pages(handle, || ());
    }
    match result {
        Ok(n) => reply.written(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(e) => reply.error(errno("write", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_writes_are_meant() {
        let none = WriteFlags::empty();
        let append = WriteHow::new(none, libc::O_APPEND | libc::O_WRONLY, true, false);
        assert!(append.append && !append.kill_suidgid && !append.sync);
        let page = WriteHow::new(WriteFlags::FUSE_WRITE_CACHE, libc::O_APPEND, false, false);
        assert!(!page.append, "a page has its offset");
        assert!(!WriteHow::new(none, libc::O_APPEND | libc::O_WRONLY, false, true).append);
        assert!(WriteHow::new(WriteFlags::FUSE_WRITE_KILL_SUIDGID, 0, false, false).kill_suidgid);
        assert!(WriteHow::new(none, libc::O_DSYNC, true, false).sync);
        assert!(WriteHow::new(none, libc::O_SYNC, true, false).sync);
        assert!(!WriteHow::new(none, libc::O_SYNC, false, false).sync, "the kernel sends fsync");
        let joins = |write, flags, direct| WriteHow::new(write, flags, direct, false).joins;
        assert!(joins(none, libc::O_RDWR, false));
        assert!(!joins(none, libc::O_RDWR, true) && !joins(none, libc::O_APPEND, false));
        assert!(!joins(none, libc::O_DSYNC, false) && !joins(none, libc::O_SYNC, false));
        assert!(!joins(WriteFlags::FUSE_WRITE_CACHE, libc::O_RDWR, false), "a mapping's page");
    }

    #[test]
    fn fallocate_flags() {
        assert_eq!(fallocate_kind(0), Some(FallocateKind::Allocate));
        assert_eq!(fallocate_kind(libc::FALLOC_FL_KEEP_SIZE), Some(FallocateKind::KeepSize));
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(fallocate_kind(punch), Some(FallocateKind::PunchHole));
        assert_eq!(fallocate_kind(libc::FALLOC_FL_ZERO_RANGE), Some(FallocateKind::ZeroRange));
        let zero_keep = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(fallocate_kind(zero_keep), Some(FallocateKind::ZeroKeepSize));
        assert_eq!(fallocate_kind(libc::FALLOC_FL_COLLAPSE_RANGE), None);
        assert_eq!(fallocate_kind(libc::FALLOC_FL_PUNCH_HOLE), None);
    }

    #[test]
    fn seeks() {
        assert!(matches!(seek_target(5, libc::SEEK_DATA), Ok((5, Whence::Data))));
        assert!(matches!(seek_target(5, libc::SEEK_HOLE), Ok((5, Whence::Hole))));
        assert!(matches!(seek_target(-1, libc::SEEK_DATA), Err(e) if e.code() == libc::ENXIO));
        assert!(matches!(seek_target(0, libc::SEEK_SET), Err(e) if e.code() == libc::EINVAL));
    }
}
