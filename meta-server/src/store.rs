//! Typed access to a metadata server's keyval, and handles and intents to give out.
//!
//! A [`Change`] gathers what an operation alters; [`Store::commit`] makes it one journal record: all
//! of it or nothing survives. Place in the walks: between every operation's file and Trove.
//!
//! Invariants: every object has attributes; a directory has a parent record; `size` of a directory
//! is the number of its dirents and `nlink` 2 + its subdirectories, kept in the same change that
//! alters the dirents. Handles and intent numbers are reserved `RESERVE` at a time and never
//! given out twice, so that `handle_recycle_secs` is for ever.
pub use crate::change::Change;
use crate::keys::{self, Counter, DirentValue};
use crate::quota::{Amount, Charge, Id, Table};
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::attr::XATTR_ACL_DEFAULT;
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFMT};
use pvfs2_proto::env::Env;
use pvfs2_proto::op::{Dirent, QuotaKind};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, FileLayout, Handle, HandleRange, PvfsError, Result};
use pvfs2_server_core::acl::Acl;
use pvfs2_trove::Collection;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Numbers that one durable reservation covers.
const RESERVE: u64 = 1_024;
/// Records that one scan brings.
const SCAN_BATCH: usize = 1_024;

/// The keyval of one metadata server.
pub struct Store {
    collection: Arc<Collection>,
    env: Env,
    range: HandleRange,
    hash_seed: u64,
    handles: Reserve,
    intents: Reserve,
    objects: Cell<i64>,
    /// What users, groups and trees take and may take.
    pub(crate) quota: RefCell<Table>,
    /// Wakes the reaper.
    pub reap: Arc<Notify>,
    /// Seeds of the parts of other servers' directories that lie here.
    pub(crate) parts: RefCell<HashMap<Handle, u64>>,
    /// Which directories grow beyond what one server shall hold.
    pub growth: crate::split::Growth,
}

struct Reserve {
    next: Cell<u64>,
    limit: Cell<u64>,
}

impl Store {
    /// Opens a collection; an empty one gets its counters, and on the first metadata server (`root`)
    /// the root directory, owned by this process's user.
    ///
    /// # Errors
    /// Trove's; `Damaged` when a record does not parse.
    pub fn open(
        collection: Arc<Collection>,
        env: Env,
        range: HandleRange,
        intent_base: u64,
        root: Option<(u32, u32)>,
        clean_stop: bool,
    ) -> Result<Store> {
        let counter = |c: Counter| -> Result<Option<u64>> {
            Ok(collection.get(&keys::counter(c))?.as_deref().and_then(keys::u64_of))
        };
        let seed = counter(Counter::NameHash)?;
        // Numbers from the last reservation on were never given out.
        let start = |c: Option<u64>, first: u64| c.unwrap_or(first);
        let first_handle = range.first.max(Handle::ROOT.0 + u64::from(range.first <= 1));
        let handles = start(counter(Counter::Handles)?, first_handle);
        let intents = start(counter(Counter::Intents)?, intent_base);
        let counted = counter(Counter::Objects)?.filter(|_| clean_stop);
        let store = Store {
            env: env.clone(),
            range,
            hash_seed: seed.unwrap_or_else(|| env.rand_u64()),
            handles: Reserve { next: Cell::new(handles), limit: Cell::new(handles) },
            intents: Reserve { next: Cell::new(intents), limit: Cell::new(intents) },
            objects: Cell::new(counted.unwrap_or(0) as i64),
            quota: RefCell::default(),
            reap: Arc::default(),
            parts: RefCell::default(),
            growth: crate::split::Growth::default(),
            collection,
        };
        if seed.is_none() {
            store.format(root)?;
        } else if counted.is_none() || !store.load_usage()? {
            store.recount()?;
        }
        store.load_limits()?;
        store.find_parts()?;
        Ok(store)
    }

