//! Mounting and unmounting.
//!
//! Place in the walks: the last room of the mount walk; the cli has parsed the options, fetched the
//! cluster map and made the client, and keeps the [`MountHandle`] until a signal comes.
//!
//! Invariants:
//! - [`MountHandle::unmount`] always comes back, whatever the servers do: what may wait for them runs
//!   in a thread that is left behind, and the last resort aborts the kernel's connection.
//! - Only our own mount is unmounted: its device number is compared first.
//! - A dead mount of a crashed run is taken away before mounting, and the caller is told.
use crate::fuse_ops::PvfsFs;
use crate::inodes::Inodes;
use crate::loop_memory;
use crate::options::{Allow, MountOptions};
use crate::sys_mount::{self, DEV_FUSE, FS_TYPE, MountEntry};
use fuser::{Config, Notifier, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use pvfs2_client::{Background, Client};
use pvfs2_proto::{Handle, PvfsError};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::{OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Read-ahead of the mount, in KiB; INIT caps it at 128, the bdi takes more.
pub const READ_AHEAD_KIB: u32 = 1_024;
/// How long an unmount asks again while files are open.
const BUSY_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long changed pages of a mount in use may take to be written before it is cut off.
const WRITE_BACK_PATIENCE: Duration = Duration::from_secs(3);
/// How long umount(2) itself may take (it writes dirty pages back) before it is left behind.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(10);
/// The same two where the kernel holds writes back: it may be much, and is worth waiting for.
const HELD_BACK_PATIENCE: Duration = Duration::from_secs(120);
/// How long the event loops may take to end after an unmount before the connection is aborted.
const LOOPS_PATIENCE: Duration = Duration::from_secs(3);

/// Why a mount did not come to be. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No `/dev/fuse`.
    #[error(
        "{DEV_FUSE} is missing: load the module (modprobe fuse), or give the container the device"
    )]
    NoDevice,
    /// `/dev/fuse` is there but not for us.
    #[error("{DEV_FUSE} may not be opened by this user: mount as root, or let its mode be 0666")]
    DeviceDenied,
    /// The mount point is missing.
    #[error("mount point {} does not exist: make it (mkdir -p)", .0.display())]
    Missing(PathBuf),
    /// The mount point is no directory.
    #[error("mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// One of ours, or another FUSE file system, is mounted there.
    #[error("{} is already the mount point of {source_name} ({fs_type}): unmount it first (umount {})",
        .target.display(), .target.display())]
    Mounted {
        /// The mount point.
        target: PathBuf,
        /// What is mounted.
        source_name: String,
        /// Its type.
        fs_type: String,
    },
    /// A dead mount could not be taken away.
    #[error("{} holds a dead mount that cannot be taken away ({why}): umount -l {}",
        .target.display(), .target.display())]
    Stale {
        /// The mount point.
        target: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// The system refused.
    #[error("cannot mount on {}: {why}", .target.display())]
    System {
        /// The mount point.
        target: PathBuf,
        /// The system's error or the helper's message.
        why: io::Error,
    },
    /// Not root, and no right to let others in.
    #[error("allow_other needs root, or a line 'user_allow_other' in /etc/fuse.conf")]
    AllowOther,
    /// The directory given with `subdir` cannot be used.
    #[error("subdir {}: {why}", .subdir.display())]
    Subdir {
        /// As given.
        subdir: PathBuf,
        /// Why not.
        why: PvfsError,
    },
}

/// A live mount. Dropping it unmounts.
pub struct MountHandle {
    shared: Arc<Shared>,
    /// The dead mount of a crashed run that was taken away first, if there was one.
    pub mended: Option<String>,
    inval: mpsc::Sender<Inval>,
    notify_thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    target: PathBuf,
    dev: String,
    by_helper: bool,
    writeback: bool,
    ended: Mutex<bool>,
    on_end: Condvar,
}

