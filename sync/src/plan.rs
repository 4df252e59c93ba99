//! The planner: one pure function from the three trees to the next operations.
//!
//! It plans one round. Whoever carries it out applies each operation (which checks its own
//! preconditions and may fail), notes what became true, and plans again until nothing is left. An
//! operation that must wait for another is simply not in this round. The rules, per node:
//!
//! | local | remote | then |
//! |---|---|---|
//! | as remote | as local | advance the base |
//! | as base | changed or new | take the remote one |
//! | changed | as base | push the local one |
//! | gone | as base | delete at the server |
//! | gone | changed | take the remote one: the edit wins over the deletion (trap 10) |
//! | as base | gone | delete locally |
//! | changed | gone | push the local one as a new node |
//! | changed | changed otherwise | the server's keeps the name, the local one becomes a conflict copy |
//!
//! Content and place (directory and name) of a node are merged apart, so a rename here and an edit
//! there both live on. Where places disagree the server's wins, since no byte is lost by that.
use crate::names;
use crate::tree::{Entry, Key, Kind, NodeId, ROOT, Tree};
use std::collections::BTreeSet;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Both sides are equal: the base takes what the server says.
    Advance {
        /// The node.
        node: NodeId,
    },
    /// The local entry is the server's node: the base takes it at the local name.
    Adopt {
        /// The local entry.
        local: Key,
        /// The node it is.
        node: NodeId,
    },
    /// Gone on both sides: gone from the base.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// Rename within its directory, since another has the right to its name.
    Aside {
        /// The local entry.
        key: Key,
        /// The conflict name.
        name: String,
        /// From now on it is a file of its own and no longer this node.
        detach: bool,
    },
    /// Move a local entry.
    MoveLocal {
        /// The node.
        node: NodeId,
        /// Where to.
        parent: Key,
        /// Under which name.
        name: String,
    },
    /// Make a directory that the server has.
    MkdirLocal {
        /// The node.
        node: NodeId,
    },
    /// Fetch a file: at the server's place if it is not here, else over what is here.
    Download {
        /// The node.
        node: NodeId,
    },
    /// Make a directory at the server.
    MkdirRemote {
        /// The local directory.
        key: Key,
    },
    /// Send a file: as a new node, or over a node at a revision.
    Upload {
        /// The local file.
        key: Key,
        /// Which revision it replaces.
        replace: Option<(NodeId, i64)>,
    },
    /// Move a node at the server to where it is locally.
    MoveRemote {
        /// The node.
        node: NodeId,
        /// The revision that was seen.
        rev: i64,
    },
    /// Let two nodes swap places at the server.
    ExchangeRemote {
        /// One node and its revision.
        a: (NodeId, i64),
        /// The other.
        b: (NodeId, i64),
    },
    /// Delete here what was deleted there.
    DeleteLocal {
        /// The node.
        node: NodeId,
    },
    /// Delete there what was deleted here.
    DeleteRemote {
        /// The node.
        node: NodeId,
        /// The revision that was seen.
        rev: i64,
    },
}

impl Op {
    /// Order within a round: bookkeeping, then what frees names, then what fills them, deletions last.
    fn order(&self, p: &Planner) -> (u8, usize) {
        let deep = |k: &Key| p.l.depth(*k);
        match self {
            Self::Advance { .. } | Self::Adopt { .. } | Self::Forget { .. } => (0, 0),
            Self::Aside { key, .. } => (1, usize::MAX - deep(key)),
            Self::MoveLocal { .. } => (2, 0),
            Self::MkdirLocal { node } => (3, p.r.depth(Key::Node(*node))),
            Self::MkdirRemote { key } => (3, deep(key)),
            Self::MoveRemote { .. } | Self::ExchangeRemote { .. } => (4, 0),
            Self::Download { .. } | Self::Upload { .. } => (5, 0),
            Self::DeleteLocal { node } => (6, usize::MAX - p.l.depth(Key::Node(*node))),
            Self::DeleteRemote { node, .. } => (6, usize::MAX - p.r.depth(Key::Node(*node))),
        }
    }

