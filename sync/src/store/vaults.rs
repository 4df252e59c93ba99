//! Encrypted folders, as far as the server knows of them: a folder with a key file ([`KEY_FILE`]) is one,
//! and all below it is sealed by devices. The server cannot check what it cannot read; it keeps plain
//! things from getting in by mistake (a browser, WebDAV, an old program), and the key file from getting
//! lost while something is there that needs it.
//!
//! | asked for | allowed |
//! |---|---|
//! | a key file in a folder that is empty and not in an encrypted one | yes: from now on it is encrypted |
//! | a key file anywhere else, another kind of thing of that name, moving one | no |
//! | anything with a plain name, or a content that does not begin as sealed ones do, in an encrypted folder | no |
//! | replacing the key file | by one of the same key |
//! | moving across the border of an encrypted folder | no |
//! | taking something of a deleted encrypted folder out of the trash | yes: the directories above it and the key file come back with it |
//! | deleting the key file | only together with its folder, which may hold nothing else |
use super::redo::{Note, note};
use super::trash::home;
use super::{Store, children, holder, journal, live, next_rev};
use crate::api::NodeInfo;
use crate::error::{Result, SyncError};
use crate::files::join;
use crate::files::{Area, At, Files};
use crate::names::{DEPTH_MAX, conflict, fold};
use crate::tree::{Kind, NodeId, ROOT};
use crate::vault::content::MAGIC;
use crate::vault::key_file::{BYTES_MAX, KeyFile};
use crate::vault::{KEY_FILE, is_key_file, is_sealed};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// The encrypted folder that a directory is or lies in; the outermost.
pub(super) fn vault_of(db: &Connection, dir: NodeId) -> Result<Option<NodeId>> {
    let (mut at, mut found) = (dir, None);
    for _ in 0..=DEPTH_MAX {
        if at == ROOT {
            break;
        }
        if holder(db, at, KEY_FILE)?.is_some() {
            found = Some(at);
        }
        match super::lookup(db, at)? {
            Some(node) => at = node.parent,
            None => break,
        }
    }
    Ok(found)
}

fn refused(what: impl std::fmt::Display) -> SyncError {
    SyncError::Invalid(format!(
        "{what}: the folder is encrypted end to end; only a device that has its key changes anything in it"
    ))
}

/// Whether a directory or a node that moves may get this name there.
pub(super) fn may_name(db: &Connection, parent: NodeId, name: &str) -> Result<()> {
    if is_key_file(name) {
        return Err(SyncError::Invalid(format!("{name:?} is the name of key files")));
    }
    match vault_of(db, parent)? {
        Some(_) if !is_sealed(name) => Err(refused(format!("{name:?} is not taken"))),
        _ => Ok(()),
    }
}

/// Whether a new file of this name and size may be put there.
pub(super) fn may_put(db: &Connection, parent: NodeId, name: &str, size: u64) -> Result<()> {
    if !is_key_file(name) {
        return may_name(db, parent, name);
    }
    let why = if name != KEY_FILE || size > BYTES_MAX as u64 {
        "this is no key file"
    } else if parent == ROOT {
        "the user's own folder cannot be encrypted, only one in it"
    } else if vault_of(db, parent)?.is_some() {
        "the folder is or lies in an encrypted one"
    } else if !children(db, parent)?.is_empty() {
        "only an empty folder becomes an encrypted one"
    } else {
        return Ok(());
    };
    Err(SyncError::Invalid(format!("{name:?} is not taken: {why}")))
}

/// Whether the bytes that wait in `own` may be the content of a file of this name there; `old`: where the
/// content lies that they replace.
pub(super) fn may_hold(
    db: &Connection,
    parent: NodeId,
    name: &str,
    files: &dyn Files,
    own: &str,
    old: Option<&str>,
) -> Result<()> {
    if is_key_file(name) {
        let read = |at| -> Result<_> { KeyFile::parse(&files.read(at, 0, BYTES_MAX + 1)?)?.id() };
        let new = read(At(Area::Own, own));
        let before = old.map(|path| read(At(Area::Tree, path)));
        return match (new, before) {
            (Ok(id), Some(Ok(was))) if id != was => {
                let why = "it belongs to another key than the one that is there";
                Err(SyncError::Invalid(format!("{name:?} is not taken: {why}")))
            }
            (Ok(_), _) => Ok(()),
            (Err(e @ SyncError::Crash), _) => Err(e),
            (Err(e), _) => Err(SyncError::Invalid(format!("{name:?} is not taken: {e}"))),
        };
    }
    if vault_of(db, parent)?.is_none() {
        return Ok(());
    }
    let sealed = files.read(At(Area::Own, own), 0, MAGIC.len())? == MAGIC;
    if sealed { Ok(()) } else { Err(refused(format!("{name:?} is not encrypted"))) }
}

