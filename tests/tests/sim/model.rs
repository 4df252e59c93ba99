//! The reference: a file tree in memory, as POSIX says it.
use pvfs2_proto::ErrorCode::{self, *};
use std::collections::BTreeMap;

/// A node's number; never used again.
pub type NodeId = usize;

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    File(Vec<u8>),
    Dir(BTreeMap<String, NodeId>),
    Symlink(String),
    Fifo,
}

/// One object.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub nlink: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub mode: u32,
    /// As `utimes` set it, until the bytes change.
    pub mtime_ns: Option<i64>,
}

/// The tree; node 0 is its root.
pub struct Model {
    pub nodes: Vec<Node>,
}

type Outcome<T = ()> = Result<T, ErrorCode>;

impl Model {
    pub fn new() -> Model {
        Model {
            nodes: vec![Node {
                kind: Kind::Dir(BTreeMap::new()),
                nlink: 2,
                xattrs: BTreeMap::new(),
                mode: 0o755,
                mtime_ns: None,
            }],
        }
    }

    pub fn dir(&self, id: NodeId) -> &BTreeMap<String, NodeId> {
        match &self.nodes[id].kind {
            Kind::Dir(entries) => entries,
            other => panic!("no directory: {other:?}"),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> &mut BTreeMap<String, NodeId> {
        match &mut self.nodes[id].kind {
            Kind::Dir(entries) => entries,
            other => panic!("no directory: {other:?}"),
        }
    }

    pub fn file(&mut self, id: NodeId) -> &mut Vec<u8> {
        match &mut self.nodes[id].kind {
            Kind::File(bytes) => bytes,
            other => panic!("no file: {other:?}"),
        }
    }

    pub fn is_dir(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, Kind::Dir(_))
    }

    pub fn lookup(&self, dir: NodeId, name: &str) -> Outcome<NodeId> {
        self.dir(dir).get(name).copied().ok_or(NotFound)
    }

    /// Directories that are in the tree.
    pub fn dirs(&self) -> Vec<NodeId> {
        let mut found = vec![0];
        let mut i = 0;
        while i < found.len() {
            let below: Vec<NodeId> =
                self.dir(found[i]).values().copied().filter(|n| self.is_dir(*n)).collect();
            found.extend(below);
            i += 1;
        }
        found
    }

    /// Whether `below` is `above` or lies in it.
    pub fn is_inside(&self, below: NodeId, above: NodeId) -> bool {
        below == above
            || (self.is_dir(above) && self.dir(above).values().any(|n| self.is_inside(below, *n)))
    }

    pub fn make(&mut self, dir: NodeId, name: &str, kind: Kind) -> Outcome<NodeId> {
        if self.dir(dir).contains_key(name) {
            return Err(Exists);
        }
        let nlink = if matches!(kind, Kind::Dir(_)) { 2 } else { 1 };
        let mode = match &kind {
            Kind::File(_) => 0o644,
            // A set-group-ID directory hands it down.
            Kind::Dir(_) => 0o755 | self.nodes[dir].mode & 0o2000,
            Kind::Symlink(_) => 0o777,
            Kind::Fifo => 0o600,
        };
        self.nodes.push(Node { kind, nlink, xattrs: BTreeMap::new(), mode, mtime_ns: None });
        let id = self.nodes.len() - 1;
        self.dir_mut(dir).insert(name.into(), id);
        Ok(id)
    }

    pub fn unlink(&mut self, dir: NodeId, name: &str) -> Outcome {
        let id = self.lookup(dir, name)?;
        if self.is_dir(id) {
            return Err(IsDirectory);
        }
        self.dir_mut(dir).remove(name);
        self.nodes[id].nlink -= 1;
        Ok(())
    }

    pub fn rmdir(&mut self, dir: NodeId, name: &str) -> Outcome {
        let id = self.lookup(dir, name)?;
        if !self.is_dir(id) {
            return Err(NotDirectory);
        }
        if !self.dir(id).is_empty() {
            return Err(NotEmpty);
        }
        self.dir_mut(dir).remove(name);
        Ok(())
    }

    pub fn link(&mut self, id: NodeId, dir: NodeId, name: &str) -> Outcome {
        if self.dir(dir).contains_key(name) {
            return Err(Exists);
        }
        self.dir_mut(dir).insert(name.into(), id);
        self.nodes[id].nlink += 1;
        Ok(())
    }

    pub fn rename(
        &mut self,
        (from, name): (NodeId, &str),
        (to, new_name): (NodeId, &str),
        no_replace: bool,
        exchange: bool,
    ) -> Outcome {
        let id = self.lookup(from, name)?;
        let target = self.dir(to).get(new_name).copied();
        if exchange {
            let other = target.ok_or(NotFound)?;
            self.dir_mut(from).insert(name.into(), other);
            self.dir_mut(to).insert(new_name.into(), id);
            return Ok(());
        }
        if let Some(other) = target {
            if no_replace {
                return Err(Exists);
            }
            if other == id {
                return Ok(());
            }
            match (self.is_dir(id), self.is_dir(other)) {
                (true, false) => return Err(NotDirectory),
                (false, true) => return Err(IsDirectory),
                (true, true) if !self.dir(other).is_empty() => return Err(NotEmpty),
                (true, true) => {}
                (false, false) => self.nodes[other].nlink -= 1,
            }
        }
        self.dir_mut(from).remove(name);
        self.dir_mut(to).insert(new_name.into(), id);
        Ok(())
    }

    pub fn write(&mut self, id: NodeId, at: usize, bytes: &[u8]) {
        self.nodes[id].mtime_ns = None;
        let file = self.file(id);
        if file.len() < at + bytes.len() {
            file.resize(at + bytes.len(), 0);
        }
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn punch(&mut self, id: NodeId, at: usize, len: usize) {
        let file = self.file(id);
        let end = (at + len).min(file.len());
        if at < end {
            file[at..end].fill(0);
        }
    }
}
