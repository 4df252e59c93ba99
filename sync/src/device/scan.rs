//! The full scan: what the folder holds, each entry with the node that it is.
//!
//! An entry is the node that the base has at its place; else, if a base node of the same kind is missing
//! from its place and has the same inode (for a file also the same size and time), it is that node,
//! moved. All others are new. Any error ends the scan: a part of a listing is never read as deletions
//! (trap 6).
use super::base::{Agreed, Signature};
use super::filter::Filter;
use super::view::{Local, Verdict, View};
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, Files, Stat, What, join};
use crate::names;
use crate::tree::{Content, Entry, Key, Kind, NodeId, ROOT, Tree};
use crate::vault::key_file::{BYTES_MAX, KeyFile};
use crate::vault::{self, KEY_FILE, KeyId};
use std::collections::{HashMap, HashSet, VecDeque};

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The local tree.
    pub tree: Tree,
    /// How each entry looks.
    pub stats: HashMap<Key, Stat>,
    /// What is not synchronised, with the reason.
    pub skipped: Vec<String>,
    /// Nodes to leave alone: something that is no file lies in their place.
    pub held: HashSet<Key>,
    /// Files that shrank while their time stands still: damage, not an edit (trap 12).
    pub damaged: Vec<NodeId>,
    /// Files of the base that were hashed again.
    pub rehashed: Vec<NodeId>,
    /// Directories that hold something that is left out: nobody deletes them here.
    pub holders: HashSet<Key>,
    /// Encrypted folders that are left alone, and why.
    pub closed: HashMap<Key, String>,
}

struct Raw {
    path: String,
    name: String,
    stat: Stat,
    children: Vec<usize>,
    /// Something in it is left out.
    holder: bool,
    /// The key file in it.
    local: Option<Local>,
}

struct Scanner<'a> {
    files: &'a dyn Files,
    base: &'a Agreed,
    filter: &'a Filter,
    view: &'a View,
    /// Directories that are or lie in encrypted folders that are open: which, and its key.
    inside: HashMap<Key, (Key, KeyId)>,
    raw: Vec<Raw>,
    at_place: HashMap<(NodeId, &'a str), NodeId>,
    by_inode: HashMap<u64, Vec<NodeId>>,
    taken: HashSet<NodeId>,
    loose: VecDeque<(usize, Key)>,
    next_new: u64,
    out: Scan,
}

/// Scans the whole folder.
///
/// # Errors
/// Any I/O error at all.
pub(super) fn scan(files: &dyn Files, base: &Agreed, filter: &Filter, view: &View) -> Result<Scan> {
    let mut s = Scanner {
        files,
        base,
        filter,
        view,
        inside: HashMap::new(),
        raw: Vec::new(),
        at_place: HashMap::new(),
        by_inode: HashMap::new(),
        taken: HashSet::new(),
        loose: VecDeque::new(),
        next_new: 0,
        out: Scan::default(),
    };
    for (key, e) in base.0.iter() {
        if let (Key::Node(id), Key::Node(parent)) = (key, e.parent) {
            s.at_place.insert((parent, e.name.as_str()), id);
            if let Some(sig) = base.1.get(&id).filter(|sig| sig.inode != 0) {
                s.by_inode.entry(sig.inode).or_default().push(id);
            }
        }
    }
    let (top, ..) = s.walk("")?;
    s.by_place(&top, Key::Node(ROOT))?;
    while let Some((index, parent)) = s.loose.pop_front() {
        let key = match s.moved(index, parent) {
            Some(id) => Key::Node(id),
            None => {
                s.next_new += 1;
                Key::New(s.next_new)
            }
        };
        s.assign(index, parent, key)?;
    }
    Ok(s.out)
}

