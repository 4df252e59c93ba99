//! The collection: transactions over keys and values. The journal is the truth; an overlay in memory
//! holds what the keyval does not have yet; a background thread moves it there.
//!
//! Place in the walks: create and every other metadata operation reads and commits here.
//! Invariants:
//! - a transaction is visible to `get` and `scan` when `commit` returns, whole or not at all;
//! - the order of the journal is the order of visibility;
//! - nothing enters the keyval before the journal has it durably, so that loss of power never leaves half
//!   of a transaction that the journal lost;
//! - the journal is only dropped up to an index that the keyval holds durably.
//!
//! A commit costs one `write(2)` and a few map inserts; the keyval is off the hot path. `commit` waits only
//! while both generations of the overlay are full. In simulations there are no threads:
//! [`Collection::step`] does the background's work.
//!
//! - [`overlay`]: the two generations in memory
//! - [`worker`]: what happens in the background: group commit and the move into the keyval
pub mod overlay;
pub mod worker;

use crate::error::{Result as TroveResult, TroveError};
use crate::journal::memory::{MemJournal, MemLog};
use crate::journal::record::{self, Change, Changes};
use crate::journal::{disk::DiskJournal, recovery, segment};
use crate::keyval;
use crate::keyval::memory::{MemKeyval, MemMap};
use bytes::Bytes;
use overlay::Overlay;
use parking_lot::{Mutex, RwLock};
use pvfs2_proto::env::Env;
use pvfs2_proto::{KeyvalMethod, Result};
use std::path::Path;
use std::sync::Arc;
use worker::Core;

/// A transaction: absolute puts and deletes that take effect together. Later changes of a key in the
/// same transaction win.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    changes: Changes,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Txn {
        Txn::default()
    }
    /// Sets a key. Keys have 1 to 65,535 bytes.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change { key: key.into(), value: Some(value.into()) });
    }
    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push(Change { key: key.into(), value: None });
    }
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }
    /// What this transaction makes of a key: `None` untouched, `Some(None)` deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.changes.iter().rev().find(|c| c.key == key).map(|c| c.value.as_ref())
    }
    /// Adds all changes of `other` behind these.
    pub fn append(&mut self, other: Txn) {
        self.changes.extend(other.changes);
    }
}

/// Sizes and times of a collection.
#[derive(Clone, Debug)]
pub struct CollectionOptions {
    /// Memory of the keyval's cache.
    pub cache_bytes: u64,
    /// A generation of the overlay is full with this many keys...
    pub overlay_entries: usize,
    /// ... or with this much memory.
    pub overlay_bytes: usize,
    /// A generation is moved into the keyval at this age, full or not.
    pub overlay_age_ms: u64,
    /// Commits that nobody waits for are synced within this time.
    pub sync_within_ms: u64,
    /// Size of a journal segment.
    pub segment_bytes: u64,
    /// Moving into the keyval waits while the disk has less free than this (or a 32nd of the disk, if
    /// that is less).
    pub reserve_bytes: u64,
}

impl Default for CollectionOptions {
    fn default() -> Self {
        CollectionOptions {
            cache_bytes: 64 << 20,
            overlay_entries: 64 << 10,
            overlay_bytes: 48 << 20,
            overlay_age_ms: 15_000,
            sync_within_ms: 500,
            segment_bytes: segment::SEGMENT_BYTES,
            reserve_bytes: 24 << 20,
        }
    }
}

impl CollectionOptions {
    /// Sizes with which a metadata server stays within `memory_bytes`, however many keys there are.
    pub fn within(memory_bytes: u64) -> CollectionOptions {
        CollectionOptions {
            cache_bytes: memory_bytes / 8,
            overlay_entries: (memory_bytes / (8 << 10)) as usize,
            overlay_bytes: (memory_bytes / 32 * 3) as usize,
            ..CollectionOptions::default()
        }
    }
}

