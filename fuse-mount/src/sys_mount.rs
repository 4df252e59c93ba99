//! The system calls of mounting: mount(2) as root, fusermount3 otherwise, umount, the mount table,
//! the connection's abort switch, and the read-ahead of its bdi.
//!
//! Place in the walks: mount, under [`crate::mount`]. Invariant: nothing here waits for a server;
//! what may (umount writes dirty pages back) is called from a thread that may be left behind.
use crate::options::{Allow, MountOptions};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The type that our mounts show in the mount table.
pub const FS_TYPE: &str = "fuse.pvfs2";
/// The kernel's FUSE device.
pub const DEV_FUSE: &str = "/dev/fuse";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// `major:minor` of the mount.
    pub dev: String,
    /// Where.
    pub target: PathBuf,
    /// Type, as `fuse.pvfs2`.
    pub fs_type: String,
    /// What.
    pub source: String,
}

/// The topmost mount at exactly `target`, if any.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mount_at(target: &Path) -> io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&table).into_iter().rev().find(|m| m.target == target))
}

/// Parses `/proc/self/mountinfo`; lines that it does not understand are left out.
fn parse_mountinfo(table: &[u8]) -> Vec<MountEntry> {
    let parse = |line: &[u8]| -> Option<MountEntry> {
        // ID PARENT MAJ:MIN ROOT TARGET OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER_OPTIONS
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-")?;
        let text = |i: usize| fields.get(i).map(|f| unescape(f));
        Some(MountEntry {
            dev: String::from_utf8(text(2)?).ok()?,
            target: PathBuf::from(std::ffi::OsString::from_vec(text(4)?)),
            fs_type: String::from_utf8(text(dash + 1)?).ok()?,
            source: String::from_utf8_lossy(&text(dash + 2)?).into_owned(),
        })
    };
    table.split(|b| *b == b'\n').filter_map(parse).collect()
}

/// Undoes the mount table's octal escapes (`\040` for a space).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field.get(i + 1..i + 4).filter(|d| d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match (field[i], octal) {
            (b'\\', Some(d)) => {
                let n = d.iter().fold(0u32, |n, c| n * 8 + u32::from(c - b'0'));
                out.push(n as u8);
                i += 4;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    out
}

/// Flags of mount(2) for the options. Root's mounts honour devices and suid unless told otherwise.
pub fn mount_flags(options: &MountOptions, is_root: bool) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOATIME, options.no_atime);
    flags.set(MountFlags::NODIRATIME, options.no_diratime);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::SYNCHRONOUS, options.sync);
    flags.set(MountFlags::DIRSYNC, options.dir_sync);
    flags.set(MountFlags::NOSUID, !options.suid.unwrap_or(is_root));
    flags.set(MountFlags::NODEV, !options.dev.unwrap_or(is_root));
    flags
}

/// Whether everybody may come in, as far as the kernel is concerned (`allow_root` is the kernel's
/// `allow_other` with a check of fuser's in front).
pub fn kernel_allow_other(options: &MountOptions, is_root: bool) -> bool {
    match options.allow {
        Allow::Default => is_root,
        Allow::Other | Allow::Root => true,
    }
}

/// Mounts with mount(2); gives the device's descriptor.
///
/// # Errors
/// Those of open(2) on the device and mount(2).
pub fn mount_as_root(target: &Path, source: &str, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open(DEV_FUSE)?;
    let device = OwnedFd::from(device);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if kernel_allow_other(options, true) {
        data.push_str(",allow_other");
    }
    let data = CString::new(data)?;
    let flags = mount_flags(options, true);
    rustix::mount::mount(source, target, FS_TYPE, flags, data.as_c_str())?;
    Ok(device)
}

/// Mounts through the setuid helper fusermount3; gives the device's descriptor, which the helper
/// passes over a socket.
///
/// # Errors
/// The helper's own message, or that it is missing.
pub fn mount_by_helper(target: &Path, source: &str, options: &MountOptions) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    // Our end closes on exec; the helper's end must survive it.
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(helper_options(source, options))
        .arg("--")
        .arg(target)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            io::Error::new(e.kind(), format!("fusermount3 cannot be started ({e}): install fuse3"))
        })?;
    drop(theirs);
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output()?;
    match device {
        Ok(Some(device)) => Ok(device),
        _ => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_string())),
    }
}

