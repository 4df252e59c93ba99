//! How a tool finds the file system that is meant: `--fs`, $PVFS2_FS, a path below a mount, the
//! only mount there is, or the first line of /etc/pvfs2tab or /etc/fstab.
//!
//! `--fs` takes a mount spec, a mount point, a cluster file or a quickstart's data directory.
use crate::args::FsArgs;
use crate::mounts;
use anyhow::{Context, Result, bail};
use pvfs2_config::{Cluster, MountSpec};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a file system can be asked: several specs that name the same one, tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// At least one.
    pub specs: Vec<MountSpec>,
}

impl Target {
    fn one(spec: &str) -> Result<Target> {
        Ok(Target { specs: vec![spec.parse()?] })
    }
}

/// A path as a tool was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePath {
    /// On a local file system.
    Local(PathBuf),
    /// In PVFS2: bytes from the root, without leading slash.
    Remote(Vec<u8>),
}

/// Finds the file system without a path to go by.
///
/// # Errors
/// When nothing names one, or what names it cannot be read.
pub fn find(args: &FsArgs) -> Result<Target> {
    if let Some(named) = named(args) {
        return from_name(&named);
    }
    let ours = mounts::ours()?;
    let mut sources: Vec<&str> = ours.iter().map(|m| m.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    match sources.as_slice() {
        [only] => return Target::one(only),
        [] => {}
        several => bail!(
            "several file systems are mounted ({}); name one with --fs or PVFS2_FS",
            several.join(", ")
        ),
    }
    match from_tabs() {
        Some(spec) => Target::one(&spec),
        None => bail!(
            "which file system? Name it with --fs tcp://HOST:PORT/NAME or PVFS2_FS, or mount one \
             (`pvfs2 quickstart` makes one)"
        ),
    }
}

fn named(args: &FsArgs) -> Option<String> {
    args.fs.clone().or_else(|| std::env::var("PVFS2_FS").ok()).filter(|s| !s.is_empty())
}

/// The file system and the path in it that a tool's argument means: `pvfs2:/a/b`, a path below a
/// mount, or, where `--fs` or PVFS2_FS names the file system, any other path taken from its root
/// when `local_is_remote`.
///
/// # Errors
/// As [`find`].
pub fn resolve(args: &FsArgs, text: &OsStr) -> Result<(FilePath, Option<Target>)> {
    if let Some(rest) = text.as_bytes().strip_prefix(b"pvfs2:") {
        return Ok((FilePath::Remote(clean(rest)), Some(find(args)?)));
    }
    let path = Path::new(text);
    if let Some(found) = below_mount(path)? {
        return Ok(found);
    }
    // A symlink may lead below a mount; only now is the file system asked.
    if let Some(real) = real_parent(path)
        && let Some(found) = below_mount(&real)?
    {
        return Ok(found);
    }
    Ok((FilePath::Local(path.to_owned()), None))
}

/// As [`resolve`], for tools that only know files of PVFS2: another path is taken from the root of
/// the file system that `--fs` or PVFS2_FS names.
///
/// # Errors
/// As [`find`], and for a local path with no file system named.
pub fn resolve_remote(args: &FsArgs, text: &OsStr) -> Result<(Vec<u8>, Target)> {
    match resolve(args, text)? {
        (FilePath::Remote(path), Some(target)) => Ok((path, target)),
        (FilePath::Remote(path), None) => Ok((path, find(args)?)),
        (FilePath::Local(path), _) => match named(args) {
            Some(named) => Ok((clean(path.as_os_str().as_bytes()), from_name(&named)?)),
            None => bail!(
                "'{}' lies on no PVFS2 mount; give a path below one, or pvfs2:/PATH with --fs SPEC",
                path.display()
            ),
        },
    }
}

fn below_mount(path: &Path) -> Result<Option<(FilePath, Option<Target>)>> {
    let Some((mount, below)) = mounts::holding(path)? else { return Ok(None) };
    let target = Target::one(&mount.source)
        .with_context(|| format!("the source of the mount on {}", mount.dir.display()))?;
    let sub = target.specs.first().map(|s| s.subdir.clone()).unwrap_or_default();
    let whole = Path::new(&sub).join(below);
    Ok(Some((FilePath::Remote(clean(whole.as_os_str().as_bytes())), Some(target))))
}

fn real_parent(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let name = absolute.file_name()?;
    Some(absolute.parent()?.canonicalize().ok()?.join(name))
}

/// Takes empty components and "." out and resolves ".." by the letters.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join(&b'/')
}

