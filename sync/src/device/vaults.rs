//! What a look at the folder knows of encrypted folders: which there are, which of them are open on this
//! device, and the server's tree with plain names where they are.
//!
//! The planner sees plain names and hashes of plain contents on all three sides. The entry of an
//! encrypted folder itself carries the number of its key as content, in all three trees. What is below
//! a folder that is not open is in none of them: neither sent nor fetched, neither here nor there deleted.
//! The same holds wherever the three sides do not say the same about a folder: nothing of an encrypted
//! folder is ever sent plain because somebody says that it is no longer one.
//!
//! | what a file at the server holds | is known from |
//! |---|---|
//! | sent or fetched by this device | `known`: hash of the sealed content -> hash of the plain one |
//! | else, if a file of that size lies in its place here | sealing that one, see [`Pass::recognise`] |
//! | else | not known: the hash of the sealed content stands for it, which equals no other |
use super::Remote;
use super::engine::{Engine, Pass};
use super::veil::Veil;
use super::view::{Known, NO_KEY, Sealed, View};
use crate::api::{NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, join};
use crate::rng::{hex, unhex};
use crate::tree::{Content, Entry, Key, Kind, NodeId, ROOT, Tree};
use crate::vault::key_file::{BYTES_MAX, KeyFile};
use crate::vault::{KEY_FILE, KeyId, Vault};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl Engine {
    /// Sets which encrypted folders are open.
    pub fn open_vaults(&mut self, keys: impl IntoIterator<Item = Arc<Vault>>) {
        self.vaults = keys.into_iter().map(|v| (v.id(), v)).collect();
    }

    /// The server's side. The hashes in `s` that stand for unknown contents are replaced if they are
    /// known now.
    pub(super) fn view(&mut self, net: &mut dyn Remote, s: &mut Tree) -> Result<(View, Known)> {
        let raw = self.base.remote()?;
        let mut key_files = HashMap::new();
        for info in raw.values() {
            if info.name == KEY_FILE && info.kind == Kind::File && info.parent != ROOT {
                key_files.insert(info.id, self.fetch_key_file(net, info)?);
            }
        }
        let known = if self.vaults.is_empty() { Known::new() } else { self.base.known()? };
        let stand_ins: Vec<(Key, Entry)> = s
            .iter()
            .filter(|(_, e)| e.kind == Kind::File)
            .filter_map(|(k, e)| {
                let hash = *known.get(&e.content.hash)?;
                let content = Content { hash, ..e.content };
                Some((k, Entry { content, ..e.clone() }))
            })
            .collect();
        for (key, e) in stand_ins {
            s.put(key, e);
        }
        let view = View::build(raw, s, &self.vaults, key_files, &known);
        Ok((view, known))
    }

    fn fetch_key_file(&mut self, net: &mut dyn Remote, info: &NodeInfo) -> Result<Vec<u8>> {
        let hash: [u8; 32] = unhex(&info.hash).unwrap_or_default();
        if let Some(text) = self.base.key_file(&hash)? {
            return Ok(text);
        }
        if info.size > BYTES_MAX as u64 {
            return Ok(Vec::new());
        }
        let mut text = Vec::new();
        net.content(info.id, info.rev, 0, &mut |bytes| {
            text.extend_from_slice(bytes);
            if text.len() > BYTES_MAX {
                return Err(SyncError::Net("an answer that is too long".into()));
            }
            Ok(())
        })?;
        if *blake3::hash(&text).as_bytes() != hash {
            return Err(SyncError::Stale("a key file on its way from the server".into()));
        }
        let id = KeyFile::parse(&text).and_then(|f| f.id()).unwrap_or(NO_KEY);
        self.base.keep_key_file(&hash, &id, &text)?;
        Ok(text)
    }
}

