//! Operations on the folder. Before a file is replaced or deleted it is compared with what was scanned,
//! and what was taken out is compared again, by its hash (trap 3): an edit that nobody has seen yet is
//! put back or becomes a conflict copy.
//!
//! | download over a file: state | crash there |
//! |---|---|
//! | bytes to `tmp/`, hash checked, synced | the rest of it is fetched next time, or all |
//! | swap noted in the base | note without swap: struck out |
//! | swapped | the old bytes are checked: as agreed, dropped; else they come back as a conflict copy |
//! | old bytes checked and dropped, base advanced, note struck out | the base advances by the note |
use super::Remote;
use super::base::{Signature, Swap};
use super::engine::{Engine, Pass};
use super::remote_ops::old_node;
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, join, name_of, parent_of};
use crate::names;
use crate::rng::hex;
use crate::tree::{Entry, Key, Kind, NodeId};
use crate::vault::KEY_FILE;
use std::sync::atomic::Ordering;

fn stale(path: &str) -> SyncError {
    SyncError::Stale(format!("{path} changed while it was worked on"))
}

/// Whether two looks saw the same bytes; a rename between them changes only the ctime.
fn same_bytes(a: &files::Stat, b: &files::Stat) -> bool {
    (a.what, a.size, a.mtime_ns, a.inode) == (b.what, b.size, b.mtime_ns, b.inode)
}

/// What a file is called in `tmp/` that was taken out to be deleted: its hash tells whether it may be,
/// and the number of the encrypted folder that it lay in (0: none) where it is given back otherwise.
pub(super) fn taken_out(l: &Entry, vault: NodeId) -> String {
    let name: String = l.name.chars().take(40).collect();
    format!("tmp/x{}-{vault}-{name}", hex(&l.content.hash))
}

/// A rename whose target is there, or whose directory went, is stale, not an error.
pub(super) fn renamed(result: Result<()>) -> Result<()> {
    match result {
        Err(SyncError::Io { what, source })
            if matches!(
                source.raw_os_error(),
                Some(libc::EEXIST | libc::ENOENT | libc::ENOTEMPTY | libc::ENOTDIR | libc::EISDIR)
            ) =>
        {
            Err(SyncError::Stale(format!("{what}: {source}")))
        }
        other => other,
    }
}

impl Engine {
    /// Finishes what a crash left in `tmp/`: nothing that was taken out of the folder is dropped unless
    /// it is what both sides agreed on.
    pub(super) fn recover(&mut self) -> Result<()> {
        for swap in self.base.swaps()? {
            let at = At(Area::Own, &swap.tmp);
            let left = self.files.stat(at)?.map(|s| s.inode);
            if left != Some(swap.inode) {
                // It has its place; what is left in `tmp/`, if anything, was there before.
                if left.is_some() && files::hash(&*self.files, at)?.0 != swap.hash {
                    let vault = self.base.agreed()?.0.vault(Key::Node(swap.agreed.parent));
                    let vault = vault.and_then(|(root, _)| old_node(root)).unwrap_or(0);
                    self.give_back(&swap.tmp, &swap.path, vault)?;
                }
                self.files.remove_file(at)?;
                let (size, mtime_ns) = (swap.agreed.size, swap.agreed.mtime_ns);
                let sig = Signature { size, mtime_ns, ctime_ns: 0, inode: swap.inode };
                self.base.agree(swap.agreed.id, &swap.agreed.entry(), sig, None)?;
            }
            self.base.swap_end(&swap.tmp)?;
        }
        for (name, stat) in self.files.list(At(Area::Own, "tmp"))?.entries {
            let tmp = join("tmp", &name);
            // `x<hash>-<folder>-<name>` was taken out of the folder to be deleted.
            let Some((hash, rest)) = name.strip_prefix('x').and_then(|n| n.split_once('-')) else {
                continue;
            };
            let (vault, was) = rest.split_once('-').unwrap_or(("0", rest));
            if stat.what == files::What::File
                && hex(&files::hash(&*self.files, At(Area::Own, &tmp))?.0) != hash
            {
                self.give_back(&tmp, was, vault.parse().unwrap_or(0))?;
            }
            self.files.remove_file(At(Area::Own, &tmp))?;
        }
        Ok(())
    }

