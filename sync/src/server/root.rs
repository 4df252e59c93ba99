//! The root as the server holds it: which store lies in it, whether it is still there, and whether one
//! may begin where there is none (trap 5).
//!
//! A root has a store if it has `.sync/store`, an identity that is written once. An empty mount point
//! looks like a root that was never used, so nothing begins there unless somebody says so:
//!
//! | the root | [`Begin::Never`] | [`Begin::New`] | [`Begin::IfEmpty`] |
//! |---|---|---|---|
//! | has a store | opened | refused | opened |
//! | is empty | refused | begun | begun |
//! | has files but no store | refused | refused | refused |
//!
//! While the server runs the root is held open. Each request compares it with what its path names, so
//! that a file system that went away is 503 for everything, and new folders are made beneath the held
//! root, never on the bare mount point. When the store is at the path again in another mount, the server
//! begins anew ([`super::running::Kept`]).
use super::users::SERVICE_DIR;
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Whether a store may begin in a root that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// It must be there.
    #[default]
    Never,
    /// It must not be there.
    New,
    /// It begins if the root is empty.
    IfEmpty,
}

/// The store's identity, beneath the service's folder.
const STORE: &str = "store";
/// What a store of a version before that had at least.
const ACCOUNTS: &str = "accounts.db";
const LOST_FOUND: &str = "lost+found";

/// A root that is open.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    id: String,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> SyncError {
    move |e| SyncError::io(path.display().to_string(), e)
}

