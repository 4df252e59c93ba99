//! One short function per callback of the kernel.
//!
//! Place in the walks: the first room of read, write and create. A callback makes one machine of
//! `client-lib`, lets [`crate::dispatch`] run it, and turns the outcome into the reply; the longer
//! ones are in `io` (bytes), `open` (opening and closing) and `listing` (directories), the
//! replies that many share in `replies`.
//!
//! Invariants: every entry sent to the kernel is counted in the inode table; the count of this
//! mount's own changes moves on before a change is answered, so that no directory page read before
//! serves attributes after.
mod fs;
mod io;
mod listing;
mod locks;
mod open;
mod replies;
mod shared;

use crate::attrs::time_spec;
use crate::dirs::DirHandle;
use crate::dispatch::errno;
use bytes::Bytes;
pub use fs::PvfsFs;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use pvfs2_client::sys::{
    CopyRange, Create, Fallocate, Getattr, Getxattr, Link, Listxattr, Lookup, Lseek, Mkdir, Mknod,
    Parent, Readlink, Removexattr, Rename, Rmdir, Setattr, Setxattr, Statfs, StatfsOut, Symlink,
    Unlink,
};
use pvfs2_proto::attr::mode::{S_IFMT, S_IFREG};
use pvfs2_proto::op::CreateRequest;
use pvfs2_proto::{ErrorCode, SetAttr, ioctl};
use shared::Opened;
pub(crate) use shared::Shared;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A name off the kernel.
fn name(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

impl Filesystem for PvfsFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.ask_kernel(config);
        Ok(())
    }

    fn destroy(&mut self) {
        self.dispatch.linger().end();
        self.close_all();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let (dir, name) = (self.handle(parent), name(child));
        let answer = self.shared.looked_up(dir, name.clone(), reply);
        // The kernel asks for these two when it was given a file handle of what it has forgotten.
        match child.as_bytes() {
            b"." => self.dispatch.run(req, Getattr::new(dir), answer),
            b".." => self.dispatch.run(req, Parent::new(dir), answer),
            _ => self.dispatch.run(req, Lookup::new(dir, name), answer),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.shared.inodes.forget(self.handle(ino), nlookup);
        self.dispatch.linger().look();
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let machine = Getattr::new(self.handle(ino));
        // The kernel names an open file only where it asks for itself.
        self.dispatch.run(req, machine, self.shared.attr(fh.is_some(), reply));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_spec),
            mtime: mtime.map(time_spec),
            // Under HANDLE_KILLPRIV_V2 this is ours: chown always clears, truncate for all but
            // root (fuser does not show the kernel's own word on it).
            kill_suidgid: uid.is_some() || gid.is_some() || (size.is_some() && req.uid() != 0),
            by_open_file: fh.and_then(|fh| self.opened(fh)).is_some_and(|o| o.file.write),
            ctime: ctime.filter(|_| self.writeback).map(|t| time_spec(TimeOrNow::SpecificTime(t))),
        };
        let resized = size.map(|_| self.handle(ino));
        let machine = Setattr::new(self.handle(ino), set);
        self.dispatch.run(req, machine, self.shared.changed_attr(resized, reply));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.dispatch.run(req, Readlink::new(self.handle(ino)), |result| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno("readlink", &e)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (dir, name) = (self.handle(parent), name(child));
        if mode & S_IFMT != S_IFREG {
            let machine = Mknod::new(dir, name, mode, rdev).umask(umask);
            return self.dispatch.run(req, machine, self.shared.made("mknod", reply));
        }
        let request = CreateRequest {
            dir: dir.0,
            name,
            mode: mode & 0o7777,
            umask,
            exclusive: true,
            no_open: true,
            ..CreateRequest::default()
        };
        let entry = self.shared.made("mknod", reply);
        self.dispatch.run(req, Create::new(request), |r| entry(r.map(|created| created.attr)));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let machine = Mkdir::new(self.handle(parent), name(child), mode & 0o7777).umask(umask);
        self.dispatch.run(req, machine, self.shared.made("mkdir", reply));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let machine = Unlink::new(self.handle(parent), name(child));
        self.dispatch.run(req, machine, self.shared.done("unlink", reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let machine = Rmdir::new(self.handle(parent), name(child));
        self.dispatch.run(req, machine, self.shared.done("rmdir", reply));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let machine = Symlink::new(self.handle(parent), name(link), target);
        self.dispatch.run(req, machine, self.shared.made("symlink", reply));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        new_parent: INodeNo,
        new_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        if !known.contains(flags) || flags == known {
            return reply.error(Errno::EINVAL);
        }
        let machine = Rename::new(
            (self.handle(parent), name(child)),
            (self.handle(new_parent), name(new_child)),
            flags.contains(RenameFlags::RENAME_NOREPLACE),
            flags.contains(RenameFlags::RENAME_EXCHANGE),
        );
        self.dispatch.run(req, machine, self.shared.done("rename", reply));
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_child: &OsStr,
        reply: ReplyEntry,
    ) {
        let machine = Link::new(self.handle(ino), self.handle(new_parent), name(new_child));
        self.dispatch.run(req, machine, self.shared.made("link", reply));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(req, self.handle(ino), flags.0, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = (mode & 0o7777, umask);
        self.create_file(req, (self.handle(parent), name(child)), mode, flags, reply);
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        logical_offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.opened(fh) {
            Some(opened) => self.dispatch.linger().serve(req.pid(), || {
                self.read_file(req, &opened, logical_offset, size as usize, reply);
            }),
            None => reply.error(Errno::EBADF),
        }
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        logical_offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.opened(fh) {
            Some(opened) => {
                let how = io::WriteHow::new(write_flags, flags.0, opened.direct, self.writeback);
                let locked = if how.joins { opened.file.handle.0 } else { 0 };
                self.dispatch.linger().serve_writer(req.pid(), locked, || {
                    self.write_file(req, &opened, logical_offset, data, how, reply);
                });
            }
            None => reply.error(Errno::EBADF),
        }
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        match self.opened(fh) {
            Some(opened) => self.flush_file(req, &opened, lock_owner, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match self.shared.files.remove(fh.0) {
            Some(opened) => self.release_file(fh, &opened, reply),
            None => reply.ok(),
        }
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.sync_object(req, self.handle(ino), self.opened(fh), reply);
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        self.get_lock(req, self.handle(ino), lock_owner, (start, end), typ, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let want = locks::want(start, end, typ, pid, fh);
        self.set_lock(req, fh, lock_owner, want, sleep, reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let dir = self.handle(ino);
        let (flags, kept) = self.shared.listed.flags(dir, self.shared.now_ns());
        let open = Arc::new(DirHandle::new(dir, kept));
        reply.opened(FileHandle(self.shared.dirs.insert(open)), flags);
    }

    fn readdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let Some(dir) = self.shared.dirs.get(fh.0) else { return reply.error(Errno::EBADF) };
        self.list(req, dir, offset, listing::Out::Plain(reply));
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let Some(dir) = self.shared.dirs.get(fh.0) else { return reply.error(Errno::EBADF) };
        self.list(req, dir, offset, listing::Out::Plus(reply));
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.shared.dirs.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.sync_object(req, self.handle(ino), None, reply);
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // umount(8) asks this first: with dead servers and `hard` it must not wait for them.
        let (mut op, mut machine) = (self.dispatch.op(req), Statfs::new());
        let result = self.dispatch.run_here(&mut op, &mut machine);
        let last = self.shared.space.lock().clone();
        let hard = self.dispatch.client().config().hard;
        match (result, last) {
            (Ok(space), _) => {
                *self.shared.space.lock() = Some(space.clone());
                replies::statfs(reply)(Ok(space));
            }
            (Err(_), Some(last)) => replies::statfs(reply)(Ok(last)),
            (Err(e), None) if e.code != ErrorCode::Stalled => replies::statfs(reply)(Err(e)),
            (Err(_), None) if hard => replies::statfs(reply)(Ok(StatfsOut::default())),
            (Err(_), None) => self.dispatch.continue_later(op, machine, replies::statfs(reply)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let machine = Setxattr::new(
            self.handle(ino),
            name(key),
            Bytes::copy_from_slice(value),
            flags & libc::XATTR_CREATE != 0,
            flags & libc::XATTR_REPLACE != 0,
        );
        self.dispatch.run(req, machine, self.shared.done("setxattr", reply));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        let machine = Getxattr::new(self.handle(ino), name(key));
        self.dispatch.run(req, machine, move |r| replies::xattr("getxattr", size, reply, r));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.dispatch.run(req, Listxattr::new(self.handle(ino)), move |r| {
            replies::xattr("listxattr", size, reply, r.map(|names| replies::join_names(&names)));
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        let machine = Removexattr::new(self.handle(ino), name(key));
        self.dispatch.run(req, machine, self.shared.done("removexattr", reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        logical_offset: u64,
        len: u64,
        flags: i32,
        reply: ReplyEmpty,
    ) {
        let Some(opened) = self.opened(fh) else { return reply.error(Errno::EBADF) };
        let Some(kind) = io::fallocate_kind(flags) else { return reply.error(Errno::EOPNOTSUPP) };
        let file = opened.file.clone();
        let (shared, handle) = (self.shared.clone(), file.handle);
        let machine = Fallocate::new(file, kind, logical_offset, len, req.uid() != 0);
        let done = self.shared.done("fallocate", reply);
        self.dispatch.run(req, machine, move |result| {
            shared.inodes.doubt_pages(handle);
            done(result);
        });
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        if self.writeback {
            // What the kernel holds back is not known here: it finds no holes.
            return reply.error(Errno::ENOSYS);
        }
        let Some(opened) = self.opened(fh) else { return reply.error(Errno::EBADF) };
        match io::seek_target(offset, whence) {
            Ok((from, whence)) => {
                let machine = Lseek::new(&opened.file, from, whence);
                self.dispatch.run(req, machine, replies::seek(reply));
            }
            Err(e) => reply.error(e),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (Some(from), Some(to)) = (self.opened(fh_in), self.opened(fh_out)) else {
            return reply.error(Errno::EBADF);
        };
        let (from, to) = ((from.file.clone(), offset_in), (to.file.clone(), offset_out));
        let handle = to.0.handle;
        let machine = CopyRange::new(from, to, len, req.uid() != 0);
        self.copy_range(req, handle, machine, reply);
    }

    fn ioctl(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        if ioctl::is_fsync_many(cmd) {
            return self.sync_many(req, in_data, reply);
        }
        reply.error(Errno::ENOTTY);
    }
}
