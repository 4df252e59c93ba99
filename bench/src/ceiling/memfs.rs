//! A FUSE file system with nothing behind it: what the kernel's crossing alone costs.
//!
//! Files and directories live in memory. The kernel is told what a PVFS2 mount tells it by default:
//! no write-back caching, requests of up to 1 MiB, attributes believed for a second, pages of a file
//! dropped when its mtime moved. It knows what the measuring needs and no more (no links, no renames).
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    ReplyXattr, Request, Session, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const TTL: Duration = Duration::from_secs(1);
const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;
const READ_AHEAD_KIB: u32 = 4_096;
/// Memory of a file comes in pieces, so that growing moves nothing.
const PIECE: u64 = 1 << 20;

#[derive(Default)]
struct Node {
    dir: bool,
    size: AtomicU64,
    mtime: RwLock<Option<SystemTime>>,
    pieces: RwLock<Vec<Arc<RwLock<Vec<u8>>>>>,
}

/// See the head of the file.
pub struct MemFs {
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    names: RwLock<HashMap<(u64, OsString), u64>>,
    next: AtomicU64,
    began: SystemTime,
    owner: (u32, u32),
}

impl Default for MemFs {
    fn default() -> MemFs {
        let root = Arc::new(Node { dir: true, ..Node::default() });
        MemFs {
            nodes: RwLock::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            names: RwLock::default(),
            next: AtomicU64::new(2),
            began: SystemTime::now(),
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        }
    }
}

/// Mounts one; it is unmounted on drop.
///
/// # Errors
/// When this user or this system cannot mount.
pub fn mount(dir: &Path, threads: usize) -> std::io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("pvfs2-bench-memory".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
    ];
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let session = Session::new(MemFs::default(), dir, &config)?.spawn()?;
    // As a mount of ours does; without root it stays the kernel's own.
    if let Ok(stat) = rustix::fs::stat(dir) {
        let dev = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let _ = std::fs::write(
            format!("/sys/class/bdi/{dev}/read_ahead_kb"),
            READ_AHEAD_KIB.to_string(),
        );
    }
    Ok(session)
}

impl MemFs {
    fn node(&self, ino: INodeNo) -> Option<Arc<Node>> {
        self.nodes.read().get(&ino.0).cloned()
    }

    fn attr(&self, ino: u64, node: &Node) -> FileAttr {
        let size = node.size.load(Ordering::Acquire);
        let mtime = node.mtime.read().unwrap_or(self.began);
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: self.began,
            mtime,
            ctime: mtime,
            crtime: self.began,
            kind: if node.dir { FileType::Directory } else { FileType::RegularFile },
            perm: if node.dir { 0o755 } else { 0o644 },
            nlink: if node.dir { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4_096,
            flags: 0,
        }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, dir: bool) -> Result<FileAttr, Errno> {
        let mut names = self.names.write();
        if names.contains_key(&(parent.0, name.to_owned())) {
            return Err(Errno::EEXIST);
        }
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        names.insert((parent.0, name.to_owned()), ino);
        let node = Arc::new(Node { dir, ..Node::default() });
        *node.mtime.write() = Some(SystemTime::now());
        let attr = self.attr(ino, &node);
        self.nodes.write().insert(ino, node);
        Ok(attr)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.names.write().remove(&(parent.0, name.to_owned()));
        match gone {
            // Open files of the measuring are never removed.
            Some(ino) => {
                self.nodes.write().remove(&ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }
}

impl Node {
    fn write(&self, at: u64, data: &[u8]) {
        let end = at + data.len() as u64;
        let wanted = end.div_ceil(PIECE) as usize;
        if self.pieces.read().len() < wanted {
            self.pieces.write().resize_with(wanted, Default::default);
        }
        let mut done = 0;
        while done < data.len() {
            let place = at + done as u64;
            let (piece, inside) = ((place / PIECE) as usize, (place % PIECE) as usize);
            let take = (PIECE as usize - inside).min(data.len() - done);
            let piece = self.pieces.read()[piece].clone();
            let mut piece = piece.write();
            if piece.is_empty() {
                piece.resize(PIECE as usize, 0);
            }
            piece[inside..inside + take].copy_from_slice(&data[done..done + take]);
            done += take;
        }
        self.size.fetch_max(end, Ordering::AcqRel);
        *self.mtime.write() = Some(SystemTime::now());
    }

    fn read(&self, at: u64, len: u64, reply: ReplyData) {
        let end = (at + len).min(self.size.load(Ordering::Acquire));
        if end <= at {
            return reply.data(&[]);
        }
        let (piece, inside) = ((at / PIECE) as usize, (at % PIECE) as usize);
        let len = (end - at) as usize;
        let pieces = self.pieces.read();
        if inside + len <= PIECE as usize
            && let Some(piece) = pieces.get(piece)
        {
            let piece = piece.read();
            if let Some(bytes) = piece.get(inside..inside + len) {
                return reply.data(bytes);
            }
        }
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            let place = at + done as u64;
            let (piece, inside) = ((place / PIECE) as usize, (place % PIECE) as usize);
            let take = (PIECE as usize - inside).min(len - done);
            if let Some(piece) = pieces.get(piece) {
                let piece = piece.read();
                if let Some(bytes) = piece.get(inside..inside + take) {
                    out[done..done + take].copy_from_slice(bytes);
                }
            }
            done += take;
        }
        reply.data(&out);
    }
}

impl Filesystem for MemFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for capability in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            // An older kernel does without, as it does for a mount.
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.names.read().get(&(parent.0, name.to_owned())).copied();
        match found.and_then(|ino| Some((ino, self.node(INodeNo(ino))?))) {
            Some((ino, node)) => reply.entry(&TTL, &self.attr(ino, &node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Some(node) => reply.attr(&TTL, &self.attr(ino.0, &node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(node) = self.node(ino) else { return reply.error(Errno::ENOENT) };
        if let Some(size) = size {
            node.size.store(size, Ordering::Release);
            node.pieces.write().truncate(size.div_ceil(PIECE) as usize);
        }
        reply.attr(&TTL, &self.attr(ino.0, &node));
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(parent, name, true) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = FopenFlags::empty();
        match self.make(parent, name, false) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags),
            Err(e) => reply.error(e),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.node(ino) {
            Some(node) => node.read(offset, u64::from(size), reply),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.node(ino) {
            Some(node) => {
                node.write(offset, data);
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        // The kernel asks once and never again.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = self.names.read();
        let mut inside: Vec<_> = names.iter().filter(|((dir, _), _)| *dir == ino.0).collect();
        inside.sort_by_key(|(_, child)| **child);
        // Numbers only grow, so they serve as cookies.
        for ((_, name), &child) in inside.into_iter().filter(|(_, child)| **child > offset) {
            let dir = self.node(INodeNo(child)).is_some_and(|n| n.dir);
            let kind = if dir { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(child), child, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
