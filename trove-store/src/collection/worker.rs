//! The collection's core and its background: group commit, and the move of the overlay into the keyval.
//!
//! Place in the walks: `commit` is the last step before a metadata reply; the rest is beside the
//! walks. Invariants: see the folder's head. Locks are taken in this order: `order`, `view`, `work`.
use super::CollectionOptions;
use super::overlay::{Overlay, View};
use crate::error::{Result, TroveError};
use crate::journal::Journal;
use crate::journal::record::Changes;
use crate::keyval::Keyval;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use pvfs2_proto::env::Env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How far the journal is durable.
#[derive(Clone, Debug, Default)]
pub struct Synced {
    /// Highest durable index.
    pub durable: u64,
    /// Why there will be no more.
    pub failed: Option<Arc<str>>,
}

#[derive(Default)]
struct Work {
    stop: bool,
    /// Somebody waits for this index.
    requested: u64,
    dirty_since: Option<Instant>,
    active_since: Option<Instant>,
    /// The move into the keyval waits for free space.
    starved: bool,
}

/// What handles and threads of a collection share.
pub struct Core {
    pub(crate) env: Env,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) view: RwLock<View>,
    pub(super) synced: watch::Sender<Synced>,
    options: CollectionOptions,
    /// Makes the journal's order the overlay's order.
    order: Mutex<()>,
    moving: Mutex<()>,
    work: Mutex<Work>,
    wake_syncer: Condvar,
    wake_applier: Condvar,
    room: Condvar,
    dirty: AtomicBool,
    threaded: bool,
    space: Option<PathBuf>,
}

impl Core {
    pub(super) fn new(
        journal: Arc<dyn Journal>,
        keyval: Arc<dyn Keyval>,
        active: Overlay,
        options: CollectionOptions,
        env: Env,
        space: Option<PathBuf>,
    ) -> Arc<Core> {
        let durable = journal.durable_index();
        let work =
            Work { active_since: (!active.map.is_empty()).then(Instant::now), ..Work::default() };
        Arc::new(Core {
            env,
            journal,
            view: RwLock::new(View { active, frozen: None, keyval: Some(keyval) }),
            synced: watch::Sender::new(Synced { durable, failed: None }),
            options,
            order: Mutex::new(()),
            moving: Mutex::new(()),
            work: Mutex::new(work),
            wake_syncer: Condvar::new(),
            wake_applier: Condvar::new(),
            room: Condvar::new(),
            dirty: AtomicBool::new(false),
            threaded: space.is_some(),
            space,
        })
    }