/// How the kernel is told unasked.
#[derive(Clone)]
pub struct Kernel {
    /// What a thread of its own shall tell.
    pub inval: mpsc::Sender<Inval>,
    /// Set once the mount stands.
    pub notifier: Arc<OnceLock<Notifier>>,
}

/// What a thread of its own shall tell the kernel (a FUSE thread could wait for itself).
pub enum Inval {
    /// Pages (and attributes) of a file; `len` 0: to the end.
    Data {
        /// The file.
        ino: fuser::INodeNo,
        /// From.
        logical_offset: u64,
        /// Bytes.
        len: u64,
    },
    /// All pages and attributes of a file, and then this is called.
    Then {
        /// The file.
        ino: fuser::INodeNo,
        /// What waits for it.
        then: Box<dyn FnOnce() + Send>,
    },
    /// Nothing more: the mount has ended (operations that still wait in the background hold the
    /// sender, so its end tells nothing).
    End,
}

/// Mounts the directory `root` of `client`'s file system on `target`. `background` drives what stalls
/// and must outlive the mount (shut it down after the unmount: it sends the last releases and says
/// goodbye). `source` is what the mount table shows, `options` what [`MountOptions::parse`] made of
/// `-o`.
///
/// # Errors
/// [`MountError`]; nothing stays mounted.
pub fn mount(
    client: Arc<Client>,
    background: Arc<Background>,
    root: Handle,
    target: &Path,
    source: &str,
    options: &MountOptions,
) -> Result<MountHandle, MountError> {
    check_device()?;
    let (target, mended) = check_target(target)?;
    let is_root = rustix::process::geteuid().is_root();
    let (inval, to_invalidate) = mpsc::channel();
    let kernel = Kernel { inval: inval.clone(), notifier: Arc::default() };
    let inodes = Arc::new(Inodes::new(root));
    let fs = PvfsFs::new(client, background, inodes, options, kernel.clone());
    let device = if is_root {
        sys_mount::mount_as_root(&target, source, options)
    } else {
        sys_mount::mount_by_helper(&target, source, options)
    }
    .map_err(|why| mount_error(&target, why))?;
    let started = start(fs, device, options, is_root);
    let (session, notifier) = match started {
        Ok(started) => started,
        Err(why) => {
            let _ = sys_mount::unmount(&target, true, !is_root);
            return Err(MountError::System { target, why });
        }
    };
    let _ = kernel.notifier.set(notifier.clone());
    let dev = match sys_mount::mount_at(&target) {
        Ok(Some(entry)) => entry.dev,
        _ => String::new(),
    };
    let shared = Arc::new(Shared {
        target,
        dev,
        by_helper: !is_root,
        writeback: options.writeback,
        ended: Mutex::new(false),
        on_end: Condvar::new(),
    });
    watch(session, shared.clone());
    let notify_thread = spawn_named("pvfs2-inval", move || invalidate(&to_invalidate, &notifier));
    raise_read_ahead(&shared.dev);
    Ok(MountHandle { shared, mended, inval, notify_thread: Mutex::new(notify_thread) })
}

/// Changes the options of the mount at `target` as far as the kernel holds them (`ro`, `rw`,
/// `noatime`, ...).
///
/// # Errors
/// [`MountError::System`] as mount(2) gives it, or when there is no mount of ours.
pub fn remount(target: &Path, options: &MountOptions) -> Result<(), MountError> {
    let target = target.canonicalize().unwrap_or_else(|_| target.to_path_buf());
    let system = |target: &Path, why| MountError::System { target: target.to_path_buf(), why };
    let entry = sys_mount::mount_at(&target).map_err(|why| system(&target, why))?;
    if entry.is_none_or(|e| e.fs_type != FS_TYPE) {
        return Err(system(
            &target,
            io::Error::other("no file system of this kind is mounted there"),
        ));
    }
    sys_mount::remount(&target, options).map_err(|why| system(&target, why))
}

