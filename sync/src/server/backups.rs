//! Backups: made while the server runs, each a folder of plain files that can be read without us.
//!
//! ```text
//! BACKUPS/20261126-051203/manifest.json     what it is; written last
//!                        /accounts.json     accounts with the hashes of their passwords (mode 0600)
//!                        /USER/meta.db      the table, by SQLite's own backup
//!                        /USER/tree/...     the files
//!                        /USER/own/...      old versions, trash, what was set aside
//!                        /USER/files.jsonl  each file's path, bytes and BLAKE3
//! ```
//!
//! A user's table and files are of one moment: under the store's lock the table is copied and every file
//! gets a second name in `own/snapshot/` (files are replaced here, never written in place); then changes
//! go on, and the snapshot is copied, hashed, synced and read back. A file whose bytes the backup before
//! has already is a hard link to it there. What does not fit its table is listed as a problem of that
//! backup. A backup that was cut off has the name `NAME.part` and is removed by the next one.
use super::accounts::User;
use super::copying::{Copier, Item, hash_file, sync_dir};
use super::pages::{date, time};
use super::replace::remove;
use super::users::{SERVICE_DIR, Users};
use crate::error::{Result, SyncError};
use crate::store::held::{head_of, known, open_copy};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder beside a user's versions that a snapshot lies in.
pub const SNAPSHOT: &str = "snapshot";
const MANIFEST: &str = "manifest.json";
const ACCOUNTS: &str = "accounts.json";
/// Marks a folder as one for backups, against an empty mount point (trap 5).
const MARK: &str = "pvfs2-sync-backups";
/// The folders of a store that a backup has besides the tree.
const OWN: [&str; 3] = ["versions", "trash", "foreign"];
const FORMAT: u32 = 1;

/// What a backup is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this layout.
    pub format: u32,
    /// The identity of the root that it was made of.
    pub store: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Why it was made.
    pub why: String,
    /// Whose stores are in it.
    pub users: Vec<Saved>,
}

/// A user's store in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The name; also the folder's in the backup.
    pub name: String,
    /// The newest revision.
    pub rev: i64,
    /// The history's name.
    pub epoch: String,
    /// Files, versions and trash included.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What did not fit the table when it was made.
    pub problems: Vec<String>,
}

/// A backup in the list.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub manifest: Manifest,
}

pub(super) fn failed(path: &Path) -> impl Fn(std::io::Error) -> SyncError + '_ {
    move |e| SyncError::io(path.display().to_string(), e)
}

pub(super) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path).map_err(failed(path))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
        .map_err(failed(path))
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(failed(path))?;
    serde_json::from_str(&text).map_err(|e| SyncError::Damaged(format!("{}: {e}", path.display())))
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| SyncError::Invalid(e.to_string()))
}

/// What a snapshot under way left behind goes.
///
/// # Errors
/// I/O.
pub fn drop_snapshot(own: &Path) -> Result<()> {
    remove(&own.join(SNAPSHOT))
}

/// Gives every file below `from` a second name below `to`, or copies it where that cannot be.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to).map_err(failed(to))?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (a, b) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed(&a))?;
        if kind.is_dir() {
            link_all(&a, &b)?;
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&a).map_err(failed(&a))?;
            std::os::unix::fs::symlink(target, &b).map_err(failed(&b))?;
        } else if kind.is_file() && std::fs::hard_link(&a, &b).is_err() {
            std::fs::copy(&a, &b).map_err(failed(&a))?;
        }
    }
    Ok(())
}

/// The list of a saved store's files.
pub(super) fn items(dir: &Path) -> Result<Vec<Item>> {
    let path = dir.join("files.jsonl");
    let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
    let bad = |e| SyncError::Damaged(format!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).map_err(bad)).collect()
}

impl Users {
    /// Where backups lie.
    ///
    /// # Errors
    /// [`SyncError::RootLost`] if it is a folder of its own that is not there.
    pub fn backup_dir(&self) -> Result<PathBuf> {
        match self.local.word("backups")? {
            Some(dir) => {
                let dir = PathBuf::from(dir);
                if !dir.join(MARK).is_file() {
                    let why = format!("{} has no {MARK}: mount its file system", dir.display());
                    return Err(SyncError::RootLost(why));
                }
                Ok(dir)
            }
            None => {
                let dir = self.root().path().join(SERVICE_DIR).join("backups");
                if !dir.exists() {
                    make_dir(&dir)?;
                }
                Ok(dir)
            }
        }
    }

