//! The three trees that the planner compares: what this device has (local), what the server has
//! (remote), and what both last agreed on (synced). Entries are keyed by node id; a local entry that
//! the server has not numbered yet has a key of its own. Pure data: no clock, no disk, no net.
use crate::names::fold;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node's number, given by the server once and never used again for the same user.
pub type NodeId = i64;
/// The user's own folder.
pub const ROOT: NodeId = 1;

/// Names an entry in one of the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The server knows it under this number.
    Node(NodeId),
    /// Only this device has it; the number means nothing beyond one scan.
    New(u64),
}

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
}

/// What a file holds: its BLAKE3 hash and whether it may be executed. All zero for directories, but for
/// an encrypted folder, which has the number of its key in place of a hash. The
/// time of change is data that travels along and decides nothing (trap 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The owner's execute bit.
    pub exec: bool,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The directory it lies in.
    pub parent: Key,
    /// Its name there.
    pub name: String,
    /// File or directory.
    pub kind: Kind,
    /// What it holds.
    pub content: Content,
    /// The server's revision (remote and synced trees; 0 in the local one).
    pub rev: i64,
}

impl Entry {
    /// Whether both lie at the same place under the same name, byte for byte.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        self.parent == other.parent && self.name == other.name
    }

    /// Whether both are of one kind and hold the same.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind == Kind::Dir || self.content == other.content)
    }

    /// Whether nothing differs that a user would call a change.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.same_place(other) && self.same_content(other)
    }
}

/// A tree: entries by key, and an index by place. The root itself is not an entry.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<Key, Entry>,
    by_place: BTreeMap<(Key, String), Vec<Key>>,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `entry` under `key`, replacing what was there.
    pub fn put(&mut self, key: Key, entry: Entry) {
        self.remove(key);
        self.by_place.entry((entry.parent, fold(&entry.name))).or_default().push(key);
        self.entries.insert(key, entry);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        let place = (entry.parent, fold(&entry.name));
        if let Some(keys) = self.by_place.get_mut(&place) {
            keys.retain(|k| *k != key);
            if keys.is_empty() {
                self.by_place.remove(&place);
            }
        }
        Some(entry)
    }

    /// The entry under `key`.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// Whether `key` is the root or an entry.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        key == Key::Node(ROOT) || self.entries.contains_key(&key)
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        self.entries.iter().map(|(k, e)| (*k, e))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing below the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whoever has this name (or one that folds to the same) in `parent`, other than `not`.
    #[must_use]
    pub fn occupant(&self, parent: Key, name: &str, not: Key) -> Option<Key> {
        let keys = self.by_place.get(&(parent, fold(name)))?;
        keys.iter().copied().find(|k| *k != not)
    }

    /// The entries directly below `parent`.
    pub fn children(&self, parent: Key) -> impl Iterator<Item = Key> + '_ {
        self.by_place
            .range((parent, String::new())..)
            .take_while(move |((p, _), _)| *p == parent)
            .flat_map(|(_, keys)| keys.iter().copied())
    }

    /// Whether `below` is `above` or lies anywhere beneath it.
    #[must_use]
    pub fn is_within(&self, below: Key, above: Key) -> bool {
        let mut at = below;
        for _ in 0..=self.entries.len() {
            if at == above {
                return true;
            }
            match self.entries.get(&at) {
                Some(e) => at = e.parent,
                None => return false,
            }
        }
        true
    }

    /// The encrypted folder that a directory is or lies in, and the number of its key.
    #[must_use]
    pub fn vault(&self, dir: Key) -> Option<(Key, [u8; 32])> {
        let (mut at, mut found) = (dir, None);
        for _ in 0..=self.entries.len() {
            let Some(e) = self.entries.get(&at) else { break };
            if e.kind == Kind::Dir && e.content.hash != [0; 32] {
                found = Some((at, e.content.hash));
            }
            at = e.parent;
        }
        found
    }

    /// How many directories lie above an entry; 0 for what lies in the root.
    #[must_use]
    pub fn depth(&self, key: Key) -> usize {
        let mut depth = 0;
        let mut at = key;
        while let Some(e) = self.entries.get(&at) {
            at = e.parent;
            depth += 1;
            if depth > self.entries.len() {
                break;
            }
        }
        depth
    }

    /// The path of an entry relative to the root, names joined by `/`.
    #[must_use]
    pub fn path(&self, key: Key) -> Option<String> {
        let mut names = Vec::new();
        let mut at = key;
        while at != Key::Node(ROOT) {
            let e = self.entries.get(&at)?;
            names.push(e.name.as_str());
            at = e.parent;
            if names.len() > self.entries.len() {
                return None;
            }
        }
        names.reverse();
        Some(names.join("/"))
    }
}
