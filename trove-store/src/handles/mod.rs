//! Handles out of a server's range.
//!
//! Place in the walks: create and mkdir take a handle in their transaction; the last unlink gives it
//! back in its own. Invariants: a handle is not given twice while its object lives, whatever
//! crashes; a freed one rests for `recycle_secs`; a restart skips at most [`BATCH`] handles. A
//! transaction that took a handle is committed or dropped before [`BATCH`] more are taken.
//!
//! A counter goes once through the range; it is reserved in batches, so most allocations change no
//! key. Only when it has reached the end are freed handles reused, oldest first. So that a server
//! with a large range need not remember every handle ever freed, the queue is kept only for small
//! ranges ([`SMALL_RANGE`]) and from the last quarter of the range on; of a large range, those freed
//! before stay unused.
//!
//! | key | value |
//! |---|---|
//! | `F0` | highest handle reserved (8 bytes, little-endian) |
//! | `F1`, time (8 bytes, big-endian, ns), handle (8 bytes, big-endian) | empty: freed then |
use crate::collection::worker::Core;
use crate::collection::{Collection, Txn};
use parking_lot::Mutex;
use pvfs2_proto::{ErrorCode, Handle, HandleRange, PvfsError, Result};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Most handles reserved at a time.
pub const BATCH: u64 = 4096;
/// In a range of up to this many handles, every freed one is remembered from the beginning.
pub const SMALL_RANGE: u64 = 1 << 20;
/// Key of the counter.
pub const KEY_COUNTER: &[u8] = &[0xf0];
/// Prefix of the queue of freed handles.
pub const KEY_FREED: &[u8] = &[0xf1];
const FREED_KEY_BYTES: usize = 17;
const FREED_AT_ONCE: usize = 256;

/// Gives handles of one range.
pub struct HandleAllocator {
    range: HandleRange,
    batch: u64,
    recycle_ns: i64,
    collection: Arc<Core>,
    state: Mutex<State>,
}

struct State {
    /// Highest handle given by the counter.
    given: u64,
    /// Highest handle reserved, in the collection or in a transaction given out.
    reserved: u64,
    /// Highest handle known to be reserved in the collection itself.
    confirmed: u64,
    /// Freed handles read ahead, oldest first: (time, handle).
    freed: VecDeque<(i64, u64)>,
    /// Freed handles given again in transactions that may not be committed yet.
    retaken: HashSet<(i64, u64)>,
}

impl HandleAllocator {
    /// Goes on where the collection's last allocator was.
    ///
    /// # Errors
    /// `Invalid` for an empty range; `Io`, `Damaged` from the collection.
    pub fn load(
        collection: &Collection,
        range: HandleRange,
        recycle_secs: u64,
    ) -> Result<HandleAllocator> {
        if range.first == 0 || range.first > range.last {
            return Err(PvfsError::new(
                ErrorCode::Invalid,
                format!("handle range {}-{} is empty or holds 0", range.first, range.last),
            ));
        }
        let collection = collection.core().clone();
        let stored = stored_counter(&collection)?.unwrap_or(range.first - 1);
        if !(range.first - 1..=range.last).contains(&stored) {
            return Err(PvfsError::new(
                ErrorCode::Invalid,
                format!(
                    "handles up to {stored} were given already, which is outside of the range \
                     {}-{}: a server's handle range must not change in the cluster file",
                    range.first, range.last
                ),
            ));
        }
        let recycle_ns =
            i64::try_from(recycle_secs).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let state = State {
            given: stored,
            reserved: stored,
            confirmed: stored,
            freed: VecDeque::new(),
            retaken: HashSet::new(),
        };
        let batch = ((range.last - range.first) / 64).clamp(1, BATCH);
        Ok(HandleAllocator { range, batch, recycle_ns, collection, state: Mutex::new(state) })
    }