/// Whether this user can mount here at all.
///
/// # Errors
/// [`MountError::NoDevice`], [`MountError::DeviceDenied`].
pub fn check_device() -> Result<(), MountError> {
    use rustix::fs::{Access, access};
    match access(DEV_FUSE, Access::EXISTS) {
        Ok(()) => {}
        Err(_) => return Err(MountError::NoDevice),
    }
    match access(DEV_FUSE, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Ok(()),
        // The helper opens the device with the user's rights too.
        Err(_) => Err(MountError::DeviceDenied),
    }
}

/// The mount point's true path, and what stale mount had to be taken away.
fn check_target(target: &Path) -> Result<(PathBuf, Option<String>), MountError> {
    let real = real_path(target)?;
    let entry = sys_mount::mount_at(&real)
        .map_err(|why| MountError::System { target: real.clone(), why })?;
    let mut mended = None;
    if let Some(entry) = entry.filter(|e| e.fs_type.starts_with("fuse")) {
        if !looks_dead(&real) {
            return Err(MountError::Mounted {
                target: real,
                source_name: entry.source,
                fs_type: entry.fs_type,
            });
        }
        mended = Some(take_away_dead(&real, &entry)?);
    }
    match std::fs::metadata(&real) {
        Ok(meta) if meta.is_dir() => Ok((real, mended)),
        Ok(_) => Err(MountError::NotDirectory(real)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(MountError::Missing(real)),
        Err(why) => Err(MountError::System { target: real, why }),
    }
}

fn take_away_dead(real: &Path, entry: &MountEntry) -> Result<String, MountError> {
    let by_helper = !rustix::process::geteuid().is_root();
    sys_mount::unmount(real, true, by_helper)
        .map_err(|why| MountError::Stale { target: real.to_path_buf(), why })?;
    Ok(format!(
        "{} held a dead mount of {} (its program had ended without unmounting); it was taken away",
        real.display(),
        entry.source
    ))
}

/// `target` without symlinks, also where a dead mount stands in the way of looking at it.
fn real_path(target: &Path) -> Result<PathBuf, MountError> {
    match target.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(MountError::Missing(target.to_path_buf()))
        }
        Err(why) => {
            let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
                return Err(MountError::System { target: target.to_path_buf(), why });
            };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            match parent.canonicalize() {
                Ok(parent) => Ok(parent.join(name)),
                Err(why) => Err(MountError::System { target: target.to_path_buf(), why }),
            }
        }
    }
}

/// Whether the FUSE mount at `path` has lost its program. A look at a living mount may wait for its
/// servers, so a thread looks, and no answer counts as alive.
fn looks_dead(path: &Path) -> bool {
    let (tx, rx) = mpsc::channel();
    let path = path.to_path_buf();
    let looker = spawn_named("pvfs2-look", move || {
        let _ = tx.send(sys_mount::is_dead_mount(&path));
    });
    looker.is_some() && rx.recv_timeout(Duration::from_secs(2)).unwrap_or(false)
}

fn mount_error(target: &Path, why: io::Error) -> MountError {
    if why.to_string().contains("user_allow_other") {
        return MountError::AllowOther;
    }
    match Errno::from_io_error(&why) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => MountError::NoDevice,
        Some(Errno::PERM) => MountError::System {
            target: target.to_path_buf(),
            why: io::Error::other(
                "the system does not let this user mount (CAP_SYS_ADMIN is missing)",
            ),
        },
        _ => MountError::System { target: target.to_path_buf(), why },
    }
}

