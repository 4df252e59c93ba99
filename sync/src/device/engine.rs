//! One pass: fetch, scan, plan, carry out, plan again. See the module for the order and [`crate::plan`]
//! for the rules.
//!
//! | an operation ends with | then |
//! |---|---|
//! | done | note it in the trees and the base, plan again |
//! | stale, taken, not found, damaged on the way | fetch and scan again (a few times), then report |
//! | no room, not taken, I/O | report it with its path, go on with the others |
//! | server not reached, signed out, root lost, stopped | the pass ends; nothing is remembered of it |
use super::Remote;
use super::base::{Base, Learnt, Signature};
use super::filter::Filter;
use super::scan::{Scan, scan};
use super::veil::Veil;
use super::view::{KeyFiles, Open, VaultState, View, apart, shut};
use crate::api::NodeInfo;
use crate::error::{Result, SyncError};
use crate::files::{Area, At, Files, Stat, join};
use crate::plan::{Names, Op, brakes, plan};
use crate::rng::unhex;
use crate::tree::{Entry, Key, Kind, NodeId, Tree};
use crate::vault::is_sealed;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// So often a pass looks again before it reports what does not stand still.
const LOOKS_MAX: usize = 8;
/// So many rounds one look may take.
const ROUNDS_MAX: usize = 1_000;

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files and directories brought here, moved here or deleted here.
    pub down: usize,
    /// The same at the server.
    pub up: usize,
    /// Bytes fetched.
    pub bytes_down: u64,
    /// Bytes sent.
    pub bytes_up: u64,
    /// Conflict copies that were made.
    pub conflicts: Vec<String>,
    /// What is not synchronised, and why.
    pub skipped: Vec<String>,
    /// What failed, and why.
    pub problems: Vec<String>,
    /// The encrypted folders, and whether they are open here.
    pub vaults: Vec<VaultState>,
}

/// A device's engine.
pub struct Engine {
    pub(super) files: Arc<dyn Files>,
    pub(super) base: Base,
    pub(super) names: Names,
    pub(super) now_ns: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub(super) nonce: Box<dyn FnMut() -> u64 + Send>,
    pub(super) vaults: Open,
    ignore: Vec<String>,
    only: Vec<String>,
    pub(super) progress: Arc<Progress>,
}

/// How far a pass is, for whoever looks on from outside; and a way to end it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Operations of this round that are done, and how many there are; both 0: none.
    pub done: AtomicUsize,
    /// See `done`.
    pub of: AtomicUsize,
    /// Bytes of contents that were sent and fetched since the pass began.
    pub bytes: AtomicU64,
    /// The pass ends before its next step.
    pub stop: AtomicBool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The three trees while a pass goes on.
pub(super) struct Pass<'a> {
    pub e: &'a mut Engine,
    pub net: Veil<'a>,
    pub l: Tree,
    pub r: Tree,
    pub s: Tree,
    pub stats: HashMap<Key, Stat>,
    pub infos: HashMap<NodeId, NodeInfo>,
    pub signatures: HashMap<NodeId, Signature>,
    pub cursor: i64,
    /// Downloads that are whole and durable in `tmp/`.
    pub fetched: HashSet<String>,
    /// The server's key files, by the node of their folder.
    pub key_texts: KeyFiles,
    pub report: &'a mut Report,
}

