//! The background of bstreams: write-out, datafiles at rest, the cache's size, learning.
//!
//! Place in the walks: beside them. Invariants: what was written is synced within about a second; a
//! datafile leaves the cache only when it is synced and its side file is trusted or it is marked for
//! learning; a failed sync has poisoned its datafile.
use super::datafile::Datafile;
use super::{Inner, SHARDS};
use crate::error::TroveError;
use parking_lot::MutexGuard;
use pvfs2_proto::{ErrorCode, Handle, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// From this many datafiles on, one sync of the whole local file system costs less than many.
const SYNC_ALL_FROM: usize = 48;
/// Datafiles put at rest per round; the others wait for the next.
const REST_PER_ROUND: usize = 256;

/// Datafiles compared with their side files per round, after power was lost.
const CHECKS_PER_ROUND: usize = 512;

/// How far learning after an unclean stop has come.
#[derive(Default)]
pub(super) struct Learning {
    handle: u64,
    strip: u64,
}

/// Takes datafiles at rest that nobody holds out of a full shard, the longest unused first.
pub(super) fn trim(shard: &mut MutexGuard<'_, HashMap<u64, Arc<Datafile>>>, keep: usize) {
    let mut idle: Vec<(u64, u64)> = shard
        .values()
        .filter(|d| Arc::strong_count(d) == 1 && can_leave(d))
        .map(|d| (d.used.load(Ordering::Relaxed), d.handle))
        .collect();
    idle.sort_unstable();
    // A few more than needed, so that not every opening has to look again.
    let surplus = (shard.len().saturating_sub(keep) + keep / 8).min(idle.len());
    for (_, handle) in &idle[..surplus] {
        shard.remove(handle);
    }
}

fn can_leave(d: &Datafile) -> bool {
    if d.unsynced.load(Ordering::Acquire) || d.name_unsynced.load(Ordering::Acquire) {
        return false;
    }
    // Poisoned ones stay: to forget them would be to accept them again.
    d.state.try_read().is_some_and(|s| {
        s.poisoned.is_none() && (!d.marked.load(Ordering::Acquire) || s.sums.has_unknown())
    })
}

impl Inner {
    /// See [`super::Bstreams::step`].
    pub(super) fn round(&self) -> Result<()> {
        let _one = self.rounds.lock();
        let tick = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.awake.store(false, Ordering::Release);
        let mut done = self.shared.marks.sync(self.media()).map_err(|e| super::fail("sync", e));
        let all = self.open_ones();
        let dirty: Vec<_> = all.iter().filter(|d| d.unsynced.load(Ordering::Acquire)).collect();
        if dirty.len() >= SYNC_ALL_FROM {
            done = done.and(self.sync_all(&dirty));
        } else {
            // Start all of them before waiting for any.
            dirty.iter().for_each(|d| d.file.start_writeout(0..u64::MAX));
            for d in &dirty {
                done = done.and(self.sync_one(d));
            }
        }
        let over = all.len() > self.options.open_max;
        let mut resting: Vec<_> = all
            .iter()
            .filter(|d| d.marked.load(Ordering::Acquire))
            .map(|d| (d.used.load(Ordering::Relaxed), d))
            .filter(|(used, _)| over || used + self.options.rest_rounds <= tick)
            .collect();
        resting.sort_unstable_by_key(|(used, _)| *used);
        let most = if over { all.len() } else { REST_PER_ROUND };
        let resting: Vec<_> = resting.into_iter().take(most).map(|(_, d)| d).collect();
        done = done.and(self.settle(&resting));
        drop(resting);
        drop(dirty);
        drop(all);
        let keep = self.options.open_max.div_ceil(SHARDS);
        for shard in &self.shards {
            let mut shard = shard.lock();
            if shard.len() > keep {
                trim(&mut shard, keep);
            }
        }
        let now_ns = self.shared.env.now_ns();
        let tidied = self.shared.marks.tidy(self.media(), now_ns);
        done.and(tidied.map_err(|e| super::fail("tidy", e)))
            .and(self.check_some())
            .and(self.learn_some())
    }

    /// Writes the checksums of datafiles at rest down, and unmarks them when that is durable.
    fn settle(&self, resting: &[&Arc<Datafile>]) -> Result<()> {
        let mut done = Ok(());
        let mut stored = Vec::new();
        for d in resting {
            match d.store_sums(&self.shared, self.media()) {
                Ok(Some(side)) => stored.push((d, side)),
                Ok(None) => {}
                Err(e) => done = done.and(self.unless_removed(d, Err(e))),
            }
        }
        let synced = if stored.len() >= SYNC_ALL_FROM {
            self.media().sync_all()
        } else {
            stored.iter().try_for_each(|(d, s)| {
                s.side.sync()?;
                if s.made { self.media().sync_names(d.handle) } else { Ok(()) }
            })
        };
        match synced {
            Ok(()) => {
                for (d, side) in &stored {
                    done = done.and(d.settle(&self.shared, self.media(), side));
                }
            }
            // They stay marked: their checksums are taken from their bytes after a stop.
            Err(e) => done = done.and(Err(super::fail("sync checksums in", e))),
        }
        done
    }

    fn unless_removed(&self, d: &Datafile, done: Result<()>) -> Result<()> {
        if d.state.read().removed { Ok(()) } else { done }
    }

    fn sync_one(&self, d: &Datafile) -> Result<()> {
        let done = d.sync(&self.shared, self.media());
        self.unless_removed(d, done)
    }

    fn sync_all(&self, dirty: &[&Arc<Datafile>]) -> Result<()> {
        let guards: Vec<_> = dirty.iter().map(|d| d.syncing.lock()).collect();
        for d in dirty {
            d.unsynced.store(false, Ordering::Release);
        }
        let done = self.media().sync_all();
        if let Err(e) = &done {
            dirty.iter().for_each(|d| drop(d.poison(&self.shared, e)));
        } else {
            dirty.iter().for_each(|d| d.name_unsynced.store(false, Ordering::Release));
        }
        drop(guards);
        done.map_err(|e| super::fail("sync", e))
    }

    /// Opens a bounded number of datafiles, which compares them with their side files, since power
    /// was lost.
    fn check_some(&self) -> Result<()> {
        let mut unchecked = self.unchecked.lock();
        if unchecked.is_empty() {
            return Ok(());
        }
        let rest = unchecked.len().saturating_sub(CHECKS_PER_ROUND.min(self.options.open_max));
        for handle in unchecked.drain(rest..) {
            match self.find(Handle(handle)) {
                Err(e) if e.code != ErrorCode::Stale => return Err(e),
                _ => {}
            }
        }
        if unchecked.is_empty() {
            self.shared.marks.all_checked();
        }
        Ok(())
    }

    /// Reads a bounded amount of datafiles whose checksums are unknown since an unclean stop.
    fn learn_some(&self) -> Result<()> {
        let mut at = self.learning.lock();
        let mut budget = self.options.learn_bytes;
        while budget > 0 {
            let Some(handle) = self.shared.marks.next_unknown(at.handle) else {
                *at = Learning::default();
                return Ok(());
            };
            if handle != at.handle {
                *at = Learning { handle, strip: 0 };
            }
            let next = Learning { handle: handle.saturating_add(1), strip: 0 };
            let d = match self.find(Handle(handle)) {
                Ok(Some(d)) => d,
                Err(e) if e.code != ErrorCode::Stale => {
                    *at = next;
                    return Err(e);
                }
                // Its making was lost, or it was removed.
                _ => {
                    let unmarked = self.shared.marks.unmark(self.media(), handle);
                    unmarked.map_err(|e| super::fail("unmark a datafile in", e))?;
                    *at = next;
                    continue;
                }
            };
            match d.learn_some(&self.shared, &mut at.strip, budget) {
                Ok((read, more)) => {
                    budget = budget.saturating_sub(read.max(4096));
                    if !more {
                        self.shared.marks.learned(handle);
                        *at = next;
                    }
                }
                Err(e) => {
                    *at = next;
                    return self.unless_removed(&d, Err(e));
                }
            }
        }
        Ok(())
    }

    /// See [`super::Bstreams::close`].
    pub(super) fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let mut done = Ok(());
        let _one = self.rounds.lock();
        let all = self.open_ones();
        for d in &all {
            done = done.and(self.sync_one(d));
        }
        done = done.and(self.settle(&all.iter().collect::<Vec<_>>()));
        drop(all);
        self.shards.iter().for_each(|s| s.lock().clear());
        let now_ns = self.shared.env.now_ns();
        done.and(self.shared.marks.close(self.media(), now_ns).map_err(|e| super::fail("close", e)))
    }

    fn run(&self) {
        let pause = Duration::from_millis(self.options.writeout_ms);
        loop {
            let started = Instant::now();
            {
                let mut work = self.shared.work.lock();
                // Idle: nothing written, nothing waiting for rest.
                while !work.stop && !work.dirty && !self.has_unrest() {
                    self.shared.wake.wait(&mut work);
                }
                while !work.stop && started.elapsed() < pause {
                    self.shared.wake.wait_until(&mut work, started + pause);
                }
                if work.stop {
                    return;
                }
                work.dirty = false;
            }
            if let Err(e) = self.round() {
                tracing::error!("write-out of datafiles: {e}");
            }
        }
    }

    fn has_unrest(&self) -> bool {
        self.shared.marks.any() || !self.unchecked.lock().is_empty()
    }
}

/// Starts the background thread.
pub(super) fn start(
    inner: &Arc<Inner>,
    dir: &Path,
) -> Result<std::thread::JoinHandle<()>, TroveError> {
    let inner = inner.clone();
    std::thread::Builder::new()
        .name("trove-writeout".into())
        .spawn(move || inner.run())
        .map_err(TroveError::os("start a thread for", dir))
}
