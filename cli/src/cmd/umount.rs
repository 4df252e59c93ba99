//! `pvfs2 umount`: unmounts, also what a crashed program left.
use crate::mounts;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Arguments of `pvfs2 umount`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 umount /mnt/pvfs2
  pvfs2 umount --lazy /mnt/pvfs2     take it out of the tree now, end it when nobody uses it

umount(8) does the same; as another user than root, so does fusermount3 -u.")]
pub struct UmountArgs {
    /// The mount point
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Detach now even when it is in use
    #[arg(short, long)]
    pub lazy: bool,
}

/// Runs it.
///
/// # Errors
/// When nothing of ours is mounted there or it is in use.
pub fn run(args: UmountArgs) -> Result<()> {
    let dir = mounts::lexical(&args.dir)?;
    // Only the parent is followed: a look at a dead mount would fail.
    let dir = match (dir.parent().and_then(|p| p.canonicalize().ok()), dir.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => dir,
    };
    match mounts::on(&dir)? {
        Some(m) if m.fs_type == mounts::FS_TYPE => {}
        Some(m) => {
            bail!("{} is a mount of type {}, not ours; use umount(8)", dir.display(), m.fs_type)
        }
        None => bail!(
            "nothing is mounted on {}; `grep pvfs2 /proc/mounts` shows what is",
            dir.display()
        ),
    }
    unmount(&dir, args.lazy)
}

/// Unmounts with the means that this user has.
///
/// # Errors
/// The system's, with what to do.
pub fn unmount(dir: &std::path::Path, lazy: bool) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    if rustix::process::geteuid().is_root() {
        let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        return match unmount(dir, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::BUSY) => bail!(
                "{} is in use; end the programs that use it (`fuser -vm {}` shows them), or use --lazy",
                dir.display(),
                dir.display()
            ),
            Err(e) => Err(e).with_context(|| format!("cannot unmount {}", dir.display())),
        };
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let out =
        command.arg("--").arg(dir).output().context("cannot run fusermount3; install fuse3")?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
