//! The server's side of one look at the folder, with plain names where an encrypted folder is open, and what
//! each directory is: plain, open, or left alone. See `vaults` for the rules.
use super::base::{Agreed, Learnt};
use crate::api::NodeInfo;
use crate::error::{Result, SyncError};
use crate::rng::{hex, unhex};
use crate::tree::{Entry, Key, Kind, NodeId, ROOT, Tree};
use crate::vault::key_file::KeyFile;
use crate::vault::{KEY_FILE, KeyId, Vault, content};
use std::collections::HashMap;
use std::sync::Arc;

/// The folders that are open on this device, by their key's number.
pub type Open = HashMap<KeyId, Arc<Vault>>;

/// Stands for the key of a folder whose key file cannot be read.
pub(super) const NO_KEY: KeyId = [0xff; 32];

/// An encrypted folder, as a device sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VaultState {
    /// Its path in the synchronised folder.
    pub path: String,
    /// The number of its key.
    pub key: String,
    /// Empty: open. Else why it is left alone.
    pub closed: String,
}

/// What a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Plain,
    Open(KeyId),
    Closed(KeyId, String),
}

/// A key file here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Of(KeyId),
    Damaged,
}

/// An encrypted folder at the server.
struct Root {
    id: KeyId,
    text: Vec<u8>,
    /// The key file's own node and revision.
    file: (NodeId, i64),
    closed: Option<String>,
}

/// A file's content as the server has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub hash: [u8; 32],
    pub size: u64,
}

/// The server's side.
pub(super) struct View {
    pub tree: Tree,
    pub infos: HashMap<NodeId, NodeInfo>,
    /// Nodes that cannot be read, and why: nothing is done about them.
    pub unreadable: Vec<(NodeId, String)>,
    /// Directories in open folders: what seals in them, and which number names are bound to.
    pub inside: HashMap<NodeId, (Arc<Vault>, NodeId)>,
    pub sealed: HashMap<NodeId, Sealed>,
    roots: HashMap<NodeId, Root>,
    open: Open,
}

/// What is said of a folder whose key this device does not have.
pub const LOCKED: &str = "locked: `pvfs2 sync unlock` opens it";

/// Why a folder is left alone until it is one of its own, see [`apart`].
const PLAIN_THERE: &str =
    "there is a key file in it, but at the server the folder holds plain files";

impl View {
    /// From what the server said. `key_files`: by node.
    pub fn build(
        raw: HashMap<NodeId, NodeInfo>,
        s: &Tree,
        open: &Open,
        key_files: HashMap<NodeId, Vec<u8>>,
        known: &HashMap<[u8; 32], [u8; 32]>,
    ) -> Self {
        let mut v = Self {
            tree: Tree::new(),
            infos: HashMap::new(),
            unreadable: Vec::new(),
            inside: HashMap::new(),
            sealed: HashMap::new(),
            roots: HashMap::new(),
            open: open.clone(),
        };
        let mut below: HashMap<NodeId, Vec<&NodeInfo>> = HashMap::new();
        let mut key_of: HashMap<NodeId, (Vec<u8>, (NodeId, i64))> = HashMap::new();
        for info in raw.values().filter(|i| i.id != ROOT) {
            below.entry(info.parent).or_default().push(info);
        }
        for (node, text) in key_files {
            if let Some(info) = raw.get(&node) {
                key_of.insert(info.parent, (text, (info.id, info.rev)));
            }
        }
        // Which encrypted folder a directory lies in.
        let mut roots: HashMap<NodeId, Key> = HashMap::new();
        let mut next = vec![ROOT];
        while let Some(dir) = next.pop() {
            for info in below.get(&dir).into_iter().flatten() {
                if info.name == KEY_FILE && dir != ROOT {
                    continue;
                }
                let (id, key) = (info.id, Key::Node(info.id));
                let agreed = s.get(key);
                let border =
                    |a: &Entry| s.vault(a.parent).map(|(root, _)| root) != roots.get(&dir).copied();
                if agreed.is_some_and(border) {
                    // No server that keeps its word does that.
                    let why = format!(
                        "{:?}: moved at the server out of or into an encrypted folder",
                        info.name
                    );
                    v.cannot_read(id, why, s, &below);
                    continue;
                }
                if let Some((vault, number)) = v.inside.get(&dir).cloned() {
                    match opened(info, &vault, number, known) {
                        Ok((plain, sealed)) => {
                            v.sealed.extend(sealed.map(|s| (id, s)));
                            v.tree.put(key, plain.entry());
                            v.infos.insert(id, plain);
                            if info.kind == Kind::Dir {
                                v.inside.insert(id, (vault, id));
                                roots.extend(roots.get(&dir).copied().map(|root| (id, root)));
                                next.push(id);
                            }
                        }
                        Err(e) => v.cannot_read(id, e.to_string(), s, &below),
                    }
                    continue;
                }
                let mut entry = info.entry();
                if info.kind == Kind::Dir {
                    let was = agreed.map_or([0; 32], |a| a.content.hash);
                    let root = root_of(key_of.remove(&id), was, open);
                    entry.content.hash = root.as_ref().map_or([0; 32], |r| r.id);
                    match root {
                        Some(root) if root.closed.is_some() => drop(v.roots.insert(id, root)),
                        Some(root) => {
                            if let Some(vault) = open.get(&root.id) {
                                v.inside.insert(id, (vault.clone(), 0));
                                roots.insert(id, key);
                            }
                            v.roots.insert(id, root);
                            next.push(id);
                        }
                        None => next.push(id),
                    }
                }
                v.tree.put(key, entry);
                v.infos.insert(id, (*info).clone());
            }
        }
        v
    }