impl<'a> Scanner<'a> {
    /// Lists a directory and all below; returns the indices of its entries, and whether something in it
    /// is left out; and the key file in it.
    fn walk(&mut self, dir: &str) -> Result<(Vec<usize>, bool, Option<Local>)> {
        let listing = self.files.list(At(Area::Tree, dir))?;
        for name in listing.skipped {
            self.out.skipped.push(format!("{}: the name is not UTF-8", join(dir, &name)));
        }
        let (mut here, mut left_out, mut local) = (Vec::new(), false, None);
        for (name, stat) in listing.entries {
            if dir.is_empty() && name == names::OWN_DIR {
                continue;
            }
            let path = join(dir, &name);
            if vault::is_key_file(&name) {
                if name == KEY_FILE && !dir.is_empty() && stat.what == What::File {
                    local = Some(self.key_file(&path)?);
                } else {
                    self.out.skipped.push(format!("{path}: the name is that of key files"));
                }
                continue;
            }
            if self.filter.leaves_out(&path, stat.what == What::Dir) {
                left_out = true;
                continue;
            }
            if let Err(why) = names::check(&name) {
                self.out.skipped.push(format!("{path}: {why}"));
                continue;
            }
            if path.split('/').count() > names::DEPTH_MAX {
                self.out.skipped.push(format!("{path}: nested too deep"));
                continue;
            }
            let (children, holder, local) = match stat.what {
                What::Dir => self.walk(&path)?,
                _ => (Vec::new(), false, None),
            };
            here.push(self.raw.len());
            self.raw.push(Raw { path, name, stat, children, holder, local });
        }
        Ok((here, left_out, local))
    }

    fn key_file(&self, path: &str) -> Result<Local> {
        let text = self.files.read(At(Area::Tree, path), 0, BYTES_MAX + 1)?;
        let id = KeyFile::parse(&text).and_then(|f| f.id());
        Ok(id.map_or(Local::Damaged, Local::Of))
    }

    /// What a directory is; one in an encrypted folder is of that folder, whatever lies in it.
    fn judge(&mut self, index: usize, parent: Key, key: Key) -> Verdict {
        if let Some((_, id)) = self.inside.get(&parent) {
            return Verdict::Open(*id);
        }
        let local = self.raw.get(index).and_then(|r| r.local);
        let agreed = self.base.0.get(key).map(|e| e.content.hash).filter(|h| *h != [0; 32]);
        self.view.judge(key, local, agreed)
    }

    fn base_kind(&self, id: NodeId) -> Option<What> {
        let e = self.base.0.get(Key::Node(id))?;
        Some(if e.kind == Kind::Dir { What::Dir } else { What::File })
    }

    /// Finds entries by their place; what is not found waits in `loose`.
    fn by_place(&mut self, children: &[usize], parent: Key) -> Result<()> {
        for &index in children {
            let Some(raw) = self.raw.get(index) else { continue };
            let found = match parent {
                Key::Node(p) => self.at_place.get(&(p, raw.name.as_str())).copied(),
                Key::New(_) => None,
            };
            let what = raw.stat.what;
            match found {
                Some(id) if what == What::Other => self.hold(id, &raw.path.clone()),
                _ if what == What::Other => {
                    self.out.skipped.push(format!("{}: neither file nor directory", raw.path));
                }
                Some(id) if self.base_kind(id) == Some(what) && self.taken.insert(id) => {
                    self.assign(index, parent, Key::Node(id))?;
                }
                _ => self.loose.push_back((index, parent)),
            }
        }
        Ok(())
    }

    /// Something that is no file lies where a node was: that is no deletion.
    fn hold(&mut self, id: NodeId, path: &str) {
        let key = Key::Node(id);
        self.out.skipped.push(format!("{path}: neither file nor directory"));
        let mut all = vec![key];
        while let Some(key) = all.pop() {
            if let (Key::Node(id), Some(e)) = (key, self.base.0.get(key)) {
                self.taken.insert(id);
                self.out.tree.put(key, e.clone());
                self.out.held.insert(key);
                all.extend(self.base.0.children(key));
            }
        }
    }

