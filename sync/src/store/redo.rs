//! Notes of what must happen to the files for a transaction that has been committed. They are absolute
//! and told apart from their own result by inode numbers, so carrying one out twice does nothing.
use super::Store;
use crate::error::{Result, SyncError};
use crate::files::{Area, At, Files, What, name_of, parent_of};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One note.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Note {
    /// The file `own` (inode `inode`) gets the name `path`; what had it goes to `keep`.
    Place { own: String, inode: u64, path: String, keep: String },
    /// The file `path` (inode `inode`, 0: whatever) goes to `keep`.
    Keep { path: String, keep: String },
    /// The directory `path` goes; if it is not empty, whole to `keep`.
    Rmdir { path: String, keep: String },
    /// A directory is made; a file in its place goes to `keep`.
    Mkdir { path: String, keep: String },
    /// What has inode `inode` goes from one name to the other; a stranger there goes to `keep`.
    Move { from: String, to: String, inode: u64, keep: String },
    /// Two names are swapped; `inode` is what the first had before.
    Swap { a: String, b: String, inode: u64 },
    /// A file of ours is no longer needed.
    Drop { own: String },
}

/// Writes a note within the transaction that needs it.
pub fn note(tx: &Transaction, note: &Note) -> Result<()> {
    let text = serde_json::to_string(note).map_err(|e| SyncError::Invalid(e.to_string()))?;
    tx.prepare_cached("INSERT INTO redo (note) VALUES (?1)")?.execute(params![text])?;
    Ok(())
}

fn inode(files: &dyn Files, at: At) -> Result<Option<u64>> {
    Ok(files.stat(at)?.map(|s| s.inode))
}

/// Directories whose names are to be made durable before the notes are struck out: each once, however
/// many notes touched it.
#[derive(Default)]
struct Touched(BTreeSet<(bool, String)>);

impl Touched {
    fn add(&mut self, at: At) {
        self.0.insert((at.0 == Area::Own, at.1.to_owned()));
    }

    fn sync(&mut self, files: &dyn Files) -> Result<()> {
        for (own, dir) in std::mem::take(&mut self.0) {
            files.sync_dir(At(if own { Area::Own } else { Area::Tree }, &dir))?;
        }
        Ok(())
    }
}

/// Moves what lies at `at` to `keep` in our own area; a name that is there already gets a number.
fn keep(files: &dyn Files, touched: &mut Touched, at: At, keep: &str) -> Result<()> {
    let mut name = keep.to_owned();
    let mut nth = 1;
    while files.stat(At(Area::Own, &name))?.is_some() {
        nth += 1;
        name = format!("{keep}.{nth}");
    }
    files.rename(at, At(Area::Own, &name))?;
    touched.add(At(Area::Own, parent_of(keep)));
    touched.add(At(at.0, parent_of(at.1)));
    Ok(())
}