/// The identity of the store in `root`; `None` if it has none. A store without one counts as `""`.
fn store_in(root: &Path) -> Result<Option<String>> {
    let own = root.join(SERVICE_DIR);
    match std::fs::read_to_string(own.join(STORE)) {
        Ok(id) => Ok(Some(id.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Ok(own.join(ACCOUNTS).exists().then(String::new))
        }
        Err(e) => Err(failed(&own.join(STORE))(e)),
    }
}

/// Whether nothing lies in `root`; a beginning that was cut short counts as nothing.
fn is_empty(root: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(root).map_err(failed(root))? {
        let name = entry.map_err(failed(root))?.file_name();
        if name != LOST_FOUND && name != SERVICE_DIR {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a small file whole: under another name, synced, then renamed.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| match path.parent() {
            Some(dir) => std::fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        })
        .map_err(failed(path))
}

impl Root {
    /// Opens the root, or begins a store in it.
    ///
    /// # Errors
    /// [`SyncError::RootLost`] with the remedy, as the table above says; I/O.
    pub fn open(path: &Path, begin: Begin) -> Result<Self> {
        let lost = |why: &str| Err(SyncError::RootLost(format!("{} {why}", path.display())));
        if !path.is_dir() {
            return lost("is no directory: mount its file system, or make it");
        }
        let own = path.join(SERVICE_DIR);
        let mut id = match (store_in(path)?, begin) {
            (Some(_), Begin::New) => {
                return lost("has a store already: start without --init");
            }
            (Some(id), _) => id,
            (None, Begin::Never) => {
                return lost(
                    "has no store. If its file system is not mounted, mount it first; if a new \
                     store is to begin here, say so once with --init",
                );
            }
            (None, _) if !is_empty(path)? => {
                return lost(
                    "has files but no store, so they are not the service's: choose an empty \
                     folder, or load the whole backup (with .sync)",
                );
            }
            (None, _) => String::new(),
        };
        if id.is_empty() {
            std::fs::create_dir_all(&own).map_err(failed(&own))?;
            id = hex(&secret::<16>().map_err(|e| SyncError::io("random bytes", e))?);
            write_whole(&own.join(STORE), &format!("{id}\n"))?;
        }
        std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(failed(&own))?;
        let dir = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(path)(e.into()))?;
        Ok(Self { path: path.to_owned(), dir, id })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's identity.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the path still names the root that was opened, with its store.
    ///
    /// # Errors
    /// [`SyncError::RootLost`].
    pub fn check(&self) -> Result<()> {
        let lost = |why: String| {
            let at = self.path.display();
            SyncError::RootLost(format!("{at}: {why}. Mount it again; nothing was changed"))
        };
        let held = fs::fstat(&self.dir).map_err(|e| lost(e.to_string()))?;
        let named = fs::stat(self.path.as_path()).map_err(|e| lost(e.to_string()))?;
        if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino) {
            return Err(lost("another directory is there now".into()));
        }
        let store = format!("{SERVICE_DIR}/{STORE}");
        fs::statat(&self.dir, store.as_str(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| lost(format!("its mark {store}: {e}")))?;
        Ok(())
    }

    /// Whether the store lies at the path again, but in another mount than the one that is held open: its
    /// file system was unmounted and mounted anew. What is held open leads nowhere then.
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.check().is_err() && store_in(&self.path).is_ok_and(|s| s.as_ref() == Some(&self.id))
    }

    /// Makes a folder beneath the root that is held open; one that is there is fine.
    ///
    /// # Errors
    /// I/O.
    pub fn make_dir(&self, below: &str) -> Result<()> {
        match fs::mkdirat(&self.dir, below, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(failed(&self.path.join(below))(e.into())),
        }
    }
}

/// Which stores this machine has had where, remembered outside of every root: what `quickstart` asks
/// before it begins a store by itself. A text file, `ID PATH` in each line.
#[derive(Clone, Debug)]
pub struct Known(PathBuf);

impl Known {
    /// Remembered in this file.
    #[must_use]
    pub fn at(file: PathBuf) -> Self {
        Self(file)
    }

    fn lines(&self) -> Result<Vec<(String, String)>> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => {
                let pair = |l: &str| l.split_once(' ').map(|(a, b)| (a.into(), b.into()));
                Ok(text.lines().filter_map(pair).collect())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(failed(&self.0)(e)),
        }
    }

    /// The store that this root had.
    ///
    /// # Errors
    /// I/O.
    pub fn store(&self, root: &Path) -> Result<Option<String>> {
        let root = root.display().to_string();
        Ok(self.lines()?.into_iter().find(|(_, path)| *path == root).map(|(id, _)| id))
    }

    /// Remembers it.
    ///
    /// # Errors
    /// I/O.
    pub fn remember(&self, root: &Path, id: &str) -> Result<()> {
        let root = root.display().to_string();
        let mut lines = self.lines()?;
        if lines.iter().any(|(i, path)| (i.as_str(), path) == (id, &root)) {
            return Ok(());
        }
        lines.retain(|(_, path)| *path != root);
        lines.push((id.to_owned(), root));
        if let Some(dir) = self.0.parent() {
            std::fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        let text: String = lines.iter().map(|(id, path)| format!("{id} {path}\n")).collect();
        write_whole(&self.0, &text)
    }
}

/// Whether `quickstart` may begin a store at `root` (an absolute path), which is made if it may and is
/// missing: if nothing is known to have been there, or with `init`.
///
/// # Errors
/// [`SyncError::RootLost`] with the remedy.
pub fn quickstart(root: &Path, known: Option<&Known>, init: bool) -> Result<Begin> {
    let at = root.display();
    let was = known.map_or(Ok(None), |k| k.store(root))?;
    let there = if root.is_dir() { store_in(root)? } else { None };
    match (there, was) {
        (Some(id), Some(was)) if id != was && !init => Err(SyncError::RootLost(format!(
            "{at} has another store than it had ({id}, not {was}): mount the right one, or take this \
             one with --init"
        ))),
        (Some(_), _) => Ok(Begin::Never),
        (None, Some(was)) if !init => Err(SyncError::RootLost(format!(
            "{at} had the store {was} and has none now. Is its file system mounted? To begin a new, \
             empty store there: --init"
        ))),
        (None, None) if known.is_none() && !init => Err(SyncError::RootLost(format!(
            "{at} has no store, and without $HOME or $XDG_STATE_HOME it cannot be told whether it had \
             one. To begin a new, empty store there: --init"
        ))),
        (None, _) => {
            std::fs::create_dir_all(root).map_err(failed(root))?;
            Ok(Begin::IfEmpty)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(r: Result<impl std::fmt::Debug>) -> String {
        match r {
            Err(SyncError::RootLost(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn trap5_a_store_begins_only_where_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("r");
        lost(Root::open(&root, Begin::IfEmpty));
        std::fs::create_dir(&root).unwrap();
        assert!(lost(Root::open(&root, Begin::Never)).contains("--init"));
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "refusing leaves no trace");
        std::fs::create_dir(root.join(LOST_FOUND)).unwrap();
        let one = Root::open(&root, Begin::New).unwrap().id().to_owned();
        assert!(lost(Root::open(&root, Begin::New)).contains("already"));
        for again in [Begin::Never, Begin::IfEmpty] {
            assert_eq!(Root::open(&root, again).unwrap().id(), one);
        }
        let full = dir.path().join("full");
        std::fs::create_dir_all(full.join("ann")).unwrap();
        for begin in [Begin::Never, Begin::New, Begin::IfEmpty] {
            lost(Root::open(&full, begin));
        }
        // A store from before there was an identity gets one.
        std::fs::create_dir(full.join(SERVICE_DIR)).unwrap();
        std::fs::write(full.join(SERVICE_DIR).join(ACCOUNTS), "x").unwrap();
        assert_eq!(Root::open(&full, Begin::Never).unwrap().id().len(), 32);
    }

    #[test]
    fn trap5_a_root_that_goes_is_noticed_and_nothing_is_made_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        std::fs::create_dir(&path).unwrap();
        let root = Root::open(&path, Begin::New).unwrap();
        root.check().unwrap();
        std::fs::rename(&path, dir.path().join("away")).unwrap();
        lost(root.check());
        std::fs::create_dir(&path).unwrap(); // the bare mount point
        lost(root.check());
        assert!(!root.came_back());
        root.make_dir("ann").unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        // Another store, then the same one mounted anew.
        drop(Root::open(&path, Begin::New).unwrap());
        assert!(!root.came_back());
        std::fs::copy(dir.path().join("away/.sync/store"), path.join(".sync/store")).unwrap();
        assert!(root.came_back());
        std::fs::remove_dir_all(path.join(SERVICE_DIR)).unwrap();
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(dir.path().join("away"), &path).unwrap();
        root.check().unwrap();
        assert!(!root.came_back());
        std::fs::remove_file(path.join(SERVICE_DIR).join(STORE)).unwrap();
        lost(root.check());
    }

    #[test]
    fn trap5_quickstart_begins_once_and_remembers_it_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mnt/user");
        let known = Known::at(dir.path().join("state/roots"));
        assert_eq!(quickstart(&root, Some(&known), false).unwrap(), Begin::IfEmpty);
        let id = Root::open(&root, Begin::IfEmpty).unwrap().id().to_owned();
        known.remember(&root, &id).unwrap();
        assert_eq!(quickstart(&root, Some(&known), false).unwrap(), Begin::Never);
        // Not mounted: the mount point is empty, or has not even the folder.
        std::fs::rename(&root, dir.path().join("away")).unwrap();
        assert!(lost(quickstart(&root, Some(&known), false)).contains("mounted"));
        assert!(!root.exists());
        std::fs::create_dir(&root).unwrap();
        assert!(lost(quickstart(&root, Some(&known), false)).contains("--init"));
        assert!(lost(quickstart(&root, None, false)).contains("HOME"));
        assert_eq!(quickstart(&root, Some(&known), true).unwrap(), Begin::IfEmpty);
        // Another store in its place.
        let other = Root::open(&root, Begin::IfEmpty).unwrap().id().to_owned();
        assert!(lost(quickstart(&root, Some(&known), false)).contains("another store"));
        assert_eq!(quickstart(&root, Some(&known), true).unwrap(), Begin::Never);
        known.remember(&root, &other).unwrap();
        assert_eq!(quickstart(&root, Some(&known), false).unwrap(), Begin::Never);
    }
}
