//! Many operations of one round together: small files many in a request, several requests under way, one
//! sync for many files, one transaction of the base. What each operation checks, and in which order
//! things become durable, is as in `local_ops` and `remote_ops`:
//!
//! | step for a group | crash after it |
//! |---|---|
//! | sent: requests noted, then asked | answers are asked for next time |
//! | sent: answered, base advanced and notes struck out in one transaction | done |
//! | fetched: bytes in `tmp/`, hashes checked, all durable | what is wanted is fetched again |
//! | fetched: swaps noted, renamed, directories durable | the base advances by the notes |
//! | fetched: base advanced and notes struck out in one transaction | done |
//! | deleted here: taken out to `tmp/x...`, hashes checked, directories durable | as for one: dropped, or given back |
//! | deleted here: dropped, base forgets in one transaction | done |
use super::base::{Learnt, Sent, Swap};
use super::engine::Pass;
use super::local_ops::{renamed, taken_out};
use super::remote_ops::old_node;
use super::{Ask, Remote, Told};
use crate::api::{BatchOp, BatchReply, Delete, Mkdir, NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::{self, Area, At, SMALL_BYTES, parent_of};
use crate::plan::Op;
use crate::rng::hex;
use crate::tree::{Entry, Key, Kind, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// So many files or operations are one request.
const GROUP_MAX: usize = 250;
/// So many bytes are one request.
const GROUP_BYTES_MAX: u64 = 4 << 20;
/// So many requests are under way at once.
const UNDER_WAY_MAX: usize = 3;

/// What can be done together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Together {
    Put,
    Get,
    Mkdir,
    Delete,
    DeleteHere,
}

/// How each operation of a group ended.
pub(super) type Ends = Vec<(Key, Result<()>)>;

/// A file on its way to the server.
struct Going {
    key: Key,
    replace: Option<(NodeId, i64)>,
    id: String,
    sent: Sent,
    entry: Entry,
}

fn told(reply: BatchReply) -> Result<NodeInfo> {
    match (reply.status, reply.node) {
        (200, Some(node)) => Ok(node),
        (status, _) => Err(SyncError::from_status(status, reply.error)),
    }
}

/// The replies to a group, or why there are none.
fn replies(answer: Option<Result<Told>>, many: usize) -> Result<Vec<BatchReply>> {
    match answer {
        Some(Ok(Told::Replies(all))) if all.len() == many => Ok(all),
        Some(Err(e)) => Err(e),
        _ => Err(SyncError::Net("the answer does not fit the question".into())),
    }
}

impl Pass<'_> {
    /// With which others an operation can go.
    pub(super) fn together(&self, op: &Op) -> Option<Together> {
        match op {
            Op::Upload { key, .. } => {
                let small = self.stats.get(key).is_some_and(|s| s.size <= SMALL_BYTES);
                small.then_some(Together::Put)
            }
            Op::Download { node } => {
                let small = self.infos.get(node).is_some_and(|i| i.size <= SMALL_BYTES);
                small.then_some(Together::Get)
            }
            // An encrypted folder gets its key file before anything else.
            Op::MkdirRemote { key } => {
                let vault = self.l.get(*key).is_some_and(|l| l.content.hash != [0; 32]);
                (!vault).then_some(Together::Mkdir)
            }
            Op::DeleteRemote { .. } => Some(Together::Delete),
            Op::DeleteLocal { node } => {
                let file = self.l.get(Key::Node(*node)).is_some_and(|l| l.kind == Kind::File);
                file.then_some(Together::DeleteHere)
            }
            _ => None,
        }
    }

    /// Carries out what goes together. An error ends the pass; those of single operations are in the
    /// answer.
    pub(super) fn carry_out_all(&mut self, what: Together, ops: &[&Op]) -> Result<Ends> {
        let mut ends = Ends::new();
        let done = match what {
            Together::Put => self.put_all(ops, &mut ends),
            Together::Get => self.get_all(ops, &mut ends),
            Together::Mkdir => self.mkdir_all(ops, &mut ends),
            Together::Delete => self.delete_all(ops, &mut ends),
            Together::DeleteHere => self.delete_here_all(ops, &mut ends),
        };
        if done.is_err() {
            while self.net.collect().is_some() {}
        }
        done.map(|()| ends)
    }

    /// What is needed to send one file.
    fn going(
        &mut self,
        key: Key,
        replace: Option<(NodeId, i64)>,
        begun: &HashMap<String, String>,
    ) -> Result<(Going, UploadBegin, Vec<u8>)> {
        let entry = self.entry(&self.l, key)?;
        let path = self.path(key)?;
        let seen = self.stats.get(&key).copied();
        let stat = seen.ok_or_else(|| SyncError::Stale(format!("{path} is gone")))?;
        let (sent, hash) = self.sending(key, &entry, replace)?;
        let known = serde_json::to_string(&sent).ok().and_then(|text| begun.get(&text).cloned());
        let id = known.unwrap_or_else(|| self.request_key());
        let room = usize::try_from(stat.size).unwrap_or(usize::MAX).saturating_add(1);
        let bytes = self.e.files.read(At(Area::Tree, &path), 0, room)?;
        if bytes.len() as u64 != stat.size {
            return Err(SyncError::Stale(format!("{path} changed while it was sent")));
        }
        let (bytes, hash) = self.seal_bytes(sent.parent, &entry, bytes, hash)?;
        let req = UploadBegin {
            id: id.clone(),
            parent: sent.parent,
            name: entry.name.clone(),
            replace,
            size: bytes.len() as u64,
            hash,
            mtime_ns: stat.mtime_ns,
            exec: entry.content.exec,
        };
        Ok((Going { key, replace, id, sent, entry }, req, bytes))
    }

    fn put_all(&mut self, ops: &[&Op], ends: &mut Ends) -> Result<()> {
        let begun: HashMap<String, String> = self
            .e
            .base
            .unanswered()?
            .into_iter()
            .filter_map(|(id, sent)| Some((serde_json::to_string(&sent).ok()?, id)))
            .collect();
        let mut under_way: VecDeque<Vec<Going>> = VecDeque::new();
        let mut rest = ops.iter().copied().peekable();
        while rest.peek().is_some() {
            let (mut group, mut files, mut bytes_all) = (Vec::new(), Vec::new(), 0);
            while group.len() < GROUP_MAX && bytes_all < GROUP_BYTES_MAX {
                let Some(Op::Upload { key, replace }) = rest.next() else { break };
                match self.going(*key, *replace, &begun) {
                    Ok((going, req, bytes)) => {
                        bytes_all += req.size;
                        group.push(going);
                        files.push((req, bytes));
                    }
                    Err(SyncError::Crash) => return Err(SyncError::Crash),
                    Err(e) => ends.push((*key, Err(e))),
                }
            }
            if group.is_empty() {
                continue;
            }
            self.e.base.send_all(group.iter().map(|g| (g.id.as_str(), &g.sent)))?;
            self.report.bytes_up += bytes_all;
            self.net.submit(Ask::Put(files));
            under_way.push_back(group);
            if under_way.len() > UNDER_WAY_MAX
                && let Some(group) = under_way.pop_front()
            {
                self.were_put(group, ends)?;
            }
        }
        while let Some(group) = under_way.pop_front() {
            self.were_put(group, ends)?;
        }
        Ok(())
    }

    /// Takes in what the server answered to a group of files.
    fn were_put(&mut self, group: Vec<Going>, ends: &mut Ends) -> Result<()> {
        self.tell()?;
        let all = replies(self.net.collect(), group.len())?;
        let mut learnt = Learnt::default();
        for (g, reply) in group.into_iter().zip(all) {
            let end = match told(reply) {
                Err(e @ (SyncError::Net(_) | SyncError::Denied(_))) => Err(e),
                Err(e) => {
                    // Nothing more will come of this id.
                    self.net.upload_drop(&g.id)?;
                    learnt.answered.push(g.id);
                    Err(e)
                }
                Ok(info) if info.rev <= self.cursor => {
                    // From before the last fetch; what became of it since then is known already.
                    learnt.answered.push(g.id);
                    Err(SyncError::Stale(format!("{} was sent before", g.entry.name)))
                }
                Ok(info) => {
                    self.heard(&info);
                    let taken = match g.replace {
                        Some(_) => self.entry(&self.s, g.key).map(|mut s| {
                            (s.content, s.rev) = (g.entry.content, info.rev);
                            (s, None)
                        }),
                        None => Ok((info.entry(), self.rekey(g.key, info.id))),
                    };
                    taken
                        .and_then(|(e, old)| self.agreed(info.id, e, old, &mut learnt))
                        .map(|()| learnt.answered.push(g.id))
                }
            };
            match end {
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                other => ends.push((g.key, other)),
            }
        }
        self.e.base.take_in(&learnt)
    }

    /// As [`Pass::agree`], to be taken in with others.
    fn agreed(
        &mut self,
        node: NodeId,
        entry: Entry,
        drop: Option<NodeId>,
        learnt: &mut Learnt,
    ) -> Result<()> {
        let sig = self.signature(Key::Node(node))?;
        self.signatures.insert(node, sig);
        learnt.agreed.push((node, entry.clone(), sig, drop));
        self.s.put(Key::Node(node), entry);
        Ok(())
    }

    fn get_all(&mut self, ops: &[&Op], ends: &mut Ends) -> Result<()> {
        let mut under_way: VecDeque<Vec<NodeInfo>> = VecDeque::new();
        let mut rest = ops.iter().copied().peekable();
        while rest.peek().is_some() {
            let (mut group, mut bytes) = (Vec::new(), 0);
            while group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
                let Some(Op::Download { node }) = rest.next() else { break };
                match self.infos.get(node) {
                    Some(info) => {
                        bytes += info.size;
                        group.push(info.clone());
                    }
                    None => {
                        let gone = SyncError::Stale(format!("node {node} is gone"));
                        ends.push((Key::Node(*node), Err(gone)));
                    }
                }
            }
            self.net.submit(Ask::Get(group.iter().map(|i| (i.id, i.rev)).collect()));
            under_way.push_back(group);
            if under_way.len() > UNDER_WAY_MAX
                && let Some(group) = under_way.pop_front()
            {
                self.were_got(group, ends)?;
            }
        }
        while let Some(group) = under_way.pop_front() {
            self.were_got(group, ends)?;
        }
        Ok(())
    }

    /// Puts a group of files that came from the server in place.
    fn were_got(&mut self, group: Vec<NodeInfo>, ends: &mut Ends) -> Result<()> {
        self.tell()?;
        let files = match self.net.collect() {
            Some(Ok(Told::Files(all))) if all.len() == group.len() => all,
            Some(Err(e)) => return Err(e),
            _ => return Err(SyncError::Net("the answer does not fit the question".into())),
        };
        let mut here = Vec::with_capacity(group.len());
        for (info, bytes) in group.into_iter().zip(files) {
            let tmp = format!("tmp/d{}x{}", info.id, info.rev);
            let opened = bytes.and_then(|bytes| self.open_bytes(info.id, bytes));
            let info = self.infos.get(&info.id).cloned().unwrap_or(info);
            let written = opened.and_then(|bytes| {
                if hex(blake3::hash(&bytes).as_bytes()) != info.hash {
                    let why = format!("{:?} on its way from the server", info.name);
                    return Err(SyncError::Damaged(why));
                }
                self.report.bytes_down += bytes.len() as u64;
                self.e.files.put(At(Area::Own, &tmp), &bytes, info.mtime_ns, info.exec)
            });
            match written {
                Ok(stat) => here.push((info, tmp, stat)),
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                Err(e) => ends.push((Key::Node(info.id), Err(e))),
            }
        }
        let places: Vec<_> =
            here.iter().map(|(_, tmp, stat)| (At(Area::Own, tmp.as_str()), stat.inode)).collect();
        self.e.files.settle(&places)?;
        let (mut new, mut over) = (Vec::new(), Vec::new());
        for (info, tmp, stat) in here {
            let key = Key::Node(info.id);
            if self.l.has(key) {
                self.fetched.insert(tmp);
                over.push(info.id);
                continue;
            }
            match self.entry(&self.r, key).and_then(|r| Ok((self.server_path(&r)?, r))) {
                Ok((path, r)) => {
                    let (inode, hash) = (stat.inode, [0; 32]);
                    new.push((Swap { tmp, inode, path, hash, agreed: info }, r, stat));
                }
                Err(e) => ends.push((key, Err(e))),
            }
        }
        self.place_new(new, ends)?;
        for node in over {
            match self.download(node, true) {
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                end => ends.push((Key::Node(node), end)),
            }
        }
        Ok(())
    }

    /// Gives files that are durable in `tmp/` their names.
    fn place_new(
        &mut self,
        new: Vec<(Swap, Entry, crate::files::Stat)>,
        ends: &mut Ends,
    ) -> Result<()> {
        let swaps: Vec<Swap> = new.iter().map(|(s, ..)| s.clone()).collect();
        self.e.base.swaps_begin(&swaps)?;
        let (mut learnt, mut dirs, mut placed) = (Learnt::default(), BTreeSet::new(), Vec::new());
        for (swap, r, stat) in new {
            let key = Key::Node(swap.agreed.id);
            let (own, to) = (At(Area::Own, swap.tmp.as_str()), At(Area::Tree, swap.path.as_str()));
            match renamed(self.e.files.rename(own, to)) {
                Ok(()) => {
                    dirs.insert(parent_of(&swap.path).to_owned());
                    self.l.put(key, r);
                    self.stats.insert(key, stat);
                    placed.push(swap);
                }
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                Err(e) => {
                    learnt.swapped.push(swap.tmp);
                    ends.push((key, Err(e)));
                }
            }
        }
        for dir in dirs {
            self.e.files.sync_dir(At(Area::Tree, &dir))?;
        }
        for swap in placed {
            let node = swap.agreed.id;
            self.report.down += 1;
            let end = self.agreed(node, swap.agreed.entry(), None, &mut learnt);
            match end {
                Ok(()) => learnt.swapped.push(swap.tmp),
                Err(SyncError::Crash) => return Err(SyncError::Crash),
                // The note says what was agreed on.
                Err(_) => {}
            }
            ends.push((Key::Node(node), end));
        }
        self.e.base.take_in(&learnt)
    }

    fn mkdir_all(&mut self, ops: &[&Op], ends: &mut Ends) -> Result<()> {
        for ops in ops.chunks(GROUP_MAX) {
            let mut group = Vec::with_capacity(ops.len());
            for op in ops {
                let Op::MkdirRemote { key } = op else { continue };
                let entry = self.entry(&self.l, *key);
                let place = entry.and_then(|l| {
                    let parent = self.target(l.parent)?;
                    self.net.fits(parent, &l.name)?;
                    Ok((parent, l.name))
                });
                match place {
                    Ok((parent, name)) => {
                        let sent = Sent {
                            node: None,
                            parent,
                            name: name.clone(),
                            kind: Kind::Dir,
                            hash: String::new(),
                            exec: false,
                            instead_of: old_node(*key),
                        };
                        group.push((*key, sent, Mkdir { parent, name, key: self.request_key() }));
                    }
                    Err(e) => ends.push((*key, Err(e))),
                }
            }
            self.e.base.send_all(group.iter().map(|(_, sent, req)| (req.key.as_str(), sent)))?;
            let asked = group.iter().map(|(.., req)| BatchOp::Mkdir(req.clone())).collect();
            self.net.submit(Ask::Run(asked));
            let all = replies(self.net.collect(), group.len())?;
            let mut learnt = Learnt::default();
            for ((key, _, req), reply) in group.into_iter().zip(all) {
                let end = match told(reply) {
                    Err(e @ SyncError::Net(_)) => Err(e),
                    Err(e) => {
                        learnt.answered.push(req.key);
                        Err(e)
                    }
                    Ok(info) => {
                        self.heard(&info);
                        let old = self.rekey(key, info.id);
                        self.agreed(info.id, info.entry(), old, &mut learnt)
                            .map(|()| learnt.answered.push(req.key))
                    }
                };
                match end {
                    Err(SyncError::Crash) => return Err(SyncError::Crash),
                    other => ends.push((key, other)),
                }
            }
            self.e.base.take_in(&learnt)?;
        }
        Ok(())
    }

    /// Takes files out of the folder, each checked as if it went alone.
    fn delete_here_all(&mut self, ops: &[&Op], ends: &mut Ends) -> Result<()> {
        for ops in ops.chunks(GROUP_MAX) {
            self.tell()?;
            let (mut out, mut dirs) = (BTreeMap::new(), BTreeSet::new());
            for op in ops {
                let Op::DeleteLocal { node } = op else { continue };
                match self.take_out(*node, &mut out, &mut dirs) {
                    Ok(()) => {}
                    Err(SyncError::Crash) => return Err(SyncError::Crash),
                    Err(e) => ends.push((Key::Node(*node), Err(e))),
                }
            }
            self.drop_out(&mut out, &mut dirs, ends)?;
        }
        Ok(())
    }

    /// Takes one file out to `tmp/`, and looks whether it is what was agreed on.
    fn take_out(
        &mut self,
        node: NodeId,
        out: &mut BTreeMap<String, NodeId>,
        dirs: &mut BTreeSet<String>,
    ) -> Result<()> {
        let key = Key::Node(node);
        let (path, l) = (self.path(key)?, self.entry(&self.l, key)?);
        self.expect_scanned(key, &path)?;
        let tmp = taken_out(&l, self.vault_node(l.parent));
        if out.contains_key(&tmp) {
            // The same content under the same name was just taken out elsewhere.
            return self.delete_local(node);
        }
        let (own, at) = (At(Area::Own, tmp.as_str()), At(Area::Tree, path.as_str()));
        self.e.files.remove_file(own)?;
        renamed(self.e.files.rename(at, own))?;
        if files::hash(&*self.e.files, own)?.0 != l.content.hash {
            self.e.files.rename(own, at)?;
            return Err(SyncError::Stale(format!("{path} changed while it was worked on")));
        }
        dirs.insert(parent_of(&path).to_owned());
        out.insert(tmp, node);
        Ok(())
    }

    fn drop_out(
        &mut self,
        out: &mut BTreeMap<String, NodeId>,
        dirs: &mut BTreeSet<String>,
        ends: &mut Ends,
    ) -> Result<()> {
        for dir in std::mem::take(dirs) {
            self.e.files.sync_dir(At(Area::Tree, &dir))?;
        }
        let mut learnt = Learnt::default();
        for (tmp, node) in std::mem::take(out) {
            self.e.files.remove_file(At(Area::Own, &tmp))?;
            let key = Key::Node(node);
            self.l.remove(key);
            self.s.remove(key);
            self.report.down += 1;
            learnt.forgotten.push(node);
            ends.push((key, Ok(())));
        }
        self.e.base.take_in(&learnt)
    }

    fn delete_all(&mut self, ops: &[&Op], ends: &mut Ends) -> Result<()> {
        for ops in ops.chunks(GROUP_MAX) {
            let nodes: Vec<(NodeId, i64)> = ops
                .iter()
                .filter_map(|op| match op {
                    Op::DeleteRemote { node, rev } => Some((*node, *rev)),
                    _ => None,
                })
                .collect();
            let mut asked = Vec::with_capacity(nodes.len());
            for (node, rev) in &nodes {
                let key = self.request_key();
                asked.push(BatchOp::Delete(Delete { node: *node, rev: *rev, tree: false, key }));
            }
            self.net.submit(Ask::Run(asked));
            let all = replies(self.net.collect(), nodes.len())?;
            let mut learnt = Learnt::default();
            for ((node, _), reply) in nodes.into_iter().zip(all) {
                let end = told(reply).map(|info| {
                    self.heard(&info);
                    self.s.remove(Key::Node(node));
                    learnt.forgotten.push(node);
                });
                ends.push((Key::Node(node), end));
            }
            self.e.base.take_in(&learnt)?;
        }
        Ok(())
    }
}