fn start(
    fs: PvfsFs,
    device: rustix::fd::OwnedFd,
    options: &MountOptions,
    is_root: bool,
) -> io::Result<(fuser::BackgroundSession, Notifier)> {
    let acl = match options.allow {
        Allow::Root => SessionACL::RootAndOwner,
        Allow::Default if !is_root => SessionACL::Owner,
        Allow::Default | Allow::Other => SessionACL::All,
    };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(options.thread_count());
    config.clone_fd = true;
    let (linger, looked_at) = (fs.dispatch.linger().clone(), device.try_clone()?);
    let session = Session::from_fd(fs, device, acl, config)?;
    linger.begin(looked_at, options.thread_count());
    if options.share_memory {
        loop_memory::expect(options.thread_count());
    }
    let notifier = session.notifier();
    Ok((session.spawn()?, notifier))
}

/// Joins the event loops in a thread of its own and tells when they have ended.
fn watch(session: fuser::BackgroundSession, shared: Arc<Shared>) {
    let on_thread = shared.clone();
    let watcher = spawn_named("pvfs2-watch", move || {
        if let Err(e) = session.join() {
            tracing::warn!(target = %on_thread.target.display(), "the mount's event loops ended: {e}");
        }
        on_thread.set_ended();
    });
    if watcher.is_none() {
        // Without the thread nobody would ever learn of the end; pretending it is over makes
        // unmount go on to the abort.
        shared.set_ended();
    }
}

fn invalidate(jobs: &mpsc::Receiver<Inval>, notifier: &Notifier) {
    let tell = |ino, offset, len| {
        if let Err(e) = notifier.inval_inode(ino, offset, len) {
            tracing::debug!(%ino, offset, len, "the kernel did not take an invalidation: {e}");
        }
    };
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    while let Ok(job) = jobs.recv() {
        match job {
            Inval::Data { ino, logical_offset, len } => {
                tell(ino, signed(logical_offset), signed(len));
            }
            Inval::Then { ino, then } => {
                tell(ino, 0, 0);
                then();
            }
            Inval::End => return,
        }
    }
}

fn raise_read_ahead(dev: &str) {
    if let Err(e) = sys_mount::set_read_ahead(dev, READ_AHEAD_KIB) {
        tracing::debug!(dev, "read-ahead stays at the kernel's 128 KiB: {e}");
    }
}

fn spawn_named(name: &str, f: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.to_string()).spawn(f);
    spawned.inspect_err(|e| tracing::warn!("cannot start thread {name}: {e}")).ok()
}

impl Shared {
    fn set_ended(&self) {
        *self.ended.lock() = true;
        self.on_end.notify_all();
    }

    /// Waits for the event loops' end; false when `patience` ran out.
    fn wait_ended(&self, patience: Option<Duration>) -> bool {
        let mut ended = self.ended.lock();
        match patience {
            None => self.on_end.wait_while(&mut ended, |e| !*e),
            Some(d) => {
                self.on_end.wait_while_for(&mut ended, |e| !*e, d);
            }
        }
        *ended
    }

    fn patience(&self, usually: Duration) -> Duration {
        if self.writeback { HELD_BACK_PATIENCE } else { usually }
    }

    fn is_mounted(&self) -> bool {
        matches!(sys_mount::mount_at(&self.target), Ok(Some(e)) if e.dev == self.dev)
    }

    /// Writes dirty pages back, as far as the servers answer in time.
    fn write_back(&self) {
        let (done, is_done) = mpsc::channel();
        let target = self.target.clone();
        let writer = spawn_named("pvfs2-sync", move || {
            let _ = done.send(sys_mount::write_back(&target));
        });
        let patience = self.patience(WRITE_BACK_PATIENCE);
        match writer.map(|_| is_done.recv_timeout(patience)) {
            Some(Ok(Ok(()))) => {}
            outcome => {
                let target = self.target.display();
                tracing::warn!(%target, ?outcome, "changed pages of mappings may not be written");
            }
        }
    }

    fn abort(&self) {
        tracing::warn!(target = %self.target.display(), "still in use: cutting the mount off");
        if let Err(e) = sys_mount::abort(&self.dev, &self.target) {
            tracing::warn!(target = %self.target.display(), "cannot abort the connection: {e}");
        }
    }

