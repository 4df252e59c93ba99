//! What is mounted, as `/proc/self/mountinfo` tells: which of it is ours, which path lies below
//! which mount. Reads the kernel's table and never touches a mount, so a dead one cannot hang it.
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The type under which our mounts stand in the kernel's table.
pub const FS_TYPE: &str = "fuse.pvfs2";

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount point.
    pub dir: PathBuf,
    /// File system type.
    pub fs_type: String,
    /// What is mounted; for our mounts the mount spec.
    pub source: String,
}

/// All mounts, in order of mounting.
///
/// # Errors
/// When /proc is not there.
pub fn all() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")
        .context("cannot read /proc/self/mountinfo; is /proc mounted?")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
}

/// Our own mounts.
///
/// # Errors
/// As [`all`].
pub fn ours() -> Result<Vec<MountEntry>> {
    Ok(all()?.into_iter().filter(|m| m.fs_type == FS_TYPE).collect())
}

/// The uppermost mount on exactly `dir`, if any.
///
/// # Errors
/// As [`all`].
pub fn on(dir: &Path) -> Result<Option<MountEntry>> {
    Ok(all()?.into_iter().rev().find(|m| m.dir == dir))
}

/// The mount of ours that holds `path`, and the path below it; `None` when another file system
/// holds it.
///
/// # Errors
/// As [`all`].
pub fn holding(path: &Path) -> Result<Option<(MountEntry, PathBuf)>> {
    let path = lexical(path)?;
    Ok(holding_in(&all()?, &path))
}

fn holding_in(mounts: &[MountEntry], path: &Path) -> Option<(MountEntry, PathBuf)> {
    // Later mounts cover earlier ones; the longest mount point that is a prefix wins.
    let best = mounts
        .iter()
        .enumerate()
        .filter(|(_, m)| path.starts_with(&m.dir))
        .max_by_key(|(i, m)| (m.dir.as_os_str().len(), *i))?
        .1;
    let below = path.strip_prefix(&best.dir).ok()?.to_owned();
    (best.fs_type == FS_TYPE).then(|| (best.clone(), below))
}

/// `path` made absolute, with "." and ".." taken out by the letters (no symlink is followed).
///
/// # Errors
/// When there is no current directory.
pub fn lexical(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path)
        .with_context(|| format!("cannot make '{}' absolute", path.display()))?;
    let mut out = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    Ok(out)
}

/// `36 35 98:0 / /mnt/a rw,noatime master:1 - fuse.pvfs2 tcp://h:1/fs rw`: the mount point is
/// field 5, the type and the source follow the lone dash; blanks are written as octal escapes.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let dir = unescape(fields.nth(4)?);
    let mut tail = fields.skip_while(|f| *f != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(tail.next()?).into_owned();
    let source = unescape(tail.next()?);
    Some(MountEntry {
        dir: OsString::from_vec(dir).into(),
        fs_type,
        source: String::from_utf8_lossy(&source).into_owned(),
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        let digits =
            tail.get(..3).filter(|d| b == b'\\' && d.iter().all(|c| (b'0'..b'8').contains(c)));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |v, c| v * 8 + u32::from(c - b'0'));
                out.push(value as u8);
                rest = &tail[3..];
            }
            None => {
                out.push(b);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<MountEntry> {
        b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
          40 22 0:50 / /mnt/pvfs2 rw,nosuid shared:9 - fuse.pvfs2 tcp://h:3334/fs rw,user_id=0\n\
          41 40 0:51 / /mnt/pvfs2/sub rw - tmpfs tmpfs rw\n\
          42 22 0:52 / /mnt/with\\040blank rw - fuse.pvfs2 unix:///d/m.sock/fs rw"
            .split(|b| *b == b'\n')
            .filter_map(|l| parse_line(l.trim_ascii()))
            .collect()
    }

    #[test]
    fn finds_the_mount_that_holds_a_path() {
        let t = table();
        assert_eq!(t.len(), 4);
        let find = |p: &str| holding_in(&t, Path::new(p)).map(|(m, rest)| (m.source, rest));
        assert_eq!(find("/mnt/pvfs2/a/b"), Some(("tcp://h:3334/fs".into(), "a/b".into())));
        assert_eq!(find("/mnt/pvfs2"), Some(("tcp://h:3334/fs".into(), "".into())));
        assert_eq!(find("/mnt/pvfs2/sub/x"), None);
        assert_eq!(find("/mnt/pvfs2x"), None);
        assert_eq!(find("/mnt/with blank/f"), Some(("unix:///d/m.sock/fs".into(), "f".into())));
        assert_eq!(find("/etc/passwd"), None);
    }

    #[test]
    fn dots_go_by_the_letters() {
        assert_eq!(lexical(Path::new("/a/./b/../c/")).unwrap(), Path::new("/a/c"));
        assert_eq!(lexical(Path::new("/../a")).unwrap(), Path::new("/a"));
        assert!(lexical(Path::new("x")).unwrap().is_absolute());
    }

    #[test]
    fn the_kernels_own_table_can_be_read() {
        assert!(all().unwrap().iter().any(|m| m.dir == Path::new("/")));
    }
}