/// See [`Collection::stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionStats {
    /// Transactions ever committed.
    pub last_index: u64,
    /// Of them, how many survive loss of power for sure.
    pub durable_index: u64,
    /// Keys that the keyval does not have yet.
    pub overlay_entries: usize,
    /// Memory that they take, about.
    pub overlay_bytes: usize,
}

/// What of a collection survives the end of its simulated process.
#[derive(Clone, Default)]
pub struct MemCollection {
    pub(crate) log: Arc<Mutex<MemLog>>,
    map: Arc<RwLock<MemMap>>,
}

impl MemCollection {
    /// The process is killed: everything committed stays; open instances are dead.
    pub fn crash(&self) {
        self.log.lock().epoch += 1;
    }
    /// Power is lost: what was synced stays, and of what was not, only the first `keep`
    /// transactions; open instances are dead.
    pub fn lose_power(&self, keep: u64) {
        self.log.lock().lose_power(keep);
        self.map.write().lose_power(keep);
    }
    /// The log itself, to fill its disk or fail its syncs.
    pub fn log(&self) -> &Arc<Mutex<MemLog>> {
        &self.log
    }
}

/// Keys and values of one storage space.
pub struct Collection {
    core: Arc<Core>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Collection {
    /// Opens the collection of a storage space: recovers the journal, starts the background.
    pub(crate) fn open(
        dir: &Path,
        fs_id: u64,
        method: KeyvalMethod,
        options: CollectionOptions,
        env: Env,
    ) -> TroveResult<Collection> {
        let journal_dir = dir.join("journal");
        let keyval = keyval::open(method, &dir.join("keyval"), options.cache_bytes)?;
        let checkpoint = segment::read_checkpoint(&journal_dir)?;
        let mut active = Overlay::default();
        let found = recovery::recover(&journal_dir, fs_id, checkpoint, |index, changes| {
            active.apply(index, changes);
            // Keeps memory bounded over a long journal: replay is idempotent, so moving early is
            // harmless; the checkpoint is only written by the applier.
            if active.bytes > 2 * options.overlay_bytes {
                let early = std::mem::take(&mut active);
                let moved = keyval.apply(&mut early.changes());
                if let Err(e) = moved {
                    tracing::warn!("recovery cannot move changes into the keyval yet: {e}");
                    active = early;
                }
            }
        })?;
        if found.replayed > 0 || found.cut_bytes > 0 {
            tracing::info!(
                dir = %dir.display(), replayed = found.replayed, cut_bytes = found.cut_bytes,
                "journal recovered up to record {}", found.last_index
            );
        }
        active.last_index = found.last_index;
        let journal =
            DiskJournal::new(&journal_dir, fs_id, found.last_index, options.segment_bytes)?;
        let space = Some(dir.to_path_buf());
        let core = Core::new(Arc::new(journal), keyval, active, options, env, space);
        let threads = worker::start(&core)?;
        Ok(Collection { core, threads: Mutex::new(threads) })
    }

    /// A collection without files or threads, on a backing of its own.
    pub fn memory(env: Env) -> Collection {
        Collection::open_memory(&MemCollection::default(), env)
    }

    /// Opens a backing in memory, after a crash too.
    pub fn open_memory(backing: &MemCollection, env: Env) -> Collection {
        let mut active = Overlay::default();
        {
            let log = backing.log.lock();
            active.last_index = log.checkpoint;
            for r in log.records.iter().filter_map(|bytes| record::decode(bytes)) {
                active.apply(r.index, r.changes);
            }
        }
        let journal = Arc::new(MemJournal::new(backing.log.clone()));
        let keyval = Arc::new(MemKeyval(backing.map.clone()));
        let core = Core::new(journal, keyval, active, CollectionOptions::default(), env, None);
        Collection { core, threads: Mutex::new(Vec::new()) }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The world that this collection was opened in.
    pub fn env(&self) -> &Env {
        &self.core.env
    }

    /// The value of a key.
    ///
    /// # Errors
    /// `Io` when the disk fails or the collection is closed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.core.get(key)?)
    }

    /// Keys that begin with `prefix` and lie above `after`, ascending, at most `limit`, with their
    /// values.
    ///
    /// # Errors
    /// `Io` when the disk fails or the collection is closed.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        Ok(self.core.scan(prefix, after, limit)?)
    }