    /// A node and all below it stay as they were agreed on.
    fn cannot_read(
        &mut self,
        top: NodeId,
        why: String,
        s: &Tree,
        below: &HashMap<NodeId, Vec<&NodeInfo>>,
    ) {
        let mut all = vec![top];
        while let Some(id) = all.pop() {
            if let Some(e) = s.get(Key::Node(id)) {
                self.tree.put(Key::Node(id), e.clone());
            }
            self.unreadable.push((id, if id == top { why.clone() } else { String::new() }));
            all.extend(below.get(&id).into_iter().flatten().map(|i| i.id));
        }
    }

    /// What a directory here is. `local`: by the key file in it; `agreed`: by what was agreed on.
    pub fn judge(&self, key: Key, local: Option<Local>, agreed: Option<KeyId>) -> Verdict {
        let (mut there, mut plain_there, mut holds) = (None, false, false);
        if let Key::Node(id) = key
            && self.tree.has(key)
        {
            if let Some(root) = self.roots.get(&id) {
                if let Some(why) = &root.closed {
                    return Verdict::Closed(root.id, why.clone());
                }
                there = Some(root.id);
            } else {
                plain_there = true;
                holds = self.tree.children(key).next().is_some();
            }
        }
        let here = match local {
            Some(Local::Of(id)) => Some(id),
            Some(Local::Damaged) if there.or(agreed).is_none_or(|id| id == NO_KEY) => {
                return Verdict::Closed(NO_KEY, "the key file in it cannot be read".into());
            }
            _ => None,
        };
        let agreed = agreed.filter(|id| *id != NO_KEY);
        let mut all = [here, there, agreed].into_iter().flatten();
        let Some(id) = all.next() else { return Verdict::Plain };
        let why = if all.any(|other| other != id) {
            "the key file in it belongs to another key than the server's"
        } else if plain_there && holds {
            PLAIN_THERE
        } else if !self.open.contains_key(&id) {
            LOCKED
        } else {
            return Verdict::Open(id);
        };
        Verdict::Closed(id, why.into())
    }