/// Carries one note out.
fn carry_out(files: &dyn Files, touched: &mut Touched, note: &Note) -> Result<()> {
    if matches!(note, Note::Move { .. } | Note::Swap { .. }) {
        // Directories get other names.
        touched.sync(files)?;
    }
    match note {
        Note::Place { own, inode: want, path, keep: to } => {
            let (from, at) = (At(Area::Own, own), At(Area::Tree, path));
            touched.add(At(Area::Tree, parent_of(path)));
            let there = inode(files, at)?;
            if there != Some(*want) {
                if inode(files, from)? != Some(*want) {
                    return Err(SyncError::Damaged(format!("{path}: its new bytes are gone")));
                }
                if there.is_none() {
                    return files.rename(from, at);
                }
                files.exchange(from, at)?;
            }
            // After the swap the old bytes lie where the new ones came from.
            if inode(files, from)?.is_some() { keep(files, touched, from, to) } else { Ok(()) }
        }
        Note::Keep { path, keep: to } => {
            let at = At(Area::Tree, path);
            if files.stat(At(Area::Own, to))?.is_none() && files.stat(at)?.is_some() {
                keep(files, touched, at, to)?;
            }
            Ok(())
        }
        Note::Rmdir { path, keep: to } => {
            let at = At(Area::Tree, path);
            match files.stat(at)? {
                Some(s) if s.what == What::Dir => {
                    touched.0.remove(&(false, path.clone()));
                    if !files.list(at)?.entries.is_empty() || files.remove_dir(at).is_err() {
                        keep(files, touched, at, to)?;
                    }
                    touched.add(At(Area::Tree, parent_of(path)));
                }
                _ => {}
            }
            Ok(())
        }
        Note::Mkdir { path, keep: to } => {
            let at = At(Area::Tree, path);
            touched.add(At(Area::Tree, parent_of(path)));
            match files.stat(at)? {
                Some(s) if s.what == What::Dir => return Ok(()),
                Some(_) => keep(files, touched, at, to)?,
                None => {}
            }
            files.mkdir(at)
        }
        Note::Move { from, to, inode: want, keep: stranger } => {
            let (a, b) = (At(Area::Tree, from), At(Area::Tree, to));
            let there = inode(files, b)?;
            touched.add(At(Area::Tree, parent_of(from)));
            touched.add(At(Area::Tree, parent_of(to)));
            if there == Some(*want) {
                return touched.sync(files);
            }
            if inode(files, a)? != Some(*want) {
                return Err(SyncError::Damaged(format!("{from} was replaced behind the service")));
            }
            if there.is_some() {
                keep(files, touched, b, stranger)?;
            }
            files.rename(a, b)?;
            touched.sync(files)
        }
        Note::Swap { a, b, inode: want } => {
            let (a, b) = (At(Area::Tree, a), At(Area::Tree, b));
            if inode(files, b)? != Some(*want) {
                files.exchange(a, b)?;
            }
            touched.add(At(Area::Tree, parent_of(a.1)));
            touched.add(At(Area::Tree, parent_of(b.1)));
            touched.sync(files)
        }
        Note::Drop { own } => {
            debug_assert!(!name_of(own).is_empty());
            files.remove_file(At(Area::Own, own))
        }
    }
}

/// Carries out those notes, of the first ones, that give files their names where nothing is in the way:
/// nearly always all of a transaction. Returns which are done. (`own` was given to no other file since the
/// note was written, so it is the one that is meant.)
fn place_first(files: &dyn Files, touched: &mut Touched, notes: &[Note]) -> Result<Vec<bool>> {
    let (mut renames, mut paths) = (Vec::new(), BTreeSet::new());
    for note in notes {
        match note {
            Note::Place { own, path, .. } if paths.insert(path) => {
                renames.push((At(Area::Own, own), At(Area::Tree, path)));
            }
            _ => break,
        }
    }
    let mut done = Vec::with_capacity(renames.len());
    for ((_, at), result) in renames.iter().zip(files.rename_many(&renames)) {
        match result {
            Err(e @ SyncError::Crash) => return Err(e),
            Err(_) => done.push(false),
            Ok(()) => {
                touched.add(At(at.0, parent_of(at.1)));
                done.push(true);
            }
        }
    }
    Ok(done)
}

impl Store {
    /// Carries out every note that is left, oldest first, and strikes them out.
    pub(super) fn recover(&mut self) -> Result<()> {
        let notes: Vec<(i64, String)> = {
            let mut q = self.db.prepare_cached("SELECT id, note FROM redo ORDER BY id")?;
            q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?
        };
        if notes.is_empty() {
            return Ok(());
        }
        let mut touched = Touched::default();
        let parse = |(_, text): &(i64, String)| {
            serde_json::from_str(text).map_err(|e| SyncError::Invalid(e.to_string()))
        };
        let all: Vec<Note> = notes.iter().map(parse).collect::<Result<_>>()?;
        let placed = place_first(&*self.files, &mut touched, &all)?;
        for (n, note) in all.iter().enumerate() {
            if !placed.get(n).copied().unwrap_or(false) {
                carry_out(&*self.files, &mut touched, note)?;
            }
        }
        touched.sync(&*self.files)?;
        let last = notes.last().map_or(0, |(id, _)| *id);
        // Not synced: if that is lost they are carried out again, before anything else.
        self.db.pragma_update(None, "synchronous", "NORMAL")?;
        let struck = self.db.prepare_cached("DELETE FROM redo WHERE id <= ?1")?.execute([last]);
        self.db.pragma_update(None, "synchronous", "FULL")?;
        struck?;
        Ok(())
    }

    /// The inode that the tree has at `path`; 0 if nothing is there.
    pub(super) fn inode_at(&self, path: &str) -> Result<u64> {
        Ok(inode(&*self.files, At(Area::Tree, path))?.unwrap_or(0))
    }
}
