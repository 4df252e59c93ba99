//! What does not fit together in a view of all servers: pure, without clock or network.
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{FsckName, FsckObject, FsckPending, FsckPendingKind};
use pvfs2_proto::{Attr, AttrFlags, ClusterMap, DirMap, Handle, ServerId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// Directories above each other at most in a path that is told.
const DEPTH_MAX: usize = 4_096;

/// Everything that the servers keep, as one look found it.
#[derive(Default)]
pub struct View {
    /// Objects, with their server.
    pub objects: HashMap<u64, (ServerId, FsckObject)>,
    /// Handles found on two servers.
    pub doubles: Vec<(u64, ServerId, ServerId)>,
    /// Dirents.
    pub names: Vec<FsckName>,
    /// What is under way, with its server.
    pub pending: Vec<(ServerId, FsckPending)>,
    /// Datafiles, with their server.
    pub datafiles: Vec<(ServerId, u64)>,
    /// By metadata server: handles from this one on have not been given out.
    pub next_handles: BTreeMap<ServerId, u64>,
}

impl View {
    /// Adds an object of a server.
    pub fn add_object(&mut self, server: ServerId, object: FsckObject) {
        let handle = object.attr.as_ref().map_or(0, |a| a.handle);
        if let Some((other, _)) = self.objects.insert(handle, (server, object)) {
            self.doubles.push((handle, other, server));
        }
    }

    /// How often an object had been changed; none: there is no such object.
    pub fn change_of(&self, handle: u64) -> Option<u64> {
        self.attr(handle).map(|a| a.change)
    }

    fn attr(&self, handle: u64) -> Option<&Attr> {
        self.objects.get(&handle).and_then(|(_, o)| o.attr.as_ref())
    }

    /// The directory, where `dir` is a part of one that has split.
    fn home(&self, dir: u64) -> u64 {
        self.attr(dir).filter(|a| a.has(AttrFlags::DIR_PART)).map_or(dir, Attr::home)
    }

    /// The map of the split directory that `dir` is, or is a part of.
    fn dir_map(&self, dir: u64) -> Option<&DirMap> {
        self.attr(self.home(dir)).and_then(|a| a.dir_map.as_deref())
    }

    /// Whether a split under way has given the name to a part without its home's word.
    fn is_early(&self, n: &FsckName) -> bool {
        let map = self.dir_map(n.dir).filter(|map| map.is_moving() && map.home != n.dir);
        map.is_some_and(|map| map.owner_of(&n.name).0 != n.dir)
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What kind of thing, one word for programs.
    pub kind: &'static str,
    /// The object or datafile.
    #[serde(serialize_with = "as_hex")]
    pub handle: u64,
    /// The server where it lies.
    pub server: String,
    /// Its path, where there is one.
    pub path: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
    /// Objects that must not have changed between two views for this to be true.
    #[serde(skip)]
    pub watch: Vec<u64>,
    /// What else tells this finding from others of its kind and object.
    #[serde(skip)]
    pub other: Vec<u8>,
}

fn as_hex<S: serde::Serializer>(handle: &u64, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&format!("{handle:016x}"))
}

impl Finding {
    /// By what it is recognised in another view.
    pub fn key(&self) -> (&'static str, u64, Vec<u8>) {
        (self.kind, self.handle, self.other.clone())
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: object {:016x} on {}", self.kind, self.handle, self.server)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}

const ASK: &str = "keep the servers' data folders and report it: no program of ours does this";
const RESTART: &str = "start the servers that are down; it goes on by itself then";
const LOST: &str = "move what is in it away or copy it, then remove it; its name is lost";

struct Judge<'a> {
    map: &'a ClusterMap,
    view: &'a View,
    /// Its dirents.
    names: Vec<&'a FsckName>,
    /// Objects of unfinished intents: no suspects.
    busy: HashSet<u64>,
    /// One name of each object.
    name_of: HashMap<u64, &'a FsckName>,
    found: Vec<Finding>,
}

/// Everything in a view that does not fit together.
pub fn judge(map: &ClusterMap, view: &View, pending_max: Duration) -> Vec<Finding> {
    let is = |p: &FsckPending, kind| p.kind() == kind;
    let intents: HashSet<u64> = view
        .pending
        .iter()
        .filter(|(_, p)| is(p, FsckPendingKind::Intent))
        .map(|(_, p)| p.id)
        .collect();
    let busy = view
        .pending
        .iter()
        .filter(|(_, p)| intents.contains(&p.id) && !is(p, FsckPendingKind::Reap))
        .flat_map(|(_, p)| p.handles.iter().copied())
        .collect();
    let names: Vec<&FsckName> = view.names.iter().filter(|n| !view.is_early(n)).collect();
    let name_of = names.iter().map(|n| (n.handle, *n)).collect();
    let mut j = Judge { map, view, names, busy, name_of, found: Vec::new() };
    j.pending(pending_max);
    j.names();
    j.objects();
    j.tree();
    j.datafiles();
    j.found.sort_by(|a, b| (a.kind, a.handle, &a.other).cmp(&(b.kind, b.handle, &b.other)));
    j.found.dedup_by_key(|f| f.key());
    j.found
}

impl Judge<'_> {
    fn add(&mut self, kind: &'static str, handle: u64, what: String, remedy: &'static str) {
        let server = self.view.objects.get(&handle).map(|(s, _)| *s);
        let server = server.or_else(|| self.map.meta_server_of(Handle(handle)));
        self.add_on(server, kind, handle, what, remedy);
    }

    fn add_on(
        &mut self,
        server: Option<ServerId>,
        kind: &'static str,
        handle: u64,
        what: String,
        remedy: &'static str,
    ) {
        let server = server.map_or("?", |s| self.map.alias(s)).to_owned();
        let path = self.path(handle);
        let (watch, other) = (vec![handle], Vec::new());
        self.found.push(Finding { kind, handle, server, path, what, remedy, watch, other });
    }

    /// Adds to the finding just made what else it depends on.
    fn last(&mut self, watch: &[u64], other: &[u8]) {
        if let Some(f) = self.found.last_mut() {
            f.watch.extend(watch);
            f.other = other.to_vec();
        }
    }

    /// The path of an object that has a name.
    fn path(&self, handle: u64) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = handle;
        while at != Handle::ROOT.0 {
            let name = self.name_of.get(&at)?;
            parts.push(String::from_utf8_lossy(&name.name).into_owned());
            at = self.view.home(name.dir);
            if parts.len() > DEPTH_MAX {
                return None;
            }
        }
        parts.reverse();
        Some(format!("/{}", parts.join("/")))
    }

    fn pending(&mut self, max: Duration) {
        for (server, p) in &self.view.pending {
            let (kind, what) = match p.kind() {
                FsckPendingKind::Intent => {
                    ("unfinished-intent", "an operation over several servers")
                }
                FsckPendingKind::Step => {
                    ("unfinished-step", "a step of another server's operation")
                }
                FsckPendingKind::Reap | FsckPendingKind::Moving => continue,
            };
            if p.age_ns as u128 >= max.as_nanos() {
                let handle = p.handles.first().copied().unwrap_or(0);
                let seconds = p.age_ns / 1_000_000_000;
                let what = format!("{what} ({:016x}) is under way for {seconds} s", p.id);
                self.add_on(Some(*server), kind, handle, what, RESTART);
                self.last(&[], &p.id.to_le_bytes());
                if let Some(f) = self.found.last_mut() {
                    f.watch.clear();
                }
            }
        }
    }

    fn names(&mut self) {
        for n in self.names.clone() {
            let text = String::from_utf8_lossy(&n.name).into_owned();
            if self.busy.contains(&n.handle) || self.busy.contains(&n.dir) {
                continue;
            }
            match self.view.attr(n.dir) {
                None => {
                    let what =
                        format!("the name '{text}' is in it, but there is no such directory");
                    self.add("no-directory", n.dir, what, ASK);
                    self.last(&[n.handle], &n.name);
                }
                Some(dir) if !dir.is_dir() => {
                    let what = format!("the name '{text}' is in it, but it is no directory");
                    self.add("no-directory", n.dir, what, ASK);
                    self.last(&[n.handle], &n.name);
                }
                Some(_) => {}
            }
            if self.view.dir_map(n.dir).is_some_and(|map| map.owner_of(&n.name).0 != n.dir) {
                let what = format!("the name '{text}' belongs to another part of its directory");
                self.add("wrong-part", n.dir, what, ASK);
                self.last(&[n.handle], &n.name);
            }
            match self.view.attr(n.handle) {
                None => {
                    let what =
                        format!("the name '{text}' in directory {:016x} points at nothing", n.dir);
                    self.add("dangling-name", n.handle, what, "remove the name");
                    self.last(&[], &[&n.dir.to_le_bytes()[..], &n.name[..]].concat());
                }
                Some(a) if a.kind() != n.kind => {
                    let what = format!("the name '{text}' says another kind of object");
                    self.add("wrong-kind", n.handle, what, ASK);
                    self.last(&[n.dir], &n.name);
                }
                Some(a) if a.is_dir() => {
                    let parent = self.view.objects.get(&n.handle).map_or(0, |(_, o)| o.parent);
                    if parent != self.view.home(n.dir) {
                        let what = format!(
                            "its name is in directory {:016x}, it says its parent is {parent:016x}",
                            n.dir
                        );
                        let remedy = "rename it to another directory and back";
                        self.add("wrong-parent", n.handle, what, remedy);
                        self.last(&[], &n.dir.to_le_bytes());
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn objects(&mut self) {
        let mut links: HashMap<u64, u32> = HashMap::new();
        let mut entries: HashMap<u64, (u64, u32)> = HashMap::new();
        for n in self.names.clone() {
            *links.entry(n.handle).or_default() += 1;
            let e = entries.entry(n.dir).or_default();
            *e = (e.0 + 1, e.1 + u32::from(n.kind == S_IFDIR));
        }
        for (handle, a, b) in self.view.doubles.clone() {
            let what = format!("it is on {} and on {}", self.map.alias(a), self.map.alias(b));
            self.add("double-object", handle, what, ASK);
        }
        for (handle, (server, object)) in &self.view.objects {
            let (handle, server) = (*handle, *server);
            let Some(a) = object.attr.as_ref() else { continue };
            if self.map.meta_server_of(Handle(handle)) != Some(server) {
                let what = format!("its handle is not in the range of {}", self.map.alias(server));
                self.add(
                    "foreign-object",
                    handle,
                    what,
                    "give the ranges in the cluster file back",
                );
            } else if self.view.next_handles.get(&server).is_some_and(|next| handle >= *next) {
                let what = "its handle may be given out again".to_owned();
                self.add("handle-not-given-out", handle, what, ASK);
            }
            if self.busy.contains(&handle) {
                continue;
            }
            let named = links.get(&handle).copied().unwrap_or(0);
            self.links(a, object, named);
            if a.is_dir() {
                let (names, subdirs) = entries.get(&handle).copied().unwrap_or_default();
                let moving = self.view.dir_map(handle).is_some_and(DirMap::is_moving);
                if !moving && (a.size, a.nlink) != (names, 2 + subdirs) {
                    let what = format!(
                        "it says {} entries and {} links, but has {names} and {}",
                        a.size,
                        a.nlink,
                        2 + subdirs
                    );
                    self.add("wrong-counts", handle, what, ASK);
                }
                if a.has(AttrFlags::DIR_DYING) {
                    let what = "its removal was begun, and nobody knows of it".to_owned();
                    self.add("dying-directory", handle, what, ASK);
                }
            }
        }
    }

    /// An object's names against its link count.
    fn links(&mut self, a: &Attr, object: &FsckObject, named: u32) {
        let handle = a.handle;
        if handle == Handle::ROOT.0 {
            return;
        }
        if a.has(AttrFlags::DIR_PART) {
            let known = self.view.dir_map(handle).is_some_and(|m| m.parts.contains(&handle));
            if named > 0 || !known {
                let what = "it is a part of a directory that does not know it".to_owned();
                self.add("unnamed-object", handle, what, LOST);
            }
            return;
        }
        if named == 0 && object.orphan {
            if !object.open {
                let what = "it has no name, and nobody has it open".to_owned();
                self.add("orphan", handle, what, "restart its server, which removes it then");
            }
        } else if named == 0 {
            let what = "it has no name".to_owned();
            self.add("unnamed-object", handle, what, LOST);
        } else if a.is_dir() && named != 1 {
            self.add("several-names", handle, format!("the directory has {named} names"), ASK);
        } else if !a.is_dir() && named != a.nlink {
            let what = format!("it says {} names, but has {named}", a.nlink);
            self.add("wrong-links", handle, what, "copy it, and remove all its names");
        }
    }

    /// Directories that no way from the root leads to: cycles, and what hangs below lost ones.
    fn tree(&mut self) {
        let mut good: HashSet<u64> = HashSet::from([Handle::ROOT.0]);
        let mut bad: HashSet<u64> = HashSet::new();
        let dirs = self.view.objects.values().filter_map(|(_, o)| o.attr.as_ref());
        let named = |a: &&Attr| a.is_dir() && !a.has(AttrFlags::DIR_PART);
        for start in dirs.filter(named).map(|a| a.handle) {
            let mut way = Vec::new();
            let mut at = start;
            let reached = loop {
                if good.contains(&at) {
                    break true;
                }
                if bad.contains(&at) {
                    break false;
                }
                if let Some(begin) = way.iter().position(|w| *w == at) {
                    let ring: Vec<u64> = way[begin..].to_vec();
                    self.cycle(&ring);
                    break false;
                }
                way.push(at);
                match self.name_of.get(&at) {
                    Some(name) => at = self.view.home(name.dir),
                    // Reported as an object without a name.
                    None => break false,
                }
            };
            if !reached {
                self.unreachable(&way);
            }
            if reached { &mut good } else { &mut bad }.extend(way);
        }
    }

    fn cycle(&mut self, ring: &[u64]) {
        let Some(least) = ring.iter().copied().min() else { return };
        if ring.iter().any(|h| self.busy.contains(h)) {
            return;
        }
        let members: Vec<String> = ring.iter().map(|h| format!("{h:016x}")).collect();
        let what = format!("directories lie below each other in a ring: {}", members.join(", "));
        self.add("cycle", least, what, ASK);
        self.last(ring, &[]);
    }

    fn unreachable(&mut self, way: &[u64]) {
        for handle in way {
            let named = self.name_of.contains_key(handle);
            if named && !self.busy.contains(handle) {
                let what = "no way from the root leads to it".to_owned();
                self.add("unreachable", *handle, what, LOST);
                self.last(way, &[]);
            }
        }
    }

    fn datafiles(&mut self) {
        let mut owner: HashMap<u64, u64> = HashMap::new();
        for (_, (_, object)) in self.view.objects.iter() {
            let Some(a) = object.attr.as_ref() else { continue };
            for d in a.layout.iter().flat_map(|l| &l.datahandles) {
                if self.map.io_server_of(Handle(*d)).is_none() {
                    let what = format!("its datafile {d:016x} belongs to no I/O server");
                    let remedy = "give the I/O server back to the cluster file";
                    self.add("lost-datafile", a.handle, what, remedy);
                    self.last(&[], &d.to_le_bytes());
                }
                if let Some(other) = owner.insert(*d, a.handle) {
                    let what = format!("it has datafile {d:016x}, and {other:016x} has it too");
                    self.add("shared-datafile", a.handle.max(other), what, ASK);
                    self.last(&[other, a.handle], &d.to_le_bytes());
                }
            }
        }
        let waiting: HashSet<u64> =
            self.view.pending.iter().flat_map(|(_, p)| p.datahandles.iter().copied()).collect();
        for (server, d) in &self.view.datafiles {
            if self.map.io_server_of(Handle(*d)) != Some(*server) {
                let what = format!("its handle is not in the range of {}", self.map.alias(*server));
                let remedy = "give the ranges in the cluster file back";
                self.add_on(Some(*server), "foreign-datafile", *d, what, remedy);
            } else if !owner.contains_key(d) && !waiting.contains(d) {
                let what = "no metafile has this datafile".to_owned();
                let remedy = "it takes space and does no other harm";
                self.add_on(Some(*server), "surplus-datafile", *d, what, remedy);
            }
        }
    }
}