    /// The base node that this entry is, moved here.
    fn moved(&mut self, index: usize, parent: Key) -> Option<NodeId> {
        let stat = self.raw.get(index)?.stat;
        let ids = self.by_inode.get(&stat.inode)?;
        let found = ids.iter().copied().find(|id| {
            let same = self.base.1.get(id).is_some_and(|sig| {
                stat.what == What::Dir || (sig.size, sig.mtime_ns) == (stat.size, stat.mtime_ns)
            });
            // What crosses the border of an encrypted folder is sent anew.
            let border = self.base.0.get(Key::Node(*id)).and_then(|e| self.base.0.vault(e.parent));
            let same = same
                && border.map(|(root, _)| root) == self.inside.get(&parent).map(|(root, _)| *root);
            same && self.base_kind(*id) == Some(stat.what) && !self.taken.contains(id)
        })?;
        self.taken.insert(found);
        Some(found)
    }

    fn assign(&mut self, index: usize, parent: Key, key: Key) -> Result<()> {
        let dir = self.raw.get(index).is_some_and(|r| r.stat.what == What::Dir);
        let verdict = if dir { self.judge(index, parent, key) } else { Verdict::Plain };
        let sealed = self.inside.contains_key(&parent);
        let Some(raw) = self.raw.get_mut(index) else { return Ok(()) };
        let children = std::mem::take(&mut raw.children);
        if raw.holder {
            self.out.holders.insert(key);
        }
        let (name, path, stat) = (raw.name.clone(), raw.path.clone(), raw.stat);
        if sealed && name.len() > vault::NAME_BYTES_MAX {
            self.out.skipped.push(format!("{path}: {}", vault::too_long(&name)));
            return Ok(());
        }
        let content = match self.content(&path, &stat, key) {
            _ if dir => match (&verdict, sealed) {
                (Verdict::Open(id) | Verdict::Closed(id, _), false) => {
                    Content { hash: *id, exec: false }
                }
                _ => Content::default(),
            },
            Ok(content) => content,
            Err(SyncError::Io { what, source })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                self.out.skipped.push(format!("{what}: {source}"));
                if let Some(e) = self.base.0.get(key) {
                    self.out.tree.put(key, e.clone());
                    self.out.held.insert(key);
                }
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let kind = if dir { Kind::Dir } else { Kind::File };
        self.out.tree.put(key, Entry { parent, name, kind, content, rev: 0 });
        self.out.stats.insert(key, stat);
        match verdict {
            Verdict::Open(id) => {
                let root = self.inside.get(&parent).map_or(key, |(root, _)| *root);
                self.inside.insert(key, (root, id));
            }
            Verdict::Closed(_, why) => {
                if !children.is_empty() {
                    self.out.holders.insert(key);
                }
                self.out.closed.insert(key, why);
                return Ok(());
            }
            Verdict::Plain => {}
        }
        self.by_place(&children, key)
    }

    /// The hash: as remembered if the signature still fits, else taken now.
    fn content(&mut self, path: &str, stat: &Stat, key: Key) -> Result<Content> {
        let exec = stat.exec;
        if stat.what != What::File {
            return Ok(Content::default());
        }
        if let Key::Node(id) = key
            && let (Some(sig), Some(e)) = (self.base.1.get(&id), self.base.0.get(key))
        {
            if *sig == Signature::of(stat) {
                return Ok(Content { hash: e.content.hash, exec });
            }
            let touched = (stat.inode, stat.mtime_ns) != (sig.inode, sig.mtime_ns);
            if !touched && stat.size < sig.size {
                self.out.damaged.push(id);
                return Ok(e.content);
            }
            self.out.rehashed.push(id);
        }
        let (hash, _) = files::hash(self.files, At(Area::Tree, path))?;
        Ok(Content { hash, exec })
    }
}