    /// Commits a transaction: on return it is in the journal by `write(2)` (survives `kill -9`) and
    /// visible. Gives its index, for [`Collection::sync`].
    ///
    /// # Errors
    /// `NoSpace`, `Invalid`: nothing changed. `Io`: nothing changed, and after a failed sync nothing
    /// will be accepted any more.
    pub fn commit(&self, txn: Txn) -> Result<u64> {
        Ok(self.core.commit(txn.changes)?)
    }

    /// Waits until everything up to `index` survives loss of power. Many waiters share one
    /// `fdatasync`.
    ///
    /// # Errors
    /// `Io` when the disk failed; the collection accepts nothing from then on.
    ///
    /// # Cancel safety
    /// Safe: the sync goes on for others.
    pub async fn sync(&self, index: u64) -> Result<()> {
        if self.core.journal.durable_index() >= index {
            return Ok(());
        }
        if self.threads.lock().is_empty() {
            return self.sync_now(index);
        }
        let mut state = self.core.synced.subscribe();
        self.core.request_sync(index);
        let reached = state.wait_for(|s| s.durable >= index || s.failed.is_some()).await;
        match reached.as_deref() {
            Ok(s) if s.durable >= index => Ok(()),
            Ok(s) => {
                let why = s.failed.as_deref().unwrap_or("the collection is closed");
                Err(TroveError::Poisoned(why.to_string()).into())
            }
            Err(_) => Err(TroveError::Poisoned("the collection is closed".into()).into()),
        }
    }

    /// As [`Collection::sync`], blocking the thread on the disk.
    ///
    /// # Errors
    /// As [`Collection::sync`].
    pub fn sync_now(&self, index: u64) -> Result<()> {
        if self.core.journal.durable_index() < index {
            self.core.sync_journal()?;
        }
        Ok(())
    }

    /// Index of the newest transaction.
    pub fn last_index(&self) -> u64 {
        self.core.journal.last_index()
    }

    /// Highest index known to survive loss of power.
    pub fn durable_index(&self) -> u64 {
        self.core.journal.durable_index()
    }

    /// What is on its way, for metrics.
    pub fn stats(&self) -> CollectionStats {
        let view = self.core.view.read();
        let frozen = view.frozen.as_deref();
        CollectionStats {
            last_index: self.last_index(),
            durable_index: self.durable_index(),
            overlay_entries: view.active.map.len() + frozen.map_or(0, |f| f.map.len()),
            overlay_bytes: view.active.bytes + frozen.map_or(0, |f| f.bytes),
        }
    }

    /// Does in a simulation what the background threads do in a server: syncs, moves everything into
    /// the keyval store, writes the checkpoint. With threads it does the same at once.
    ///
    /// # Errors
    /// As the disk.
    pub fn step(&self) -> Result<()> {
        self.core.sync_journal()?;
        Ok(self.core.move_all()?)
    }

    /// Moves everything into the keyval store, checkpoints, ends the threads. Calls after it fail.
    pub(crate) fn close(&self) -> TroveResult<()> {
        self.stop_threads();
        let moved = self.core.move_all();
        self.core.shut("this storage space was closed");
        moved
    }

    fn stop_threads(&self) {
        self.core.stop();
        for t in self.threads.lock().drain(..) {
            // A panic of the thread was logged by the panic hook, and poisoned the journal.
            let _ = t.join();
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.stop_threads();
        // Handle allocators may live on; the keyval's lock must not.
        self.core.shut("this storage space was closed");
    }
}

#[cfg(test)]
pub(crate) mod tests;