    /// Sets it: an absolute path outside of the root; empty: below the root.
    ///
    /// # Errors
    /// [`SyncError::Invalid`], I/O.
    pub fn set_backup_dir(&self, dir: &str) -> Result<()> {
        if !dir.is_empty() {
            let path = Path::new(dir);
            if !path.is_absolute() || !path.is_dir() || path.starts_with(self.root().path()) {
                return Err(SyncError::Invalid(format!(
                    "{dir}: say the absolute path of a folder that is there, outside of the root"
                )));
            }
            let mark = path.join(MARK);
            if !mark.exists() {
                write(&mark, "backups of pvfs2 sync\n")?;
            }
        }
        self.local.set_word("backups", dir)
    }

    /// The backups that are whole, newest first.
    ///
    /// # Errors
    /// I/O.
    pub fn backups(&self) -> Result<Vec<Listed>> {
        let dir = self.backup_dir()?;
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed(&dir))? {
            let entry = entry.map_err(failed(&dir))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path().join(MANIFEST);
            if name.ends_with(".part") || !path.is_file() {
                continue;
            }
            match read(&path) {
                Ok(manifest) => all.push(Listed { name, manifest }),
                Err(e) => tracing::error!(error = %e, "a backup that cannot be read"),
            }
        }
        all.sort_by(|a, b| (b.manifest.at_ms, &b.name).cmp(&(a.manifest.at_ms, &a.name)));
        Ok(all)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn backup(&self, name: &str) -> Result<(PathBuf, Manifest)> {
        let found = self.backups()?.into_iter().find(|b| b.name == name);
        match found {
            Some(b) if b.manifest.format == FORMAT => {
                Ok((self.backup_dir()?.join(name), b.manifest))
            }
            Some(b) => Err(SyncError::Invalid(format!(
                "backup {name} has format {}, this program knows {FORMAT}",
                b.manifest.format
            ))),
            None => Err(SyncError::NotFound(format!("backup {name}"))),
        }
    }

    /// Makes a backup of these users; its name.
    ///
    /// # Errors
    /// I/O, no room, a store that cannot be opened.
    pub fn make_backup(&self, users: &[User], why: &str) -> Result<String> {
        let dir = self.backup_dir()?;
        self.drop_parts(&dir)?;
        let at_ms = self.now_ms();
        let (y, m, d) = date(at_ms.div_euclid(86_400_000));
        let clock = time(at_ms).split_off(11).replace(':', "");
        let first = format!("{y:04}{m:02}{d:02}-{clock}{:02}", at_ms.div_euclid(1_000) % 60);
        let mut name = first.clone();
        let mut nth = 1;
        while dir.join(&name).exists() {
            nth += 1;
            name = format!("{first}-{nth}");
        }
        let part = dir.join(format!("{name}.part"));
        make_dir(&part)?;
        let before = self.backups()?;
        let made = users.iter().map(|user| {
            self.point()?;
            let old = before.iter().find(|b| {
                b.manifest.store == self.root().id()
                    && b.manifest.users.iter().any(|s| s.name == user.name)
            });
            let old = old.map(|b| dir.join(&b.name).join(&user.name));
            self.save(user, &part.join(&user.name), old.as_deref())
        });
        let made = made.collect::<Result<Vec<_>>>().and_then(|users| {
            let store = self.root().id().to_owned();
            let manifest = Manifest { format: FORMAT, store, at_ms, why: why.to_owned(), users };
            write(&part.join(ACCOUNTS), &json(&self.accounts.export(&manifest.names())?)?)?;
            write(&part.join(MANIFEST), &json(&manifest)?)?;
            sync_dir(&part)?;
            self.point()?;
            std::fs::rename(&part, dir.join(&name)).map_err(failed(&part))?;
            sync_dir(&dir)
        });
        match made {
            Ok(()) => Ok(name),
            Err(e @ SyncError::Crash) => Err(e),
            Err(e) => {
                remove(&part)?;
                Err(e)
            }
        }
    }

