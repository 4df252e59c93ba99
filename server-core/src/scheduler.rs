//! The request scheduler: per handle, readers share and writers exclude, first come first served.
//!
//! Operations that never wait in the middle run whole between two polls of a one-thread runtime and
//! need no lock of their own; they only have to stand back while an operation of several steps holds
//! one of their handles ([`Scheduler::pass`], which costs one look at an empty table). Operations of
//! several steps hold their handles until they end ([`Scheduler::lock`]).
//!
//! [`LockTable`] is the synchronous core: request, release, cancel, each telling who may go on.
//! Invariants: several handles are taken in ascending order, so that no two operations wait for each
//! other; a dropped wait leaves no trace.
use parking_lot::Mutex;
use pvfs2_proto::Handle;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How a handle is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Together with other readers.
    Read,
    /// Alone.
    Write,
}

#[derive(Default)]
struct Entry {
    readers: u32,
    writer: bool,
    queue: VecDeque<(u64, Mode)>,
}

impl Entry {
    fn admits(&self, mode: Mode) -> bool {
        !self.writer && (mode == Mode::Read || self.readers == 0)
    }
    fn take(&mut self, mode: Mode) {
        match mode {
            Mode::Read => self.readers += 1,
            Mode::Write => self.writer = true,
        }
    }
}

/// Who holds what and who waits, without clock or task.
#[derive(Default)]
pub struct LockTable {
    entries: HashMap<Handle, Entry>,
}

impl LockTable {
    /// `id` asks for `handle`; `false`: it waits in the queue.
    pub fn request(&mut self, id: u64, handle: Handle, mode: Mode) -> bool {
        let entry = self.entries.entry(handle).or_default();
        if entry.queue.is_empty() && entry.admits(mode) {
            entry.take(mode);
            return true;
        }
        entry.queue.push_back((id, mode));
        false
    }

    /// A holder lets go; returns the waiting ids that hold the handle now.
    pub fn release(&mut self, handle: Handle, mode: Mode) -> SmallVec<[u64; 4]> {
        if let Some(entry) = self.entries.get_mut(&handle) {
            match mode {
                Mode::Read => entry.readers = entry.readers.saturating_sub(1),
                Mode::Write => entry.writer = false,
            }
        }
        self.advance(handle)
    }

    /// A waiting `id` gives up; returns the ids that hold the handle now because of that.
    pub fn cancel(&mut self, id: u64, handle: Handle) -> SmallVec<[u64; 4]> {
        if let Some(entry) = self.entries.get_mut(&handle) {
            entry.queue.retain(|(other, _)| *other != id);
        }
        self.advance(handle)
    }

    /// Whether a request for `handle` would be granted at once.
    pub fn is_free(&self, handle: Handle, mode: Mode) -> bool {
        self.entries.get(&handle).is_none_or(|e| e.queue.is_empty() && e.admits(mode))
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn advance(&mut self, handle: Handle) -> SmallVec<[u64; 4]> {
        let mut granted = SmallVec::new();
        let Some(entry) = self.entries.get_mut(&handle) else { return granted };
        while let Some(&(id, mode)) = entry.queue.front()
            && entry.admits(mode)
        {
            entry.take(mode);
            entry.queue.pop_front();
            granted.push(id);
        }
        if entry.readers == 0 && !entry.writer && entry.queue.is_empty() {
            self.entries.remove(&handle);
        }
        granted
    }
}

#[derive(Default)]
struct Inner {
    table: LockTable,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    next_id: u64,
}

impl Inner {
    fn wake(&mut self, granted: SmallVec<[u64; 4]>) {
        for id in granted {
            if let Some(tx) = self.waiting.remove(&id) {
                // A waiter that is gone gives the handle back in its drop.
                let _ = tx.send(());
            }
        }
    }
}

/// The scheduler of one server; clones share it.
#[derive(Clone, Default)]
pub struct Scheduler {
    inner: Arc<Mutex<Inner>>,
}

/// Handles held until this is dropped.
#[must_use]
pub struct Guard {
    inner: Arc<Mutex<Inner>>,
    held: SmallVec<[(Handle, Mode); 4]>,
}

impl Guard {
    /// Holds what another guard held too. Both must be of one scheduler.
    pub fn absorb(&mut self, mut other: Guard) {
        self.held.append(&mut other.held);
    }