    /// Unmounts by the book, asking again while files are open. Then writes dirty pages back, cuts
    /// the mount off (only while it is in the tree can it be cut off everywhere), and takes it away.
    fn unmount(&self) {
        let deadline = Instant::now() + BUSY_PATIENCE;
        let mut lazy = false;
        while self.is_mounted() {
            if !lazy && Instant::now() >= deadline {
                lazy = true;
                self.write_back();
                self.abort();
            }
            match sys_mount::unmount(&self.target, lazy, self.by_helper) {
                Ok(()) => {}
                Err(_) if !lazy => std::thread::sleep(Duration::from_millis(50)),
                Err(e) => {
                    tracing::warn!(target = %self.target.display(), "cannot unmount: {e}");
                    return;
                }
            }
        }
    }
}

impl MountHandle {
    /// The mount point, without symlinks.
    pub fn target(&self) -> &Path {
        &self.shared.target
    }

    /// Whether the mount has ended, by us or by umount(8).
    pub fn has_ended(&self) -> bool {
        *self.shared.ended.lock()
    }

    /// Waits until the mount has ended; false when `patience` (`None`: for ever) ran out.
    pub fn wait(&self, patience: Option<Duration>) -> bool {
        self.shared.wait_ended(patience)
    }

    /// Unmounts and waits for the event loops. Files that are still open keep an unmount waiting
    /// for a moment; then the mount is cut off and taken away, and what still uses it gets errors.
    /// Comes back whatever the servers do. A second call is harmless.
    pub fn unmount(&self) {
        if !self.has_ended() {
            let shared = self.shared.clone();
            let (done, is_done) = mpsc::channel();
            let thread = spawn_named("pvfs2-umount", move || {
                shared.unmount();
                let _ = done.send(());
            });
            let patience = self.shared.patience(UMOUNT_PATIENCE);
            let in_time = thread.is_some() && is_done.recv_timeout(patience).is_ok();
            if !in_time {
                // With the connection gone, what held the umount up fails at once.
                self.shared.abort();
                let _ = is_done.recv_timeout(LOOPS_PATIENCE);
            }
            if !self.shared.wait_ended(Some(LOOPS_PATIENCE)) {
                self.shared.abort();
                if !self.shared.wait_ended(Some(LOOPS_PATIENCE)) {
                    tracing::warn!(target = %self.target().display(), "event loops are left behind");
                }
            }
        }
        let notify_thread = self.notify_thread.lock().take().filter(|_| self.has_ended());
        if let Some(thread) = notify_thread {
            let _ = self.inval.send(Inval::End);
            let _ = thread.join();
        }
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let missing = Path::new("/nonexistent/pvfs2-mount-point");
        assert!(matches!(check_target(missing), Err(MountError::Missing(_))));
        let file = std::env::current_exe().unwrap();
        assert!(matches!(check_target(&file), Err(MountError::NotDirectory(_))));
        let (real, mended) = check_target(&std::env::temp_dir()).unwrap();
        assert!(real.is_absolute() && mended.is_none());
    }

    #[test]
    fn errors_say_what_to_do() {
        let e = mount_error(Path::new("/mnt/x"), io::Error::from_raw_os_error(libc::EPERM));
        assert!(e.to_string().contains("CAP_SYS_ADMIN"), "{e}");
        let text = "fusermount3: option allow_other only allowed if 'user_allow_other' is set";
        let e = mount_error(Path::new("/mnt/x"), io::Error::other(text));
        assert!(matches!(e, MountError::AllowOther));
        let e = mount_error(Path::new("/mnt/x"), io::Error::from_raw_os_error(libc::ENODEV));
        assert!(matches!(e, MountError::NoDevice));
    }

    #[test]
    fn a_mount_that_is_not_there_is_not_remounted() {
        let e = remount(&std::env::temp_dir(), &MountOptions::default()).unwrap_err();
        assert!(matches!(e, MountError::System { .. }), "{e}");
    }
}
