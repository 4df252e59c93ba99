//! Directories that grow over several metadata servers (PVFS2's distributed directories): when one
//! splits, how its names move, and what its parts must be told. The map is `pvfs2_proto::dirmap`.
//!
//! A directory begins on one server. Its growth beyond the limit wakes the splitter, which takes it
//! in bounded steps, each under the directory's exclusion:
//!
//! | state | record | restart |
//! |---|---|---|
//! | make the parts (`crdir`, one per other server) | intent with their undo, synced | undone |
//! | the map: all parts, nothing moved | in the attributes, with `keys::splitting`, synced | goes on |
//! | move up to `MOVE_NAMES` names (`split_dirent`), in the order of their hashes | the part has them durably before the home's commit takes them out and raises `moved`, synced | the move is made again |
//! | over | `keys::splitting` gone | |
//!
//! So a name is at every moment with exactly one server that answers for it: nobody asks a part
//! beyond the home's `moved`, and a move that is made again puts its names in place of those that
//! came before. Only dirents move; objects stay where they are.
//!
//! Changes of mode, owner, ACL and of what is handed down reach the parts by an intent before their
//! reply leaves. A directory is not removed while its names move (`Busy`).
use crate::intents::{self, StepCall};
use crate::keys::{self, DirentValue};
use crate::layouts;
use crate::server::MetaServer;
use crate::store::{Change, Store, damaged};
use bytes::Bytes;
use pvfs2_proto::attr::XATTR_ACL_DEFAULT;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::dirmap::HASH_END;
use pvfs2_proto::op::{
    CrdirRequest, Cred, Dirent, IntentStatusRequest, OpMessage, OpResponse, PartAttrRequest,
    SplitDirentRequest,
};
use pvfs2_proto::{Attr, AttrFlags, DirMap, ErrorCode, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::peer;
use pvfs2_server_core::scheduler::{Guard, Mode};
use pvfs2_server_core::service::{Answer, OpCx};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Names that one step moves.
const MOVE_NAMES: usize = 512;
/// Pause after a step that another server did not answer; it doubles with every attempt.
const RETRY_MS: u64 = 500;
/// Longest such pause.
const RETRY_MS_MAX: u64 = 10_000;
/// Longest pause after one that was busy.
const BUSY_MS_MAX: u64 = 20;
/// Directories with limits of their own that are remembered.
const LOOKED_MAX: usize = 4_096;

/// Which directories have grown beyond their limit. A directory without attributes of its own costs
/// one comparison per change.
#[derive(Default)]
pub struct Growth {
    /// The cluster's limit; 0: directories never split here.
    limit: Cell<u64>,
    /// Directories that have extended attributes: from which number of names on to look again.
    looked: RefCell<HashMap<Handle, u64>>,
    grown: RefCell<BTreeSet<Handle>>,
    wake: Arc<Notify>,
}

impl Growth {
    /// A directory has `names` names now; `may_differ`: it may have a limit of its own.
    pub fn counted(&self, dir: Handle, names: u64, may_differ: bool) {
        let mut limit = self.limit.get();
        if limit == 0 {
            return;
        }
        if may_differ {
            limit = self.looked.borrow().get(&dir).copied().unwrap_or(0);
        }
        if names >= limit {
            self.look(dir);
        }
    }

    fn look(&self, dir: Handle) {
        self.grown.borrow_mut().insert(dir);
        self.wake.notify_one();
    }

    fn remember(&self, dir: Handle, limit: u64) {
        let mut looked = self.looked.borrow_mut();
        if looked.len() >= LOOKED_MAX {
            looked.clear();
        }
        looked.insert(dir, limit);
    }

    /// The directory's own limit may have changed.
    pub fn forget(&self, dir: Handle) {
        self.looked.borrow_mut().remove(&dir);
    }
}

/// Splits what has grown; runs until the server is gone.
pub(crate) async fn run(server: Weak<MetaServer>) {
    let mut pause = RETRY_MS;
    loop {
        let Some(me) = server.upgrade() else { return };
        let next = me.store.growth.grown.borrow_mut().pop_first();
        let Some(dir) = next else {
            let wake = me.store.growth.wake.clone();
            // The server is not kept alive by a splitter with nothing to do.
            drop(me);
            wake.notified().await;
            continue;
        };
        if let Err(e) = me.grow(dir).await {
            tracing::warn!(dir = %dir, "a directory's split has to wait: {e}");
            me.store.growth.look(dir);
            drop(me);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(RETRY_MS_MAX);
        } else {
            pause = RETRY_MS;
        }
    }
}

/// A directory whose names are moving cannot be removed just now.
///
/// # Errors
/// `Busy`.
pub(crate) fn must_be_settled(dir: &Attr) -> Result<()> {
    match &dir.dir_map {
        Some(map) if map.is_moving() && !dir.has(AttrFlags::DIR_PART) => Err(PvfsError::new(
            ErrorCode::Busy,
            format!("directory {:x} is being split: ask again", dir.handle),
        )),
        _ => Ok(()),
    }
}

/// The parts of a directory of this server that lie on others.
///
/// # Errors
/// `Busy` while its names move.
pub(crate) fn settled_parts(dir: &Attr) -> Result<Vec<Handle>> {
    must_be_settled(dir)?;
    Ok(dir.dir_map.iter().flat_map(|m| &m.parts).map(|p| Handle(*p)).collect())
}

/// Whether `dir`, of this server, answers for names of `hash`.
///
/// # Errors
/// `Moved`.
pub(crate) fn must_hold(dir: &Attr, hash: impl FnOnce(&DirMap) -> u64) -> Result<()> {
    match &dir.dir_map {
        None => Ok(()),
        Some(_) if dir.has(AttrFlags::DIR_PART) => Ok(()),
        Some(map) if map.owner(hash(map)) == dir.handle() => Ok(()),
        Some(_) => Err(PvfsError::new(
            ErrorCode::Moved,
            format!("the name lies on another part of directory {:x}", dir.handle),
        )),
    }
}

impl Store {
    /// Finds the parts of other servers' directories that lie here.
    pub(crate) fn find_parts(&self) -> Result<()> {
        self.scan(&keys::parts(), |key, value| {
            if let (Some(part), Some(seed)) = (keys::handle_of(key), keys::u64_of(&value)) {
                self.parts.borrow_mut().insert(part, seed);
            }
            Ok(())
        })
    }

    /// How many objects are parts of split directories, which no dirent names.
    pub(crate) fn parts_here(&self) -> u64 {
        self.parts.borrow().len() as u64
    }
}

impl MetaServer {
    /// Arms the growth of directories, and takes up splits of an earlier run.
    pub(crate) fn recover_splits(&self) -> Result<()> {
        if self.map.meta_servers().count() > 1 {
            let never = self.map.dir_servers_max < 2;
            let limit = if never { u64::MAX } else { self.map.dir_split_entries.max(1) };
            self.store.growth.limit.set(limit);
        }
        self.store.scan(&keys::all_splitting(), |key, _| {
            if let Some(dir) = keys::handle_of(key) {
                self.store.growth.look(dir);
            }
            Ok(())
        })
    }

    /// Splits a directory if it wants that, or goes on with its split.
    async fn grow(&self, dir: Handle) -> Result<()> {
        let Some(attr) = self.store.attr(dir)? else { return Ok(()) };
        if attr.dir_map.is_none() && !self.begin_split(dir).await? {
            return Ok(());
        }
        while self.move_names(dir).await? {}
        Ok(())
    }

    /// Makes the parts and the map. `false`: the directory does not split.
    async fn begin_split(&self, dir: Handle) -> Result<bool> {
        let _guard = self.sched.lock(&[(dir, Mode::Write)]).await;
        let Some(attr) = self.store.attr(dir)? else { return Ok(false) };
        let gone = attr.nlink == 0 || attr.has(AttrFlags::DIR_DYING);
        if !attr.is_dir() || gone || attr.dir_map.is_some() {
            return Ok(attr.dir_map.is_some() && !gone);
        }
        let (servers_max, entries) = self.split_wish(&self.store.xattrs(&attr)?)?;
        let others = self.part_servers(dir, servers_max);
        let limit = if others.is_empty() { u64::MAX } else { entries };
        if attr.size < limit {
            self.store.growth.remember(dir, limit);
            return Ok(false);
        }
        // The parts' servers know nothing of it.
        self.recall_of(&self.name_rights, dir, None).await?;
        // Attempts at servers that are away shall leave no intents to be undone.
        let asks = others.iter().map(|s| (*s, IntentStatusRequest { intent: 0 })).collect();
        peer::ask_all(self.peers(), &Cred::root(), 0, asks).await?;
        let seed = self.store.seed_of(dir);
        let intent = self.store.new_intent()?;
        let now = self.now_ns();
        let part = Attr {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            acl: attr.acl.clone(),
            quota_tree: attr.quota_tree,
            nlink: 2,
            crtime_ns: now,
            change: 1,
            flags: AttrFlags::DIR_PART,
            dir_map: Some(Box::new(DirMap {
                home: dir.0,
                seed,
                version: attr.change,
                ..Default::default()
            })),
            ..Default::default()
        };
        let make = CrdirRequest {
            intent,
            attr: Some(part),
            parent: dir.0,
            xattrs: self.handed_down(&attr, &Change::new())?,
            undo: false,
        };
        let undo = CrdirRequest { intent, undo: true, ..Default::default() };
        let undo: Vec<StepCall> =
            others.iter().map(|s| intents::step(*s, undo.clone().into_request())).collect();
        self.begin_intent(intent, undo.clone(), &[]).await?;
        let asks = others.iter().map(|s| (*s, make.clone())).collect();
        let made = peer::ask_all(self.peers(), &Cred::root(), 0, asks).await.and_then(|made| {
            let handle = |r: pvfs2_proto::op::CrdirResponse| r.attr.map(|a| a.handle);
            made.into_iter().map(handle).collect::<Option<Vec<u64>>>().ok_or_else(|| {
                PvfsError::new(ErrorCode::Protocol, "crdir brought no attributes of a part")
            })
        });
        let parts = match made {
            Ok(parts) => parts,
            Err(e) => {
                // Nobody knows the parts: the directory needs not wait for their end.
                let _later = self.run_intent(intent, undo, None, Change::new()).await;
                return Err(e);
            }
        };
        // Its parent may have changed meanwhile.
        let mut attr = self.store.object(dir)?;
        let mut map = DirMap { home: dir.0, seed, parts, ..Default::default() };
        map.moved = map.start(1);
        tracing::info!(dir = %dir, names = attr.size, parts = map.parts.len() + 1, "a directory splits");
        attr.dir_map = Some(Box::new(map));
        attr.change += 1;
        let mut change = Change::new();
        change.put_attr(&attr);
        change.put(keys::splitting(dir), Vec::new());
        change.delete(keys::intent(intent));
        self.store.commit(change)?;
        self.store.sync_now().await?;
        self.splits.set(self.splits.get() + 1);
        Ok(true)
    }

    /// One step of moving names. `false`: nothing is left to move.
    async fn move_names(&self, dir: Handle) -> Result<bool> {
        let guard = self.sched.lock(&[(dir, Mode::Write)]).await;
        let Some(attr) = self.store.attr(dir)? else { return Ok(false) };
        let Some(map) = attr.dir_map.filter(|map| map.is_moving()) else { return Ok(false) };
        let holder = (1..=map.parts.len()).rev().find(|k| map.start(*k) <= map.moved);
        let (Some(k), low) = (holder, map.moved) else { return Err(damaged(dir)) };
        let (high, names) = self.next_names(dir, low, map.start(k + 1))?;
        let subdirs = names.iter().filter(|n| n.1.kind == S_IFDIR).count() as u32;
        let entry = |(key, target): &(Bytes, DirentValue)| {
            let (_, name) = keys::dirent_parts(key).ok_or_else(|| damaged(dir))?;
            let (handle, kind) = (target.handle.0, target.kind);
            Ok(Dirent { name, handle, kind, ..Default::default() })
        };
        let part = map.parts[k - 1];
        let request = SplitDirentRequest {
            part,
            seq: self.store.new_intent()?,
            low,
            high,
            entries: names.iter().map(entry).collect::<Result<_>>()?,
        };
        let to = self.owner(Handle(part))?;
        match peer::ask(self.peers(), &Cred::root(), 0, to, request).await {
            Err(e) if e.code == ErrorCode::Busy => {
                drop(guard);
                let pause = self.env.rand_u64() % BUSY_MS_MAX + 1;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                return Ok(true);
            }
            answer => answer?,
        };
        let mut attr = self.store.object(dir)?;
        attr.dir_map = Some(Box::new(DirMap { moved: high, ..*map }));
        attr.size = attr.size.saturating_sub(names.len() as u64);
        attr.nlink = attr.nlink.saturating_sub(subdirs);
        attr.change += 1;
        let mut change = Change::new();
        change.put_attr(&attr);
        for (key, _) in &names {
            change.delete(key);
        }
        if high == HASH_END {
            change.delete(keys::splitting(dir));
        }
        self.store.commit(change)?;
        // Before anybody is told names by the part that loss of power would give back to the home.
        self.store.sync_now().await?;
        Ok(high < HASH_END)
    }

    /// The next names to move, of hashes from `low` to `end` at most, and the hash before which they
    /// end. Names of one hash stay together.
    fn next_names(
        &self,
        dir: Handle,
        low: u64,
        end: u64,
    ) -> Result<(u64, Vec<(Bytes, DirentValue)>)> {
        let records = self.store.dirents_from(dir, low, MOVE_NAMES)?;
        let mut high = end;
        if records.len() == MOVE_NAMES
            && let Some((hash, _)) = records.last().and_then(|(key, _)| keys::dirent_parts(key))
        {
            high = end.min(hash);
        }
        if high <= low {
            return Err(damaged(dir));
        }
        let mut names = Vec::with_capacity(records.len());
        for (key, value) in records {
            let (Some((hash, _)), Some(target)) =
                (keys::dirent_parts(&key), DirentValue::decode(&value))
            else {
                return Err(damaged(dir));
            };
            if hash >= high {
                break;
            }
            names.push((key, target));
        }
        Ok((high, names))
    }

    /// The other servers over which a directory spreads, at most `servers_max` with its own.
    fn part_servers(&self, dir: Handle, servers_max: u32) -> Vec<ServerId> {
        let mut others: Vec<ServerId> = self.map.meta_servers().filter(|s| *s != self.id).collect();
        if !others.is_empty() {
            let first = keys::name_hash(dir.0, b"parts") as usize >> 8;
            let len = others.len();
            others.rotate_left(first % len);
        }
        others.truncate(servers_max.saturating_sub(1) as usize);
        others
    }

    /// What a directory hands down, as `change` leaves it: names and values in turn.
    fn handed_down(&self, dir: &Attr, change: &Change) -> Result<Vec<Bytes>> {
        let mut all = Vec::new();
        let acl = [XATTR_ACL_DEFAULT];
        for name in layouts::INHERITED.iter().chain(&layouts::INHERITED_BY_DIRS).chain(&acl) {
            let key = keys::xattr(dir.handle(), name);
            let value = match change.get(&key) {
                Some(value) => value,
                None if dir.has(AttrFlags::HAS_XATTR) => self.store.get(&key)?,
                None => None,
            };
            if let Some(value) = value {
                all.extend([Bytes::from_static(name), value]);
            }
        }
        Ok(all)
    }

    /// Stands back for others at a directory whose attributes will change; a split one is held,
    /// because its parts will be asked.
    pub(crate) async fn pass_attr(&self, handle: Handle) -> Result<(Option<Guard>, Attr)> {
        let guard = self.pass(&[(handle.0, Mode::Write)]).await;
        let attr = self.store.object(handle)?;
        if guard.is_some() || attr.dir_map.is_none() {
            return Ok((guard, attr));
        }
        let guard = self.sched.lock(&[(handle, Mode::Write)]).await;
        Ok((Some(guard), self.store.object(handle)?))
    }

    /// Commits a change of attributes with its reply; the parts of a split directory hear of it
    /// before the reply leaves. While one cannot be reached the directory stays locked here, and who
    /// asked waits: told earlier, it could still be let in there by the attributes of before.
    ///
    /// # Errors
    /// What the commit says.
    pub(crate) async fn answer_attr(
        &self,
        cx: &OpCx,
        mut change: Change,
        attr: &Attr,
        guard: Option<Guard>,
        response: OpResponse,
    ) -> Result<Answer> {
        let parts = attr.dir_map.as_ref().filter(|_| !attr.has(AttrFlags::DIR_PART));
        let Some(map) = parts else { return self.answer(cx, change, response) };
        let xattrs = self.handed_down(attr, &change)?;
        let mut steps = Vec::with_capacity(map.parts.len());
        for part in &map.parts {
            let tell =
                PartAttrRequest { part: *part, attr: Some(attr.clone()), xattrs: xattrs.clone() };
            steps.push(intents::step(self.owner(Handle(*part))?, tell.into_request()));
        }
        let intent = self.store.new_intent()?;
        self.commit_intent(&mut change, intent, steps.clone(), &[attr.handle()]);
        // With the reply: a repeat after a restart is answered, not done again.
        let answer = self.answer(cx, change, response)?;
        self.end_intent(intent, steps, guard).await?;
        Ok(answer)
    }

    /// The objects of other servers that go when a directory goes: itself, or the parts of one that
    /// is here.
    ///
    /// # Errors
    /// `Busy` while its names move.
    pub(crate) fn far_objects(&self, dir: Handle) -> Result<Vec<Handle>> {
        if !self.owns(dir) {
            return Ok(vec![dir]);
        }
        settled_parts(&self.store.attr(dir)?.ok_or_else(|| damaged(dir))?)
    }

    /// The aliases of the servers that hold names of a directory.
    pub(crate) fn dir_servers(&self, dir: &Attr) -> String {
        let parts = dir.dir_map.iter().flat_map(|m| &m.parts);
        let alias = |h: Handle| self.map.meta_server_of(h).map_or("?", |s| self.map.alias(s));
        let all: Vec<&str> =
            std::iter::once(dir.handle()).chain(parts.map(|p| Handle(*p))).map(alias).collect();
        all.join(":")
    }
}