impl Engine {
    /// A device over `files` that remembers in `base`. `nonce` gives numbers that no two requests share.
    pub fn new(
        files: Arc<dyn Files>,
        base: Base,
        names: Names,
        now_ns: Arc<dyn Fn() -> i64 + Send + Sync>,
        nonce: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            files,
            base,
            names,
            now_ns,
            nonce,
            vaults: Open::new(),
            ignore: Vec::new(),
            only: Vec::new(),
            progress: Arc::default(),
        }
    }

    /// Sets what is left out, besides what the folder's own file says: patterns, and the folders that are
    /// synchronised (none: all).
    pub fn leave_out(&mut self, ignore: Vec<String>, only: Vec<String>) {
        (self.ignore, self.only) = (ignore, only);
    }

    /// How far the pass is; it may be looked at from another thread.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Gives the base back, as a process leaves it when it ends.
    #[must_use]
    pub fn into_base(self) -> Base {
        self.base
    }

    /// The server's history and the revision up to which it was heard.
    ///
    /// # Errors
    /// Database.
    pub fn cursor(&self) -> Result<(String, i64)> {
        self.base.cursor()
    }

    /// Sets the date for the names of conflict copies.
    pub fn set_date(&mut self, date: String) {
        self.names.date = date;
    }

    /// Brings folder and server in step. `allow_deletes` releases the brake once.
    ///
    /// # Errors
    /// What ends a pass: see the table above; [`SyncError::Brake`] before anything was done.
    pub fn pass(&mut self, net: &mut dyn Remote, allow_deletes: bool) -> Result<Report> {
        let mut report = Report::default();
        let mut failed: HashSet<String> = HashSet::new();
        let mut last = String::new();
        self.progress.bytes.store(0, Ordering::Relaxed);
        // Answers to a pass that was cut off.
        while net.collect().is_some() {}
        for _ in 0..LOOKS_MAX {
            self.files.check_root()?;
            self.recover()?;
            self.learn(net)?;
            self.fetch(net)?;
            match self.look(net, allow_deletes, &mut report, &mut failed)? {
                None => return Ok(report),
                Some(why) => last = why,
            }
        }
        report.problems.push(format!("does not stand still: {last}"));
        Ok(report)
    }

    fn fetch(&mut self, net: &mut dyn Remote) -> Result<()> {
        loop {
            let (epoch, since) = self.base.cursor()?;
            match net.changes(&epoch, since) {
                Ok(changes) => {
                    if !epoch.is_empty() && changes.epoch != epoch {
                        self.base.begin_anew()?;
                        continue;
                    }
                    self.base.heard(&changes.epoch, changes.next, &changes.nodes)?;
                    if !changes.more {
                        return Ok(());
                    }
                }
                Err(SyncError::Epoch) if !epoch.is_empty() => self.base.begin_anew()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Requests whose answers were lost: the server tells what it answered, and that is agreed on,
    /// whatever happened on either side since.
    fn learn(&mut self, net: &mut dyn Remote) -> Result<()> {
        let unanswered = self.base.unanswered()?;
        if unanswered.is_empty() {
            return Ok(());
        }
        let (mut agreed, signatures) = self.base.agreed()?;
        for (key, sent) in unanswered {
            let Some(info) = net.outcome(&key)? else { continue };
            let (node, mut told) = (Key::Node(info.id), info.entry());
            if is_sealed(&told.name) {
                // In an encrypted folder: what was meant, as it was noted.
                told.name.clone_from(&sent.name);
                told.content.hash = unhex(&sent.hash).unwrap_or(told.content.hash);
            }
            let sig = signatures.get(&info.id).copied().unwrap_or_default();
            let learnt = match (sent.node, agreed.get(node)) {
                (None, None) => Some((told, Signature::default())),
                // The local bytes are not known to be those that were sent.
                (Some(_), Some(s)) if !sent.hash.is_empty() => Some((
                    Entry { content: told.content, ..s.clone() },
                    Signature { ctime_ns: 0, ..sig },
                )),
                (Some(_), Some(s)) => {
                    Some((Entry { parent: told.parent, name: told.name, ..s.clone() }, sig))
                }
                _ => None,
            };
            if let Some((entry, sig)) = learnt {
                self.base.agree(info.id, &entry, sig, sent.instead_of)?;
                agreed.put(node, entry);
            }
            self.base.answered(&key)?;
        }
        Ok(())
    }

    /// Scans and works until nothing is left (`None`), or until something turned out to be stale.
    fn look(
        &mut self,
        net: &mut dyn Remote,
        allow_deletes: bool,
        report: &mut Report,
        failed: &mut HashSet<String>,
    ) -> Result<Option<String>> {
        let mut agreed = self.base.agreed()?;
        let filter = Filter::with_file(&*self.files, &self.ignore, &self.only)?;
        let left_out = filter.forget(&mut agreed);
        if !left_out.forgotten.is_empty() {
            // When they are let in again, both sides are united.
            self.base.take_in(&left_out)?;
        }
        let (mut view, known) = match self.view(net, &mut agreed.0) {
            Err(e) if e.is_stale() => return Ok(Some(e.to_string())),
            other => other?,
        };
        let Scan { tree, stats, skipped, mut held, damaged, rehashed, mut holders, mut closed } =
            scan(&*self.files, &agreed, &filter, &view)?;
        // The folder may have vanished while it was scanned (trap 5).
        self.files.check_root()?;
        report.skipped = skipped;
        for (key, why) in view.closed() {
            holders.insert(key);
            closed.entry(key).or_insert(why);
        }
        let mut left_alone = shut(&closed, &mut view.tree, &mut agreed);
        let parted = apart(&closed, &mut left_alone);
        if !left_alone.forgotten.is_empty() {
            self.base.take_in(&left_alone)?;
        }
        if parted {
            return Ok(Some("an encrypted folder is another one at the server".into()));
        }
        for (id, why) in &view.unreadable {
            held.insert(Key::Node(*id));
            if !why.is_empty() && !report.problems.contains(why) {
                report.problems.push(why.clone());
            }
        }
        report.vaults = view.states(&tree, &closed);
        let key_files = view.key_files();
        let View { tree: mut r, infos, inside, sealed, .. } = view;
        holders.extend(filter.hide(&mut r));
        let cursor = self.base.cursor()?.1;
        let (mut s, signatures) = agreed;
        // A directory that is gone on one side and holds something left out on the other is not deleted.
        for key in holders.into_iter().filter(|k| !(tree.has(*k) && r.has(*k))) {
            s.remove(key);
        }
        let fetched = HashSet::new();
        let net = Veil::new(net, inside, sealed, known);
        let mut p = Pass {
            e: self,
            net,
            l: tree,
            r,
            s,
            stats,
            infos,
            signatures,
            cursor,
            fetched,
            key_texts: key_files,
            report,
        };
        p.clear_tmp()?;
        p.refresh(&rehashed)?;
        p.give_up_requests()?;
        match p.key_files(&closed) {
            Err(e) if e.is_stale() => return Ok(Some(e.to_string())),
            other => other?,
        }
        for id in damaged {
            match p.repair(id) {
                Err(e) if e.is_stale() => return Ok(Some(e.to_string())),
                other => other?,
            }
        }
        let mut tried = HashSet::new();
        for round in 0..ROUNDS_MAX {
            p.recognise(&mut tried)?;
            let mut ops = plan(&p.l, &p.r, &p.s, &p.e.names);
            ops.retain(|op| {
                let key = p.key_of(op);
                let alone = closed.contains_key(&key)
                    && matches!(op, Op::MkdirRemote { .. } | Op::DeleteRemote { .. });
                !alone
                    && !held.contains(&key)
                    && (failed.is_empty() || !failed.contains(&p.label(key)))
            });
            if round == 0 && !allow_deletes && brakes(&ops, p.s.len()) {
                let deletes = ops.iter().filter(|op| op.is_delete()).count();
                return Err(SyncError::Brake(deletes, p.s.len()));
            }
            if ops.is_empty() {
                return Ok(None);
            }
            if let Some(why) = p.round(&ops, failed)? {
                return Ok(Some(why));
            }
        }
        Ok(Some(format!("{ROUNDS_MAX} rounds")))
    }
}

impl Pass<'_> {
    fn key_of(&self, op: &Op) -> Key {
        match op {
            Op::Aside { key, .. } | Op::MkdirRemote { key } | Op::Upload { key, .. } => *key,
            Op::Adopt { local, .. } => *local,
            Op::Advance { node }
            | Op::Forget { node }
            | Op::MoveLocal { node, .. }
            | Op::MkdirLocal { node }
            | Op::Download { node }
            | Op::MoveRemote { node, .. }
            | Op::DeleteLocal { node }
            | Op::DeleteRemote { node, .. } => Key::Node(*node),
            Op::ExchangeRemote { a, .. } => Key::Node(a.0),
        }
    }

    /// Carries out what was planned, together what goes together. `Some`: look again, for this reason.
    fn round(&mut self, ops: &[Op], failed: &mut HashSet<String>) -> Result<Option<String>> {
        let mut again = None;
        let mut done = vec![false; ops.len()];
        let progress = self.e.progress.clone();
        progress.of.store(ops.len(), Ordering::Relaxed);
        for n in 0..ops.len() {
            progress.done.store(done.iter().filter(|d| **d).count(), Ordering::Relaxed);
            self.tell()?;
            let Some(op) = ops.get(n).filter(|_| done.get(n) == Some(&false)) else { continue };
            let what = self.together(op);
            let group: Vec<usize> = match what {
                Some(what) => (n..ops.len())
                    .filter(|m| ops.get(*m).is_some_and(|o| self.together(o) == Some(what)))
                    .collect(),
                None => vec![n],
            };
            let ends = match what {
                Some(what) if group.len() > 1 => {
                    let all: Vec<&Op> = group.iter().filter_map(|m| ops.get(*m)).collect();
                    self.carry_out_all(what, &all)?
                }
                _ => vec![(self.key_of(op), self.carry_out(op))],
            };
            for m in group {
                if let Some(d) = done.get_mut(m) {
                    *d = true;
                }
            }
            for (key, end) in ends {
                match end {
                    Ok(()) => {}
                    Err(e) if e.is_stale() => again = Some(e.to_string()),
                    Err(SyncError::Damaged(why)) => again = Some(why),
                    Err(
                        e @ (SyncError::Full(_) | SyncError::Invalid(_) | SyncError::Io { .. }),
                    ) => {
                        let label = self.label(key);
                        self.report.problems.push(format!("{label}: {e}"));
                        failed.insert(label);
                    }
                    Err(e) => return Err(e),
                }
            }
            if again.is_some() {
                return Ok(again);
            }
        }
        Ok(None)
    }

    /// Tells how many bytes travelled, and ends the pass if somebody wants that.
    pub(super) fn tell(&mut self) -> Result<()> {
        let bytes = self.report.bytes_up + self.report.bytes_down;
        self.e.progress.bytes.store(bytes, Ordering::Relaxed);
        if self.e.progress.stop.load(Ordering::Relaxed) { Err(SyncError::Stopped) } else { Ok(()) }
    }

    /// A name for an entry that is the same in the next scan.
    fn label(&self, key: Key) -> String {
        self.l.path(key).or_else(|| self.r.path(key)).unwrap_or_default()
    }

    /// Drops what was begun to be fetched and is not wanted any more.
    fn clear_tmp(&mut self) -> Result<()> {
        for (name, _) in self.e.files.list(At(Area::Own, "tmp"))?.entries {
            let wanted = name.strip_prefix(['c', 'd']).and_then(|n| n.split_once('x')).is_some_and(
                |(id, rev)| {
                    let info = id.parse().ok().and_then(|id: NodeId| self.infos.get(&id));
                    info.is_some_and(|i| i.rev.to_string() == rev)
                },
            );
            if !wanted {
                self.e.files.remove_file(At(Area::Own, &join("tmp", &name)))?;
            }
        }
        Ok(())
    }

    /// Files that were hashed again and are as agreed: their signature now is worth remembering.
    fn refresh(&mut self, rehashed: &[NodeId]) -> Result<()> {
        let mut learnt = Learnt::default();
        for id in rehashed {
            let key = Key::Node(*id);
            let (Some(l), Some(s)) = (self.l.get(key), self.s.get(key).cloned()) else { continue };
            if l.same_content(&s) {
                let sig = match self.signature(key) {
                    Err(e) if e.is_stale() => continue,
                    other => other?,
                };
                if sig.ctime_ns != 0 {
                    learnt.agreed.push((*id, s, sig, None));
                    self.signatures.insert(*id, sig);
                }
            }
        }
        if learnt.agreed.is_empty() { Ok(()) } else { self.e.base.take_in(&learnt) }
    }

    fn carry_out(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Advance { node } => {
                let e = self.entry(&self.r, Key::Node(*node))?;
                self.agree(*node, e, None)
            }
            Op::Adopt { local, node } => self.adopt(*local, *node),
            Op::Forget { node } => {
                self.s.remove(Key::Node(*node));
                self.e.base.forget(*node)
            }
            Op::Aside { key, name, detach } => self.aside(*key, name, *detach),
            Op::MoveLocal { node, parent, name } => self.move_local(*node, *parent, name),
            Op::MkdirLocal { node } => self.mkdir_local(*node),
            Op::Download { node } => self.download(*node, true),
            Op::DeleteLocal { node } => self.delete_local(*node),
            Op::MkdirRemote { key } => self.mkdir_remote(*key),
            Op::Upload { key, replace } => self.upload(*key, *replace),
            Op::MoveRemote { node, rev } => self.move_remote(*node, *rev),
            Op::ExchangeRemote { a, b } => self.exchange_remote(*a, *b),
            Op::DeleteRemote { node, rev } => self.delete_remote(*node, *rev),
        }
    }

    pub(super) fn entry(&self, tree: &Tree, key: Key) -> Result<Entry> {
        tree.get(key).cloned().ok_or_else(|| SyncError::Stale(format!("{key:?} is gone")))
    }

    pub(super) fn path(&self, key: Key) -> Result<String> {
        self.l.path(key).ok_or_else(|| SyncError::Stale(format!("{key:?} is not here")))
    }

    /// Looks at a local entry again; its signature, if it is fit to be remembered.
    pub(super) fn signature(&mut self, key: Key) -> Result<Signature> {
        let path = self.path(key)?;
        let Some(stat) = self.e.files.stat(At(Area::Tree, &path))? else {
            return Err(SyncError::Stale(format!("{path} is gone")));
        };
        let mut sig = Signature::of(&stat);
        // The same bytes that were hashed?
        let seen = self.stats.get(&key).map(Signature::of);
        let same = seen.is_some_and(|s| Signature { ctime_ns: sig.ctime_ns, ..s } == sig);
        if !same || (self.e.now_ns)() - stat.ctime_ns < 1_000_000_000 {
            sig.ctime_ns = 0;
        }
        self.stats.insert(key, stat);
        Ok(sig)
    }

    /// Both sides agree on `entry` for `node`: base and tree take it.
    pub(super) fn agree(&mut self, node: NodeId, entry: Entry, drop: Option<NodeId>) -> Result<()> {
        let sig = self.signature(Key::Node(node))?;
        self.e.base.agree(node, &entry, sig, drop)?;
        self.signatures.insert(node, sig);
        self.s.put(Key::Node(node), entry);
        Ok(())
    }

    /// A local entry turns out to be a node of the server.
    pub(super) fn rekey(&mut self, from: Key, node: NodeId) -> Option<NodeId> {
        let to = Key::Node(node);
        if from == to {
            return None;
        }
        if let Some(e) = self.l.remove(from) {
            self.l.put(to, e);
        }
        for k in self.l.children(from).collect::<Vec<_>>() {
            if let Some(mut e) = self.l.remove(k) {
                e.parent = to;
                self.l.put(k, e);
            }
        }
        if let Some(stat) = self.stats.remove(&from) {
            self.stats.insert(to, stat);
        }
        self.s.remove(from);
        for k in self.s.children(from).collect::<Vec<_>>() {
            if let Some(mut e) = self.s.remove(k) {
                e.parent = to;
                self.s.put(k, e);
            }
        }
        match from {
            Key::Node(old) => Some(old),
            Key::New(_) => None,
        }
    }

    fn adopt(&mut self, local: Key, node: NodeId) -> Result<()> {
        let mut e = self.entry(&self.r, Key::Node(node))?;
        let mut l = self.entry(&self.l, local)?;
        e.name.clone_from(&l.name);
        if l.kind == Kind::Dir {
            // What is encrypted at the server is so here too.
            let plain = [0; 32];
            let key = if l.content.hash == plain { e.content.hash } else { l.content.hash };
            l.content.hash = key;
            self.l.put(local, l);
        }
        let old = self.rekey(local, node);
        self.agree(node, e, old)?;
        if let Some((text, _)) = self.key_texts.0.get(&node).cloned() {
            let path = self.path(Key::Node(node))?;
            self.write_key_file(&path, &text, None)?;
        }
        Ok(())
    }
}