    fn format(&self, root: Option<(u32, u32)>) -> Result<()> {
        let mut change = Change::new();
        change.put(keys::counter(Counter::NameHash), keys::u64_value(self.hash_seed).to_vec());
        if let Some((uid, gid)) = root {
            let now = self.env.now_ns();
            change.new_object(&Attr {
                handle: Handle::ROOT.0,
                mode: S_IFDIR | 0o755,
                uid,
                gid,
                nlink: 2,
                atime_ns: now,
                mtime_ns: now,
                ctime_ns: now,
                crtime_ns: now,
                change: 1,
                ..Default::default()
            });
            change.put_parent(Handle::ROOT, Handle::ROOT);
        }
        self.commit(change)?;
        Ok(())
    }

    /// Counts objects, and what users, groups and trees take, anew; gives how many of those sums were
    /// wrong.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub(crate) fn recount(&self) -> Result<u64> {
        let before = self.quota.borrow_mut().take_used();
        let mut count = 0;
        self.scan(&keys::attrs(), |key, value| {
            count += 1;
            let handle = keys::handle_of(key).unwrap_or(Handle::NULL);
            let attr = Attr::decode(value.as_ref()).map_err(|_| damaged(handle))?;
            self.quota.borrow_mut().apply(handle, None, Some(Charge::of(&attr)));
            Ok(())
        })?;
        self.objects.set(count);
        let table = self.quota.borrow();
        let now = table.used();
        let gone = before.keys().filter(|id| !now.contains_key(id)).count();
        let wrong = now.iter().filter(|(id, amount)| before.get(id) != Some(amount)).count();
        Ok((gone + wrong) as u64)
    }

    /// Takes over the sums of the last clean stop; `false`: there are none.
    fn load_usage(&self) -> Result<bool> {
        if self.get(keys::quota_used_written())?.is_none() {
            return Ok(false);
        }
        for (id, amount) in self.quota_records(&keys::quotas_used())? {
            self.quota.borrow_mut().load(id, amount);
        }
        Ok(true)
    }

    fn load_limits(&self) -> Result<()> {
        let limits = self.quota_records(&keys::quota_limits())?;
        self.quota.borrow_mut().set_limits(limits.into_iter().collect());
        Ok(())
    }

    fn quota_records(&self, prefix: &[u8]) -> Result<Vec<(Id, Amount)>> {
        let mut all = Vec::new();
        self.scan(prefix, |key, value| {
            let Some((kind, id)) = keys::quota_parts(key) else { return Ok(()) };
            let kind = QuotaKind::try_from(i32::from(kind)).ok();
            let (Some(kind), Some((bytes, files))) = (kind, keys::quota_amount(&value)) else {
                return Err(PvfsError::new(
                    ErrorCode::Damaged,
                    "a quota's record in the keyval does not parse: run fsck",
                ));
            };
            all.push(((kind, id), Amount { bytes, files }));
            Ok(())
        })?;
        Ok(all)
    }

    /// Calls `each` for every record below `prefix`, in order.
    ///
    /// # Errors
    /// Trove's, and those of `each`.
    pub fn scan(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&Bytes, Bytes) -> Result<()>,
    ) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let batch = self.collection.scan(prefix, after.as_deref(), SCAN_BATCH)?;
            let full = batch.len() == SCAN_BATCH;
            after = batch.last().map(|(key, _)| key.clone());
            for (key, value) in batch {
                each(&key, value)?;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// At most `max` records below `prefix`.
    ///
    /// # Errors
    /// Trove's.
    pub fn first(&self, prefix: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>> {
        self.collection.scan(prefix, None, max)
    }

    /// At most `max` records below `prefix`, after a key (fsck).
    ///
    /// # Errors
    /// Trove's.
    pub fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        self.collection.scan(prefix, after, max)
    }

    /// Handles from this one on have not been given out.
    pub fn next_handle(&self) -> u64 {
        self.handles.next.get()
    }

    /// One record.
    ///
    /// # Errors
    /// Trove's.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.collection.get(key.as_ref())
    }

    /// Makes a change survive `kill -9`, and visible; returns its place in the journal.
    ///
    /// # Errors
    /// Trove's (`NoSpace`, `Io`).
    pub fn commit(&self, change: Change) -> Result<u64> {
        let mut before: SmallVec<[Option<Charge>; 4]> = SmallVec::new();
        for (i, (handle, _)) in change.charges.iter().enumerate() {
            let earlier = change.charges[..i].iter().rev().find(|(h, _)| h == handle);
            before.push(match earlier {
                Some((_, charge)) => *charge,
                None if change.made.contains(handle) => None,
                None => self.attr(*handle)?.as_ref().map(Charge::of),
            });
        }
        let index = self.collection.commit(change.txn)?;
        let mut table = self.quota.borrow_mut();
        for ((handle, after), before) in change.charges.iter().zip(before) {
            table.apply(*handle, before, *after);
        }
        drop(table);
        self.objects.set(self.objects.get() + change.objects);
        if change.reaps {
            self.reap.notify_one();
        }
        if let Some((dir, names, may_differ)) = change.counted {
            self.growth.counted(dir, names, may_differ);
        }
        for (part, seed) in change.parts {
            let mut parts = self.parts.borrow_mut();
            match seed {
                Some(seed) => parts.insert(part, seed),
                None => parts.remove(&part),
            };
        }
        Ok(index)
    }

    /// Makes everything up to `index` survive loss of power.
    ///
    /// # Errors
    /// Trove's.
    pub async fn sync(&self, index: u64) -> Result<()> {
        self.collection.sync(index).await
    }

    /// Makes everything committed so far survive loss of power.
    ///
    /// # Errors
    /// Trove's.
    pub async fn sync_now(&self) -> Result<()> {
        self.collection.sync(self.collection.last_index()).await
    }

    /// Writes the counters of a clean stop.
    ///
    /// # Errors
    /// Trove's.
    pub fn close(&self) -> Result<()> {
        let mut change = Change::new();
        let objects = keys::u64_value(self.objects());
        change.put(keys::counter(Counter::Objects), objects.to_vec());
        for (id, _) in self.quota_records(&keys::quotas_used())? {
            change.delete(keys::quota_used(id.0 as u8, id.1));
        }
        for ((kind, id), amount) in self.quota.borrow().used() {
            let value = keys::quota_value(amount.bytes, amount.files);
            change.put(keys::quota_used(*kind as u8, *id), value.to_vec());
        }
        change.put(keys::quota_used_written(), Vec::new());
        self.commit(change).map(|_| ())
    }

    /// Objects that exist here.
    pub fn objects(&self) -> u64 {
        self.objects.get().max(0) as u64
    }

    /// Handles that can still be given out.
    pub fn handles_free(&self) -> u64 {
        self.range.last.saturating_sub(self.handles.next.get())
    }

    /// A handle that was never given out before.
    ///
    /// # Errors
    /// `NoSpace` when the range is used up; Trove's.
    pub fn new_handle(&self) -> Result<Handle> {
        let handle = self.draw(&self.handles, Counter::Handles)?;
        if handle > self.range.last {
            return Err(PvfsError::new(
                ErrorCode::NoSpace,
                "this metadata server's handle range is used up: enlarge it in the cluster file",
            ));
        }
        Ok(Handle(handle))
    }

    /// An intent number that was never given out before, by any server.
    ///
    /// # Errors
    /// Trove's.
    pub fn new_intent(&self) -> Result<u64> {
        self.draw(&self.intents, Counter::Intents)
    }

    fn draw(&self, reserve: &Reserve, counter: Counter) -> Result<u64> {
        let n = reserve.next.get();
        if n >= reserve.limit.get() {
            let limit = n + RESERVE;
            let mut change = Change::new();
            change.put(keys::counter(counter), keys::u64_value(limit).to_vec());
            self.commit(change)?;
            reserve.limit.set(limit);
        }
        reserve.next.set(n + 1);
        Ok(n)
    }

    /// An object's attributes.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub fn attr(&self, handle: Handle) -> Result<Option<Attr>> {
        match self.get(keys::attr(handle))? {
            None => Ok(None),
            Some(value) => Attr::decode(value.as_ref()).map(Some).map_err(|_| damaged(handle)),
        }
    }

    /// Attributes of an object that the caller holds a handle of.
    ///
    /// # Errors
    /// `Stale` when it is gone; Trove's.
    pub fn object(&self, handle: Handle) -> Result<Attr> {
        self.attr(handle)?.ok_or_else(|| {
            PvfsError::new(ErrorCode::Stale, format!("object {handle} does not exist any more"))
        })
    }

    /// Attributes of a directory in which a name is wanted.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `NotDirectory` when it is none.
    pub fn directory(&self, handle: Handle) -> Result<Attr> {
        let attr = self.attr(handle)?.ok_or_else(|| {
            PvfsError::new(
                ErrorCode::NotFound,
                format!("directory {handle} does not exist any more"),
            )
        })?;
        pvfs2_server_core::prelude::is_directory(&attr)?;
        Ok(attr)
    }

    /// The key of a name.
    pub fn dirent_key(&self, dir: Handle, name: &[u8]) -> keys::Key {
        keys::dirent(dir, keys::name_hash(self.seed_of(dir), name), name)
    }

    /// The key of the hash of a directory's names: this server's, or the home's of a part.
    pub fn seed_of(&self, dir: Handle) -> u64 {
        let parts = self.parts.borrow();
        if parts.is_empty() { None } else { parts.get(&dir).copied() }.unwrap_or(self.hash_seed)
    }

    /// At most `max` dirents with hashes from `low` on, as they are stored.
    ///
    /// # Errors
    /// Trove's.
    pub fn dirents_from(&self, dir: Handle, low: u64, max: usize) -> Result<Vec<(Bytes, Bytes)>> {
        self.collection.scan(&keys::dirents(dir), Some(&keys::dirents_from(dir, low)), max)
    }

    /// What a name points at.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub fn dirent(&self, key: &keys::Key, dir: Handle) -> Result<Option<DirentValue>> {
        self.get(key)?
            .map(|value| DirentValue::decode(&value).ok_or_else(|| damaged(dir)))
            .transpose()
    }

    /// Entries of a directory after a cursor with hashes below `high`, without attributes; `true`:
    /// nothing follows.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub fn list(
        &self,
        dir: Handle,
        cursor: u64,
        high: u64,
        max: usize,
    ) -> Result<(Vec<Dirent>, bool)> {
        let (after, seen) = keys::dirents_after(dir, cursor);
        // Names of the cursor's own hash come again (there is one, nearly always).
        let limit = max + seen as usize;
        let records = self.collection.scan(&keys::dirents(dir), Some(&after), limit)?;
        let mut end = records.len() < limit;
        let mut entries = Vec::with_capacity(records.len().min(max));
        let (mut last_hash, mut rank) = (0, 0);
        for (key, value) in &records {
            let (Some((hash, name)), Some(target)) =
                (keys::dirent_parts(key), DirentValue::decode(value))
            else {
                return Err(damaged(dir));
            };
            if hash >= high {
                end = true;
                break;
            }
            rank = if hash == last_hash { rank + 1 } else { 0 };
            last_hash = hash;
            let cursor_here = keys::cursor(hash, rank);
            if cursor_here <= cursor {
                continue;
            }
            if entries.len() == max {
                end = false;
                break;
            }
            entries.push(Dirent {
                name,
                handle: target.handle.0,
                kind: target.kind,
                cursor: cursor_here,
                attr: None,
            });
        }
        Ok((entries, end))
    }

    /// A directory's parent.
    ///
    /// # Errors
    /// Trove's; `Damaged` when it has none.
    pub fn parent(&self, dir: Handle) -> Result<Handle> {
        self.get(keys::parent(dir))?
            .as_deref()
            .and_then(keys::u64_of)
            .map(Handle)
            .ok_or_else(|| damaged(dir))
    }

    /// Bytes of a stuffed file, up to its size; what was never written are zeros.
    ///
    /// # Errors
    /// Trove's.
    pub fn stuffed_bytes(&self, attr: &Attr) -> Result<Bytes> {
        if attr.size == 0 {
            return Ok(Bytes::new());
        }
        let bytes = self.get(keys::bytes(attr.handle()))?.unwrap_or_default();
        let size = attr.size as usize;
        if bytes.len() >= size {
            return Ok(bytes.slice(..size));
        }
        let mut whole = Vec::with_capacity(size);
        whole.extend_from_slice(&bytes);
        whole.resize(size, 0);
        Ok(whole.into())
    }

    /// Extended attributes of an object, names and values.
    ///
    /// # Errors
    /// Trove's.
    pub fn xattrs(&self, attr: &Attr) -> Result<Vec<(Bytes, Bytes)>> {
        let mut all = Vec::new();
        if attr.has(AttrFlags::HAS_XATTR) {
            self.scan(&keys::xattrs(attr.handle()), |key, value| {
                all.push((keys::xattr_name(key), value));
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// The ACL that a directory hands down.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub fn default_acl(&self, dir: &Attr) -> Result<Option<Acl>> {
        if !dir.has(AttrFlags::HAS_XATTR) {
            return Ok(None);
        }
        match self.get(keys::xattr(dir.handle(), XATTR_ACL_DEFAULT))? {
            None => Ok(None),
            Some(value) => Acl::parse(&value).map_err(|_| damaged(dir.handle())),
        }
    }

    /// Adds the removal of an object: its attributes and all that belongs to them; its datahandles
    /// go to the reap queue.
    ///
    /// # Errors
    /// Trove's.
    pub fn remove_object(&self, change: &mut Change, attr: &Attr) -> Result<()> {
        let handle = attr.handle();
        change.objects -= 1;
        change.delete(keys::attr(handle));
        change.charges.push((handle, None));
        for (name, _) in self.xattrs(attr)? {
            change.delete(keys::xattr(handle, &name));
        }
        let stuffed = attr.is_file() && attr.has(AttrFlags::STUFFED);
        if attr.is_symlink() || stuffed && attr.size > 0 {
            change.delete(keys::bytes(handle));
        }
        if attr.mode & S_IFMT == S_IFDIR {
            change.delete(keys::parent(handle));
            if attr.has(AttrFlags::DIR_PART) {
                change.delete(keys::part(handle));
                change.parts.push((handle, None));
            }
        }
        let moving = self.moving(attr)?;
        if moving.is_some() {
            change.delete(keys::moving(handle));
        }
        if let Some(layout) = attr.layout.as_ref().or(moving.as_ref()) {
            change.put(keys::reap(handle), keys::reap_value(&layout.datahandles));
            change.reaps = true;
        }
        Ok(())
    }

    /// The layout that a stuffed file's bytes began to move to in an attempt that did not end well:
    /// its datafiles may hold old bytes.
    ///
    /// # Errors
    /// Trove's; `Damaged`.
    pub fn moving(&self, attr: &Attr) -> Result<Option<FileLayout>> {
        if !attr.has(AttrFlags::MOVING) {
            return Ok(None);
        }
        let value = self.get(keys::moving(attr.handle()))?;
        let parse = |v: Bytes| FileLayout::decode(v).map_err(|_| damaged(attr.handle()));
        value.map(parse).transpose()
    }
}

/// A record that does not parse.
pub fn damaged(handle: Handle) -> PvfsError {
    PvfsError::new(
        ErrorCode::Damaged,
        format!("a record of object {handle} in the keyval does not parse: run fsck"),
    )
}
