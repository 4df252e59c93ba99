//! Who has locked which bytes, and who waits: in memory, per session and owner; told again by
//! `reclaim` after a restart. A synchronous `step(event)`: a test drives it without clock or socket.
//! Place in the walks: asked by `lock` and `getlk`, by the end of a session and of the grace time.
//!
//! Invariants:
//! - two owners never hold conflicting locks on a byte; one owner's parts are split and merged by
//!   [`HeldList`];
//! - who waits is granted in the order of asking, as far as nothing conflicting is held; a new
//!   request waits behind earlier ones that it conflicts with, but only while its owner holds
//!   nothing on this server: so nobody can wait for one that waits for its turn only, and fairness
//!   never makes a deadlock;
//! - a request that would close a ring of owners, each waiting for the next, is refused; so is one
//!   that becomes part of a ring by somebody else's lock;
//! - a request is known by (session, id): sent again it finds its place in the queue, or that it was
//!   granted, and changes nothing; once cancelled, it is never granted;
//! - during the grace time only what the owner has already, and reclaims, are granted.
//!
//! `fresh` in an answer says whether a client's caches of the file are still good: whether another
//! session held a write lock since the stamp that the client names.
use pvfs2_proto::limits::LOCKS_PER_SESSION_MAX;
use pvfs2_proto::{Handle, Held, HeldList, LockRange};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Requests that are remembered per session as cancelled (for copies of them that come late) and as
/// granted (for cancels that come late).
const REMEMBERED_MAX: usize = 256;
/// Files of which it is remembered who wrote under a lock; forgetting costs clients their caches.
const WROTE_MAX: usize = 65_536;

/// Who locks: an owner (a process, or an open file for flock) of a session (a mount).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The session.
    pub session: u64,
    /// The owner within it.
    pub owner: u64,
}

/// A wish to lock.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The request among those of its session.
    pub id: u64,
    /// The bytes.
    pub range: LockRange,
    /// For writing.
    pub write: bool,
    /// The process that asks.
    pub pid: u32,
    /// Queue it if it conflicts.
    pub wait: bool,
    /// The stamp up to which the client's caches are good.
    pub seen: u64,
}

/// What happens to the table.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// An owner asks for a lock, or after one.
    Lock(Owner, Handle, Ask),
    /// An owner unlocks.
    Unlock(Owner, Handle, LockRange),
    /// An owner takes a request back.
    Cancel(Owner, Handle, Ask),
    /// A session says what it had locked; `allowed`: no other can have had it meanwhile.
    Reclaim(Owner, Handle, Held, bool),
    /// A session has ended.
    EndSession(u64),
    /// Nobody reclaims any more.
    GraceEnded,
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds (or is unlocked) since `stamp`.
    Done {
        /// The change's number.
        stamp: u64,
        /// The client's caches are good.
        fresh: bool,
    },
    /// It waits.
    Queued,
    /// It was cancelled and is not granted.
    Cancelled,
    /// This lock of another is in the way.
    Refused(Held),
    /// Waiting would never end.
    Deadlock,
    /// Asked in the grace time: ask again.
    Grace,
    /// The session has too many locks.
    TooMany,
    /// The lock to be reclaimed may have been another's since.
    Lost,
}

/// What a step came to.
#[derive(Debug)]
pub struct Step {
    /// For the one who asked.
    pub verdict: Verdict,
    /// Sessions and ids of requests that wait no longer.
    pub wakes: Vec<(u64, u64)>,
}

struct Waiter {
    owner: Owner,
    ask: Ask,
}

#[derive(Default)]
struct File {
    held: BTreeMap<Owner, HeldList>,
    queue: VecDeque<Waiter>,
}

impl File {
    /// Locks of others in the way.
    fn blockers(&self, owner: Owner, range: LockRange, write: bool) -> Vec<(Owner, Held)> {
        let others = self.held.iter().filter(|(o, _)| **o != owner);
        others.filter_map(|(o, list)| list.conflict(range, write).map(|h| (*o, *h))).collect()
    }