/// Whether a node may change its place to another directory.
pub(super) fn may_cross(db: &Connection, node: &NodeInfo, to: NodeId) -> Result<()> {
    if is_key_file(&node.name) {
        return Err(SyncError::Invalid(format!("{:?}: a key file stays where it is", node.name)));
    }
    if node.parent == to || vault_of(db, node.parent)? == vault_of(db, to)? {
        return Ok(());
    }
    Err(SyncError::Invalid(format!(
        "{:?}: nothing is moved into or out of an encrypted folder at the server; a device does it by \
         sending it anew",
        node.name
    )))
}

/// Whether these are all that a folder holds and may go with it: nothing but a key file.
pub(super) fn only_key_file(below: &[(NodeInfo, String)]) -> bool {
    matches!(below, [(node, _)] if node.name == KEY_FILE && node.kind == Kind::File)
}

/// A deleted node is alive again, at this place.
fn alive(tx: &Transaction, id: NodeId, parent: NodeId, name: &str, by: (&str, i64)) -> Result<i64> {
    let rev = next_rev(tx)?;
    tx.execute(
        "UPDATE node SET parent = ?2, name = ?3, fold = ?4, rev = ?5, deleted = 0, deleted_ms = 0, \
         trash = 0, generation = generation + 1 WHERE id = ?1",
        params![id, parent, name, fold(name), rev],
    )?;
    journal(tx, rev, id, "restore", by.0, by.1)?;
    Ok(rev)
}

/// The key file that a directory had when it was deleted: its number and where its bytes lie.
fn old_key_file(tx: &Transaction, dir: NodeId) -> Result<Option<(NodeId, String)>> {
    let sql = "SELECT id, deleted FROM node WHERE parent = ?1 AND name = ?2 AND deleted > 0 \
               AND trash = 1 ORDER BY deleted DESC LIMIT 1";
    let found: Option<(NodeId, i64)> =
        tx.query_row(sql, params![dir, KEY_FILE], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    Ok(found.map(|(id, rev)| (id, format!("trash/{id}@{rev}"))))
}

/// Before `old` is taken out of the trash: if it lay in an encrypted folder, its directories come back up
/// to that folder, and the key file. True: its name must stay as it is.
pub(super) fn revive(
    tx: &Transaction,
    files: &dyn Files,
    old: &NodeInfo,
    who: &str,
    ms: i64,
) -> Result<bool> {
    let key = is_key_file(&old.name);
    if !key && !is_sealed(&old.name) {
        return Ok(false);
    }
    let (mut gone, mut at) = (Vec::new(), old.parent);
    while let Some(dir) = super::lookup(tx, at)?.filter(|d| d.deleted && gone.len() <= DEPTH_MAX) {
        at = dir.parent;
        gone.push(dir);
    }
    if gone.is_empty() && key {
        return Err(SyncError::Invalid(
            "a key file comes back only together with its folder".into(),
        ));
    }
    let mut root = None;
    for (n, dir) in gone.iter().enumerate() {
        if old_key_file(tx, dir.id)?.is_some() {
            root = Some(n);
        }
    }
    let within = vault_of(tx, at)?.is_some();
    match root {
        _ if within => {}
        Some(n) => gone.truncate(n + 1),
        None => return Ok(false),
    }
    for (n, dir) in gone.iter().enumerate().rev() {
        let (parent, above) = home(tx, dir.parent)?;
        let mut name = dir.name.clone();
        let mut nth = 1;
        while holder(tx, parent, &name)?.is_some() {
            if within || Some(n) != root {
                return Err(SyncError::Taken(format!("{name:?} in an encrypted folder")));
            }
            name = conflict(&dir.name, "restored", &format!("rev{}", dir.rev), nth);
            nth += 1;
        }
        let rev = alive(tx, dir.id, parent, &name, (who, ms))?;
        let path = join(&above, &name);
        note(tx, &Note::Mkdir { path: path.clone(), keep: format!("foreign/{}@{rev}", dir.id) })?;
        if within || Some(n) != root || key {
            continue;
        }
        if let Some((id, own)) = old_key_file(tx, dir.id)? {
            let inode = files.stat(At(Area::Own, &own))?.map_or(0, |s| s.inode);
            let rev = alive(tx, id, dir.id, KEY_FILE, (who, ms))?;
            let path = join(&path, KEY_FILE);
            note(tx, &Note::Place { own, inode, path, keep: format!("foreign/{id}@{rev}") })?;
        }
    }
    Ok(true)
}

impl Store {
    /// The encrypted folder that a node is or lies in.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn vault_of(&self, node: NodeId) -> Result<Option<NodeId>> {
        let node = live(&self.db, node)?;
        vault_of(&self.db, if node.kind == Kind::Dir { node.id } else { node.parent })
    }
}
