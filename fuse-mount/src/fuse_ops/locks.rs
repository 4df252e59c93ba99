//! fcntl and flock locks.
//!
//! Place in the walks: beside reading and writing. The kernel's owner of a fcntl lock is the process
//! (its table of files), of a flock lock the open file; fuser does not say which of the two asks, so
//! both are byte-range locks of an owner, as NFS has it. Locks end with unlock; with the flush of any
//! close by the owner; and with the release of the open file through which they were asked for. The
//! latter is flock's way, and the only one for a file that was opened for reading before this mount
//! ever locked it: the kernel was told to send no flush for it.
//!
//! Invariant: a lock is answered only when nothing that the kernel caches of the file is older than
//! what the last holder of a write lock has written.
use super::PvfsFs;
use crate::dispatch::errno;
use crate::mount::Inval;
use fuser::{Errno, FileHandle, InitFlags, LockOwner, ReplyEmpty, ReplyLock, Request};
use pvfs2_client::locks::Want;
use pvfs2_client::sys::{Getlk, Lock};
use pvfs2_proto::op::lock_kind;
use pvfs2_proto::{Handle, LockRange};

/// What the kernel is asked for, so that locks come here.
pub(super) const CAPABILITIES: [InitFlags; 2] =
    [InitFlags::FUSE_POSIX_LOCKS, InitFlags::FUSE_FLOCK_LOCKS];

/// The kind of lock behind the kernel's number.
fn kind(typ: i32) -> Option<u32> {
    match typ {
        t if t == i32::from(libc::F_RDLCK as i16) => Some(lock_kind::READ),
        t if t == i32::from(libc::F_WRLCK as i16) => Some(lock_kind::WRITE),
        t if t == i32::from(libc::F_UNLCK as i16) => Some(lock_kind::UNLOCK),
        _ => None,
    }
}

/// What the kernel wants locked or unlocked; `None`: it makes no sense.
pub(super) fn want(start: u64, end: u64, typ: i32, pid: u32, fh: FileHandle) -> Option<Want> {
    Some(Want { range: LockRange::new(start, end)?, kind: kind(typ)?, pid, mark: fh.0 })
}

impl PvfsFs {
    pub(super) fn set_lock(
        &self,
        req: &Request,
        fh: FileHandle,
        owner: LockOwner,
        want: Option<Want>,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let Some(want) = want else { return reply.error(Errno::EINVAL) };
        let Some(opened) = self.opened(fh) else { return reply.error(Errno::EBADF) };
        let op = self.dispatch.open_file_op(req);
        let handle = opened.file.handle;
        let machine = Lock::new(opened.file.clone(), owner.0, want, wait);
        let shared = self.shared.clone();
        self.dispatch.run_op(op, machine, move |result| match result {
            Ok(locked) if locked.fresh => reply.ok(),
            Ok(locked) => {
                let (ino, locks) = (shared.inodes.ino(handle), shared.client.locks().clone());
                let then = Box::new(move || {
                    locks.set_seen(handle, locked.stamp);
                    reply.ok();
                });
                shared.changed();
                shared.invalidate(Inval::Then { ino, then });
            }
            Err(e) => reply.error(errno("lock", &e)),
        });
    }

    pub(super) fn get_lock(
        &self,
        req: &Request,
        handle: Handle,
        owner: LockOwner,
        (start, end): (u64, u64),
        typ: i32,
        reply: ReplyLock,
    ) {
        let (Some(range), Some(kind)) = (LockRange::new(start, end), kind(typ)) else {
            return reply.error(Errno::EINVAL);
        };
        let machine = Getlk::new(handle, owner.0, range, kind);
        let op = self.dispatch.open_file_op(req);
        self.dispatch.run_op(op, machine, |result| match result {
            Ok(Some(l)) => {
                let typ = if l.write { libc::F_WRLCK } else { libc::F_RDLCK };
                reply.locked(l.first, l.last, i32::from(typ as i16), l.pid);
            }
            Ok(None) => reply.locked(0, 0, i32::from(libc::F_UNLCK as i16), 0),
            Err(e) => reply.error(errno("getlk", &e)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words() {
        let want = |typ| want(3, 9, typ, 7, FileHandle(5)).map(|w| w.kind);
        assert_eq!(want(0), Some(lock_kind::READ));
        assert_eq!(want(1), Some(lock_kind::WRITE));
        assert_eq!(want(2), Some(lock_kind::UNLOCK));
        assert_eq!(want(3), None);
        assert!(super::want(9, 3, 0, 7, FileHandle(5)).is_none());
    }
}