fn from_name(named: &str) -> Result<Target> {
    if named.contains("://") {
        return Target::one(named);
    }
    let path = Path::new(named);
    if let Some(mount) =
        mounts::on(&mounts::lexical(path)?)?.filter(|m| m.fs_type == mounts::FS_TYPE)
    {
        return Target::one(&mount.source);
    }
    let file = if path.is_dir() { path.join("cluster.toml") } else { path.to_owned() };
    if file.is_file() {
        let cluster = Cluster::load(&file)?;
        let specs = cluster.specs().iter().map(|s| s.parse()).collect::<Result<Vec<_>, _>>()?;
        return Ok(Target { specs });
    }
    bail!(
        "'{named}' is neither a spec (tcp://HOST:PORT/NAME), a mount point, a cluster file nor a \
         quickstart's data directory"
    )
}

fn from_tabs() -> Option<String> {
    let tab = std::env::var("PVFS2TAB_FILE").unwrap_or_else(|_| "/etc/pvfs2tab".into());
    [tab.as_str(), "/etc/fstab"]
        .iter()
        .find_map(|file| first_in_tab(&std::fs::read_to_string(file).ok()?))
}

/// The spec in the first line whose type is pvfs2 or fuse.pvfs2.
fn first_in_tab(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split('#').next()?.split_whitespace();
        let (spec, kind) = (fields.next()?, fields.nth(1)?);
        (kind == "pvfs2" || kind == FUSE_TYPE).then(|| spec.to_owned())
    })
}

const FUSE_TYPE: &str = mounts::FS_TYPE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tabs_are_read_like_fstab() {
        let text = "# comment\n/dev/sda / ext4 rw 0 1\ntcp://h:3334/fs /mnt/pvfs2 pvfs2 rw 0 0\n";
        assert_eq!(first_in_tab(text).as_deref(), Some("tcp://h:3334/fs"));
        assert_eq!(first_in_tab("tcp://h:1/f /m fuse.pvfs2").as_deref(), Some("tcp://h:1/f"));
        assert_eq!(first_in_tab("#tcp://h:1/f /m pvfs2\n\n/dev/x /y xfs"), None);
    }

    #[test]
    fn names_of_all_kinds_are_understood() {
        let spec = |t: Target| t.specs[0].to_string();
        assert_eq!(spec(from_name("tcp://h:3334/fs").unwrap()), "tcp://h:3334/fs");
        let e = from_name("/nonexistent").unwrap_err().to_string();
        assert!(e.contains("neither a spec"), "{e}");
        let args = FsArgs { fs: Some("tcp://h:3334/fs".into()), ..Default::default() };
        let (path, target) = resolve(&args, OsStr::new("pvfs2:/a//b/../c")).unwrap();
        assert_eq!(path, FilePath::Remote(b"a/c".to_vec()));
        assert_eq!(spec(target.unwrap()), "tcp://h:3334/fs");
        assert_eq!(
            resolve(&args, OsStr::new("/etc/passwd")).unwrap().0,
            FilePath::Local("/etc/passwd".into())
        );
        assert_eq!(resolve_remote(&args, OsStr::new("/etc/passwd")).unwrap().0, b"etc/passwd");
        assert_eq!(clean(b"/../.././"), b"");
    }
}