    /// Whether it takes a file or directory away on one side.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        matches!(self, Self::DeleteLocal { .. } | Self::DeleteRemote { .. })
    }
}

/// What a plan needs to know beside the trees.
#[derive(Clone, Debug)]
pub struct Names {
    /// The device, for the names of conflict copies.
    pub device: String,
    /// Today, for the same.
    pub date: String,
}

/// Whether a subtree that one side deleted may go on the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Delete,
    /// Something in it is about to be moved out.
    Wait,
    Keep,
}

struct Planner<'a> {
    l: &'a Tree,
    r: &'a Tree,
    s: &'a Tree,
    names: &'a Names,
    ops: Vec<Op>,
    chosen: BTreeSet<(Key, String)>,
    set_aside: BTreeSet<Key>,
    adopted: BTreeSet<NodeId>,
    stuck_local: Vec<NodeId>,
    stuck_remote: Vec<(NodeId, NodeId)>,
    stuck: Vec<Key>,
}

/// Plans the next round. Empty means that all three trees agree.
#[must_use]
pub fn plan(l: &Tree, r: &Tree, s: &Tree, names: &Names) -> Vec<Op> {
    let mut p = Planner {
        l,
        r,
        s,
        names,
        ops: Vec::new(),
        chosen: BTreeSet::new(),
        set_aside: BTreeSet::new(),
        adopted: BTreeSet::new(),
        stuck_local: Vec::new(),
        stuck_remote: Vec::new(),
        stuck: Vec::new(),
    };
    let keys: BTreeSet<Key> = [l, r, s].iter().flat_map(|t| t.iter().map(|(k, _)| k)).collect();
    for key in keys {
        match key {
            Key::Node(node) => p.node(node),
            Key::New(_) => p.push_new(key),
        }
    }
    if p.ops.is_empty() {
        p.break_a_ring();
    }
    let mut ops = std::mem::take(&mut p.ops);
    ops.sort_by_key(|op| op.order(&p));
    ops
}