impl Pass<'_> {
    /// The directory at the server that something is sent to. Never a plain one for what is encrypted
    /// here, nor one whose key file is not there.
    pub(super) fn target(&self, dir: Key) -> Result<NodeId> {
        let id = super::remote_ops::parent_node(dir)?;
        let wanted = self.l.vault(dir).or_else(|| self.r.vault(dir)).map(|(_, key)| key);
        if wanted == self.net.key_of(id) {
            return Ok(id);
        }
        Err(SyncError::Stale("its encrypted folder is not at the server as it is here".into()))
    }

    /// Brings key files to where they are missing: here, and at the server where a folder became an
    /// encrypted one here.
    pub(super) fn key_files(&mut self, closed: &HashMap<Key, String>) -> Result<()> {
        let roots: Vec<(Key, KeyId)> = self
            .l
            .iter()
            .filter(|(_, e)| e.kind == Kind::Dir && e.content.hash != [0; 32])
            .map(|(k, e)| (k, e.content.hash))
            .collect();
        for (key, id) in roots {
            match self.key_file(key, id, closed.contains_key(&key)) {
                Err(e @ (SyncError::Full(_) | SyncError::Invalid(_) | SyncError::Io { .. })) => {
                    let path = self.l.path(key).unwrap_or_default();
                    self.report.problems.push(format!("{path}: {e}"));
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn key_file(&mut self, key: Key, id: KeyId, closed: bool) -> Result<()> {
        let (Key::Node(node), Some(r)) = (key, self.r.get(key).cloned()) else { return Ok(()) };
        if r.content.hash == id {
            // Remembered first: what is agreed on below must be known to lie in it.
            if let Some(mut s) = self.s.get(key).cloned()
                && s.content.hash != id
            {
                s.content.hash = id;
                self.agree(node, s, None)?;
            }
            if let Some((text, file)) = self.key_texts.0.get(&node).cloned() {
                let path = self.path(key)?;
                self.write_key_file(&path, &text, Some((node, file)))?;
            }
            return Ok(());
        }
        let plain = r.content.hash == [0; 32] && self.r.children(key).next().is_none();
        if plain && !closed { self.send_key_file(key, node, id) } else { Ok(()) }
    }

    /// Makes the local key file what the server's is. One that is newer here goes there (`there`: the folder,
    /// and the key file's node and revision), unless the server has had it before.
    pub(super) fn write_key_file(
        &mut self,
        dir: &str,
        text: &[u8],
        there: Option<(NodeId, (NodeId, i64))>,
    ) -> Result<()> {
        let path = join(dir, KEY_FILE);
        let (own, at) = (At(Area::Own, "tmp/k"), At(Area::Tree, path.as_str()));
        let files = self.e.files.clone();
        let old = match files.stat(at)? {
            Some(s) if s.what == crate::files::What::File => files.read(at, 0, BYTES_MAX)?,
            Some(_) => return Ok(()),
            None => Vec::new(),
        };
        if old == text {
            return Ok(());
        }
        let read =
            |t: &[u8]| KeyFile::parse(t).ok().and_then(|f| Some((f.id().ok()?, f.generation)));
        if let (Some((id, ours)), Some((same, theirs))) = (read(&old), read(text))
            && id == same
            && ours > theirs
        {
            let hash = *blake3::hash(&old).as_bytes();
            match there {
                Some((folder, file)) if self.e.base.key_file(&hash)?.is_none() => {
                    let req = self.key_file_request(folder, Some(file), &old);
                    self.net.put_key_file(&req, &old)?;
                    self.report.up += 1;
                    self.e.base.keep_key_file(&hash, &id, &old)?;
                }
                Some(_) => self.report.problems.push(format!(
                    "{dir}: the key file at the server is older than the one here (a backup was loaded, \
                     or somebody put it back): an old passphrase opens it; set the passphrase again"
                )),
                None => {}
            }
            return Ok(());
        }
        let put = files.put(own, text, (self.e.now_ns)(), false)?;
        files.settle(&[(own, put.inode)])?;
        if old.is_empty() && files.stat(at)?.is_none() {
            super::local_ops::renamed(files.rename(own, at))?;
        } else {
            super::local_ops::renamed(files.exchange(own, at))?;
            files.remove_file(own)?;
        }
        files.sync_dir(At(Area::Tree, dir))
    }

    /// Sends the key file of a folder that is empty at the server: from then on it is encrypted.
    pub(super) fn send_key_file(&mut self, key: Key, node: NodeId, id: KeyId) -> Result<()> {
        let path = self.path(key)?;
        let at = join(&path, KEY_FILE);
        let mut text = match self.e.files.stat(At(Area::Tree, &at))? {
            Some(_) => self.e.files.read(At(Area::Tree, &at), 0, BYTES_MAX)?,
            None => Vec::new(),
        };
        let fits = |text: &[u8]| KeyFile::parse(text).and_then(|f| f.id()).is_ok_and(|i| i == id);
        if !fits(&text) {
            text = self.e.base.key_file_of(&id)?.unwrap_or_default();
            if !fits(&text) {
                return Err(SyncError::Invalid(format!("{path}: its key file is gone")));
            }
        }
        let hash = *blake3::hash(&text).as_bytes();
        let req = self.key_file_request(node, None, &text);
        self.e.base.keep_key_file(&hash, &id, &text)?;
        self.net.put_key_file(&req, &text)?;
        self.report.up += 1;
        for tree in [&mut self.r, &mut self.l] {
            if let Some(mut e) = tree.get(key).cloned() {
                e.content.hash = id;
                tree.put(key, e);
            }
        }
        if let Some(vault) = self.e.vaults.get(&id) {
            self.net.enter(node, vault.clone(), 0);
        }
        if let Some(mut s) = self.s.get(key).cloned() {
            s.content.hash = id;
            self.agree(node, s, None)?;
        }
        self.write_key_file(&path, &text, None)
    }

    fn key_file_request(
        &mut self,
        folder: NodeId,
        replace: Option<(NodeId, i64)>,
        text: &[u8],
    ) -> UploadBegin {
        UploadBegin {
            id: self.request_key(),
            parent: folder,
            name: KEY_FILE.into(),
            replace,
            size: text.len() as u64,
            hash: hex(blake3::hash(text).as_bytes()),
            mtime_ns: (self.e.now_ns)(),
            exec: false,
        }
    }

    /// Looks whether files at the server, of which only the sealed hash is known, are those in their
    /// places here.
    pub(super) fn recognise(&mut self, tried: &mut HashSet<(NodeId, Key)>) -> Result<()> {
        let unknown: Vec<NodeId> = self.net.unknown(&self.infos);
        for node in unknown {
            let key = Key::Node(node);
            let Some(r) = self.r.get(key).cloned() else { continue };
            let place = |l: &Tree| l.occupant(r.parent, &r.name, key);
            let here = [self.l.has(key).then_some(key), place(&self.l)];
            for other in here.into_iter().flatten() {
                let Some(l) = self.l.get(other).filter(|l| l.kind == Kind::File).cloned() else {
                    continue;
                };
                if !tried.insert((node, other)) || !self.is_same(node, other, &l)? {
                    continue;
                }
                self.learn_content(node, &l.content.hash)?;
                break;
            }
        }
        Ok(())
    }

    /// Whether the server's sealed content is that of this file.
    fn is_same(&self, node: NodeId, here: Key, l: &Entry) -> Result<bool> {
        let (Some(stat), Some(info)) = (self.stats.get(&here), self.infos.get(&node)) else {
            return Ok(false);
        };
        let Some((vault, sealed)) = self.net.sealed(info) else { return Ok(false) };
        let sealer = vault.sealer(&l.content.hash, stat.size);
        if sealer.sealed_size() != sealed.size {
            return Ok(false);
        }
        match sealer.hash(&*self.e.files, &self.path(here)?, &l.content.hash) {
            Ok(hash) => Ok(hash == sealed.hash),
            Err(SyncError::Crash) => Err(SyncError::Crash),
            // It changed since the scan, which will be seen.
            Err(_) => Ok(false),
        }
    }

    /// From now on it is known what a node at the server holds.
    pub(super) fn learn_content(&mut self, node: NodeId, plain: &[u8; 32]) -> Result<()> {
        let Some(info) = self.infos.get_mut(&node) else { return Ok(()) };
        let Some((_, sealed)) = self.net.sealed(info) else { return Ok(()) };
        info.hash = hex(plain);
        if let Some(mut r) = self.r.get(Key::Node(node)).cloned() {
            r.content.hash = *plain;
            self.r.put(Key::Node(node), r);
        }
        if let Some(mut s) =
            self.s.get(Key::Node(node)).filter(|s| s.content.hash == sealed.hash).cloned()
        {
            s.content.hash = *plain;
            self.s.put(Key::Node(node), s);
        }
        self.net.know(sealed.hash, *plain);
        self.e.base.know(&sealed.hash, plain)
    }

    /// A small content as it is sent to this directory, and its hash; `hash`: of the plain one.
    pub(super) fn seal_bytes(
        &mut self,
        dir: NodeId,
        l: &Entry,
        bytes: Vec<u8>,
        hash: String,
    ) -> Result<(Vec<u8>, String)> {
        let Some(vault) = self.net.vault(dir) else { return Ok((bytes, hash)) };
        if *blake3::hash(&bytes).as_bytes() != l.content.hash {
            return Err(SyncError::Stale(format!("{} changed while it was sent", l.name)));
        }
        let sealed = vault.seal(&bytes)?;
        let hash = *blake3::hash(&sealed).as_bytes();
        self.net.know(hash, l.content.hash);
        self.e.base.know(&hash, &l.content.hash)?;
        Ok((sealed, hex(&hash)))
    }

    /// Opens a small content that was fetched.
    pub(super) fn open_bytes(&mut self, node: NodeId, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(info) = self.infos.get(&node) else { return Ok(bytes) };
        let Some((vault, sealed)) = self.net.sealed(info) else { return Ok(bytes) };
        if *blake3::hash(&bytes).as_bytes() != sealed.hash {
            return Err(SyncError::Damaged(format!("{:?} on its way from the server", info.name)));
        }
        let plain = vault.open(&bytes).map_err(|e| unusable(&info.name, &e))?;
        self.learn_content(node, blake3::hash(&plain).as_bytes())?;
        Ok(plain)
    }

    /// Fetches a sealed content into `tmp/c...` (going on where an earlier pass ended), opens it to `to`.
    pub(super) fn fetch_sealed(
        &mut self,
        info: &NodeInfo,
        vault: &Vault,
        sealed: Sealed,
        to: At,
    ) -> Result<()> {
        let files = self.e.files.clone();
        let own = format!("tmp/c{}x{}", info.id, info.rev);
        let at = At(Area::Own, own.as_str());
        let have = files.stat(at)?.map_or(0, |s| s.size).min(sealed.size);
        let mut pos = have;
        if pos < sealed.size {
            let progress = self.e.progress.clone();
            self.net.content(info.id, info.rev, pos, &mut |bytes| {
                progress.bytes.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
                if progress.stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return Err(SyncError::Stopped);
                }
                files.write(at, pos, bytes)?;
                pos += bytes.len() as u64;
                Ok(())
            })?;
        }
        self.report.bytes_down += pos - have;
        if crate::files::hash(&*files, at)? != (sealed.hash, sealed.size) {
            files.remove_file(at)?;
            return Err(SyncError::Damaged(format!("{:?} on its way from the server", info.name)));
        }
        files.remove_file(to)?;
        let (hash, size) = match vault.open_file(&*files, at, to) {
            Err(e @ SyncError::Damaged(_)) => {
                files.remove_file(at)?;
                files.remove_file(to)?;
                return Err(unusable(&info.name, &e));
            }
            other => other?,
        };
        files.seal(to, size, info.mtime_ns, info.exec)?;
        files.remove_file(at)?;
        self.learn_content(info.id, &hash)
    }
}

/// What the server keeps is not what a device sent: fetching it again does not help.
fn unusable(name: &str, why: &SyncError) -> SyncError {
    SyncError::Invalid(format!(
        "{name:?} at the server does not open, nothing was overwritten: {why}"
    ))
}

impl Veil<'_> {
    /// Nodes of open folders whose plain hash is not known.
    fn unknown(&self, infos: &HashMap<NodeId, NodeInfo>) -> Vec<NodeId> {
        let is = |i: &&NodeInfo| self.sealed(i).is_some_and(|(_, s)| hex(&s.hash) == i.hash);
        let mut all: Vec<NodeId> = infos.values().filter(is).map(|i| i.id).collect();
        all.sort_unstable();
        all
    }
}