fn helper_options(source: &str, options: &MountOptions) -> String {
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let mut out = format!("fsname={source},subtype=pvfs2,default_permissions");
    let mut add = |on: bool, name: &str| {
        if on {
            out.push(',');
            out.push_str(name);
        }
    };
    add(options.read_only, "ro");
    add(options.no_atime, "noatime");
    add(options.no_exec, "noexec");
    add(options.sync, "sync");
    add(options.dir_sync, "dirsync");
    add(kernel_allow_other(options, false), "allow_other");
    out
}

fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [io::IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let device = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(device)
}

/// Unmounts; `lazy` takes the mount out of the tree at once and ends it when its last file closes.
///
/// # Errors
/// Those of umount(2), `EBUSY` among them, or the helper's message.
pub fn unmount(target: &Path, lazy: bool, by_helper: bool) -> io::Result<()> {
    if !by_helper {
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, lazy);
        return Ok(rustix::mount::unmount(target, flags)?);
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-u").arg("-q");
    if lazy {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(target).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    // The helper says no more than this with -q, and in no stable words without.
    Err(io::Error::from_raw_os_error(Errno::BUSY.raw_os_error()))
}

/// Writes back what programs changed through mappings. May wait for servers.
///
/// # Errors
/// Those of open(2) and syncfs(2).
pub fn write_back(target: &Path) -> io::Result<()> {
    let root = rustix::fs::open(
        target,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(rustix::fs::syncfs(root)?)
}

/// Ends the connection of the mount `dev`: every request that waits, and all that follow, fail.
///
/// # Errors
/// When neither the kernel's switch nor a forced umount is available.
pub fn abort(dev: &str, target: &Path) -> io::Result<()> {
    let minor = dev.split(':').nth(1).unwrap_or("0");
    let switch = PathBuf::from("/sys/fs/fuse/connections").join(minor).join("abort");
    if std::fs::write(&switch, b"1").is_ok() {
        return Ok(());
    }
    // A forced umount aborts the connection even where it then fails because files are open.
    match rustix::mount::unmount(target, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Changes the flags of a mount that is there (`mount -o remount`).
///
/// # Errors
/// Those of mount(2).
pub fn remount(target: &Path, options: &MountOptions) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    Ok(rustix::mount::mount_remount(target, mount_flags(options, is_root), "")?)
}

/// Raises the kernel's read-ahead of the mount `dev`, which INIT caps at 128 KiB.
///
/// # Errors
/// When the file is missing or we may not write it.
pub fn set_read_ahead(dev: &str, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{dev}/read_ahead_kb"), kib.to_string())
}

/// Whether `path` is what a dead FUSE process left behind.
pub fn is_dead_mount(path: &Path) -> bool {
    matches!(rustix::fs::stat(path), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table() {
        let table = b"29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            31 29 0:55 / /mnt/a\\040b rw,nosuid shared:7 master:3 - fuse.pvfs2 tcp://h:3334/fs rw\n\
            garbage\n";
        let mounts = parse_mountinfo(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[1],
            MountEntry {
                dev: "0:55".into(),
                target: "/mnt/a b".into(),
                fs_type: "fuse.pvfs2".into(),
                source: "tcp://h:3334/fs".into(),
            }
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a\\040b\\134c\\"), b"a b\\c\\");
        assert_eq!(unescape(b"\\09x"), b"\\09x");
    }

    #[test]
    fn root_honours_devices_and_suid_others_do_not() {
        let o = MountOptions::default();
        assert!(!mount_flags(&o, true).intersects(MountFlags::NODEV | MountFlags::NOSUID));
        assert!(mount_flags(&o, false).contains(MountFlags::NODEV | MountFlags::NOSUID));
        let o = MountOptions::parse("ro,noatime,nodiratime,nosuid,nodev,noexec,sync").unwrap();
        let want = MountFlags::RDONLY
            | MountFlags::NOATIME
            | MountFlags::NODIRATIME
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC
            | MountFlags::SYNCHRONOUS;
        assert_eq!(mount_flags(&o, true), want);
    }

    #[test]
    fn who_may_come_in() {
        let allows = |s: &str, root| kernel_allow_other(&MountOptions::parse(s).unwrap(), root);
        assert!(allows("", true) && !allows("", false));
        assert!(allows("allow_other", false) && allows("allow_root", false));
    }

    #[test]
    fn options_for_the_helper() {
        let o = MountOptions::parse("ro,allow_other").unwrap();
        let line = helper_options("tcp://a,b:1/fs", &o);
        assert_eq!(
            line,
            "fsname=tcp://a\\,b:1/fs,subtype=pvfs2,default_permissions,ro,allow_other"
        );
    }
}
