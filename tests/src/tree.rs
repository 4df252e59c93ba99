//! A real source tree of 5,000 files as a tar archive: the sources of the crates that this workspace
//! was built from, so nothing need be fetched.
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in the archive.
pub const FILES: usize = 5_000;

/// Packs the tree into `dir/tree.tar` and returns the path, or why it cannot.
pub fn pack(dir: &Path) -> Result<PathBuf, String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    let root = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    files.truncate(FILES);
    if files.len() < FILES {
        return Err(format!("{} crate sources here, {FILES} are wanted: cargo fetch", files.len()));
    }
    let list: Vec<u8> = files
        .iter()
        .filter_map(|f| f.strip_prefix(&root).ok())
        .flat_map(|f| [f.as_os_str().as_encoded_bytes(), b"\n"].concat())
        .collect();
    let (names, tar) = (dir.join("tree.list"), dir.join("tree.tar"));
    std::fs::write(&names, list).map_err(|e| format!("write {}: {e}", names.display()))?;
    let status = Command::new("tar")
        .args(["--verbatim-files-from", "-C"])
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg("-T")
        .arg(&names)
        .status();
    match status {
        Ok(s) if s.success() => Ok(tar),
        other => Err(format!("tar: {other:?}")),
    }
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    const SIZE_MAX: u64 = 256 * 1024;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(&entry.path(), out);
        } else if kind.is_file() && entry.metadata().is_ok_and(|m| m.len() < SIZE_MAX) {
            out.push(entry.path());
        }
    }
}