impl Planner<'_> {
    fn node(&mut self, node: NodeId) {
        let key = Key::Node(node);
        match (self.l.get(key), self.r.get(key), self.s.get(key)) {
            (None, None, _) => self.ops.push(Op::Forget { node }),
            (None, Some(_), None) => self.place(node),
            (None, Some(r), Some(_)) => match self.remote_fate(key) {
                Fate::Delete => {
                    let rev = r.rev;
                    self.ops.push(Op::DeleteRemote { node, rev });
                }
                Fate::Wait => self.stuck.push(key),
                Fate::Keep => self.place(node),
            },
            (Some(_), None, _) => match self.local_fate(key) {
                Fate::Delete => self.ops.push(Op::DeleteLocal { node }),
                Fate::Wait => self.stuck.push(key),
                Fate::Keep => self.push_new(key),
            },
            (Some(l), Some(r), s) => self.both(node, l, r, s),
        }
    }

    fn both(&mut self, node: NodeId, l: &Entry, r: &Entry, s: Option<&Entry>) {
        let key = Key::Node(node);
        if l.same(r) {
            if s.is_none_or(|s| !s.same(r) || s.rev != r.rev) {
                self.ops.push(Op::Advance { node });
            }
        } else if !l.same_content(r) {
            if s.is_some_and(|s| l.same_content(s)) {
                self.ops.push(Op::Download { node });
            } else if s.is_some_and(|s| r.same_content(s)) {
                self.ops.push(Op::Upload { key, replace: Some((node, r.rev)) });
            } else {
                self.aside(key, true);
            }
        } else if s.is_some_and(|s| r.same_place(s)) {
            self.move_remote(node, l, r);
        } else {
            self.move_local(node, r);
        }
    }

    /// Whether what was deleted locally may be deleted at the server.
    fn remote_fate(&self, key: Key) -> Fate {
        let (Some(r), Some(s)) = (self.r.get(key), self.s.get(key)) else { return Fate::Keep };
        if let Some(l) = self.l.get(key) {
            // Only asked for children: moved out locally, and the server is about to hear of it.
            return if l.parent != r.parent && r.same_place(s) { Fate::Wait } else { Fate::Keep };
        }
        if !r.same(s) {
            return Fate::Keep;
        }
        self.r.children(key).map(|c| self.remote_fate(c)).max().unwrap_or(Fate::Delete)
    }

    /// Whether what was deleted at the server may be deleted here.
    fn local_fate(&self, key: Key) -> Fate {
        let (Some(l), Some(s)) = (self.l.get(key), self.s.get(key)) else { return Fate::Keep };
        if let Some(r) = self.r.get(key) {
            return if r.parent != l.parent && !r.same_place(s) { Fate::Wait } else { Fate::Keep };
        }
        if !l.same(s) {
            return Fate::Keep;
        }
        self.l.children(key).map(|c| self.local_fate(c)).max().unwrap_or(Fate::Delete)
    }

    /// The server has a node that is not here.
    fn place(&mut self, node: NodeId) {
        let key = Key::Node(node);
        let Some(r) = self.r.get(key) else { return };
        if !self.l.has(r.parent) {
            return self.stuck.push(key);
        }
        match self.l.occupant(r.parent, &r.name, key) {
            Some(other) => self.contend(other, node),
            None if r.kind == Kind::Dir => self.ops.push(Op::MkdirLocal { node }),
            None => self.ops.push(Op::Download { node }),
        }
    }

    /// Moves a local entry to where the server has it.
    fn move_local(&mut self, node: NodeId, r: &Entry) {
        let key = Key::Node(node);
        if !self.l.has(r.parent) || self.l.is_within(r.parent, key) {
            return self.stuck_local.push(node);
        }
        match self.l.occupant(r.parent, &r.name, key) {
            Some(other) => {
                self.stuck_local.push(node);
                self.contend(other, node);
            }
            None => {
                self.ops.push(Op::MoveLocal { node, parent: r.parent, name: r.name.clone() });
            }
        }
    }

    /// `node` is to have a local place that `other` holds: `other` leaves by itself, or is set aside.
    fn contend(&mut self, other: Key, node: NodeId) {
        let key = Key::Node(node);
        match (self.r.get(other), self.s.get(other)) {
            // The server has it elsewhere. Moved here only locally: the server's right goes first.
            (Some(r), Some(s)) if r.same_place(s) => self.aside(other, false),
            (Some(_), _) => self.stuck.push(key),
            (None, _) if self.local_fate(other) != Fate::Keep => self.stuck.push(key),
            // A new one here and a new one there: whether they are the same is decided by push_new.
            (None, _) if !self.l.has(key) && !self.s.has(key) => self.stuck.push(key),
            (None, _) => self.aside(other, false),
        }
    }

    /// The server lacks what is here: a new entry, or one deleted there and changed here.
    fn push_new(&mut self, key: Key) {
        let Some(l) = self.l.get(key) else { return };
        if !self.r.has(l.parent) {
            return self.stuck.push(key);
        }
        let Some(there) = self.r.occupant(l.parent, &l.name, key) else {
            self.ops.push(match l.kind {
                Kind::Dir => Op::MkdirRemote { key },
                Kind::File => Op::Upload { key, replace: None },
            });
            return;
        };
        let Key::Node(node) = there else { return };
        if self.l.has(there) {
            self.clash(key, there);
        } else if self.s.has(there) {
            self.stuck.push(key);
        } else if self
            .r
            .get(there)
            .is_some_and(|r| r.same_content(l) && self.same_vault(l, r, there))
        {
            // Of two that fold to one name only one can be it; the next round sets the other aside.
            if self.adopted.insert(node) {
                self.ops.push(Op::Adopt { local: key, node });
            } else {
                self.stuck.push(key);
            }
        } else {
            self.aside(key, false);
        }
    }

    /// Whether two directories can be one as to encryption. A plain one here becomes encrypted if the
    /// server's is; one that became encrypted here makes the server's so only if that is empty.
    fn same_vault(&self, l: &Entry, r: &Entry, there: Key) -> bool {
        let plain = [0; 32];
        l.kind == Kind::File
            || l.content.hash == r.content.hash
            || l.content.hash == plain
            || (r.content.hash == plain && self.r.children(there).next().is_none())
    }

    /// Moves a node at the server to where it is here.
    fn move_remote(&mut self, node: NodeId, l: &Entry, r: &Entry) {
        let key = Key::Node(node);
        if !self.r.has(l.parent) {
            return self.stuck.push(key);
        }
        if self.r.is_within(l.parent, key) {
            // Moved into each other on two sides: the server's order stands.
            return self.move_local(node, r);
        }
        match self.r.occupant(l.parent, &l.name, key) {
            None => self.ops.push(Op::MoveRemote { node, rev: r.rev }),
            Some(there) if self.l.has(there) => self.clash(key, there),
            Some(_) => self.stuck.push(key),
        }
    }

    /// The place that `key` should get at the server is held by `there`, which is also here.
    fn clash(&mut self, key: Key, there: Key) {
        let same_here = match (self.l.get(key), self.l.get(there)) {
            (Some(a), Some(b)) => {
                a.parent == b.parent && names::fold(&a.name) == names::fold(&b.name)
            }
            _ => false,
        };
        if same_here {
            return self.aside(key, false);
        }
        if let (Key::Node(a), Key::Node(b)) = (key, there) {
            let moving = |k| match (self.l.get(k), self.r.get(k), self.s.get(k)) {
                (Some(l), Some(r), Some(s)) => r.same_place(s) && !l.same_place(s),
                _ => false,
            };
            if moving(key) && moving(there) {
                self.stuck_remote.push((a, b));
            }
        }
        self.stuck.push(key);
    }

    /// Renames a local entry to a conflict name that nobody has.
    fn aside(&mut self, key: Key, detach: bool) {
        let Some(l) = self.l.get(key) else { return };
        if !self.set_aside.insert(key) {
            return;
        }
        let mut nth = 1;
        loop {
            let name = names::conflict(&l.name, &self.names.device, &self.names.date, nth);
            let place = (l.parent, names::fold(&name));
            let taken = self.l.occupant(l.parent, &name, Key::New(u64::MAX)).is_some()
                || self.r.occupant(l.parent, &name, Key::New(u64::MAX)).is_some();
            if !taken && self.chosen.insert(place) {
                return self.ops.push(Op::Aside { key, name, detach });
            }
            nth += 1;
        }
    }

    /// Everything waits for something else: break one ring, the rest follows in later rounds.
    fn break_a_ring(&mut self) {
        for (a, b) in std::mem::take(&mut self.stuck_remote) {
            let (ka, kb) = (Key::Node(a), Key::Node(b));
            let apart = !self.r.is_within(ka, kb) && !self.r.is_within(kb, ka);
            if let (true, Some(ra), Some(rb)) = (apart, self.r.get(ka), self.r.get(kb)) {
                return self.ops.push(Op::ExchangeRemote { a: (a, ra.rev), b: (b, rb.rev) });
            }
        }
        for node in std::mem::take(&mut self.stuck_local) {
            let key = Key::Node(node);
            let Some(l) = self.l.get(key) else { continue };
            let name = format!(".pvfs2-moving-{node}");
            // To the root, or to its encrypted folder: its own directory may be what has to go.
            let parent = self.l.vault(l.parent).map_or(Key::Node(ROOT), |(root, _)| root);
            if l.name != name && self.l.occupant(parent, &name, key).is_none() {
                return self.ops.push(Op::MoveLocal { node, parent, name });
            }
        }
        for key in std::mem::take(&mut self.stuck) {
            if self.l.has(key) && !self.l.get(key).is_some_and(|l| names::is_conflict(&l.name)) {
                return self.aside(key, false);
            }
        }
    }
}

/// Whether a plan deletes so much that a person must say yes first (trap 5): more than
/// [`BRAKE_FILES`], or more than a quarter of everything once that is at least ten.
#[must_use]
pub fn brakes(ops: &[Op], synced: usize) -> bool {
    let deletes = ops.iter().filter(|op| op.is_delete()).count();
    deletes > BRAKE_FILES || (deletes >= BRAKE_SMALL && deletes * 4 > synced)
}

/// So many deletions at once always need a yes.
pub const BRAKE_FILES: usize = 100;
/// So few never do.
pub const BRAKE_SMALL: usize = 10;