    /// Whether one of the first `before` in the queue waits for bytes that `ask` wants too.
    fn is_behind(&self, owner: Owner, ask: &Ask, before: usize) -> bool {
        self.queue.iter().take(before).any(|w| {
            w.owner != owner && w.ask.range.overlaps(&ask.range) && (w.ask.write || ask.write)
        })
    }
}

/// The last write locks on a file, of two different sessions.
#[derive(Clone, Copy, Default)]
struct Wrote {
    latest: (u64, u64),
    before: (u64, u64),
}

/// The last requests of a session: id and stamp.
#[derive(Default)]
struct Ring(VecDeque<(u64, u64)>);

impl Ring {
    fn push(&mut self, id: u64, stamp: u64) {
        if self.get(id).is_some() {
            return;
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id, stamp));
    }
    fn get(&self, id: u64) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, stamp)| *stamp)
    }
    /// Whether `id` is too old to be there if it ever was.
    fn is_before(&self, id: u64) -> bool {
        self.0.len() >= REMEMBERED_MAX && self.0.front().is_some_and(|(oldest, _)| id < *oldest)
    }
}

/// See the head of the file.
pub struct LockTable {
    files: BTreeMap<Handle, File>,
    /// Where an owner waits.
    waiting: BTreeMap<Owner, Vec<Handle>>,
    /// In how many files an owner holds locks.
    holding: HashMap<Owner, usize>,
    /// Locks and waiters of a session.
    counts: HashMap<u64, usize>,
    cancelled: HashMap<u64, Ring>,
    granted: HashMap<u64, Ring>,
    wrote: HashMap<Handle, Wrote>,
    /// Nothing is known of write locks up to this stamp.
    forgot: u64,
    stamp: u64,
    grace: bool,
}

impl LockTable {
    /// An empty table in its grace time. `stamp`: above all that an earlier run gave.
    pub fn new(stamp: u64) -> LockTable {
        LockTable {
            files: BTreeMap::new(),
            waiting: BTreeMap::new(),
            holding: HashMap::new(),
            counts: HashMap::new(),
            cancelled: HashMap::new(),
            granted: HashMap::new(),
            wrote: HashMap::new(),
            forgot: stamp,
            stamp,
            grace: true,
        }
    }

    /// Takes in what happened.
    pub fn step(&mut self, event: Event) -> Step {
        let mut wakes = Vec::new();
        let verdict = match event {
            Event::Lock(owner, handle, ask) => self.lock(owner, handle, ask, &mut wakes),
            Event::Unlock(owner, handle, range) => {
                self.change(owner, handle, |list| list.clear(range));
                self.pump(handle, &mut wakes);
                Verdict::Done { stamp: self.stamp, fresh: true }
            }
            Event::Cancel(owner, handle, ask) => self.cancel(owner, handle, ask, &mut wakes),
            Event::Reclaim(owner, handle, held, allowed) => {
                self.reclaim(owner, handle, held, allowed)
            }
            Event::EndSession(session) => self.end_session(session, &mut wakes),
            Event::GraceEnded => {
                self.grace = false;
                let all: Vec<Handle> = self.files.keys().copied().collect();
                all.into_iter().for_each(|h| self.pump(h, &mut wakes));
                Verdict::Done { stamp: self.stamp, fresh: true }
            }
        };
        Step { verdict, wakes }
    }

    /// The first lock of another in the way of such a lock.
    pub fn conflict(
        &self,
        owner: Owner,
        handle: Handle,
        range: LockRange,
        write: bool,
    ) -> Option<(Owner, Held)> {
        let found = self.files.get(&handle)?.blockers(owner, range, write);
        found.into_iter().min_by_key(|(_, h)| h.range.first)
    }

    /// Locks held, and requests that wait.
    pub fn len(&self) -> (usize, usize) {
        let held = self.files.values().flat_map(|f| f.held.values()).map(HeldList::len).sum();
        (held, self.files.values().map(|f| f.queue.len()).sum())
    }

