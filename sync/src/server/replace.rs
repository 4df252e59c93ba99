//! A store takes the place of another: a user's store moves to another route, or a backup is loaded. Until
//! the last step every change of the user is answered with 503; reading goes on until the switch. Each
//! step is written down in the server's own database before the next, so that it is finished or undone
//! after a crash at any point:
//!
//! | step | what is done in it | after a crash in it |
//! |---|---|---|
//! | copy | to `.sync/in-USER/` of the target, synced, read back and compared | the copy is dropped; nothing has happened |
//! | place | what was there goes to `.sync/out-USER/`, the copy gets its names | gone on with at the next start, before anybody can change something |
//! | clean | the store counts as lying there; what it replaced is removed | gone on with; the user works meanwhile |
//!
//! A route that is not mounted then is waited for: at the next start, and every hour.
use super::accounts::User;
use super::copying::{Copier, sync_dir};
use super::local::{Step, Swap};
use super::users::{OpenRoute, SERVICE_DIR, Users, Worker};
use crate::error::{Result, SyncError};
use crate::files::OWN_DIRS;
use crate::store::held::{known, open_copy};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The two folders of a store, as they are called where they are copied to.
const PARTS: [&str; 2] = ["own", "tree"];
/// What of our own folder is not copied as it is: begun uploads begin again, the table is copied by
/// SQLite, snapshots are somebody's work under way.
pub(super) const NOT_COPIED: [&str; 5] =
    ["tmp", "meta.db", "meta.db-wal", "meta.db-shm", super::backups::SNAPSHOT];

fn failed(path: &Path) -> impl Fn(std::io::Error) -> SyncError + '_ {
    move |e| SyncError::io(path.display().to_string(), e)
}

/// Where a store is put together, and where what it replaces goes.
pub(super) fn aside(route: &OpenRoute, user: i64, way: &str) -> PathBuf {
    route.root.path().join(SERVICE_DIR).join(format!("{way}-{user}"))
}

/// Removes a folder with all in it; links are removed, not followed. Nothing there is fine.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(dir)(e)),
    }
}

fn there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|e| failed(from)(e.into()))?;
    for dir in [from.parent(), to.parent()].into_iter().flatten() {
        sync_dir(dir)?;
    }
    Ok(())
}

/// Bytes that are free for us where `path` lies, and all that there are.
///
/// # Errors
/// I/O.
pub fn space(path: &Path) -> Result<(u64, u64)> {
    let s = rustix::fs::statvfs(path).map_err(|e| failed(path)(e.into()))?;
    Ok((s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize)))
}

/// A store that is held until this goes, unless it was replaced.
pub(super) struct Held<'a>(&'a Arc<Worker>);

impl<'a> Held<'a> {
    pub(super) fn new(worker: &'a Arc<Worker>, why: &str) -> Result<Self> {
        worker.store.lock().hold(why)?;
        Ok(Self(worker))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.0.is_retired() {
            self.0.store.lock().release();
        }
    }
}

impl Users {
    /// Moves a user's store to another route.
    ///
    /// # Errors
    /// [`SyncError::Taken`], [`SyncError::Full`], [`SyncError::Damaged`], I/O; then it lies where it lay.
    pub fn move_store(&self, user: &User, to: i64) -> Result<String> {
        let from = self.place(user)?;
        if from == to {
            return Err(SyncError::Invalid(format!("the store of {} lies there", user.name)));
        }
        let (target, worker) = (self.route(to)?, self.worker(user)?);
        target.root.check()?;
        let (tree, own) = target.folders(user.id, &user.name);
        if let Some(path) = [&tree, &own].into_iter().find(|p| there(p)) {
            return Err(SyncError::Taken(format!("{}: something is there", path.display())));
        }
        let used = worker.store.lock().usage()?.0;
        let free = space(target.root.path())?.0;
        if used > free {
            let why = format!("{used} bytes to move, {free} free at {}", tree.display());
            return Err(SyncError::Full(why));
        }
        let mut swap = self.local.begin_swap(user.id, &user.name, from, to)?;
        let held = Held::new(&worker, "the store is being moved");
        let source = self.route(from)?.folders(user.id, &user.name);
        let copied = held.and_then(|held| {
            let count = self.copy_store(&worker, source, &aside(&target, user.id, "in"))?;
            self.local.step_swap(&mut swap, Step::Place)?;
            self.put_in_place(&mut swap)?;
            drop(held);
            Ok(count)
        });
        match copied {
            Ok((files, bytes)) => Ok(format!("{files} files, {bytes} bytes moved and compared")),
            Err(e) => Err(self.undo(&swap, e)),
        }
    }

