//! The file system as one value: what a mount is made of, and what it asks of the kernel.
//!
//! Place in the walks: the mount walk makes it; every callback reads it.
use super::locks;
use super::replies::Ttl;
use super::shared::{Opened, Shared};
use crate::dispatch::Dispatch;
use crate::inodes::Inodes;
use crate::mount::Kernel;
use crate::options::MountOptions;
use fuser::{FileHandle, INodeNo, InitFlags, KernelConfig};
use pvfs2_client::{Background, Client};
use pvfs2_proto::Handle;
use std::sync::Arc;

/// Requests that the kernel may have in flight in the background (read-ahead, releases).
const MAX_BACKGROUND: u16 = 64;

/// The file system as fuser sees it.
pub struct PvfsFs {
    pub(crate) dispatch: Dispatch,
    pub(super) shared: Arc<Shared>,
    max_write_bytes: u32,
    cache_symlinks: bool,
    cluster_locks: bool,
    pub(super) writeback: bool,
}

impl PvfsFs {
    /// The file system for one mount of `client`, whose background thread is `background`. What the
    /// kernel shall forget goes to `kernel`.
    pub fn new(
        client: Arc<Client>,
        background: Arc<Background>,
        inodes: Arc<Inodes>,
        options: &MountOptions,
        kernel: Kernel,
    ) -> PvfsFs {
        let ttl = Ttl::new(options.acache_ms, options.ncache_ms);
        let shared = Shared::new(client.clone(), inodes, ttl, kernel, options.writeback);
        PvfsFs {
            dispatch: Dispatch::new(client, background),
            shared: Arc::new(shared),
            max_write_bytes: options.max_write_bytes,
            cache_symlinks: options.acache_ms > 0,
            cluster_locks: options.cluster_locks,
            writeback: options.writeback,
        }
    }

    pub(super) fn handle(&self, ino: INodeNo) -> Handle {
        self.shared.inodes.handle(ino)
    }

    pub(super) fn opened(&self, fh: FileHandle) -> Option<Arc<Opened>> {
        self.shared.files.get(fh.0)
    }

    /// What the kernel shall do, as far as it can. Not `FUSE_ATOMIC_O_TRUNC`: with it the kernel has a
    /// file cut by the open, before it looks whether that is a program being executed, which an open
    /// for reading with `O_TRUNC` would empty.
    pub(super) fn ask_kernel(&self, config: &mut KernelConfig) {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            // Reading asks for attributes once theirs have run out; see `pages.rs`.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            // Checks go by ACLs too, and a default ACL replaces the umask: the server applies both.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            // File handles (NFS, name_to_handle_at) stay good after the kernel has forgotten.
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        let symlinks = self.cache_symlinks.then_some(InitFlags::FUSE_CACHE_SYMLINKS);
        let locks = locks::CAPABILITIES.into_iter().filter(|_| self.cluster_locks);
        let writeback = self.writeback.then_some(InitFlags::FUSE_WRITEBACK_CACHE);
        for capability in wanted.into_iter().chain(symlinks).chain(locks).chain(writeback) {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "this kernel does not have it");
            }
        }
        let _ = config.set_max_write(self.max_write_bytes);
        let _ = config.set_max_background(MAX_BACKGROUND);
    }
}