    /// Takes a handle; `txn` must be the transaction that makes its object. Never gives the root's.
    ///
    /// # Errors
    /// `NoSpace` when the range is used up; `Io` from the collection.
    pub fn alloc(&self, txn: &mut Txn) -> Result<Handle> {
        let mut s = self.state.lock();
        if s.given < self.range.last && s.given + 1 == Handle::ROOT.0 {
            s.given += 1;
            s.reserved = s.reserved.max(s.given);
        }
        if s.given >= self.range.last {
            return self.recycle(&mut s, txn);
        }
        if s.given >= s.reserved {
            s.reserved = s.given.saturating_add(self.batch).min(self.range.last);
        }
        if s.reserved > s.confirmed {
            // A transaction that carried the reservation may have been dropped.
            if stored_counter(&self.collection)? >= Some(s.reserved) {
                s.confirmed = s.reserved;
            } else {
                txn.put(KEY_COUNTER, s.reserved.to_le_bytes().to_vec());
            }
        }
        s.given += 1;
        Ok(Handle(s.given))
    }

    /// Gives a handle back; `txn` must be the transaction that removes its object.
    pub fn free(&self, txn: &mut Txn, handle: Handle) {
        if !self.range.contains(handle) || handle == Handle::ROOT || !self.remembers() {
            return;
        }
        let now = self.collection.env.now_ns().max(0);
        txn.put(freed_key(now, handle.0).to_vec(), Vec::new());
    }

    /// The server's range.
    pub fn range(&self) -> HandleRange {
        self.range
    }

    fn remembers(&self) -> bool {
        let all = self.range.last - self.range.first;
        let used = self.state.lock().given.saturating_sub(self.range.first);
        all < SMALL_RANGE || used >= all - all / 4
    }

    fn recycle(&self, s: &mut State, txn: &mut Txn) -> Result<Handle> {
        if s.freed.is_empty() {
            self.refill(s)?;
        }
        let now = self.collection.env.now_ns();
        match s.freed.pop_front() {
            Some((time, handle)) if time.saturating_add(self.recycle_ns) <= now => {
                s.retaken.insert((time, handle));
                txn.delete(freed_key(time, handle).to_vec());
                Ok(Handle(handle))
            }
            young => {
                if let Some(young) = young {
                    s.freed.push_front(young);
                }
                Err(PvfsError::new(
                    ErrorCode::NoSpace,
                    format!(
                        "all handles {}-{} of this server are in use or were freed just now: \
                         remove files, or give it another range in the cluster file",
                        self.range.first, self.range.last
                    ),
                ))
            }
        }
    }

    fn refill(&self, s: &mut State) -> Result<()> {
        let mut still = HashSet::new();
        let mut after: Option<Vec<u8>> = None;
        while s.freed.len() < FREED_AT_ONCE {
            let page = self.collection.scan(KEY_FREED, after.as_deref(), FREED_AT_ONCE)?;
            for entry in page.iter().filter_map(|(key, _)| parse_freed(key)) {
                if s.retaken.contains(&entry) {
                    still.insert(entry);
                } else if self.range.contains(Handle(entry.1)) {
                    s.freed.push_back(entry);
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == FREED_AT_ONCE => after = Some(key.to_vec()),
                _ => {
                    // The whole queue was seen: what is not in it any more was committed.
                    s.retaken = still;
                    break;
                }
            }
        }
        Ok(())
    }
}

fn stored_counter(collection: &Core) -> Result<Option<u64>> {
    let Some(raw) = collection.get(KEY_COUNTER)? else { return Ok(None) };
    match raw.as_ref().try_into() {
        Ok(b) => Ok(Some(u64::from_le_bytes(b))),
        Err(_) => Err(PvfsError::new(
            ErrorCode::Damaged,
            format!("the handle counter has {} bytes instead of 8", raw.len()),
        )),
    }
}

fn freed_key(time_ns: i64, handle: u64) -> [u8; FREED_KEY_BYTES] {
    let mut key = [0; FREED_KEY_BYTES];
    key[0] = KEY_FREED[0];
    key[1..9].copy_from_slice(&time_ns.to_be_bytes());
    key[9..].copy_from_slice(&handle.to_be_bytes());
    key
}

fn parse_freed(key: &[u8]) -> Option<(i64, u64)> {
    let key: &[u8; FREED_KEY_BYTES] = key.try_into().ok()?;
    let (time, handle) = key[1..].split_at(8);
    Some((i64::from_be_bytes(time.try_into().ok()?), u64::from_be_bytes(handle.try_into().ok()?)))
}

#[cfg(test)]
mod tests;