    /// Copies a store that is held.
    fn copy_store(
        &self,
        worker: &Worker,
        (tree, own): (PathBuf, PathBuf),
        to: &Path,
    ) -> Result<(usize, u64)> {
        let tick = |bytes| self.tick(bytes);
        let reuse = |_: &str| None;
        let mut copier = Copier::new(&tick, &reuse);
        remove(to)?;
        std::fs::create_dir(to).map_err(failed(to))?;
        self.point()?;
        copier.folder(&own, &to.join("own"), "own", &NOT_COPIED)?;
        self.point()?;
        let table = to.join("own/meta.db");
        worker.store.lock().copy_table(&table)?;
        copier.folder(&tree, &to.join("tree"), "tree", &[])?;
        self.point()?;
        let table = open_copy(&table)?;
        for path in known(&table)?.into_keys() {
            if !there(&to.join(&path)) {
                return Err(SyncError::Damaged(format!("{path} is missing: load a backup of it")));
            }
        }
        table.close().map_err(|(_, e)| e)?;
        make_ready(to)?;
        Ok((copier.items.len(), copier.items.iter().map(|i| i.size).sum()))
    }

    /// A way that failed ends where it began, unless it is past that.
    pub(super) fn undo(&self, swap: &Swap, e: SyncError) -> SyncError {
        if swap.step == Step::Copy
            && !matches!(e, SyncError::Crash)
            && let Err(also) = self.finish(swap.clone())
        {
            tracing::error!(user = swap.name, error = %also, "undo");
        }
        e
    }

    /// Switches to the store that lies ready, and removes the old one.
    pub(super) fn put_in_place(&self, swap: &mut Swap) -> Result<()> {
        self.point()?;
        self.held.lock().insert(swap.user, "the store is being put in its place".into());
        self.retire(swap.user);
        // If it fails the user stays held, and the next round tries again.
        self.place_parts(swap)?;
        self.held.lock().remove(&swap.user);
        if let Err(e) = self.clean(swap) {
            if matches!(e, SyncError::Crash) {
                return Err(e);
            }
            tracing::error!(user = swap.name, error = %e, "what was replaced is still there");
        }
        Ok(())
    }

    fn place_parts(&self, swap: &mut Swap) -> Result<()> {
        let target = self.route(swap.to)?;
        let (into, out) = (aside(&target, swap.user, "in"), aside(&target, swap.user, "out"));
        std::fs::create_dir_all(&out).map_err(failed(&out))?;
        let (tree, own) = target.folders(swap.user, &swap.name);
        for (part, place) in PARTS.iter().zip([own, tree]) {
            if there(&into.join(part)) {
                if there(&place) {
                    rename(&place, &out.join(part))?;
                    self.point()?;
                }
                rename(&into.join(part), &place)?;
            }
            self.point()?;
        }
        self.local.step_swap(swap, Step::Clean)
    }

    fn clean(&self, swap: &Swap) -> Result<()> {
        self.point()?;
        let target = self.route(swap.to)?;
        if swap.from != swap.to {
            let source = self.route(swap.from)?;
            let out = aside(&source, swap.user, "out");
            std::fs::create_dir_all(&out).map_err(failed(&out))?;
            let (tree, own) = source.folders(swap.user, &swap.name);
            for (part, place) in PARTS.iter().zip([own, tree]) {
                if there(&place) && !there(&out.join(part)) {
                    rename(&place, &out.join(part))?;
                }
                self.point()?;
            }
            remove(&out)?;
        }
        for way in ["in", "out"] {
            remove(&aside(&target, swap.user, way))?;
            self.point()?;
        }
        self.local.end_swap(swap.user)
    }

    /// Finishes or undoes one way.
    fn finish(&self, mut swap: Swap) -> Result<()> {
        match swap.step {
            Step::Copy => {
                remove(&aside(&*self.route(swap.to)?, swap.user, "in"))?;
                self.local.end_swap(swap.user)
            }
            Step::Place => self.put_in_place(&mut swap),
            Step::Clean => self.clean(&swap),
        }
    }

    /// Finishes or undoes what a crash interrupted; what cannot be yet is logged and tried again.
    pub fn finish_swaps(&self) {
        let swaps = self.local.swaps().unwrap_or_else(|e| {
            tracing::error!(error = %e, "stores on their way");
            Vec::new()
        });
        for swap in swaps {
            if swap.step == Step::Place {
                self.held.lock().insert(swap.user, "the store is being put in its place".into());
            }
            let name = swap.name.clone();
            if let Err(e) = self.finish(swap) {
                tracing::error!(user = name, error = %e, "a store on its way");
            }
        }
    }
}

/// Adds the folders that a copy leaves out, and makes all names durable.
pub(super) fn make_ready(to: &Path) -> Result<()> {
    let own = to.join("own");
    for dir in OWN_DIRS {
        std::fs::create_dir_all(own.join(dir)).map_err(failed(&own))?;
    }
    let table = own.join("meta.db");
    std::fs::File::open(&table).and_then(|f| f.sync_all()).map_err(failed(&table))?;
    for dir in [own.as_path(), to] {
        sync_dir(dir)?;
    }
    to.parent().map_or(Ok(()), sync_dir)
}