    /// The encrypted folders at the server that are closed.
    pub fn closed(&self) -> impl Iterator<Item = (Key, String)> + '_ {
        let why = |(id, r): (&NodeId, &Root)| Some((Key::Node(*id), r.closed.clone()?));
        self.roots.iter().filter_map(why)
    }

    /// The server's key files, by the node of their folder.
    pub fn key_files(&self) -> KeyFiles {
        let all = self.roots.iter().filter(|(_, r)| !r.text.is_empty());
        KeyFiles(all.map(|(id, r)| (*id, (r.text.clone(), r.file))).collect())
    }

    /// The encrypted folders on either side, for people.
    pub fn states(&self, l: &Tree, closed: &HashMap<Key, String>) -> Vec<VaultState> {
        let mut all = HashMap::new();
        for tree in [&self.tree, l] {
            for (key, e) in tree.iter().filter(|(_, e)| e.kind == Kind::Dir) {
                if e.content.hash != [0; 32]
                    && let Some(path) = tree.path(key)
                {
                    let closed = closed.get(&key).cloned().unwrap_or_default();
                    all.insert(key, VaultState { path, key: hex(&e.content.hash), closed });
                }
            }
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

/// Folders that became encrypted here while somebody put plain files into them at the server: from now on
/// they are two. Forgotten, the one here is a new one, and sets itself aside.
pub(super) fn apart(closed: &HashMap<Key, String>, learnt: &mut Learnt) -> bool {
    let all = closed.iter().filter(|(_, why)| *why == PLAIN_THERE);
    let nodes = all.filter_map(|(key, _)| if let Key::Node(id) = key { Some(*id) } else { None });
    let before = learnt.forgotten.len();
    learnt.forgotten.extend(nodes);
    learnt.forgotten.len() > before
}

/// What a directory of the server is that had key `was` when it was agreed on.
fn root_of(key_file: Option<(Vec<u8>, (NodeId, i64))>, was: KeyId, open: &Open) -> Option<Root> {
    let agreed = was != [0; 32] && was != NO_KEY;
    let closed =
        |id, text, why: &str| Some(Root { id, text, file: (0, 0), closed: Some(why.to_owned()) });
    let Some((text, file)) = key_file else {
        let why = "at the server it is no longer encrypted: nothing is sent, nothing is fetched";
        return if agreed { closed(was, Vec::new(), why) } else { None };
    };
    match KeyFile::parse(&text).and_then(|f| f.id()) {
        Err(e) => closed(if agreed { was } else { NO_KEY }, Vec::new(), &e.to_string()),
        Ok(id) if agreed && id != was => {
            closed(was, Vec::new(), "the key file at the server belongs to another key")
        }
        Ok(id) => {
            let closed = (!open.contains_key(&id)).then(|| LOCKED.to_owned());
            Some(Root { id, text, file, closed })
        }
    }
}

/// A node of an open folder with its plain name, size and, if it is known, hash.
pub(super) fn opened(
    info: &NodeInfo,
    vault: &Vault,
    number: NodeId,
    known: &HashMap<[u8; 32], [u8; 32]>,
) -> Result<(NodeInfo, Option<Sealed>)> {
    let mut plain = info.clone();
    plain.name = vault.open_name(number, &info.name)?;
    if info.kind == Kind::Dir {
        return Ok((plain, None));
    }
    let damaged =
        || SyncError::Damaged(format!("{:?}: no encrypted content has its size", plain.name));
    plain.size = content::plain_size(info.size).ok_or_else(damaged)?;
    let hash = unhex(&info.hash).unwrap_or_default();
    if let Some(known) = known.get(&hash) {
        plain.hash = hex(known);
    }
    Ok((plain, Some(Sealed { hash, size: info.size })))
}

/// Takes everything below `key` out of a tree.
fn empty(tree: &mut Tree, key: Key) -> Vec<Key> {
    let mut all: Vec<Key> = tree.children(key).collect();
    let mut next = 0;
    while let Some(key) = all.get(next).copied() {
        all.extend(tree.children(key));
        next += 1;
    }
    for key in &all {
        tree.remove(*key);
    }
    all
}

/// Hash of a sealed content -> hash of the plain one.
pub(super) type Known = HashMap<[u8; 32], [u8; 32]>;

/// Takes closed folders' insides from the server's tree and from what was agreed on.
pub(super) fn shut(closed: &HashMap<Key, String>, r: &mut Tree, agreed: &mut Agreed) -> Learnt {
    let mut learnt = Learnt::default();
    for key in closed.keys() {
        empty(r, *key);
        for key in empty(&mut agreed.0, *key) {
            if let Key::Node(id) = key {
                agreed.1.remove(&id);
                learnt.forgotten.push(id);
            }
        }
    }
    learnt
}

/// The server's key files, by the node of their folder.
pub(super) struct KeyFiles(pub HashMap<NodeId, (Vec<u8>, (NodeId, i64))>);