    /// Lets go of all handles but these.
    pub fn keep(&mut self, handles: &[Handle]) {
        let mut inner = self.inner.lock();
        self.held.retain(|&mut (handle, mode)| {
            let kept = handles.contains(&handle);
            if !kept {
                let granted = inner.table.release(handle, mode);
                inner.wake(granted);
            }
            kept
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        for &(handle, mode) in &self.held {
            let granted = inner.table.release(handle, mode);
            inner.wake(granted);
        }
    }
}

/// A place in the queue; dropping it before it is turned into a hold leaves the queue.
struct Wait {
    inner: Arc<Mutex<Inner>>,
    id: u64,
    handle: Handle,
    mode: Mode,
    settled: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut inner = self.inner.lock();
        // Not among those who wait any more: the handle was given to us, unseen.
        let granted = if inner.waiting.remove(&self.id).is_some() {
            inner.table.cancel(self.id, self.handle)
        } else {
            inner.table.release(self.handle, self.mode)
        };
        inner.wake(granted);
    }
}

impl Scheduler {
    /// A scheduler that holds nothing.
    pub fn new() -> Scheduler {
        Scheduler::default()
    }

    /// Whether nothing is held at all.
    pub fn is_idle(&self) -> bool {
        self.inner.lock().table.is_empty()
    }

    /// Whether an operation that does not wait may run on these handles now.
    pub fn is_free(&self, handles: &[(Handle, Mode)]) -> bool {
        let inner = self.inner.lock();
        inner.table.is_empty() || handles.iter().all(|(h, m)| inner.table.is_free(*h, *m))
    }

    /// Lets an operation that does not wait stand back while others hold its handles. `None`: the
    /// way is free, nothing is held; else the guard is to be kept until the operation ends.
    ///
    /// # Cancel safety
    /// A dropped wait leaves the queues.
    pub async fn pass(&self, handles: &[(Handle, Mode)]) -> Option<Guard> {
        if self.is_free(handles) { None } else { Some(self.lock(handles).await) }
    }

    /// Takes handles, in ascending order; one named twice is taken once, for writing if either
    /// says so.
    ///
    /// # Cancel safety
    /// A dropped wait gives back what it had taken.
    pub async fn lock(&self, handles: &[(Handle, Mode)]) -> Guard {
        let mut wanted: SmallVec<[(Handle, Mode); 4]> = SmallVec::from_slice(handles);
        wanted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        wanted.dedup_by_key(|w| w.0);
        let mut guard = Guard { inner: self.inner.clone(), held: SmallVec::new() };
        for (handle, mode) in wanted {
            self.lock_one(handle, mode).await;
            guard.held.push((handle, mode));
        }
        guard
    }

    /// Takes one handle if that is possible at once.
    pub fn try_lock(&self, handle: Handle, mode: Mode) -> Option<Guard> {
        let mut inner = self.inner.lock();
        let free = inner.table.is_free(handle, mode) && inner.table.request(0, handle, mode);
        free.then(|| Guard {
            inner: self.inner.clone(),
            held: SmallVec::from_slice(&[(handle, mode)]),
        })
    }

    async fn lock_one(&self, handle: Handle, mode: Mode) {
        let (mut wait, rx) = {
            let mut inner = self.inner.lock();
            inner.next_id += 1;
            let id = inner.next_id;
            if inner.table.request(id, handle, mode) {
                return;
            }
            let (tx, rx) = oneshot::channel();
            inner.waiting.insert(id, tx);
            (Wait { inner: self.inner.clone(), id, handle, mode, settled: false }, rx)
        };
        // The sender lives in the table until it is used, so this cannot fail.
        let _ = rx.await;
        wait.settled = true;
    }
}

#[cfg(test)]
mod tests;