    pub(super) fn keyval(view: &View) -> Result<Arc<dyn Keyval>> {
        let closed = || TroveError::Poisoned("this storage space was closed".into());
        view.keyval.clone().ok_or_else(closed)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let keyval = {
            let view = self.view.read();
            if let Some(found) = view.get(key) {
                return Ok(found);
            }
            Core::keyval(&view)?
        };
        // A key that moves into the keyval right now is there before it leaves the overlay.
        keyval.get(key)
    }

    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let view = self.view.read();
        let keyval = Core::keyval(&view)?;
        view.scan(keyval.as_ref(), prefix, after, limit)
    }

    pub(super) fn commit(&self, changes: Changes) -> Result<u64> {
        if changes.is_empty() {
            return Ok(self.journal.last_index());
        }
        let _order = self.order.lock();
        self.make_room()?;
        let index = self.journal.append(&changes)?;
        let (was_empty, full) = {
            let mut view = self.view.write();
            let was_empty = view.active.map.is_empty();
            view.active.apply(index, changes);
            (was_empty, self.is_full(&view.active))
        };
        let first_dirty = !self.dirty.swap(true, Ordering::AcqRel);
        if self.threaded && (first_dirty || was_empty || full) {
            let mut work = self.work.lock();
            if first_dirty {
                work.dirty_since = Some(Instant::now());
                self.wake_syncer.notify_one();
            }
            if was_empty {
                work.active_since = Some(Instant::now());
            }
            if was_empty || full {
                self.wake_applier.notify_one();
            }
        }
        Ok(index)
    }

    fn is_full(&self, overlay: &Overlay) -> bool {
        overlay.map.len() >= self.options.overlay_entries
            || overlay.bytes >= self.options.overlay_bytes
    }

    /// Waits while both generations are full. Called with `order` held.
    fn make_room(&self) -> Result<()> {
        loop {
            {
                let view = self.view.read();
                Core::keyval(&view)?;
                if !self.is_full(&view.active) {
                    return Ok(());
                }
                // Full, but the applier is about to take it: a little more does no harm.
                if self.threaded && view.frozen.is_none() && !self.is_over_full(&view.active) {
                    return Ok(());
                }
            }
            if !self.threaded {
                return self.move_all();
            }
            let mut work = self.work.lock();
            if work.starved {
                return Err(TroveError::NoSpace(format!(
                    "less than {} bytes are free where the metadata is stored: free some space; \
                     nothing was changed",
                    self.options.reserve_bytes
                )));
            }
            if work.stop {
                return Err(TroveError::Poisoned("this storage space is being closed".into()));
            }
            if let Some(why) = self.synced.borrow().failed.clone() {
                return Err(TroveError::Poisoned(why.to_string()));
            }
            self.wake_applier.notify_one();
            self.room.wait_for(&mut work, Duration::from_millis(100));
        }
    }

    fn is_over_full(&self, overlay: &Overlay) -> bool {
        overlay.map.len() >= 2 * self.options.overlay_entries
            || overlay.bytes >= 2 * self.options.overlay_bytes
    }

    pub(super) fn request_sync(&self, index: u64) {
        let mut work = self.work.lock();
        work.requested = work.requested.max(index);
        self.wake_syncer.notify_one();
    }

    /// Syncs the journal and tells everybody who waits.
    pub(super) fn sync_journal(&self) -> Result<u64> {
        self.dirty.store(false, Ordering::Release);
        match self.journal.sync() {
            Ok(durable) => {
                self.synced.send_modify(|s| s.durable = s.durable.max(durable));
                Ok(durable)
            }
            Err(e) => {
                self.fail(&e.to_string());
                Err(e)
            }
        }
    }

    fn fail(&self, why: &str) {
        self.journal.poison(why);
        self.synced.send_modify(|s| {
            s.failed.get_or_insert_with(|| why.into());
        });
        self.room.notify_all();
    }

    /// Makes the active generation the frozen one, unless one is on its way already.
    fn freeze(&self) -> Option<Arc<Overlay>> {
        let mut view = self.view.write();
        if view.frozen.is_none() && !view.active.map.is_empty() {
            let last_index = view.active.last_index;
            let next = Overlay { last_index, ..Overlay::default() };
            view.frozen = Some(Arc::new(std::mem::replace(&mut view.active, next)));
            let mut work = self.work.lock();
            work.active_since = None;
            self.room.notify_all();
        }
        view.frozen.clone()
    }

    /// Moves one generation into the keyval store and checkpoints; `false` when there is none.
    fn move_one(&self) -> Result<bool> {
        let _one = self.moving.lock();
        let Some(frozen) = self.freeze() else { return Ok(false) };
        let keyval = Core::keyval(&self.view.read())?;
        self.sync_journal()?;
        keyval.apply(&mut frozen.changes())?;
        keyval.flush()?;
        self.journal.checkpoint(frozen.last_index)?;
        let old = self.view.write().frozen.take();
        self.room.notify_all();
        // The last owner frees thousands of entries: not under a lock.
        drop(old);
        Ok(true)
    }

    /// Moves everything.
    pub(super) fn move_all(&self) -> Result<()> {
        let moved = (|| {
            while self.move_one()? {}
            Ok(())
        })();
        moved.inspect_err(|e: &TroveError| self.fail(&e.to_string()))
    }

    fn has_space(&self) -> bool {
        let Some(dir) = &self.space else { return true };
        match rustix::fs::statvfs(dir) {
            Ok(s) => {
                let total = s.f_blocks.saturating_mul(s.f_frsize);
                let reserve = self.options.reserve_bytes.min(total / 32);
                s.f_bavail.saturating_mul(s.f_frsize) >= reserve
            }
            Err(_) => true,
        }
    }

    pub(super) fn stop(&self) {
        self.work.lock().stop = true;
        self.wake_syncer.notify_all();
        self.wake_applier.notify_all();
        self.room.notify_all();
    }

    pub(super) fn shut(&self, why: &str) {
        let keyval = {
            let mut view = self.view.write();
            view.active = Overlay::default();
            view.frozen = None;
            view.keyval.take()
        };
        drop(keyval);
        self.synced.send_modify(|s| {
            s.failed.get_or_insert_with(|| why.into());
        });
    }

    fn run_syncer(&self) {
        let within = Duration::from_millis(self.options.sync_within_ms);
        let mut work = self.work.lock();
        while !work.stop {
            let wanted = work.requested > self.journal.durable_index();
            let due = work.dirty_since.map(|since| since + within);
            if wanted || due.is_some_and(|due| Instant::now() >= due) {
                work.requested = 0;
                work.dirty_since = None;
                drop(work);
                // A failure has poisoned the journal and told the waiters.
                let failed = self.sync_journal().is_err();
                work = self.work.lock();
                if failed {
                    return;
                }
            } else if let Some(due) = due {
                self.wake_syncer.wait_until(&mut work, due);
            } else {
                self.wake_syncer.wait(&mut work);
            }
        }
    }

    fn run_applier(&self) {
        let age = Duration::from_millis(self.options.overlay_age_ms);
        let mut warned = false;
        loop {
            let full = {
                let view = self.view.read();
                view.frozen.is_some() || self.is_full(&view.active)
            };
            let mut work = self.work.lock();
            if work.stop {
                return;
            }
            let due = work.active_since.map(|since| since + age);
            if !(full || due.is_some_and(|due| Instant::now() >= due)) {
                match due {
                    Some(due) => drop(self.wake_applier.wait_until(&mut work, due)),
                    None => self.wake_applier.wait(&mut work),
                }
                continue;
            }
            drop(work);
            let starved = !self.has_space();
            if starved && !warned {
                tracing::warn!(dir = ?self.space, "little space left: metadata stays in the journal");
            }
            warned = starved;
            let mut work = self.work.lock();
            work.starved = starved;
            if starved {
                self.room.notify_all();
                self.wake_applier.wait_for(&mut work, Duration::from_secs(1));
                continue;
            }
            drop(work);
            // A method may panic (sled does) where it cannot go on; that must stop commits, not pass unseen.
            let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.move_one()));
            let why = match moved {
                Ok(Ok(_)) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "the keyval panicked".to_string(),
            };
            self.fail(&format!(
                "{why}; nothing is lost (the journal holds it), but this server accepts no more \
                 changes: look after its disk and restart it"
            ));
            return;
        }
    }
}

/// Starts the background threads.
pub(super) fn start(core: &Arc<Core>) -> Result<Vec<std::thread::JoinHandle<()>>> {
    let spawn = |name: &str, run: fn(&Core)| {
        let core = core.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&core));
        thread.map_err(TroveError::os("start a thread for", std::path::Path::new("the collection")))
    };
    let syncer = spawn("trove-sync", Core::run_syncer)?;
    match spawn("trove-apply", Core::run_applier) {
        Ok(applier) => Ok(vec![syncer, applier]),
        Err(e) => {
            core.stop();
            let _ = syncer.join();
            Err(e)
        }
    }
}
