//! The journal in memory: records outlive the "process" in a backing that can be opened again.
//!
//! Place in the walks: as [`super::disk`], in tests and simulations. Invariant: an instance from
//! before a crash can change nothing any more (each has the backing's epoch of its opening).
use super::Journal;
use super::record::{self, Change};
use crate::error::{Result, TroveError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// What survives a crash.
#[derive(Default)]
pub struct MemLog {
    /// Encoded records, oldest first; the first has index `checkpoint + 1`.
    pub records: VecDeque<Vec<u8>>,
    /// Index that the checkpoint covers.
    pub checkpoint: u64,
    /// Highest durable index.
    pub durable: u64,
    /// Counts crashes.
    pub epoch: u64,
    /// Appends that still succeed before the "disk" is full; `None`: no limit.
    pub space_left_bytes: Option<u64>,
    /// The next sync fails.
    pub fail_sync: bool,
}

impl MemLog {
    /// The highest index in the log.
    pub fn last_index(&self) -> u64 {
        self.checkpoint + self.records.len() as u64
    }

    /// Loses power: of what was not synced, only the first `keep` records stay.
    pub fn lose_power(&mut self, keep: u64) {
        let safe = self.durable.max(self.checkpoint) - self.checkpoint;
        self.records.truncate(safe.saturating_add(keep).min(self.records.len() as u64) as usize);
        self.durable = self.last_index();
        self.epoch += 1;
    }
}

/// An opened journal over a backing.
pub struct MemJournal {
    log: Arc<Mutex<MemLog>>,
    epoch: u64,
    poisoned: Mutex<Option<String>>,
}

impl MemJournal {
    /// Opens the backing.
    pub fn new(log: Arc<Mutex<MemLog>>) -> MemJournal {
        let epoch = log.lock().epoch;
        MemJournal { log, epoch, poisoned: Mutex::new(None) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut MemLog) -> Result<T>) -> Result<T> {
        if let Some(why) = &*self.poisoned.lock() {
            return Err(TroveError::Poisoned(why.clone()));
        }
        let mut log = self.log.lock();
        if log.epoch != self.epoch {
            return Err(TroveError::Poisoned("this simulated server has crashed".into()));
        }
        f(&mut log)
    }
}

impl Journal for MemJournal {
    fn append(&self, changes: &[Change]) -> Result<u64> {
        self.with(|log| {
            let index = log.last_index() + 1;
            let mut buf = Vec::new();
            record::encode(&mut buf, index, log.durable, changes)?;
            if let Some(left) = &mut log.space_left_bytes {
                *left = left.checked_sub(buf.len() as u64).ok_or_else(|| {
                    TroveError::NoSpace("no space left for the journal (simulated)".into())
                })?;
            }
            log.records.push_back(buf);
            Ok(index)
        })
    }

    fn sync(&self) -> Result<u64> {
        let done = self.with(|log| {
            if std::mem::take(&mut log.fail_sync) {
                return Err(TroveError::Poisoned("a sync failed (simulated)".into()));
            }
            log.durable = log.last_index();
            Ok(log.durable)
        });
        done.inspect_err(|e| self.poison(&e.to_string()))
    }

    fn last_index(&self) -> u64 {
        self.log.lock().last_index()
    }

    fn durable_index(&self) -> u64 {
        self.log.lock().durable
    }

    fn checkpoint(&self, index: u64) -> Result<()> {
        self.with(|log| {
            while log.checkpoint < index && log.records.pop_front().is_some() {
                log.checkpoint += 1;
            }
            log.durable = log.durable.max(log.checkpoint);
            Ok(())
        })
    }

    fn poison(&self, why: &str) {
        self.poisoned.lock().get_or_insert_with(|| why.to_string());
    }
}