    fn drop_parts(&self, dir: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
            let path = entry.map_err(failed(dir))?.path();
            if path.extension().is_some_and(|e| e == "part") {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn save(&self, user: &User, to: &Path, old: Option<&Path>) -> Result<Saved> {
        make_dir(to)?;
        let worker = self.worker(user)?;
        let (tree, own) = worker.folders(user);
        let (snapshot, table) = (own.join(SNAPSHOT), to.join("meta.db"));
        {
            // One moment: nothing changes while the store is locked.
            let mut store = worker.store.lock();
            drop_snapshot(&own)?;
            store.copy_table(&table)?;
            std::fs::create_dir(&snapshot).map_err(failed(&snapshot))?;
            link_all(&tree, &snapshot.join("tree"))?;
            std::fs::create_dir(snapshot.join("own")).map_err(failed(&snapshot))?;
            for part in OWN {
                link_all(&own.join(part), &snapshot.join("own").join(part))?;
            }
        }
        self.point()?;
        let copied = self.save_files(&snapshot, to, &table, old);
        if !matches!(copied, Err(SyncError::Crash)) {
            drop_snapshot(&own)?;
        }
        let (saved, items) = copied?;
        let lines = items.iter().map(serde_json::to_string);
        let lines: std::result::Result<Vec<_>, _> = lines.collect();
        let text = lines.map_err(|e| SyncError::Invalid(e.to_string()))?.join("\n");
        write(&to.join("files.jsonl"), &text)?;
        std::fs::File::open(&table).and_then(|f| f.sync_all()).map_err(failed(&table))?;
        sync_dir(to)?;
        Ok(Saved { name: user.name.clone(), ..saved })
    }

    fn save_files(
        &self,
        snapshot: &Path,
        to: &Path,
        table: &Path,
        old: Option<&Path>,
    ) -> Result<(Saved, Vec<Item>)> {
        let db = open_copy(table)?;
        let (known, (epoch, rev)) = (known(&db)?, head_of(&db)?);
        db.close().map_err(|(_, e)| e)?;
        let before = old.map_or(Ok(Vec::new()), items)?;
        let before: HashMap<String, Item> =
            before.into_iter().map(|i| (i.hash.clone(), i)).collect();
        let tick = |bytes| self.tick(bytes);
        let reuse = |path: &str| {
            let (size, hash) = known.get(path)?;
            let item = before.get(&crate::rng::hex(hash)).filter(|i| i.size == *size)?;
            Some((old?.join(&item.path), item.clone()))
        };
        let mut copier = Copier::new(&tick, &reuse);
        copier.folder(&snapshot.join("tree"), &to.join("tree"), "tree", &[])?;
        copier.folder(&snapshot.join("own"), &to.join("own"), "own", &[])?;
        let Copier { items, mut problems, .. } = copier;
        let have: HashMap<&str, &Item> = items.iter().map(|i| (i.path.as_str(), i)).collect();
        for (path, (size, hash)) in &known {
            match have.get(path.as_str()) {
                None => problems.push(format!("{path}: missing")),
                Some(i) if i.size != *size || i.hash != crate::rng::hex(hash) => {
                    problems.push(format!("{path}: not what its table says"));
                }
                Some(_) => {}
            }
        }
        let (files, bytes) = (items.len(), items.iter().map(|i| i.size).sum());
        Ok((Saved { name: String::new(), rev, epoch, files, bytes, problems }, items))
    }

    /// Reads a whole backup, and compares it with what it wrote down; what is wrong with it.
    ///
    /// # Errors
    /// I/O.
    pub fn verify_backup(&self, name: &str) -> Result<Vec<String>> {
        let (dir, manifest) = self.backup(name)?;
        let mut wrong = Vec::new();
        for saved in &manifest.users {
            let dir = dir.join(&saved.name);
            if let Err(e) = open_copy(&dir.join("meta.db")) {
                wrong.push(e.to_string());
            }
            for item in items(&dir)? {
                let path = dir.join(&item.path);
                match hash_file(&path, &|bytes| self.tick(bytes)) {
                    Ok((hash, size)) if (&hash, size) == (&item.hash, item.size) => {}
                    Ok(_) => wrong.push(format!("{}: other bytes", path.display())),
                    Err(e @ SyncError::Net(_)) => return Err(e),
                    Err(e) => wrong.push(e.to_string()),
                }
            }
        }
        Ok(wrong)
    }

    /// Removes a backup; those after it keep the files that they share with it.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; I/O.
    pub fn drop_backup(&self, name: &str) -> Result<()> {
        let (dir, _) = self.backup(name)?;
        let part = dir.with_extension("part");
        std::fs::rename(&dir, &part).map_err(failed(&dir))?;
        remove(&part)
    }
}

impl Manifest {
    /// Whose stores are in it.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.users.iter().map(|u| u.name.as_str()).collect()
    }
}