    /// Whether nothing is locked and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn lock(
        &mut self,
        owner: Owner,
        handle: Handle,
        ask: Ask,
        wakes: &mut Vec<(u64, u64)>,
    ) -> Verdict {
        if self.is_cancelled(owner.session, ask.id) {
            return Verdict::Cancelled;
        }
        if let Some(granted) = self.granted_before(owner, handle, &ask) {
            return granted;
        }
        let file = self.files.get(&handle);
        let queued = |w: &Waiter| (w.owner.session, w.ask.id) == (owner.session, ask.id);
        if file.is_some_and(|f| f.queue.iter().any(queued)) {
            return Verdict::Queued;
        }
        let own = file.and_then(|f| f.held.get(&owner));
        if !own.is_some_and(|list| list.covers(ask.range, ask.write)) {
            if self.counts.get(&owner.session).is_some_and(|n| *n >= LOCKS_PER_SESSION_MAX) {
                return Verdict::TooMany;
            }
            if self.grace {
                return if ask.wait { self.enqueue(owner, handle, ask) } else { Verdict::Grace };
            }
            let blockers = file.map(|f| f.blockers(owner, ask.range, ask.write));
            if let Some(blockers) = blockers.filter(|b| !b.is_empty()) {
                if !ask.wait {
                    return Verdict::Refused(blockers[0].1);
                }
                if self.leads_to(owner, blockers.into_iter().map(|(o, _)| o).collect()) {
                    return Verdict::Deadlock;
                }
                return self.enqueue(owner, handle, ask);
            }
            let is_behind = file.is_some_and(|f| f.is_behind(owner, &ask, f.queue.len()));
            if ask.wait && is_behind && !self.holding.contains_key(&owner) {
                return self.enqueue(owner, handle, ask);
            }
        }
        let fresh = self.is_fresh(owner.session, handle, ask.seen);
        let stamp = self.grant(owner, handle, ask, wakes);
        // What it gave up by a downgrade.
        self.pump(handle, wakes);
        Verdict::Done { stamp, fresh }
    }

    /// What became of a request that was granted and is asked after: whatever came later, also by
    /// another thread of its owner, is not to be undone by that.
    fn granted_before(&self, owner: Owner, handle: Handle, ask: &Ask) -> Option<Verdict> {
        let stamp = self.granted.get(&owner.session)?.get(ask.id)?;
        Some(Verdict::Done { stamp, fresh: self.is_fresh(owner.session, handle, ask.seen) })
    }

    fn enqueue(&mut self, owner: Owner, handle: Handle, ask: Ask) -> Verdict {
        self.files.entry(handle).or_default().queue.push_back(Waiter { owner, ask });
        self.waiting.entry(owner).or_default().push(handle);
        *self.counts.entry(owner.session).or_default() += 1;
        Verdict::Queued
    }

    /// Takes a waiter out of the queue.
    fn dequeue(&mut self, handle: Handle, at: usize) -> Option<Waiter> {
        let waiter = self.files.get_mut(&handle)?.queue.remove(at)?;
        if let Some(list) = self.waiting.get_mut(&waiter.owner) {
            if let Some(at) = list.iter().position(|h| *h == handle) {
                list.swap_remove(at);
            }
            if list.is_empty() {
                self.waiting.remove(&waiter.owner);
            }
        }
        self.count(waiter.owner.session, 1, 0);
        Some(waiter)
    }

    fn count(&mut self, session: u64, before: usize, after: usize) {
        let count = self.counts.entry(session).or_default();
        *count = (*count + after).saturating_sub(before);
        if *count == 0 {
            self.counts.remove(&session);
        }
    }

    /// Locks, and refuses who now waits in a ring.
    fn grant(
        &mut self,
        owner: Owner,
        handle: Handle,
        ask: Ask,
        wakes: &mut Vec<(u64, u64)>,
    ) -> u64 {
        let held = Held { range: ask.range, write: ask.write, pid: ask.pid, mark: 0 };
        let held_nothing = !self.holding.contains_key(&owner);
        let stamp = self.change(owner, handle, |list| list.set(held));
        self.granted.entry(owner.session).or_default().push(ask.id, stamp);
        let waits = self.waiting.get(&owner).cloned().unwrap_or_default();
        for at in waits {
            self.break_ring(owner, at, wakes);
            // From now on it does not wait for its turn any more.
            if held_nothing && at != handle {
                self.pump(at, wakes);
            }
        }
        stamp
    }

    /// Refuses the requests of `owner` in a file if its own locks let them wait for ever.
    fn break_ring(&mut self, owner: Owner, handle: Handle, wakes: &mut Vec<(u64, u64)>) {
        let mut at = 0;
        while let Some(file) = self.files.get(&handle) {
            let Some(waiter) = file.queue.get(at) else { return };
            let blockers = file.blockers(waiter.owner, waiter.ask.range, waiter.ask.write);
            let blockers = blockers.into_iter().map(|(o, _)| o).collect();
            if waiter.owner == owner && self.leads_to(owner, blockers) {
                // It asks again and hears of the deadlock.
                if let Some(gone) = self.dequeue(handle, at) {
                    wakes.push((gone.owner.session, gone.ask.id));
                }
            } else {
                at += 1;
            }
        }
    }

    /// Changes what an owner holds in a file; the change's stamp.
    fn change(&mut self, owner: Owner, handle: Handle, f: impl FnOnce(&mut HeldList)) -> u64 {
        self.stamp += 1;
        let file = self.files.entry(handle).or_default();
        let list = file.held.entry(owner).or_default();
        let (before, wrote) = (list.len(), list.has_write());
        f(list);
        let (after, writes) = (list.len(), list.has_write());
        if after == 0 {
            file.held.remove(&owner);
        }
        if file.held.is_empty() && file.queue.is_empty() {
            self.files.remove(&handle);
        }
        match (before, after) {
            (0, 1..) => *self.holding.entry(owner).or_default() += 1,
            (1.., 0) => {
                let left = self.holding.get(&owner).map_or(0, |n| n - 1);
                match left {
                    0 => self.holding.remove(&owner),
                    _ => self.holding.insert(owner, left),
                };
            }
            _ => {}
        }
        self.count(owner.session, before, after);
        if wrote || writes {
            self.note_write(owner.session, handle);
        }
        self.stamp
    }

    fn note_write(&mut self, session: u64, handle: Handle) {
        if self.wrote.len() >= WROTE_MAX && !self.wrote.contains_key(&handle) {
            self.wrote.clear();
            self.forgot = self.stamp;
        }
        let wrote = self.wrote.entry(handle).or_default();
        if wrote.latest.0 != session {
            wrote.before = wrote.latest;
        }
        wrote.latest = (session, self.stamp);
    }

    fn is_fresh(&self, session: u64, handle: Handle, seen: u64) -> bool {
        let others = |f: &File| f.held.iter().any(|(o, l)| o.session != session && l.has_write());
        if seen <= self.forgot || self.files.get(&handle).is_some_and(others) {
            return false;
        }
        self.wrote.get(&handle).is_none_or(|w| {
            let last = if w.latest.0 == session { w.before.1 } else { w.latest.1 };
            last < seen
        })
    }

    /// Grants what can be granted, in order.
    fn pump(&mut self, handle: Handle, wakes: &mut Vec<(u64, u64)>) {
        while !self.grace {
            let Some(file) = self.files.get(&handle) else { return };
            let ready = file.queue.iter().enumerate().position(|(at, w)| {
                file.blockers(w.owner, w.ask.range, w.ask.write).is_empty()
                    && (self.holding.contains_key(&w.owner) || !file.is_behind(w.owner, &w.ask, at))
            });
            let Some(waiter) = ready.and_then(|at| self.dequeue(handle, at)) else { break };
            wakes.push((waiter.owner.session, waiter.ask.id));
            self.grant(waiter.owner, handle, waiter.ask, wakes);
        }
        if self.files.get(&handle).is_some_and(|f| f.held.is_empty() && f.queue.is_empty()) {
            self.files.remove(&handle);
        }
    }

    /// Whether waiting for `first` means waiting for `start`.
    fn leads_to(&self, start: Owner, first: Vec<Owner>) -> bool {
        let (mut open, mut seen) = (first, HashSet::new());
        while let Some(owner) = open.pop() {
            if owner == start {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            for handle in self.waiting.get(&owner).into_iter().flatten() {
                let Some(file) = self.files.get(handle) else { continue };
                for waiter in file.queue.iter().filter(|w| w.owner == owner) {
                    let blockers = file.blockers(owner, waiter.ask.range, waiter.ask.write);
                    open.extend(blockers.into_iter().map(|(o, _)| o));
                }
            }
        }
        false
    }

    fn is_cancelled(&self, session: u64, id: u64) -> bool {
        self.cancelled.get(&session).is_some_and(|ids| ids.get(id).is_some())
    }

    fn cancel(
        &mut self,
        owner: Owner,
        handle: Handle,
        ask: Ask,
        wakes: &mut Vec<(u64, u64)>,
    ) -> Verdict {
        self.cancelled.entry(owner.session).or_default().push(ask.id, 0);
        if let Some(granted) = self.granted_before(owner, handle, &ask) {
            return granted;
        }
        let Some(file) = self.files.get(&handle) else { return Verdict::Cancelled };
        let queued = |w: &Waiter| (w.owner.session, w.ask.id) == (owner.session, ask.id);
        if let Some(at) = file.queue.iter().position(queued) {
            self.dequeue(handle, at);
            // Somebody may have waited behind it only.
            self.pump(handle, wakes);
            return Verdict::Cancelled;
        }
        let covers = |list: &HeldList| list.covers(ask.range, ask.write);
        let is_old = self.granted.get(&owner.session).is_some_and(|ids| ids.is_before(ask.id));
        if is_old && file.held.get(&owner).is_some_and(covers) {
            return Verdict::Done { stamp: self.stamp, fresh: false };
        }
        Verdict::Cancelled
    }

    fn reclaim(&mut self, owner: Owner, handle: Handle, held: Held, allowed: bool) -> Verdict {
        let file = self.files.get(&handle);
        let own = file.and_then(|f| f.held.get(&owner));
        // A reclaim that is told again.
        if own.is_some_and(|list| list.covers(held.range, held.write)) {
            return Verdict::Done { stamp: self.stamp, fresh: false };
        }
        let is_free = file.is_none_or(|f| f.blockers(owner, held.range, held.write).is_empty());
        if !allowed || !is_free {
            return Verdict::Lost;
        }
        let stamp = self.change(owner, handle, |list| list.set(held));
        Verdict::Done { stamp, fresh: false }
    }

    fn end_session(&mut self, session: u64, wakes: &mut Vec<(u64, u64)>) -> Verdict {
        self.cancelled.remove(&session);
        self.granted.remove(&session);
        let touched: Vec<Handle> = self
            .files
            .iter()
            .filter(|(_, f)| {
                f.held.keys().any(|o| o.session == session)
                    || f.queue.iter().any(|w| w.owner.session == session)
            })
            .map(|(h, _)| *h)
            .collect();
        // First all is gone, so that nothing is granted to who goes too.
        for &handle in &touched {
            while let Some(at) = self
                .files
                .get(&handle)
                .and_then(|f| f.queue.iter().position(|w| w.owner.session == session))
            {
                self.dequeue(handle, at);
            }
            let owners = self.files.get(&handle).map(|f| f.held.keys().copied().collect());
            let owners: Vec<Owner> = owners.unwrap_or_default();
            for owner in owners.into_iter().filter(|o| o.session == session) {
                self.change(owner, handle, |list| {
                    list.clear(LockRange { first: 0, last: u64::MAX })
                });
            }
        }
        touched.into_iter().for_each(|h| self.pump(h, wakes));
        Verdict::Done { stamp: self.stamp, fresh: true }
    }
}

#[cfg(test)]
mod tests;