    /// Puts bytes that nobody else has back into the folder under a conflict name.
    /// What lay in an encrypted folder (`vault`) goes to that folder, or out of the way, never to a plain
    /// one.
    fn give_back(&mut self, tmp: &str, path: &str, vault: NodeId) -> Result<()> {
        if vault != 0 {
            let root = self.base.agreed()?.0.path(Key::Node(vault)).unwrap_or_default();
            let there =
                if root.is_empty() { None } else { self.files.stat(At(Area::Tree, &root))? };
            let is_dir = there.is_some_and(|s| s.what == files::What::Dir);
            if !is_dir || self.files.stat(At(Area::Tree, &join(&root, KEY_FILE)))?.is_none() {
                let to = format!("foreign/{}-{}", (self.nonce)(), name_of(path));
                tracing::warn!(kept = %to, "an edit in an encrypted folder that is gone");
                self.files.rename(At(Area::Own, tmp), At(Area::Own, &to))?;
                return self.files.sync_dir(At(Area::Own, "foreign"));
            }
            return self.give_back(tmp, &join(&root, name_of(path)), 0);
        }
        let dir = match self.files.stat(At(Area::Tree, parent_of(path)))? {
            Some(s) if s.what == files::What::Dir => parent_of(path),
            _ => "",
        };
        for nth in 1.. {
            let name = names::conflict(name_of(path), &self.names.device, &self.names.date, nth);
            let to = join(dir, &name);
            if self.files.stat(At(Area::Tree, &to))?.is_none() {
                self.files.rename(At(Area::Own, tmp), At(Area::Tree, &to))?;
                return self.files.sync_dir(At(Area::Tree, dir));
            }
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// The tree path where the server has a node, by the local names of its directories.
    pub(super) fn server_path(&self, e: &Entry) -> Result<String> {
        Ok(join(&self.path(e.parent)?, &e.name))
    }

    pub(super) fn mkdir_local(&mut self, node: NodeId) -> Result<()> {
        let e = self.entry(&self.r, Key::Node(node))?;
        let path = self.server_path(&e)?;
        renamed(self.e.files.mkdir(At(Area::Tree, &path)))?;
        self.e.files.sync_dir(At(Area::Tree, parent_of(&path)))?;
        if let Some((text, _)) = self.key_texts.0.get(&node).cloned() {
            self.write_key_file(&path, &text, None)?;
        }
        self.l.put(Key::Node(node), e.clone());
        self.report.down += 1;
        self.agree(node, e, None)
    }

    pub(super) fn move_local(&mut self, node: NodeId, parent: Key, name: &str) -> Result<()> {
        let key = Key::Node(node);
        let (from, to) = (self.path(key)?, join(&self.path(parent)?, name));
        self.expect_scanned(key, &from)?;
        renamed(self.e.files.rename(At(Area::Tree, &from), At(Area::Tree, &to)))?;
        self.e.files.sync_dir(At(Area::Tree, parent_of(&from)))?;
        self.e.files.sync_dir(At(Area::Tree, parent_of(&to)))?;
        let mut l = self.entry(&self.l, key)?;
        (l.parent, l.name) = (parent, name.to_owned());
        self.l.put(key, l.clone());
        let r = self.entry(&self.r, key)?;
        self.report.down += 1;
        if !r.same_place(&l) {
            return Ok(());
        }
        let mut s = self.s.get(key).cloned().unwrap_or_else(|| r.clone());
        (s.parent, s.name) = (r.parent, r.name);
        if l.same_content(&s) {
            return self.agree(node, s, None);
        }
        // Its bytes are not agreed on: the signature must not say so.
        let sig = self.signatures.get(&node).copied().unwrap_or_default();
        self.e.base.agree(node, &s, sig, None)?;
        self.s.put(key, s);
        Ok(())
    }

    pub(super) fn aside(&mut self, key: Key, name: &str, detach: bool) -> Result<()> {
        let from = self.path(key)?;
        let to = join(parent_of(&from), name);
        self.expect_scanned(key, &from)?;
        if let (Key::Node(id), true) = (key, detach) {
            // First, so that no scan takes the copy for the node.
            self.e.base.detach(id)?;
        }
        renamed(self.e.files.rename(At(Area::Tree, &from), At(Area::Tree, &to)))?;
        self.e.files.sync_dir(At(Area::Tree, parent_of(&from)))?;
        self.report.conflicts.push(to);
        let mut e = self.entry(&self.l, key)?;
        name.clone_into(&mut e.name);
        if detach && let Key::Node(id) = key {
            self.l.remove(key);
            let new = Key::New(u64::MAX - id.unsigned_abs());
            self.l.put(new, e);
            if let Some(stat) = self.stats.remove(&key) {
                self.stats.insert(new, stat);
            }
            if let Some(sig) = self.signatures.get_mut(&id) {
                sig.inode = 0;
            }
        } else {
            self.l.put(key, e);
        }
        Ok(())
    }

    /// The entry is as the scan saw it.
    pub(super) fn expect_scanned(&self, key: Key, path: &str) -> Result<()> {
        let now = self.e.files.stat(At(Area::Tree, path))?;
        match (now, self.stats.get(&key)) {
            (Some(now), Some(seen)) if now.what == seen.what && now.inode == seen.inode => {
                if now.what == files::What::Dir || same_bytes(&now, seen) {
                    Ok(())
                } else {
                    Err(stale(path))
                }
            }
            _ => Err(stale(path)),
        }
    }

    /// Fetches into `tmp/`, checks the hash, syncs. Goes on where an earlier pass ended.
    fn fetch_bytes(&mut self, node: NodeId) -> Result<String> {
        let Some(info) = self.infos.get(&node).cloned() else {
            return Err(SyncError::Stale(format!("node {node} is gone")));
        };
        let tmp = format!("tmp/d{node}x{}", info.rev);
        if self.fetched.remove(&tmp) {
            return Ok(tmp);
        }
        let files = self.e.files.clone();
        let at = At(Area::Own, &tmp);
        if let Some((vault, sealed)) = self.net.sealed(&info) {
            self.fetch_sealed(&info, &vault, sealed, at)?;
            return Ok(tmp);
        }
        let mut have = files.stat(at)?.map_or(0, |s| s.size);
        if have > info.size {
            files.remove_file(at)?;
            have = 0;
        }
        if have == 0 && self.fetch_delta(&info, at)? {
            files.seal(at, info.size, info.mtime_ns, info.exec)?;
            return Ok(tmp);
        }
        let mut hasher = (have == 0).then(blake3::Hasher::new);
        let mut pos = have;
        if pos < info.size {
            let progress = self.e.progress.clone();
            self.net.content(node, info.rev, pos, &mut |bytes| {
                progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if progress.stop.load(Ordering::Relaxed) {
                    return Err(SyncError::Stopped);
                }
                files.write(at, pos, bytes)?;
                pos += bytes.len() as u64;
                if let Some(h) = &mut hasher {
                    h.update(bytes);
                }
                Ok(())
            })?;
        }
        self.report.bytes_down += pos - have;
        let hash = match &hasher {
            Some(h) => *h.finalize().as_bytes(),
            None => files::hash(&*files, at)?.0,
        };
        if hex(&hash) != info.hash {
            files.remove_file(at)?;
            return Err(SyncError::Damaged(format!("{:?} on its way from the server", info.name)));
        }
        files.seal(at, info.size, info.mtime_ns, info.exec)?;
        Ok(tmp)
    }

    /// Brings a file here. `check`: what it replaces must be what both sides agreed on.
    pub(super) fn download(&mut self, node: NodeId, check: bool) -> Result<()> {
        let key = Key::Node(node);
        let tmp = self.fetch_bytes(node)?;
        // What an encrypted file holds may be known only now.
        let r = self.entry(&self.r, key)?;
        let own = At(Area::Own, &tmp);
        let inode = self.e.files.stat(own)?.map_or(0, |s| s.inode);
        let Some(mut info) = self.infos.get(&node).cloned() else {
            return Err(SyncError::Stale(format!("node {node} is gone")));
        };
        let path = match self.l.get(key) {
            None => {
                let path = self.server_path(&r)?;
                let hash = [0; 32];
                let (tmp, path_there, agreed) = (tmp.clone(), path.clone(), info.clone());
                let noted = Swap { tmp, inode, path: path_there, hash, agreed };
                self.e.base.swap_begin(&noted)?;
                if let Err(e) = renamed(self.e.files.rename(own, At(Area::Tree, &path))) {
                    if !matches!(e, SyncError::Crash) {
                        self.e.base.swap_end(&noted.tmp)?;
                    }
                    return Err(e);
                }
                self.l.put(key, r.clone());
                path
            }
            Some(l) => {
                let mut l = l.clone();
                let path = self.path(key)?;
                let s = self.entry(&self.s, key)?;
                if let Key::Node(parent) = s.parent {
                    (info.parent, info.name) = (parent, s.name);
                }
                if check {
                    self.expect_scanned(key, &path)?;
                }
                let hash = l.content.hash;
                let (tmp, path_there, agreed) = (tmp.clone(), path.clone(), info.clone());
                self.swap(&Swap { tmp, inode, path: path_there, hash, agreed }, check)?;
                l.content = r.content;
                self.l.put(key, l);
                path
            }
        };
        self.e.files.sync_dir(At(Area::Tree, parent_of(&path)))?;
        if let Some(stat) = self.e.files.stat(At(Area::Tree, &path))? {
            self.stats.insert(key, stat);
        }
        self.report.down += 1;
        self.agree(node, info.entry(), None)?;
        self.e.base.swap_end(&tmp)
    }

    /// Swaps a download with what lies in its place, and checks what came out.
    fn swap(&mut self, swap: &Swap, check: bool) -> Result<()> {
        let (own, at) = (At(Area::Own, &swap.tmp), At(Area::Tree, &swap.path));
        self.e.base.swap_begin(swap)?;
        if let Err(e) = renamed(self.e.files.exchange(own, at)) {
            if !matches!(e, SyncError::Crash) {
                self.e.base.swap_end(&swap.tmp)?;
            }
            return Err(e);
        }
        if check && files::hash(&*self.e.files, own)?.0 != swap.hash {
            // Edited just before the swap: back again, and look again.
            self.e.files.exchange(own, at)?;
            self.e.base.swap_end(&swap.tmp)?;
            return Err(stale(&swap.path));
        }
        self.e.files.remove_file(own)
    }

    pub(super) fn delete_local(&mut self, node: NodeId) -> Result<()> {
        let key = Key::Node(node);
        let path = self.path(key)?;
        let l = self.entry(&self.l, key)?;
        self.expect_scanned(key, &path)?;
        if l.kind == Kind::Dir {
            if l.content.hash != [0; 32] {
                self.e.files.remove_file(At(Area::Tree, &join(&path, KEY_FILE)))?;
            }
            renamed(self.e.files.remove_dir(At(Area::Tree, &path)))?;
        } else {
            let tmp = taken_out(&l, self.vault_node(l.parent));
            self.e.files.remove_file(At(Area::Own, &tmp))?;
            renamed(self.e.files.rename(At(Area::Tree, &path), At(Area::Own, &tmp)))?;
            if files::hash(&*self.e.files, At(Area::Own, &tmp))?.0 != l.content.hash {
                self.e.files.rename(At(Area::Own, &tmp), At(Area::Tree, &path))?;
                return Err(stale(&path));
            }
            self.e.files.sync_dir(At(Area::Tree, parent_of(&path)))?;
            self.e.files.remove_file(At(Area::Own, &tmp))?;
        }
        self.e.files.sync_dir(At(Area::Tree, parent_of(&path)))?;
        self.l.remove(key);
        self.s.remove(key);
        self.report.down += 1;
        self.e.base.forget(node)
    }

    /// The number of the encrypted folder that a directory lies in; 0: none.
    pub(super) fn vault_node(&self, dir: Key) -> NodeId {
        self.l.vault(dir).and_then(|(root, _)| old_node(root)).unwrap_or(0)
    }

    /// A file shrank while its time stood still: the server's bytes come back, if the server still has
    /// what was agreed on.
    pub(super) fn repair(&mut self, node: NodeId) -> Result<()> {
        let key = Key::Node(node);
        let path = self.path(key)?;
        match (self.r.get(key), self.s.get(key)) {
            (Some(r), Some(s)) if r.same_content(s) => {
                self.report.problems.push(format!("{path}: was damaged, fetched again"));
                self.download(node, false)
            }
            _ => {
                // Somebody will look at it: what is left is hashed as it is from now on.
                let s = self.entry(&self.s, key)?;
                self.e.base.agree(node, &s, Signature::default(), None)?;
                Err(stale(&path))
            }
        }
    }
}
